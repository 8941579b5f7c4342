"""Networks, one a file: build one by name, or tell from tensor names and shapes which one it is.

A package offers a module of the same kind through the entry points "segcli.networks": FAMILIES (name -> what makes the
network), and as far as there is something to say `infer`, INERT, SMALL (name -> Small) and ABOUT.

The defaults of segcli's own networks are stored for those who have no torch:

    python -m segcli.networks.registry > segcli/schemas/networks.json
"""

import inspect
import json
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from segcli.documents import Document, Facts
from segcli.errors import ModelError, SegcliError, question
from segcli.packages import added

CLASSES = 3  # of every small network

Shapes = Mapping[str, tuple[int, ...]]
Differences = dict[str, tuple[tuple[int, ...] | None, tuple[int, ...] | None]]


@dataclass(frozen=True)
class Inferred:
    """What tensor names and shapes tell about a network.

    unsure  of each argument that shapes cannot tell a sentence with the value taken
    notes   what else is to be said, a sentence each
    open    arguments of which no value is likelier than others: that in `config` only makes the tensors fit
    """

    family: str
    config: Document
    unsure: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    open: tuple[str, ...] = ()


@dataclass(frozen=True)
class About:
    """What a network is, for people.

    paper    and whose implementation it follows
    untold   what its tensors do not tell
    weights  of public weights: that there are none, or where they are and why the catalogue lacks them
    """

    title: str
    paper: str
    form: str
    untold: str = ""
    weights: str = ""


@dataclass(frozen=True)
class Small:
    """Arguments that make a network small, and its window, for benchmarks and tests.

    size      voxels per axis of the window; one voxel deep for a network of slices
    counted   what the family calls its channels and its classes
    channels  how many it is given; its classes are CLASSES
    """

    arguments: Facts
    size: tuple[int, int, int] = (32, 32, 32)
    counted: tuple[str, str] = ("in_channels", "out_channels")
    channels: int = 1

    @property
    def all_arguments(self) -> Document:
        channels, classes = self.counted
        return {**self.arguments, channels: self.channels, classes: CLASSES}


def build(family: str, config: Facts) -> nn.Module:
    """A network of a family, in evaluation mode, with the weights it is initialised with.

    family  a name in some module's FAMILIES, with or without a variant ("uxnet3d_amos"), or a class
            ("uxnet3d.UXNet3D")
    config  constructor arguments in the terms of the official code; unknown ones are errors
    """
    make = _maker(family)
    known = inspect.signature(make).parameters
    for argument in config:
        if argument not in known:
            raise ModelError(
                f"{family} has no argument {argument!r}", hint=_nearest(argument, known, f"{family} takes")
            )
    needed = [p.name for p in known.values() if p.default is p.empty and p.name not in config]
    if needed:
        raise ModelError(f"{family} needs {', '.join(needed)}", hint="add it to the card's architecture")
    dims = config.get("spatial_dims", 3)
    if dims not in (2, 3):
        raise ModelError(f"{family} of spatial_dims {dims!r}: segcli runs networks of 2 and 3 dimensions")
    try:
        with _few_tensors(family):
            return make(**config).eval()
    except SegcliError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:  # a size no convolution can have, a string for a number
        raise ModelError(f"{family} cannot be built: {error}", hint="compare the card's architecture") from error
    except (LookupError, AttributeError, ArithmeticError) as error:  # lists of another length, a number for a string
        raise ModelError(
            f"{family} cannot be built of these arguments ({type(error).__name__}: {error})",
            hint="compare the card's architecture",
        ) from error


_MOST = 5_000  # tensors of a network; the largest that segcli knows have some hundreds


@contextmanager
def _few_tensors(family: str) -> Iterator[None]:
    """Refuse, while it is built, a network of so many layers that building it would take hours and all memory."""
    mine, left = threading.get_ident(), _MOST

    def count(*_: object) -> None:
        nonlocal left
        left -= threading.get_ident() == mine
        if left < 0:
            raise ModelError(f"{family} of more than {_MOST:,} tensors: no such network is known")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def infer(shapes: Shapes) -> tuple[Inferred, ...]:
    """Every network that has exactly these tensors, inert ones aside; empty when there is none."""
    return tuple(guess for guess, different in _told(shapes) if not different)


