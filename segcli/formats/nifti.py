"""NIfTI-1 and NIfTI-2, single files and .hdr/.img pairs, packed or not.

The header is taken apart here rather than by a library: the common ones go on where a promise of segcli says "refuse"
(a missing magic, a dimension of 0, an orientation that is not stated), and the voxels are then one array in the file.
Field names and offsets: nifti1.h and nifti2.h, nifti.nimh.nih.gov.

World is RAS+ in the file and LPS+ everywhere else in segcli; the sign changes in `_lps` and `_made` only.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.sax.saxutils import unescape

import numpy as np
from numpy.typing import ArrayLike, NDArray

from segcli.errors import InputError, InputMissing, OutputError
from segcli.formats import streams, tables
from segcli.formats.several import Held, only, taken
from segcli.formats.steps import FARTHEST
from segcli.formats.table import FIRST, Form, Format, Seen, unseen
from segcli.space.volume import LPS_OF_RAS, Grid, Source, Volume

HEAD = 544  # bytes that hold a header of either version, and the four behind it that announce extensions

_TYPES = {2: "u1", 256: "i1", 4: "i2", 512: "u2", 8: "i4", 768: "u4", 1024: "i8", 1280: "u8", 16: "f4", 64: "f8"}
_REFUSED_TYPES = {
    0: "unknown",
    1: "one bit",
    32: "complex",
    128: "RGB colour",
    1536: "128-bit float",
    1792: "complex",
    2048: "complex",
    2304: "RGBA colour",
}
_CODES = {np.dtype(name): code for code, name in _TYPES.items()}
_UNITS = {0: ("unknown, taken as mm", 1.0), 1: ("m", 1e3), 2: ("mm", 1.0), 3: ("um", 1e-3)}
# Matrices, vectors, points, colours: what lies along further axes is one value's parts.
_VALUE_INTENTS = (*range(1004, 1011), 2003, 2004)
_LEAST_EXTENSION = 8  # bytes of an extension: its size and its code
_MOST_EXTENSIONS = 1 << 24  # bytes of a file in which they are looked through
_LITERAL = re.compile(r"<!\[CDATA\[(.*?)\]\]>", re.DOTALL)
_VOLUME_TOLERANCE = 0.01  # sform and qform may differ by this in voxel volume, and
_TURNED = 0.999  # cosine between an axis of the one and of the other, and
_CORNER_TOLERANCE = 1e-3  # mm, without a word by this at any corner


@dataclass(frozen=True, eq=False)
class Header:
    """The fields of a NIfTI header that say where the voxels are, in the file and in the world.

    dim     as in the file: number of axes, then sizes i, j, k, ...
    pixdim  as in the file: qfac, then voxel sizes i, j, k, ...; `srow` is (3, 4), RAS, in the file's units
    extended  whether extensions are said to follow the header
    counts  which of the three says where the voxels are: "sform", "qform" or "pixdim"
    chosen  whether the user said so (--affine), and not the header's codes
    """

    version: int
    order: str
    magic: bytes
    dim: tuple[int, ...]
    datatype: int
    intent: int
    pixdim: tuple[float, ...]
    vox_offset: float
    slope: float
    inter: float
    units: int
    qform_code: int
    sform_code: int
    quatern: tuple[float, ...]
    qoffset: tuple[float, ...]
    srow: NDArray[np.float64]
    extended: bool = False
    counts: Form = "sform"
    chosen: bool = False

    @property
    def pair(self) -> bool:
        return self.magic[:2] == b"ni"

    @property
    def shape(self) -> tuple[int, int, int]:
        """(D, H, W): k, j, i."""
        return self.dim[3], self.dim[2], self.dim[1]


def looks_like(path: Path, head: bytes) -> bool:
    """Whether the unpacked first bytes are those of a NIfTI (or Analyze 7.5) header, or its voxels lie beside one."""
    if path.name.lower().endswith((".img", ".img.gz")) and has_header_beside(path):
        return True  # what voxels begin with means nothing
    return len(head) >= 4 and any(struct.unpack(f"{o}i", head[:4])[0] in (348, 540) for o in "<>")


def read(
    path: Path,
    *,
    affine: Form | None = None,
    channels: int = 1,
    volume: int | None = None,
    seen: Seen = unseen,
) -> Volume:
    """The voxels of a file on their grid, scaled as the header says.

    affine    which of the header's statements counts, where they contradict each other or none is valid
    channels  how many volumes, or values for each voxel, a file must have to be taken for the channels of one scan
    volume    which of the volumes is read, from 1
    seen      is told the grid before the voxels are read
    returns   (C, D, H, W); the file's own integer type when it has at most 32 bits and no scaling, else float32
    """
    header, grid, source = examine(path, affine=affine)
    count = volumes(header)
    many = "volumes" if _is_series(header) else f"values for each voxel (intent {header.intent})"
    held = Held(count, f"a {header.dim[0]}-D image with {count} {many}", _is_series(header))
    chosen = taken(path.name, held, channels, volume)
    seen(grid)
    warnings: list[str] = []
    voxels = _voxel_file(path, header)
    data = streams.read_voxels(
        voxels,
        np.dtype(_TYPES[header.datatype]).newbyteorder(header.order),  # type: ignore[arg-type]
        (count, *header.shape),
        offset=int(header.vox_offset),
        packed=_packed(voxels, header, count),
        warnings=warnings,
    )
    scaled = streams.scale(only(data, chosen), header.slope, header.inter)
    return Volume(scaled, grid, Source((path,), "nifti", header, (*source.warnings, *warnings), source.facts))


def _packed(voxels: Path, header: Header, count: int) -> bool:
    """Whether voxels are packed; those in an .img may begin with the same bytes by chance, and then have their size."""
    if not header.pair:
        return streams.is_gzip(voxels)
    plain = int(header.vox_offset) + count * int(np.prod(header.shape, dtype=object)) * _itemsize(header)
    fits, named = streams.regular_size(voxels) == plain, voxels.name.lower().endswith(".gz")
    if named and not fits and not streams.is_gzip(voxels):
        raise InputError(f"{voxels.name}: corrupt: it does not begin as a gzip file does", hint="copy the file again")
    return streams.is_gzip(voxels) and (named or not fits)


def examine(path: Path, *, affine: Form | None = None) -> tuple[Header, Grid, Source]:
    """What the header says, checked: no voxel is read and nothing is allocated."""
    header = _parse(path, streams.head(_header_file(path), HEAD))
    _check(path, header)
    header, repaired = _offset(path, header)
    return _stated(path, header, affine, repaired)


def in_memory(name: str, head: bytes, *, affine: Form | None = None) -> tuple[Grid, Source]:
    """The grid and the source of a header that a program holds, without a file; checked as `examine` does.

    name   what sentences call it
    head   the header's bytes, as a file would have them
    """
    path = Path(name)
    header = _parse(path, head)
    _check(path, header)
    _, grid, source = _stated(path, header, affine, ())
    return grid, source


def _stated(path: Path, header: Header, affine: Form | None, repaired: tuple[str, ...]) -> tuple[Header, Grid, Source]:
    header, grid, warnings, apart = _grid(path, header, affine)
    facts = {
        "format": f"NIfTI-{header.version}" + (" pair" if header.pair else ""),
        "dtype": np.dtype(_TYPES[header.datatype]).name,
        "units": _UNITS.get(header.units & 7, _UNITS[0])[0],
        "affine": header.counts,
        "sform_code": header.sform_code,
        "qform_code": header.qform_code,
        "forms_differ_mm": apart,
    }
    return header, grid, Source((path,), "nifti", header, (*repaired, *warnings), facts)


def files_of(path: Path) -> list[Path]:
    """The file, or header and voxels of a pair, whichever of the two was named."""
    header_file = _header_file(path)
    voxels = _voxel_file(path, _parse(path, streams.head(header_file, HEAD)))
    return list(dict.fromkeys((header_file, voxels)))


def label_names(path: Path) -> dict[int, str]:
    """Value -> name of the label table, Caret's XML, among the extensions of a file; nothing of any other file."""
    if streams.is_folder(path) or not looks_like(path, streams.head(path, HEAD)):
        return {}
    header = _parse(path, streams.head(_header_file(path), HEAD))
    first = 352 if header.version == 1 else 544
    end = _MOST_EXTENSIONS if header.pair else header.vox_offset
    if not (header.extended and first < end <= _MOST_EXTENSIONS):
        return {}
    text = streams.head(_header_file(path), int(end))[first:].decode("utf-8", "replace")
    table = text[text.find("<LabelTable") : text.find("</LabelTable>") + 1]
    names = re.findall(r'<Label\s[^>]*?\bKey="(-?\d{1,10})"[^>]*>(.*?)</Label>', table, re.DOTALL)
    return {int(key): _LITERAL.sub(r"\1", name) if "<!" in name else unescape(name) for key, name in names}


