"""Where models lie: the places, the folders in them, one model by its name, folder or file."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from segcli.documents import loads
from segcli.errors import ModelError, SegcliError, near
from segcli.folders import at_home, each_at_home, user_folder
from segcli.formats.streams import bytes_of, reading
from segcli.models.after import dropped
from segcli.models.card import CARD_FILE, NAME, ModelCard, parse, part
from segcli.models.embedded import METADATA_KEY, card_inside, onnx_metadata, safetensors_metadata
from segcli.system import insistently, is_plain, one_process, opened

_FORMER = ".former"


def file_sha256(path: Path) -> str:
    """The sum of a file's bytes, as cards and records state it."""
    with opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def places() -> list[Path]:
    """Where models are looked for, first match wins: $SEGCLI_WEIGHTS, the checkout, the package, the user's folder."""
    found = [Path(p) for p in each_at_home(os.environ.get("SEGCLI_WEIGHTS", "")).split(os.pathsep) if p]
    return [*found, *shipped(), data_home() / "models"]


def shipped() -> list[Path]:
    """Where models lie that come with segcli: in a checkout beside the package, and in the package."""
    here = Path(__file__).resolve().parents[1]
    checkout = [here.parent / "weights"] if (here.parent / "pyproject.toml").is_file() else []
    return [*checkout, here / "weights"]


def data_home() -> Path:
    """The user's folder for models."""
    return user_folder("data")


def cache_home() -> Path:
    """The user's folder for what can be made again."""
    return user_folder("cache")


@dataclass(frozen=True)
class Found:
    """A model folder that the search came across; `problem` is why it cannot be used, or None."""

    name: str
    folder: Path
    card: ModelCard | None
    problem: str | None


def installed() -> list[Found]:
    """Every model in every place, shadowed ones left out."""
    out: dict[str, Found] = {}
    for place in filter(Path.is_dir, places()):
        for former in place.glob(f".*{_FORMER}"):
            put_back(place / former.name[1 : -len(_FORMER)])
        for folder in sorted(p for p in place.iterdir() if p.name[0] != "." and _has_card(p)):
            if folder.name not in out:
                out[folder.name] = _found(folder)
    return list(out.values())


def _found(folder: Path) -> Found:
    """What a model folder is, and why it cannot be used: a wrong card, or neither all weights nor the ONNX file."""
    try:
        card = read_card(folder)
        if card.parts or card.rough:
            models_of(card)
    except SegcliError as error:
        return Found(folder.name, folder, None, error.message)
    lacking = [name for name in card.weights if not (folder / name).is_file()]
    usable = not lacking or (card.onnx is not None and (folder / card.onnx).is_file())
    return Found(folder.name, folder, card, None if usable else f"lacks {', '.join(lacking)}")


def _has_card(folder: Path) -> bool:
    """Whether a folder is a model's; one that we may not look into is not."""
    try:
        return (folder / CARD_FILE).is_file()
    except PermissionError:
        return False


def find(model: str) -> ModelCard:
    """The card of a model given by name, folder or file (model.json, an .onnx or .safetensors with a card inside).

    errors   ModelError (78): no such model, with the nearest name; or what is wrong with its card
    """
    if not model:
        raise ModelError("a model has an empty name", hint="`segcli models` lists what there is")
    path = Path(at_home(model))
    put_back(path)
    named = is_plain(model) and model[0] != "."
    if named and not _has_card(path):  # what else lies here by that name may be an output folder
        for place in places():
            put_back(place / model)
            if _has_card(place / model):
                return read_card(place / model)
    if path.is_dir():
        return read_card(path)
    if path.is_file():
        return read_card(path.parent) if path.name == CARD_FILE else _embedded(path)
    from segcli.models import catalogue, in_place  # both look for models by the functions above

    if named and (folder := in_place.found(model)) is not None:
        return read_card(folder)
    if (known := catalogue.entries().get(model)) is not None:
        raise ModelError(f"the model {model} is not here", hint=known.way)
    names = [*(f.name for f in installed()), *catalogue.entries()]
    raise ModelError(
        f"no model {model!r} found" + near(model, names),
        hint="`segcli models` lists what there is; a folder or a file can be given too",
    )


def former_name(folder: Path) -> Path:
    """What a model is called while another one takes its name, on disks that cannot do that in one step."""
    return folder.with_name(f".{folder.name}{_FORMER}")


def put_back(folder: Path) -> None:
    """A model has its name again that an import took away and was killed before it gave it to another one."""
    former = former_name(folder) if folder.name else folder
    if os.path.lexists(folder) or not (former / CARD_FILE).is_file():
        return
    with suppress(OSError), one_process(folder.parent):  # waits for an import that is still running
        if not os.path.lexists(folder):
            insistently(lambda: former.rename(folder))


def previous_of(card: ModelCard) -> ModelCard:
    """The model whose labels a cascade's second one sees: beside its folder, else found by name.

    errors   ModelError (78): it is not there, is of several models, or sees or labels something else
    """
    earlier = _other(card, str(card.previous), "first model")
    made, shown = ({x.id for x in one.labels} for one in (earlier, card))
    nowhere = {x.id for x in card.labels if x.name in dropped(card.after)}
    if earlier.channels != card.channels or made not in (shown, shown - nowhere):
        raise ModelError(f"{card.name}: its first model {earlier.name} has other channels or label values")
    if earlier.previous or earlier.parts or earlier.rough:
        raise ModelError(f"{card.name}: its first model {earlier.name} is made of models itself")
    return earlier