def foreign_tensors(shapes: Shapes) -> tuple[str, ...]:
    """Names of the tensors beside a network that is whole in a file; empty when there is no such network.

    They begin with a word that no tensor of the network begins with (`loss_fn.weight`), and are fewer than its own.
    """
    found = (foreign_tensors_beside(shapes, different) for _, different in _told(shapes))
    return min((names for names in found if names), key=len, default=())


def foreign_tensors_beside(shapes: Shapes, different: Differences) -> tuple[str, ...]:
    """Names of the tensors beside a network that differs from a file thus; empty where it differs otherwise."""
    own = {name.partition(".")[0] for name in shapes if name not in different}
    foreign = all(ours is None and name.partition(".")[0] not in own for name, (ours, _) in different.items())
    return tuple(different) if foreign and 2 * len(different) < len(shapes) else ()


def closest(shapes: Shapes) -> Inferred | None:
    """The network that differs in the fewest tensors, of the sizes that the tensors tell, else of default sizes.

    returns  None when more than half of the file's tensors are not the network's
    """
    told = min(_told(shapes), key=lambda one: len(one[1]), default=None)
    if told is not None and 2 * len(told[1]) <= len(shapes):
        return told[0]
    near = nearest(shapes)
    own = _default_names(near[0]) if near is not None else None
    if near is None or own is None or 2 * len(own & shapes.keys()) < len(shapes):
        return None
    return Inferred(near[0], {})


def nearest(names: Iterable[str]) -> tuple[str, int] | None:
    """The family, at its default sizes, that shares most tensor names with a file, and how many percent of all names.

    returns  None when less than a tenth are shared; families without default sizes are not compared
    """
    found = set(names)
    best: tuple[str, int] | None = None
    for family in sorted({name for module in _modules() for name in _families(module)}):
        own = _default_names(family)
        if own is None:
            continue
        live_ones = set(live(family, found))
        percent = round(100 * len(own & live_ones) / len(own | live_ones))
        if percent >= 10 and (best is None or percent > best[1]):
            best = family, percent
    return best


@cache
def _default_names(family: str) -> frozenset[str] | None:
    """The tensor names of a family at its default sizes; None for one that has none."""
    try:
        with torch.device("meta"):
            return frozenset(build(family, {}).state_dict())
    except ModelError:
        return None


def small_networks() -> dict[str, Small]:
    """Every family whose module has a small size for it, in the order of their names."""
    found: dict[str, Small] = {}
    for module in _modules():
        found |= getattr(module, "SMALL", {})
    return dict(sorted(found.items()))


def known() -> dict[str, tuple[About | None, tuple[str, ...]]]:
    """Every network by the first of its names: what it is, where its module says so, and all its names."""
    found = {}
    for module in _modules():
        if names := tuple(getattr(module, "FAMILIES", {})):
            found[names[0]] = (getattr(module, "ABOUT", None), names)
    return dict(sorted(found.items()))


def defaults() -> dict[str, Document]:
    """Every family and class of segcli's own: its class, the defaults of its arguments, and what the family fixes."""
    found: dict[str, Document] = {}
    for room in _own():
        for name, make in _families(import_module(f"{__package__}.{room}")).items():
            kind = _class(make)
            own = {p.name: p.default for p in inspect.signature(kind).parameters.values() if p.default is not p.empty}
            fixed = dict(make.keywords) if isinstance(make, partial) else {}
            path = f"{room}.{kind.__name__}"
            for called, fixes in ((name, fixed), (path, {})):
                found[called] = {"class": path, "defaults": own, "fixed": fixes}
    return dict(sorted(found.items()))


def outputs(family: str, config: Facts) -> int | None:
    """How many channels a network gives; None where its arguments do not say."""
    if isinstance(asked := config.get("classes"), list | tuple):
        return 1 + len(asked)
    known = inspect.signature(_maker(family)).parameters
    for name in ("out_chans", "out_channels", "num_classes", "output_dim", "n_classes"):
        if name in known:
            value = config.get(name, known[name].default)
            return value if isinstance(value, int) else None
    return None


