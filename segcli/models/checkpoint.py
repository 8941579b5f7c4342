"""Open a checkpoint safely, and find the table of tensors in it.

Nothing in this room runs code from a file. A pickle's globals are listed before it is opened; PyTorch's own
weights-only loader opens it; a class it does not know becomes a stand-in that can hold nothing and be called by
nothing. There is no option to loosen that.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import struct
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from segcli.documents import Content
from segcli.errors import ModelError, SegcliError
from segcli.formats.strangers import AGAIN, no_pointer, seems
from segcli.formats.streams import bytes_of
from segcli.models.unpickle import SAVE_AGAIN, StandIn, allowed, globals_in, is_old_torch, unpickled

Tensors = dict[str, Tensor]
MODULE = "module."  # DataParallel's prefix
# Where training scripts keep the table of tensors, the likeliest first.
TABLES = ("state_dict", "model_state_dict", "network_weights", "model", "net", "network", "weights", "params", "ema")
_OF_TRAINING = re.compile(r"optim(i[sz]er)?s?(?![a-z])", re.IGNORECASE)  # optimizer_states, not optimal_model
_OF_EXPORT = ("archive_format", "serialized_exported_program.json")  # members of today's archives and of earlier ones
_OF_OPTIMISER = {"state", "param_groups"}  # what torch's optimisers make of themselves
OF_OTHERS = "one of TensorFlow, Keras or OpenVINO has to be exported to ONNX where it was made"
EXPORTED = "a program of torch.export, not tensors alone"
_HEAD = 540  # bytes by which it is told what else a file is
_UNFOLDED = 2**30  # bytes by which tensors may exceed their file: values that are stored once and repeated


@dataclass(frozen=True)
class Stored:
    """A weights file as it was read.

    container  "safetensors", "torch" or "torch before 1.6"
    content    what the file holds: dicts, lists, numbers, texts, tensors, NumPy arrays, stand-ins
    sha256     of the very bytes that were read
    """

    name: str
    container: str
    content: Content
    sha256: str


# ---- opening a file -------------------------------------------------------------------------------------------------


def read(path: Path, sha256: str = "") -> Stored:
    """Open a weights file by what it holds, not by its name.

    sha256   what model.json says the file's sum is; "" where it says nothing
    errors   ModelError (78): another sum; not a checkpoint, or truncated; TorchScript; a pickle that would call
             something, with the name of what it would call
    """
    data = bytes_of(path, ModelError)
    no_pointer(data, path.name, ModelError)
    found = hashlib.sha256(data).hexdigest()
    if sha256 and found != sha256.lower():
        raise ModelError(
            f"{path.name}: the SHA-256 checksum {found} does not match the {sha256} of model.json",
            hint="the file was changed or damaged since it was signed; fetch it again",
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what a pickle's texts escape: damage is refused, the rest is no news
        container, content = _opened(data, path.name)
    return Stored(path.name, container, content, found)


def is_checkpoint(path: Path) -> bool:
    """Whether a zip archive is a checkpoint of torch, as a browser may have named one; False for any other file."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(_is_pickle(member) for member in archive.namelist())
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        return False


def _is_pickle(member: str) -> bool:
    """Whether it is the pickle of a torch archive by its place: its tensors lie beside it."""
    return member.count("/") == 1 and member.endswith("/data.pkl")


def _opened(data: bytes, name: str) -> tuple[str, Content]:
    if data[:4] == b"PK\x03\x04":
        return _zip(data, name)
    if len(data) > 8 and data[8:9] == b"{" and int.from_bytes(data[:8], "little") < 100_000_000:
        try:
            return "safetensors", safetensors.torch.load(data)
        except SafetensorError as error:
            raise ModelError(
                f"{name}: not a safetensors file, or a truncated one ({len(data)} bytes): {error}", hint=AGAIN
            ) from error
    if data[:1] == b"\x80":
        if not is_old_torch(data):
            called = next((g for g in globals_in(data, name) if g not in allowed()), None)
            raise ModelError(
                f"{name}: a bare pickle, not allowed as weights" + (f"; it names {called}" if called else ""),
                hint=SAVE_AGAIN,
            )
        return "torch before 1.6", unpickled(data, name, globals_in(data, name))
    if data[257:262] == b"ustar":
        raise ModelError(f"{name}: an archive of the tar kind (PyTorch before 0.1.10): not allowed", hint=SAVE_AGAIN)
    raise ModelError(
        f"{name}: not a checkpoint of any format that segcli knows; {len(data)} bytes, {seems(data[:_HEAD])}",
        hint="torch, safetensors and ONNX files are read; a MONAI bundle or a model of nnU-Net is named by its folder; "
        f"{OF_OTHERS}",
    )