def time_points(path: Path) -> int:
    """How many volumes, one after another in time, a file's header announces.

    errors   InputError: not a NIfTI file
    """
    header = _parse(path, streams.head(_header_file(path), HEAD))
    return header.dim[4] if header.dim[0] >= 4 else 1


def volumes(header: Header) -> int:
    """How many 3-D volumes the file holds."""
    return int(np.prod(header.dim[4 : header.dim[0] + 1], dtype=object))


def _is_series(header: Header) -> bool:
    """Whether volumes follow one another along the fourth axis; those of a further one are parts of a value."""
    return header.dim[0] >= 4 and header.dim[4] > 1 and header.intent not in _VALUE_INTENTS


def _count(path: Path) -> int:
    """How many volumes a file's header announces; errors as of `examine`."""
    header = _parse(path, streams.head(_header_file(path), HEAD))
    _check(path, header)
    return volumes(header)


def write(
    volume: Volume,
    path: Path,
    like: Source | None,
    *,
    description: str,
    intent: int,
    extension: bytes = b"",
    slope: float = 1,
) -> Path:
    """Write a volume as NIfTI-1, read back before it has its name.

    As NIfTI-2 only where a NIfTI-1 cannot hold it: beyond 32,767 voxels along an axis, or where the voxels are so small
    or so far from the origin that numbers in float32 would put them elsewhere.

    volume      (C, D, H, W), any integer type up to 32 bits or float32
    like        a NIfTI source on the same grid lends its dimensions, voxel sizes, both forms with their codes and
                its units, unless the user chose what counts and they say something else; no text and no extension is
                taken from it
    intent      NIfTI's code of what the values are: 1002 for labels
    extension   a label table in XML, kept in an extension of code 0
    slope       what stored values are to be multiplied with
    """
    header = _header_for(volume, like)
    data = volume.data
    if data.dtype not in _CODES:
        raise OutputError(f"{path.name}: voxels of type {data.dtype} cannot be written")
    raw = _packed_header(header, volume, description, intent, extension, slope)
    little = data.astype(data.dtype.newbyteorder("<"), copy=False)
    gzip = path.name.lower().endswith(".gz")

    def check(temporary: Path) -> None:
        written, grid, _ = examine(temporary, affine=header.counts)
        if not grid.same_as(volume.grid) or volumes(written) != data.shape[0]:
            raise OutputError(f"{path.name}: its grid as written is not the scan's grid")

    return streams.write_whole(
        path,
        b"" if gzip else raw,
        raw if gzip else b"",
        little,
        wrap="gzip" if gzip else None,
        check=check,
    )


