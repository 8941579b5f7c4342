"""Is a result plausible: side, size, pieces, border, brightness, confidence; each doubt is a sentence with numbers.

Limits of anatomy at large stand at the top. Those that were measured on what one model is made for stand in its card
(`checks`); what a card does not state is not checked, and that is said. None of them is a diagnosis.

A check is a function from a `Scene` to its doubts, in the table at the end of this file. An installed package adds one
by an entry point of the group `segcli.checks` that names such a function.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache
from types import FunctionType
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from segcli.errors import EngineError
from segcli.formats.stated import Stated
from segcli.models.card import ModelCard
from segcli.packages import added
from segcli.results import fit_checks, piece_checks, volume_checks
from segcli.results.measure import Structure, Tally, summed, tallied
from segcli.results.places import fitted, stretches
from segcli.results.scan_checks import Finding as Finding
from segcli.results.scan_checks import Severity, blank, of_grid, of_scan
from segcli.results.scene import DIFFUSE, PIECES, WRONG_SIDE_MM, Scene, midplane, x_of
from segcli.space.volume import OPPOSITE, Volume
from segcli.structures import words_of

Check = Callable[[Scene], Iterable[Finding]]

PLACES = 8  # structures whose usual places are known, at least
CUT_SHARE = 0.05  # cross-section at the border over the largest one
DISAGREEMENT = 0.2  # share of an ensemble's members that decide otherwise, mean over a structure's voxels
_MANY = 3  # structures with one and the same doubt before they share a sentence

# Structures that go on beyond most scans, or lie about in pieces by nature.
_LONG = {
    "aorta", "artery", "vein", "vena", "cava", "postcava", "vessel", "vessels", "esophagus", "oesophagus", "trachea",
    "spinal", "spine", "cord", "vertebra", "vertebrae", "sacrum", "rib", "ribs", "sternum", "costal", "bone", "femur",
    "humerus", "scapula", "clavicula", "hip", "skull", "muscle", "autochthon", "gluteus", "iliopsoas", "iliac", "fat",
    "skin", "body", "bowel", "colon", "csf", "fluid", "airway", "lymph", "thrombus", "tissue",
}  # fmt: skip
# What most people have none of: a model of nothing else may well find nothing.
_ABNORMAL = {
    "lesion", "lesions", "tumor", "tumors", "tumour", "tumours", "nodule", "nodules", "cyst", "cysts", "metastasis",
    "metastases", "hemorrhage", "haemorrhage", "infarct", "stroke", "edema", "oedema", "necrosis", "necrotic",
    "enhancing", "embolism", "thrombus", "effusion", "pneumothorax", "covid", "cancer", "carcinoma", "glioma",
}  # fmt: skip
# The limits of a card, and what is not checked without them.
_CALIBRATED = {
    "confidence": "confidence of structures",
    "confidence_of_all": "confidence of the scan",
    "misplaced_mm": "mirrored places",
    "exchanged_mm": "exchanged places",
    "proportion": "proportions",
    "scale": "scale",
    "stray_ml": "pieces apart",
    "moved": "labels moved against the scan",
}
# Unpaired organs by side: the first lies to the right of the second in all but 1 of 10,000 people.
_RIGHT_OF = (("liver", "spleen"), ("liver", "stomach"), ("gallbladder", "spleen"), ("inferior_vena_cava", "aorta"))
_SIDES = {"R": "right", "L": "left", "A": "anterior", "P": "posterior", "I": "inferior", "S": "superior"}


def verdict(findings: Sequence[Finding]) -> Literal["pass", "review", "fail"]:
    """The worst of the findings; "pass" without any but notes."""
    severities = {f.severity for f in findings}
    return "fail" if "fail" in severities else "review" if "review" in severities else "pass"


def run(
    labels: Volume,
    image: Volume | None,
    card: ModelCard,
    confidence: Mapping[int, float] | None = None,
    said: Stated | None = None,
    classes: Collection[str] = (),
    disagreement: Mapping[int, float] | None = None,
    counted: Mapping[int, Tally] | None = None,
) -> list[Finding]:
    """Every doubt about a label map, the gravest first.

    labels        (1, D, H, W); image (C, D, H, W) on the same grid, or None
    confidence    mean softmax margin of each label value, 0..1
    said          of the scan, beside its voxels, which is compared with the card
    classes       names of the structures that were kept, all if empty
    disagreement  share of an ensemble's members that decide otherwise, mean over each label value's voxels, 0..1
    counted       `report.tallied` of the label map, where it is there already
    """
    structures = [x for x in card.structures if not classes or x.name in classes]
    counted = tallied(labels) if counted is None else counted
    report = summed(counted, structures, labels.grid)
    found = list(of_grid(labels.grid))
    if image is not None:
        if (nothing := blank(image)) is not None:
            return [nothing]
        found = [*of_scan(image, card, said or Stated()), *found]
    if not any(s.voxels for s in report.structures):
        expected = not classes and any(not _ABNORMAL.intersection(words_of(x.name)) for x in structures)
        sentence = "no structure was found: the label map is empty"
        found.append(Finding("empty", "fail" if expected else "review", None, sentence))
        return _ordered(found)
    by_id = {s.label: s for s in report.structures}
    said, confidence, disagreement = said or Stated(), confidence or {}, disagreement or {}
    foreign = any(f.code == "modality" for f in found)
    scene = Scene(labels, structures, by_id, counted, card, image, said, confidence, disagreement, foreign)
    for check in CHECKS:
        found += check(scene)
    for name, other in _added().items():
        found += _doubts(name, other(scene))
    return _ordered(_gathered(found))


@cache
def _added() -> dict[str, Check]:
    """The checks of installed packages by the names of their entry points; errors as in `packages.added`."""
    return dict(added("check", FunctionType, lambda check: (check.__name__,), ()))


def _doubts(name: str, given: object) -> list[Finding]:
    """What a package's check gave; EngineError (69) where it is something else than findings."""
    doubts: list[object] = list(given) if isinstance(given, Iterable) else [given]
    found = [doubt for doubt in doubts if isinstance(doubt, Finding)]
    if len(found) < len(doubts):
        strange = next(type(doubt).__name__ for doubt in doubts if not isinstance(doubt, Finding))
        hint = "update or uninstall the package that adds it"
        raise EngineError(f"the check {name!r} of a package gives {strange}, and segcli takes findings", hint=hint)
    return found


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


