"""Dice on synthetic whole heads from the last three label maps, and under trouble; pictures of each.

The shipped weights have seen these maps.

    python battery.py DATA [--weights run.safetensors] [--mirror] [--quick] [--pictures FOLDER]

Contrasts T1, T2, FLAIR and proton density at 1 mm from each held-out map; from the first of them also 5 mm slices of
each contrast, a T1 turned by 20 degrees about two axes, cut off below the cerebellum, with a round lesion of 15 mm
radius, under a strong bias field, without its skull, atrophied (ventricles 2 mm larger, a cortex that lost 1 mm), and
as a child's: four fifths of the size, and white matter with half the contrast; then a quarter of it under the cortex.
"""

import sys
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from anatomy import CORTEX, OLD, OUTERMOST, Table, kinds_of, read_table, rows_of, with_outermost
from scipy import ndimage
from scoring import Model, dice, mean, options
from train import HELD_OUT

from segcli.space.volume import Grid, Volume

# Intensity of fluid, grey and white matter; other structures keep their place between them in T1.
CONTRASTS = {"T1": (44, 100, 160), "T2": (220, 130, 90), "FLAIR": (30, 150, 115), "PD": (200, 170, 125)}
CHILD = (44, 110, 140)
RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # array axes to the right, the front, the top; the world is LPS
LESION_MM = 15
GOAL = 0.70

Scan = tuple[np.ndarray, np.ndarray, tuple[float, float, float]]  # image, rows of the table, voxel size in mm


def head(
    path: Path,
    table: Table,
    contrast: str,
    levels: tuple[int, int, int] | None = None,
    placed: Callable[[np.ndarray], np.ndarray] | None = None,
    outermost: float = 1,
) -> Scan:
    """A whole head: the map's classes with their intensities, partial volume, bias and noise; the same each time.

    levels      of fluid, grey and white matter, where they are not those of the contrast
    placed      the map as the scanner has the head before it
    outermost   how much of white matter's contrast its outermost 2 mm have
    """
    rows = rows_of(path, table)
    rows = placed(rows) if placed else rows
    some = ndimage.find_objects((rows > 0).astype(np.uint8))[0]
    rows = rows[some]
    rng = np.random.default_rng(zlib.crc32(f"{path.name} {contrast}".encode()))
    level = np.interp(table.prior[:, 0], CONTRASTS["T1"], levels or CONTRASTS[contrast])
    level += rng.normal(0, 4, len(level))
    mean_of = np.where(table.brain, level[table.t1], table.prior[table.t1, 0])
    grey = mean_of[table.among(*CORTEX)].mean()
    mean_of = np.where(table.values > OUTERMOST, grey + (mean_of - grey) * outermost, mean_of)
    image = ndimage.gaussian_filter(mean_of[rows].astype(np.float32), 0.5)
    image += rng.normal(0, 1, rows.shape).astype(np.float32) * np.where(rows > 0, 9, 3)
    return (np.abs(image) * field(rows.shape, rng, 0.15)).astype(np.float32), rows, (1.0, 1.0, 1.0)


def field(shape: tuple[int, ...], rng: np.random.Generator, strength: float) -> np.ndarray:
    """A smooth factor around 1."""
    knots = rng.normal(0, strength, (3, 3, 3))
    return np.exp(ndimage.zoom(knots, np.array(shape) / 3, order=1, grid_mode=True, mode="nearest"))


def thick(scan: Scan, table: Table) -> Scan:
    """Slices of 5 mm along the head; the reference is the middle millimetre of each."""
    image, rows, _ = scan
    n = image.shape[2] // 5
    slabs = image[..., : 5 * n].reshape(*image.shape[:2], n, 5)
    return slabs.mean(-1), rows[..., 2 : 5 * n : 5], (1.0, 1.0, 5.0)


def turned(rows: np.ndarray) -> np.ndarray:
    """Turned by 20 degrees about the axis through the ears, then about the long axis.

    The map is, and not its image: that would be interpolated, and blurred, which no scanner does.
    """
    for axes in ((1, 2), (0, 1)):
        rows = ndimage.rotate(rows, 20, axes, order=0)
    return rows


def cut(scan: Scan, table: Table) -> Scan:
    """Nothing below the cerebellum."""
    cerebellum = np.isin(table.values, (8, 47))[scan[1]]
    low = int(np.flatnonzero(cerebellum.any((0, 1)))[0])
    return scan[0][..., low:], scan[1][..., low:], scan[2]


def lesion(scan: Scan, table: Table) -> Scan:
    """A ball as bright as the ventricles in the white matter of the left side; its voxels do not count."""
    image, rows, size = scan[0].copy(), scan[1].copy(), scan[2]
    depth = ndimage.distance_transform_edt((table.values == 2)[rows])
    centre = np.unravel_index(depth.argmax(), depth.shape)
    distance = np.sqrt(sum((g - c) ** 2 for g, c in zip(np.ogrid[tuple(map(slice, rows.shape))], centre, strict=True)))
    ball = distance < LESION_MM
    image[ball] = image[np.isin(table.values, (4, 43))[rows]].mean()
    rows[ball] = IGNORE
    return image, rows, size