def packed(volume: Volume) -> bytes:
    """A volume (C, D, H, W) as the bytes of a NIfTI file, not gzipped; its header says nothing but grid and dtype."""
    header = _packed_header(_made(volume.grid), volume, "", 0, b"", 1)
    return header + volume.data.astype(volume.data.dtype.newbyteorder("<"), copy=False).tobytes()


def _header_file(path: Path) -> Path:
    """The header of a pair when one of its two files was named; else the path itself."""
    return _sibling(path, "img", "hdr") or path


def _voxel_file(path: Path, header: Header) -> Path:
    if not header.pair:
        return _header_file(path)
    voxels = _sibling(_header_file(path), "hdr", "img")
    if voxels is None:
        raise InputError(f"{path.name}: the header of a .hdr/.img pair must be called .hdr")
    if voxels.is_symlink() and not path.is_symlink() and voxels.resolve().parent != path.parent.resolve():
        raise InputError(
            f"{path.name}: its voxels, {voxels.name}, are a link to outside its folder, which is not allowed",
            hint="put both files into one folder",
        )
    return voxels


def has_header_beside(path: Path) -> bool:
    """Whether a file called .img has its .hdr in the same folder."""
    stem = path.name.removesuffix(".gz").rpartition(".")[0]
    return any(path.with_name(stem + ending).exists() for ending in (".hdr", ".HDR", ".hdr.gz", ".HDR.gz"))