def _confidence(scene: Scene) -> Iterator[Finding]:
    """Structures that the network was unsure of, and scans on which it was unsure of nearly all of them."""
    limits, confidence = scene.card.limits, scene.confidence
    there = [(s, confidence[s.label]) for s in scene.by_id.values() if s.voxels and s.label in confidence]
    mean = sum(value for _, value in there) / len(there) if there else 1.0
    if limits.confidence_of_all is not None and len(there) >= 3 and mean < limits.confidence_of_all:
        sentence = f"the network was unsure everywhere: a mean margin of {mean:.2f} over {len(there)} structures; "
        sentence += f"is this what {scene.card.name} was made for?"
        yield Finding("confidence", "fail", None, sentence)
        return
    for s, value in there:
        if limits.confidence is not None and value < limits.confidence and not DIFFUSE & set(words_of(s.name)):
            sentence = (
                f"{s.name}: the network was unsure: a mean margin of {value:.2f} between the two most likely labels"
            )
            yield Finding("confidence", "review", s.name, sentence)


def _disagreement(scene: Scene) -> Iterator[Finding]:
    """Structures at whose voxels many members of an ensemble decide otherwise."""
    for s in scene.by_id.values():
        part = scene.disagreement.get(s.label, 0.0)
        if s.voxels and part > DISAGREEMENT:
            sentence = f"{s.name}: at its voxels {part:.0%} of the ensemble's members on average decide otherwise"
            yield Finding("disagreement", "review", s.name, sentence)


def _uncalibrated(scene: Scene) -> Iterator[Finding]:
    """What is not checked since the card states no limit for it."""
    lacking = [words for name, words in _CALIBRATED.items() if getattr(scene.card.limits, name) is None]
    if lacking:
        sentence = f"{', '.join(lacking)}: not calibrated for this model, and not checked"
        yield Finding("calibration", "note", None, sentence)


# ---- the structures ----------------------------------------------------------------------------------------------


