"""weights/train: the programs behind the default model, on a label map made here."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from safetensors import safe_open

TRAIN = Path(__file__).parent.parent / "weights" / "train"
HEADER = (
    "label,name,side,mirror_label,output_label,generation_class,t1_class,"
    "t1_mean_of_means,t1_std_of_means,t1_mean_of_stds,t1_std_of_stds,maps_with_label,median_ml\n"
)


@pytest.fixture
def maps(tmp_path: Path) -> Path:
    """A folder with one head of 48 mm: a left half of 2, a right half of 41."""
    folder = tmp_path / "maps"
    folder.mkdir()
    (folder / "labels.csv").write_text(
        HEADER
        + "0,background,N,0,0,0,0,7,2,5,2,1,100\n"
        + "2,white matter,L,41,2,1,1,160,20,15,5,1,20\n"
        + "41,white matter,R,2,41,1,1,160,20,15,5,1,20\n"
    )
    head = np.zeros((48, 48, 48), np.int16)
    head[8:24, 8:40, 8:40], head[24:40, 8:40, 8:40] = 41, 2  # stored from right to left
    nib.save(nib.Nifti1Image(head, np.diag([-1.0, 1.0, 1.0, 1.0])), folder / "training_seg_01.nii.gz")
    return folder


TWICE_TWO_STEPS = """
import kernels
kernels.extension = lambda: None  # no compiler needed, no wait for one
import train

class Run(train.Run):
    def step(self, rate):
        done = super().step(rate)
        self.stop.value = done % 2 == 0
        return done

