"""Pickles, read without running what they name: torch's own files and plain ones."""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import struct
import warnings
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from importlib.util import module_from_spec, spec_from_file_location
from itertools import islice
from typing import Any

import numpy as np
import torch

from segcli.documents import Content
from segcli.errors import ModelError, SegcliError, cause_of

SAVE_AGAIN = "save the tensors alone, torch.save(model.state_dict(), FILE), where the checkpoint was made"


Maker = Callable[..., Any]  # what a pickle calls by a name: it may take and make anything
_MAGIC = 0x1950A86A20F9469CFC6C  # the first of the pickles in a file of PyTorch before 1.6


def is_old_torch(data: bytes) -> bool:
    try:
        return any(
            op.name.startswith("LONG") and arg == _MAGIC for op, arg, _ in islice(pickletools.genops(data[:64]), 4)
        )
    except ValueError:
        return False


def globals_in(data: bytes, name: str) -> list[str]:
    """The dotted names of all globals in a pickle (or the several of an old torch file), in order; none is imported.

    errors   ModelError for a pickle that ends too early or makes a name while it is read
    """
    stream = io.BytesIO(data)
    found: dict[str, None] = {}
    # An old torch file has five: magic number, protocol, system, the object, the list of storages.
    for number in range(5 if is_old_torch(data) else 1):
        try:
            for dotted in _globals_of_one(stream, len(data), name):
                found[dotted] = None
        except SegcliError:
            raise
        except (ValueError, EOFError, UnicodeDecodeError) as error:
            if number == 4:  # the storages follow; torch says whether they are whole
                break
            raise ModelError(f"{name}: a truncated or corrupt pickle ({len(data)} bytes): {error}") from error
    return list(found)


def _globals_of_one(stream: io.BytesIO, size: int, name: str) -> Iterator[str]:
    """The dotted names of the globals in the pickle that a stream of so many bytes is at; errors as of `globals_in`."""
    texts: list[str | None] = []
    memo: dict[int, str | None] = {}
    for op, arg, _ in pickletools.genops(stream):
        if op.name in ("GLOBAL", "INST"):
            yield ".".join(str(arg).split(" ", 1))
        elif op.name == "STACK_GLOBAL":
            if len(texts) < 2 or None in texts[-2:]:
                raise ModelError(f"{name}: a pickle that makes up a name while it is read: not allowed")
            yield f"{texts[-2]}.{texts[-1]}"
        elif op.name.startswith("EXT"):
            raise ModelError(f"{name}: a pickle with extension code {arg}: not allowed")
        if "UNICODE" in op.name or op.name in ("STRING", "BINSTRING", "SHORT_BINSTRING"):
            texts.append(str(arg))
        elif op.name == "MEMOIZE":
            memo[len(memo)] = texts[-1] if texts else None
        elif op.name in ("PUT", "BINPUT", "LONG_BINPUT"):
            if int(arg or 0) > size:  # Python's reader would make room for all numbers below
                raise ModelError(f"{name}: a pickle that numbers its parts beyond its size: not allowed")
            memo[int(arg or 0)] = texts[-1] if texts else None
        elif op.name in ("GET", "BINGET", "LONG_BINGET"):
            texts.append(memo.get(int(arg or 0)))


class _Uncallable(type):
    """Of a stand-in: pickle may make one, but calling the class, as REDUCE does, is refused by name."""

    def __call__(cls, *args: object, **kwargs: object) -> Content:
        raise _Called(cls.__name__)


class _Called(Exception):
    """A pickle tried to call a global that is no part of reading tensors."""


class StandIn(metaclass=_Uncallable):
    """What a class that is not needed for weights becomes: an object that holds and does nothing.

    Its class bears the global's dotted name.
    """

    def __new__(cls, *args: object) -> StandIn:
        return object.__new__(cls)

    def __setstate__(self, state: Content) -> None:
        """What the object was is dropped."""


def _inert(*args: object) -> None:
    """What a harmless value that is made by a call (a date, a path) becomes."""


class _Kind:
    """What a NumPy type becomes: of its state the byte order alone is taken.

    The rest of it would say where objects lie in an array's bytes, and what lies there would be followed.
    """

    def __init__(self, code: Content, *how: object) -> None:
        if not isinstance(code, str):
            raise ModelError(f"a NumPy type that is given as {type(code).__name__}: not allowed")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Content) -> None:
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class _Values(np.ndarray[Any, Any]):
    """A NumPy array that is filled with the values of a type; rows of several types are dropped."""

    def __setstate__(self, state: Content) -> None:
        version, shape, kind, order, values = state
        if isinstance(values, list) and len(values) != math.prod(shape):  # NumPy would read on behind the list
            raise ModelError(f"an array of {len(values)} objects that claims to have the shape {shape}: not allowed")
        if isinstance(values, list) == (kind.dtype.kind == "O"):
            super().__setstate__((version, shape, kind.dtype, order, values))


