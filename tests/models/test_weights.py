"""A network is filled with exactly its weights, or refused."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from segcli.errors import ModelError
from segcli.models import card, library, weights
from segcli.networks import registry

CONTAINERS = Path(__file__).parents[1] / "data" / "containers"


def model(folder: Path, weights: str = "weights.safetensors", **change: Any) -> card.ModelCard:
    """A pointwise model's card, for whatever file lies under that name."""
    document = {
        "format": 1,
        "name": "dots",
        "architecture": {"name": "pointwise.Pointwise", "in_chans": 1, "out_chans": 2},
        "weights": weights,
        "channels": ["CT"],
        "patch_size": [4, 4, 4],
        "labels": {"background": 0, "body": 1},
    }
    (folder / "model.json").write_text(json.dumps({**document, **change}))
    return library.read_card(folder)


def tensors() -> dict[str, Tensor]:
    return {"conv.weight": torch.tensor([0.0, 2.0]).reshape(2, 1, 1, 1, 1), "conv.bias": torch.tensor([0.5, -1.0])}


def answer(net: nn.Module) -> list[float]:
    """Both logits of a voxel of value 3: 0 * 3 + 0.5 and 2 * 3 - 1."""
    with torch.inference_mode():
        return net(torch.full((1, 1, 1, 1, 1), 3.0)).reshape(-1).tolist()


