"""Networks that are asked for classes: `--classes` is what they are asked for, and others are not computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from segcli.models.card import Architecture, ModelCard
from segcli.structures import chosen

# The argument of a network that lists the classes it is asked for: an output each, behind the background.
ARGUMENT = {"vista3d": "classes"}


def asked(card: ModelCard, classes: Sequence[str]) -> ModelCard:
    """The card of the same weights, whose network answers for some structures alone, in less memory.

    A network that lies here as a graph answers what it was exported for; of it the whole card is returned, as of a
    network that is asked for nothing, and where steps follow, which look at other structures too.

    classes   structures as a user calls them; empty for all
    errors    UsageError for a structure that the card does not name
    """
    argument = ARGUMENT.get(card.architecture.name.partition(".")[0])
    numbers = card.architecture.arguments.get(argument) if argument else None
    if argument is None or not isinstance(numbers, list) or not classes or not card.weights or card.after:
        return card
    wanted = chosen(card.structures, classes, "--classes")
    partners = {label.pair for label in wanted} if card.mirror else set()  # a mirrored image shows the other side
    known = {label.id for label in card.structures if label in wanted or label.name in partners}
    places = [i for i, value in enumerate(card.decide.values) if i == 0 or value in known]
    if len(numbers) + 1 != len(card.decide.values) or len(places) == len(card.decide.values):
        return card
    values = tuple(card.decide.values[i] for i in places)
    arguments = {**card.architecture.arguments, argument: [numbers[i - 1] for i in places[1:]]}
    return replace(
        card,
        architecture=Architecture(card.architecture.name, arguments),
        labels=tuple(label for label in card.labels if label.id in values),
        decide=replace(card.decide, values=values),
        onnx=None,
        onnx_sha256=None,
    )
