"""Kill the command at random moments, run it again, and compare with an undisturbed run (reliability.md 9.2).

    python tests/kill.py [TIMES] [SEED]

Three small scans with masks and a table. After each SIGKILL no file under a final name may differ from the undisturbed
run's; after the second run all must be there, equal, and nothing else.
"""

import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from models import organs
from runs import environment, files, line, scans

from segcli.outputs import is_partial


def kill(words: list[str], out: Path, whole: dict[str, object], after: float) -> list[str]:
    """What is wrong after one kill and a second run; nothing, hopefully."""
    faults = []
    first = subprocess.Popen(
        [*words, str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment({})
    )
    time.sleep(after)
    first.send_signal(signal.SIGKILL)
    first.wait()
    left = files(out)
    faults += [f"{n} is not whole" for n, v in left.items() if not is_partial(Path(n).name) and v != whole.get(n)]
    for name in left:
        record = name.replace("_seg.nii.gz", "_seg.json")
        if name.endswith("_seg.nii.gz") and not is_partial(Path(name).name) and record not in left:
            faults.append(f"{name} has no record")
    again = subprocess.run([*words, str(out)], capture_output=True, env=environment({}), check=False)
    if again.returncode != 0:
        faults.append(f"the second run ended with {again.returncode}: {again.stderr.decode()[-300:]}")
    if files(out) != whole:
        faults.append(f"the second run's files differ: {sorted(set(files(out)) ^ set(whole))}")
    partial = sum(is_partial(Path(n).name) for n in left)
    done = sum(n.endswith("_seg.nii.gz") and not is_partial(Path(n).name) for n in left)
    ended = "; ".join(faults) or "equal after the second run"
    print(f"killed after {after:.2f} s: {done} of 3 done, {partial} temporary files; {ended}", flush=True)
    return faults


def main() -> int:
    times = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    rng = random.Random(int(sys.argv[2]) if len(sys.argv) > 2 else 1)
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        scans(home / "in", 3)
        words = line("predict", home / "in", "--model", organs(home / "model"), "--engine", "onnx")
        words += ["--split", "--report", "csv", "-o"]
        started = time.monotonic()
        subprocess.run([*words, str(home / "whole")], capture_output=True, env=environment({}), check=True)
        lasts = time.monotonic() - started
        whole = files(home / "whole")
        bad = sum(bool(kill(words, home / f"out{i}", whole, rng.uniform(0.2, 1.05) * lasts)) for i in range(times))
    print(f"{times - bad} of {times} equal to an undisturbed run")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
