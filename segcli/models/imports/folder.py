"""What lies at a path: a file, a folder of which kind, an archive with one of them in it."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from segcli.errors import ModelError
from segcli.models.card import CARD_FILE
from segcli.models.imports import bundle, nnunet, nnunet_v1
from segcli.models.imports.bundle_config import is_bundle
from segcli.models.imports.files import file
from segcli.models.imports.source import Source


@contextmanager
def opened(path: Path, *, told: bool, table: str | None = None) -> Iterator[Source]:
    """The source at a path; archives are unpacked as long as it is in use.

    told    whether the user says what network it is
    table   the key of the wanted table of tensors, in a checkpoint with several
    """
    if not path.exists():
        raise ModelError(f"{path}: no such file or folder")
    if path.is_file() and path.suffix.lower() == ".zip":
        with unpacked(path) as folder:
            yield _folder(folder, path.name, told=told, table=table)
    elif path.is_dir():
        yield _folder(path, path.name, told=told, table=table)
    else:
        yield file(path, told=told, table=table)


def _folder(folder: Path, name: str, *, told: bool, table: str | None) -> Source:
    """The one model in a folder or below it."""
    if (folder / CARD_FILE).is_file():
        raise ModelError(f"{name}: is a model folder of segcli already", hint=f"use it as it is: --model {folder}")
    kinds = {"plans.json": nnunet.folder, "plans.pkl": nnunet_v1.folder}
    found = [(path.parent, read) for marker, read in kinds.items() for path in sorted(folder.rglob(marker))]
    # Cross-validation and prediction leave copies of the plans, without folds beside them.
    found = [(place, read) for place, read in found if nnunet.has_folds(place)] or found
    bundles = [path.parent for path in sorted(folder.rglob("configs")) if is_bundle(path.parent)]
    found += [(place, bundle.folder) for place in bundles]
    if len(found) == 1:
        place, read = found[0]
        return read(place)
    if found:
        places = ", ".join(str(place.relative_to(folder)) for place, _ in found[:5])
        raise ModelError(f"{name}: holds {len(found)} models: {places}", hint="give the folder of one of them")
    endings = (".pt", ".pth", ".ckpt", ".tar", ".model", ".safetensors", ".onnx")
    alone = [p for p in sorted(folder.rglob("*")) if p.suffix in endings and p.is_file()]
    if len(alone) == 1:
        return file(alone[0], told=told, table=table)
    raise ModelError(
        f"{name}: neither an nnU-Net folder nor a MONAI bundle, and {len(alone)} checkpoints in it",
        hint="give one checkpoint",
    )


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """The members of a zip archive as files in a temporary folder, which is removed afterwards.

    errors   ModelError for members that climb out, for links, and for archives that unpack to over ten times their
             size
    """
    with TemporaryDirectory(prefix="segcli-") as folder:
        try:
            with zipfile.ZipFile(path) as archive:
                members = [m for m in archive.infolist() if not m.is_dir()]
                for member in members:
                    name = PurePosixPath(member.filename.replace("\\", "/"))
                    link = (member.external_attr >> 16) & 0o170000 == 0o120000
                    if name.is_absolute() or ".." in name.parts or ":" in member.filename or link:
                        raise ModelError(f"{path.name}: {member.filename!r} leads outside the archive: not allowed")
                if sum(m.file_size for m in members) > 10 * path.stat().st_size + 10_000_000:
                    raise ModelError(f"{path.name}: unpacks to far more than its size: not allowed")
                for member in members:
                    archive.extract(member, folder)
        except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError) as error:
            raise ModelError(f"{path.name}: a truncated or corrupt archive: {error}") from error
        yield Path(folder)
