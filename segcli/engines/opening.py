"""Opening: which model on which engine, as plain values that cross between processes; opened where it is needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from segcli.engines.choose import EngineName, open_engine
from segcli.engines.opened import Opened
from segcli.engines.precision import Precision
from segcli.engines.table import engines
from segcli.errors import ModelError, UsageError
from segcli.inference.together import alike
from segcli.memory import available
from segcli.models.card import ModelCard
from segcli.models.library import find, models_of, needed, parts_of, previous_of, rough_of
from segcli.models.prompted import asked
from segcli.structures import chosen

# A network in memory takes about as much as three of its files; several stay there if they fill a quarter of the room.
_OF_ITS_FILES, _OF_THE_ROOM = 3, 1 / 4


@dataclass(frozen=True)
class Opening:
    """Which model on which engine; several models are an ensemble of equal labels.

    votes    whether folds and members of a model say where they would decide otherwise
    classes  structures that are wanted, as the user calls them; parts of a model that label none of them stay closed
    once     for a single scan: no network of a model of models has to stay in memory behind its own work
    """

    model: tuple[str, ...]
    engine: EngineName = "auto"
    device: str = "auto"
    threads: int | None = None
    batch: int | None = None
    mirror: bool = False
    precision: Precision = "auto"
    max_ram: int | None = None
    max_vram: int | None = None
    votes: bool = False
    classes: tuple[str, ...] = ()
    once: bool = False

    @property
    def name(self) -> str:
        """Of the model, as records have it: of an ensemble those of all."""
        return "+".join(find(model).name for model in self.model)

    @property
    def card(self) -> ModelCard:
        """That of the first model, asked for the structures that are wanted where its network can be asked.

        errors   ModelError (78): no such model, or a wrong card; UsageError: it does not name a structure
        """
        return asked(find(self.model[0]), self.classes)

    def open(self, card: ModelCard) -> Opened:
        """The card's engine; with several models its `others` too, of a model of models its `parts` and its `rough`.

        errors   ModelError: models that are no ensemble; UsageError: votes of one network
        """
        others = [asked(find(model), self.classes) for model in self.model[1:]]
        for own in others:
            alike(card.procedure, own.procedure)
        if self.votes and card.parts and not others:
            raise UsageError(f"--write disagreement: {card.name} is made of parts, which label different structures")
        if self.votes and not others and not card.ensemble and len(card.weights) < 2:
            raise UsageError(
                f"--write disagreement: {card.name} is one network, which agrees with itself",
                hint="name several models, --model A --model B, or one with folds",
            )
        if any(own.parts or own.rough for own in (card, *others)):
            cards = [one for own in (card, *others) for one in models_of(own)]
            if self.mirror and not any(own.mirror for own in cards):
                raise ModelError(f"{card.name}: none of its models names an axis to mirror", hint="leave --tta out")
            alone = replace(self, votes=self.votes and not others)
            one = partial(alone._plain, common={} if self._fit(cards) else None)
            beside = tuple((other, alone._of_models(other, one)) for other in others)
            return replace(alone._of_models(card, one), beside=beside)
        common: dict[str, object] = {}
        first = self._one(card, common)
        return replace(first, others=tuple((other, self._one(other, common)) for other in others))

    def _of_models(self, card: ModelCard, one: Callable[[ModelCard], Opened]) -> Opened:
        """The engines of the models that a model is made of, as far as they are needed, and of its rough model.

        one   opens one of them
        """
        before = None
        if card.rough is not None and (rough := rough_of(card)) is not None:
            looking = replace(self, votes=False, classes=card.rough.names)
            before = (rough, looking._of_models(rough, one))
        if not card.parts:
            return replace(one(card), rough=before)
        wanted = [label.name for label in chosen(card.structures, self.classes, "--classes")]
        parts = tuple((own, one(own)) for own in needed(card, parts_of(card), wanted))
        return replace(parts[0][1], warnings=(), hashes={}, note="", parts=parts, rough=before)

    def _fit(self, cards: list[ModelCard]) -> bool:
        """Whether all networks may stay in memory: where there is room, and they are needed again."""
        if self.once:
            return False
        files = [card.file(name) for card in cards for name in card.weights or filter(None, [card.onnx])]
        room = available() if self.max_ram is None else self.max_ram
        room = room if self.max_vram is None else min(room, self.max_vram)
        return _OF_ITS_FILES * sum(file.stat().st_size for file in files) <= _OF_THE_ROOM * room

    def _plain(self, card: ModelCard, common: dict[str, object] | None) -> Opened:
        """The engine of one of several models: `mirror` is for those that have axes for it.

        common   what their engines share; None where each network is in memory only while it runs
        """
        return replace(self, mirror=self.mirror and bool(card.mirror))._one(card, common)

    def _one(self, card: ModelCard, common: dict[str, object] | None) -> Opened:
        """A model's engine, and that of the model whose labels it sees, whose files count as its own."""
        opened = self._alone(card, common)
        if card.previous is None:
            return opened
        earlier = previous_of(card)
        before = replace(self, votes=False)._alone(earlier, common)
        hashes = {f"{card.previous}/{name}": digest for name, digest in before.hashes.items()}
        return replace(opened, earlier=(earlier, before), hashes={**opened.hashes, **hashes})

    def _alone(self, card: ModelCard, common: dict[str, object] | None) -> Opened:
        votes = self.votes and len(self.model) == 1
        engine, reason = self.engine, ""
        if votes and len(card.weights) > 1:  # an ONNX file averages its folds inside
            named = engines().get(engine)  # what there is not is refused below
            if named is not None and named.reads == "graph":
                raise UsageError(f"--write disagreement: {engine} runs the folds of {card.name} as one network")
            if engine == "auto":
                engine, reason = "torch", "the other engines run the folds as one network"
        try:
            opened = open_engine(
                card,
                engine=engine,
                device=self.device,
                threads=self.threads,
                batch=self.batch,
                mirror=self.mirror,
                precision=self.precision,
                max_vram=self.max_vram,
                max_ram=self.max_ram,
                votes=votes,
                common=common,
                later=partial(self._alone, card, {}) if common is None else None,
            )
        except ModelError as error:
            raise error.about(card.folder.name if card.folder else card.name) from error
        return replace(opened, reason=reason or opened.reason)
