"""Networks of a model of models that memory has no room for are loaded one at a time."""

import gc
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from models import organs
from runs import Pointwise, opened, scan

import segcli
from segcli.engines import opening as opening_module
from segcli.engines.choose import Opened
from segcli.engines.held import Held
from segcli.errors import ModelError

BOX = (slice(0, 4),) * 3
WINDOW = np.zeros((1, 1, 4, 4, 4), np.float32)


def test_a_network_is_loaded_for_its_windows_and_let_go_of_when_it_rests() -> None:
    made: list[weakref.ref[Pointwise]] = []

    def again() -> Opened:
        engine = Pointwise()
        made.append(weakref.ref(engine))
        return opened(engine)

    held = Held(again(), again)
    gc.collect()
    assert [one() for one in made] == [None], "it was loaded to see whether it can be, and let go of"
    assert (held.name, held.precision, held.batch) == ("numpy", "float32", 1)
    held.run(WINDOW)
    sums = held.sums(WINDOW[0], (5, 4, 4), 0, np.ones((4, 4, 4), np.float32))
    sums.add([BOX])
    assert len(made) == 2
    del sums
    held.rest()
    assert made[1]() is None
    held.rest()
    held.run(WINDOW)
    assert len(made) == 3


def test_what_was_told_of_a_network_stays_when_it_is_gone() -> None:
    class Short(Pointwise):
        repeated = 2

        @property
        def fallbacks(self) -> list[str]:
            return ["went to the disk"]

    held = Held(opened(Short()), lambda: opened(Short()))
    assert (list(held.fallbacks), held.repeated) == (["went to the disk"], 2)
    held.run(WINDOW)
    assert (list(held.fallbacks), held.repeated) == (["went to the disk"] * 2, 4)


def test_a_file_that_changes_meanwhile_is_refused() -> None:
    held = Held(opened(), lambda: replace(opened(), hashes={"weights.safetensors": "1" * 64}))
    with pytest.raises(ModelError, match="changed while the model was in use"):
        held.run(WINDOW)


def test_networks_stay_in_memory_where_there_is_room_and_give_equal_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    organs(tmp_path / "whole", name="whole")
    organs(tmp_path / "finer", name="finer", rough={"model": "whole", "structures": ["spleen"], "margin_mm": 9})
    path = scan(tmp_path / "a.nii.gz")
    roomy = segcli.load(tmp_path / "finer", engine="onnx")
    assert not isinstance(roomy.opened.engine, Held)
    monkeypatch.setattr(opening_module, "_OF_THE_ROOM", 0)
    tight = segcli.load(tmp_path / "finer", engine="onnx")
    assert isinstance(tight.opened.engine, Held)
    assert tight.opened.rough is not None
    assert isinstance(tight.opened.rough[1].engine, Held)
    first, second = (model.segment(path) for model in (roomy, tight))
    assert np.array_equal(first.labels, second.labels)
    assert first.record["model"] == second.record["model"]
    assert tight.opened.engine._loaded is None, "nothing is held when the work is done"
