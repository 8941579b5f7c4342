"""A model folder of a card, whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch

from segcli.documents import Document
from segcli.errors import OutputError, OutputExists
from segcli.formats.atomic import (
    exchange,
    is_partial,
    no_detour,
    partial_name,
    sweep,
    translated,
    whole_file,
    write_bytes,
)
from segcli.models import card, weights
from segcli.models.card import CARD_FILE, ModelCard
from segcli.models.embedded import METADATA_KEY
from segcli.models.imports.graph import with_external_data
from segcli.models.imports.recognise import Recognised
from segcli.models.library import file_sha256, former_name, put_back
from segcli.networks import registry
from segcli.system import insistently, one_process

DIGEST_KEY = "tensors_sha256"


def write(
    document: Document,
    network: Recognised,
    onnx: Path | None,
    folder: Path,
    *,
    replace: bool,
    tried: Callable[[ModelCard], None],
) -> Path:
    """Write card and weights in a new folder, check that they load, and give it its name.

    replace  whether a model of that name gives way, as in `whole_folder`
    tried    runs a graph once, or raises ModelError
    errors   OutputExists (73) for a folder that is there, with `replace` for one that holds more than a model
    """
    with whole_folder(folder, replace=replace) as temporary:
        if onnx is not None:
            write_bytes(temporary / "model.onnx", with_external_data(onnx))
            document |= {"onnx": "model.onnx", "onnx_sha256": file_sha256(temporary / "model.onnx")}
            del document["weights"], document["sha256"]
        else:
            _write_weights(document, network, temporary)
        write_card(document, temporary)
        made = card.parse(document, temporary)
        for fold in range(len(made.weights)):
            weights.network_of(made, fold)
        if made.onnx is not None:
            tried(made)
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
        if _identity(temporary) == made or _foreign(temporary) is None:  # ours, or the model that gave way
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
    """Give a folder its final name; a model that had it is called `new` then, or has it still where that fails."""
    unclaimed(folder, replace=replace)  # again: writing took its time
    if not folder.exists():
        _rename(new, folder)
    elif not exchange(new, folder):
        # In two steps; between them the model has a name that `put_back` knows.
        former = former_name(folder)
        if former.is_dir() and not _foreign(former):  # an import was killed behind its last step
            _rename(former, left := folder.with_name(partial_name(folder.name)))
            shutil.rmtree(left)
        _rename(folder, former)
        try:
            _rename(new, folder)
        except OSError:
            _rename(former, folder)
            raise
        _rename(former, new)


def _rename(old: Path, new: Path) -> None:
    insistently(lambda: old.rename(new))


def unclaimed(folder: Path, *, replace: bool) -> None:
    """Refuse a name that is taken, unless with `replace` a model of segcli has it and nothing else lies in that folder.

    errors   OutputExists (73)
    """
    if not os.path.lexists(folder):
        return
    if not replace:
        raise OutputExists(f"{folder} is there already", hint="choose another --name, or remove it first")
    if foreign := _foreign(folder):
        raise OutputExists(f"{folder} is there already, and {foreign}", hint="choose another --name, or move it away")


def _foreign(folder: Path) -> str | None:
    """Why a folder is no model of segcli and nothing else; None for one that is."""
    if folder.is_symlink() or not folder.is_dir():
        return "is no folder"
    try:
        found = json.loads((folder / CARD_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return f"has no {CARD_FILE} of segcli's"
    if not isinstance(found, dict) or not {"format", "architecture"} <= found.keys():
        return f"its {CARD_FILE} is no card of a model"
    named = [found.get("onnx"), *(w if isinstance(w := found.get("weights"), list) else [w])]
    known = {CARD_FILE, "model.onnx", *(name for name in named if isinstance(name, str))}
    others = sorted(path.name for path in folder.iterdir() if path.name not in known or not path.is_file())
    return f"holds {others[0]}, which is no part of the model" if others else None


def _left(folder: Path) -> bool:
    """Whether a folder holds nothing but what an import that was killed may have left."""
    parts = (CARD_FILE, "model.onnx")
    return not folder.is_symlink() and all(
        path.is_file() and (path.name in parts or path.suffix == ".safetensors" or is_partial(path.name))
        for path in (folder.iterdir() if folder.is_dir() else ())
    )


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
        metadata = {"format": "pt", METADATA_KEY: inside, DIGEST_KEY: weights.digest(tensors)}
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