def tensors_of(name: str) -> str:
    """How the tensors of an exported program become a checkpoint, half a sentence."""
    return f"save its tensors where it was made: torch.save(torch.export.load('{name}').state_dict, 'model.pt')"


def _zip(data: bytes, name: str) -> tuple[str, Content]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.namelist()
            pickles = [m for m in members if _is_pickle(m)]
            if any(m.endswith("/constants.pkl") or "/code/" in m for m in members):
                raise ModelError(
                    f"{name}: a TorchScript program, which would run as code: not allowed",
                    hint="save its tensors where it was made: torch.save(torch.jit.load(FILE).state_dict(), NEW), "
                    "then import NEW",
                )
            if any(PurePosixPath(m).name in _OF_EXPORT for m in members):
                raise ModelError(f"{name}: {EXPORTED}", hint=tensors_of(name))
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                pickles = []  # torch never compresses
            if len(pickles) != 1:
                raise ModelError(
                    f"{name}: a zip archive, but not a checkpoint: it has no data.pkl",
                    hint="unpack it; a MONAI bundle or an nnU-Net folder can be imported as a folder",
                )
            names = globals_in(archive.read(pickles[0]), name)
    except SegcliError:
        raise
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, KeyError, RuntimeError, struct.error) as error:
        # The last four: names that are no text, versions and encryption that zipfile does not know, odd extra fields.
        told = f"{name}: a truncated or corrupt checkpoint ({len(data)} bytes): {error}"
        raise ModelError(told, hint=AGAIN) from error
    return "torch", unpickled(data, name, names)


# ---- the table of tensors in a checkpoint ---------------------------------------------------------------------------


def innermost_table(stored: Stored, name: str | None = None) -> Tensors:
    """The innermost table of tensors of a checkpoint; `module.` is taken off when every name begins with it.

    name     the key of the wanted table, or a prefix of names ("ema" takes "ema.conv.weight"), where there are several
    errors   ModelError when there is none, with what there is instead
    """
    content = stored.content if name is None else _named(stored, name)
    found = _find(content, 4, set())
    if found is None:
        raise ModelError(f"{stored.name}: holds no table of tensors, but {_described(stored.content)}", hint=SAVE_AGAIN)
    _whole(found, stored.name)
    return _bare(found)


def _bare(tensors: Tensors) -> Tensors:
    while tensors and all(name.startswith(MODULE) for name in tensors):
        tensors = {name.removeprefix(MODULE): tensor for name, tensor in tensors.items()}
    return tensors


def sister_tables(stored: Stored) -> tuple[list[str], list[str]]:
    """The keys of the tables that hold a network of one kind with the table that is taken, the taken one first.

    returns  those of networks, and those of averages over their training (EMA, SWA)
    """
    taken = innermost_table(stored)
    shapes = {name: tensor.shape for name, tensor in taken.items()}
    keys = []
    for key, tensors in _tables(stored.content, "", 4, set()):
        others = _bare(tensors)
        if any(tensor.is_nested for tensor in others.values()):  # which has no shape
            continue
        if {name: tensor.shape for name, tensor in others.items()} == shapes:
            first = all(others[name].data_ptr() == tensor.data_ptr() for name, tensor in taken.items())
            keys.append((not first, key))
    keys.sort(key=lambda one: one[0])
    averages = [key for _, key in keys if is_average(key)]
    return [key for _, key in keys if key not in averages], averages


def taken(stored: Stored) -> tuple[str | None, list[str]]:
    """The key of the network that is taken, None where there is no choice, and a sentence about its average.

    errors   ModelError where several networks are equals: a student and a teacher, a list of folds
    """
    networks, averages = sister_tables(stored)
    if len(networks) > 1 or (not networks and len(averages) > 1):
        raise equals(stored.name, networks or averages)
    if not networks or not averages:
        return None, []
    return networks[0], [not_its_average(networks[0], averages[0])]


def equals(where: str, names: Sequence[str]) -> ModelError:
    """The refusal to choose among networks of one kind."""
    told = f"{where}: holds {len(names)} whole networks of one kind: {', '.join(names)}"
    return ModelError(told, hint=f"choose one with --table {names[0]}")


