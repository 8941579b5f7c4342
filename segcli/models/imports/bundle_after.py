"""What a MONAI bundle does after the network: the way back to the scan, steps of the labels, and what outputs mean."""

from __future__ import annotations

import re
from collections.abc import Sequence

from segcli.documents import Content, Document, Facts
from segcli.models.imports import bundle_vista3d as vista3d
from segcli.models.imports.bundle_config import Unknown
from segcli.models.imports.bundle_said import LITTLE, Said, kind_of, listed

_MERGING = ("Lambda", "MergeClasses")  # make labels of outputs that overlap
_NEIGHBOURS = {1: 6, 3: 26, None: 26}  # by MONAI's connectivity


def way_back(items: Sequence[Document], said: Said) -> None:
    """What is interpolated on the way back to the scan; what is done after the network and not here."""
    kinds = [kind_of(item) for item in items]
    before = kinds[: kinds.index("Invert")] if "Invert" in kinds else []
    if "AsDiscrete" in before:
        _finished(items[kinds.index("Invert")], items[kinds.index("AsDiscrete")], said)
    elif "Activations" in before:
        said.card["back"] = "probabilities"
        if said.card.get("interpolation") == "area":
            said.card["faithful"] = "area"
            said.notes.append(
                "the bundle brings means of areas back, as --faithful does; segcli interpolates probabilities"
            )
    for place, item in enumerate(items):
        steps_of = _STEPS.get(kind_of(item))
        if steps_of is not None and (steps := steps_of(item, items[:place], said)):
            said.card.setdefault("after", []).extend(steps)
            said.card |= {"after_at": "model"} if place < len(before) else {}
            continue
        if kind_of(item) == "MapLabelValue" and (values := _other_values(items, said)):
            for step in said.card.get("after", ()):  # whose structures have the values before
                if named := step.get("structures"):
                    step["structures"] = [str(values.get(int(name), name)) for name in named]
            continue
        if kind_of(item) not in (*LITTLE, "Activations", "Invert", "AsDiscrete", "SaveImage") and not _writing(item, 0):
            said.notes.append(f"the bundle's {kind_of(item)} after the network is left out")
        # MONAI before 0.8 said whether there is one, and in another option which.
        thresholds = [t for t in (*listed(item.get("threshold")), item.get("logit_thresh")) if not _usual(t)]
        said.notes += [f"the bundle's threshold is {threshold}; segcli's is 0.5" for threshold in thresholds[:1]]


def _usual(threshold: Content) -> bool:
    return threshold is None or isinstance(threshold, bool) or threshold == 0.5


def _finished(invert: Facts, discrete: Facts, said: Said) -> None:
    """Field `faithful`, of a bundle that brings finished labels back: the nearest one, or their numbers linearly."""
    nearest = listed(invert.get("nearest_interp", True))[0] is not False or said.card.get("interpolation") == "nearest"
    if nearest or True in listed(discrete.get("argmax")):
        said.card["faithful"] = "nearest" if nearest else "values"
        how = "the nearest voxel" if nearest else "interpolating their numbers"
        said.notes.append(
            f"the bundle brings finished labels back by {how}, as --faithful does; segcli brings logits back"
        )
    else:
        said.notes.append("the bundle interpolates outputs of 0 and 1 on their way back; segcli brings logits back")


def _decided(before: Sequence[Document]) -> bool:
    """Whether these steps give labels, and not outputs above a threshold."""
    return any(kind_of(item) == "AsDiscrete" and True in listed(item.get("argmax")) for item in before)


def _has_others(item: Facts, *known: str) -> bool:
    """Whether a transform has options that are none of these."""
    return any(not option.startswith("_") and option not in ("keys", "allow_missing_keys", *known) for option in item)


def _largest(item: Facts, before: Sequence[Document], said: Said) -> list[Document]:
    """The step of `after` that KeepLargestConnectedComponent is; none where it does what segcli does not.

    Of equally large pieces MONAI keeps one, the last of few; of many its sorting leaves open which.

    before   what is done before it
    """
    others = _has_others(item, "applied_labels", "is_onehot", "independent", "connectivity", "num_components")
    plain = item.get("is_onehot") in (None, False) and item.get("num_components", 1) == 1
    neighbours = _NEIGHBOURS.get(item.get("connectivity"))
    wanted = item.get("applied_labels")
    named = [str(value) for value in listed(wanted)] if wanted is not None else None
    if not _decided(before) or not plain or neighbours is None or others:
        return []
    step: Document = {"step": "largest", "neighbours": neighbours, "equal": "last"}
    if named is not None:
        step["structures"] = named
    return [step if item.get("independent", True) else {**step, "together": True}]


def _fills(item: Facts, before: Sequence[Document], said: Said) -> list[Document]:
    """The steps of `after` that FillHoles is: one structure after the other gets all that it encloses; or none.

    before   what is done before it: one label map has to stand at last, not a channel for each label
    """
    last = next((other for other in reversed(before) if kind_of(other) == "AsDiscrete"), {})
    neighbours = _NEIGHBOURS.get(item.get("connectivity"))
    values = listed(item.get("applied_labels") or [*range(1, said.network.outputs or 0)])
    whole = all(isinstance(value, int) for value in values)
    stands = True in listed(last.get("argmax")) and not any(listed(last.get("to_onehot")))
    if not stands or not whole or neighbours is None or _has_others(item, "applied_labels", "connectivity"):
        return []
    return [
        {"step": "fill", "structures": [str(value)], "others": True, "neighbours": neighbours}
        for value in sorted({*values} - {0})
    ]