def _scalar(kind: _Kind, data: bytes | str) -> Content:
    """A NumPy scalar: a number, a text, a date."""
    if kind.dtype.kind not in "biufcSUMmV":
        raise ModelError(f"a NumPy scalar of the type {kind.dtype}: not allowed")
    raw = data.encode("latin1") if isinstance(data, str) else data
    return np.frombuffer(raw, kind.dtype, 1)[0] if kind.dtype.itemsize else kind.dtype.type()


# NumPy's own class would lay an array of objects over any bytes, and follow what they say is an address.
_ARRAY = _Uncallable("numpy.ndarray", (StandIn,), {})


def _array(kind: Content, shape: tuple[int, ...], code: Content) -> Content:
    """An empty NumPy array, which pickle fills afterwards."""
    if kind is not _ARRAY:
        raise ModelError(f"an array of the class {kind}: not allowed")
    return _Values((0,), "b")


def _buffer(data: bytes, kind: _Kind, shape: tuple[int, ...], order: Content) -> Content:
    """A NumPy array as pickle protocol 5 writes it."""
    return np.frombuffer(data, kind.dtype).reshape(shape, order="F" if order == "F" else "C").copy()


def _text(text: str, encoding: str = "latin1") -> bytes:
    """Bytes, which protocol 2 writes as text."""
    if encoding.replace("-", "").lower() not in ("latin1", "iso88591", "ascii", "utf8"):
        raise ModelError(f"bytes in the encoding {encoding!r}: not allowed")
    return text.encode(encoding)


# Reviewed: each makes a plain value and touches nothing else. Both spellings of NumPy's private module are in files.
NUMPY: dict[str, Maker] = {
    "numpy.dtype": _Kind,
    "numpy.ndarray": _ARRAY,
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray._reconstruct": _array for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": _buffer for core in ("core", "_core")},
}


_CONTAINERS: dict[str, Maker] = {
    "collections.OrderedDict": OrderedDict,
    "_codecs.encode": _text,
    "builtins.set": set,
    "__builtin__.set": set,
    "builtins.list": list,
    "__builtin__.list": list,
    "builtins.dict": dict,
    "__builtin__.dict": dict,
}


# Dictionaries with attributes, in which training scripts keep their configuration.
_SETTINGS = (
    "easydict.EasyDict",
    "addict.addict.Dict",
    "yacs.config.CfgNode",
    "fvcore.common.config.CfgNode",
    "mmengine.config.config.ConfigDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "lightning.fabric.utilities.data.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
)


_DATES = ("datetime.datetime", "datetime.date", "datetime.timedelta", "datetime.timezone")


_PATHS = tuple(f"pathlib.{kind}" for kind in ("Path", "PosixPath", "WindowsPath", "PurePosixPath"))


# As values in a configuration they are inert; PyTorch 2 writes Python 2's names.
_TYPES = "int long float complex bool str unicode bytes bytearray tuple frozenset slice range xrange object"


_PLAIN = tuple(f"{place}.{kind}" for place in ("builtins", "__builtin__") for kind in _TYPES.split())


_HARMLESS = (*_DATES, *_PLAIN, *_PATHS, *(name.replace("pathlib", "pathlib._local") for name in _PATHS))


# torch refuses these whatever its list says.
_SYSTEM = ("sys", "os", "posix", "nt", "subprocess", "builtins", "__builtin__", "io", "shutil", "runpy", "importlib")


def allowed() -> set[str]:
    """Every global that may be called."""
    own = torch._weights_only_unpickler._get_allowed_globals()
    return {*own, *NUMPY, *_CONTAINERS, *_SETTINGS, *_HARMLESS, "collections.defaultdict", "collections.deque"}