def not_its_average(taken: str, average: str) -> str:
    return f"the network {taken} is taken, not its average: --table {average} takes that"


def is_average(key: str) -> bool:
    """Whether a table's or prefix's name says that it is an average over training."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", key).lower()
    return bool({"ema", "swa", "averaged", "average", "avg", "shadow"} & set(re.split(r"[^a-z]+", apart)))


def _tables(content: Content, key: str, depth: int, seen: set[int]) -> Iterator[tuple[str, Tensors]]:
    """Every table of nothing but tensors with its key ("state_dict.ema"), an optimiser's left out."""
    if id(content) in seen or depth < 0 or _OF_TRAINING.search(key):
        return
    seen.add(id(content))
    if isinstance(content, list | tuple):
        content = dict(enumerate(content))
    if not isinstance(content, dict):
        return
    if content and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items()):
        yield key, dict(content)
        return
    for name, value in content.items():
        yield from _tables(value, f"{key}.{name}" if key else str(name), depth - 1, seen)


def _named(stored: Stored, name: str) -> Content:
    """The part of a checkpoint under a key of its tables, or its tensors whose names begin so."""
    tables = dict(_tables(stored.content, "", 4, set()))
    chosen = [key for key in tables if key == name] or [key for key in tables if name in key.split(".")]
    if len(chosen) == 1:
        return tables[chosen[0]]
    second = stored.content.get(name) if isinstance(stored.content, dict) else None
    if isinstance(second, dict) and second and all(isinstance(v, Tensor) for v in second.values()):
        return second  # which has another name as well
    whole = _find(stored.content, 4, set()) or {}
    prefix = f"{name}."
    if not chosen and (part := {k: v for k, v in _bare(whole).items() if k.startswith(prefix)}):
        return {k.removeprefix(prefix): v for k, v in part.items()}
    known = ", ".join(filter(None, chosen or tables)) or "none that has a name"
    raise ModelError(f"{stored.name}: no table of tensors is called {name!r}", hint=f"--table takes one of: {known}")


def _whole(tensors: Mapping[str, Tensor], where: str) -> None:
    """Refuse tensors without values, and those that are far larger than what the file holds of them."""
    stored: dict[int, int] = {}
    unfolded = 0
    for name, tensor in tensors.items():
        if tensor.is_meta:
            raise ModelError(f"{where}: the tensor {name} has a shape and no values", hint=SAVE_AGAIN)
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested:
            raise ModelError(
                f"{where}: the tensor {name} is sparse, quantised or nested, not a plain one", hint=SAVE_AGAIN
            )
        storage = tensor.untyped_storage()
        stored[storage.data_ptr()] = storage.nbytes()
        unfolded += tensor.numel() * tensor.element_size()
        if unfolded > sum(stored.values()) + _UNFOLDED:
            raise ModelError(
                f"{where}: the tensor {name} claims {tensor.numel()} values, the file holds {storage.nbytes()} bytes "
                "of them",
                hint=SAVE_AGAIN,
            )


def _find(content: Content, depth: int, seen: set[int]) -> Tensors | None:
    if id(content) in seen:  # a few references may unfold to billions of places
        return None
    seen.add(id(content))
    if isinstance(content, list | tuple):
        content = dict(enumerate(content))
    if not isinstance(content, dict) or depth == 0 or content.keys() >= _OF_OPTIMISER:
        return None
    if content and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items()):
        return dict(content)
    for key in (k for k in TABLES if k in content):
        found = _find(content[key], depth - 1, seen)
        if found is not None:
            return found
    # Under a name that says nothing: the largest, since an optimiser keeps a table of two or three for each weight.
    others = [_find(v, depth - 1, seen) for k, v in content.items() if k not in TABLES]
    # A table with a few foreign entries among its tensors, "epoch" beside "conv.weight".
    some = {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor) and "." in k}
    return max([some, *filter(None, others)], key=len) or None


def _described(content: Content) -> str:
    if isinstance(content, StandIn):
        return f"an object of the class {type(content).__name__}"
    if isinstance(content, dict):
        keys = ", ".join(str(k) for k in islice(content, 5))
        return f"a dictionary with {len(content)} entries ({keys}{', ...' if len(content) > 5 else ''})"
    return f"a {type(content).__name__}"


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and values of tensors, whatever file they are in."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        head = json.dumps([name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape)])
        total.update(head.encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
    return total.hexdigest()
