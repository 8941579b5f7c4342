"""What a file is that segcli does not read, by its first bytes, for the sentence that refuses it."""

from __future__ import annotations

from pathlib import Path

from segcli.errors import InputMissing, SegcliError

# A line of text that stands for a file whose bytes were not fetched.
_POINTERS = {
    b"version https://git-lfs": "a pointer of Git LFS, and the file itself is not there: `git lfs pull` fetches it",
    b"/annex/objects/": "a pointer of git-annex, and the file itself is not there: `git annex get` fetches it",
}
_OTHERS = {
    **_POINTERS,
    b"\x1f\x8b": "packed with gzip: unpack it first",
    b"PK\x03\x04": "a zip archive: unpack it first",
    b"PK\x05\x06": "an empty zip archive",
    b"Rar!": "a rar archive: unpack it first",
    b"7z\xbc\xaf": "a 7z archive: unpack it first",
    b"BZh": "packed with bzip2: unpack it first",
    b"\xfd7zXZ": "packed with xz: unpack it first",
    b"\x28\xb5\x2f\xfd": "packed with zstd: unpack it first",
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"%PDF": "a PDF document",
    b"\x89HDF": "HDF5 (MINC 2 or a model of Keras, perhaps)",
    b"CDF": "netCDF (MINC 1, perhaps)",
    b"II*\0": "a TIFF picture",
    b"MM\0*": "a TIFF picture",
    b"<?xml": "XML (GIFTI or a model of OpenVINO, perhaps)",
    b"\x93NUMPY": "a NumPy array",
}
TEXT = "it seems to be text"
AGAIN = "a download that broke off looks so: fetch it again"
_WEB_PAGE = (b"<!doctype html", b"<html")
_TAR = (257, b"ustar")  # where its letters stand


def seems(head: bytes) -> str:
    """What a file that is not read seems to be, by its first bytes: half a sentence."""
    if not head:
        return "it is empty"
    for magic, what in _OTHERS.items():
        if head.startswith(magic):
            return f"it seems to be {what}"
    at, letters = _TAR
    if head[at:].startswith(letters):
        return "it seems to be a tar archive: unpack it first"
    if head.lstrip().lower().startswith(_WEB_PAGE):
        return "it seems to be a web page, such as one that asks for a login or tells an error: download it again"
    if head.lstrip().startswith(b"--") and b"content-type:" in head.lower():
        return "it seems to be an answer of DICOMweb in parts: take the parts apart, or ask for application/zip"
    if all(byte >= 32 or byte in b"\t\n\r" for byte in head):
        return TEXT
    return f"it begins with the bytes {head[:8].hex(' ')}"


def hint_of_archive(head: bytes) -> str:
    """What to do about a damaged zip archive, or what is there instead of one, by its first bytes."""
    return AGAIN if head.startswith(b"PK\x03\x04") else seems(head)


def no_pointer(head: bytes, name: str, kind: type[SegcliError]) -> None:
    """Refuse, with an error of `kind`, a file that stands for one whose bytes were not fetched."""
    if what := next((what for start, what in _POINTERS.items() if head.startswith(start)), None):
        raise kind(f"{name}: is {what}")


def broken_link(path: Path, name: str) -> InputMissing:
    """The refusal of a link to nowhere. Data sets of DataLad are links to files that are fetched one by one."""
    annexed = "/annex/objects/" in path.readlink().as_posix()
    return InputMissing(
        f"{name}: a broken link: what it points to does not exist",
        hint="it was not fetched from its data set: `datalad get` or `git annex get` fetches it" if annexed else None,
    )
