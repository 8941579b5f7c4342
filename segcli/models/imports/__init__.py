"""Make a model folder (card, safetensors, sums) of what people own: checkpoints, nnU-Net folders, MONAI bundles.

inspect(path)            what a file or folder is, without running code from it
adopt(path, to=FOLDER)   a model folder of it; facts it does not state are named with the option that gives them
verify(folder)           whether a model folder is what it was when it was made
options(...)             the command line's texts as fields of a card
recipes()                cards without weights, for published checkpoints

The story, each step made once: what lies at the path is read as a `ModelSource`, tensors and statements (folder.py,
and a file for each kind of container); tensors and statements tell the network, a `Recognised`; with the user's word
the card's document follows (document.py); card and weights are written whole or not at all (written.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from segcli.documents import Document, Facts, loads
from segcli.errors import ModelError
from segcli.formats.streams import bytes_of
from segcli.models import card, checkpoint, embedded, library, weights
from segcli.models.card import ModelCard
from segcli.models.imports import document
from segcli.models.imports.folder import source_at
from segcli.models.imports.options import options
from segcli.models.imports.recognise import Recognised, recognise
from segcli.models.imports.source import ModelSource, Stated, WhichModel
from segcli.models.imports.written import DIGEST_KEY, json_able, unclaimed, write
from segcli.models.library import file_sha256
from segcli.networks.registry import Inferred

ANY = WhichModel()


@dataclass(frozen=True)
class Inspection:
    """What a file is; every field is plain JSON.

    container   in words
    network     the family, with the constructor's `arguments`
    tensors     of one fold; parameters likewise
    found       the fields of a card that the container states
    missing     facts that it does not state: name -> the option that gives it
    notes       what was dropped, taken or not understood
    """

    path: str
    container: str
    network: str
    arguments: Document
    inputs: int | None
    outputs: int | None
    folds: int
    tensors: int
    parameters: int
    types: list[str]
    found: Document
    missing: dict[str, str]
    notes: list[str]


def inspect(path: Path, *, arch: str | None = None, wanted: WhichModel = ANY) -> Inspection:
    """Say what a checkpoint, folder, archive or graph is; no code from it is run.

    errors   ModelError (78): unsafe, damaged, or of no kind that segcli knows
    """
    with _read(path, arch, None, wanted) as (source, network, stated):
        tensors = network.folds[0] if network.folds else {}
        return Inspection(
            path=str(path),
            container=source.container,
            network=network.family,
            arguments=json_able({k: v for k, v in network.arguments.items() if k not in network.open}),
            inputs=network.inputs,
            outputs=network.outputs,
            folds=len(network.folds),
            tensors=len(tensors),
            parameters=sum(tensors[n].numel() for n in network.live() if tensors[n].is_floating_point()),
            types=sorted({str(t.dtype).removeprefix("torch.") for t in tensors.values()}),
            found=json_able(stated.fields),
            missing=document.missing(stated.fields, network),
            notes=document.notes(source, network, stated),
        )


def adopt(
    path: Path,
    *,
    to: Path,
    arch: str | None = None,
    recipe: str | None = None,
    wanted: WhichModel = ANY,
    name: str | None = None,
    given: Facts | None = None,
    around: Callable[[Facts], Facts] = lambda fields: {},
    replace: bool = False,
    tell: Callable[[str], None] = lambda _: None,
    tried: Callable[[ModelCard], Sequence[str] | None] = lambda _: None,
) -> Path:
    """Make the model folder `to`/NAME, whole or not at all.

    arch     chooses among networks that fit the tensors equally; a JSON object after the name states arguments that
             no tensor tells: 'segresnet {"norm": ["GROUP", {"num_groups": 2}]}'
    recipe   the name of a card without weights, or a path to one; its network must be the file's exactly
    wanted   which of several models at the path: a table of tensors, a configuration of nnU-Net and its folds
    given    fields of the card that the user states (see `options`); they win over the container, it over the recipe
    around   gives fields that are other ones where another program runs the model; they win over all
    replace  whether a folder of that name is replaced
    tell     takes a sentence each about what was guessed, dropped or not understood, once the folder is made
    tried    runs a graph once before its folder gets its name; it raises ModelError for one that gives no logits, and
             returns the engines that answer with it as is meant, None for all
    errors   ModelError (78): unsafe, damaged, not of the network; facts that are missing, each with its option;
             OutputExists (73)
    """
    known = _recipe(recipe) if recipe else None
    with _read(path, arch, known, wanted) as (source, network, stated):
        fields = document.fields(stated, network, known, given or {}, path)
        fields |= around(fields)
        if (order := fields.pop("outputs", None)) is not None:
            network = network.in_order(order)
        title = document.title(name or fields.get("name"), path)
        if source.previous is not None:
            fields["previous"] = f"{title}-first"
        document.complete(fields, source, network, stated, path)
        draft = document.of(fields, source, network, stated, title)
        nothing: Document = {"weights": [], "sha256": [], "onnx": None, "onnx_sha256": None}
        checked = card.parse({**draft, **nothing})  # before any writing
        if network.folds:
            network = document.windowed(network, checked, path)
            draft = document.of(fields, source, network, stated, title)
        if source.previous is not None:
            unclaimed(to / title, replace=replace)
            for fold in network.folds:  # what is wrong with them is told before the first model takes its name
                weights.filled_network(fold, network.family, network.arguments, path.name)
            folds = WhichModel(folds=wanted.folds)
            named = {key: value for key, value in (given or {}).items() if key == "labels"}
            adopt(source.previous, to=to, wanted=folds, name=fields["previous"], given=named, replace=replace)
        try:
            folder = write(draft, network, source.onnx, to / title, replace=replace, tried=tried)
        except ModelError as error:  # about a file that is gone with the folder
            raise error.about(path.name) from error
        for note in document.notes(source, network, stated):
            tell(note)
        return folder


def verify(folder: Path) -> ModelCard:
    """The card of a model folder whose files, and those of its parts and rough models, are those it was made with.

    errors   ModelError (78) naming the first part that is missing or was changed, or that does not fit
    """
    found = library.read_card(folder)
    _verify(found)
    return found


def _verify(found: ModelCard) -> None:
    earlier = library.previous_of(found) if found.previous else None
    for other in filter(None, (library.rough_of(found), earlier, *library.parts_of(found))):
        _verify(other)
    assert found.folder is not None  # it was read from there
    for fold, file in enumerate(found.weights):
        weights.network_of(found, fold)
        path = found.file(file)
        if path.suffix == ".safetensors":
            said = embedded.safetensors_metadata(path).get(DIGEST_KEY)
            if said is not None and said != checkpoint.digest(checkpoint.innermost_table(checkpoint.read(path))):
                raise ModelError(f"{found.folder.name}/{file}: the tensors are not those that it was made with")
    if found.onnx is not None:
        said = found.onnx_sha256
        total = file_sha256(found.file(found.onnx))
        if said is not None and said != total:
            raise ModelError(
                f"{found.folder.name}/{found.onnx}: the checksum {total} does not match the {said} of model.json"
            )


def recipes() -> dict[str, Path]:
    """Cards without weights by name: the `recipes` folder in each place where models are looked for."""
    found: dict[str, Path] = {}
    for place in library.places():
        for path in sorted((place / "recipes").glob("[!.]*.json")):
            found.setdefault(path.stem, path)
    return found


@contextmanager
def _read(
    path: Path, arch: str | None, recipe: ModelCard | None, wanted: WhichModel
) -> Iterator[tuple[ModelSource, Recognised, Stated]]:
    """What lies at a path, its network, and what it states of the network's card."""
    expected = Inferred(recipe.architecture.name, dict(recipe.architecture.arguments)) if recipe else None
    with source_at(path, told=arch is not None or recipe is not None, wanted=wanted) as source:
        network = recognise(source, arch, expected)
        stated = source.states(network)
        yield source, network.with_tensors(stated.replaced), stated


def _recipe(recipe: str) -> ModelCard:
    path = Path(recipe) if recipe.endswith(".json") else recipes().get(recipe)
    if path is None or not path.is_file():
        known = ", ".join(sorted(recipes())) or "none"
        raise ModelError(f"no recipe {recipe!r} found", hint=f"there are: {known}")
    return card.parse(loads(bytes_of(path, ModelError), path.name))


__all__ = ["Inspection", "WhichModel", "adopt", "inspect", "options", "recipes", "verify"]
