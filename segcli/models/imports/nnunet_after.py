"""nnU-Net's postprocessing.pkl and postprocessing.json as steps of a card's `after`; nothing in them is run.

Both versions keep the largest piece of structures, alone or together, where that helped in cross-validation; of equal
pieces all stay. Version 2 connects voxels that share a corner, version 1 those that share a face, and version 1 may
spare pieces of a size.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from segcli.documents import Document, Facts, legible
from segcli.errors import ModelError
from segcli.formats.streams import bytes_of
from segcli.models import unpickle
from segcli.models.imports.source import object_of

_FUNCTION = "remove_all_but_largest_component_from_segmentation"
_MODULE = "nnunetv2.postprocessing.remove_connected_components"
_FILES = ("postprocessing.pkl", "postprocessing.json")


def found(folder: Path, folds: Sequence[str]) -> Path | None:
    """The file that says what is done after prediction with some folds: in the model's folder, or cross-validation's.

    folds    names of the folds' folders; of several cross-validations the one of these folds counts
    """
    numbers = "_".join(sorted(re.findall(r"\d+", " ".join(folds)), key=int))
    others = sorted(folder.glob("crossval_results_folds_*"))
    mine = [place for place in others if place.name.endswith(f"_folds_{numbers}")]
    places = [folder, *(mine or (others if len(others) == 1 else []))]
    return next((place / name for place in places for name in _FILES if (place / name).is_file()), None)


def fields(path: Path | None, labels: Mapping[str, int], nowhere: Collection[str] = ()) -> Document:
    """The card's field `after`, or none where nothing is to be done.

    path     the file that states steps; None where there is none
    labels   of the card: name -> value
    nowhere  those of them that no voxel has in the end
    """
    made = steps(path, labels) if path else []
    made += [{"step": "drop", "structures": [*nowhere]}] if nowhere else []
    return {"after": made} if made else {}


def notes(path: Path | None) -> list[str]:
    """A sentence about a file whose steps were taken."""
    return [f"what is done with the labels afterwards is taken from {path.name}"] if path else []


def steps(path: Path, labels: Mapping[str, int]) -> list[Document]:
    """The steps that a file states; version 1's name structures by their values, for it knows no names.

    labels   of the card: name -> value
    errors   ModelError for functions or options that segcli has no equal of, and for pickles that would call something
    """
    with legible(path.name):
        stated = _read(path)
        if "for_which_classes" in stated:
            return _of_version_1(path.name, stated)
        functions, options = stated["postprocessing_fns"], stated["postprocessing_kwargs"]
        if len(functions) != len(options):
            raise ModelError(f"{path.name}: {len(functions)} functions and {len(options)} lists of options")
        return [_of_version_2(path.name, f, o, labels) for f, o in zip(functions, options, strict=True)]


def _read(path: Path) -> Facts:
    """What a file states, a pickle's as the JSON beside it does."""
    if path.suffix == ".json":
        return object_of(path)
    functions, options = unpickle.plain_pickle(bytes_of(path, ModelError), path.name, (f"{_MODULE}.{_FUNCTION}",))
    return {"postprocessing_fns": [f.__name__ for f in functions], "postprocessing_kwargs": options}


def _of_version_2(file: str, function: str, options: Facts, labels: Mapping[str, int]) -> Document:
    if function.rpartition(".")[2] != _FUNCTION:
        raise ModelError(f"{file}: the function {function} is not one that segcli has")
    if strange := [k for k, v in options.items() if k != "labels_or_regions" and (k, v) != ("background_label", 0)]:
        raise ModelError(f"{file}: the option {strange[0]} = {options[strange[0]]} is not one that segcli has")
    # A list of labels is one mask there, as a region, a tuple of labels, is.
    values = _values(options["labels_or_regions"])
    names = [name for name, value in labels.items() if value in values and value != 0]
    if not names:
        raise ModelError(f"{file}: is about labels {values}, which the model does not have")
    return _largest(names, 26)


def _of_version_1(file: str, stated: Facts) -> list[Document]:
    sizes: Any = stated.get("min_valid_object_sizes")
    try:
        sizes = ast.literal_eval(sizes) if isinstance(sizes, str) else sizes
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise ModelError(f"{file}: min_valid_object_sizes is no mapping of classes to sizes") from error
    spared = {tuple(_values(classes)): float(size) for classes, size in (sizes or {}).items()}
    made = []
    for classes in stated["for_which_classes"]:
        values = _values(classes)
        spare = spared.get(tuple(values))
        more = {} if spare is None else {"spare": spare}
        made.append({**_largest([str(value) for value in values], 6), **more})
    return made


def _largest(names: Sequence[str], neighbours: int) -> Document:
    together = {"together": True} if len(names) > 1 else {}
    return {"step": "largest", "structures": names, **together, "neighbours": neighbours}


def _values(stated: Any) -> list[int]:
    """The label values of a label, of a region, or of a list of both."""
    if isinstance(stated, Iterable) and not isinstance(stated, str):
        return [value for item in stated for value in _values(item)]
    return [int(stated)]
