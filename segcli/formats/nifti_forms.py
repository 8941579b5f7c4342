"""What a NIfTI header states of where its voxels are (sform, qform, pixdim), and a grid as such statements.

World is RAS+ in the file and LPS+ everywhere else in segcli; the sign changes in `_lps` and `plain_header` only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from segcli.errors import InputError
from segcli.formats import streams
from segcli.formats.nifti_header import UNITS, Header
from segcli.formats.steps import FARTHEST
from segcli.formats.table import Form
from segcli.space.volume import LPS_OF_RAS, Grid, Source, Volume

_VOLUME_TOLERANCE = 0.01  # sform and qform may differ by this in voxel volume, and
_TURNED = 0.999  # cosine between an axis of the one and of the other, and
_CORNER_TOLERANCE = 1e-3  # mm, without a word by this at any corner


def stated_grid(path: Path, header: Header, affine: Form | None) -> tuple[Header, Grid, list[str], float | None]:
    """The header with what counts, the grid in LPS mm, warnings, and how far the two forms are apart in mm.

    Refused: no statement at all, one that is not an affine, and two that contradict each other in axes, handedness
    or voxel volume, unless `affine` decides.
    """
    name, warnings = path.name, []
    sizes = header.pixdim[1:4]
    code = {"sform": header.sform_code, "qform": header.qform_code, "pixdim": 1}
    if affine is None and code["sform"] <= 0 and code["qform"] <= 0:
        raise InputError(
            f"{name}: neither sform nor qform is set (both codes are 0), so the orientation is unknown",
            hint=_hint(_usable(header)),
        )
    counts: Form = affine or ("sform" if code["sform"] > 0 else "qform")
    if affine != "sform" and not _positive(sizes):
        raise InputError(
            f"{name}: voxel spacing (pixdim) of {sizes[0]:g} x {sizes[1]:g} x {sizes[2]:g}; all must be above 0",
            hint=_hint([form for form in _usable(header) if form == "sform" and code[form] > 0]),
        )
    unit, factor = UNITS.get(header.units & 7, UNITS[0])
    grids = grids_of(header)
    grid = grids[counts]
    if grid is None:
        other = "qform" if counts == "sform" else "sform"
        raise InputError(
            f"{name}: the {counts} is not a valid affine (singular, not finite or out of all bounds): "
            + _numbers(header, counts),
            hint=_hint([form for form in _usable(header) if form == other and code[form] > 0]),
        )
    apart: float | None = None
    sform, qform = grids["sform"], grids["qform"]
    if code["sform"] > 0 and code["qform"] > 0:
        if sform is None or qform is None:
            warnings.append(f"{name}: the {'sform' if sform is None else 'qform'} is not a valid affine and not used")
        else:
            apart = _apart(sform, qform)
            _compare(name, sform, qform, apart, affine, warnings)
    stated = np.array(sizes[::-1]) * factor  # i, j, k to D, H, W
    # of sheared axes some state the lengths, others the distances of the planes, whose product is the volume
    off = abs(float(np.prod(stated)) / grid.voxel_mm3 - 1) > _VOLUME_TOLERANCE
    if counts == "sform" and code["qform"] <= 0 and off and not np.allclose(stated, grid.spacing, rtol=0.01):
        warnings.append(
            f"{name}: voxel sizes (pixdim) of {_mm(stated)} mm, but of {_mm(grid.spacing)} mm in the sform; the sform "
            "counts"
        )
    if unit in ("m", "um"):
        warnings.append(f"{name}: lengths are stored in {unit}; they were converted to mm")
    warnings += streams.shear_warning(path, grid)
    return replace(header, counts=counts, chosen=affine is not None), grid, warnings, apart


def _usable(header: Header) -> list[Form]:
    """The statements of a header that --affine can choose."""
    sized = _positive(header.pixdim[1:4])
    return [form for form, grid in grids_of(header).items() if grid is not None and (sized or form == "sform")]


def _hint(forms: Sequence[Form]) -> str:
    """What to do about a header of which these statements can be chosen."""
    if not forms:
        return "repair the header"
    if len(forms) == 1:
        return f"if its {forms[0]} is right, say so: --affine {forms[0]}"
    *others, last = (f"--affine {form}" for form in forms)
    return f"if you know which statement of the header is right, say so: {', '.join(others)} or {last}"


def _positive(sizes: Sequence[float]) -> bool:
    """Whether voxel sizes are finite and above 0."""
    return all(np.isfinite(size) and size > 0 for size in sizes)


def grids_of(header: Header) -> dict[Form, Grid | None]:
    """The grid that each statement of the header means; None for one that is not an affine."""
    factor = UNITS.get(header.units & 7, UNITS[0])[1]
    return {
        "sform": _lps(header, header.srow, factor),
        "qform": _lps(header, _quaternion_matrix(header), factor),
        "pixdim": _lps(header, np.diag([*header.pixdim[1:4], 1.0])[:3], factor),
    }


def _compare(name: str, sform: Grid, qform: Grid, apart: float, affine: Form | None, warnings: list[str]) -> None:
    """Refuse forms that disagree about sides or volume, mention those that disagree about place."""
    larger = max(sform.voxel_mm3, qform.voxel_mm3) / min(sform.voxel_mm3, qform.voxel_mm3) - 1
    difference = (
        f"{name}: sform and qform differ: axes {_ijk(sform)} and {_ijk(qform)}, voxels of {sform.voxel_mm3:.5g} and "
        f"{qform.voxel_mm3:.5g} mm3, up to {apart:.4g} mm at a corner"
    )
    # at 45 degrees rounding alone decides between two codes, so the axes must be turned too
    turned = float((sform.directions * qform.directions).sum(axis=0).min()) < _TURNED
    if ((sform.axes != qform.axes and turned) or larger > _VOLUME_TOLERANCE) and affine is None:
        raise InputError(difference, hint="say which one is right: --affine sform or --affine qform")
    if apart > _CORNER_TOLERANCE:
        warnings.append(f"{difference}; the {affine or 'sform'} counts")


def _lps(header: Header, ras: NDArray[np.float64] | None, factor: float) -> Grid | None:
    """The grid of a (3, 4) RAS affine over i, j, k in the file's units; None when it is not an affine."""
    if ras is None or not (np.abs(ras * factor) < FARTHEST).all():  # NaN and infinite too
        return None
    lps = LPS_OF_RAS @ np.vstack([ras * factor, [0, 0, 0, 1]])
    try:
        return Grid(header.shape, lps[:, [2, 1, 0, 3]])
    except ValueError:
        return None