def _sibling(path: Path, have: str, want: str) -> Path | None:
    """The other file of a pair, packed or not; None when the path does not end in `have`."""
    stem, dot, ending = path.name.removesuffix(".gz").rpartition(".")
    if not dot or ending.lower() != have:
        return None
    want = want.upper() if ending.isupper() else want
    found = [p for p in (path.with_name(f"{stem}.{want}"), path.with_name(f"{stem}.{want}.gz")) if p.exists()]
    if not found:
        raise InputMissing(f"{path.name}: its other half {stem}.{want} was not found beside it")
    return found[0]


def _parse(path: Path, head: bytes) -> Header:
    """The header's fields, after its size and magic are known to be NIfTI's."""
    if len(head) < 348:
        raise InputError(f"{path.name}: truncated: {len(head)} bytes are too short for a NIfTI header of 348")
    order = next((o for o in "<>" if struct.unpack(f"{o}i", head[:4])[0] in (348, 540)), None)
    if order is None:
        raise InputError(f"{path.name}: not a NIfTI file: it does not begin with a header size of 348 or 540")
    if struct.unpack(f"{order}i", head[:4])[0] == 540:
        return _parse_2(path, head, order)
    magic = head[344:348]
    if magic not in (b"n+1\0", b"ni1\0"):
        if magic == b"\0\0\0\0":
            raise InputError(
                f"{path.name}: an Analyze 7.5 file, not a NIfTI: it does not state its orientation",
                hint="convert it to NIfTI with the orientation you know it to have",
            )
        raise InputError(f"{path.name}: not a NIfTI file: its magic is {magic!r}, not 'n+1' or 'ni1'")

    def get(fmt: str, at: int) -> tuple[Any, ...]:
        return struct.unpack_from(order + fmt, head, at)

    return Header(
        version=1,
        order=order,
        magic=magic,
        dim=get("8h", 40),
        intent=get("h", 68)[0],
        datatype=get("h", 70)[0],
        pixdim=get("8f", 76),
        vox_offset=get("f", 108)[0],
        slope=get("f", 112)[0],
        inter=get("f", 116)[0],
        units=head[123],
        qform_code=get("h", 252)[0],
        sform_code=get("h", 254)[0],
        quatern=get("3f", 256),
        qoffset=get("3f", 268),
        srow=np.array(get("12f", 280)).reshape(3, 4),
        extended=head[348:349] not in (b"", b"\0"),
    )


