"""Windows cover everything, blending gives an identity back, slabs are the whole in order."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shapes import grid

import segcli.inference.windows as windows_room
from segcli.engines.host import HostEngine
from segcli.errors import ModelError
from segcli.inference.windows import Sliding, WindowPlan, blend_weights, starts, windows
from segcli.space.volume import Volume


class Numpy(HostEngine):
    """An engine of a few lines: its network is a function on (N, C, d, h, w)."""

    name = "numpy"

    def __init__(self, network=lambda x: x, batch: int = 1) -> None:
        super().__init__()
        self.network, self.batch, self.seen = network, batch, 0

    def run(self, patches):
        self.seen += len(patches)
        return self.network(patches)


def joined(slabs: list[Volume], on) -> np.ndarray:
    """Slabs put together by their grids alone."""
    out = np.full((slabs[0].data.shape[0], *on.shape), np.nan, np.float32)
    for slab in slabs:
        first = np.round(on.index(slab.grid.world([0, 0, 0]))).astype(int)
        box = tuple(slice(a, a + n) for a, n in zip(first, slab.grid.shape, strict=True))
        out[(slice(None), *box)] = slab.data
    return out


@settings(deadline=None, max_examples=40)
@given(
    shape=st.tuples(*[st.integers(1, 23)] * 3),
    size=st.tuples(*[st.integers(1, 9)] * 3),
    overlap=st.floats(0, 0.9),
    blend=st.sampled_from(["gaussian", "constant"]),
    stride=st.sampled_from(["regular", "even"]),
    batch=st.integers(1, 5),
)
def test_an_identity_engine_gives_the_image_back(shape, size, overlap, blend, stride, batch) -> None:
    rng = np.random.default_rng(0)
    image = Volume(rng.normal(size=(2, *shape)).astype(np.float32), grid(shape))
    plan = WindowPlan(size, overlap, blend, stride=stride)
    slabs = list(Sliding(image, Numpy(batch=batch), plan).volumes())
    assert np.abs(joined(slabs, image.grid) - image.data).max() < 1e-4


@given(
    n=st.integers(1, 200),
    size=st.integers(1, 64),
    overlap=st.floats(0, 0.95),
    stride=st.sampled_from(["regular", "even"]),
)
def test_windows_cover_every_voxel_and_end_at_the_edge(n, size, overlap, stride) -> None:
    n = max(n, size)
    found = starts(n, size, WindowPlan((size,) * 3, overlap, stride=stride))
    covered = np.zeros(n, bool)
    for start in found:
        covered[start : start + size] = True
    assert covered.all()
    assert found[-1] + size == n
    assert found == sorted(set(found))


def test_starts_are_monais_for_regular_and_nnunets_for_even() -> None:
    assert starts(150, 96, WindowPlan((96,) * 3)) == [0, 48, 54]
    assert starts(150, 96, WindowPlan((96,) * 3, stride="even")) == [0, 27, 54]


def test_the_largest_weight_is_one_and_the_smallest_is_the_floor() -> None:
    weight = blend_weights(WindowPlan((9, 9, 9), floor=0.01))
    assert weight[4, 4, 4] == 1
    assert weight.min() == pytest.approx(0.01)


def test_each_slab_begins_with_the_plane_that_the_one_before_ended_with() -> None:
    rng = np.random.default_rng(3)
    image = Volume(rng.normal(size=(1, 40, 8, 8)).astype(np.float32), grid((40, 8, 8)))
    slabs = list(Sliding(image, Numpy(), WindowPlan((8, 8, 8))).volumes())
    assert len(slabs) > 3
    for a, b in pairwise(slabs):
        assert np.array_equal(a.data[:, -1], b.data[:, 0])
        assert a.grid.world([a.grid.shape[0] - 1, 0, 0]) == pytest.approx(b.grid.world([0, 0, 0]))


def test_sums_hold_one_window_of_planes_however_long_the_image_is() -> None:
    held = []

    class Counting(Numpy):
        def zeros(self, shape):
            held.append(shape)
            return super().zeros(shape)

    image = Volume(np.zeros((1, 100, 8, 8), np.float32), grid((100, 8, 8)))
    list(Sliding(image, Counting(), WindowPlan((10, 8, 8))).volumes())
    assert held == [(1, 11, 8, 8)]  # and the plane before it


@pytest.mark.parametrize(("cores", "wanted"), [(1, 1 << 24), (2, 1 << 24), (8, 1 << 26), (16, 1 << 27), (64, 1 << 27)])
def test_slabs_grow_with_the_cores_that_the_process_may_use_now(
    monkeypatch: pytest.MonkeyPatch, cores: int, wanted: int
) -> None:
    monkeypatch.setattr(windows_room, "cores", lambda: cores)
    assert windows_room.finished_bytes() == wanted


def test_slabs_of_bounded_size_are_the_same_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    image = Volume(rng.normal(size=(1, 40, 8, 8)).astype(np.float32), grid((40, 8, 8)))
    whole = list(Sliding(image, Numpy(), WindowPlan((16, 8, 8))).volumes())
    monkeypatch.setattr(windows_room, "finished_bytes", lambda: 3 * 4 * 8 * 8)
    monkeypatch.setattr(windows_room, "_THICK", 1)
    cut = list(Sliding(image, Numpy(), WindowPlan((16, 8, 8))).volumes())
    assert max(slab.grid.shape[0] for slab in cut) == 4  # three new planes and a shared one
    for a, b in pairwise(cut):
        assert np.array_equal(a.data[:, -1], b.data[:, 0])
    assert np.array_equal(joined(cut, image.grid), joined(whole, image.grid))


@pytest.mark.parametrize(
    ("cores", "classes", "plane", "wanted"),
    [
        (2, 14, 273 * 273, 4),  # 4 MB a plane: as many as `finished_bytes` are
        (2, 118, 273 * 273, 3),  # 35 MB a plane: not one at a time, of which each would be looked at twice
        (2, 118, 512 * 512, 1),  # 124 MB a plane
        (16, 14, 273 * 273, 32),
        (16, 118, 273 * 273, 15),  # what 16 threads share is no less than what two do
        (16, 118, 512 * 512, 4),
    ],
)
def test_a_slab_is_not_thin_however_many_classes_and_cores_there_are(
    monkeypatch: pytest.MonkeyPatch, cores: int, classes: int, plane: int, wanted: int
) -> None:
    monkeypatch.setattr(windows_room, "cores", lambda: cores)
    low, high = next(windows_room._slabs(1, 200, windows_room.new_planes(4 * classes * plane)))
    assert high - low == wanted + 1
    assert windows_room.slab_bytes(4 * classes * plane) == 4 * classes * plane * (wanted + 1)


def test_slices_go_to_the_network_in_whole_batches_and_come_back_in_slabs() -> None:
    calls = []
    rng = np.random.default_rng(5)
    image = Volume(rng.normal(size=(1, 12, 20, 12)).astype(np.float32), grid((12, 20, 12)))
    engine = Numpy(lambda x: (calls.append(x.shape), x)[1], batch=3)
    slabs = list(Sliding(image, engine, WindowPlan((12, 1, 12), blend="constant")).volumes())
    assert calls == [(3, 1, 12, 1, 12)] * 6 + [(2, 1, 12, 1, 12)]
    assert [slab.grid.shape[1] for slab in slabs] == [9, 10, 3]
    assert np.array_equal(joined(slabs, image.grid), image.data)


def test_a_small_image_is_padded_with_the_value_beyond_it() -> None:
    seen = []
    image = Volume(np.ones((1, 2, 2, 2), np.float32), grid((2, 2, 2)))
    engine = Numpy(lambda x: (seen.append(x.copy()), x)[1])
    (slab,) = Sliding(image, engine, WindowPlan((4, 4, 4)), outside=-7.0).volumes()
    assert slab.data.shape == (1, 2, 2, 2)
    assert (seen[0] == -7).sum() == 64 - 8


def test_each_channel_of_a_small_image_is_padded_with_its_own_value_and_windows_of_them_are_skipped() -> None:
    seen = []
    image = Volume(np.ones((2, 2, 2, 2), np.float32), grid((2, 2, 2)))
    engine = Numpy(lambda x: (seen.append(x.copy()), x)[1])
    beyond = np.array([-7, 3], np.float32)
    list(Sliding(image, engine, WindowPlan((4, 4, 4)), outside=beyond).volumes())
    assert [(seen[0][0, c] == value).sum() for c, value in enumerate(beyond)] == [64 - 8, 64 - 8]
    air = Volume(np.broadcast_to(beyond[:, None, None, None], (2, 4, 4, 4)).copy(), grid((4, 4, 4)))
    assert list(Sliding(air, engine, WindowPlan((4, 4, 4), skip=True), outside=beyond).volumes()) == []
    air.data[1, 0, 0, 0] = -7  # what lies beyond the other channel
    assert len(list(Sliding(air, engine, WindowPlan((4, 4, 4), skip=True), outside=beyond).volumes())) == 1


def test_the_edge_of_a_small_image_is_repeated_where_the_plan_says_so() -> None:
    seen = []
    image = Volume(np.array([1, 2, 3], np.float32).reshape(1, 1, 1, 3), grid((1, 1, 3)))
    engine = Numpy(lambda x: (seen.append(x.copy()), x)[1])
    (slab,) = Sliding(image, engine, WindowPlan((1, 1, 6), padding="edge"), outside=-7.0).volumes()
    assert seen[0].ravel().tolist() == [1, 1, 2, 3, 3, 3]
    assert slab.data.ravel().tolist() == [1, 2, 3]


def test_values_that_are_not_finite_end_the_case_and_name_the_window() -> None:
    image = Volume(np.zeros((1, 4, 4, 4), np.float32), grid((4, 4, 4)))
    with pytest.raises(ModelError, match=r"not finite in the window at voxels 0\.\.3"):
        list(Sliding(image, Numpy(lambda x: x * np.nan), WindowPlan((4, 4, 4))).volumes())


def test_infinities_of_both_signs_end_the_case_without_a_warning() -> None:
    image = Volume(np.arange(64, dtype=np.float32).reshape(1, 4, 4, 4), grid((4, 4, 4)))
    with pytest.raises(ModelError, match="not finite"):
        list(
            Sliding(
                image, Numpy(lambda x: np.where(x > 30, np.float32(np.inf), -np.float32(np.inf))), WindowPlan((4, 4, 4))
            ).volumes()
        )


def test_skipped_windows_become_background_and_the_rest_is_unchanged() -> None:
    data = np.zeros((1, 24, 4, 4), np.float32)
    data[0, :4] = 5
    image = Volume(data, grid((24, 4, 4)))
    engine = Numpy(lambda x: np.concatenate([-x, x], axis=1))
    slabs = list(Sliding(image, engine, WindowPlan((4, 4, 4), 0.5, skip=True)).volumes())
    whole = joined(slabs, image.grid)
    assert engine.seen < len(windows((24, 4, 4), WindowPlan((4, 4, 4))))
    assert (whole.argmax(0)[:4] == 1).all()
    assert (whole.argmax(0)[4:] == 0).all()


def test_a_whole_image_is_one_window_whose_sides_are_multiples_of_the_size() -> None:
    image = Volume(np.random.default_rng(1).normal(size=(1, 17, 8, 30)).astype(np.float32), grid((17, 8, 30)))
    seen = []

    def network(x: np.ndarray) -> np.ndarray:
        seen.append(x)
        return x

    slabs = list(Sliding(image, Numpy(network), WindowPlan((8, 8, 8), whole=True), outside=-3.0).volumes())
    assert [x.shape for x in seen] == [(1, 1, 24, 8, 32)]
    assert (seen[0][0, 0, :3] == -3).all()
    assert np.array_equal(joined(slabs, image.grid), image.data)


@pytest.mark.parametrize("rests", [False, True])
def test_an_engine_that_is_done_gives_back_its_memory_before_the_last_slabs(rests: bool) -> None:
    story: list[str] = []

    class Told(Numpy):
        def run(self, patches: np.ndarray) -> np.ndarray:
            story.append("window")
            return super().run(patches)

        def rest(self) -> None:
            story.append("rest")

    image = Volume(np.ones((1, 20, 6, 6), np.float32), grid((20, 6, 6)))
    sliding = windows_room.Sliding(image, Told(), WindowPlan((8, 6, 6)), rests=rests)
    slabs = []
    for slab in sliding.volumes():
        story.append("slab")
        slabs.append(slab)
    last = len(story) - story[::-1].index("window")
    assert story[:last].count("slab") > 0
    assert story[:last].count("rest") == 0
    assert story[last:][: 1 + rests] == ["rest", "slab"][1 - rests :]
    assert sum(slab.grid.shape[0] for slab in slabs) >= 20
