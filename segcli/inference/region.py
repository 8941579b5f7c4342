"""Where a network looks: the box of what a rough model found, and an answer put back to where it belongs."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from segcli.inference.decide import Decision, no_probabilities
from segcli.inference.segment import Segmentation
from segcli.space.volume import Box, Volume, Voxels, among, extent, widened


def around(labels: Volume, values: Collection[int], margin_mm: float) -> Box | None:
    """The box of some labels with a margin, as far as the scan goes; None where none of them is.

    The margin is that many whole voxels along each axis as go into it, the step as a NIfTI header has it, in float32:
    of 20 mm in steps of 0.8 mm, which are a little more there, 24 voxels. TotalSegmentator counts that way.
    """
    box = extent(among(labels.data[0], values))
    if box is None:
        return None
    margin = [int(margin_mm / float(np.float32(round(step, 5)))) for step in labels.grid.spacing]
    return widened(box, margin, labels.grid.shape)


def at_edges(labels: Volume, box: Box) -> set[int]:
    """The values of labels in the outermost planes of a box, but for planes in which the scan ends."""
    values: set[int] = set()
    for axis, (side, n) in enumerate(zip(box, labels.grid.shape, strict=True)):
        planes = [side.start] * (side.start > 0) + [side.stop - 1] * (side.stop < n)
        for plane in planes:
            values |= {int(value) for value in np.unique(labels.data[0].take(plane, axis))}
    return values


def on_whole_scan(found: Segmentation, scan: Volume, box: Box, decide: Decision) -> Segmentation:
    """What was found in a box of a scan, on the whole scan: all around it is background."""

    def placed(part: Volume, into: Voxels) -> Volume:
        into[(slice(None), *box)] = part.data
        return Volume(into, scan.grid, scan.source)

    labels, shares, votes = found.labels, found.probabilities, found.votes
    if shares is not None:
        shares = placed(shares, no_probabilities(scan.grid, decide))
    if votes is not None:
        votes = placed(votes, np.zeros((1, *scan.grid.shape), np.uint8))
    return replace(
        found,
        labels=placed(labels, np.zeros((1, *scan.grid.shape), labels.data.dtype)),
        probabilities=shares,
        votes=votes,
    )