def _quaternion_matrix(header: Header) -> NDArray[np.float64] | None:
    """(3, 4) of the qform, RAS; None when its quaternion is longer than 1."""
    b, c, d = header.quatern
    rest = 1.0 - (b * b + c * c + d * d)
    if not np.isfinite(rest) or rest < -1e-3:
        return None
    if rest < 1e-7:  # a half turn: nifti1_io.c scales b, c, d to length 1
        length = np.sqrt(b * b + c * c + d * d)
        a, b, c, d = 0.0, b / length, c / length, d / length
    else:
        a = float(np.sqrt(rest))
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    qfac = -1.0 if header.pixdim[0] < 0 else 1.0
    with np.errstate(invalid="ignore", over="ignore"):  # such voxel sizes are refused by who asks for this form
        return np.column_stack([rotation * header.pixdim[1:4] * [1, 1, qfac], header.qoffset])


def _numbers(header: Header, form: Form) -> str:
    """What a form states, for a message."""
    if form == "sform":
        return "rows " + "; ".join(" ".join(f"{x:g}" for x in row) for row in header.srow)
    if form == "qform":
        return (
            "quaternion "
            + " ".join(f"{q:g}" for q in header.quatern)
            + ", offset "
            + " ".join(f"{q:g}" for q in header.qoffset)
        )
    return "voxel sizes " + " ".join(f"{s:g}" for s in header.pixdim[1:4])


