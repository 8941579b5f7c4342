"""NIfTI-1 and NIfTI-2, single files and .hdr/.img pairs, packed or not.

The header is taken apart here (`nifti_header`, `nifti_forms`) rather than by a library: the common ones go on where a
promise of segcli says "refuse" (a missing magic, a dimension of 0, an orientation that is not stated), and the voxels
are then one array in the file.
"""

from __future__ import annotations

import re
import struct
from dataclasses import replace
from pathlib import Path
from xml.sax.saxutils import unescape

import numpy as np
from numpy.typing import ArrayLike

from segcli.errors import InputError, InputMissing, OutputError
from segcli.formats import streams, tables
from segcli.formats.nifti_forms import grids_of, header_for, plain_header, stated_grid
from segcli.formats.nifti_header import CODES, HEAD, TYPES, UNITS, Header, checked, parse
from segcli.formats.several import Held, only, taken
from segcli.formats.table import FIRST, Form, Format, Seen, unseen
from segcli.space.volume import Grid, Source, Volume

# Matrices, vectors, points, colours: what lies along further axes is one value's parts.
_VALUE_INTENTS = (*range(1004, 1011), 2003, 2004)
_LEAST_EXTENSION = 8  # bytes of an extension: its size and its code
_MOST_EXTENSIONS = 1 << 24  # bytes of a file in which they are looked through
_LITERAL = re.compile(r"<!\[CDATA\[(.*?)\]\]>", re.DOTALL)


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
        np.dtype(TYPES[header.datatype]).newbyteorder(header.order),  # type: ignore[arg-type]
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
    header, repaired = _offset(path, checked(path, _header(path)))
    return _stated(path, header, affine, repaired)


def in_memory(name: str, head: bytes, *, affine: Form | None = None) -> tuple[Grid, Source]:
    """The grid and the source of a header that a program holds, without a file; checked as `examine` does.

    name   what sentences call it
    head   the header's bytes, as a file would have them
    """
    path = Path(name)
    _, grid, source = _stated(path, checked(path, parse(path, head)), affine, ())
    return grid, source


def _stated(path: Path, header: Header, affine: Form | None, repaired: tuple[str, ...]) -> tuple[Header, Grid, Source]:
    header, grid, warnings, apart = stated_grid(path, header, affine)
    facts = {
        "format": f"NIfTI-{header.version}" + (" pair" if header.pair else ""),
        "dtype": np.dtype(TYPES[header.datatype]).name,
        "units": UNITS.get(header.units & 7, UNITS[0])[0],
        "affine": header.counts,
        "sform_code": header.sform_code,
        "qform_code": header.qform_code,
        "forms_differ_mm": apart,
    }
    return header, grid, Source((path,), "nifti", header, (*repaired, *warnings), facts)


def files_of(path: Path) -> list[Path]:
    """The file, or header and voxels of a pair, whichever of the two was named."""
    return list(dict.fromkeys((_header_file(path), _voxel_file(path, _header(path)))))


def label_names(path: Path) -> dict[int, str]:
    """Value -> name of the label table, Caret's XML, among the extensions of a file; nothing of any other file."""
    if streams.is_folder(path) or not looks_like(path, streams.head(path, HEAD)):
        return {}
    header = _header(path)
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
    header = _header(path)
    return header.dim[4] if header.dim[0] >= 4 else 1


def volumes(header: Header) -> int:
    """How many 3-D volumes the file holds."""
    return int(np.prod(header.dim[4 : header.dim[0] + 1], dtype=object))


def _is_series(header: Header) -> bool:
    """Whether volumes follow one another along the fourth axis; those of a further one are parts of a value."""
    return header.dim[0] >= 4 and header.dim[4] > 1 and header.intent not in _VALUE_INTENTS


def _count(path: Path) -> int:
    """How many volumes a file's header announces; errors as of `examine`."""
    return volumes(checked(path, _header(path)))


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
    header = header_for(volume, like)
    data = volume.data
    if data.dtype not in CODES:
        raise OutputError(f"{path.name}: voxels of type {data.dtype} cannot be written")
    raw = _packed_header(header, volume, description, intent, extension, slope)
    little = data.astype(data.dtype.newbyteorder("<"), copy=False)
    gzip = path.name.lower().endswith(".gz")

    return streams.write_whole(
        path,
        b"" if gzip else raw,
        raw if gzip else b"",
        little,
        wrap="gzip" if gzip else None,
        grid=volume.grid,
        grid_of=lambda file: examine(file, affine=header.counts)[1],
    )


def packed(volume: Volume) -> bytes:
    """A volume (C, D, H, W) as the bytes of a NIfTI file, not gzipped; its header says nothing but grid and dtype."""
    header = _packed_header(plain_header(volume.grid), volume, "", 0, b"", 1)
    return header + volume.data.astype(volume.data.dtype.newbyteorder("<"), copy=False).tobytes()


def _header(path: Path) -> Header:
    return parse(path, streams.head(_header_file(path), HEAD))


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
    return np.dtype(TYPES[header.datatype]).itemsize


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
        struct.pack_into("<3h", out, 68, intent, CODES[dtype], dtype.itemsize * 8)
        out[76:108] = _floats(header.pixdim)
        struct.pack_into("<3f", out, 108, 348 + len(extra), slope, 0)
        out[123] = header.units
        out[148 : 148 + len(text)] = text
        struct.pack_into("<2h", out, 252, *form)
        out[256:328] = _floats(places)
        out[344:348] = b"n+1\0"
        return bytes(out) + extra
    out = bytearray(540)
    struct.pack_into("<i8s2h8q", out, 0, 540, b"n+2\0\r\n\x1a\n", CODES[dtype], dtype.itemsize * 8, *dim)
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
    found = grids_of(rounded)[header.counts]
    return found is not None and found.same_as(grid)


def _floats(values: ArrayLike) -> bytes:
    """As little-endian float32: the very bits of a NIfTI-1, rounded from a NIfTI-2."""
    with np.errstate(over="ignore"):
        return np.asarray(values, "<f4").tobytes()


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