train.Run = Run
train.main()
train.main()
"""


@pytest.mark.slow
def test_training_stops_and_goes_on_where_it_stopped(maps: Path, tmp_path: Path) -> None:
    weights = tmp_path / "run.safetensors"
    options = ["--weights", weights, "--minutes", "1", "--n", "32", "--features", "4", "--workers", "1"]
    # In a process of its own: training forks and sets threads.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TRAIN), str(TRAIN.parent.parent)])}
    command = [sys.executable, "-c", TWICE_TWO_STEPS, maps, *options]
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with safe_open(weights, "pt") as file:
        assert file.metadata()["steps"] == "4"
        assert file.metadata()["output_labels"] == "0,2,41"
        assert file.get_tensor("out.conv.conv.weight").shape == (3, 4, 1, 1, 1)


@pytest.mark.skipif(not shutil.which("c++") or not shutil.which("ninja"), reason="needs a C++ compiler and ninja")
@pytest.mark.skipif(os.environ.get("SEGCLI_SHARED") is None, reason="compiles for half a minute; set SEGCLI_SHARED")
def test_the_kernels_give_the_gradients_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TRAIN))
    import network
    import train

    torch.manual_seed(0)
    net = network.build(5, 16).to(memory_format=torch.channels_last_3d)
    image, target = torch.randn(1, 1, 32, 32, 32), torch.randint(0, 5, (1, 32, 32, 32))
    gradients = []
    for loss_of in (train.loss_of, train.Loss.apply):
        with torch.autocast("cpu", torch.bfloat16):
            logits = net(image.contiguous(memory_format=torch.channels_last_3d))
        gradients.append(torch.autograd.grad(loss_of(logits, target, torch.ones(5))[0], net.decoder1.parameters()))
        network.quicken(net)
    for plain, quick in zip(*gradients, strict=True):
        assert (plain - quick).norm() < 0.1 * plain.norm()  # both are bfloat16


def test_a_pair_mirrored_or_not_has_the_right_half_on_the_right(maps: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TRAIN))
    import anatomy
    import synth

    table = anatomy.read_table(maps / "labels.csv")
    heads = anatomy.read_maps([maps / "training_seg_01.nii.gz"], table)
    # RAS: the first axis runs to the right, channel 1 is label 2 (left), channel 2 is label 41 (right).
    whole = 0
    for seed in range(12):
        image, target = synth.sample(heads, table, np.random.default_rng(seed), (32, 48, 16), 2.0, 0.5)
        assert image.shape == (1, 1, 32, 48, 16)
        left, right = (target[0] == 1).nonzero()[:, 0], (target[0] == 2).nonzero()[:, 0]
        if len(left) > 200 and len(right) > 200:
            whole += 1
            assert left.float().mean() < right.float().mean()
    assert whole >= 4


def test_a_border_moves_by_one_voxel_to_what_it_touches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TRAIN))
    import anatomy

    rows = np.full((12, 12, 12), 1, np.uint8)
    rows[6:] = 2
    rows[3:9, 3:9, 3:9] = 4
    rows[4:6, 4:6, 4:6] = 5  # choroid plexus within
    ventricle = np.isin(np.arange(6), (4, 5))
    out = anatomy.moved(rows, ventricle, ~ventricle)
    inner = np.zeros(rows.shape, bool)
    inner[4:8, 4:8, 4:8] = True
    assert np.array_equal(out[inner], rows[inner])
    assert set(np.unique(out[~inner])) == {1, 2}
    assert (out[3, 3:9, 3:9] == 1).all()
    assert (out[8, 3:9, 3:9] == 2).all()
    nothing = np.zeros(6, bool)
    assert np.array_equal(anatomy.moved(rows, nothing, ~nothing), rows)


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A folder with two heads, one larger: shells of skin, fluid, cortex and white matter around a ventricle."""
    folder = tmp_path / "two"
    folder.mkdir()
    structures = {
        24: ("fluid", 24, 2, 44),
        511: ("skin", 0, 3, 110),
        2: ("white matter", 2, 1, 160),
        3: ("cortex", 3, 4, 100),
        4: ("ventricle", 4, 2, 44),
    }
    rows = ["0,background,N,0,0,0,0,7,2,5,2,2,100"]
    rows += [f"{k},{name},N,{k},{out},{t1},{t1},{mean},10,8,3,2,20" for k, (name, out, t1, mean) in structures.items()]
    (folder / "labels.csv").write_text(HEADER + "".join(f"{row}\n" for row in rows))
    at = np.indices((64, 64, 64)) - 31.5
    for number, stretch in ((1, 1.0), (2, 1.15)):
        far = np.sqrt((at[0] / stretch) ** 2 + at[1] ** 2 + at[2] ** 2)
        head = np.zeros(far.shape, np.int16)
        for radius, value in ((26, 511), (23, 24), (20, 3), (16, 2), (7, 4)):
            head[far < radius] = value
        nib.save(nib.Nifti1Image(head, np.eye(4)), folder / f"training_seg_0{number}.nii.gz")
    return folder


