"""Make a model folder (card, safetensors, sums) of what people own: checkpoints, nnU-Net folders, MONAI bundles.

inspect(path)            what a file or folder is, without running code from it
adopt(path, to=FOLDER)   a model folder of it; facts it does not state are named with the option that gives them
verify(folder)           whether a model folder is what it was when it was made
options(...)             the command line's texts as fields of a card
recipes()                cards without weights, for published checkpoints
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch

from segcli.errors import ModelError, OutputExists, UsageError
from segcli.formats.atomic import partial_name, translated, write_bytes
from segcli.models import card, embedded, library, weights
from segcli.models.card import CARD_FILE, ModelCard
from segcli.models.document import FORMAT
from segcli.models.embedded import METADATA_KEY
from segcli.models.imports import bundle, files, nnunet
from segcli.models.imports.draft import NEEDED, SIZES, Draft, answers, resized, shapes_of, slug, unpacked
from segcli.models.library import file_sha256
from segcli.networks import registry
from segcli.networks.registry import Inferred

DIGEST_KEY = "tensors_sha256"


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
    arguments: dict[str, Any]
    inputs: int | None
    outputs: int | None
    folds: int
    tensors: int
    parameters: int
    types: list[str]
    found: dict[str, Any]
    missing: dict[str, str]
    notes: list[str]


def inspect(path: Path, *, arch: str | None = None) -> Inspection:
    """Say what a checkpoint, folder, archive or graph is; no code from it is run.

    errors   ModelError (78): unsafe, damaged, or of no kind that segcli knows
    """
    with _drafted(path, arch, None) as draft:
        tensors = draft.folds[0] if draft.folds else {}
        live = registry.live(draft.family, tensors) if tensors else []
        return Inspection(
            path=str(path),
            container=draft.container,
            network=draft.family,
            arguments=_json_able({k: v for k, v in draft.arguments.items() if k not in draft.open}),
            inputs=draft.inputs,
            outputs=draft.outputs,
            folds=len(draft.folds),
            tensors=len(tensors),
            parameters=sum(tensors[n].numel() for n in live if tensors[n].is_floating_point()),
            types=sorted({str(t.dtype).removeprefix("torch.") for t in tensors.values()}),
            found=_json_able(draft.card),
            missing=draft.missing(draft.card),
            notes=[*draft.notes, *_dropped(draft)],
        )


def adopt(
    path: Path,
    *,
    to: Path,
    arch: str | None = None,
    recipe: str | None = None,
    name: str | None = None,
    given: Mapping[str, Any] | None = None,
    replace: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> Path:
    """Make the model folder `to`/NAME, whole or not at all.

    arch     chooses among networks that fit the tensors equally; a JSON object after the name states arguments that
             no tensor tells: 'segresnet {"norm": ["GROUP", {"num_groups": 2}]}'
    recipe   the name of a card without weights, or a path to one; its network must be the file's exactly
    given    fields of the card that the user states (see `options`); they win over the container, it over the recipe
    replace  whether a folder of that name is replaced
    tell     takes a sentence each about what was guessed, dropped or not understood, once the folder is made
    errors   ModelError (78): unsafe, damaged, not of the network; facts that are missing, each with its option;
             OutputExists (73)
    """
    known = _recipe(recipe) if recipe else None
    with _drafted(path, arch, known) as draft:
        fields = {**draft.card, **(given or {})}
        if known is not None:
            # What the container states of its own training wins; the recipe says better where its numbers are from.
            fields = {**known.document, **draft.card, "source": known.source, **(given or {})}
        size = draft.size()
        if size is not None:
            fields.setdefault("patch_size", size)
        if draft.family.startswith("unet3plus") and fields.get("slice_axis") is not None:
            fields.setdefault("padding", "edge")  # its slices are made multiples of 16 that way
        _complete(fields, draft, path)
        title = name or str(fields.get("name") or slug(_stem(path)).replace("_", "-"))
        if not card.NAME.fullmatch(title):
            raise UsageError(f"{title!r} is no name for a model", hint="letters, digits, dots and dashes")
        nothing: dict[str, Any] = {"weights": [], "sha256": [], "onnx": None, "onnx_sha256": None}
        stated = card.parse({**_document(fields, draft, title), **nothing})  # before any writing
        if draft.folds:
            _take_windows(draft, stated, path)
        folder = _written(_document(fields, draft, title), draft, to / title, replace)
        for note in (*draft.notes, *_dropped(draft)):
            tell(note)
        return folder


def verify(folder: Path) -> ModelCard:
    """The card of a model folder whose files are those that it was made with.

    errors   ModelError (78) naming the first part that is missing or was changed, or that does not fit
    """
    found = library.read_card(folder)
    for fold, file in enumerate(found.weights):
        weights.network_of(found, fold)
        path = found.file(file)
        if path.suffix == ".safetensors":
            said = embedded.safetensors_metadata(path).get(DIGEST_KEY)
            if said is not None and said != weights.digest(weights.table(weights.read(path))):
                raise ModelError(f"{folder.name}/{file}: the tensors are not those that it was made with")
    if found.onnx is not None:
        said = found.onnx_sha256
        total = file_sha256(found.file(found.onnx))
        if said is not None and said != total:
            raise ModelError(
                f"{folder.name}/{found.onnx}: the checksum {total} does not match the {said} of model.json"
            )
    return found


def options(
    *,
    labels: str | None = None,
    spacing: str | None = None,
    orientation: str | None = None,
    window: str | None = None,
    normalise: str | None = None,
    patch: str | None = None,
    channels: str | None = None,
    slice_axis: int | None = None,
    slices: int | None = None,
    overlap: float | None = None,
    blend: str | None = None,
) -> dict[str, Any]:
    """Fields of a card from the texts of a command line.

    labels       "background,liver,spleen" in the order of the outputs, "background=0,liver=6", or a JSON file
    spacing      "1.5,1.5,2.0" mm along the model's axes, or "keep"
    orientation  an axes code, or "file" for the order of the file
    window       "LOW,HIGH": clipped, then scaled to 0..1
    normalise    "zscore", "nonzero" (z-score over voxels that are not 0), "none", or "LOW,HIGH,MEAN,SD": clipped, less
                 the mean, by the deviation
    patch        "96,96,96"; two numbers with a slice axis
    slices       how many neighbouring slices a 2-D network sees as channels
    channels     "CT" or "FLAIR,T1,T1c,T2"
    errors       UsageError (2)
    """
    fields: dict[str, Any] = {}
    if labels is not None:
        fields["labels"] = _labels(labels)
    if spacing is not None:
        fields["spacing"] = None if spacing == "keep" else _numbers(spacing, "--spacing", (3,))
    if orientation is not None:
        fields["orientation"] = None if orientation == "file" else orientation.upper()
    if window is not None and normalise is not None:
        raise UsageError("--window and --normalise say two things about intensities", hint="give one of them")
    if window is not None:
        low, high = _numbers(window, "--window", (2,))
        fields["intensity"] = [
            {"step": "clip", "low": low, "high": high},
            {"step": "scale", "low": 0, "high": 1},
            {"step": "outside", "value": 0},
        ]
    if normalise is not None:
        kinds: dict[str, list[dict[str, Any]]] = {
            "zscore": [{"step": "standardise"}],
            "nonzero": [{"step": "standardise", "where": "nonzero"}],
            "none": [],
        }
        if "," in normalise:
            low, high, mean, sd = _numbers(normalise, "--normalise", (4,))
            clip = {"step": "clip", "low": low, "high": high}
            kinds[normalise] = [clip, {"step": "standardise", "mean": mean, "sd": sd}]
        if normalise not in kinds:
            raise UsageError(f"--normalise {normalise}: is not one of {', '.join(kinds)}")
        fields["intensity"] = [*kinds[normalise], {"step": "outside", "value": 0}]
    if slice_axis is not None:
        fields["slice_axis"] = slice_axis
    if slices is not None:
        fields["slices"] = slices
    if patch is not None:
        size = [int(n) for n in _numbers(patch, "--patch", (2, 3))]
        if len(size) == 2:
            if slice_axis is None:
                raise UsageError("--patch with two numbers is for slices", hint="add --slice-axis 0, 1 or 2")
            size.insert(slice_axis, 1)
        fields["patch_size"] = size
    if channels is not None:
        fields["channels"] = [c.strip() for c in channels.split(",")]
    if overlap is not None:
        fields["overlap"] = overlap
    if blend is not None:
        fields["blend"] = blend
    return fields


def recipes() -> dict[str, Path]:
    """Cards without weights by name: the `recipes` folder in each place where models are looked for."""
    found: dict[str, Path] = {}
    for place in library.places():
        for path in sorted((place / "recipes").glob("*.json")):
            found.setdefault(path.stem, path)
    return found


# ---- from a path to a draft -----------------------------------------------------------------------------------------


@contextmanager
def _drafted(path: Path, arch: str | None, recipe: ModelCard | None) -> Iterator[Draft]:
    """The draft of whatever is at a path; archives are unpacked as long as it is in use."""
    if not path.exists():
        raise ModelError(f"{path}: no such file or folder")
    expected = Inferred(recipe.architecture.name, dict(recipe.architecture.arguments)) if recipe else None
    if path.is_file() and path.suffix.lower() == ".zip":
        with unpacked(path) as folder:
            yield _folder(folder, arch, expected, path.name)
    elif path.is_dir():
        yield _folder(path, arch, expected, path.name)
    else:
        yield _file(path, arch, expected)


def _file(path: Path, arch: str | None, expected: Inferred | None) -> Draft:
    if not path.is_file():
        raise ModelError(f"{path.name}: not a regular file")
    if path.suffix == ".onnx":
        return files.graph_file(path)
    if path.suffix == ".model" and Path(f"{path}.pkl").is_file():
        return nnunet.v1_file(path, expected)
    return files.checkpoint_file(path, arch, expected)


def _folder(folder: Path, arch: str | None, expected: Inferred | None, name: str) -> Draft:
    """The one model in a folder or below it."""
    if (folder / CARD_FILE).is_file():
        raise ModelError(f"{name}: is a model folder of segcli already", hint=f"use it as it is: --model {folder}")
    kinds: dict[str, Callable[[Path], Draft]] = {
        "plans.json": nnunet.v2_folder,
        "plans.pkl": lambda place: nnunet.v1_folder(place, expected),
    }
    found = [(path.parent, read) for marker, read in kinds.items() for path in sorted(folder.rglob(marker))]
    # Cross-validation and prediction leave copies of the plans, without folds beside them.
    found = [(place, read) for place, read in found if nnunet.has_folds(place)] or found
    bundles = [path.parent for path in sorted(folder.rglob("configs")) if bundle.is_bundle(path.parent)]
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
        return _file(alone[0], arch, expected)
    raise ModelError(
        f"{name}: neither an nnU-Net folder nor a MONAI bundle, and {len(alone)} checkpoints in it",
        hint="give one checkpoint",
    )


def _dropped(draft: Draft) -> list[str]:
    """A sentence about tensors that have no effect on the output."""
    if not draft.folds:
        return []
    inert = sorted(set(draft.folds[0]) - set(registry.live(draft.family, draft.folds[0])))
    if not inert:
        return []
    return [f"{len(inert)} tensors without effect on the output are left out: {', '.join(inert[:3])}"]


# ---- from a draft to a folder ---------------------------------------------------------------------------------------


def _complete(fields: dict[str, Any], draft: Draft, path: Path) -> None:
    """Refuse a draft that lacks facts, or whose labels and channels are not as many as the network's.

    The facts that are missing are named all at once, each with its option.
    """
    lacking = draft.missing(fields)
    if lacking:
        raise ModelError(
            f"{path.name}: {draft.container}; does not state {', '.join(lacking)}",
            hint="give " + "; ".join(lacking.values()),
        )
    inputs = len(fields["channels"]) * fields.get("slices", 1)
    if draft.inputs is not None and inputs != draft.inputs:
        neighbours = ", or --slices N where a slice is shown with its neighbours" if draft.dims == 2 else ""
        raise ModelError(
            f"{path.name}: the network has {draft.inputs} input channels, not {inputs} "
            f"({', '.join(fields['channels'])})",
            hint=f"give {NEEDED['channels']}{neighbours}",
        )
    count, labels = draft.outputs, fields["labels"]
    if count is None or fields.get("regions") is not None:
        return
    if count == len(labels) - 1:
        # One output fewer than labels: each stands for itself, and background is where none is above one half.
        fields["regions"] = [value for value in labels.values() if value != 0]
    elif count != len(labels):
        raise ModelError(
            f"{path.name}: the network has {count} outputs, not {len(labels)} ({', '.join(labels)[:200]})",
            hint=f"give {NEEDED['labels']}",
        )


def _take_windows(draft: Draft, stated: ModelCard, path: Path) -> None:
    """Make the network's input size that of the card's windows.

    errors   ModelError where the tensors are those of another size, or the network gives no answer of that size, with
             sizes for which it does
    """

    def at(size: Sequence[int]) -> Inferred | None:
        own = Inferred(draft.family, draft.arguments, tuple(draft.notes), draft.open)
        network = own if size == draft.size() else resized(own, size, shapes_of(draft.folds[0]))
        channels = len(stated.channels) * stated.slices
        return network if network and answers(network, channels, size, stated.slice_axis) else None

    size = list(stated.window.size)
    found = at(size)
    if found is None:
        likely = [draft.size(), *_near(size, stated.slice_axis)]
        near = [one for i, one in enumerate(likely) if one and one not in likely[:i] and at(one)][:2]
        told = [note for note in draft.notes if note.startswith(SIZES)]
        raise ModelError(
            f"{path.name}: the network {draft.family} does not take windows of {'×'.join(map(str, size))} voxels"
            + "".join(f" ({note})" for note in told),
            hint=" or ".join(f"--patch {','.join(map(str, one))}" for one in near) + " would do"
            if near
            else "give --patch with the size of its training",
        )
    draft.arguments, draft.notes, draft.open = found.config, list(found.unsure), found.open


def _near(size: Sequence[int], slice_axis: int | None) -> Iterator[list[int]]:
    """Sizes near one, each side a multiple of a power of two, nearest first; a slice stays one voxel thick."""
    for step in (2, 4, 8, 16, 32, 64):
        for round_up in (0, step - 1):
            sides = [max(step, (n + round_up) // step * step) for n in size]
            yield [1 if axis == slice_axis else n for axis, n in enumerate(sides)]


def _document(fields: Mapping[str, Any], draft: Draft, title: str) -> dict[str, Any]:
    """The card's document, its keys in the order of the format."""
    first = {
        "format": FORMAT,
        "name": title,
        "licence": fields.get("licence", "unknown"),
        "source": fields.get("source", draft.container),
        "architecture": {"name": draft.family, **draft.arguments},
        "weights": [],
        "sha256": [],
    }
    rest = {k: v for k, v in fields.items() if k not in first and k != "notes"}
    said = [str(fields["notes"])] if fields.get("notes") else []
    said += [*draft.notes, *_dropped(draft)]
    document: dict[str, Any] = _json_able({**first, **rest, **({"notes": ". ".join(said)} if said else {})})
    return document