_STEPS = {"KeepLargestConnectedComponent": _largest, "FillHoles": _fills}


def _other_values(items: Sequence[Document], said: Said) -> dict[int, int]:
    """Value -> value of each output by the one MapLabelValue of finished labels; empty where it joins or drops some."""
    kinds = [kind_of(item) for item in items]
    if kinds.count("MapLabelValue") != 1 or said.network.outputs is None or "classes" in said.network.arguments:
        return {}
    place = kinds.index("MapLabelValue")
    have, want = (listed(items[place].get(key)) for key in ("orig_labels", "target_labels"))
    if (
        not _decided(items[:place])
        or len(have) != len(want)
        or not all(isinstance(v, int) and v >= 0 for v in (*have, *want))
    ):
        return {}
    pairs = dict(zip(have, want, strict=True))
    found = {value: pairs.get(value, value) for value in range(said.network.outputs)}
    return found if len({*found.values()}) == len(found) and found[0] == 0 else {}


def labels_of(names: Sequence[str], items: Sequence[Document], said: Said) -> None:
    """Fields `labels` and `regions`, of the outputs' names and of what is done with the outputs.

    Where the largest output wins, the first one is the background, whatever it is called. Outputs through a sigmoid
    are a region each, also one that is called background.
    """

    def done(kind: str, option: str) -> bool:
        return any(kind_of(item) == kind and True in listed(item.get(option)) for item in items)

    if not names:
        return
    largest, sigmoid = done("AsDiscrete", "argmax") or done("Activations", "softmax"), done("Activations", "sigmoid")
    begins = names[0] == "background"
    # Of outputs that are none of these a threshold makes overlapping ones.
    overlap = any(kind_of(item) == "AsDiscrete" and item.get("threshold") is not None for item in items)
    if (numbers := said.network.arguments.get("classes")) and (asked := vista3d.labels(names, numbers)):
        said.card["labels"] = asked
    elif largest or (begins and not sigmoid and not overlap):
        every = names if begins or len(names) == said.network.outputs else ["background", *names]
        if said.network.outputs in (None, len(every)):
            said.card["labels"] = {name: value for value, name in enumerate(every)}
        else:  # one name more would else mean outputs that overlap
            said.lacks["labels"] = f"the bundle names {len(every)} outputs, and its network has {said.network.outputs}"
    elif sigmoid and any(kind_of(item) in _MERGING for item in items):
        _merged_labels(names, items, said)
    elif sigmoid:
        structures = [name for name in names if name != "background"]
        labels = {"background": 0, **{name: value for value, name in enumerate(structures, start=1)}}
        said.card["labels"] = labels
        if len(names) == said.network.outputs:
            said.card["regions"] = [labels[name] for name in names]
        said.notes.append("sigmoid outputs overlap: they are written in the order of the outputs, the last one wins")
    else:
        said.notes.append("neither softmax, argmax nor sigmoid tells whether the first output is the background")
    if (values := _other_values(items, said)) and "labels" in said.card:
        said.card["labels"] = {name: values.get(value, value) for name, value in said.card["labels"].items()}


def _merged_labels(names: Sequence[str], items: Sequence[Document], said: Said) -> None:
    """Fields `labels` and `regions` where one of `_MERGING` makes labels of regions; left out for what is not known.

    A card's regions are written in the order of the outputs, so the network's last layer is put in the order of these.
    """
    steps = [item for item in items if kind_of(item) in ("AsDiscrete", *_MERGING)]
    written = _writing(steps[-1], len(names))
    order = [channel for channel, _ in written]
    unseen = [names[channel] for channel, value in written if value == 0]
    known = [kind_of(item) for item in steps[:-1]] == ["AsDiscrete"] and unseen == [
        n for n in names if n == "background"
    ]
    whole = len(names) == said.network.outputs and sorted(order) == list(range(len(names)))
    last, tensors = said.network.last, said.network.folds[0]
    if not (known and whole and last):
        said.lacks["labels"] = (
            f"the bundle makes labels of overlapping outputs by Python that was not evaluated ({kind_of(steps[-1])})"
        )
        return
    said.card["labels"] = {"background": 0, **{names[channel]: value for channel, value in written}}
    said.card["regions"] = [value for _, value in written]
    said.replaced |= {name: tensors[name][order] for name in last}
    told = ", ".join(names[channel] for channel in order)
    said.notes.append(f"the network's outputs are put in the order in which the bundle writes them: {told}")


def _writing(item: Facts, outputs: int) -> list[tuple[int, int]]:
    """Channel and value in the order of writing, of what makes labels of outputs; empty for anything else.

    A Lambda of nested `torch.where`: "$lambda x: torch.where(x[[2]] > 0, 4, torch.where(x[[0]] > 0, 1, 0))" writes 1
    where output 0 says so, then 4 where output 2 does. The model zoo's MergeClasses: of outputs that overlap the first
    one wins, by its number; output 0 shows nowhere.
    """
    if kind_of(item) == "MergeClasses":
        return [(0, 0), *((channel, channel) for channel in range(outputs - 1, 0, -1))]
    text = item.get("func")
    match = re.fullmatch(r"lambda(\w):(.+)", "".join(text.text.split())) if isinstance(text, Unknown) else None
    if match is None:
        return []
    variable, rest = match.groups()
    written: list[tuple[int, int]] = []
    while where := re.fullmatch(rf"torch\.where\({variable}\[\[(\d)\]\]>0,([1-9]\d*),(.+)\)", rest):
        written.insert(0, (int(where[1]), int(where[2])))
        rest = where[3]
    return written if rest == "0" else []
