"""weights/train on a GPU, played by the CPU: images of the same statistics, a loss of batches, a rate by the clock."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from test_training import HEADER, TRAIN

NAMES = ("anatomy", "synth", "synth_device", "train_device", "train", "network", "kernels")


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The folder of the programs on the path, as they are run."""
    monkeypatch.syspath_prepend(str(TRAIN))
    import anatomy
    import synth
    import synth_device
    import train
    import train_device

    yield anatomy, synth, synth_device, train, train_device
    for name in NAMES:
        sys.modules.pop(name, None)


@pytest.fixture
def maps(tmp_path: Path) -> Path:
    """A folder with one head of 40 mm: two halves, fluid around them, and skull."""
    folder = tmp_path / "maps"
    folder.mkdir()
    rows = (
        "0,background,N,0,0,0,0,7,2,5,2,1,100",
        "2,white matter,L,41,2,1,1,160,20,15,5,1,20",
        "41,white matter,R,2,41,1,1,160,20,15,5,1,20",
        "24,fluid,N,24,24,2,2,44,8,8,3,1,40",
    )
    (folder / "labels.csv").write_text(HEADER + "".join(f"{row}\n" for row in rows))
    head = np.zeros((40, 40, 40), np.int16)
    head[4:36, 4:36, 4:36] = 24
    head[8:20, 8:32, 8:32], head[20:32, 8:32, 8:32] = 41, 2
    import nibabel as nib

    nib.save(nib.Nifti1Image(head, np.diag([-1.0, 1.0, 1.0, 1.0])), folder / "training_seg_01.nii.gz")
    return folder


def test_images_drawn_on_a_device_have_the_statistics_of_those_of_the_host(maps: Path, programs: Any) -> None:
    anatomy, synth, there, _, _ = programs
    table = anatomy.read_table(maps / "labels.csv")
    heads = anatomy.read_maps([maps / "training_seg_01.nii.gz"], table)
    rng, count, shape = np.random.default_rng(0), 192, (20, 22, 18)
    plain = [synth.sample(heads, table, rng, shape, 2.0, 0.5) for _ in range(count)]
    placed = there.on_device(heads, table, "cpu")
    parts = [there.sample_batch(placed, table, rng, 8, shape, 2.0, 0.5) for _ in range(count // 8)]
    images = {"host": torch.cat([i for i, _ in plain]), "device": torch.cat([i for i, _ in parts])}
    targets = {"host": torch.cat([t for _, t in plain]), "device": torch.cat([t for _, t in parts])}
    assert images["device"].shape == (count, 1, *shape)
    assert targets["device"].shape == (count, *shape)
    shares = {k: torch.bincount(t.flatten(), minlength=4) / t.numel() for k, t in targets.items()}
    torch.testing.assert_close(shares["device"], shares["host"], rtol=0, atol=0.05)
    flat = {k: i.flatten(1) for k, i in images.items()}
    for moment in (torch.mean, torch.std):
        own, wanted = (torch.stack([moment(one) for one in flat[k]]) for k in ("device", "host"))
        spread = wanted.std() / count**0.5
        assert (own.mean() - wanted.mean()).abs() < 4 * spread + 0.02
        assert own.std() == pytest.approx(float(wanted.std()), rel=0.35)
    # What is like a voxel's neighbour: noise and blur are of one kind.
    rough = {k: (i[..., 1:] - i[..., :-1]).abs().mean((1, 2, 3, 4)) for k, i in images.items()}
    assert rough["device"].mean() == pytest.approx(float(rough["host"].mean()), rel=0.12)
    # The right half lies on the right, mirrored or not: channels 1 and 2 are labels 2 and 24, 3 is label 41.
    for target in targets["device"][:20]:
        left, right = (target == 1).nonzero()[:, 0].float(), (target == 3).nonzero()[:, 0].float()
        if len(left) > 200 and len(right) > 200:
            assert left.mean() < right.mean()


def test_the_same_seed_draws_the_same_batch(maps: Path, programs: Any) -> None:
    anatomy, _, there, _, _ = programs
    table = anatomy.read_table(maps / "labels.csv")
    placed = there.on_device(anatomy.read_maps([maps / "training_seg_01.nii.gz"], table), table, "cpu")
    one, two = (
        there.sample_batch(placed, table, np.random.default_rng(3), 2, (12, 12, 12), 2.0, 0.5) for _ in range(2)
    )
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])


def test_the_loss_of_one_item_is_that_of_the_other_program_and_of_a_batch_their_mean(programs: Any) -> None:
    *_, host, device = programs
    torch.manual_seed(0)
    logits, weight = torch.randn(2, 3, 4, 5, 6), torch.tensor([1.0, 1.0, 1.0])
    target = torch.randint(0, 2, (2, 4, 5, 6))
    each = [host.loss_of(logits[i : i + 1], target[i : i + 1], weight)[0] for i in range(2)]
    for i in range(2):
        torch.testing.assert_close(device.loss_of(logits[i : i + 1], target[i : i + 1], weight)[0], each[i])
    torch.testing.assert_close(device.loss_of(logits, target, weight)[0], sum(each) / 2)


def test_the_rate_climbs_for_twenty_seconds_and_falls_to_nothing_at_the_end(programs: Any) -> None:
    rate = programs[4].rate_at
    assert rate(10, 510, 1.0) == pytest.approx(0.5, abs=1e-3)
    assert rate(20, 510, 1.0) == 1.0
    assert rate(265, 510, 1.0) == pytest.approx(0.5)
    assert rate(510, 510, 1.0) == rate(600, 510, 1.0) == pytest.approx(0, abs=1e-9)


