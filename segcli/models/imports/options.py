"""Fields of a card from the texts of a command line."""

from __future__ import annotations

import json
import math
from pathlib import Path

from segcli.documents import Document
from segcli.errors import UsageError
from segcli.formats.streams import bytes_of


def options(
    *,
    labels: str | None = None,
    spacing: str | None = None,
    orientation: str | None = None,
    window: str | None = None,
    normalise: str | None = None,
    patch: str | None = None,
    channels: str | None = None,
    slice_axis: int | None = None,
    slices: int | None = None,
    overlap: float | None = None,
    blend: str | None = None,
) -> Document:
    """Fields of a card from the texts of a command line.

    labels       "background,liver,spleen" in the order of the outputs, "background=0,liver=6", or a JSON file
    spacing      "1.5,1.5,2.0" mm along the model's axes, or "keep"
    orientation  an axes code; "file" for the order of the file, which is k, j, i where the container does not say
                 another (nnU-Net's), "ijk" for i, j, k (MONAI's where it does not turn scans)
    window       "LOW,HIGH": clipped, then scaled to 0..1
    normalise    "zscore", "nonzero" (z-score over voxels that are not 0), "none", or "LOW,HIGH,MEAN,SD": clipped, less
                 the mean, by the deviation
    patch        "96,96,96"; two numbers with a slice axis
    slices       how many neighbouring slices a 2-D network sees as channels
    channels     "CT" or "FLAIR,T1,T1c,T2"
    errors       UsageError (2)
    """
    fields: Document = {}
    if labels is not None:
        fields["labels"] = _labels(labels)
    if spacing is not None:
        fields["spacing"] = None if spacing == "keep" else _numbers(spacing, "--spacing", (3,))
    if orientation is not None:
        fields["orientation"] = None if orientation in ("file", "ijk") else orientation.upper()
        fields |= {"transpose": [2, 1, 0]} if orientation == "ijk" else {}
    if window is not None or normalise is not None:
        fields["intensity"] = [*_intensity(window, normalise), {"step": "outside", "value": 0}]
    if slice_axis is not None:
        fields["slice_axis"] = slice_axis
    if slices is not None:
        fields["slices"] = slices
    if patch is not None:
        fields["patch_size"] = _patch(patch, slice_axis)
    if channels is not None:
        fields["channels"] = [c.strip() for c in channels.split(",")]
    if overlap is not None:
        fields["overlap"] = overlap
    if blend is not None:
        fields["blend"] = blend
    return fields


def _intensity(window: str | None, normalise: str | None) -> list[Document]:
    if window is not None and normalise is not None:
        raise UsageError("--window and --normalise say two things about intensities", hint="give one of them")
    if window is not None:
        low, high = _numbers(window, "--window", (2,))
        return [{"step": "clip", "low": low, "high": high}, {"step": "scale", "low": 0, "high": 1}]
    kinds: dict[str, list[Document]] = {
        "zscore": [{"step": "standardise"}],
        "nonzero": [{"step": "standardise", "where": "nonzero"}],
        "none": [],
    }
    text = str(normalise)
    if "," in text:
        low, high, mean, sd = _numbers(text, "--normalise", (4,))
        return [{"step": "clip", "low": low, "high": high}, {"step": "standardise", "mean": mean, "sd": sd}]
    if text not in kinds:
        raise UsageError(f"--normalise {text}: is not one of {', '.join(kinds)}")
    return kinds[text]


def _patch(text: str, slice_axis: int | None) -> list[int]:
    numbers = _numbers(text, "--patch", (2, 3))
    size = [int(n) for n in numbers]
    if size != numbers:
        raise UsageError(f"--patch {text}: sizes are whole numbers of voxels")
    if len(size) == 2:
        if slice_axis is None:
            raise UsageError("--patch with two numbers is for slices", hint="add --slice-axis 0, 1 or 2")
        size.insert(slice_axis, 1)
    return size


def _labels(text: str) -> dict[str, int]:
    if text.endswith(".json"):
        data = bytes_of(Path(text), UsageError)
        try:
            found = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"--labels {text}: cannot be read as JSON: {error}") from error
        found = found.get("labels", found) if isinstance(found, dict) else found
        if isinstance(found, dict) and all(isinstance(v, int) for v in found.values()):
            return {str(k): int(v) for k, v in found.items()}
        raise UsageError(f'--labels {text}: is not {{"background": 0, "liver": 1}}')
    entries = [entry.strip() for entry in text.split(",")]
    if all("=" in entry for entry in entries):
        pairs = [entry.rpartition("=") for entry in entries]
        if not all(value.strip().isdecimal() and len(value) < 20 for _, _, value in pairs):
            raise UsageError(f"--labels {text[:200]}: the values are whole numbers below 2147483648")
        found = [(name.strip(), int(value)) for name, _, value in pairs]
    else:
        found = [(name, value) for value, name in enumerate(entries)]
    table = dict(found)
    if len(table) < len(found):
        raise UsageError(f"--labels {text}: names a structure twice")
    return table


def _numbers(text: str, option: str, counts: tuple[int, ...]) -> list[float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) not in counts or not all(map(math.isfinite, values)):
        raise UsageError(f"{option} {text}: is not {' or '.join(map(str, counts))} numbers with commas between them")
    return values
