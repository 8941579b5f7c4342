"""Kill the command at random moments, run it again, and compare with an undisturbed run (PROMISES.md 9.2).

    python tests/kill.py [TIMES] [SEED] [of-models]

With `of-models` the model is two parts behind a rough one, else one network. Three small scans with masks and a table.
After each SIGKILL no file under a final name may differ from the undisturbed run's; after the second run all must be
there, equal, and nothing else. Each run is the command in a process of its own, forked when the libraries are
imported; the kills fall between its first file and its end.
"""

import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from models import of_models, organs
from runs import files, scans

from segcli.commands import app, predict, process  # noqa: F401 - these and the next two lines: before the fork
from segcli.engines import onnx_engine  # noqa: F401
from segcli.formats import meta, mgh, nifti, nrrd, tables  # noqa: F401
from segcli.formats.atomic import is_partial


def start(words: Sequence[object], out: Path) -> int:
    """The number of a process in which the command runs, silent."""
    pid = os.fork()
    if pid == 0:
        sink = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(sink, number)
        sys.argv = ["segcli", *map(str, words), str(out)]
        try:
            process.main()
        except SystemExit as end:
            os._exit(int(end.code or 0))
        finally:
            os._exit(70)
    return pid


def ends(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def appears(folder: Path) -> None:
    while not folder.exists():
        time.sleep(0.0005)


def kill(words: Sequence[object], out: Path, whole: dict[str, object], after: float) -> list[str]:
    """What is wrong after one kill, some time after the first file, and a second run; nothing, hopefully."""
    pid = start(words, out)
    appears(out)
    time.sleep(after)
    os.kill(pid, signal.SIGKILL)
    ends(pid)
    left = files(out)
    faults = [f"{n} is not whole" for n, v in left.items() if not is_partial(Path(n).name) and v != whole.get(n)]
    maps = [n for n in left if n.endswith("_seg.nii.gz") and not is_partial(Path(n).name)]
    faults += [f"{n} has no record" for n in maps if n.replace(".nii.gz", ".json") not in left]
    code = ends(start(words, out))
    if code != 0:
        faults.append(f"the second run ended with {code}")
    if files(out) != whole:
        faults.append(f"the second run's files differ: {sorted(set(files(out)) ^ set(whole))}")
    partial = sum(is_partial(Path(n).name) for n in left)
    ended = "; ".join(faults) or "equal after the second run"
    print(f"killed after {after:.3f} s: {len(maps)} of 3 done, {partial} temporary files; {ended}", flush=True)
    return faults


def kills(home: Path, times: int, seed: int, model: Callable[[Path], Path] = organs) -> int:
    """How many of so many kills left something wrong."""
    rng = random.Random(seed)
    scans(home / "in", 3)
    words = ["predict", home / "in", "--model", model(home / "model"), "--engine", "onnx", "--split", "-o"]
    pid = start(words, home / "whole")
    appears(home / "whole")
    began = time.monotonic()
    assert ends(pid) == 0
    lasts = time.monotonic() - began
    whole = files(home / "whole")
    return sum(bool(kill(words, home / f"out{i}", whole, rng.uniform(0, 1) * lasts)) for i in range(times))


def main() -> int:
    times = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    with tempfile.TemporaryDirectory() as name:
        model = of_models if "of-models" in sys.argv[3:] else organs
        bad = kills(Path(name), times, int(sys.argv[2]) if len(sys.argv) > 2 else 1, model)
    print(f"{times - bad} of {times} equal to an undisturbed run")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