def unpickled(data: bytes, name: str, names: Iterable[str]) -> Content:
    """What torch's weights-only loader makes of a file whose globals have been listed."""
    strange = [g for g in names if g not in allowed()]
    if unreadable := next((g for g in strange if not g.isprintable()), None):
        raise ModelError(f"{name}: a corrupt pickle that names {unreadable!r}", hint="fetch it again")
    for g in strange:
        if g.split(".", 1)[0] in _SYSTEM:
            raise _unsafe(name, g, strange)
    stand_ins = [(_Uncallable(g, (StandIn,), {}), g) for g in strange]
    arrays = [(_Values, f"{__name__}.{_Values.__name__}")]  # no pickle names it, but one may fill it
    more = {"collections.defaultdict": _default, "collections.deque": _queue}
    known = [(make, g) for g, make in (NUMPY | _CONTAINERS | more | dict.fromkeys(_SETTINGS, OrderedDict)).items()]
    harmless = [(_inert, g) for g in _HARMLESS]
    with warnings.catch_warnings():
        # torch warns of pickle protocols and of its own old storages, which is no news to a user.
        warnings.simplefilter("ignore")
        try:
            return _loaded(data, [*arrays, *stand_ins, *known, *harmless])
        except _Called as error:
            raise _unsafe(name, str(error), strange) from None
        except ModelError as error:
            raise error.about(name) from error
        except (pickle.UnpicklingError, RuntimeError, ValueError, TypeError, LookupError, struct.error) as error:
            cause = cause_of(error)
            if isinstance(error, pickle.UnpicklingError) and strange:
                raise _unsafe(name, strange[0], strange) from None
            if "Unsupported operand" in str(error):
                raise ModelError(
                    f"{name}: a pickle of protocol 4 or later, which PyTorch's safe loader does not read",
                    hint=SAVE_AGAIN,
                ) from None
            raise ModelError(
                f"{name}: a truncated or corrupt checkpoint ({len(data)} bytes): {cause}", hint="fetch it again"
            ) from error
        except (EOFError, AttributeError, AssertionError, OverflowError, RecursionError, MemoryError) as error:
            raise ModelError(f"{name}: a truncated or corrupt checkpoint ({len(data)} bytes)") from error


def _loaded(data: bytes, known: Sequence[tuple[Any, str]]) -> Content:
    """What torch's weights-only loader makes of a file, with more globals allowed for this file alone.

    The loader's list of allowed globals is one for the whole process. A copy of its module has a list of its own, so
    that meanwhile other threads may load no more than ever.
    """
    spec = spec_from_file_location("segcli_weights_only", torch._weights_only_unpickler.__file__)
    assert spec is not None
    assert spec.loader is not None
    loader: Content = module_from_spec(spec)
    spec.loader.exec_module(loader)
    loader._add_safe_globals(known)
    file = io.BytesIO(data)
    load: Content = torch.serialization
    if data[:4] != b"PK\x03\x04":
        return load._legacy_load(file, "cpu", loader, encoding="utf-8")
    with load._open_zipfile_reader(file) as archive:
        if load._is_torchscript_zip(archive):
            raise RuntimeError("a TorchScript program")
        return load._load(archive, "cpu", loader, encoding="utf-8")


def _default(*args: object) -> dict[Any, Any]:
    """A defaultdict becomes a dict: what it would call for a missing key is dropped."""
    return {}


def _queue(*args: object) -> list[Any]:
    """A deque becomes a list."""
    return []


def _unsafe(name: str, culprit: str, strange: Iterable[str]) -> ModelError:
    whole = any(g.startswith("torch.nn.modules.") for g in strange)
    kind = "a whole pickled network, not its tensors" if whole else "an unsafe pickle"
    return ModelError(f"{name}: {kind}; opening it would call {culprit}: not allowed", hint=SAVE_AGAIN)


def plain_pickle(data: bytes, name: str, named: Collection[str] = ()) -> Content:
    """The dicts, lists, texts, numbers and NumPy arrays of a pickle; anything else in it is refused by name.

    named    dotted names of functions that may stand in it: a class of that `__name__` does so, which nothing calls
    """
    for g in globals_in(data, name):
        if g not in NUMPY and g not in _CONTAINERS and g not in named:
            raise _unsafe(name, g, [])
    try:
        return _Plain(io.BytesIO(data), named).load()
    except _Called as error:
        raise _unsafe(name, str(error), []) from None
    except ModelError as error:
        raise error.about(name) from error
    except Exception as error:  # a damaged pickle can raise anything; none of it is code from the file
        raise ModelError(f"{name}: a truncated or corrupt pickle ({len(data)} bytes): {error}") from error


class _Plain(pickle.Unpickler):
    """Finds only what makes plain values, and stand-ins for what is named; nothing is imported."""

    def __init__(self, file: io.BytesIO, named: Collection[str]) -> None:
        super().__init__(file, encoding="latin1")
        self._named = named

    def find_class(self, module: str, name: str) -> Content:
        if f"{module}.{name}" in self._named:
            return _Uncallable(f"{module}.{name}", (StandIn,), {})
        found = (NUMPY | _CONTAINERS).get(f"{module}.{name}")
        if found is None:
            raise ModelError(f"an unsafe pickle; opening it would call {module}.{name}: not allowed")
        return found
