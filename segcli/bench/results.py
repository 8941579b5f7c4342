"""What a benchmark measured: what each table means, tables as text and as a JSON file, and two such files compared."""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from segcli import __version__
from segcli.documents import Document, Facts
from segcli.formats.atomic import unclaimed, write_bytes
from segcli.memory import total
from segcli.packages import version_of
from segcli.parallel import cores

Row = Document  # the cells of a table's line by their columns
FORM = "segcli_bench"  # the first key of the document; its value says when a meaning changes
# Columns that name a row; others are measured.
NAMES = ("what", "network", "engine", "pipeline", "against", "voxels", "classes", "threads")
OTHER = {"machine": "another machine", "threads": "another number of threads", "libraries": "other libraries"}
MOVED = 0.1  # a figure that moved by more than this share is marked

MEANINGS = {
    "start": """seconds    from the start of a process to its end, or to its first window; the median of five
           runs after one. What lies before a first window is what a small scan waits for.""",
    "network": """One window of 96 x 96 x 96 voxels through the network alone, in each engine that runs on a processor.
gflop      the network's own multiplications and additions for one window, 10^9
seconds    the best of three
ratio      how many times as fast as torch as it comes
gflops     gflop / seconds
sgemm      the fastest float32 matrix product of this machine, in the same unit
of_peak    gflops / sgemm: what there is to gain at most; what an engine saves counts for it, so it may be above 1
apart      largest difference from torch's logits, as a share of the largest logit""",
    "certificates": """Each network that segcli knows, small, with drawn weights, exported to ONNX and run beside torch.
error      largest difference of the logits, as a share of the largest one
equal      share of voxels with the same label
seconds    for all of it, export included""",
    "peers": """The same scan, network, weights and windows through segcli and another program, each in a process.
seconds    from the start of the process to its end: imports and files included
peak_mb    the largest resident memory, 10^6 bytes
windows    how many the network saw; a peer without a foreground crop sees more
read, resample, normalise, network, ...
           seconds of each stage; start: what lies before and after them
beside     share of the stages that is not the network
ratio      the peer's seconds / this row's: above 1 segcli is faster
memory     this row's peak / the peer's: below 1 segcli needs less""",
    "total": """TotalSegmentator's five networks in their true size with drawn weights: one CT by both programs,
from one folder of models, with the same windows. segcli runs once before: models are imported once for all scans.
seconds    of the whole command
peak_mb    of its largest process, 10^6 bytes
windows    of all five networks
read, resample, normalise, network, ...
           seconds of each stage of segcli
ratio      TotalSegmentator's seconds / this row's
memory     this row's peak / TotalSegmentator's""",
    "big": """A CT of many slices and 118 classes under --max-ram 4G; 200 slices of sums for each class are 25 GB.
peak_mb    has to stay below 4,295
disk_mb    what lay in the temporary folder at most, others' files included
step       what was done for want of memory""",
    "decide": """Labels and margins of a CT from finished logits at 1.5 mm, as the network stage hands them over.
slabs      of logits, one after the other
blocks     of a slab, which the threads share: as many as threads keep all of them busy
seconds    of all slabs
cpu_s      seconds of all cores together
alone      share of cpu_s that one thread spends while the others wait: 1 / alone is the most that threads gain""",
    "scaling": """Seconds against a size, everything else held; a row for each size.
slices, classes
           all but the network (resampling, blending, deciding): should grow in proportion, or slower
windows    the network: in proportion
threads    the network: half the time with twice the cores is the most there is""",
}


def described(part: str, title: str) -> str:
    """The head of a table: its title, and under it what its columns are."""
    lines = MEANINGS[part].splitlines()
    return "\n".join([f"\n{title}", *(f"  # {line}" for line in lines)])


def line(row: Row) -> str:
    """A row of a table, numbers with three digits."""
    cells = [f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()]
    return "  " + "   ".join(cells)


