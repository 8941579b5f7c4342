"""What lies at a path: a file, a folder of which kind, an archive with one of them in it."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath

from segcli.errors import ModelError, SegcliError, UsageError
from segcli.formats.atomic import temporary_folder
from segcli.formats.strangers import hint_of_archive
from segcli.formats.streams import refusal
from segcli.models import checkpoint
from segcli.models.card import CARD_FILE
from segcli.models.imports import brainchop, bundle, nnunet, nnunet_v1
from segcli.models.imports.bundle_config import is_bundle
from segcli.models.imports.files import file
from segcli.models.imports.nnunet_folds import has_folds
from segcli.models.imports.source import ModelSource, WhichModel
from segcli.system import folded, ignores_case, opened

# What zipfile raises of bytes that are no whole archive, of methods that it lacks, and of members behind a password.
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError, RuntimeError)
_HEAD = 540  # bytes by which it is told what else a file is
# Of nnU-Net's folders in one place the first of each row is taken; a cascade's second stage needs the first.
_DEFAULTS = (("nnUNetTrainer",), ("nnUNetPlans",), ("3d_fullres", "3d_lowres", "2d"))


@contextmanager
def source_at(path: Path, *, told: bool, wanted: WhichModel) -> Iterator[ModelSource]:
    """The source at a path; archives are unpacked as long as it is in use.

    told   whether the user says what network it is
    """
    if not path.exists():
        raise ModelError(f"{path}: no such file or folder")
    if path.is_file() and path.suffix.lower() == ".zip" and not checkpoint.is_checkpoint(path):
        with unpacked(path) as folder:
            yield _folder(folder, path.name, told=told, wanted=wanted)
    elif path.is_dir():
        yield _folder(path, path.name or path.resolve().name, told=told, wanted=wanted)
    else:
        yield _file(path, told=told, wanted=wanted)


def _folder(folder: Path, name: str, *, told: bool, wanted: WhichModel) -> ModelSource:
    """The one model in a folder or below it."""
    if brainchop.layers(folder) is not None:
        _only_of_nnunet(wanted, name)
        return _file(brainchop.weights_beside(folder), told=told, wanted=wanted)
    if (folder / CARD_FILE).is_file():
        raise ModelError(f"{name}: is a model folder of segcli already", hint=f"use it as it is: --model {folder}")
    plans = {path.parent: nnunet.folder for path in sorted(folder.rglob("plans.json"))}
    plans |= {path.parent: nnunet_v1.folder for path in sorted(folder.rglob("plans.pkl"))}
    # Cross-validation and prediction leave copies of the plans, without folds beside them.
    plans = {place: read for place, read in plans.items() if has_folds(place)} or plans
    bundles = [path.parent for path in sorted(folder.rglob("configs")) if is_bundle(path.parent)]
    if wanted.config is not None and not bundles:
        raise UsageError(f"--config chooses in a MONAI bundle, and {name} is none")
    if plans and not bundles:
        _no_table(wanted, name)
        place, notes = _chosen(list(plans), folder, name, wanted)
        source = plans[place](place, wanted.folds)
        return replace(source, notes=[*notes, *source.notes])
    _only_of_nnunet(wanted, name)
    if len(bundles) == 1 and not plans:
        _no_table(wanted, name)
        return bundle.folder(bundles[0], wanted.config)
    if bundles:
        raise _several([*plans, *bundles], folder, name, "give the folder of one of them")
    endings = (".pt", ".pth", ".ckpt", ".tar", ".model", ".safetensors", ".onnx")
    if shards := sorted(folder.rglob("[!.]*.index.json")):
        raise ModelError(
            f"{name}: its weights lie in several files, which {shards[0].name} lists; segcli reads those of one file",
            hint="put their tensors into one file where they are from: safetensors.torch.save_file(TENSORS, FILE)",
        )
    # Hidden files are none of a person's: macOS puts ._NAME beside each on other systems' disks and into archives.
    alone = [p for p in sorted(folder.rglob("*")) if p.suffix in endings and p.is_file() and p.name[0] != "."]
    if len(alone) == 1:
        return _file(alone[0], told=told, wanted=wanted)
    if any(has_folds(place) for place in {p.parent.parent for p in alone}):
        first = alone[0].relative_to(folder).as_posix()
        raise ModelError(
            f"{name}: folds of nnU-Net without the plans.json (plans.pkl of nnU-Net 1) that belongs beside them",
            hint=f"copy it from where the model was trained, or give one checkpoint: {first}",
        )
    there = ", ".join(sorted(path.name for path in folder.iterdir() if path.name[0] != ".")[:5]) or "nothing"
    raise ModelError(
        f"{name}: neither an nnU-Net folder nor a MONAI bundle, and {len(alone)} checkpoints in it"
        + ("" if alone else f", but {there}"),
        hint="give one checkpoint"
        if alone
        else f"a model of torch, safetensors or ONNX is read; {checkpoint.OF_OTHERS}",
    )


def _file(path: Path, *, told: bool, wanted: WhichModel) -> ModelSource:
    _only_of_nnunet(wanted, path.name)
    if wanted.config is not None:
        raise UsageError(f"--config chooses in a MONAI bundle, and {path.name} is none")
    if path.suffix == ".onnx":
        _no_table(wanted, path.name)
    return file(path, told=told, table=wanted.table)


def _no_table(wanted: WhichModel, name: str) -> None:
    """Refuse to choose among tables of tensors where they are not asked for."""
    if wanted.table is not None:
        raise UsageError(f"--table chooses among the networks of one checkpoint file, and {name} is none")


def _only_of_nnunet(wanted: WhichModel, name: str) -> None:
    """Refuse to choose among configurations or folds where there are none."""
    options = [*wanted.of_nnunet, *(["--folds"] if wanted.folds else [])]
    if options:
        raise UsageError(f"{options[0]} chooses in nnU-Net's folders, and {name} is none")


def _chosen(places: Sequence[Path], folder: Path, name: str, wanted: WhichModel) -> tuple[Path, list[str]]:
    """The nnU-Net folder that is wanted, and a sentence about one that was taken by default.

    errors   ModelError where none is as wanted, or several are and none is the usual one
    """

    def words(place: Path) -> set[str]:
        parts = (folder.name, *place.relative_to(folder).parts)
        return {word for part in parts for word in part.split("__")}

    choose = "choose with --configuration, --trainer or --plans, or give the folder of one of them"
    fitting = [place for place in places if set(wanted.of_nnunet.values()) <= words(place)]
    if not fitting:
        options = " and ".join(f"{option} {value}" for option, value in wanted.of_nnunet.items())
        leave = f"leave out {' and '.join(wanted.of_nnunet)}, or give another folder"
        hint = choose if len(places) > 1 else leave
        raise _several(places, folder, name, hint, f"nothing there is of {options}; it ")
    usual = fitting
    for row in _DEFAULTS:
        first = next((word for word in row if any(word in words(place) for place in usual)), None)
        usual = [place for place in usual if first is None or first in words(place)]
    if len(usual) > 1 or len({place.parent for place in fitting}) > 1:
        raise _several(fitting, folder, name, choose)
    if len(fitting) == 1:
        return fitting[0], []
    others = ", ".join(place.name for place in fitting if place != usual[0])
    return usual[0], [f"{usual[0].name} is taken; there is also {others} (--configuration, --trainer, --plans)"]


def _several(places: Sequence[Path], folder: Path, name: str, hint: str, why: str = "") -> ModelError:
    listed = ", ".join(name if place == folder else str(place.relative_to(folder)) for place in places[:5])
    held = f"{len(places)} models" if len(places) > 1 else "one model"
    return ModelError(f"{name}: {why}holds {held}: {listed}", hint=hint)


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """The members of a zip archive as files in a temporary folder, which is removed afterwards.

    errors   ModelError for members that climb out, for links, for archives that unpack to over ten times their size,
             and for members that would be one file on a disk that ignores case
    """
    with temporary_folder() as folder:
        try:
            with zipfile.ZipFile(path) as archive:
                members = [m for m in archive.infolist() if not m.is_dir()]
                _refuse_members(path, members, Path(folder))
                for member in members:
                    archive.extract(member, folder)
        except SegcliError:
            raise
        except PermissionError as error:
            raise refusal(error, path) from error
        except _DAMAGED as error:
            with opened(path) as file:
                hint = hint_of_archive(file.read(_HEAD))
            raise ModelError(f"{path.name}: a truncated or corrupt archive: {error}", hint=hint) from error
        yield Path(folder)


def _refuse_members(path: Path, members: Sequence[zipfile.ZipInfo], folder: Path) -> None:
    """Refuse what must not be unpacked from an archive into a folder, as `unpacked` says."""
    for member in members:
        name = PurePosixPath(member.filename.replace("\\", "/"))
        link = (member.external_attr >> 16) & 0o170000 == 0o120000
        if name.is_absolute() or ".." in name.parts or ":" in member.filename or link:
            raise ModelError(f"{path.name}: {member.filename!r} leads outside the archive: not allowed")
    names = {member.filename for member in members}
    if ignores_case(folder) and len({folded(name) for name in names}) < len(names):
        raise ModelError(f"{path.name}: names in it that differ in case alone would be one file on this disk")
    if sum(member.file_size for member in members) > 10 * path.stat().st_size + 10_000_000:
        raise ModelError(f"{path.name}: unpacks to far more than its size: not allowed")