def test_the_network_of_a_card_answers_with_the_files_weights(tmp_path: Path) -> None:
    save_file(tensors(), tmp_path / "weights.safetensors")
    net = weights.network_of(model(tmp_path))
    assert not net.training
    assert answer(net) == [0.5, 5.0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_5_6_weights_of_any_float_become_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    save_file({k: v.to(dtype) for k, v in tensors().items()}, tmp_path / "weights.safetensors")
    net = weights.network_of(model(tmp_path))
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    assert answer(net) == [0.5, 5.0]


def test_the_prefix_of_data_parallel_on_every_name_is_taken_off(tmp_path: Path) -> None:
    torch.save({"state_dict": {f"module.{k}": v for k, v in tensors().items()}, "epoch": 3}, tmp_path / "w.pt")
    assert answer(weights.network_of(model(tmp_path, "w.pt"))) == [0.5, 5.0]


def test_each_fold_is_loaded_from_its_own_file(tmp_path: Path) -> None:
    save_file(tensors(), tmp_path / "a.safetensors")
    save_file({k: v + 1 for k, v in tensors().items()}, tmp_path / "b.safetensors")
    folds = model(tmp_path, weights=["a.safetensors", "b.safetensors"])  # type: ignore[arg-type]
    assert answer(weights.network_of(folds, 1)) == [1 * 3 + 1.5, 3 * 3 + 0.0]


def test_a_file_that_was_changed_after_signing_is_refused_with_both_sums(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(tensors(), path)
    signed = hashlib.sha256(path.read_bytes()).hexdigest()
    save_file({k: v * 2 for k, v in tensors().items()}, path)
    now = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(ModelError, match=f"checksum {now} does not match the {signed}"):
        weights.network_of(model(tmp_path, sha256=signed))


def test_5_6_a_nan_among_the_weights_is_refused_by_the_tensors_name(tmp_path: Path) -> None:
    bad = tensors()
    bad["conv.bias"][1] = torch.nan
    save_file(bad, tmp_path / "weights.safetensors")
    with pytest.raises(ModelError, match=r"conv\.bias holds values that are not finite"):
        weights.network_of(model(tmp_path))


def test_5_5_a_mismatch_counts_all_and_names_ten(tmp_path: Path) -> None:
    other = {f"layer{i}.weight": torch.zeros(3) for i in range(30)}
    other["conv.weight"] = torch.zeros(7, 5, 3)
    save_file(other, tmp_path / "weights.safetensors")
    with pytest.raises(ModelError) as caught:
        weights.network_of(model(tmp_path))
    text = caught.value.message
    assert "1 missing, 30 unexpected, 1 of another shape, of 2" in text
    assert "conv.bias is missing" in text
    assert "conv.weight has the shape 7×5×3, not 2×1×1×1×1" in text
    assert text.count(" is unexpected") == 8
    assert "and 22 more" in text


def test_a_mismatch_names_the_network_that_the_file_holds(tmp_path: Path) -> None:
    save_file(load_file(CONTAINERS / "tiny_segresnet_raw.safetensors"), tmp_path / "weights.safetensors")
    with pytest.raises(ModelError) as caught:
        weights.network_of(model(tmp_path))
    assert caught.value.hint == "the file holds the network segresnet"


def test_labels_that_are_not_as_many_as_outputs_are_refused(tmp_path: Path) -> None:
    save_file(tensors(), tmp_path / "weights.safetensors")
    with pytest.raises(ModelError, match=r"labels of model\.json are for 3 output channels, the network has 2"):
        weights.network_of(model(tmp_path, labels={"background": 0, "a": 1, "b": 2}))


def test_a_tensor_of_a_shape_that_no_network_has_is_a_mismatch_and_no_fault(tmp_path: Path) -> None:
    bad = load_file(CONTAINERS / "tiny_segresnet_raw.safetensors")
    bad["convInit.conv.weight"] = torch.zeros(7, 5, 3)
    save_file(bad, tmp_path / "weights.safetensors")
    architecture = {"name": "segresnet", "init_filters": 4, "out_channels": 2, "blocks_down": [1, 1], "blocks_up": [1]}
    with pytest.raises(ModelError, match=r"convInit\.conv\.weight has the shape 7×5×3"):
        weights.network_of(model(tmp_path, architecture={**architecture, "norm": ["GROUP", {"num_groups": 2}]}))


def test_a_mismatch_names_the_nearest_network(tmp_path: Path) -> None:
    near = load_file(CONTAINERS / "tiny_segresnet_raw.safetensors")
    del near["convInit.conv.weight"]
    save_file(near, tmp_path / "weights.safetensors")
    with pytest.raises(ModelError) as caught:
        weights.network_of(model(tmp_path))
    assert "nearest is segresnet: " in str(caught.value.hint)


def test_a_network_of_pictures_takes_windows_of_one_slice() -> None:
    x = torch.arange(24.0).reshape(1, 1, 4, 1, 6)
    with torch.inference_mode():
        y = weights.FlatNetwork(nn.Conv2d(1, 3, 1), axis=1)(x)
    assert y.shape == (1, 3, 4, 1, 6)


def test_5_6_a_nan_among_weights_of_eight_bits_is_found_too() -> None:
    weights.refuse_not_finite({"a": torch.ones(3).to(torch.float8_e4m3fn)}, "w.pt")
    with pytest.raises(ModelError, match="the tensor a holds values that are not finite"):
        weights.refuse_not_finite({"a": torch.full((3,), float("nan")).to(torch.float8_e4m3fn)}, "w.pt")


def test_a_network_that_is_filled_takes_none_of_the_callers_random_numbers(tmp_path: Path) -> None:
    save_file(tensors(), tmp_path / "weights.safetensors")
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    weights.network_of(model(tmp_path))
    assert torch.equal(torch.rand(3), wanted)


@pytest.mark.parametrize("kind", [torch.int64, torch.uint8, torch.bool, torch.complex64, torch.float8_e4m3fn])
def test_weights_that_are_whole_numbers_complex_or_quantised_are_refused(tmp_path: Path, kind: torch.dtype) -> None:
    torch.save({name: tensor.to(kind) for name, tensor in tensors().items()}, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"conv\.(bias|weight) holds values of the type .*, not weights"):
        weights.network_of(model(tmp_path, "w.pt"))


def test_a_card_without_weights_has_no_network(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"")
    own = model(tmp_path, weights=[], onnx="model.onnx")
    with pytest.raises(ModelError, match="dots: the card names no weights"):
        weights.network_of(own)


def test_a_network_of_volumes_is_refused_for_slices_and_one_of_slices_for_volumes(tmp_path: Path) -> None:
    from models import organs

    folder = organs(tmp_path / "organs", onnx=False, slice_axis=0, patch_size=[1, 32, 32])
    with pytest.raises(ModelError, match=r"of 3 axes, which by slice_axis \(0\) would see slices"):
        weights.network_of(library.find(str(folder)))
    arguments = {"spatial_dims": 2, "out_channels": 6, "features": [4, 4, 4, 4, 4, 4]}
    save_file(registry.build("basicunet", arguments).state_dict(), folder / "weights.safetensors")
    document = json.loads((folder / "model.json").read_text())
    document |= {"architecture": {"name": "basicunet", **arguments}, "sha256": None}
    (folder / "model.json").write_text(json.dumps(document))
    assert isinstance(weights.network_of(library.find(str(folder))), weights.FlatNetwork)
    (folder / "model.json").write_text(json.dumps({**document, "slice_axis": None, "patch_size": [32, 32, 32]}))
    with pytest.raises(ModelError, match=r"of 2 axes, which by slice_axis \(None\) would see volumes"):
        weights.network_of(library.find(str(folder)))
