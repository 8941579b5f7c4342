"""Is a result plausible: side, size, pieces, border, brightness, confidence; each doubt is a sentence with numbers.

Limits of anatomy at large stand at the top. Those that were measured on what one model is made for stand in its card
(`checks`); what a card does not state is not checked, and that is said. None of them is a diagnosis.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from segcli.documents import Facts
from segcli.models.card import ModelCard
from segcli.results.islands import Islands, islands
from segcli.results.measure import Structure, Tally, summed, tallied
from segcli.results.places import fitted, stretches
from segcli.results.scan_checks import Finding as Finding
from segcli.results.scan_checks import Severity, blank, of_grid, of_scan
from segcli.space.volume import Grid, Volume
from segcli.structures import Label, side_of, words_of

WRONG_SIDE_MM = 2.0  # a left structure may lie this far to the right of its right one
STRAY_SHARE = 0.1  # part of a structure that may lie on the other side of the midline
ASYMMETRY = 3.0  # larger over smaller of a pair, where the card has no range; see `_asymmetry`
PLACES = 8  # structures whose usual places are known, at least
CUT_SHARE = 0.05  # cross-section at the border over the largest one
ISLAND_SHARE = 0.7  # of a structure in its largest piece (in the two largest, without a pair)
NEAR = 1.2  # times beyond the reference range that is told, but no doubt: ranges come from few people
EXPLODED = 3.0  # times beyond the reference range that cannot be anatomy
DISAGREEMENT = 0.2  # part of a structure's voxels on which the members of an ensemble differ
SMALL_MM3 = 100.0  # structures below this are too small to be judged by their pieces
# Rows of equal labels whose pieces are looked for in one go, about 100 bytes each; a structure with more of them is
# not judged by its pieces, unless the rows are as short as those of noise.
ROWS_AT_ONCE = 5 << 19
NOISE_ROW = 3.0  # voxels, mean length of the rows
_MANY = 3  # structures with one and the same doubt before they share a sentence

# Structures that go on beyond most scans, or lie about in pieces by nature.
_LONG = {
    "aorta", "artery", "vein", "vena", "cava", "postcava", "vessel", "vessels", "esophagus", "oesophagus", "trachea",
    "spinal", "spine", "cord", "vertebra", "vertebrae", "sacrum", "rib", "ribs", "sternum", "costal", "bone", "femur",
    "humerus", "scapula", "clavicula", "hip", "skull", "muscle", "autochthon", "gluteus", "iliopsoas", "iliac", "fat",
    "skin", "body", "bowel", "colon", "csf", "fluid", "airway", "lymph", "thrombus", "tissue",
}  # fmt: skip
# The limits of a card, and what is not checked without them.
_CALIBRATED = {
    "confidence": "confidence of structures",
    "confidence_of_all": "confidence of the scan",
    "misplaced_mm": "mirrored places",
    "exchanged_mm": "exchanged places",
    "proportion": "proportions",
    "scale_sd": "scale",
    "stray_ml": "pieces apart",
}
_DIFFUSE = {"csf", "fluid", "fat", "tissue"}  # whose edges nobody is sure of
_PIECES = {"csf", "fluid", "vessel", "vessels", "ventricle", "lesion", "lesions", "bowel", "colon", "rib", "ribs"}
# Unpaired organs by side: the first lies to the right of the second in all but 1 of 10,000 people.
_RIGHT_OF = (("liver", "spleen"), ("liver", "stomach"), ("gallbladder", "spleen"), ("inferior_vena_cava", "aorta"))
_SIDES = {"R": "right", "L": "left", "A": "anterior", "P": "posterior", "I": "inferior", "S": "superior"}
_OPPOSITE = dict(zip("RLAPIS", "LRPASI", strict=True))


def verdict(findings: Sequence[Finding]) -> Literal["pass", "review", "fail"]:
    """The worst of the findings; "pass" without any but notes."""
    severities = {f.severity for f in findings}
    return "fail" if "fail" in severities else "review" if "review" in severities else "pass"


def run(
    labels: Volume,
    image: Volume | None,
    card: ModelCard,
    confidence: Mapping[int, float] | None = None,
    facts: Facts | None = None,
    classes: Collection[str] = (),
    disagreement: Mapping[int, float] | None = None,
    counted: Mapping[int, Tally] | None = None,
) -> list[Finding]:
    """Every doubt about a label map, the gravest first.

    labels        (1, D, H, W); image (C, D, H, W) on the same grid, or None
    confidence    mean softmax margin of each label value, 0..1
    facts         what the file says of itself; "modality" is compared with the card's
    classes       names of the structures that were kept, all if empty
    disagreement  part of each label value's voxels on which the members of an ensemble differ, 0..1
    counted       `report.tallied` of the label map, where it is there already
    """
    structures = [x for x in card.structures if not classes or x.name in classes]
    counted = tallied(labels) if counted is None else counted
    report = summed(counted, structures, labels.grid)
    found = list(of_grid(labels.grid))
    if image is not None:
        if (nothing := blank(image)) is not None:
            return [nothing]
        found += of_scan(image, card, facts or {})
    if not any(s.voxels for s in report.structures):
        found.append(Finding("empty", "fail", None, "no structure was found: the label map is empty"))
        return _ordered(found)
    scene = _Scene(labels, structures, {s.label: s for s in report.structures}, counted, card)
    for check in (
        _laterality,
        _asymmetry,
        _misplaced,
        _places,
        _truncated,
        _missing,
        _volumes,
        _scale,
        _pieces,
        _strays,
    ):
        found += check(scene)
    found += _confidence(scene, confidence or {})
    for s in scene.by_id.values():
        part = (disagreement or {}).get(s.label, 0.0)
        if s.voxels and part > DISAGREEMENT:
            sentence = f"{s.name}: the models of the ensemble differ on {part:.0%} of its voxels"
            found.append(Finding("disagreement", "review", s.name, sentence))
    return _ordered(_gathered([*found, *_uncalibrated(card)]))


@dataclass(frozen=True, eq=False)
class _Scene:
    """What the checks of structures look at."""

    labels: Volume
    structures: Sequence[Label]
    by_id: Mapping[int, Structure]
    counted: Mapping[int, Tally]
    card: ModelCard

    def __getitem__(self, name: str) -> Structure | None:
        """A structure that is there, else None."""
        return next((s for s in self.by_id.values() if s.name == name and s.voxels), None)

    def pairs(self) -> list[tuple[str, str]]:
        """Names (left, right) of the pairs whose both structures are looked for."""
        names = {x.name for x in self.structures}
        return [(x.name, x.pair) for x in self.structures if x.pair in names and side_of(x.name) == "left"]


def _ordered(found: Sequence[Finding]) -> list[Finding]:
    return sorted(found, key=lambda f: get_args(Severity).index(f.severity))


def _gathered(found: Sequence[Finding]) -> list[Finding]:
    """One finding instead of many that say the same of one structure each."""
    groups: dict[tuple[str, Severity], list[Finding]] = {}
    for f in found:
        groups.setdefault((f.code, f.severity), []).append(f)
    out = []
    for (code, severity), group in groups.items():
        named = [f for f in group if f.structure is not None]
        if len(named) <= _MANY:
            out += group
            continue
        out += [f for f in group if f.structure is None]
        rest = f"{len(named)} structures ({code}), the first: {named[0].sentence}"
        out.append(Finding(code, severity, ", ".join(f.structure or "" for f in named), rest))
    return out


# ---- the network's own doubt -----------------------------------------------------------------------------------------


def _confidence(scene: _Scene, confidence: Mapping[int, float]) -> Iterator[Finding]:
    """Structures that the network was unsure of, and scans on which it was unsure of nearly all of them."""
    limits = scene.card.limits
    there = [(s, confidence[s.label]) for s in scene.by_id.values() if s.voxels and s.label in confidence]
    mean = sum(value for _, value in there) / len(there) if there else 1.0
    if limits.confidence_of_all is not None and len(there) >= 3 and mean < limits.confidence_of_all:
        sentence = f"the network was unsure everywhere: a mean margin of {mean:.2f} over {len(there)} structures; "
        sentence += f"is this what {scene.card.name} was made for?"
        yield Finding("confidence", "fail", None, sentence)
        return
    for s, value in there:
        if limits.confidence is not None and value < limits.confidence and not _DIFFUSE & set(words_of(s.name)):
            sentence = f"{s.name}: the network was unsure: a mean margin of {value:.2f} between its first two"
            yield Finding("confidence", "review", s.name, sentence)


def _uncalibrated(card: ModelCard) -> Iterator[Finding]:
    """What is not checked since the card states no limit for it."""
    lacking = [words for name, words in _CALIBRATED.items() if getattr(card.limits, name) is None]
    if lacking:
        sentence = f"{', '.join(lacking)}: not calibrated for this model, and not checked"
        yield Finding("calibration", "note", None, sentence)


# ---- the structures ----------------------------------------------------------------------------------------------


def _laterality(scene: _Scene) -> Iterator[Finding]:
    """Left structures that lie to the right of their right ones, and right-sided organs on the left."""
    both = [(a, b) for left, right in scene.pairs() if (a := scene[left]) and (b := scene[right])]
    wrong = [(a, b, gap) for a, b in both if (gap := _x(b) - _x(a)) > WRONG_SIDE_MM]
    if len(wrong) > max(1, len(both) // 2):
        first = wrong[0]
        yield Finding(
            "laterality",
            "fail",
            ", ".join(s.name for a, b, _ in wrong for s in (a, b)),
            f"{len(wrong)} of {len(both)} pairs are on the wrong sides ({first[0].name} lies {first[2]:.0f} mm to the "
            f"right of {first[1].name}): the label map or its header is mirrored",
        )
        return
    for a, b, gap in wrong:
        sentence = f"{a.name} lies {gap:.0f} mm to the right of {b.name}: swapped"
        yield Finding("laterality", "fail", f"{a.name}, {b.name}", sentence)
    for name, other in _RIGHT_OF:
        a, b = scene[name], scene[other]
        if a and b and _x(a) - _x(b) > 10:
            sentence = f"{name} lies {_x(a) - _x(b):.0f} mm to the left of {other}: mirrored, or situs inversus"
            yield Finding("laterality", "review", f"{name}, {other}", sentence)


def _x(s: Structure) -> float:
    return s.centroid_mm[0] if s.centroid_mm else math.nan


def _asymmetry(scene: _Scene) -> Iterator[Finding]:
    """Pairs that differ more than anatomy does: 1.5 times the root of high over low of the range, at least twofold."""
    for left, right in scene.pairs():
        a, b = scene[left], scene[right]
        if a is None or b is None or a.truncated or b.truncated:
            continue
        large, small = (a, b) if a.voxels > b.voxels else (b, a)
        low, high = scene.card.volumes_ml.get(left, (1.0, ASYMMETRY**2))
        allowed = max(2.0, math.sqrt(high / low) * 1.5) if low > 0 else ASYMMETRY
        ratio = large.voxels / small.voxels
        if ratio > allowed:
            sentence = f"{large.name} is {ratio:.1f} times as large as {small.name} ({large.volume_ml:g} and "
            sentence += f"{small.volume_ml:g} mL); {allowed:.1f} is the most that is not remarkable"
            yield Finding("asymmetry", "review", f"{left}, {right}", sentence)


def _misplaced(scene: _Scene) -> Iterator[Finding]:
    """Pairs that are not each other's mirror image while the others are: one of them has another's label."""
    plane, limits = _midplane(scene), scene.card.limits
    if plane is None or limits.misplaced_mm is None:
        return
    point, left_of = plane
    apart = {}
    for left, right in scene.pairs():
        a, b = scene[left], scene[right]
        if a and b and not a.truncated and not b.truncated and _x(a) > _x(b):
            place = np.array(a.centroid_mm)
            mirror = place - 2 * ((place - point) @ left_of) * left_of
            apart[left, right] = float(np.linalg.norm(mirror - np.array(b.centroid_mm)))
    if len(apart) < 4:
        return
    usual = float(np.median(list(apart.values())))
    for (left, right), gap in apart.items():
        if gap > max(limits.misplaced_times * usual, limits.misplaced_mm) and not _PIECES.intersection(words_of(left)):
            sentence = f"{left} and {right} are {gap:.0f} mm from mirroring each other, {usual:.0f} mm is usual here: "
            yield Finding("misplaced", "review", f"{left}, {right}", sentence + "has one of them another's label?")


def _places(scene: _Scene) -> Iterator[Finding]:
    """Structures that have each other's label, and one voxel spacing that is wrong, told by the card's usual places."""
    usual = scene.card.centroids_mm
    there = [s for s in scene.by_id.values() if s.name in usual and s.voxels and not s.truncated]
    if len(there) < max(PLACES, len(usual) / 2):
        return
    places = np.array([s.centroid_mm for s in there])
    matrix, expected = fitted(np.array([usual[s.name] for s in there]), places)
    yield from _exchanged(scene, there, np.linalg.norm(places[:, None] - expected, axis=2))
    most, grid = scene.card.limits.proportion, scene.labels.grid
    ratios = stretches(matrix, grid)
    axis = int(np.argmax(np.abs(np.log(ratios))))
    if most is not None and not 1 / most < ratios[axis] < most:
        end = grid.axes[axis]
        ways = f"{_SIDES[_OPPOSITE[end]]}-{_SIDES[end]}"
        sentence = (
            f"the structures lie {ratios[axis]:.2f} times as far apart {ways} as the other directions let expect: "
        )
        yield Finding("scale", "review", None, sentence + f"is the voxel spacing of {grid.spacing[axis]:.4g} mm right?")


def _exchanged(scene: _Scene, there: Sequence[Structure], gaps: NDArray[np.float64]) -> Iterator[Finding]:
    """Two structures that are each where the other one belongs; `gaps` (n, n) mm of each from the place of each."""
    least = scene.card.limits.exchanged_mm
    if least is None:
        return
    for i, j in itertools.combinations(range(len(there)), 2):
        a, b, own, other = there[i].name, there[j].name, min(gaps[i, i], gaps[j, j]), max(gaps[i, j], gaps[j, i])
        if own > least and other < own / 2 and (a, b) not in scene.pairs() and (b, a) not in scene.pairs():
            sentence = f"{a} lies where {b} belongs and the other way round, {own:.0f} mm from their own places: "
            yield Finding("misplaced", "review", f"{a}, {b}", sentence + "have they each other's label?")


def _truncated(scene: _Scene) -> Iterator[Finding]:
    """Structures that the border of the scan cuts, other than those that go on beyond most scans."""
    letters = scene.labels.grid.axes
    for s in scene.by_id.values():
        if not s.truncated or _LONG.intersection(words_of(s.name)):
            continue
        sides = []
        for letter, area in zip(letters, scene.counted[s.label].areas, strict=True):
            if len(area) >= 4:  # of fewer slices nothing can be told
                sides += [(area[end] / area.max(), _SIDES[way]) for end, way in ((-1, letter), (0, _OPPOSITE[letter]))]
        share, side = max(sides, default=(0.0, ""))
        if share > CUT_SHARE:
            sentence = f"{s.name} is cut by the {side} border of the scan, where its cross-section is {share:.0%} of "
            sentence += f"the largest: its {s.volume_ml:g} mL are not all of it"
            yield Finding("truncated", "review", s.name, sentence)


def _missing(scene: _Scene) -> Iterator[Finding]:
    """One side of a pair alone; and in a scan that shows the whole anatomy, an absent structure that everyone has."""
    for left, right in scene.pairs():
        for name, other in ((left, right), (right, left)):
            there = scene[name]
            if there and not there.truncated and scene[other] is None:
                sentence = f"{other} was not found, {name} has {there.volume_ml:g} mL"
                yield Finding("missing", "review", other, sentence)
    ranged = [s for s in scene.by_id.values() if scene.card.volumes_ml.get(s.name, (0.0, 0.0))[0] > 0]
    absent = [s for s in ranged if not s.voxels]
    told = {x.name for x in scene.structures if x.pair and scene[x.pair]}
    if len(absent) < len(ranged) / 2:
        for s in absent:
            if s.name not in told:
                low = scene.card.volumes_ml[s.name][0]
                sentence = f"{s.name} was not found; {low:g} mL is the least that is usual"
                yield Finding("missing", "review", s.name, sentence)


def _volumes(scene: _Scene) -> Iterator[Finding]:
    """Volumes outside the card's reference range, and structures that fill the scan."""
    for s in scene.by_id.values():
        if not s.voxels:
            continue
        part = s.voxels / scene.labels.grid.size
        if s.name not in scene.card.volumes_ml:
            if part > 0.9:
                yield Finding("volume", "review", s.name, f"{s.name} fills {part:.0%} of the scan")
            continue
        low, high = scene.card.volumes_ml[s.name]
        if low <= s.volume_ml <= high or (s.truncated and s.volume_ml < low):
            continue  # of a structure that is cut off less than usual is no surprise
        far = s.volume_ml > high * EXPLODED or s.volume_ml < low / EXPLODED
        near = low / NEAR <= s.volume_ml <= high * NEAR
        sentence = f"{s.name}: {s.volume_ml:g} mL, {'just ' * near}outside {low:g} to {high:g} mL"
        yield Finding("volume", "fail" if far else "note" if near else "review", s.name, sentence)


