"""A model folder of a card, whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import safetensors.torch

from segcli.documents import Document, content_of
from segcli.errors import OutputError, OutputExists
from segcli.formats.atomic import (
    is_partial,
    no_detour,
    partial_name,
    sweep,
    translated,
    whole_file,
    write_bytes,
)
from segcli.models import card, checkpoint, weights
from segcli.models.card import CARD_FILE, ModelCard
from segcli.models.embedded import METADATA_KEY, is_export
from segcli.models.imports.graph import with_external_data
from segcli.models.imports.recognise import Recognised
from segcli.models.library import file_sha256, former_name, put_back
from segcli.networks import registry
from segcli.system import exchange, insistently, one_process, rename_free

DIGEST_KEY = "tensors_sha256"
_ANOTHER = "choose another --name, or move it away"


def write(
    document: Document,
    network: Recognised,
    onnx: Path | None,
    folder: Path,
    *,
    replace: bool,
    tried: Callable[[ModelCard], Sequence[str] | None],
) -> Path:
    """Write card and weights in a new folder, check that they load, and give it its name.

    replace  whether a model of that name gives way, as in `whole_folder`
    tried    runs a graph once, or raises ModelError; it returns the engines that answer as is meant, None for all
    errors   OutputExists (73) for a folder that is there, with `replace` for one that holds more than a model
    """
    with whole_folder(folder, replace=replace) as temporary:
        if onnx is not None:
            write_bytes(temporary / "model.onnx", with_external_data(onnx))
            document |= {"onnx": "model.onnx", "onnx_sha256": file_sha256(temporary / "model.onnx")}
            del document["weights"], document["sha256"]
        else:
            _write_weights(document, network, temporary)
        made = card.parse(document, temporary)
        for fold in range(len(made.weights)):
            weights.network_of(made, fold)
        if made.onnx is not None and (engines := tried(made)) is not None:
            document["engines"] = list(engines)
        write_card(document, temporary)
    return folder


@contextmanager
def whole_folder(folder: Path, *, replace: bool) -> Iterator[Path]:
    """A hidden folder beside the final one, to be filled; it gets the final name when all went well, else it goes.

    replace  whether a model of that name gives way: it keeps its name until the new one is whole and takes it, and is
             removed last; a kill at any moment leaves the one or the other to be found
    errors   as `unclaimed`
    """
    put_back(folder)
    unclaimed(folder, replace=replace)
    sweep(folder.parent, ours=_left)
    temporary, made = folder.with_name(partial_name(folder.name)), None
    try:
        with translated(folder):
            no_detour(folder)
            temporary.mkdir(parents=True)
            made = _identity(temporary)
            yield temporary
            with one_process(folder.parent):
                if _identity(temporary) != made:
                    raise OutputError(f"{folder.name}: somebody else has put another folder where it was being made")
                _named(temporary, folder, replace=replace)
    finally:
        if _identity(temporary) == made:
            shutil.rmtree(temporary, ignore_errors=True)


def _identity(folder: Path) -> tuple[int, int] | None:
    """What tells a folder from another that has got its name since; None where nothing has it."""
    try:
        found = folder.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def write_card(document: Document, folder: Path) -> None:
    """The card's file in a model folder."""
    write_bytes(folder / CARD_FILE, (json.dumps(document, indent=1) + "\n").encode())


def _named(new: Path, folder: Path, *, replace: bool) -> None:
    """Give a folder its final name; the model that had it goes, or has it still where that fails.

    errors   as `unclaimed`, also of what came there at the last moment
    """
    unclaimed(folder, replace=replace)  # again: writing took its time
    if not os.path.lexists(folder):
        try:
            insistently(lambda: rename_free(new, folder))
        except FileExistsError:
            unclaimed(folder, replace=False)
            raise
        return
    if not exchange(new, folder):
        # In two steps; between them the model has a name that `put_back` knows.
        former = former_name(folder)
        if former.is_dir() and not _foreign(former):  # an import was killed behind its last step
            _remove(former)
        _rename(folder, former)
        try:
            _still_a_model(former, folder)
            _rename(new, folder)
        except OSError:
            _rename(former, folder)
            raise
        _remove(former)
        return
    try:
        _still_a_model(new, folder)
    except OutputExists:
        exchange(new, folder)
        raise
    _remove(new)


