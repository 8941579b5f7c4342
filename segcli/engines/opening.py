"""Opening: which model on which engine, as plain values that cross between processes; opened where it is needed."""

from __future__ import annotations

from dataclasses import dataclass, replace

from segcli.engines.choose import EngineName, Opened, open_engine
from segcli.engines.precision import Precision
from segcli.engines.table import engines
from segcli.errors import ModelError, UsageError
from segcli.inference.together import alike
from segcli.models.card import ModelCard
from segcli.models.library import find, parts_of


@dataclass(frozen=True)
class Opening:
    """Which model on which engine; several models are an ensemble of equal labels.

    votes   whether folds and members of a model say where they would decide otherwise
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

    def open(self, card: ModelCard) -> Opened:
        """The card's engine; with several models its `others` too.

        errors   ModelError: models that are no ensemble; UsageError: votes of one network
        """
        others = [find(model) for model in self.model[1:]]
        if composed := next((own for own in (card, *others) if own.parts), None):
            return self._of_parts(composed)
        for other in others:
            alike(card.procedure, other.procedure)
        if self.votes and not others and not card.ensemble and len(card.weights) < 2:
            raise UsageError(
                f"--write disagreement: {card.name} is one network, which agrees with itself",
                hint="name several models, --model A --model B, or one with folds",
            )
        common: dict[str, object] = {}
        first = self._one(card, common)
        return replace(first, others=tuple((other, self._one(other, common)) for other in others))

    def _of_parts(self, card: ModelCard) -> Opened:
        """The engines of all models that a model is made of."""
        if len(self.model) > 1:
            raise UsageError(f"{card.name} is made of parts: it is no member of an ensemble", hint="name it alone")
        if self.votes:
            raise UsageError(f"--write disagreement: {card.name} is made of parts, which label different structures")
        common: dict[str, object] = {}
        parts = tuple((own, self._one(own, common)) for own in parts_of(card))
        first = parts[0][1]
        return replace(first, warnings=(), hashes={}, note="", parts=parts)

    def _one(self, card: ModelCard, common: dict[str, object]) -> Opened:
        votes = self.votes and len(self.model) == 1
        engine = self.engine
        if votes and len(card.weights) > 1:  # an ONNX file averages its folds inside
            if engine != "auto" and engines()[engine].reads == "graph":
                raise UsageError(f"--write disagreement: {engine} runs the folds of {card.name} as one network")
            engine = "torch" if engine == "auto" else engine
        try:
            return open_engine(
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
            )
        except ModelError as error:
            raise error.about(card.folder.name if card.folder else card.name) from error
