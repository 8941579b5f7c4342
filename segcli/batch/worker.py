"""A case in a worker, a process that labels cases for another: the model is opened for the first one and kept."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from segcli.batch.cases import Case
from segcli.batch.events import Watch, unwatched
from segcli.batch.outputs import Destination
from segcli.batch.pipeline import failed, run_case
from segcli.batch.stages import Options, Outcome
from segcli.engines.opening import Opening
from segcli.errors import SegcliError
from segcli.models.card import ModelCard

if TYPE_CHECKING:
    from segcli.engines.opened import Opened

_lock = threading.Lock()  # a worker of a cluster may have threads
_open: dict[Opening, tuple[ModelCard, Opened]] = {}  # the model that this process has loaded


def work(case: Case, opening: Opening, to: Destination, options: Options, watch: Watch = unwatched) -> Outcome:
    """One case in this process. A refusal, also to open the model, is an outcome: only a lost worker raises."""
    with _lock:
        try:
            if opening not in _open:
                _open.clear()
                card = opening.card
                _open[opening] = (card, opening.open(card))
            card, opened = _open[opening]
            return run_case(case, card, opened, to, options, watch)
        except SegcliError as error:
            return failed(watch, case, error)
