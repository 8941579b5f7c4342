"""Is a scan what the model was made for: its grid, modality and brightness; each doubt is a sentence with numbers.

All of it is known before the network runs.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from segcli import formats
from segcli.errors import InputError
from segcli.formats.stated import Stated, stated
from segcli.models.card import ModelCard
from segcli.results.measure import whole_numbers
from segcli.space.volume import Grid, Volume, Voxels

FAT = -100.0  # whole numbers down to here: a CT, if windowed to soft tissue; no scanner stores an MR so
STORED = 1024  # is added to Hounsfield units where they are stored without a sign
NOISE = 0.2  # correlation of neighbouring voxels
# Neighbours within a structure that are equal: 0.87 to 1 in label maps of 2 to 189 values, at most 0.37 in scans.
EQUAL = 0.8
LABELS = 1000  # values that a label map has at most
_GREYS = 32  # values that a picture has more of
_OTHER_MODELS = "`segcli models --available` lists models with their modality"
_NO_WORD = "OT"  # the Modality in DICOM of what has none of its own, or was written by a program that knows none
_PLANES = 32  # that are looked at
SAID_FIRST = ("modality", "age", "body part", "contrast", "sequence")  # what a person wants to know before the network

Severity = Literal["fail", "review", "note"]  # the gravest first


@dataclass(frozen=True)
class Finding:
    """One doubt.

    code       one of SAID_FIRST, "laterality", "asymmetry", "misplaced", "truncated", "intensity", "noise", "empty",
               "missing", "volume", "scale", "islands", "confidence", "disagreement", "grid" or "calibration"
    severity   "fail": wrong in all likelihood; "review": look before using it; "note": to know, not a doubt
    structure  its name, several of them with ", " between, or None for the whole scan
    sentence   for a person, with the numbers
    """

    code: str
    severity: Severity
    structure: str | None
    sentence: str


def beforehand(scan: Volume, card: ModelCard, name: str, *, label_map: bool = False) -> list[str]:
    """What speaks against a scan so much that a person wants to know it before the network runs, a sentence each.

    name       of the case, for the refusal
    label_map  whether what looks like a label map is taken for a scan
    errors     InputError: it looks like a label map, and no DICOM header says that it is an image of some modality
    """
    said = stated(scan.source)
    is_image = ((scan.source.facts if scan.source else None) or {}).get("modality")
    count = None if label_map or is_image else label_values(scan)
    if count is not None:
        raise InputError(
            f"{name}: is a label map by its looks: {count} whole numbers in patches, without noise",
            hint="give the scan itself; `predict --allow-label-map` takes it as one",
        )
    if (nothing := blank(scan)) is not None:
        return [nothing.sentence]
    told = [f for f in of_scan(scan, card, said) if f.severity == "fail" or f.code in SAID_FIRST]
    return [_and(f.sentence, _OTHER_MODELS) if _of_another(f, card) else f.sentence for f in told]


def _and(sentence: str, more: str) -> str:
    """Two sentences in one line; a question ends by itself."""
    return f"{sentence} {more}" if sentence.endswith("?") else f"{sentence}; {more}"


def _of_another(doubt: Finding, card: ModelCard) -> bool:
    """Whether a scan may be of another modality than the model's: what is no CT is told by its brightness alone."""
    return doubt.code == "modality" or (doubt.code == "intensity" and card.modality == "CT")


def of_scan(scan: Volume, card: ModelCard, said: Stated) -> list[Finding]:
    """Every doubt about a scan, (C, D, H, W): what is said of it against what the card says, and its brightness."""
    found = list(of_statements(card, said))
    for channel, name in zip(scan.data, card.channels, strict=False):
        found += of_intensity(channel, name, card.modality, said=said.modality == card.modality)
    return found


def blank(scan: Volume) -> Finding | None:
    """The one thing to say of a scan that shows nothing: one value in every voxel of each channel."""
    if any((plane != channel.flat[0]).any() for channel in scan.data for plane in channel):
        return None
    values = ", ".join(f"{float(channel.flat[0]):zg}" for channel in scan.data)
    return Finding("intensity", "fail", None, f"every voxel of the scan is {values}: there is no picture")