def parts_of(card: ModelCard) -> list[ModelCard]:
    """The models that a model is made of: those that lie beside its folder, else those that are found by name.

    errors   ModelError (78): one is not there, sees other channels, or is made of models itself
    """
    found = []
    for name in card.parts:
        own = _other(card, name, "part")
        if own.channels != card.channels:
            seen = f"it sees {', '.join(own.channels)}, not {', '.join(card.channels)}"
            raise ModelError(f"{card.name}: {name} is no part of it: {seen}")
        for what, said in (
            (own.parts, "is made of parts itself"),
            (own.rough, "has a rough model before it"),
            (own.after and own.after_at == "scan", "has steps after its network that are done at the scan"),
        ):
            if what:
                raise ModelError(f"{card.name}: its part {name} {said}, which a part cannot have")
        if not {s.name for s in own.structures} & {label.name for label in card.labels}:
            raise ModelError(f"{card.name}: its part {name} has no structure of the same name")
        found.append(own)
    return found


def needed(card: ModelCard, parts: Sequence[ModelCard], names: Collection[str]) -> list[ModelCard]:
    """The parts that label something of what is wanted; all of them where steps follow, or one bounds the others.

    names    of structures; empty for all
    """
    if card.after or card.fusion == "within" or not names:
        return list(parts)
    return [own for own in parts if {label.name for label in own.structures} & set(names)]


def rough_of(card: ModelCard) -> ModelCard | None:
    """The model that finds where a model looks: one that lies beside its folder, else one that is found by name.

    errors   ModelError (78): it is not there, sees other channels, lacks a structure, or leads back to the model
    """
    own = _rough(card)
    seen, last = [_place(card)], own
    while last is not None:
        if _place(last) in seen:
            raise ModelError(f"{card.name}: its rough model {last.name} has itself for a rough model")
        seen.append(_place(last))
        last = _rough(last)
    return own


def _place(card: ModelCard) -> tuple[Path | None, str | None]:
    """Where a model lies: in a folder, or as one of several files of it."""
    return card.folder, card.onnx


def _rough(card: ModelCard) -> ModelCard | None:
    if card.rough is None:
        return None
    own = _other(card, card.rough.model, "rough model")
    if own.channels != card.channels:
        seen = f"sees {', '.join(own.channels)}, not {', '.join(card.channels)}"
        raise ModelError(f"{card.name}: its rough model {own.name} {seen}")
    known = {label.name for label in own.structures}
    if lacking := [name for name in card.rough.names if name not in known]:
        raise ModelError(f"{card.name}: its rough model {own.name} labels no {lacking[0]}")
    return own


def models_of(card: ModelCard) -> list[ModelCard]:
    """Every model with a network of its own that labels a scan where this one is run, in the order in which they do."""
    rough = rough_of(card)
    return [*(models_of(rough) if rough else ()), *(parts_of(card) or [card])]


def _other(card: ModelCard, name: str, what: str) -> ModelCard:
    """A model that another one names: a file or a folder in its own, a folder beside it, or as the user would name it.

    errors   ModelError (78): there is none
    """
    if card.folder and re.fullmatch(NAME, name):
        if name.endswith(".onnx"):
            return _embedded(part(card.folder, name))
        for folder in (card.folder / name, card.folder.parent / name):
            if (folder / CARD_FILE).is_file():
                return read_card(folder)
    try:
        return find(name)
    except ModelError as error:
        raise ModelError(f"{card.name}: its {what} {name} cannot be used: {error.message}", hint=error.hint) from error


def read_card(folder: Path) -> ModelCard:
    """The card of a model folder."""
    path = folder / CARD_FILE
    if not path.is_file():
        raise ModelError(
            f"{folder.name or folder.resolve().name}: {CARD_FILE} not found",
            hint="a model folder holds model.json and its weights; `segcli models import` makes one",
        )
    return parse(loads(bytes_of(path, ModelError), f"{folder.name}/{CARD_FILE}"), folder)


def _embedded(path: Path) -> ModelCard:
    """The card inside an exported file, which then is its own weights."""
    inside = {".onnx": onnx_metadata, ".safetensors": safetensors_metadata}.get(path.suffix)
    if inside is None:
        raise ModelError(
            f"{path.name}: not a model folder, an .onnx or a .safetensors file",
            hint="`segcli models import` turns a checkpoint into a model folder",
        )
    with reading(path):
        text = inside(path).get(METADATA_KEY)
    if text is None:
        raise ModelError(
            f"{path.name}: has no segcli card inside",
            hint="`segcli models import` makes a model folder of it",
        )
    document = card_inside(text, path)
    own = {"onnx": path.name, "weights": []} if path.suffix == ".onnx" else {"weights": path.name, "onnx": None}
    kept = {k: v for k, v in document.items() if k not in ("sha256", "onnx_sha256", "weights", "onnx")}
    return parse({**kept, **own}, path.resolve().parent)
