"""What segcli's checks say of real heads, and of the same with an error planted: two tables.

    python verdicts.py MAPS SCAN:LABELS [SCAN:LABELS ...]

LABELS is the label map that segcli predicted for SCAN, with its record beside it. The drawn label maps of MAPS count as
heads too, without a scan. Of each head the first table has what the checks about voxel spacing compare, so that their
limits can be set above the spread.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from volumes import mirrors, outputs

from segcli import formats
from segcli.formats.stated import stated
from segcli.formats.table import stem
from segcli.models.library import find
from segcli.results import checks
from segcli.results.measure import measure
from segcli.results.places import fitted, stretches
from segcli.results.ranges import usual
from segcli.space.volume import Grid, Volume

CARD = find("uxnet")
LEFT = [x.id for x in CARD.structures if x.name.startswith("left_")]


@dataclass(frozen=True, eq=False)
class Head:
    """A head as the checks look at it; drawn ones have no scan and no confidence."""

    name: str
    labels: Volume
    scan: Volume | None
    confidence: dict[int, float]

    def findings(self) -> list[checks.Finding]:
        said = stated(self.scan.source) if self.scan else None
        return checks.run(self.labels, self.scan, CARD, self.confidence, said)


def stretched(head: Head, *times: float) -> Head:
    """The spacing along each array axis wrong by a factor."""
    affine = head.labels.grid.affine.copy()
    affine[:3, :3] = affine[:3, :3] * times
    grid = Grid(head.labels.grid.shape, affine)
    scan = None if head.scan is None else Volume(head.scan.data, grid, head.scan.source)
    return replace(head, labels=Volume(head.labels.data, grid, head.labels.source), scan=scan)


def with_labels(head: Head, change: Callable[[np.ndarray], np.ndarray]) -> Head:
    return replace(head, labels=Volume(change(head.labels.data.copy()), head.labels.grid, head.labels.source))


def mirrored(head: Head) -> Head:
    """Left and right of the header exchanged, the middle of the head in its place."""
    affine = head.labels.grid.affine.copy()
    affine[0] *= -1
    grid = Grid(head.labels.grid.shape, affine)
    scan = None if head.scan is None else Volume(head.scan.data, grid, head.scan.source)
    return replace(head, labels=Volume(head.labels.data, grid, head.labels.source), scan=scan)


def next_value(data: np.ndarray) -> np.ndarray:
    """Each structure with the number of the next one."""
    ids = [0, *(x.id for x in CARD.structures)]
    table = np.arange(256)
    table[ids[1:]] = [*ids[2:], ids[1]]
    return table[data].astype(np.uint8)


def without(*ids: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda data: np.where(np.isin(data, ids), 0, data).astype(np.uint8)


def exchanged(one: int, other: int) -> Callable[[np.ndarray], np.ndarray]:
    table = np.arange(256)
    table[[one, other]] = other, one
    return lambda data: table[data].astype(np.uint8)


def moved(head: Head, mm: float) -> Head:
    """The labels shifted along the last array axis, the scan where it was."""
    steps = round(mm / head.labels.grid.spacing[2])
    return with_labels(head, lambda data: np.roll(data, steps, axis=3))


def with_piece(head: Head, ml: float) -> Head:
    """A cube of cortex in a corner of the scan."""
    n = [round(10 * (ml) ** (1 / 3) / s) for s in head.labels.grid.spacing]

    def put(data: np.ndarray) -> np.ndarray:
        data[0, 2 : 2 + n[0], 2 : 2 + n[1], 2 : 2 + n[2]] = 3
        return data

    return with_labels(head, put)


def noisy(data: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(1)
    ids = np.array([x.id for x in CARD.structures], np.uint8)
    return np.where(rng.random(data.shape) < 0.02, rng.choice(ids, data.shape), data).astype(np.uint8)


def blank(head: Head) -> Head:
    if head.scan is None:
        return head
    return replace(head, scan=Volume(np.zeros_like(head.scan.data), head.scan.grid, head.scan.source))


PLANTED: dict[str, Callable[[Head], Head]] = {
    "spacing 1.3 times in all directions": lambda h: stretched(h, 1.3, 1.3, 1.3),
    "spacing 1.2 times in all directions": lambda h: stretched(h, 1.2, 1.2, 1.2),
    "spacing 1.1 times in all directions": lambda h: stretched(h, 1.1, 1.1, 1.1),
    "spacing 0.8 times in all directions": lambda h: stretched(h, 0.8, 0.8, 0.8),
    "spacing 0.7 times in all directions": lambda h: stretched(h, 0.7, 0.7, 0.7),
    "one spacing 1.5 times": lambda h: stretched(h, 1.5, 1, 1),
    "one spacing 1.3 times": lambda h: stretched(h, 1.3, 1, 1),
    "one spacing 1.2 times": lambda h: stretched(h, 1.2, 1, 1),
    "one spacing 0.75 times": lambda h: stretched(h, 1, 0.75, 1),
    "left and right exchanged in the header": mirrored,
    "zeros in place of the scan": blank,
    "each structure has the next one's number": lambda h: with_labels(h, next_value),
    "putamen and thalamus of one side exchanged": lambda h: with_labels(h, exchanged(10, 12)),
    "no left hemisphere": lambda h: with_labels(h, without(*LEFT)),
    "one hippocampus missing": lambda h: with_labels(h, without(17)),
    "5 mL of cortex far away": lambda h: with_piece(h, 5),
    "labels of noise in 2 of 100 voxels": lambda h: with_labels(h, noisy),
    "labels shifted by 20 mm against the scan": lambda h: moved(h, 20),
}


def drawn(maps: Path) -> list[Head]:
    table = outputs(maps).astype(np.uint8)
    heads = []
    for path in sorted(maps.glob("training_seg_*.nii.gz")):
        scan = formats.read([path])
        heads.append(Head(stem(path), Volume(table[scan.data.astype(int)], scan.grid), None, {}))
    return heads


def real(pair: str) -> Head:
    scan, labels = map(Path, pair.split(":"))
    record = json.loads(labels.with_name(f"{stem(labels)}.json").read_text())
    sure = {int(k): float(v) for k, v in record["confidence"].items()}
    return Head(stem(scan), formats.read([labels]), formats.read([scan]), sure)


def spread(head: Head) -> tuple[float, float]:
    """The size against the middle head, and the most that one axis is longer or shorter against the others."""
    report = measure(head.labels, CARD.structures).structures
    there = [s for s in report if s.name in CARD.centroids_mm and s.voxels and not s.truncated]
    matrix, _ = fitted(np.array([CARD.centroids_mm[s.name] for s in there]), np.array([s.centroid_mm for s in there]))
    ratios = np.abs(np.log(stretches(matrix, head.labels.grid)))
    return usual(CARD, report).size or 0.0, float(np.exp(ratios.max()))


def main() -> None:
    assert mirrors(Path(sys.argv[1]))[10] == 49
    heads = [*map(real, sys.argv[2:]), *drawn(Path(sys.argv[1]))]
    print(
        "| head | verdict | size | one axis | doubts | is the spacing right? |\n| --- | --- | --- | --- | --- | --- |"
    )
    for head in heads:
        found = head.findings()
        size, axis = spread(head)
        doubts = ", ".join(sorted({f.code for f in found if f.severity != "note"}))
        asked = "asked" if any("spacing" in f.sentence for f in found) else ""
        print(f"| {head.name} | {checks.verdict(found)} | {size:.2f} | {axis:.2f} | {doubts} | {asked} |", flush=True)
    print("\n| planted | review or fail | fail | is the spacing right? | new codes |\n| --- | --- | --- | --- | --- |")
    some = [head for head in heads if head.scan is not None]
    before = {head.name: {(f.code, f.severity) for f in head.findings()} for head in some}
    for name, plant in PLANTED.items():
        found = {head.name: plant(head).findings() for head in some}
        new = {k: {(f.code, f.severity) for f in v if f.severity != "note"} - before[k] for k, v in found.items()}
        codes = sorted({code for k in new.values() for code, _ in k})
        asked = sum(any("spacing" in f.sentence for f in v) for v in found.values())
        hit = sum(bool(k) for k in new.values())
        failed = sum(checks.verdict(v) == "fail" for v in found.values())
        print(f"| {name} | {hit} of {len(some)} | {failed} | {asked} | {', '.join(codes)} |", flush=True)


if __name__ == "__main__":
    main()
