"""What is to be said of a volume that was read from DICOM files, although it is one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from segcli.formats.dicom.files import LOSSY, DicomFile, Unused, is_uid, uid_name, with_loss
from segcli.formats.dicom.frames import Frame
from segcli.formats.dicom.volumes import in_words, names_of
from segcli.space.volume import Grid

_HOUNSFIELD = {"", "HU", "HU_MOD", "US"}  # what a rescaled CT is said to be in: nothing, or HU, or "unspecified"
_CONTRAST = (  # what a volume is measured with, and has one value of
    "ConvolutionKernel",
    "KVP",
    "ContrastBolusAgentPhase",
    "TemporalPositionIdentifier",
    "InversionTime",
    "FlipAngle",
    "SliceThickness",
)
_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SOPInstanceUID")


def doubts(
    modality: str, grid: Grid, planes: Sequence[Frame | None], unused: Sequence[Unused], used: int
) -> tuple[str, ...]:
    """Sentences on files left out, and on what of the planes was taken for granted or made up.

    planes  the frame of each plane of the grid, None where a gap was filled; used: of how many files they are
    """
    frames = [plane for plane in planes if plane is not None]
    said = []
    if unused:
        reasons = Counter(u.reason for u in unused)
        listed = ", ".join(f"{n} {reason}" for reason, n in reasons.most_common())
        said.append(f"{used + len(unused)} files, {used} used, {len(unused)} not: {listed}")
    if len(frames) == 1:
        said.append(f"one slice only: its thickness of {frames[0].thickness:g} mm is taken as the spacing")
    if grid.sheared:
        normal = np.cross(frames[0].row, frames[0].column)
        angle = np.degrees(np.arccos(np.clip(normal @ grid.directions[:, 0], -1, 1)))
        what = "the gantry was tilted" if modality == "CT" else "each slice is shifted against the one below,"
        said.append(f"{what} by {angle:.2f} degrees: the slices are sheared, and stay so")
    said += _lost(grid, frames)
    filled = [k + 1 for k, plane in enumerate(planes) if plane is None]
    if filled:
        numbers = ", ".join(map(str, filled))
        said.append(f"{len(filled)} of {len(planes)} slices are missing and were interpolated: number {numbers}")
    there = [(k, plane) for k, plane in enumerate(planes) if plane is not None]
    if not np.array_equal(grid.affine[:3, 3], there[0][1].position):  # the line was fitted
        off = max(float(np.linalg.norm(grid.world([k, 0, 0]) - plane.position)) for k, plane in there)
        said.append(f"the slice positions are rounded: they lie up to {off:.2g} mm off an even line, which is taken")
    numbered = [plane.key("AcquisitionNumber") for _, plane in there]
    several = len(set(numbered))
    if 1 < several <= len(numbered) / 2 and numbered[several:] == numbered[:-several]:
        said.append(f"its slices are of {several} acquisitions that lie between each other")
    said += _mixed(frames)
    if len(names_of([f.file for f in frames])) > 1:
        said.append("the patient's name is spelt in several ways under one patient ID and one study")
    if modality == "CT" and not all(f.rescaled for f in frames):
        said.append("CT without rescale slope and intercept: the stored values are taken for HU")
    rescaled = modality == "CT"  # others have slopes of their own in each slice
    if (ways := len({_stored(f, rescaled) for f in frames})) > 1:
        what = "bits, sign, rescale slope or intercept differ" if rescaled else "bits or sign differ"
        said.append(f"{modality} whose slices are stored in {ways} ways: {what}")
    units = {str(f.key("RescaleType") or "") for f in frames} - _HOUNSFIELD
    if modality == "CT" and units:
        said.append(
            f"CT whose values are said to be in {', '.join(sorted(units))}, not in HU: they are taken as they are"
        )
    if odd := [keyword for keyword in _UIDS if any(not is_uid(f.file.text(keyword) or "0") for f in frames)]:
        said.append(
            f"{', '.join(odd)}: no UIDs (digits and dots, 64 at most): nothing is named by them, and DICOM objects "
            "made of the scan have others in their place"
        )
    if not frames[0].file.text("FrameOfReferenceUID"):
        said.append("no frame of reference: its slices are taken to share one")
    said += sorted({_loss(f.file) for f in frames if with_loss(f.file)})
    said += sorted({note for f in frames for note in f.file.notes})
    return tuple(said)


def _loss(file: DicomFile) -> str:
    """What is to be said of pixels that are, or were, compressed with loss."""
    if file.syntax in LOSSY:
        return f"compressed with loss ({uid_name(file.syntax)})"
    if file.lossy:
        return f"compressed with loss, though its syntax is one without ({uid_name(file.syntax)})"
    return "once compressed with loss"


def _lost(grid: Grid, frames: Sequence[Frame]) -> list[str]:
    """A sentence where the slices lie at a multiple of the distance that their header states; else nothing."""
    stated = frames[0].key("SpacingBetweenSlices")
    if not isinstance(stated, float) or stated == 0 or len(frames) == 1:
        return []
    times = grid.spacing[0] / abs(stated)
    if round(times) < 2 or abs(times - round(times)) > 0.01:
        return []
    return [
        f"its slices lie {grid.spacing[0]:.4g} mm apart, {abs(stated):.4g} mm by their header (SpacingBetweenSlices): "
        f"of every {round(times)} slices {round(times) - 1} may be missing"
    ]


def _mixed(frames: Sequence[Frame]) -> list[str]:
    """A sentence for each way of measuring in which the slices differ; one of its own in each is a slice's own."""
    said = []
    for keyword in _CONTRAST:
        values = Counter(frame.key(keyword) for frame in frames)
        if 1 < len(values) <= len(frames) / 2:
            shown = ", ".join(f"{n} {in_words(keyword, v)}" for v, n in values.most_common(3))
            said.append(f"its slices differ: {shown}{', ...' if len(values) > 3 else ''}")
    return said


def _stored(frame: Frame, rescaled: bool) -> tuple[object, ...]:
    """How the values of a slice are to be understood, with `rescaled` also how they become those of the volume."""
    how = (frame.file.text(key) for key in ("BitsStored", "HighBit", "PixelRepresentation"))
    return (*how, frame.slope, frame.intercept) if rescaled else (*how,)