def test_a_head_is_kept_with_other_ventricles_and_cortex(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TRAIN))
    import anatomy

    table = anatomy.read_table(two / "labels.csv")
    head = anatomy.read_maps([two / "training_seg_01.nii.gz"], table)[0]
    channels = [table.target[torch.from_numpy(rows.astype(int))] for rows in head.kinds]
    fluid, white, cortex, ventricle = (
        np.array([float((one == table.outputs.index(value)).sum()) for one in channels]) for value in (24, 2, 3, 4)
    )
    plain, young, old, thick, thin = range(5)
    assert len(anatomy.SHARES) == len(channels)
    assert old == anatomy.OLD
    assert (ventricle[young], ventricle[thick]) == (ventricle[thick], ventricle[young])
    assert ventricle[young] < 0.75 * ventricle[plain] < ventricle[plain] < 0.6 * ventricle[old]
    assert (cortex[old], cortex[thick], cortex[thin]) == pytest.approx(
        (cortex[plain] * 0.78, cortex[plain] * 1.2, cortex[plain] * 0.8), rel=0.1
    )
    assert white[thin] > white[plain] > white[thick]
    assert fluid[old] > fluid[plain] == fluid[thin]
    for one in channels[1:]:  # the brain with the fluid around it stays
        assert torch.equal(one > 0, channels[0] > 0)
    # White matter within 2 mm of the cortex is a row of its own, and white matter.
    outermost = table.values[head.kinds[0]] == anatomy.OUTERMOST + 2
    assert (channels[0][torch.from_numpy(outermost)] == table.outputs.index(2)).all()
    middle = outermost[len(outermost) // 2, outermost.shape[1] // 2]
    assert np.flatnonzero(middle).size == 4


def test_half_of_the_way_to_another_head_is_an_anatomy_between(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TRAIN))
    import anatomy
    import synth

    table = anatomy.read_table(two / "labels.csv")
    heads = anatomy.read_maps(sorted(two.glob("*.nii.gz")), table)
    assert [len(head.ways) for head in heads] == [1, 1]
    small, large = heads
    axes = [torch.arange(n, dtype=torch.float32) for n in large.shape]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    points = points + torch.from_numpy((small.middle - large.middle).astype(np.float32))

    def width(share: float) -> int:
        """Of the white matter and all within, in voxels, a share of the way from the small head to the large."""
        rows = synth.nearest(small.kinds[0], points + share * synth.along(small.ways[0], points))
        inner = np.isin(table.values[rows.numpy()] % anatomy.OUTERMOST, (2, 4))
        return int(inner.any((1, 2)).sum())

    assert width(0) == 32
    assert width(0) < width(0.5) < width(1)
    assert width(1) == pytest.approx(37, abs=1)


def test_below_a_map_the_neck_goes_on_and_has_no_label(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TRAIN))
    import anatomy
    import synth

    table = anatomy.read_table(two / "labels.csv")
    head = anatomy.read_maps([two / "training_seg_01.nii.gz"], table)[0]
    axes = [torch.arange(float(n)) for n in (*head.shape[:2], 40)]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1) - torch.tensor([0.0, 0.0, 30.0])
    there, below = synth.shoulders(points, head, np.random.default_rng(0))
    assert torch.equal(below, points[..., 2] < 0)
    assert torch.equal(there[~below], points[~below])
    assert there[..., 2].min() >= 0
    assert there[below][:, 2].max() <= head.low[2] - 2  # nothing of the brain is repeated
    rows = synth.nearest(head.kinds[0], there)
    assert (rows[..., :25] > 0).any()
    assert not table.brain[rows[below]].all()


def test_white_matter_without_myelin_is_nearer_to_the_grey(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TRAIN))
    import anatomy
    import synth

    table = anatomy.read_table(two / "labels.csv")
    row = {int(value): number for number, value in enumerate(table.values)}
    for seed in range(5):
        rng = np.random.default_rng(seed)
        before = synth.t1_like(table, rng)
        mean = synth.immature(before, table, rng).mean
        grey = float(before.mean[row[3]])
        assert mean[row[3]] == grey
        assert before.mean[row[2]] > mean[row[2]] > mean[row[anatomy.OUTERMOST + 2]] > grey
        for value in (0, 24, 511, 4):
            assert mean[row[value]] == before.mean[row[value]]


