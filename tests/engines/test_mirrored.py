from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from models import CARD

from segcli.engines.host import HostEngine
from segcli.engines.mirrored import mirrored
from segcli.engines.room import windows_of
from segcli.errors import ModelError
from segcli.models.card import ModelCard, parse

SIDED = {"background": 0, "kidney_left": 1, "kidney_right": 2}


class Halves(HostEngine):
    """Calls what lies in the first half of axis 0 channel 1, in the second half channel 2, whatever it is."""

    name, batch, precision = "halves", 1, "float32"

    def __init__(self) -> None:
        super().__init__(threads=1)

    def run(self, patches: np.ndarray) -> np.ndarray:
        out = np.zeros((len(patches), 3, *patches.shape[2:]), np.float32)
        half = patches.shape[2] // 2
        out[:, 1, :half] = patches[:, 0, :half]
        out[:, 2, half:] = patches[:, 0, half:]
        return out


def card(**changes: Any) -> ModelCard:
    labels = {"labels": SIDED, "codes": {}, "pairs": [["kidney_left", "kidney_right"]], "mirror": [0]}
    return parse({**CARD, **labels, **changes})


def test_flipping_the_left_right_axis_exchanges_paired_channels() -> None:
    patch = np.arange(1, 9, dtype=np.float32).reshape(1, 1, 4, 2, 1)
    engine = Halves()
    np.testing.assert_array_equal(mirrored(engine, card()).run(patch), engine.run(patch))


def test_flipping_another_axis_exchanges_nothing() -> None:
    patch = np.arange(1, 9, dtype=np.float32).reshape(1, 1, 4, 2, 1)
    engine = Halves()
    np.testing.assert_array_equal(mirrored(engine, card(mirror=[1])).run(patch), engine.run(patch))


def test_without_pairs_the_channels_stay_and_logits_are_the_mean_over_flips() -> None:
    plain = card(orientation=None, pairs=[], labels={"background": 0, "liver": 1, "spleen": 2})
    patch = np.ones((1, 1, 4, 2, 1), np.float32)
    logits = mirrored(Halves(), plain).run(patch)
    np.testing.assert_array_equal(logits[0, 1], np.full((4, 2, 1), 0.5))
    np.testing.assert_array_equal(logits[0, 2], np.full((4, 2, 1), 0.5))


def test_all_combinations_of_three_axes_are_shown() -> None:
    seen = []

    class Watching(Halves):
        def run(self, patches: np.ndarray) -> np.ndarray:
            seen.append(tuple(int(v) for v in np.argwhere(patches[0, 0] == 1)[0]))
            return super().run(patches)

    patch = np.zeros((1, 1, 4, 4, 4), np.float32)
    patch[0, 0, 0, 0, 0] = 1
    mirrored(Watching(), card(mirror=[0, 1, 2])).run(patch)
    assert sorted(seen) == sorted((a, b, c) for a in (0, 3) for b in (0, 3) for c in (0, 3))


@pytest.mark.parametrize(
    ("count", "batch", "shown"),
    [(1, 1, [1] * 8), (1, 4, [4, 4]), (1, 16, [8]), (2, 2, [2] * 8), (3, 4, [4] * 6), (3, 5, [5, 5, 5, 5, 4])],
)
def test_mirror_images_of_several_windows_are_shown_in_full_batches_and_added_up_in_one_order(
    count: int, batch: int, shown: list[int]
) -> None:
    seen = []

    class Watching(Halves):
        def run(self, patches: np.ndarray) -> np.ndarray:
            seen.append(len(patches))
            return super().run(patches) * np.float32(0.1)

    patches = np.random.default_rng(0).standard_normal((count, 1, 4, 4, 4)).astype(np.float32)
    alone = mirrored(Watching(), card(mirror=[0, 1, 2]))
    wanted = np.concatenate([alone.run(patch[None]) for patch in patches])
    together = Watching()
    together.batch = batch
    seen.clear()
    np.testing.assert_array_equal(mirrored(together, card(mirror=[0, 1, 2])).run(patches), wanted)
    assert seen == shown


@pytest.mark.parametrize("whole", [False, True])
def test_mirror_images_of_whole_images_of_any_size_are_shown_one_by_one(whole: bool) -> None:
    size = card(patch_size=[16, 16, 16])
    assert windows_of(replace(size, window=replace(size.window, whole=whole)), 8 * 16**3) == (1 if whole else 8)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mirror": []}, "names no axis"),
        ({"orientation": None}, "does not say which axis"),
        ({"pairs": []}, "kidney_left has a side but no pair"),
        ({"labels": {"background": 0, "lh cortex": 1, "liver": 2}, "pairs": []}, "lh cortex has a side but no pair"),
    ],
)
def test_mirroring_that_could_mix_left_and_right_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        mirrored(Halves(), card(**changes))