def label_values(scan: Volume) -> int | None:
    """How many values a scan has that is a label map by its looks; None of a picture.

    A label map has few whole numbers from 0 on, each of them in patches: no noise tells neighbours apart.
    """
    counts = [_label_values(channel) for channel in scan.data]
    return None if None in counts else max(count for count in counts if count is not None)


def _label_values(channel: Voxels) -> int | None:
    values: set[float] = set()
    pairs = equal = 0
    for i in np.unique(np.linspace(0, len(channel) - 1, _PLANES).astype(int)):
        plane = channel[i]
        found = np.unique(plane)
        if not np.isfinite(found).all() or found[0] < 0 or (found % 1).any():
            return None
        values.update(found.tolist())
        if len(values) > LABELS:
            return None
        beside, same = _neighbours(plane, 0)
        pairs, equal = pairs + beside, equal + same
    return len(values) if len(values) > 1 and pairs and equal >= EQUAL * pairs else None


def label_map(path: Path, counts: formats.Form | None, known: Collection[int] = ()) -> Volume:
    """A file as a label map in an integer type, (1, D, H, W).

    counts   which statement of a NIfTI header counts
    known    the numbers that have names: a map that holds no others is none of a scan, whatever it looks like
    errors   InputError: it holds several images or other than whole numbers, or is a picture by its looks
    """
    if (several := formats.format_of(path).count(path)) > 1:
        told = f"{path.name}: holds {several} images on one grid, where one label map is expected"
        raise InputError(told, hint="take one of them out first")
    labels = whole_numbers(formats.read([path], affine=counts))
    if (count := greys(labels)) is not None and not {*np.unique(labels.data).tolist()} <= {0, *known}:
        raise InputError(
            f"{path.name}: looks like a scan and is no label map: {count} whole numbers, and few neighbours are equal",
            hint="give the label map itself; if it is one, name all its numbers with --labels or --model",
        )
    return labels


def is_picture(read: Volume) -> bool:
    """Whether what was read of a file, (C, D, H, W), is no label map, by its looks or values between whole numbers."""
    return not np.array_equal(np.round(read.data), read.data) or greys(read) is not None


def greys(labels: Volume) -> int | None:
    """How many values whole numbers have that are a picture by their looks; None of what may be a label map.

    A picture has many, and most neighbours are told apart by noise: at most 0.36 of those beside the background, the
    commonest value, are equal in scans. In label maps at least 0.6 are, and nearly half of those of a cortex of 1000
    parcels at 4 mm. Labels of a voxel each, as of seeds, lie apart, while the voxels of a picture have neighbours.

    labels   (C, D, H, W), of which the first channel is looked at
    """
    planes = labels.data[0][np.unique(np.linspace(0, labels.grid.shape[0] - 1, _PLANES).astype(int))]
    values, counts = np.unique(planes, return_counts=True)
    found = [_neighbours(plane, values[counts.argmax()]) for plane in planes]
    pairs, equal = (sum(both) for both in zip(*found, strict=True))
    apart = pairs < counts.sum() - counts.max()
    return len(values) if len(values) > _GREYS and not apart and equal < 0.42 * pairs else None


def _neighbours(plane: NDArray[Any], background: float) -> tuple[int, int]:
    """How many pairs of neighbours a plane, (H, W), has beside the background, and how many of these are equal."""
    pairs = equal = 0
    for one, next_one in ((plane[1:], plane[:-1]), (plane[:, 1:], plane[:, :-1])):
        inside = (one != background) & (next_one != background)
        pairs += int(inside.sum())
        equal += int((inside & (one == next_one)).sum())
    return pairs, equal


def of_grid(grid: Grid) -> Iterator[Finding]:
    size = [n * s for n, s in zip(grid.shape, grid.spacing, strict=True)]
    if max(size) > 2200 or max(size) < 20:
        shown = " x ".join(f"{v:.4g}" for v in size)
        yield Finding("grid", "review", None, f"the scan measures {shown} mm: is its voxel spacing right?")
    if max(grid.spacing) > 20 or min(grid.spacing) < 0.05:
        shown = " x ".join(f"{v:.4g}" for v in grid.spacing)
        yield Finding("grid", "review", None, f"voxels of {shown} mm: outside 0.05 to 20 mm")


