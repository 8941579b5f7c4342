"""Small scans, a NumPy engine for the small model of models.py, and the command, in this process or one of its own."""

import contextlib
import io
import json
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from models import affine, organs

from segcli.engines.host import HostEngine
from segcli.engines.opened import Opened
from segcli.errors import SegcliError
from segcli.models.card import ModelCard
from segcli.models.library import find

sys.path.insert(0, str(Path(__file__).parent / "formats"))
sys.path.insert(0, str(Path(__file__).parent / "formats" / "dicom"))
from scan_files import nifti

WEIGHT, BIAS = affine()
RECORD = b'{\n "segcli_record": 1\n}\n'


def scan(path: Path, seed: int = 0, **header: Any) -> Path:
    """16 x 14 x 12 voxels of 2 x 3 x 4 mm: air, a body, a liver, and a spleen whose place depends on the seed."""
    data = np.full((16, 14, 12), -1000, "i2")
    data[2:-2, 2:-2, 2:-2] = 0
    data[4:7, 4:8, 4:8] = 150
    data[8 + seed % 4 : 12, 4:8, 4 : 7 + seed % 3] = 300
    path.parent.mkdir(parents=True, exist_ok=True)
    return nifti(path, data, **header)


def touch(folder: Path, *names: str) -> None:
    """Files of one byte, folders made; those that are called as records are some."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(RECORD if name.endswith("_seg.json") else b"x")


def scans(folder: Path, count: int) -> list[Path]:
    return [scan(folder / f"case{i}.nii.gz", i) for i in range(count)]


class Pointwise(HostEngine):
    """The small model in NumPy. `trouble` is called with each batch of windows and may raise or change the logits."""

    name = "numpy"

    def __init__(self, trouble: Callable[[np.ndarray], np.ndarray] = lambda logits: logits) -> None:
        super().__init__()
        self.trouble = trouble

    def run(self, patches: np.ndarray) -> np.ndarray:
        return self.trouble(patches * WEIGHT[:, 0] + BIAS.reshape(6, 1, 1, 1))


def opened(engine: HostEngine | None = None) -> Opened:
    own = engine or Pointwise()
    return Opened(own, "for a test", (), {"weights.safetensors": "0" * 64}, max_ram=own.max_ram)


def card(folder: Path) -> ModelCard:
    """The small model's card, its folder made."""
    return find(str(organs(folder / "organs")))


def command(
    *words: object,
    stdin: bytes | None = None,
    env: dict[str, str | None] | None = None,
    cwd: Path | None = None,
    before: Sequence[str] = (),
    **how: Any,
) -> subprocess.CompletedProcess[bytes]:
    """segcli in a process of its own; `env` over this one's, None takes a variable away; `before`: python's words."""
    return subprocess.run(
        [*line(*words, before=before)],
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        stdout=how.pop("stdout", subprocess.PIPE),
        stderr=how.pop("stderr", subprocess.PIPE),
        env=environment(env or {}),
        cwd=cwd,
        timeout=120,
        check=False,
        **how,
    )


def in_process(*words: object, stdin: bytes = b"", cwd: Path | None = None) -> subprocess.CompletedProcess[bytes]:
    """segcli in this process, for tests of what a command says and makes: it starts at once, its imports being done.

    How a process begins and ends (signals, streams, the environment) `command` alone shows.
    """
    from segcli.commands import process
    from segcli.commands.app import app

    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(cwd or "."),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.object(sys, "argv", ["segcli", *map(str, words)]),
        mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8")),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        try:
            code = app([*map(str, words)], standalone_mode=False) or 0
        except SegcliError as error:
            code = process._refused(error, debug=False)
        except Exception as error:
            code = process._unforeseen(error, debug=False)
    return subprocess.CompletedProcess(
        words, code, *(said.getvalue().encode(errors="backslashreplace") for said in (out, err))
    )


def line(*words: object, before: Sequence[str] = ()) -> list[str]:
    return [sys.executable, *(before or ("-m", "segcli")), *map(str, words)]


def environment(changes: dict[str, str | None]) -> dict[str, str]:
    merged = {**os.environ, "OMP_NUM_THREADS": "1", **changes}
    return {k: v for k, v in merged.items() if v is not None}


def files(folder: Path) -> dict[str, Any]:
    """Every file below a folder, hidden ones too: name -> bytes; a record without its "run" part."""
    found: dict[str, Any] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        found[name] = path.read_bytes()
        if name.endswith("_seg.json"):
            found[name] = json.loads(found[name])
            assert found[name].pop("run")
    return found


def quick(seconds: float = 60) -> threading.Timer:
    """Ends the process when a test hangs."""
    timer = threading.Timer(seconds, os.abort)
    timer.daemon = True
    timer.start()
    return timer


def inside(hold: Callable[[], AbstractContextManager[object]], threads: int, turns: int, seconds: float) -> list[int]:
    """How many threads were in a place, itself included, whenever one of them had come in.

    hold      makes what lets a thread in; each takes so many turns, and stays so many seconds
    """
    there, found = 0, []

    def work() -> None:
        nonlocal there
        for _ in range(turns):
            with hold():
                there += 1
                found.append(there)
                time.sleep(seconds)
                there -= 1

    team = [threading.Thread(target=work) for _ in range(threads)]
    for thread in team:
        thread.start()
    for thread in team:
        thread.join(20)
    return found
