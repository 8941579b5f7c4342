"""Are structures whole: in one piece, on one side, and nothing apart from the main body."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from segcli.results.islands import Islands, islands
from segcli.results.measure import Structure
from segcli.results.scan_checks import Finding
from segcli.results.scene import DIFFUSE, PIECES, WRONG_SIDE_MM, Scene, midplane
from segcli.space.volume import Grid, Volume, among
from segcli.structures import side_of, words_of

ISLAND_SHARE = 0.7  # of a structure in its largest piece (in the two largest, without a pair)
STRAY_SHARE = 0.1  # part of a structure that may lie on the other side of the midline
SMALL_MM3 = 100.0  # structures below this are too small to be judged by their pieces
# Rows of equal labels whose pieces are looked for in one go, about 100 bytes each; a structure with more of them is
# not judged by its pieces, unless the rows are as short as those of noise.
ROWS_AT_ONCE = 5 << 19
NOISE_ROW = 3.0  # voxels, mean length of the rows


def pieces(scene: Scene) -> Iterator[Finding]:
    """Structures in pieces, and pieces of a structure on the other side of the body."""
    plane = midplane(scene)
    group: list[Structure] = []
    rows = 0
    for s in (scene.by_id[label.id] for label in scene.structures):
        if not s.voxels or s.volume_mm3 < SMALL_MM3:
            continue
        own = int(scene.counted[s.label].first.sum())
        if own > ROWS_AT_ONCE:
            if s.voxels / own < NOISE_ROW:
                sentence = f"{s.name} lies in {own} rows of {s.voxels / own:.1f} voxels, too many for its pieces to be "
                yield Finding("islands", "review", s.name, sentence + "counted: scattered like noise")
            continue
        if rows + own > ROWS_AT_ONCE:
            yield from _pieces_of(scene, group, plane)
            group, rows = [], 0
        group.append(s)
        rows += own
    yield from _pieces_of(scene, group, plane)


def _pieces_of(
    scene: Scene, group: Sequence[Structure], plane: tuple[NDArray[np.float64], NDArray[np.float64]] | None
) -> Iterator[Finding]:
    """What the pieces of some structures say of them; `plane` as `midplane` gives it."""
    pieces = islands(scene.labels, [s.label for s in group])
    to_left = None if plane is None else (_centres(pieces, scene.labels.grid) - plane[0]) @ plane[1]
    paired = {label.id for label in scene.structures if label.pair}
    for s in group:
        mine = pieces.of(s.label)
        if len(mine) < 2:
            continue
        share = pieces.size[mine] / s.voxels
        side = side_of(s.name)
        if to_left is not None and side is not None and s.label in paired:
            own_side = to_left[mine] * (1 if side == "left" else -1)
            stray = float(share[own_side < -WRONG_SIDE_MM].sum())
            if stray > STRAY_SHARE:
                sentence = f"{s.name}: {stray:.0%} of it ({stray * s.volume_ml:.3g} mL) lies on the other side"
                yield Finding("laterality", "review", s.name, sentence)
                continue
        body = float(share[0] if s.label in paired else share[:2].sum())
        if body < ISLAND_SHARE and not PIECES.intersection(words_of(s.name)):
            sentence = f"{s.name} lies in {len(mine)} pieces, the largest with {share[0]:.0%} of its {s.volume_ml:g} mL"
            yield Finding("islands", "review", s.name, sentence)


def strays(scene: Scene) -> Iterator[Finding]:
    """Pieces of whatever structure that lie apart from the main body of all, where the card says that there is one.

    What has no edge of its own does not count: two of 20 drawn label maps have 1.5 and 4.8 mL of fluid in crumbs.
    """
    most, kept = scene.card.limits.stray_ml, {label.id for label in scene.structures}
    rows = sum(int(tally.first.sum()) for label, tally in scene.counted.items() if label in kept)
    if most is None or rows > ROWS_AT_ONCE or kept != {label.id for label in scene.card.structures}:
        return
    edgeless = {x.id for x in scene.structures if DIFFUSE.intersection(words_of(x.name))}
    solid = among(scene.labels.data, scene.counted.keys() - edgeless)
    body = Volume(solid.view(np.uint8), scene.labels.grid)
    sizes = np.sort(islands(body, [1]).size) * body.grid.voxel_mm3 / 1000
    if len(sizes) and (apart := float(sizes[:-1].sum())) > most:
        count = "1 piece" if len(sizes) == 2 else f"{len(sizes) - 1} pieces"
        sentence = f"{count} with {apart:.3g} mL in all, apart from the main body of {sizes[-1]:.4g} mL: another organ?"
        yield Finding("islands", "review", None, sentence)


def _centres(pieces: Islands, grid: Grid) -> NDArray[np.float64]:
    """(n, 3) LPS mm of each island's centre."""
    _, h, w = grid.shape
    row, column = np.divmod(pieces.starts, w)
    at = (row // h, row % h, column + (pieces.length - 1) / 2)
    n = len(pieces.size)
    return grid.world(np.stack([np.bincount(pieces.island, a * pieces.length, n) / pieces.size for a in at], axis=1))