def test_a_caudate_has_not_the_brightness_of_the_cortex(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TRAIN))
    import anatomy
    import synth

    grey, white = "3,96,12,19,6,1,20\n", "2,160,22,16,5,1,20\n"
    rows = ["0,background,N,0,0,0,0,7,2,5,2,1,100\n"]
    for left, right, name, tail in ((2, 41, "white matter", white), (3, 42, "cortex", grey), (11, 50, "caudate", grey)):
        rows += [f"{left},{name},L,{right},{left},{left},{tail}", f"{right},{name},R,{left},{right},{left},{tail}"]
    (tmp_path / "labels.csv").write_text(HEADER + "".join(rows))
    table = anatomy.read_table(tmp_path / "labels.csv")
    row = {int(value): number for number, value in enumerate(table.values)}
    monkeypatch.setattr(synth, "ALIKE", 0)
    for contrast in (synth.t1_like, synth.mr_like):
        shares = []
        for seed in range(200):
            mean = contrast(table, np.random.default_rng(seed)).mean
            assert mean[row[11]] == mean[row[50]]
            assert mean[row[3]] == mean[row[42]]
            shares.append(float((mean[row[11]] - mean[row[3]]) / (mean[row[2]] - mean[row[3]])))
        assert np.median(shares) == pytest.approx(0.2, abs=0.04)
        assert np.std(shares) == pytest.approx(0.12, abs=0.03)


def test_structures_of_t1_scans_lie_where_real_ones_have_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TRAIN))
    import anatomy
    import synth

    # the pallidum's and the thalamus' own priors are unlike what scans show of them
    tails = {
        "cortex": "3,96,12,19,6,1,20\n",
        "white": "2,160,22,16,5,1,20\n",
        "thalamus": "4,30,12,19,6,1,20\n",
        "pallidum": "5,250,12,8,4,1,2\n",
    }
    pairs = ((2, 41, "white"), (3, 42, "cortex"), (10, 49, "thalamus"), (13, 52, "pallidum"))
    rows = ["0,background,N,0,0,0,0,7,2,5,2,1,100\n"]
    for left, right, name in pairs:
        rows += [
            f"{a},{name},{side},{b},{left},{left},{tails[name]}"
            for a, b, side in ((left, right, "L"), (right, left, "R"))
        ]
    (tmp_path / "labels.csv").write_text(HEADER + "".join(rows))
    table = anatomy.read_table(tmp_path / "labels.csv")
    row = {int(value): number for number, value in enumerate(table.values)}
    monkeypatch.setattr(synth, "ALIKE", 1)
    for value, (least, most) in ((13, synth.T1_WAY[13, 52]), (10, synth.T1_WAY[10, 49])):
        shares = []
        for seed in range(200):
            mean = synth.t1_like(table, np.random.default_rng(seed)).mean.double()
            assert mean[row[value]] == mean[row[{13: 52, 10: 49}[value]]]
            shares.append(float((mean[row[value]] - mean[row[3]]) / (mean[row[2]] - mean[row[3]])))
        assert np.median(shares) == pytest.approx((least + most) / 2, abs=0.04)
        assert np.mean([least - 0.2 < share < most + 0.2 for share in shares]) > 0.95


def test_white_matter_is_nearer_to_the_cortex_under_it(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TRAIN))
    import anatomy
    import synth

    table = anatomy.read_table(two / "labels.csv")
    row = {int(value): number for number, value in enumerate(table.values)}
    for contrast in (synth.t1_like, synth.mr_like):
        for seed in range(20):
            mean = contrast(table, np.random.default_rng(seed)).mean
            outer = mean[row[anatomy.OUTERMOST + 2]]
            assert 0.8 <= float((outer - mean[row[3]]) / (mean[row[2]] - mean[row[3]])) <= 1


def test_what_a_scanner_did_not_see_is_dark_and_has_no_label(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TRAIN))
    import anatomy
    import synth

    table = anatomy.read_table(two / "labels.csv")
    heads = anatomy.read_maps([two / "training_seg_01.nii.gz"], table)

    def half(shape: tuple[int, int, int], rng: np.random.Generator) -> torch.Tensor:
        seen = torch.ones(shape, dtype=torch.bool)
        seen[:, :10] = False
        return seen

    monkeypatch.setattr(synth, "field_of_view", half)
    for seed in range(4):
        image, target, _ = synth.sample_between(heads, table, np.random.default_rng(seed), (24, 24, 24), 2.0, 1.0)
        assert (target[:, :, :9] == 0).all()
        assert len(image[0, 0, :, :10].unique()) == 1
        assert (target[:, :, 9:] > 0).any()


