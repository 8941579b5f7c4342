"""2-D networks, from a checkpoint to labels: slices are shown one by one, or with their neighbours, at any distance."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden import DATA, Golden
from golden import read as read_golden
from models import CARD
from runs import in_process
from shapes import grid
from torch.nn.functional import pad

from segcli.engines.choose import open_engine
from segcli.errors import ModelError
from segcli.formats import read, write_image
from segcli.inference.prepare import neighbours, prepare
from segcli.inference.segment import segment
from segcli.models.card import ModelCard, parse
from segcli.models.imports import adopt, options
from segcli.models.library import find
from segcli.networks.registry import build
from segcli.space.volume import Volume

ORDER = {0: (0, 1, 2), 1: (1, 0, 2), 2: (1, 2, 0)}  # slices, rows, columns -> array axes, by slice axis


def imported(name: str, to: Path, axis: int = 0, **given: Any) -> tuple[Golden, ModelCard]:
    """The official network's weights as a raw checkpoint, made a model."""
    golden = read_golden(DATA / f"{name}.safetensors")
    torch.save(golden.weights, to / f"{name}.pth")
    rows, columns = golden.input.shape[2:]
    stated = {"spacing": "keep", "orientation": "file", "normalise": "none", "patch": f"{rows},{columns}"}
    fields = options(**{**stated, "slice_axis": axis, "channels": "CT", **given})
    return golden, find(str(adopt(to / f"{name}.pth", to=to / "models", given=fields)))


def volume(pictures: np.ndarray, axis: int, thickness: float) -> Volume:
    """Pictures (C, slices, rows, columns) as a scan whose slices lie along an axis, some mm apart."""
    data = pictures.transpose(0, *(1 + i for i in ORDER[axis]))
    spacing = np.full(3, 0.8)
    spacing[axis] = thickness
    return Volume(np.ascontiguousarray(data, np.float32), grid(data.shape[1:], tuple(spacing)))


def thinned(labels: Volume, axis: int, stride: int) -> np.ndarray:
    """Labels as pictures, at the pixels that golden files keep."""
    back = np.argsort(ORDER[axis])
    return labels.data[0].transpose(back)[:, ::stride, ::stride]


@pytest.mark.parametrize(("axis", "thickness"), [(0, 5.0), (1, 0.4), (2, 12.0)])
def test_an_nnunet_of_slices_labels_them_as_the_original_does(tmp_path: Path, axis: int, thickness: float) -> None:
    golden, card = imported(
        "nnunet_plain_2d", tmp_path, axis, channels="T1,T2,FLAIR", labels="background,liver,spleen,heart"
    )
    scan = volume(golden.input.numpy().swapaxes(0, 1), axis, thickness)
    labels = segment(scan, card.procedure, open_engine(card, engine="torch", device="cpu").engine).labels
    assert np.array_equal(thinned(labels, axis, golden.stride), golden.outputs[0].numpy().argmax(1))


def test_a_gated_unet3plus_leaves_slices_that_it_judges_empty_background(tmp_path: Path) -> None:
    golden, card = imported("unet3plus_cgm_a", tmp_path, labels="background,liver,spleen")
    scan = volume(golden.input.numpy().swapaxes(0, 1), 0, 3.0)
    labels = thinned(segment(scan, card.procedure, open_engine(card, engine="torch").engine).labels, 0, golden.stride)
    shares = golden.outputs[0].numpy()
    empty = (shares == 0.5).all((1, 2, 3))
    assert empty.any()
    assert not empty.all()
    assert not labels[empty].any()
    expected = np.where(shares[:, 1] > 0.5, 2, np.where(shares[:, 0] > 0.5, 1, 0))
    assert np.array_equal(labels, expected)


@pytest.mark.parametrize("axis", [0, 2])
def test_a_unet3plus_that_sees_three_slices_labels_the_middle_one(tmp_path: Path, axis: int) -> None:
    golden, card = imported("unet3plus_base_a", tmp_path, axis, slices=3, labels="background,liver")
    engine = open_engine(card, engine="torch").engine
    for picture, official in zip(golden.input.numpy(), golden.outputs[0].numpy(), strict=True):
        labels = segment(volume(picture[None], axis, 4.0), card.procedure, engine).labels
        assert np.array_equal(thinned(labels, axis, golden.stride)[1], official[0] > 0.5)


def test_slices_of_a_unet3plus_that_are_smaller_than_its_windows_repeat_their_edge(tmp_path: Path) -> None:
    golden, card = imported("unet3plus_base_a", tmp_path, slices=3, labels="background,liver")
    assert card.window.padding == "edge"
    net = golden.load(build(golden.name, golden.config))
    picture = golden.input[:1, :, :21, :18]
    rows, columns = (whole - part for whole, part in zip(golden.input.shape[2:], (21, 18), strict=True))
    above, left = rows // 2, columns // 2
    with torch.inference_mode():
        shares = net(pad(picture, (left, columns - left, above, rows - above), mode="replicate"))
    expected = shares[0, 0, above : above + 21, left : left + 18].numpy() > 0.5
    assert 0 < expected.mean() < 1
    labels = segment(volume(picture.numpy(), 0, 4.0), card.procedure, open_engine(card, engine="torch").engine).labels
    assert np.array_equal(labels.data[0, 1], expected)


def test_an_nnunet_of_slices_pads_them_with_a_constant(tmp_path: Path) -> None:
    _, card = imported("nnunet_plain_2d", tmp_path, channels="T1,T2,FLAIR", labels="background,liver,spleen,heart")
    assert card.window.padding == "constant"