def _parse_2(path: Path, head: bytes, order: str) -> Header:
    if len(head) < 540:
        raise InputError(f"{path.name}: truncated: {len(head)} bytes are too short for a NIfTI-2 header of 540")
    magic = head[4:12]
    if magic not in (b"n+2\0\r\n\x1a\n", b"ni2\0\r\n\x1a\n"):
        raise InputError(f"{path.name}: not a NIfTI-2 file: its magic is {magic!r}")

    def get(fmt: str, at: int) -> tuple[Any, ...]:
        return struct.unpack_from(order + fmt, head, at)

    return Header(
        version=2,
        order=order,
        magic=magic,
        datatype=get("h", 12)[0],
        dim=get("8q", 16),
        pixdim=get("8d", 104),
        vox_offset=get("q", 168)[0],
        slope=get("d", 176)[0],
        inter=get("d", 184)[0],
        qform_code=get("i", 344)[0],
        sform_code=get("i", 348)[0],
        quatern=get("3d", 352),
        qoffset=get("3d", 376),
        srow=np.array(get("12d", 400)).reshape(3, 4),
        units=get("i", 500)[0] & 0xFF,
        intent=get("i", 504)[0],
        extended=head[540:541] not in (b"", b"\0"),
    )


def _check(path: Path, header: Header) -> None:
    """Refuse what is not one 3-D volume (or several on one grid) of plain numbers."""
    axes = header.dim[0]
    if not 1 <= axes <= 7:
        raise InputError(f"{path.name}: the header announces {axes} dimensions; 1 to 7 are possible")
    sizes = header.dim[1 : axes + 1]
    if min(sizes) < 1:
        raise InputError(f"{path.name}: a dimension of {min(sizes)} voxels: the header says {_times(sizes)}")
    if header.datatype in _REFUSED_TYPES:
        raise InputError(
            f"{path.name}: data type {header.datatype} ({_REFUSED_TYPES[header.datatype]}); "
            "one real number per voxel is expected"
        )
    if header.datatype not in _TYPES:
        raise InputError(f"{path.name}: data type {header.datatype} is not one of NIfTI's")
    if axes < 3:
        raise InputError(f"{path.name}: a {axes}-D image of {_times(sizes)} pixels; a 3-D volume is expected")
    if sum(size > 1 for size in sizes[3:]) > 1:
        raise InputError(
            f"{path.name}: a {axes}-D image of {_times(sizes)} voxels (intent {header.intent}), "
            "where one 3-D image is expected"
        )
    if max(abs(header.sform_code), abs(header.qform_code)) > 32767:  # NIfTI-1 has 16 bits for them
        raise InputError(
            f"{path.name}: sform code {header.sform_code} and qform code {header.qform_code}; 0 to 5 are possible"
        )
    scaled = header.slope != 0 and np.isfinite(header.slope)
    if scaled and not np.isfinite(header.inter):
        raise InputError(
            f"{path.name}: its values are said to be the stored ones times {header.slope:g} plus {header.inter:g}",
            hint="repair scl_inter",
        )


def _offset(path: Path, header: Header) -> tuple[Header, tuple[str, ...]]:
    """The header with a possible place of its voxels, and a warning where that had to be found.

    Some programs write 0 for "right behind the header": believed where exactly the voxels follow there. Others announce
    extensions, and voxels where these would begin: believed where no extension can be there.
    """
    lowest = 0 if header.pair else (352 if header.version == 1 else 544)
    offset = header.vox_offset
    if np.isfinite(offset) and offset == int(offset) and offset >= lowest:
        if header.extended and offset == lowest and not header.pair and _may_be_extension(path, header, lowest):
            raise InputError(
                f"{path.name}: extensions are said to follow the header, and the voxels to begin at byte {lowest}, in "
                "their place, and there are more bytes than the voxels have: where they begin cannot be told",
                hint="if you know where they begin, write it into vox_offset",
            )
        return header, ()
    hint = None
    if offset == 0:
        if _beyond(path, header, lowest) == 0:
            told = f"{path.name}: vox_offset is 0; its voxels are read from byte {lowest} on, which they fill exactly"
            return replace(header, vox_offset=lowest), (told,)
        hint = "if you know where they begin, write it into vox_offset"
    raise InputError(
        f"{path.name}: not a whole NIfTI file: its voxels are said to begin at byte {offset:g}, "
        f"the first possible one is {lowest}",
        hint=hint,
    )