class Results:
    """Tables on stdout, each row as soon as it is there, and in a JSON file, written anew after each row."""

    def __init__(self, file: Path | None, threads: int) -> None:
        self.file, self.threads = file, threads
        self.tables: list[Document] = []
        if file is not None:
            unclaimed(file, own=lambda head: f'"{FORM}"'.encode() in head)

    def table(self, part: str, rows: Iterable[Row], title: str = "") -> None:
        print(described(part, title or part), flush=True)
        made: list[Row] = []
        self.tables.append({"part": part, "title": title or part, "rows": made})
        for row in rows:
            made.append(row)
            print(line(row), flush=True)
            if self.file is not None:
                write_bytes(self.file, (json.dumps(self.document(), indent=1) + "\n").encode())

    def document(self) -> Document:
        libraries = ("torch", "onnxruntime", "openvino", "numpy", "monai", "nnunetv2")
        return {
            FORM: 1,
            "segcli": __version__,
            "machine": {
                "processor": _processor(),
                "system": platform.platform(terse=True),
                "cores": cores(),
                "memory_mb": round(total() / 1e6),
                "python": platform.python_version(),
            },
            "threads": self.threads,
            "libraries": {name: version_of(name) for name in libraries if find_spec(name)},
            "tables": self.tables,
        }


def _processor(path: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name; Linux tells it in a file of its own."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (text.partition(":")[2].strip() for text in lines if text.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def compare(words: Sequence[str]) -> None:
    """What a newer results file has otherwise than an older one: `compare old.json new.json`."""
    parser = argparse.ArgumentParser("segcli.bench compare", description=compare.__doc__)
    parser.add_argument("old", type=Path, help="a file of --json")
    parser.add_argument("new", type=Path, help="a later one")
    given = parser.parse_args(words)
    old, new = (_read(path) for path in (given.old, given.new))
    for name, document in (("old", old), ("new", new)):
        count = document["threads"]
        threads = f"{count} thread{'' if count == 1 else 's'}"
        print(f"{name}: segcli {document['segcli']}, {threads}, {_words(document['machine'])}")
    for name, what in OTHER.items():
        if old[name] != new[name]:
            print(f"warning: {what}: not segcli alone makes the difference", file=sys.stderr)
    print(f"* moved by more than {MOVED:.0%}; lines of one run differ less than lines of two\n")
    print("\n".join(_lines(old, new)) or "every figure is the same")


def _words(machine: Facts) -> str:
    return f"{machine['processor']}, {machine['cores']} cores, {machine['memory_mb']:,} MB, {machine['system']}"


def _read(path: Path) -> Document:
    """The document of a file; SystemExit where it is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        _rows(found)
        known = found[FORM] == 1 and all(key in found for key in ("segcli", "threads", "libraries"))
        _words(found["machine"])
    except OSError as error:
        raise SystemExit(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SystemExit(f"{path}: not a file of `python -m segcli.bench --json`: {error}") from error
    if not known:
        raise SystemExit(f"{path}: made by another version of segcli's benchmarks")
    return dict(found)


def _rows(document: Facts) -> dict[tuple[str, ...], Row]:
    """The rows of all tables, by the table's title and what names them; equal names are counted."""
    found: dict[tuple[str, ...], Row] = {}
    for table in document["tables"]:
        for row in table["rows"]:
            own = [(key, row[key]) for key in NAMES if key in row]
            words = (value if isinstance(value, str) else f"{key} {value}" for key, value in own)
            name = (str(table["title"]), *words)
            while name in found:
                name = (*name, "again")
            found[name] = {key: value for key, value in row.items() if key not in NAMES}
    return found


def _lines(old: Facts, new: Facts) -> Iterator[str]:
    """A line for each figure that both have, or that one of them lacks; equal ones are left out."""
    before, after = _rows(old), _rows(new)
    for name in [*before, *(name for name in after if name not in before)]:
        was, now = before.get(name, {}), after.get(name, {})
        title = " · ".join(name)
        if not was or not now:
            yield f"{title}: only in the {'new' if now else 'old'} file"
            continue
        for key in [*was, *(key for key in now if key not in was)]:
            one, other = was.get(key), now.get(key)
            if one != other:
                yield f"{title}: {key} {_told(one)} -> {_told(other)}{_share(one, other)}"


def _told(value: object) -> str:
    return "nothing" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def _share(one: object, other: object) -> str:
    if not isinstance(one, int | float) or not isinstance(other, int | float) or one <= 0:
        return ""
    share = other / one
    return f"   x {share:.2f}{' *' if abs(share - 1) > MOVED else ''}"