def test_at_the_ends_the_last_slice_is_repeated() -> None:
    scan = volume(np.arange(4, dtype=np.float32).reshape(1, 4, 1, 1), 0, 1.0)
    assert neighbours(scan, 0, 3).data[:, :, 0, 0].tolist() == [[0, 0, 1, 2], [0, 1, 2, 3], [1, 2, 3, 3]]


def test_24_beyond_the_image_each_channel_of_each_neighbour_has_its_own_value() -> None:
    steps = [{"step": "outside", "value": value, "channels": [c]} for c, value in enumerate((-1, 5))]
    sizes = {"slice_axis": 0, "slices": 3, "patch_size": [1, 8, 8], "spacing": None}
    card = parse({**CARD, **sizes, "channels": ["T1", "T2"], "intensity": [{"step": "resample"}, *steps]})
    scan = volume(np.zeros((2, 4, 8, 8), np.float32), 0, 1.0)
    assert prepare(scan, card.procedure).outside.tolist() == [-1, 5] * 3  # as `neighbours` puts them


def test_a_network_of_three_inputs_asks_whether_they_are_channels_or_slices(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has 3 input channels, not 1") as refused:
        imported("unet3plus_base_a", tmp_path, labels="background,liver")
    assert "--slices" in str(refused.value.hint)


@pytest.mark.parametrize("changes", [{"slices": 2}, {"slices": 3, "slice_axis": None, "patch_size": [8, 32, 32]}])
def test_neighbouring_slices_are_an_odd_number_along_a_slice_axis(changes: dict[str, Any]) -> None:
    card = {"format": 1, "name": "m", "architecture": {"name": "unet3plus"}, "channels": ["CT"], "slice_axis": 0}
    with pytest.raises(ModelError, match="slices"):
        parse({**card, "patch_size": [1, 32, 32], "labels": {"background": 0, "liver": 1}, **changes})


@pytest.mark.slow
@pytest.mark.parametrize("slices", [1, 3])
def test_windows_of_large_slices_are_blended_in_plane_and_no_slice_touches_another(tmp_path: Path, slices: int) -> None:
    name = "unet3plus_base_a" if slices == 3 else "nnunet_plain_2d"
    labels = "background,liver" if slices == 3 else "background,liver,spleen,heart"
    channels = "CT" if slices == 3 else "T1,T2,FLAIR"
    _, card = imported(name, tmp_path, slices=slices, labels=labels, channels=channels, patch="32,32", overlap=0.5)
    engine = open_engine(card, engine="torch").engine
    rng = np.random.default_rng(0)
    pictures = rng.normal(size=(len(card.channels), 21, 50, 45)).astype(np.float32)
    whole = segment(volume(pictures, 0, 5.0), card.procedure, engine)
    assert whole.windows == 21 * 3 * 2
    part = segment(volume(pictures[:, 9:14], 0, 5.0), card.procedure, engine)
    inner = slice(slices // 2, 5 - slices // 2)
    assert np.array_equal(part.labels.data[0][inner], whole.labels.data[0][9:14][inner])
    assert 0 < (whole.labels.data > 0).mean() < 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("unet3plus_base_a", ["--slices", "3", "--labels", "background,liver"]),
        ("unet3plus_cgm_a", ["--labels", "background,liver,spleen"]),
        ("nnunet_plain_2d", ["--channels", "T1,T2,FLAIR", "--labels", "background,liver,spleen,heart"]),
    ],
)
def test_the_command_imports_predicts_and_exports_a_network_of_slices(
    tmp_path: Path, name: str, words: list[str]
) -> None:
    golden = read_golden(DATA / f"{name}.safetensors")
    torch.save({"state_dict": golden.weights}, tmp_path / "best.pth")
    rows, columns = golden.input.shape[2:]
    stated = ["--spacing", "keep", "--orientation", "file", "--normalise", "none", "--slice-axis", "0"]
    stated += ["--patch", f"{rows},{columns}", *([] if "--channels" in words else ["--channels", "CT"]), *words]
    made = in_process("models", "import", tmp_path / "best.pth", "-o", tmp_path / "models", "--name", "slices", *stated)
    assert made.returncode == 0, made.stderr.decode()
    rng = np.random.default_rng(1)
    shown = []
    for i in range(3 if "--channels" in words else 1):
        pictures = rng.normal(size=(1, 11, rows + 9, columns)).astype(np.float32)
        write_image(volume(pictures, 0, 5.0), tmp_path / f"t1_{i:04d}.nii.gz")
        shown.append(tmp_path / f"t1_{i:04d}.nii.gz")
    names = words[words.index("--channels") + 1].split(",") if "--channels" in words else ["CT"]
    given = [word for n, path in zip(names, shown, strict=True) for word in ("--channel", f"{n}={path}")]
    model = tmp_path / "models" / "slices"
    found = {}
    for engine in ("torch", "auto"):
        done = in_process("predict", *given, "-o", tmp_path / engine, "--engine", engine, "--model", model)
        assert done.returncode == 0, done.stderr.decode()
        (path,) = (tmp_path / engine).glob("*_seg.nii.gz")
        found[engine] = read([path]).data
        (record,) = (tmp_path / engine).glob("*_seg.json")
        used = json.loads(record.read_text())
        assert used["windows"] == 11 * 2
    assert used["engine"]["name"].startswith("openvino")
    assert (found["torch"] == found["auto"]).mean() > 0.9999
    exported = in_process("export-onnx", "--model", model, "-o", tmp_path / "slices.onnx")
    assert exported.returncode == 0, exported.stderr.decode()
    done = in_process(
        "predict", *given, "-o", tmp_path / "alone", "--model", tmp_path / "slices.onnx", "--engine", "onnx"
    )
    assert done.returncode == 0, done.stderr.decode()
    (path,) = (tmp_path / "alone").glob("*_seg.nii.gz")
    assert (read([path]).data == found["torch"]).mean() > 0.9999