def test_of_a_hundred_scanners_most_saw_all_and_no_artefact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TRAIN))
    import synth

    rng = np.random.default_rng(0)
    shares = [float(synth.field_of_view((20, 20, 20), rng).float().mean()) for _ in range(300)]
    assert 0.8 < np.mean(np.array(shares) == 1) < 0.95
    assert min(shares) >= 0.65
    image = torch.rand(1, 1, 20, 20, 20)
    changed = [not torch.equal(synth.artefact(image, rng), image) for _ in range(300)]
    assert 0.04 < np.mean(changed) < 0.17


def test_a_structure_is_uneven_smoothly_and_each_in_its_own_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TRAIN))
    import synth

    where = torch.ones(40, 40, 40, dtype=torch.long)
    where[20:] = 2
    deviation = torch.tensor([0.0, 10.0, 10.0, 0.0])
    contrast = synth.Contrast(deviation, deviation, False, torch.arange(4))
    spreads, alike = [], []
    for seed in range(30):
        found = synth.unevenness(where, contrast, np.random.default_rng(seed))
        spreads.append(float(found.std()))
        coarse = torch.nn.functional.avg_pool3d(found[None], 10)[0]  # white noise would leave a thirtieth of it
        alike.append(float(coarse.std() / found.std()))
    assert 6 <= min(spreads) <= np.median(spreads) <= 10
    assert np.median(alike) > 0.2
    one, two = (found[part] - found[part].mean() for part in (slice(19, 20), slice(20, 21)))
    assert not torch.allclose(one, two)
    one_whole = replace(contrast, whole=torch.tensor([0, 1, 1, 3]))
    one_row = synth.unevenness(where.clamp_max(1), contrast, np.random.default_rng(0))
    assert torch.equal(synth.unevenness(where, one_whole, np.random.default_rng(0)), one_row)
    nothing = synth.unevenness(where, replace(contrast, deviation=torch.zeros(4)), np.random.default_rng(0))
    assert torch.equal(nothing, torch.zeros(40, 40, 40))


def test_the_outermost_white_matter_is_a_part_of_the_rest(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has a row of its own, so that myelin may be missing there, and no border to the rest where it is not."""
    monkeypatch.syspath_prepend(str(TRAIN))
    import anatomy

    table = anatomy.read_table(two / "labels.csv")
    assert table.values.tolist() == [0, 24, 511, 2, 3, 4, 10_002]
    assert table.whole.tolist() == [0, 1, 2, 3, 4, 5, 3]


def test_what_ships_expects_rare_structures_and_fluid_less_than_the_training(
    two: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(TRAIN))
    import anatomy
    import ship

    table = anatomy.read_table(two / "labels.csv")
    fluid = table.outputs.index(24)
    for balance, taken in (("1", 0.7), ("0.3", 0.0), ("0.1", 0.0)):
        wanted = 1 - taken * table.weight.log()
        wanted[fluid] -= 0.3
        found = ship.corrected(torch.ones(len(table.outputs)), table, {"balance": balance})
        torch.testing.assert_close(found, wanted)


def test_freesurfers_plexus_belongs_to_the_ventricle_it_lies_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TRAIN))
    monkeypatch.setattr(sys, "argv", ["evaluate.py"])
    from evaluate import freesurfer

    row = [4, 31, 31, 0, 0, 31, 5, 2, 251, 77, 0, 253, 80, 41, 43, 63, 63, 0, 63, 44, 79, 1005, 12105, 30, 72]
    wanted = [4, 4, 4, 0, 0, 5, 5, 2, 2, 2, 0, 41, 41, 41, 43, 43, 43, 0, 44, 44, 41, 3, 42, 0, 0]
    found = freesurfer(np.array(row)[None, None])
    np.testing.assert_array_equal(found[0, 0], wanted)
