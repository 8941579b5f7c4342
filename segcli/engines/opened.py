"""Opened: an engine with a model loaded, the engines of the models beside it, and what the record says of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from segcli.documents import Document
from segcli.inference.engine import Engine
from segcli.models.card import ModelCard
from segcli.models.library import needed


@dataclass(frozen=True)
class Elsewhere:
    """What a process knows of another one's engine."""

    name: str
    precision: str


@dataclass(frozen=True)
class Opened:
    """An engine, and what the record says of it.

    reason    why it was chosen
    hashes    file name -> sha256 of the bytes that were loaded
    others    further models whose answers are averaged with this one's
    parts     models that the model is made of; `engine` is the first one's then
    rough     the model that finds where this one looks
    beside    further models where one of them all is made of models: their results for the whole scan are averaged
    earlier   of a cascade's second model: the first, whose labels it sees
    max_ram   bytes that the process may have resident, where the user said so
    note      a word on the file that was loaded, for those who want more detail
    """

    engine: Engine
    reason: str
    warnings: tuple[str, ...]
    hashes: Mapping[str, str]
    others: tuple[tuple[ModelCard, Opened], ...] = ()
    parts: tuple[tuple[ModelCard, Opened], ...] = ()
    rough: tuple[ModelCard, Opened] | None = None
    beside: tuple[tuple[ModelCard, Opened], ...] = ()
    earlier: tuple[ModelCard, Opened] | None = None
    max_ram: int | None = None
    note: str = ""

    def __getstate__(self) -> Document:
        """What crosses to another process: of the engine, whose network and device stay in this one, its name."""
        return {**self.__dict__, "engine": Elsewhere(self.engine.name, self.engine.precision)}

    def only(self, card: ModelCard, names: Collection[str]) -> Opened:
        """The same without parts that label none of some structures; with all of them where none is named."""
        wanted = needed(card, [own for own, _ in self.parts], names)
        beside = tuple((own, other.only(own, names)) for own, other in self.beside)
        return replace(self, parts=tuple(part for part in self.parts if part[0] in wanted), beside=beside)

    @property
    def several(self) -> tuple[ModelCard, ...]:
        """The further models that the user named."""
        return tuple(card for card, _ in (*self.others, *self.beside))

    def fine(self, card: ModelCard) -> tuple[tuple[ModelCard, Opened], ...]:
        """The models that run behind the rough one: that of the card and those averaged with it, or its parts."""
        return self.parts or ((card, self), *self.others)

    def first(self, card: ModelCard) -> tuple[tuple[ModelCard, Opened], ...]:
        """The models that are shown the whole scan."""
        own = self.fine(card) if self.rough is None else self.rough[1].first(self.rough[0])
        return (*own, *(one for other, opened in self.beside for one in opened.first(other)))

    def running(self, card: ModelCard) -> list[tuple[ModelCard, Opened]]:
        """All models that run, a cascade's first one, which is no model of its own elsewhere, before its second."""
        return [one for own, opened in self.models(card) for one in opened.cascade(own)]

    def cascade(self, card: ModelCard) -> tuple[tuple[ModelCard, Opened], ...]:
        """The model alone, of a cascade's second one the first before it."""
        return (*((self.earlier,) if self.earlier else ()), (card, self))

    def models(self, card: ModelCard) -> tuple[tuple[ModelCard, Opened], ...]:
        """All models that run, in their order."""
        before = self.rough[1].models(self.rough[0]) if self.rough else ()
        return (*before, *self.fine(card), *(one for other, opened in self.beside for one in opened.models(other)))