def _may_be_extension(path: Path, header: Header, at: int) -> bool:
    """Whether a place may hold an extension and not voxels: it begins with its size, which the file has beyond them."""
    begins = streams.head(path, at + 4)[at:]
    size = struct.unpack(f"{header.order}i", begins)[0] if len(begins) == 4 else 0
    return size >= _LEAST_EXTENSION and _beyond(path, header, at, size) >= size


def _beyond(path: Path, header: Header, offset: int, most: int = 1) -> int:
    """How many bytes a single file has beyond voxels that begin at an offset, negative where some lack.

    Of a packed file not counted much beyond `most`.
    """
    whole = offset + int(np.prod(header.dim[1 : header.dim[0] + 1], dtype=object)) * _itemsize(header)
    return streams.unpacked_size(path, whole + most) - whole


def _itemsize(header: Header) -> int:
    return np.dtype(_TYPES[header.datatype]).itemsize


def _grid(path: Path, header: Header, affine: Form | None) -> tuple[Header, Grid, list[str], float | None]:
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
    unit, factor = _UNITS.get(header.units & 7, _UNITS[0])
    grids = _grids(header)
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
    return [form for form, grid in _grids(header).items() if grid is not None and (sized or form == "sform")]


def _hint(forms: Sequence[Form]) -> str:
    """What to do about a header of which these statements can be chosen."""
    if not forms:
        return "repair the header"
    if len(forms) == 1:
        return f"if its {forms[0]} is right, say so: --affine {forms[0]}"
    told = f"{', '.join(forms[:-1])} or {forms[-1]}"
    return f"if you know which statement of the header is right, say so: --affine {told}"


def _positive(sizes: Sequence[float]) -> bool:
    """Whether voxel sizes are finite and above 0."""
    return all(np.isfinite(size) and size > 0 for size in sizes)


def _grids(header: Header) -> dict[Form, Grid | None]:
    """The grid that each statement of the header means; None for one that is not an affine."""
    factor = _UNITS.get(header.units & 7, _UNITS[0])[1]
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


def _header_for(volume: Volume, like: Source | None) -> Header:
    """The source's own header when it is a NIfTI on this very grid; else one made from the affine.

    Where the user chose what counts and the forms that are set do not say the same, one that states the choice in both
    forms: other programs would go by the form that was rejected.
    """
    if like is not None and isinstance(like.header, Header):
        header = like.header
        grids = _grids(header)
        grid = grids[header.counts]
        if grid is not None and grid.same_as(volume.grid):
            return header if not header.chosen or _agrees(header, grids, grid) else _stating(header, grid)
    return _made(volume.grid)


def _agrees(header: Header, grids: dict[Form, Grid | None], grid: Grid) -> bool:
    """Whether a form is set, each that is says what the grid says, and the header can be read without a choice."""
    forms = (header.sform_code, grids["sform"]), (header.qform_code, grids["qform"])
    told = [form for code, form in forms if code > 0]
    agreed = all(form is not None and _apart(form, grid) <= _CORNER_TOLERANCE for form in told)
    return bool(told) and agreed and _positive(header.pixdim[1:4])


def _stating(header: Header, grid: Grid) -> Header:
    """A header for the grid whose forms have the code of the one that counts in `header`, where it has one."""
    made = _made(grid)
    code = max({"sform": header.sform_code, "qform": header.qform_code, "pixdim": 1}[header.counts], 1)
    return replace(made, sform_code=code, qform_code=code if made.qform_code else 0)


def _apart(one: Grid, other: Grid) -> float:
    """Distance of the corners that are farthest apart, mm, as if each axis had at least two voxels."""
    return float(np.linalg.norm(one.corners(2) - other.corners(2), axis=1).max())


def _made(grid: Grid) -> Header:
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