def _written(document: dict[str, Any], draft: Draft, folder: Path, replace: bool) -> Path:
    """Write card and weights in a hidden folder beside the final one, check that they load, and rename it."""
    if folder.exists() and not replace:
        raise OutputExists(f"{folder} is there already", hint="choose another --name, or remove it first")
    temporary = folder.with_name(partial_name(folder.name))
    try:
        with translated(folder):
            temporary.mkdir(parents=True)
            if draft.onnx is not None:
                shutil.copyfile(draft.onnx, temporary / "model.onnx")
                document |= {"onnx": "model.onnx", "onnx_sha256": file_sha256(temporary / "model.onnx")}
                del document["weights"], document["sha256"]
            else:
                _write_weights(document, draft, temporary)
            write_bytes(temporary / CARD_FILE, (json.dumps(document, indent=1) + "\n").encode())
            made = card.parse(document, temporary)
            for fold in range(len(made.weights)):
                weights.network_of(made, fold)
            if folder.exists():
                shutil.rmtree(folder)
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _write_weights(document: dict[str, Any], draft: Draft, folder: Path) -> None:
    """One safetensors file for each fold, the card and the tensors' digest inside; names and sums into the card."""
    several = len(draft.folds) > 1
    names = [f"fold_{i}.safetensors" for i in range(len(draft.folds))] if several else ["weights.safetensors"]
    inside = json.dumps({k: v for k, v in document.items() if k not in ("weights", "sha256")})
    sums = []
    for name, fold in zip(names, draft.folds, strict=True):
        # A copy of each: safetensors keeps no tensors that share memory.
        tensors = {n: fold[n].detach().clone().contiguous() for n in registry.live(draft.family, fold)}
        weights.finite(tensors, name)
        metadata = {"format": "pt", METADATA_KEY: inside, DIGEST_KEY: weights.digest(tensors)}
        safetensors.torch.save_file(tensors, folder / name, metadata)
        sums.append(file_sha256(folder / name))
    document["weights"] = names if several else names[0]
    document["sha256"] = sums if several else sums[0]


