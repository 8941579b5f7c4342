import subprocess
import sys
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import psutil
import pytest
from models import CARD, organs
from scipy.ndimage import gaussian_filter

from segcli import memory
from segcli.batch import budget
from segcli.batch.budget import (
    _KEPT,
    Rates,
    cells,
    host_bytes,
    needed,
    plan_case,
    refuse_too_large,
    resampled,
    sums_bytes,
    tried,
    window_cost,
)
from segcli.batch.cases import cases
from segcli.batch.outputs import Destination
from segcli.batch.pipeline import predict
from segcli.engines import host
from segcli.engines.choose import open_engine
from segcli.engines.host import HostEngine
from segcli.engines.opening import Opening
from segcli.errors import InputError, OutOfMemory
from segcli.inference import windows
from segcli.inference.prepare import prepare
from segcli.inference.segment import segment
from segcli.inference.windows import WindowPlan
from segcli.memory import peak_memory
from segcli.models.after import LargestStep, RefineStep
from segcli.models.card import ModelCard, parse
from segcli.models.library import read_card
from segcli.space.volume import Grid, Volume

RATES = Rates(seconds=2.0, pace=1e-9, ram=300_000_000)

MANY: dict[str, Any] = {"labels": {"background": 0, **{f"s{i}": i for i in range(1, 100)}}, "codes": {}}


def card(**changes: Any) -> ModelCard:
    return parse({**CARD, "spacing": [1.0, 1.0, 1.0], **changes})


def grid(*shape: int) -> Grid:
    return Grid((shape[0], shape[1], shape[2]), np.eye(4))


def test_windows_are_counted_on_the_models_grid() -> None:
    # 64 voxels of 1 mm: starts 0, 16, 32 along each axis; at 2 mm one window is enough.
    assert needed(grid(64, 64, 64), 2, card(), RATES).windows == 27
    assert needed(grid(64, 64, 64), 2, card(spacing=[2.0, 2.0, 2.0]), RATES).windows == 1


def test_time_is_windows_voxels_that_are_decided_and_voxels_that_are_written() -> None:
    rates = replace(RATES, first=0.5, decide=1e-6, write=2e-6)
    found = needed(grid(64, 64, 64), 2, card(spacing=[2.0, 2.0, 2.0]), rates, before=5.0)
    # one window, the first; 32^3 voxels decided and written; 10 interpolated voxels' time for each of the scan's
    assert found.seconds == pytest.approx(5 + 0.5 + 2.0 + 32**3 * 3e-6 + 10 * 64**3 * 1e-9)


def test_what_further_windows_take_counts_where_there_are_some() -> None:
    def needs(shape: Grid, rates: Rates) -> int:
        return needed(shape, 2, card(), rates).ram_bytes

    grown = replace(RATES, grown=7_000_000)
    assert needs(grid(64, 64, 64), grown) - needs(grid(64, 64, 64), RATES) == 7_000_000
    assert needs(grid(32, 32, 32), grown) == needs(grid(32, 32, 32), RATES)


def test_windows_that_are_tried_lie_in_the_scan_and_take_time(tmp_path: Path) -> None:
    model = read_card(organs(tmp_path / "organs", spacing=[2.0, 2.0, 2.0]))
    turned = Grid((90, 40, 30), np.array([[0, 1.0, 0, 3], [0.8, 0, 0, -9], [0, 0, -2.0, 5], [0, 0, 0, 1]]))
    scan = Volume(np.zeros((1, *turned.shape), np.float32), turned)
    found = tried(turned, prepare(scan, model.procedure), model, open_engine(model, threads=1).engine, RATES)
    assert found.decide > 0
    assert found.write > 0
    assert found.packed > 0


def test_cells_of_windows_make_the_shape_without_overlap() -> None:
    for shape, size in (((40, 33, 20), (16, 16, 16)), ((7, 20, 20), (1, 16, 16)), ((16, 16, 16), (16, 16, 16))):
        plan_of = WindowPlan(size)
        seen = np.zeros(shape, int)
        for cell, window in zip(cells(shape, plan_of), windows.windows(shape, plan_of), strict=True):
            seen[cell] += 1
            assert all(w.start <= c.start < c.stop <= w.stop for c, w in zip(cell, window.at, strict=True))
        assert (seen == 1).all()


