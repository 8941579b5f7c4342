"""Networks of a model of models that memory has no room for are loaded one at a time."""

import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from models import organs
from runs import Pointwise, command, opened, scan

import segcli
from segcli.engines import opening as opening_module
from segcli.engines.held import Held
from segcli.engines.opened import Opened
from segcli.engines.opening import Opening
from segcli.errors import ModelError
from segcli.inference.engine import sampler_of
from segcli.space.resample import _HOST

BOX = (slice(0, 4),) * 3
WINDOW = np.zeros((1, 1, 4, 4, 4), np.float32)


def held(again: Callable[[], Opened], name: str = "numpy cpu") -> Held:
    return Held(name, "float32", opened().hashes, again)


def test_a_network_is_loaded_for_its_windows_and_let_go_of_when_it_rests() -> None:
    made: list[weakref.ref[Pointwise]] = []

    def again() -> Opened:
        engine = Pointwise()
        made.append(weakref.ref(engine))
        return opened(engine)

    engine = held(again)
    assert (engine.name, engine.precision, made) == ("numpy cpu", "float32", []), "known before it is loaded"
    assert sampler_of(engine) is None
    assert not made
    assert engine.batch == 1
    engine.run(WINDOW)
    sums = engine.sums(WINDOW[0], (5, 4, 4), 0, np.ones((4, 4, 4), np.float32))
    sums.add([BOX])
    assert len(made) == 1
    del sums
    engine.rest()
    assert made[0]() is None
    engine.rest()
    engine.run(WINDOW)
    assert len(made) == 2


def test_what_was_told_of_a_network_stays_when_it_is_gone() -> None:
    class Short(Pointwise):
        name = "numpy elsewhere"
        precision = "float16"
        repeated = 2

        @property
        def fallbacks(self) -> list[str]:
            return ["went to the disk"]

    engine = held(lambda: replace(opened(Short()), warnings=("the device cannot be used",)))
    assert (list(engine.fallbacks), engine.repeated) == ([], 0)
    for times in (1, 2):
        engine.run(WINDOW)
        engine.rest()
        assert sorted(engine.fallbacks) == sorted(["the device cannot be used", "went to the disk"] * times)
        assert engine.repeated == 2 * times
        assert (engine.name, engine.precision) == ("numpy elsewhere", "float16")


def test_images_are_resampled_on_the_device_that_a_network_is_loaded_to() -> None:
    class There(Pointwise):
        name, sampler = "torch cuda:0", _HOST

    assert sampler_of(held(lambda: opened(There()), "torch cuda:0")) is _HOST


def test_a_file_that_changes_meanwhile_is_refused() -> None:
    engine = held(lambda: replace(opened(), hashes={"weights.safetensors": "1" * 64}))
    with pytest.raises(ModelError, match="changed while the model was in use"):
        engine.run(WINDOW)


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
    assert tight.engine == roomy.engine
    assert isinstance(tight.opened.engine, Held)
    assert tight.opened.rough is not None
    assert isinstance(tight.opened.rough[1].engine, Held)
    first, second = (model.segment(path) for model in (roomy, tight))
    assert np.array_equal(first.labels, second.labels)
    assert first.record["model"] == second.record["model"]
    assert tight.opened.engine._loaded is None, "nothing is held when the work is done"


@pytest.mark.parametrize("engine", ["onnx", "openvino", "torch"])
def test_for_one_scan_no_network_is_loaded_before_its_turn_and_what_is_wrong_with_one_is_told_at_once(
    tmp_path: Path, engine: str
) -> None:
    organs(tmp_path / "whole", name="whole")
    folder = organs(
        tmp_path / "finer", name="finer", rough={"model": "whole", "structures": ["spleen"], "margin_mm": 9}
    )
    opening = Opening((str(folder),), engine=engine, device="cpu", once=True)
    made = opening.open(opening.card)
    assert made.rough is not None
    for own in (made, made.rough[1]):
        assert isinstance(own.engine, Held)
        assert own.engine._loaded is None
        assert own.engine.name.endswith(" cpu")
        assert own.hashes
    several = replace(opening, once=False)
    assert several.open(opening.card).hashes == made.hashes
    assert made.engine.name == several.open(opening.card).engine.name
    for file in (tmp_path / "whole").glob("*.onnx" if engine != "torch" else "*.safetensors"):
        file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(ModelError):
        opening.open(opening.card)


TOLD = """
import sys
from segcli.__main__ import main
from segcli.engines.opening import Opening
real = Opening.open
def told(self, card):
    print("once" if self.once else "again", file=sys.stderr)
    return real(self, card)
Opening.open = told
sys.exit(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize(("count", "word"), [(1, "once"), (2, "again"), (0, "once")])
def test_a_single_scan_also_one_from_a_pipe_needs_each_network_once(tmp_path: Path, count: int, word: str) -> None:
    model, path = organs(tmp_path / "organs"), scan(tmp_path / "in" / "a.nii.gz")
    if count == 2:
        scan(tmp_path / "in" / "b.nii.gz", 1)
    words, stdin = (
        (("-", "-o", "-"), path.read_bytes()) if count == 0 else ((tmp_path / "in", "-o", tmp_path / "o"), None)
    )
    done = command("predict", *words, "--model", model, "--engine", "onnx", stdin=stdin, before=("-c", TOLD))
    assert done.returncode == 0, done.stderr
    assert done.stderr.decode().splitlines()[0] == word
