#!/usr/bin/env python3
"""segcli on a CUDA device: is it right, where does the time go; one run of a few minutes.

    python tests/gpu/check.py --seconds 300 --out found        # on a machine with a GPU
    python tests/gpu/check.py --dry-run                        # the CPU plays the device, with tiny sizes

Parts, in this order: a every network beside the CPU in each precision; c equal bytes and the steps down for want of
memory; f labels decided on the device; d whole commands; b windows; e peers. What time does not suffice for is left
out. Every figure goes to check.json in the folder --out; the last line is PASS or FAIL, the exit code 0 or 1.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import traceback
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

# ruff: noqa: E402
from there import lacking, stand_in

if __name__ == "__main__" and (absent := lacking()):
    print(absent, file=sys.stderr)
    sys.exit(2)
STANDS_IN = stand_in()

import torch
from checking import Check, machine
from right import deciding, deformed, families, memory, onnx_runtime
from speed import a_window, commands, depthwise, peers

from segcli.engines.torch_cuda import unusable

PARTS = {
    "a": [deformed, families, onnx_runtime],
    "c": [memory],
    "f": [deciding],
    "d": [commands],
    "b": [depthwise, a_window],
    "e": [peers],
}
_LEAST = 20  # seconds, with which a part is begun


def main(words: list[str] | None = None) -> int:
    """The exit code: 0 where all that has to be is so, 1 where not, 2 without a device, or without a package."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="".join(PARTS), help="some of them, in this order")
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--out", type=Path, help="folder for check.json; a temporary one without it")
    parser.add_argument("--dry-run", action="store_true")
    given = parser.parse_args(words)
    if not given.dry_run and (trouble := unusable(given.device)):
        print(f"{trouble[0]}; --dry-run tries the program without a device", file=sys.stderr)
        return 2
    out = given.out or Path(tempfile.mkdtemp(prefix="segcli-check-"))
    check = Check(torch.device("cpu" if given.dry_run else given.device), given.seconds, out, given.dry_run)
    try:
        run(check, given.parts)
    finally:
        shutil.rmtree(check.work, ignore_errors=True)
    print("\n".join([*(f"failed: {what}" for what in check.failed), f"{out / 'check.json'}"]))
    print("FAIL" if check.failed else "PASS")
    return int(bool(check.failed))


def run(check: Check, parts: str) -> None:
    """The parts, one after the other; one that breaks off counts as failed."""
    machine(check)
    for name in STANDS_IN:
        check.say(f"{name} is not installed: the check does without")
    for name in parts:
        for part in PARTS[name]:
            if check.left < _LEAST and not check.dry:
                check.say(f"no time left for part {name}")
                continue
            check.say(f"---- part {name}: {part.__name__}, {check.left:.0f} s left")
            try:
                part(check)
            except Exception:
                check.failed.append(f"part {name} broke off")
                check.say(traceback.format_exc())


if __name__ == "__main__":
    sys.exit(main())