def _laterality(scene: Scene) -> Iterator[Finding]:
    """Left structures that lie to the right of their right ones, and right-sided organs on the left."""
    both = [(a, b) for left, right in scene.pairs() if (a := scene[left]) and (b := scene[right])]
    wrong = [(a, b, gap) for a, b in both if (gap := x_of(b) - x_of(a)) > WRONG_SIDE_MM]
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
        if a and b and x_of(a) - x_of(b) > 10:
            sentence = f"{name} lies {x_of(a) - x_of(b):.0f} mm to the left of {other}: mirrored, or situs inversus"
            yield Finding("laterality", "review", f"{name}, {other}", sentence)


def _misplaced(scene: Scene) -> Iterator[Finding]:
    """Pairs that are not each other's mirror image while the others are: one of them has another's label."""
    plane, limits = midplane(scene), scene.card.limits
    if plane is None or limits.misplaced_mm is None:
        return
    point, left_of = plane
    apart = {}
    for left, right in scene.pairs():
        a, b = scene[left], scene[right]
        if a and b and not a.truncated and not b.truncated and x_of(a) > x_of(b):
            place = np.array(a.centroid_mm)
            mirror = place - 2 * ((place - point) @ left_of) * left_of
            apart[left, right] = float(np.linalg.norm(mirror - np.array(b.centroid_mm)))
    if len(apart) < 4:
        return
    usual = float(np.median(list(apart.values())))
    for (left, right), gap in apart.items():
        if gap > max(limits.misplaced_times * usual, limits.misplaced_mm) and not PIECES.intersection(words_of(left)):
            sentence = f"{left} and {right} are {gap:.0f} mm from mirroring each other, {usual:.0f} mm is usual here: "
            yield Finding("misplaced", "review", f"{left}, {right}", sentence + "has one of them another's label?")


def _places(scene: Scene) -> Iterator[Finding]:
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
        ways = f"{_SIDES[OPPOSITE[end]]}-{_SIDES[end]}"
        sentence = (
            f"the structures lie {ratios[axis]:.2f} times as far apart {ways} as the other directions let expect: "
        )
        yield Finding("scale", "review", None, sentence + f"is the voxel spacing of {grid.spacing[axis]:.4g} mm right?")


def _exchanged(scene: Scene, there: Sequence[Structure], gaps: NDArray[np.float64]) -> Iterator[Finding]:
    """Two structures that are each where the other one belongs; `gaps` (n, n) mm of each from the place of each."""
    least = scene.card.limits.exchanged_mm
    if least is None:
        return
    for i, j in itertools.combinations(range(len(there)), 2):
        a, b, own, other = there[i].name, there[j].name, min(gaps[i, i], gaps[j, j]), max(gaps[i, j], gaps[j, i])
        if own > least and other < own / 2 and (a, b) not in scene.pairs() and (b, a) not in scene.pairs():
            sentence = f"{a} lies where {b} belongs and the other way round, {own:.0f} mm from their own places: "
            yield Finding("misplaced", "review", f"{a}, {b}", sentence + "have they each other's label?")


def _truncated(scene: Scene) -> Iterator[Finding]:
    """Structures that the border of the scan cuts, other than those that go on beyond most scans."""
    letters = scene.labels.grid.axes
    for s in scene.by_id.values():
        if not s.truncated or _LONG.intersection(words_of(s.name)):
            continue
        sides = []
        for letter, area in zip(letters, scene.counted[s.label].areas, strict=True):
            if len(area) >= 4:  # of fewer slices nothing can be told
                sides += [(area[end] / area.max(), _SIDES[way]) for end, way in ((-1, letter), (0, OPPOSITE[letter]))]
        share, side = max(sides, default=(0.0, ""))
        if share > CUT_SHARE:
            sentence = f"{s.name} is cut by the {side} border of the scan, where its cross-section is {share:.0%} of "
            sentence += f"the largest: its {s.volume_ml:g} mL are not all of it"
            yield Finding("truncated", "review", s.name, sentence)


# ---- the table -------------------------------------------------------------------------------------------------------

CHECKS: tuple[Check, ...] = (
    _laterality,
    volume_checks.asymmetry,
    _misplaced,
    _places,
    _truncated,
    volume_checks.missing,
    volume_checks.volumes,
    volume_checks.scale,
    piece_checks.pieces,
    piece_checks.strays,
    fit_checks.moved,
    _confidence,
    _disagreement,
    _uncalibrated,
)
