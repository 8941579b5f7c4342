"""What the name of a path says: whether it is a folder or a file for results, and whether a file is one of them."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from segcli.batch.outputs import LABELS, RECORD, outputs
from segcli.errors import UsageError
from segcli.system import opened

# Of files that other programs write labels, surfaces and volumes to, and segcli does not.
_OTHERS = (
    *(".img", ".npy", ".npz", ".h5", ".mat", ".tif", ".tiff", ".jpg", ".jpeg", ".stl", ".obj", ".ply", ".vtk"),
    *(".zip", ".txt", ".xlsx"),
)
_SLASHES = tuple(filter(None, (os.sep, os.altsep)))


def folder_or_file(named: str) -> tuple[Path | None, Path | None]:
    """What a named place is: a folder, as with a slash at its end, or the file that one label map becomes.

    errors   UsageError: it is called as a file of another kind, and no folder of that name is there
    """
    from segcli.formats.table import written

    to, ending = Path(named), file_ending(named)
    if ending is None:
        return to, None
    if ending in written():
        return None, to
    raise UsageError(
        f"{to}: a label map is not written as {ending}",
        hint=f"use one of {', '.join(written())}; files of other kinds are written into a folder: -o {to}/ is one",
    )


def file_ending(named: str) -> str | None:
    """By which ending a place is called as a file of those that segcli reads or writes; None of a folder.

    A folder is what there is one, and what has a slash at its end.
    """
    from segcli.formats.table import endings

    to = Path(named)
    if named.endswith(_SLASHES) or to.is_dir():
        return None
    own = (*(output.ending for output in outputs()), *RECORD.values())
    known = [*endings(), *sorted({*_OTHERS, *(Path(ending).suffix for ending in own)} - {""})]
    return next((e for e in known if to.name.lower().endswith(e)), None)


def is_own(path: Path) -> bool:
    """Whether a file is an output or a temporary file of segcli: by its name, and by the record that lies beside it.

    A DICOM object is one only if it says so: a scan may be called x_sr.dcm, a segmentation by others x_seg.dcm.
    """
    from segcli.formats.atomic import is_partial
    from segcli.formats.table import DICOM
    from segcli.results.recorded import has_record, is_masks, is_named

    if is_partial(path.name) or is_named(path) or (is_masks(path.parent) and path.name.endswith(".nii.gz")):
        return True
    bases = (path.name.removesuffix(ending) for ending in _endings() if path.name.endswith(ending))
    beside = any(base and has_record(path.with_name(base)) for base in bases)
    return beside and (not path.name.endswith(DICOM) or _is_object(path))


def _is_object(path: Path) -> bool:
    """Whether a DICOM object names segcli as its manufacturer, in any syntax; true of one that cannot be read."""
    try:
        with opened(path) as file:
            return b"segcli" in file.read(4096)
    except OSError:
        return True


@cache
def _endings() -> tuple[str, ...]:
    """Of every file that segcli writes of a case."""
    return (*LABELS.values(), *RECORD.values(), *(o.ending for o in outputs() if o.inside is None))