def _scale(scene: _Scene) -> Iterator[Finding]:
    """All volumes together too large or too small: then the spacing is wrong rather than the patient."""
    apart, ratios, most = [], [], scene.card.limits.scale_sd
    for s in scene.by_id.values():
        low, high = scene.card.volumes_ml.get(s.name, (0.0, 0.0))
        if s.voxels and not s.truncated and 0 < low < high:
            ratios.append(math.log(s.volume_ml) - math.log(low * high) / 2 if s.volume_ml else 0.0)
            apart.append(ratios[-1] / (math.log(high / low) / 6))
    if most is not None and len(apart) >= 5 and abs(float(np.median(apart))) > most:
        ratio = math.exp(float(np.median(ratios)))
        spacing = " x ".join(f"{v:.4g}" for v in scene.labels.grid.spacing)
        sentence = f"the structures together have {ratio:.2f} times the usual volumes: is the voxel spacing of "
        yield Finding("scale", "fail", None, f"{sentence}{spacing} mm right?")


def _pieces(scene: _Scene) -> Iterator[Finding]:
    """Structures in pieces, and pieces of a structure on the other side of the body."""
    plane = _midplane(scene)
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
    scene: _Scene, group: Sequence[Structure], plane: tuple[NDArray[np.float64], NDArray[np.float64]] | None
) -> Iterator[Finding]:
    """What the pieces of some structures say of them; `plane` as `_midplane` gives it."""
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
        if body < ISLAND_SHARE and not _PIECES.intersection(words_of(s.name)):
            sentence = f"{s.name} lies in {len(mine)} pieces, the largest with {share[0]:.0%} of its {s.volume_ml:g} mL"
            yield Finding("islands", "review", s.name, sentence)


def _strays(scene: _Scene) -> Iterator[Finding]:
    """Pieces of whatever structure that lie apart from the main body of all, where the card says that there is one."""
    most, kept = scene.card.limits.stray_ml, {label.id for label in scene.structures}
    rows = sum(int(tally.first.sum()) for label, tally in scene.counted.items() if label in kept)
    if most is None or rows > ROWS_AT_ONCE or kept != {label.id for label in scene.card.structures}:
        return
    body = Volume((scene.labels.data != 0).astype(np.uint8), scene.labels.grid)
    pieces = islands(body, [1])
    sizes = np.sort(pieces.size) * body.grid.voxel_mm3 / 1000
    if (apart := float(sizes[:-1].sum())) > most:
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


def _midplane(scene: _Scene) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """A point and the direction to the left of the plane between the pairs; None with fewer than two pairs."""
    both = [
        (np.array(a.centroid_mm), np.array(b.centroid_mm))
        for left, right in scene.pairs()
        if (a := scene[left]) and (b := scene[right]) and _x(a) > _x(b)
    ]
    if len(both) < 2:
        return None
    towards = np.median([a - b for a, b in both], axis=0)
    return np.median([(a + b) / 2 for a, b in both], axis=0), towards / np.linalg.norm(towards)
