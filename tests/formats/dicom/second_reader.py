"""A plugin of pytest: whatever segcli reads as DICOM in a test, dcm2niix reads too, and both find the same.

    pytest -p second_reader -n 0 tests/formats/dicom

Each comparison is a line of the file that the environment variable SECOND_READER names: the test, and "equal", or why
this case is not compared, or what differs. A difference also fails the test.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from segcli.formats.dicom import series
from segcli.space.volume import Volume

WITHIN = 0.05  # of a voxel: positions of one case are rounded to 0.1 mm
# A part of the test's name -> what dcm2niix does there.
OTHERWISE = {
    "gaps_are_filled": "it closes a gap",
    "planes_that_filled_a_gap": "it closes a gap",
    "a slice is missing": "it closes a gap",
    "the_usual_gap_is_one": "it closes a gap",
    "of_one_line_with_a_missing_slice": "it closes a gap",
    "tilted": "it lays a sheared stack at a right angle",
    "a_report_gives_the_volume": "it lays a sheared stack at a right angle",
    "test_the_tiles_of_a_united_imaging_grid": "it lays a sheared stack at a right angle",
    "the_sign_is_that_of_the_highest_stored_bit": "it takes the sign of the highest allocated bit",
    "values_beyond_the_bits_with_a_sign": "it takes the sign of the highest allocated bit",
    "where_its_values_fit[coded1": "it takes the sign of the highest allocated bit",
    "where_its_values_fit[coded4": "it takes the sign of the highest allocated bit",
    "where_its_values_fit[coded5": "it takes a code stream of bytes for one of words",
    "where_its_values_fit[coded6": "it takes the sign of the highest allocated bit",
    "each_frame_is_rescaled_by_its_own": "it rescales all frames by the first one's values",
    "equal_slices_under_new_identifiers": "it takes copies for a second volume",
    "what_tells_volumes_apart": "it tells volumes apart by instance numbers, which have no order here",
    "numbers_may_run_volume_by_volume": "it takes slices in the order of their instance numbers, which have none here",
    "two_phases_are_listed": "it tells volumes apart by instance numbers, which are equal here",
    "echoes_by_magnitude_and_phase": "it tells volumes apart by instance numbers, which are equal here",
    "one_volume_of_a_series_may_be_rescaled": "it tells volumes apart by instance numbers, which are equal here",
    "two_time_points_are_two_volumes": "it stacks all frames into one volume",
    "phases_of_frames_in_no_order": "it stacks all frames into one volume",
    "syntax_is_misstated": "it takes the syntax that the file states",
    "samples_in_the_upper_bits": "it takes the lower bits",
    "stored_otherwise_than_the_others": "it does not cut samples to the bits that are stored",
    "padding_that_the_stored_bits_do_not_hold": "it takes such padding for a sample",
    "diffusion bvalue 600": "it stacks b-values into one volume",
    "diffusion bvalue 800": "it stacks b-values into one volume",
    "sequence name ep_b1000": "it stacks b-values into one volume",
    "complex image component 3": "it stacks components of a maker that it does not know",
    "image type ORIGINAL": "it stacks components of a maker that it does not know",
    "an_echo_time_of_its_own": "it takes each slice for a volume",
    "a_slice_out_of_one_is_none": "it takes a slice out of a mosaic for a mosaic",
    "a_volume_with_fewer_slices_than_another": "it stacks volumes of unequal numbers of slices into one",
    "a_volume_of_another_part_or_thickness": "it stacks volumes of unequal numbers of slices into one",
    "does_not_fit_changes_no_voxels[1.2.840.10008.1.2.5]": "it reads no run lengths of several frames",
    "stacks_on_no_even_line": "it stacks all frames into one volume",
    "a_slice_missing_in_one_stack": "it stacks all frames into one volume",
    "closed_again[baseline": "it rounds what it makes of a JPEG's blocks otherwise",
    "marker_at_its_end_is_read[baseline": "it rounds what it makes of a JPEG's blocks otherwise",
    "marker_at_its_end_is_read[lossless": "it fails on a lossless JPEG without an end",
    "rounded_positions_are_taken": "it takes the distance of the first two slices for all",
}


def volumes_of(path: Path) -> tuple[list[tuple[np.ndarray, np.ndarray]], str]:
    """Each 3-D volume that dcm2niix makes, (i, j, k) voxels and their affine to LPS mm; and what it said."""
    found = []
    with tempfile.TemporaryDirectory() as out:
        command = ["dcm2niix", "-b", "n", "-z", "n", "-m", "n", "-o", out, path]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        for made in sorted(Path(out).glob("*.nii")):
            if made.stem.endswith(("_Eq", "_Tilt")) or "_Eq_" in made.stem:
                continue  # resampled
            image = nibabel.load(made)
            voxels = np.asarray(image.dataobj)
            voxels = voxels.reshape(*voxels.shape[:3], -1)
            to_world = np.diag([-1, -1, 1, 1]) @ image.affine
            found += [(voxels[..., n], to_world) for n in range(voxels.shape[3])]
    return found, ran.stdout


def difference(ours: Volume, theirs: tuple[np.ndarray, np.ndarray]) -> str | None:
    """What differs, or None where each voxel of ours has one of theirs in its place and with its value."""
    voxels, to_world = theirs
    if sorted(voxels.shape) != sorted(ours.grid.shape):
        return f"shape {voxels.shape}"
    ours_at = np.indices(ours.grid.shape).reshape(3, -1)
    index = (np.linalg.inv(to_world) @ ours.grid.affine @ np.vstack([ours_at, np.ones(ours_at.shape[1])]))[:3]
    place = index.round().astype(int)
    off = float(np.abs(index - place).max())
    if off > WITHIN or (place < 0).any() or (place >= np.array(voxels.shape)[:, None]).any():
        return f"place, by {off:.3f} of a voxel"
    unequal = int(np.count_nonzero(~np.isclose(voxels[tuple(place)], ours.data[0].ravel(), rtol=1e-6, atol=1e-4)))
    return f"{unequal} values" if unequal else None


def compared(path: Path, ours: Volume, test: str) -> str:
    """ "equal", why this case is not compared, or what differs."""
    for part, does in OTHERWISE.items():
        if part in test:
            return f"not compared: {does}"
    found, said = volumes_of(path)
    if not found and "JPEG" in said:
        return "not compared: this build of it has no such decoder"
    differences = [difference(ours, one) for one in found]
    return "equal" if None in differences else f"DIFFERENT: {'; '.join(map(str, differences)) or said}"


@pytest.fixture(autouse=True)
def _second_reader(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[None]:
    ours, lines = series.read, []

    def read(path: Path, **options: Any) -> Volume:
        volume = ours(path, **options)
        lines.append(f"{request.node.nodeid.rpartition('/')[2]}: {compared(path, volume, request.node.name)}")
        return volume

    monkeypatch.setattr(series, "read", read)
    yield
    if "SECOND_READER" in os.environ:
        with open(os.environ["SECOND_READER"], "a", encoding="utf-8") as file:  # noqa: PTH123 - tests replace Path.open
            file.writelines(f"{line}\n" for line in lines)
    assert not [line for line in lines if "DIFFERENT" in line]