def of_statements(card: ModelCard, said: Stated) -> Iterator[Finding]:
    """What is said of patient and acquisition, where the model was made for other ones."""
    made, name = card.made_for, card.name
    if card.modality and said.modality not in ("", _NO_WORD, card.modality):
        sentence = f"the scan says {said.modality}, {name} was made for {card.modality}"
        yield Finding("modality", "fail", None, sentence)
    if made.ages and said.years is not None and not made.ages[0] <= said.years <= made.ages[1]:
        sentence = f"{said.years_from} says an age of {_age(said.years)}, {name} was made for {made.ages[0]:g} to "
        yield Finding("age", "review", None, f"{sentence}{made.ages[1]:g} years")
    if made.body_parts and said.body_part:
        part = said.body_part.upper()
        if not any(word.upper() in part for word in made.body_parts):
            sentence = f"the scan says that it shows {said.body_part}, {name} was made for {_any(made.body_parts)}"
            yield Finding("body part", "review", None, sentence)
    if made.contrast is not None and said.contrast is not None and made.contrast != said.contrast:
        has, wants = ("with", "without") if said.contrast else ("without", "with")
        sentence = f"the scan says that it was made {has} a contrast agent, {name} was made for scans {wants} one"
        yield Finding("contrast", "review", None, sentence)
    if made.sequences and said.sequence and said.sequence not in made.sequences:
        sentence = f"the scan says that it is a {said.sequence}, {name} was made for {_any(made.sequences)}"
        yield Finding("sequence", "review", None, sentence)


def _age(years: float) -> str:
    """An age in whole years, in months below two years; of the oldest only that they are."""
    if years > 89:
        return "90 years or more"
    return f"{years:.0f} years" if years >= 2 else f"{years * 12:.0f} months"


def _any(words: Sequence[str]) -> str:
    """T1; T1 or T2; T1, T2 or PD."""
    return " or ".join(part for part in (", ".join(words[:-1]), words[-1]) if part)