def smaller(scan: Scan, table: Table) -> Scan:
    """Four fifths of the size in all directions."""
    return scan[0], scan[1], (0.8, 0.8, 0.8)


def bright(scan: Scan, table: Table) -> Scan:
    """Three times as bright at the back as at the front, and an uneven field on top."""
    image, rows, size = scan
    slope = np.linspace(0.55, -0.55, image.shape[1])[None, :, None]
    return image * np.exp(slope) * field(image.shape, np.random.default_rng(5), 0.25), rows, size


def stripped(scan: Scan, table: Table) -> Scan:
    """Nothing but the brain."""
    return scan[0] * table.brain[scan[1]], scan[1], scan[2]


IGNORE = 255
TROUBLE: dict[str, Callable[[Scan, Table], Scan]] = {
    "cut below the cerebellum": cut,
    "lesion": lesion,
    "bias field": bright,
    "without skull": stripped,
}


def picture(path: Path, image: np.ndarray, guess: np.ndarray, size: tuple[float, ...], colours: np.ndarray) -> None:
    """Three slices through the middle of the labels, plain above and with the labels below."""
    from PIL import Image

    middle = [int(np.median(found)) for found in np.nonzero(guess)] if guess.any() else [n // 2 for n in guess.shape]
    rows = []
    grey = np.clip(image / np.quantile(image, 0.995), 0, 1)[..., None] * np.full(3, 255.0)
    over = np.where((guess > 0)[..., None], 0.5 * grey + 0.5 * colours[guess], grey)
    for volume in (grey, over):
        tiles = []
        for axis, (across, up) in enumerate(((1, 2), (0, 2), (0, 1))):
            tile = np.take(volume, middle[axis], axis).astype(np.uint8).swapaxes(0, 1)[::-1]
            shape = (round(image.shape[across] * size[across]), round(image.shape[up] * size[up]))
            tile = np.asarray(Image.fromarray(np.ascontiguousarray(tile)).resize(shape))
            tiles.append(np.pad(tile, ((0, 320 - min(320, len(tile))), (0, 0), (0, 0)))[:320])
        rows.append(np.concatenate(tiles, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows)).save(path)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--quick", action="store_true", help="one held-out map instead of three")
    parser.add_argument("--pictures", type=Path)
    args = parser.parse_args()
    model = Model(args)
    maps = args.data / "synthseg_label_maps"
    table = read_table(maps / "labels.csv")
    paths = sorted(maps.glob("training_seg_*.nii.gz"))[-HELD_OUT:]
    outputs = np.zeros(256, np.uint8)
    outputs[: len(table.values)] = np.array(table.outputs)[table.target.numpy()]
    colours = np.zeros((256, 3))
    for label in model.card.labels:
        colours[label.id] = label.colour or (255, 255, 255)
    print("| scan | mean Dice | lowest structure |\n| --- | --- | --- |")

    def case(
        name: str,
        path: Path,
        contrast: str,
        change: Callable[[Scan, Table], Scan] | None = None,
        levels: tuple[int, int, int] | None = None,
        placed: Callable[[np.ndarray], np.ndarray] | None = None,
        outermost: float = 1,
    ) -> None:
        if args.only not in name:
            return
        scan = head(path, table, contrast, levels, placed, outermost)
        image, rows, size = change(scan, table) if change else scan
        affine = RAS @ np.diag([*size, 1.0])
        guess = model.label(Volume(np.ascontiguousarray(image, np.float32)[None], Grid(image.shape, affine)))
        counted = rows != IGNORE
        scores = dice(guess[counted].astype(int), outputs[rows][counted].astype(int))
        worst = min(scores, key=lambda label: scores[label])
        mark = "" if mean(scores) >= GOAL else " (below the goal)"
        print(f"| {name} | {mean(scores):.3f}{mark} | {model.names[worst]} {scores[worst]:.2f} |", flush=True)
        print(name, " ".join(f"{k}:{v:.2f}" for k, v in scores.items()), file=sys.stderr)
        if args.pictures:
            picture(args.pictures / f"{name.replace(' ', '_')}.png", image, guess, size, colours)

    for path in paths[:1] if args.quick else paths:
        for contrast in CONTRASTS:
            case(f"{contrast} {path.name.split('.')[0][-2:]}", path, contrast)
    for contrast in CONTRASTS:
        case(f"{contrast} 5 mm", paths[0], contrast, thick)
    case("T1 turned 20 degrees", paths[0], "T1", placed=turned)
    for name, change in TROUBLE.items():
        case(f"T1 {name}", paths[0], "T1", change)
    case("T1 atrophied", paths[0], "T1", placed=lambda rows: kinds_of(with_outermost(rows, table), table)[OLD])
    case("T1 of a child", paths[0], "T1", smaller, CHILD)
    near = partial(with_outermost, table=table)
    case("T1 of a child, less myelin", paths[0], "T1", smaller, CHILD, placed=near, outermost=0.5)


if __name__ == "__main__":
    main()