def header_for(volume: Volume, like: Source | None) -> Header:
    """The source's own header when it is a NIfTI on this very grid; else one made from the affine.

    Where the user chose what counts and the forms that are set do not say the same, one that states the choice in both
    forms: other programs would go by the form that was rejected.
    """
    if like is not None and isinstance(like.header, Header):
        header = like.header
        grids = grids_of(header)
        grid = grids[header.counts]
        if grid is not None and grid.same_as(volume.grid):
            return header if not header.chosen or _agrees(header, grids, grid) else _stating(header, grid)
    return plain_header(volume.grid)


def _agrees(header: Header, grids: dict[Form, Grid | None], grid: Grid) -> bool:
    """Whether a form is set, each that is says what the grid says, and the header can be read without a choice."""
    forms = (header.sform_code, grids["sform"]), (header.qform_code, grids["qform"])
    told = [form for code, form in forms if code > 0]
    agreed = all(form is not None and _apart(form, grid) <= _CORNER_TOLERANCE for form in told)
    return bool(told) and agreed and _positive(header.pixdim[1:4])


def _stating(header: Header, grid: Grid) -> Header:
    """A header for the grid whose forms have the code of the one that counts in `header`, where it has one."""
    made = plain_header(grid)
    code = max({"sform": header.sform_code, "qform": header.qform_code, "pixdim": 1}[header.counts], 1)
    return replace(made, sform_code=code, qform_code=code if made.qform_code else 0)


def _apart(one: Grid, other: Grid) -> float:
    """Distance of the corners that are farthest apart, mm, as if each axis had at least two voxels."""
    return float(np.linalg.norm(one.corners(2) - other.corners(2), axis=1).max())


def plain_header(grid: Grid) -> Header:
    """A header for a grid: sform with code 1 (scanner), and the same as qform unless shear keeps it from that.

    A qform is a rotation times voxel sizes and cannot hold shear; for a sheared grid its code is 0, because it would
    say something else than the sform.
    """
    ras = (LPS_OF_RAS @ grid.affine[:, [2, 1, 0, 3]])[:3]
    sizes = np.linalg.norm(ras[:, :3], axis=0)
    rotation = ras[:, :3] / sizes
    qfac = 1.0 if np.linalg.det(rotation) > 0 else -1.0
    rotation[:, 2] *= qfac
    d, h, w = grid.shape
    header = Header(
        version=1,
        order="<",
        magic=b"n+1\0",
        dim=(3, w, h, d, 1, 1, 1, 1),
        datatype=2,
        intent=0,
        pixdim=(qfac, *(float(s) for s in sizes), 1.0, 1.0, 1.0, 1.0),
        vox_offset=352,
        slope=1,
        inter=0,
        units=2,
        qform_code=1,
        sform_code=1,
        quatern=_quaternion(rotation),
        qoffset=tuple(float(x) for x in ras[:, 3]),
        srow=ras,
    )
    qform = _lps(header, _quaternion_matrix(header), 1.0)
    if qform is not None and _apart(qform, grid) <= _CORNER_TOLERANCE:
        return header
    return replace(header, qform_code=0, quatern=(0.0, 0.0, 0.0), qoffset=(0.0, 0.0, 0.0))


def _quaternion(rotation: NDArray[np.float64]) -> tuple[float, ...]:
    """(b, c, d) of a rotation, with a >= 0: the eigenvector of the largest eigenvalue (Bar-Itzhack 2000)."""
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = rotation
    matrix = np.array(
        [
            [xx + yy + zz, 0, 0, 0],
            [zy - yz, xx - yy - zz, 0, 0],
            [xz - zx, yx + xy, yy - xx - zz, 0],
            [yx - xy, zx + xz, zy + yz, zz - xx - yy],
        ]
    )
    a, b, c, d = np.linalg.eigh(matrix / 3)[1][:, -1]
    sign = -1.0 if a < 0 else 1.0
    return float(sign * b), float(sign * c), float(sign * d)


def _ijk(grid: Grid) -> str:
    """Where the file's i, j, k point, as most viewers show it."""
    return grid.axes[::-1]


def _mm(steps: ArrayLike) -> str:
    """Steps along D, H, W as the file's i x j x k."""
    return " x ".join(f"{step:.4g}" for step in np.asarray(steps)[::-1])