def _packed_header(
    header: Header, volume: Volume, description: str, intent: int, extension: bytes, slope: float
) -> bytes:
    """The bytes before the voxels, little-endian: header, extension flag, extension."""
    count, depth, height, width = volume.data.shape
    dim = (4 if count > 1 else 3, width, height, depth, count, 1, 1, 1)
    dtype = volume.data.dtype
    text = description.encode("ascii", "replace")[:79]
    extra = b"\0\0\0\0"
    if extension:
        size = -(-(len(extension) + 8) // 16) * 16  # a multiple of 16, with its own 8 bytes of size and code
        extra = b"\1\0\0\0" + struct.pack("<2i", size, 0) + extension.ljust(size - 8, b"\0")
    form = (header.qform_code, header.sform_code)
    places = np.concatenate([header.quatern, header.qoffset, header.srow.ravel()])
    if max(dim) <= 32767 and _in_float32(header, volume.grid):
        out = bytearray(348)
        struct.pack_into("<i", out, 0, 348)
        struct.pack_into("<8h", out, 40, *dim)
        struct.pack_into("<3h", out, 68, intent, _CODES[dtype], dtype.itemsize * 8)
        out[76:108] = _floats(header.pixdim)
        struct.pack_into("<3f", out, 108, 348 + len(extra), slope, 0)
        out[123] = header.units
        out[148 : 148 + len(text)] = text
        struct.pack_into("<2h", out, 252, *form)
        out[256:328] = _floats(places)
        out[344:348] = b"n+1\0"
        return bytes(out) + extra
    out = bytearray(540)
    struct.pack_into("<i8s2h8q", out, 0, 540, b"n+2\0\r\n\x1a\n", _CODES[dtype], dtype.itemsize * 8, *dim)
    struct.pack_into("<8dq2d", out, 104, *header.pixdim, 540 + len(extra), slope, 0)
    out[240 : 240 + len(text)] = text
    struct.pack_into("<2i18d", out, 344, *form, *places)
    struct.pack_into("<2i", out, 500, header.units, intent)
    return bytes(out) + extra


def _in_float32(header: Header, grid: Grid) -> bool:
    """Whether a header whose numbers are rounded to float32 still says where the voxels of the grid are."""
    with np.errstate(over="ignore"):
        pixdim, quatern, qoffset, srow = (
            np.asarray(v, np.float32).astype(np.float64)
            for v in (header.pixdim, header.quatern, header.qoffset, header.srow)
        )
    rounded = replace(header, pixdim=tuple(pixdim), quatern=tuple(quatern), qoffset=tuple(qoffset), srow=srow)
    found = _grids(rounded)[header.counts]
    return found is not None and found.same_as(grid)


def _floats(values: ArrayLike) -> bytes:
    """As little-endian float32: the very bits of a NIfTI-1, rounded from a NIfTI-2."""
    with np.errstate(over="ignore"):
        return np.asarray(values, "<f4").tobytes()


def _ijk(grid: Grid) -> str:
    """Where the file's i, j, k point, as most viewers show it."""
    return grid.axes[::-1]


def _mm(steps: ArrayLike) -> str:
    """Steps along D, H, W as the file's i x j x k."""
    return " x ".join(f"{step:.4g}" for step in np.asarray(steps)[::-1])


def _times(sizes: tuple[int, ...]) -> str:
    return " x ".join(str(s) for s in sizes)


FORMAT = Format(
    "NIfTI",
    (".nii.gz", ".nii", ".hdr"),
    looks_like,
    lambda path, wanted: read(
        path, affine=wanted.affine, channels=wanted.channels, volume=wanted.volume, seen=wanted.seen
    ),
    files_of,
    lambda volume, path, m: write(
        volume, path, m.like, description=m.description, intent=m.intent, extension=tables.caret(m.names), slope=m.slope
    ),
    (".nii.gz", ".nii"),
    scales=True,
    count=_count,
    asked=FIRST,
)