def of_intensity(channel: Voxels, name: str, modality: str | None, *, said: bool = False) -> Iterator[Finding]:
    """What a channel's brightness says against the modality that the model wants.

    channel   (D, H, W); every n-th voxel is looked at, two million in all
    said      whether the scan says that it is of that modality: differences of MR look like a CT by their values
    """
    step = max(1, math.ceil((channel.size / 2e6) ** (1 / 3)))
    values = channel[::step, ::step, ::step].astype(np.float64)
    if not np.isfinite(values).any():
        return  # of these no brightness can be told; a scan of nothing else is refused when it is prepared
    values = np.where(np.isfinite(values), values, np.nanmin(values[np.isfinite(values)]))
    low, tenth, high = (float(v) for v in np.percentile(values, (0.5, 10, 99.5)))
    if values.min() == values.max():
        yield Finding("intensity", "fail", None, f"channel {name}: every voxel is {low:zg}: there is no picture")
        return
    faces = [np.take(values, i, axis).ravel() for axis in range(3) for i in (0, -1)]
    border = float(np.median(np.concatenate(faces)))
    middle = float(np.median(values[tuple(slice(n // 3, n - n // 3) for n in values.shape)]))
    if modality == "CT":
        sentence = _not_hounsfield(values, low, tenth, high, border, middle)
        if sentence:
            yield Finding("intensity", "fail", None, f"channel {name}: {sentence}")
    elif modality == "MR":
        sentence = None if said else _hounsfield(values, low, high) or _hounsfield_from_0(values)
        if sentence:
            yield Finding("modality", "fail", None, f"channel {name}: {sentence}: a CT?")
        elif high > low and (border - low) / (high - low) > 0.7 and border > middle:
            sentence = f"the surroundings ({border:.4g}) are brighter than the middle ({middle:.4g}): inverted?"
            yield Finding("intensity", "fail", None, f"channel {name}: {sentence}")
    like = _likeness(channel)
    if like is not None and like < NOISE:
        sentence = f"neighbouring voxels hardly resemble each other (correlation {like:z.2f}): noise, not a picture?"
        yield Finding("noise", "review", None, f"channel {name}: {sentence}")


def _hounsfield(values: NDArray[np.float64], low: float, high: float) -> str | None:
    """Why these are Hounsfield units; None when they may be an MR."""
    air = float(np.mean((values > -1100) & (values < -900)))
    soft = float(np.mean((values >= -250) & (values <= 250)))
    if air > 0.05 and low > -5000:
        return f"{air:.0%} of the voxels lie around -1000, as air in Hounsfield units"
    if low <= FAT and soft > 0.1 and not (values % 1).any():
        return f"whole numbers from {low:.4g} to {high:.4g}, as of Hounsfield units"
    return None


def _hounsfield_from_0(values: NDArray[np.float64]) -> str | None:
    """Why these are Hounsfield units as scanners store them, with 1024 added; None when they may be an MR.

    Soft tissue and fat hold most of what is no air, in peaks that no MR has so narrow, and little lies between them and
    the air. Found: four CTs, whole, halved and cropped as long as there is air in them. Not found: any of 26,673
    variants of 47 MR scans, cropped in up to 13 ways and scaled by 45 factors each, to whatever looks most like a CT.
    """
    units = values - STORED
    body = units[units > -600]
    if not np.mean(units < -900) >= 0.005 or not len(body):
        return None
    shares = np.histogram(body, np.arange(-600, 3101, 20))[0] / len(body)
    peaks = np.convolve(shares, np.ones(3), "valid")  # of 60 HU
    at = -570 + 20 * int(peaks.argmax())
    soft, between = (float(np.mean((body > a) & (body < b))) for a, b in ((-150, 150), (-600, -200)))
    if peaks.max() < 0.24 or not -130 <= at <= 150 or soft < 0.55 or between > 0.25:
        return None
    return f"air near 0 and {soft:.0%} of the rest within 150 of {STORED}, as of Hounsfield units with {STORED} added"


def _not_hounsfield(
    values: NDArray[np.float64], low: float, tenth: float, high: float, border: float, middle: float
) -> str | None:
    """Why these are not the Hounsfield units of a body with air around it or in it; None when they may be."""
    soft = float(np.mean((values >= -250) & (values <= 250)))
    dense = float(np.mean((values >= 800) & (values <= 1250)))
    if border > 300 and border - middle > 500:
        return f"the surroundings ({border:.4g}) are denser than the middle ({middle:.4g}): inverted?"
    if border > -400 and border <= tenth + 0.05 * (high - low) and middle > border + 0.05 * (high - low) and low > -400:
        shift = f", shifted by {border + 1000:.4g}?" if 600 < border + 1000 < 1400 and high - low > 500 else ""
        return f"the surroundings of the patient are at {border:.4g}; air is at -1000 HU: not Hounsfield units{shift}"
    if dense > 0.1 and low > -200:
        return f"{dense:.0%} of the voxels lie between 800 and 1250 HU, as dense as bone: shifted by 1000?"
    if soft < 0.03:
        return f"only {soft:.1%} of the voxels lie between -250 and 250 HU, where soft tissue is: not Hounsfield units"
    return None


def _likeness(channel: Voxels) -> float | None:
    """Largest of the correlations between neighbours along the axes, in the middle of a scan."""
    size = 96
    part = channel[tuple(slice(max(0, (n - size) // 2), (n + size) // 2) for n in channel.shape)].astype(np.float64)
    known = np.isfinite(part)
    if part.size < 1000 or not known.any():
        return None
    part = np.where(known, part, part[known].mean()) - part[known].mean()
    part /= np.abs(part).max() or 1.0  # squares of the largest numbers have no place
    power = float(np.mean(part * part))
    if power == 0:
        return None
    alike = []
    for axis in range(3):
        if part.shape[axis] > 1:
            a = np.take(part, range(part.shape[axis] - 1), axis)
            b = np.take(part, range(1, part.shape[axis]), axis)
            alike.append(float(np.mean(a * b)) / power)
    return max(alike)
