"""Which structures may lose their pieces but the largest: mL that go, and what that does to Dice, of each structure.

    python islands.py DATA [--also SCAN ...]

Heads: subA, subB and Colin27 with their references, the unlabelled heads of DATA, slices of 5 mm of each contrast of
the battery. Each is labelled without the card's steps (`--keep-islands`). The first table has one structure at a time
(pieces of `spare` mm3 stay, as in the card), the second what the card's own steps do one after the other.
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import battery
import numpy as np
from anatomy import read_table
from evaluate import CSF, FREESURFER, aal, freesurfer
from scoring import Model, dice, options
from train import HELD_OUT

from segcli.formats import read
from segcli.models.after import LargestStep
from segcli.results.after import after
from segcli.results.islands import islands
from segcli.space.volume import Grid, Volume

UNLABELLED = (
    "unlabelled/t1_head_1.75mm.nii.gz",
    "unlabelled/flair_brain_1mm.nii.gz",
    "dicom/mr_t1_enhanced_siemens/dicom",
)

Head = tuple[Volume, np.ndarray | None]  # scan, the reference's labels


def heads(data: Path, also: list[Path]) -> dict[str, Callable[[], Head]]:
    """Each head by its name, to be read when its turn comes."""
    found: dict[str, Callable[[], Head]] = {}
    folder = data / "brain_t1_freesurfer"
    for name, (scan, labels) in FREESURFER.items():
        found[name] = partial(_real, folder / f"{scan}.nii.gz", folder / f"{labels}.nii.gz", freesurfer)
    folder = data / "colin27_aal"
    found["Colin27"] = partial(_real, folder / "colin27_t1_head.nii.gz", folder / "aal.nii.gz", aal)
    for path in (*[data / name for name in UNLABELLED], *also):
        found[path.parent.name if path.is_dir() else path.name.split(".")[0]] = partial(_real, path)
    for contrast in battery.CONTRASTS:
        found[f"{contrast} 5 mm"] = partial(_drawn, data / "synthseg_label_maps", contrast)
    return found


def _real(scan: Path, labels: Path | None = None, ours: Callable[[np.ndarray], np.ndarray] = aal) -> Head:
    return read([scan]), None if labels is None else ours(read([labels]).data[0])


def _drawn(maps: Path, contrast: str) -> Head:
    table = read_table(maps / "labels.csv")
    outputs = np.array(table.outputs)[table.target.numpy()]
    path = sorted(maps.glob("training_seg_*.nii.gz"))[-HELD_OUT]
    image, rows, size = battery.thick(battery.head(path, table, contrast), table)
    grid = Grid(image.shape, battery.RAS @ np.diag([*size, 1.0]))
    return Volume(np.ascontiguousarray(image, np.float32)[None], grid), outputs[rows]


def small_pieces(labels: Volume, spare: float, truth: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Of each label the voxels in pieces below `spare` mm3 that are not its largest, and how many of them are right."""
    pieces, data = islands(labels), labels.data.copy()
    goes = pieces.size * labels.grid.voxel_mm3 < spare
    for label in np.unique(pieces.value).tolist():
        goes[pieces.of(label)[0]] = False
    pieces.clear(data, goes)
    taken = labels.data[0] != data[0]
    own = labels.data[0][taken].astype(int)
    return np.bincount(own, minlength=256), np.bincount(
        own[truth[taken] == own] if truth is not None else [], minlength=256
    )


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--also", type=Path, nargs="*", default=[], help="scans without reference")
    args = parser.parse_args()
    model = Model(args)
    names = [x for x in model.card.labels if x.id != 0]
    pieces = [s for s in model.card.after if isinstance(s, LargestStep)]
    largest = next(s for s in pieces if not s.together)
    spare = largest.spare or np.inf
    gone: dict[str, list[float]] = {x.name: [] for x in names}  # mL of each head
    gain: dict[str, list[float]] = {x.name: [] for x in names}  # Dice, of those with a reference
    whole: list[str] = []
    for head, load in heads(args.data, args.also).items():
        if args.only not in head:
            continue
        scan, truth = load()
        labels = Volume(model.unchanged(scan)[None], scan.grid)
        skipped = (CSF,) * (head in FREESURFER)
        before = {} if truth is None else dice(labels.data[0].astype(int), truth, skipped)
        went, right = small_pieces(labels, spare, truth)
        for x in names:
            gone[x.name].append(went[x.id] * scan.grid.voxel_mm3 / 1000)
            if truth is not None and x.id in before:
                one, other = (np.count_nonzero(values == x.id) for values in (labels.data, truth))
                both = before[x.id] * (one + other) / 2
                gain[x.name].append(2 * (both - right[x.id]) / (one - went[x.id] + other) - before[x.id])
        answer, effects = after(labels, model.card.labels, pieces)
        taken = [sum(c.removed_ml for c in effect.changed) for effect in effects]
        scores = {} if truth is None else dice(answer.data[0].astype(int), truth)
        changed = [scores[label] - score for label, score in before.items()]
        told = f"{min(changed):+.4f} to {max(changed):+.4f}" if changed else "–"
        for name in names:
            print(head, name.name, gone[name.name][-1], *gain[name.name][-1:], sep="\t", file=sys.stderr)
        whole.append(f"| {head} | {' | '.join(f'{ml:.2f}' for ml in taken)} | {told} |")
        print(whole[-1], file=sys.stderr, flush=True)
    print("| structure | card | most mL | least gain of Dice | greatest |\n| --- | --- | --- | --- | --- |")
    for x in names:
        low, high = (f"{f(gain[x.name]):+.4f}" if gain[x.name] else "–" for f in (min, max))
        mark = "largest" if largest.structures is None or x.name in largest.structures else "all"
        print(f"| {x.name.replace('_', ' ')} | {mark} | {max(gone[x.name]):.2f} | {low} | {high} |")
    print("\n| head | apart, mL | pieces, mL | Dice of a structure changes by |\n| --- | --- | --- | --- |")
    print("\n".join(whole))


if __name__ == "__main__":
    main()