@pytest.mark.parametrize("shape", [(60, 40, 44), (110, 44, 40)])
@pytest.mark.usefixtures("briefly")
def test_the_label_map_is_as_large_as_the_plan_says(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    """Blobs and noise that the small model labels: few windows are all tried, of many some."""
    model = read_card(organs(tmp_path / "organs", spacing=[1.0, 1.0, 1.0]))
    rng = np.random.default_rng(1)
    blobs = gaussian_filter(rng.standard_normal(shape), 4) * 4000 + 20 * rng.standard_normal(shape)
    nibabel.Nifti1Image(blobs.astype(np.float32), np.eye(4)).to_filename(tmp_path / "scan.nii.gz")
    opening = Opening(model=(str(model.folder),), engine="onnx", threads=1)
    planned = plan_case([tmp_path / "scan.nii.gz"], model, opening)["disk_mb"]
    case = cases([str(tmp_path / "scan.nii.gz")])
    [done] = predict(case, model, opening.open(model), Destination(tmp_path / "out"))
    assert 0.8 < planned / (sum(path.stat().st_size for path in done.paths) / 1e6) < 1.25


def test_sums_are_one_windows_planes_whatever_the_length() -> None:
    # 6 classes and the weights, 33 planes of 64 x 64
    assert sums_bytes(card(), grid(64, 64, 640)) == 4 * 7 * 33 * 64 * 64
    halves = replace(card(), window=replace(card().window, sums="float16"))
    assert sums_bytes(halves, grid(640, 64, 64)) == 2 * 7 * 33 * 64 * 64


def test_steps_with_the_labels_count_where_the_scan_is_far_finer_than_the_network() -> None:
    coarse = card(spacing=[8.0, 8.0, 8.0])
    stepped = replace(coarse, after=(LargestStep(),))
    fine, network = grid(256, 256, 256), Grid((32, 32, 32), np.diag([8.0, 8.0, 8.0, 1.0]))
    assert host_bytes(fine, 2, coarse, network, on_disk=False) < host_bytes(fine, 2, stepped, network, on_disk=False)
    kept = min(2 * 256**3, _KEPT)
    # the file's voxels, three label maps, and a mask; the step refine has as much as three of what the network sees
    assert host_bytes(fine, 2, stepped, network, on_disk=False) == (2 + 3 + 1) * 256**3 + kept
    refined = replace(coarse, after=(RefineStep(mm=1, around_mm=16, spread=1.5),))
    assert host_bytes(fine, 2, refined, network, on_disk=False) == (2 + 3 + 3) * 256**3 + kept
    some = Grid((16, 32, 32), network.affine)
    assert host_bytes(fine, 2, refined, some, on_disk=False) == (2 + 3 + 1.5) * 256**3 + kept


def test_a_whole_image_is_one_window_and_needs_its_networks_memory_too(tmp_path: Path) -> None:
    whole = read_card(
        organs(tmp_path / "organs", onnx=False, whole=True, patch_size=[16, 16, 16], spacing=[1.0, 1.0, 1.0])
    )
    engine = open_engine(whole, device="cpu").engine
    image = grid(64, 60, 100)
    assert sums_bytes(whole, image) == 4 * 7 * 65 * 64 * 112
    network = budget.whole_bytes(whole, image, engine)
    assert network == 2 * 4 * 64 * 64 * 112 * (1 + 6)
    assert budget.whole_bytes(card(), image, engine) == 0
    room = memory.resident() + host_bytes(image, 4, whole, image, on_disk=True) + network // 2
    refuse_too_large(image, 4, whole, limit=room)
    with pytest.raises(OutOfMemory, match="GB of memory are needed"):
        refuse_too_large(image, 4, whole, limit=room, network=network)


@pytest.mark.usefixtures("briefly")
def test_a_plan_of_a_whole_image_runs_it_once_to_learn_what_it_costs(tmp_path: Path) -> None:
    whole = read_card(organs(tmp_path / "organs", onnx=False, whole=True, patch_size=[16, 16, 16]))
    nibabel.Nifti1Image(np.zeros((40, 33, 20), np.float32), np.eye(4)).to_filename(tmp_path / "scan.nii.gz")
    opening = Opening(model=(str(whole.folder),), threads=1)
    assert plan_case([tmp_path / "scan.nii.gz"], whole, opening)["windows"] == 1


def test_sums_of_slices_are_those_of_whole_batches_eight_slices_at_least() -> None:
    flat = card(patch_size=[1, 32, 32], slice_axis=0)
    # 4 windows a slice: one slice fills a batch of 3, eight are taken; and the one before
    assert sums_bytes(flat, grid(40, 48, 48), 3) == 4 * 7 * 9 * 48 * 48
    # one window a slice: 16 slices fill a batch of 16; there are no more than 10
    assert sums_bytes(flat, grid(40, 32, 32), 16) == 4 * 7 * 17 * 32 * 32
    assert sums_bytes(flat, grid(10, 32, 32), 16) == 4 * 7 * 11 * 32 * 32


def test_resampling_holds_two_images_in_a_row_what_shrinks_most_first() -> None:
    wide = Grid((10, 100, 200), np.diag([4.0, 1.0, 0.5, 1.0]))
    # 200 columns become 50, 100 rows 50, 10 slices 20: images of 50 000, 25 000 and 50 000 voxels
    assert resampled(wide, Grid((20, 50, 50), np.diag([2.0, 2.0, 2.0, 1.0]))) == 75_000
    assert resampled(wide, wide) == 0


def test_memory_grows_by_the_sums_unless_they_are_on_the_disk() -> None:
    many, big = card(**MANY), grid(64, 256, 256)
    sums = sums_bytes(many, big)
    free, bound = (host_bytes(big, 2, many, big, on_disk) for on_disk in (False, True))
    assert free - bound == sums
    free, bound = (needed(big, 2, many, RATES, on_disk=on_disk).disk_bytes for on_disk in (False, True))
    assert bound - free == sums


def test_on_a_device_the_sums_count_there() -> None:
    found = needed(grid(64, 64, 64), 2, card(), replace(RATES, vram=1_000_000_000))
    assert found.vram_bytes == 1_000_000_000 + 4 * 7 * 33 * 64 * 64


def test_3_3_a_scan_that_cannot_fit_is_refused_with_both_numbers() -> None:
    with pytest.raises(OutOfMemory, match=r"\d+\.\d GB of memory are needed, 0\.5 GB may be used"):
        refuse_too_large(grid(2000, 1000, 1000), 2, card(), limit=500_000_000)
    refuse_too_large(grid(64, 64, 64), 2, card())


def test_a_control_groups_memory_is_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {"/sys/fs/cgroup/memory.max": "3000000", "/sys/fs/cgroup/memory.current": "1000000"}

    def text(self: Path, **_: str) -> str:
        if str(self) not in texts:
            raise FileNotFoundError
        return texts[str(self)]

    monkeypatch.setattr(Path, "read_text", text)
    assert memory.available() == 2_000_000
    assert memory.total() == 3_000_000


@pytest.mark.parametrize(
    ("variables", "mebibytes"),
    [
        ({"SLURM_JOB_ID": "7", "SLURM_MEM_PER_NODE": "2048"}, 2048),
        ({"SLURM_JOB_ID": "7", "SLURM_MEM_PER_CPU": "1024", "SLURM_CPUS_ON_NODE": "3"}, 3072),
        ({"SLURM_JOB_ID": "7", "SLURM_MEM_PER_NODE": "0"}, None),  # all of the machine's
        ({"SLURM_JOB_ID": "7", "SLURM_MEM_PER_CPU": "1024"}, None),
        ({"SLURM_JOB_ID": "7", "SLURM_MEM_PER_NODE": "4G"}, None),
        ({"SLURM_MEM_PER_NODE": "2048"}, None),  # of no job
    ],
)
def test_what_a_job_of_slurm_was_given_is_what_there_is(
    variables: dict[str, str], mebibytes: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without control groups a cluster ends a job that takes more, and the machine's whole memory counted."""
    for name in ("JOB_ID", "MEM_PER_NODE", "MEM_PER_CPU", "CPUS_ON_NODE"):
        monkeypatch.delenv(f"SLURM_{name}", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(memory, "_machine", lambda: (64 << 30, 60 << 30))
    monkeypatch.setattr(memory, "_groups", lambda: [])
    monkeypatch.setattr(memory, "resident", lambda: 1 << 30)
    expected = (64 << 30, 60 << 30) if mebibytes is None else (mebibytes << 20, (mebibytes - 1024) << 20)
    assert (memory.total(), memory.available()) == expected
    assert memory.remedy().startswith(
        "use a machine" if mebibytes is None else f"the job was given {expected[0] / 1e9:.1f}"
    )


def test_memory_beyond_which_a_group_is_slowed_down_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    group = "/sys/fs/cgroup"
    texts = {f"{group}/memory.max": "3000000", f"{group}/memory.high": "2500000", f"{group}/memory.current": "1000000"}

    def text(self: Path, **_: str) -> str:
        if str(self) not in texts:
            raise FileNotFoundError
        return texts[str(self)]

    monkeypatch.setattr(Path, "read_text", text)
    assert (memory.available(), memory.total()) == (1_500_000, 2_500_000)
    texts[f"{group}/memory.high"] = "max"
    assert (memory.available(), memory.total()) == (2_000_000, 3_000_000)


def test_every_group_around_the_process_counts_and_files_that_were_read_are_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    group = "/sys/fs/cgroup/user.slice/one"
    texts = {"/proc/self/cgroup": "1:cpu:/elsewhere\n0::/user.slice/one\n"}
    texts |= {f"{group}/memory.max": "max", f"{group}/memory.current": "1000000"}
    texts |= {"/sys/fs/cgroup/user.slice/memory.max": "5000000", "/sys/fs/cgroup/user.slice/memory.current": "4000000"}
    texts["/sys/fs/cgroup/user.slice/memory.stat"] = "anon 9\ninactive_file 1500000\nactive_file 7\n"

    def text(self: Path, **_: str) -> str:
        if str(self) not in texts:
            raise FileNotFoundError
        return texts[str(self)]

    monkeypatch.setattr(Path, "read_text", text)
    assert memory.available() == 2_500_000
    assert memory.total() == 5_000_000
    texts["/sys/fs/cgroup/user.slice/memory.stat"] = "inactive_file 4500000"  # counted later than what is in use
    assert memory.available() == 5_000_000


class Many(HostEngine):
    """A hundred classes, each a multiple of the image."""

    name, batch, precision = "many", 1, "float32"

    def run(self, patches: np.ndarray) -> np.ndarray:
        k = np.linspace(-1, 1, 100, dtype=np.float32).reshape(1, -1, 1, 1, 1)
        return patches * k - k * k


def test_what_is_left_beside_sums_grows_with_the_cores_as_slabs_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """117 classes of 300 x 300: a plane has 42 MB, and 13 of them are a slab of 16 cores, of which two are there."""
    sums, left = (118, 97, 300, 300), []
    for cores in (2, 16):
        monkeypatch.setattr(windows, "cores", partial(int, cores))
        left.append(host.room_beside(sums))
        assert left[-1] == 2 * windows.slab_bytes(4 * 118 * 300 * 300)
    assert left[0] < 1 << 29 < 1 << 30 < left[1]
    assert host.room_beside((3, 17, 20, 20)) == memory.RESERVE


@pytest.mark.slow
def test_bounded_memory_gives_the_same_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scan whose sums, 100 classes x 16 x 17 x 160 voxels, take 17 MB runs in 14 MB beyond the start."""
    data = np.random.default_rng(0).uniform(-1.2, 1.2, (1, 16, 160, 160)).astype(np.float32)
    scan = Volume(data, grid(16, 160, 160))
    engine = Many(threads=1)
    monkeypatch.setattr(windows, "finished_bytes", lambda: 1 << 21)
    monkeypatch.setattr(windows, "_THICK", 1)
    monkeypatch.setattr(memory, "RESERVE", 1 << 20)
    monkeypatch.setattr(host, "RESERVE", 1 << 20)
    many = card(**MANY, patch_size=[16, 16, 16], overlap=0.0, intensity=[])
    segment(scan, many.procedure, engine)  # warm
    most, done = [0], threading.Event()

    def watch() -> None:
        while not done.is_set():
            most[0] = max(most[0], psutil.Process().memory_info().rss)
            time.sleep(0.005)

    start = psutil.Process().memory_info().rss
    engine.max_ram = start + 14_000_000
    watching = threading.Thread(target=watch)
    watching.start()
    bounded = segment(scan, many.procedure, engine)
    done.set()
    watching.join()
    assert len(engine.fallbacks) == 1
    assert most[0] <= start + 14_000_000
    engine.max_ram = None
    monkeypatch.setattr(memory, "available", lambda: 1 << 40)
    np.testing.assert_array_equal(bounded.labels.data, segment(scan, many.procedure, engine).labels.data)
    assert len(engine.fallbacks) == 1


@pytest.mark.usefixtures("briefly")
def test_a_plan_has_the_windows_of_the_run(tmp_path: Path) -> None:
    model = read_card(organs(tmp_path / "organs", spacing=[2.0, 2.0, 2.0]))
    data = np.zeros((50, 40, 30), np.float32)
    nibabel.Nifti1Image(data, np.diag([2.0, 2, 2, 1])).to_filename(tmp_path / "scan.nii.gz")
    opening = SimpleNamespace(max_ram=None, open=lambda c: open_engine(c, threads=1))
    found = plan_case([tmp_path / "scan.nii.gz"], model, opening)
    result = segment(
        Volume(data[None], Grid(data.shape, np.diag([2.0, 2, 2, 1]))), model.procedure, opening.open(model).engine
    )
    assert found["windows"] == result.windows
    assert found["engine"] == "openvino cpu"


def test_a_plan_of_a_scan_with_other_channels_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = read_card(organs(tmp_path / "organs"))
    nibabel.Nifti1Image(np.zeros((9, 8, 7), np.float32), np.eye(4)).to_filename(tmp_path / "scan.nii")
    monkeypatch.setattr(budget, "window_cost", lambda *_: RATES)
    opening = SimpleNamespace(max_ram=None, open=lambda c: open_engine(model, threads=1))
    with pytest.raises(InputError, match="the scan has 1 channel, the model organs wants 2: T1, T2"):
        plan_case([tmp_path / "scan.nii"], replace(model, channels=("T1", "T2")), opening)


def test_a_label_map_takes_what_was_seen_and_little_beyond_it() -> None:
    # half of 64^3 voxels at a tenth of a byte, the other half next to nothing; the record with its six classes
    found = needed(grid(64, 64, 64), 2, card(), replace(RATES, packed=0.1), part=grid(32, 64, 64)).disk_bytes
    assert found == pytest.approx(64**3 / 2 * 0.1 + 64**3 / 2 / 1000 + 3000 + 6 * 310, abs=1)


@pytest.mark.slow
@pytest.mark.usefixtures("briefly")
def test_a_plan_for_several_models_has_the_windows_of_all_and_their_answers_on_the_disk(tmp_path: Path) -> None:
    first = read_card(organs(tmp_path / "organs", spacing=[2.0, 2.0, 2.0]))
    nibabel.Nifti1Image(np.zeros((50, 40, 30), np.float32), np.diag([2.0, 2, 2, 1])).to_filename(tmp_path / "scan.nii")

    def planned(*others: ModelCard) -> dict[str, Any]:
        def opened(c: ModelCard) -> Any:
            more = tuple((other, open_engine(other, threads=1)) for other in others)
            return replace(open_engine(c, threads=1), others=more)

        return plan_case([tmp_path / "scan.nii"], first, SimpleNamespace(max_ram=None, open=opened))

    one, two = planned(), planned(first)
    assert two["windows"] == 2 * one["windows"]
    assert two["disk_mb"] - one["disk_mb"] == pytest.approx(4 * 6 * 50 * 40 * 30 / 1e6, abs=0.011)


def test_a_window_is_measured_among_as_many_as_the_engine_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    class Three(HostEngine):
        name, batch, precision, shown = "three", 3, "float32", list[int]()

        def run(self, patches: np.ndarray) -> np.ndarray:
            self.shown.append(len(patches))
            return np.repeat(patches, 6, 1)

    monkeypatch.setattr(budget, "_LEARNING", 0.0)
    engine = Three(threads=1)
    found = window_cost(card(), engine)
    assert engine.shown == [3, 3, 3]
    assert (found.batch, found.vram) == (3, 0)


def test_windows_of_an_engine_that_takes_fewer_at_a_time_than_it_said_are_measured_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Short(HostEngine):
        name, batch = "numpy", 4

        def run(self, patches: np.ndarray) -> np.ndarray:
            self.batch = 1
            return np.repeat(patches, 6, axis=1)

    monkeypatch.setattr(budget, "_LEARNING", 0.0)
    assert window_cost(card(), Short()).batch == 1


def test_max_ram_reaches_the_engine(tmp_path: Path) -> None:
    folder = organs(tmp_path / "organs")
    opened = Opening(model=(str(folder),), engine="onnx", max_ram=123_456_789).open(read_card(folder))
    assert opened.max_ram == opened.engine.max_ram == 123_456_789


@pytest.mark.skipif(sys.platform != "linux", reason="getrusage inherits on Linux")
def test_the_peak_of_a_process_is_not_that_of_the_one_that_started_it() -> None:
    here = np.ones(400_000_000, np.uint8)  # this process is large
    said = subprocess.run(
        [sys.executable, "-c", "from segcli.memory import peak_memory; print(peak_memory())"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert peak_memory() > here.nbytes > int(said.stdout) > 0