def _told(shapes: Shapes) -> list[tuple[Inferred, Differences]]:
    """What each module takes the tensors for, and how they differ from it; damaged files have shapes of no network."""
    found = []
    for module in _modules():
        try:
            guess: Inferred | None = module.infer(shapes) if hasattr(module, "infer") else None
            if guess is not None:
                found.append((guess, differences(guess, shapes)))
        except (KeyError, IndexError, ValueError, ZeroDivisionError, ModelError):
            continue
    return found


def differences(guess: Inferred, shapes: Shapes) -> Differences:
    """Tensors in which a network and a file differ: name -> (shape in the network, shape in the file)."""
    with torch.device("meta"):
        net = build(guess.family, guess.config)
    ours = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    theirs = {name: tuple(shapes[name]) for name in live(guess.family, shapes)}
    names = sorted(ours.keys() | theirs.keys())
    return {name: (ours.get(name), theirs.get(name)) for name in names if ours.get(name) != theirs.get(name)}


def live(family: str, names: Iterable[str]) -> list[str]:
    """The tensor names that matter to a family: those its module's INERT does not match."""
    module = inspect.getmodule(_class(_maker(family)))
    inert = [re.compile(pattern) for pattern in getattr(module, "INERT", ())]
    return [name for name in names if not any(pattern.fullmatch(name) for pattern in inert)]


def length(shapes: Iterable[str], prefix: str) -> int:
    """How many members `prefix`0, `prefix`1, ... a list of blocks has."""
    following = "".join(f"\0{name}." for name in shapes)
    count = 0
    while f"\0{prefix}{count}." in following:
        count += 1
    return count


def _maker(family: str) -> Callable[..., nn.Module]:
    room, _, name = family.rpartition(".")
    if room and name.isidentifier():  # not the dot of a version number
        return _named_class(room, name)
    makers: dict[str, Callable[..., nn.Module]] = {}
    for module in _modules():
        makers |= _families(module)
    fitting = [known for known in makers if family == known or family.startswith(f"{known}_")]
    if not fitting:
        raise ModelError(f"no network is called {family!r}", hint=_nearest(family, makers, "there are"))
    return makers[max(fitting, key=len)]


def _named_class(room: str, name: str) -> Callable[..., nn.Module]:
    module = import_module(f"{__package__}.{room}") if room in _own() else _added().get(room)
    if module is None:
        raise ModelError(f"no network is called '{room}.{name}'", hint=_nearest(room, (*_own(), *_added()), "modules:"))
    networks = {_class(make).__name__: _class(make) for make in _families(module).values()}
    if name not in networks:
        raise ModelError(f"no network is called '{room}.{name}'", hint=_nearest(name, networks, f"{room} has"))
    return networks[name]


def _class(make: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    return make.func if isinstance(make, partial) else make  # families that fix an argument are partials


@cache
def _own() -> tuple[str, ...]:
    """The names of the modules beside this one."""
    return tuple(found.name for found in iter_modules([str(Path(__file__).parent)]) if found.name != "registry")


@cache
def _added() -> Mapping[str, ModuleType]:
    """The modules of installed packages by the names of their entry points; errors as in `packages.added`."""
    own = [name for room in _own() for name in (room, *_families(import_module(f"{__package__}.{room}")))]
    return added("network", ModuleType, _families, own)


def _modules() -> Iterator[ModuleType]:
    yield from _added().values()
    for room in _own():
        yield import_module(f"{__package__}.{room}")


def _families(module: ModuleType) -> Mapping[str, Callable[..., nn.Module]]:
    return getattr(module, "FAMILIES", {})


def _nearest(name: str, known: Iterable[str], introduction: str) -> str:
    names = list(known)
    return question(name, names) or f"{introduction} {', '.join(sorted(names))}"


if __name__ == "__main__":
    lines = (f" {json.dumps(name)}: {json.dumps(own)}" for name, own in defaults().items())
    sys.stdout.write("{\n" + ",\n".join(lines) + "\n}\n")