def _still_a_model(gone: Path, folder: Path) -> None:
    """Refuse what gave way where something else came into it after `unclaimed` had looked."""
    if foreign := _foreign(gone):
        raise OutputExists(f"{folder} is there already, and {foreign}", hint=_ANOTHER)


def _remove(model: Path) -> None:
    """Take a model away, file by file, so that what came into its folder meanwhile stays, and the folder with it."""
    with suppress(OSError):
        named = _named_files(model)
        there = [path for path in model.iterdir() if path.name in named]
        for path in sorted(there, key=lambda path: path.name == CARD_FILE):  # until the last it is known for a model
            path.unlink()
        model.rmdir()


def _rename(old: Path, new: Path) -> None:
    insistently(lambda: old.rename(new))


def unclaimed(folder: Path, *, replace: bool) -> None:
    """Refuse a name that is taken, unless with `replace` a model of segcli has it and nothing else lies in that folder.

    errors   OutputExists (73)
    """
    if not os.path.lexists(folder):
        return
    if foreign := _foreign(folder):
        raise OutputExists(f"{folder} is there already, and {foreign}", hint=_ANOTHER)
    if not replace:
        raise OutputExists(f"{folder} is there already", hint="choose another --name; --overwrite replaces it")


def _foreign(folder: Path) -> str | None:
    """Why a folder is no model of segcli and nothing else; None for one that is."""
    if folder.is_symlink() or not folder.is_dir():
        return "is no folder"
    named = _named_files(folder)
    if not named:
        return f"has no {CARD_FILE} of segcli's"
    others = sorted(path.name for path in folder.iterdir() if path.name not in named or not path.is_file())
    return f"holds {others[0]}, which is no file that its {CARD_FILE} names" if others else None


def _named_files(folder: Path) -> set[str]:
    """The names of a model's own files; none where there is no card of a model."""
    found = content_of(folder / CARD_FILE)
    if not isinstance(found, dict) or not {"format", "architecture"} <= found.keys():
        return set()
    rough = found.get("rough")
    models = [*_list(found.get("parts")), rough.get("model") if isinstance(rough, dict) else None]
    exported = [name for name in models if isinstance(name, str) and name.endswith(".onnx")]
    files = [name for name in [*_list(found.get("weights")), found.get("onnx")] if isinstance(name, str)]
    return {CARD_FILE, "model.onnx", *files, *exported}


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def _left(folder: Path) -> bool:
    """Whether a folder holds nothing but what an import or an export that was killed may have left."""
    return not folder.is_symlink() and folder.is_dir() and all(_is_left(path) for path in folder.iterdir())


def _is_left(path: Path) -> bool:
    if path.is_symlink() or not path.is_file():
        return _left(path)  # of a rough model, in an export
    if path.suffix == ".onnx" and path.name != "model.onnx":
        return is_export(path)
    return path.name in (CARD_FILE, "model.onnx") or path.suffix == ".safetensors" or is_partial(path.name)


def _write_weights(document: Document, network: Recognised, folder: Path) -> None:
    """One safetensors file for each fold, the card and the tensors' digest inside; names and sums into the card."""
    several = len(network.folds) > 1
    names = [f"fold_{i}.safetensors" for i in range(len(network.folds))] if several else ["weights.safetensors"]
    inside = json.dumps({k: v for k, v in document.items() if k not in ("weights", "sha256")})
    sums = []
    for name, fold in zip(names, network.folds, strict=True):
        # A copy of each: safetensors keeps no tensors that share memory.
        tensors = {n: fold[n].detach().clone().contiguous() for n in registry.live(network.family, fold)}
        weights.refuse_not_finite(tensors, name)
        metadata = {"format": "pt", METADATA_KEY: inside, DIGEST_KEY: checkpoint.digest(tensors)}
        with whole_file(folder / name) as file:
            file.write(safetensors.torch.save(tensors, metadata))
        sums.append(file_sha256(folder / name))
    document["weights"] = names if several else names[0]
    document["sha256"] = sums if several else sums[0]


def json_able(value: Any) -> Any:
    """The same with tuples as lists and NumPy's numbers as Python's."""
    if isinstance(value, Mapping):
        return {str(k): json_able(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [json_able(v) for v in value]
    return value.item() if hasattr(value, "item") else value
