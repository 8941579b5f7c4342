"""What nnU-Net v2's dataset.json states of channels and labels."""

from __future__ import annotations

from segcli.documents import Document, Facts
from segcli.errors import ModelError
from segcli.models.imports.source import label_names


def channels(dataset: Facts) -> list[str]:
    """The names of the channels in the order of their numbers, told apart by these where two are alike."""
    named = dataset.get("channel_names") or dataset["modality"]
    names = [str(named[number]) for number in sorted(named, key=int)]
    if len(set(names)) < len(names):
        return [f"{name}_{number}" for number, name in enumerate(names)]
    return names


def labels(dataset: Facts) -> tuple[Document, int, list[str]]:
    """Fields `labels` and `regions` of the card, how many outputs the network has, and what names were changed."""
    table = {str(k): v for k, v in dataset["labels"].items()}
    if all(k.isdecimal() and isinstance(v, str) for k, v in table.items()):
        table = {v: int(k) for k, v in table.items()}  # version 1's order
    table = {k: v for k, v in table.items() if k != "ignore"}
    names, said = label_names(list(table))
    # A list of one value is that value, until some list has more.
    sets = [v if isinstance(v, list | tuple) else [v] for v in table.values()]
    if all(len(values) == 1 for values in sets):
        pairs = sorted(zip(names, (int(values[0]) for values in sets), strict=True), key=lambda pair: pair[1])
        return {"labels": dict(pairs)}, len(pairs), said
    structures = [(n, v) for n, v in zip(names, sets, strict=True) if set(v) != {0}]
    order = [int(v) for v in dataset["regions_class_order"]]
    if len(order) != len(structures):
        raise ModelError(f"dataset.json: {len(structures)} regions and {len(order)} values in regions_class_order")
    values = {n: value for (n, _), value in zip(structures, order, strict=True)}
    return {"labels": {"background": 0, **values}, "regions": order}, len(order), said
