"""The licences of all that an installed segcli depends on; ends with 1 where one is neither permissive nor known.

    python .ci/licences.py [EXTRA ...]

Reads what the packages state of themselves, nothing else; packages that are not installed here are left out.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from packaging.requirements import Requirement

PERMISSIVE = {
    *("Apache-2.0", "MIT", "MIT-CMU", "HPND", "BSD-2-Clause", "BSD-3-Clause", "0BSD", "ISC", "Zlib", "PSF-2.0"),
    *("CC0-1.0", "BSL-1.0", "LLVM-exception", "Unlicense", "MPL-2.0"),  # MPL: of its own files alone
}
KNOWN = {  # named in `segcli help dependencies`
    "pylibjpeg-libjpeg": "GPL-3.0",
    "nvidia-": "NVIDIA's own",
    "cuda-": "NVIDIA's own",
}
WORDS = {  # what packages say that name no SPDX expression
    r"GNU General Public License v3|GPL V?3": "GPL-3.0",
    r"Apache": "Apache-2.0",
    r"MIT": "MIT",
    r"BSD|Enthought": "BSD-3-Clause",
    r"ISC": "ISC",
    r"Mozilla Public License 2": "MPL-2.0",
    r"Python Software Foundation": "PSF-2.0",
}


def licences(package: Distribution) -> set[str]:
    """SPDX names of what a package states; its own words where they are none of those."""
    stated = package.metadata.get("License-Expression")
    if stated:
        return set(re.findall(r"[A-Za-z0-9.-]+", stated)) - {"AND", "OR", "WITH"}
    classified = [c.split(" :: ")[-1] for c in package.metadata.get_all("Classifier", []) if c.startswith("License")]
    own = (package.metadata.get("License") or "").strip().partition("\n")[0]
    for text in (*classified, own):
        for pattern, name in WORDS.items():
            if re.search(pattern, text):
                return {name}
    return {own or "nothing"}


def closure(name: str, extras: set[str]) -> dict[str, Distribution]:
    """Every installed package that a package needs, by name, itself left out."""
    found: dict[str, Distribution] = {}
    todo = [(name, extras)]
    while todo:
        current, wanted = todo.pop()
        for text in distribution(current).requires or []:
            need = Requirement(text)
            key = re.sub(r"[-_.]+", "-", need.name).lower()
            meant = need.marker is None or any(need.marker.evaluate({"extra": e}) for e in ("", *wanted))
            if not meant or key in found or key == name:
                continue
            try:
                found[key] = distribution(need.name)
            except PackageNotFoundError:
                continue
            todo.append((need.name, need.extras))
    return found


def main(extras: set[str]) -> int:
    """Print a line for each package; returns 1 where a licence is to be looked at."""
    doubts = []
    for name, package in sorted(closure("segcli", extras).items()):
        stated = licences(package)
        known = next((licence for start, licence in KNOWN.items() if name.startswith(start)), None)
        if known is None and not stated <= PERMISSIVE:
            doubts.append(name)
        print(f"{name:28} {package.version:14} {known or ', '.join(sorted(stated))}")
    if doubts:
        print(f"to be looked at: {', '.join(doubts)}", file=sys.stderr)
    return int(bool(doubts))


if __name__ == "__main__":
    sys.exit(main(set(sys.argv[1:])))