def test_the_average_is_near_the_newest_weights_at_first_and_holds_them_by_their_names(programs: Any) -> None:
    net = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(net.weight, 0.0)
    average = programs[4].Average(net)
    torch.nn.init.constant_(net.weight, 1.0)
    average.move(1)
    assert average.tensors()["weight"].item() == pytest.approx(9 / 11, abs=1e-3)
    for _ in range(5000):
        average.move(100_000)
    assert average.tensors()["weight"].item() == pytest.approx(1, abs=0.01)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The card that the processor plays in the tests of engines, which has no generator of its own."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "engines"))
    from card import played

    class Drawing(torch.Generator):
        def __new__(cls, device: Any = None) -> Any:
            return super().__new__(cls)

    monkeypatch.setattr(torch, "Generator", Drawing)
    with played(monkeypatch) as card:
        yield card


def test_on_a_card_images_and_losses_are_made_without_waiting_and_nothing_crosses_to_the_host(
    maps: Path, programs: Any, gpu: Any
) -> None:
    anatomy, _, there, _, device = programs
    table = anatomy.read_table(maps / "labels.csv")
    placed = there.on_device(anatomy.read_maps([maps / "training_seg_01.nii.gz"], table), table, "cuda:0")
    net = device.in_its_order(device.build(len(table.outputs), 4)).to("cuda:0", memory_format=torch.channels_last_3d)
    weight = table.weight.to(placed.device)
    waited = gpu.waits
    for seed in range(3):
        image, target = there.sample_batch(placed, table, np.random.default_rng(seed), 2, (32, 32, 32), 2.0, 0.5)
        with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
            logits = net(image.contiguous(memory_format=torch.channels_last_3d))
        loss, dice = device.loss_of(logits, target, weight)
        assert {one.device.type for one in (image, target, logits, loss, dice)} == {"cuda"}
    assert (gpu.waits, gpu.down) == (waited, 0)


def test_norms_that_leave_the_order_of_data_learn_alike_and_change_no_name(programs: Any) -> None:
    device = programs[4]
    net = device.build(3, 4)
    names = list(net.state_dict())
    assert list(device.in_its_order(net).state_dict()) == names
    torch.manual_seed(0)
    x = torch.randn(2, 4, 5, 6, 7)
    grads = []
    for norm in (torch.nn.InstanceNorm3d(4), _on_a_device(torch.nn.InstanceNorm3d(4))):
        own = x.clone().requires_grad_()
        (norm(own) ** 3).sum().backward()
        grads.append(own.grad)
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-4, atol=1e-4)


def _on_a_device(norm: torch.nn.Module) -> Any:
    """What a device computes in place of the norm: batch norm of each item."""
    return lambda x: torch.cat([F.batch_norm(item, None, None, None, None, True, 0.0, norm.eps) for item in x.split(1)])


def test_heads_in_one_file_are_those_of_the_maps_where_nothing_reads_maps(
    maps: Path, programs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    anatomy, *_, device = programs
    table, file = anatomy.read_table(maps / "labels.csv"), tmp_path / "heads.npz"
    (maps / "training_seg_02.nii.gz").write_bytes((maps / "training_seg_01.nii.gz").read_bytes())
    heads = anatomy.read_maps(sorted(maps.glob("*.nii.gz")), table)
    heads[0].ways[0][:] = torch.linspace(-20, 20, heads[0].ways[0].numel()).view_as(heads[0].ways[0])
    anatomy.keep(heads, file)
    for name in ("nibabel", "SimpleITK"):
        monkeypatch.setitem(sys.modules, name, None)
    for found, wanted in zip(anatomy.heads_of(file, table), heads, strict=True):
        assert all(np.array_equal(*pair) for pair in zip(found.kinds, wanted.kinds, strict=True))
        assert np.array_equal([found.low, found.high], [wanted.low, wanted.high])
        for pair in zip(found.ways, wanted.ways, strict=True):
            torch.testing.assert_close(*pair, rtol=0, atol=1 / 16)
    monkeypatch.setattr(device, "train", lambda net, placed, *rest: len(placed.heads))
    assert device.main([str(maps), "--heads", str(file), "--device", "cpu", "--features", "4"]) == len(heads)


@pytest.mark.slow
def test_a_dry_run_learns_some_steps_and_leaves_weights_that_ship(
    maps: Path, programs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    device = programs[4]
    weights = tmp_path / "run.safetensors"
    monkeypatch.setattr(device, "TOLD", 0)
    monkeypatch.setattr(device, "SAVE", 0)
    words = [str(maps), "--weights", str(weights), "--minutes", "0.05", "--n", "32", "--features", "4"]
    words += ["--batch", "2", "--device", "cpu", "--seed", "1"]
    steps = device.main(words)
    assert steps >= 1
    assert "pairs/s" in capsys.readouterr().out
    more = device.main(words)
    assert more > steps
    with safe_open(weights, "pt") as file:
        assert file.metadata()["steps"] == str(more)
        assert file.metadata()["output_labels"] == "0,2,24,41"
        assert file.get_tensor("out.conv.conv.weight").shape == (4, 4, 1, 1, 1)
        assert file.get_tensor("out.conv.conv.weight").dtype == torch.float16
