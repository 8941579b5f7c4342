"""weights/train: the programs behind the default model, on a label map made here."""

import os
import shutil
import subprocess
import sys
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
    import synth

    table = synth.read_table(maps / "labels.csv")
    heads = synth.read_maps([maps / "training_seg_01.nii.gz"], table)
    # RAS: the first axis runs to the right, channel 1 is label 2 (left), channel 2 is label 41 (right).
    for seed in range(4):
        image, target = synth.sample(heads, table, np.random.default_rng(seed), (32, 48, 16), 2.0, 0.5)
        assert image.shape == (1, 1, 32, 48, 16)
        left, right = (target[0] == 1).nonzero()[:, 0], (target[0] == 2).nonzero()[:, 0]
        assert left.float().mean() < right.float().mean()


def test_a_young_head_has_ventricles_that_are_a_voxel_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TRAIN))
    import synth

    rows = np.full((12, 12, 12), 1, np.uint8)
    rows[6:] = 2
    rows[3:9, 3:9, 3:9] = 4
    rows[4:6, 4:6, 4:6] = 5  # choroid plexus within
    out = synth.shrunk(rows, np.isin(rows, (4, 5)))
    inner = np.zeros(rows.shape, bool)
    inner[4:8, 4:8, 4:8] = True
    assert np.array_equal(out[inner], rows[inner])
    assert set(np.unique(out[~inner])) == {1, 2}
    assert (out[3, 3:9, 3:9] == 1).all()
    assert (out[8, 3:9, 3:9] == 2).all()
    assert np.array_equal(synth.shrunk(rows, np.zeros(rows.shape, bool)), rows)
