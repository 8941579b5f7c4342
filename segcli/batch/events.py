"""What a run tells while it goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from segcli.documents import Document

if TYPE_CHECKING:
    from segcli.batch.cases import Case

EventName = Literal["queued", "read", "doubt", "segment", "window", "write", "done", "skipped", "failed"]


@dataclass(frozen=True)
class Event:
    """What has just happened to a case; the fields that are not None are its facts.

    sentence   of what speaks against the scan, before the network runs, or of what an earlier result left: with "doubt"
    shape      of the scan, D, H, W: with "segment"
    done       windows of `total` that the network has seen: with "window"
    labels     path of the label map: with "done" and "skipped"
    verdict    "pass", "review" or "fail": with "done" and "skipped"
    seconds    of each stage: with "done"
    error      why it failed, and `exit_code` of that kind: with "failed"
    """

    name: EventName
    case: Case
    sentence: str | None = None
    shape: tuple[int, ...] | None = None
    done: int | None = None
    total: int | None = None
    labels: str | None = None
    verdict: str | None = None
    seconds: Mapping[str, float] | None = None
    error: str | None = None
    exit_code: int | None = None

    @property
    def facts(self) -> Document:
        """What is known beside the name and the case, in the order of the fields."""
        named = {key: getattr(self, key) for key in _FACTS}
        return {key: value for key, value in named.items() if value is not None}


_FACTS = ("sentence", "shape", "done", "total", "labels", "verdict", "seconds", "error", "exit_code")
Watch = Callable[[Event], object]


def unwatched(event: Event) -> None:
    """For callers that follow no events: does nothing."""
