"""What nnU-Net v2's dataset.json states of channels and labels."""

from __future__ import annotations

from collections.abc import Sequence

from segcli.documents import Content, Document, Facts, shown
from segcli.errors import ModelError
from segcli.models.imports.source import label_names


def channels(dataset: Facts) -> list[str]:
    """The names of the channels in the order of their numbers, told apart by these where two are alike."""
    named = _object(dataset, "channel_names" if dataset.get("channel_names") else "modality")
    names = [str(named[number]) for number in sorted(named, key=int)]
    if len(set(names)) < len(names):
        return [f"{name}_{number}" for number, name in enumerate(names)]
    return names


def labels(dataset: Facts) -> tuple[Document, int, list[str]]:
    """Fields `labels` and `regions` of the card, how many outputs the network has, and what names were changed."""
    table = {str(k): v for k, v in _object(dataset, "labels").items()}
    if all(k.isdecimal() and isinstance(v, str) for k, v in table.items()):
        table = {v: int(k) for k, v in table.items()}  # version 1's order
    table = {k: v for k, v in table.items() if k != "ignore"}
    if not any(v in (0, "0", [0]) for v in table.values()):
        raise ModelError(
            f"dataset.json: none of the labels {', '.join(table)} has the value 0",
            hint="nnU-Net's first label is the background, with the value 0",
        )
    names, said = label_names(list(table))
    # A list of one value is that value, until some list has more.
    sets = [v if isinstance(v, list | tuple) else [v] for v in table.values()]
    if all(len(values) == 1 for values in sets):
        values = [int(one[0]) for one in sets]
        called = dict(sorted(_by_value(names, values, said).items()))
        return {"labels": {name: value for value, name in called.items()}}, len(called), said
    structures = [name for name, values in zip(names, sets, strict=True) if set(values) != {0}]
    order = [int(v) for v in dataset["regions_class_order"]]
    if len(order) != len(structures):
        raise ModelError(f"dataset.json: {len(structures)} regions and {len(order)} values in regions_class_order")
    called = {0: "background", **_by_value(structures, order, said)}
    return {"labels": {name: value for value, name in called.items()}, "regions": order}, len(order), said


def unwritten(dataset: Facts) -> list[int]:
    """The values that are in regions and that none of these writes: a cascade shows them too, and they are nowhere."""
    sets = [v if isinstance(v, list | tuple) else [v] for k, v in dataset["labels"].items() if k != "ignore"]
    if all(len(values) == 1 for values in sets):
        return []
    return sorted({int(v) for values in sets for v in values} - {0, *map(int, dataset["regions_class_order"])})


def _by_value(names: Sequence[str], values: Sequence[int], said: list[str]) -> dict[int, str]:
    """The name of each value: where several have one, nnU-Net knows them as one label, which is called by all."""
    alike: dict[int, list[str]] = {}
    for name, value in zip(names, values, strict=True):
        alike.setdefault(value, []).append(name)
    said += [f"{' and '.join(one)} have the value {value} and are one label" for value, one in alike.items() if one[1:]]
    return {value: "_and_".join(one) for value, one in alike.items()}


def _object(dataset: Facts, field: str) -> Facts:
    """A field that maps names and numbers; refused by its name where it is something else."""
    found: Content = dataset[field]
    if not isinstance(found, dict):
        raise ModelError(
            f"dataset.json: the field {field} ({shown(found)}) is not an object of names and numbers",
            hint="take the dataset.json that the training left beside plans.json",
        )
    return found