def _recipe(recipe: str) -> ModelCard:
    path = Path(recipe) if recipe.endswith(".json") else recipes().get(recipe)
    if path is None or not path.is_file():
        known = ", ".join(sorted(recipes())) or "none"
        raise ModelError(f"no recipe {recipe!r} found", hint=f"there are: {known}")
    try:
        return card.parse(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, OSError) as error:
        raise ModelError(f"{path.name}: not JSON: {error}") from error


def _stem(path: Path) -> str:
    name = path.resolve().name
    for ending in (".tar", ".pth", ".pt", ".ckpt", ".model", ".safetensors", ".onnx", ".zip"):
        name = name.removesuffix(ending)
    return name


def _labels(text: str) -> dict[str, int]:
    if text.endswith(".json"):
        try:
            found = json.loads(Path(text).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UsageError(f"--labels {text}: cannot be read as JSON: {error}") from error
        found = found.get("labels", found) if isinstance(found, dict) else found
        if isinstance(found, dict) and all(isinstance(v, int) for v in found.values()):
            return {str(k): int(v) for k, v in found.items()}
        raise UsageError(f'--labels {text}: is not {{"background": 0, "liver": 1}}')
    entries = [entry.strip() for entry in text.split(",")]
    if all("=" in entry for entry in entries):
        pairs = [entry.rpartition("=") for entry in entries]
        if not all(value.strip().isdecimal() for _, _, value in pairs):
            raise UsageError(f"--labels {text}: the values are whole numbers")
        found = [(name.strip(), int(value)) for name, _, value in pairs]
    else:
        found = [(name, value) for value, name in enumerate(entries)]
    table = dict(found)
    if len(table) < len(found):
        raise UsageError(f"--labels {text}: names a structure twice")
    return table


def _numbers(text: str, option: str, counts: tuple[int, ...]) -> list[float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) not in counts:
        raise UsageError(f"{option} {text}: is not {' or '.join(map(str, counts))} numbers with commas between them")
    return values


def _json_able(value: Any) -> Any:
    """The same with tuples as lists and NumPy's numbers as Python's."""
    if isinstance(value, Mapping):
        return {str(k): _json_able(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_json_able(v) for v in value]
    return value.item() if hasattr(value, "item") else value


__all__ = ["Inspection", "adopt", "inspect", "options", "recipes", "shapes_of", "verify"]
