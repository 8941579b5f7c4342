"""A checkpoint file alone: told by its tensors, asked only for what no tensor tells."""

import json
import os
import re
import shutil
import signal
import sys
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from ct_facts import CONTAINERS, FACTS
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from segcli.commands import models as answer
from segcli.errors import ModelError, OutputError, OutputExists, UsageError
from segcli.models import embedded, imports, library, weights
from segcli.models.imports import written
from segcli.networks import registry


def test_a_bare_file_is_told_and_what_is_missing_is_named_with_its_option() -> None:
    found = imports.inspect(CONTAINERS / "tiny_segresnet_raw.pth")
    assert (found.network, found.inputs, found.outputs) == ("segresnet", 1, 3)
    assert list(found.missing) == ["channels", "orientation", "spacing", "intensity", "patch_size", "labels"]
    assert found.missing["labels"].startswith("--labels")
    assert found.notes == ["the activation: ReLU", "the norm: instance norm with scales, not groups"]
    json.dumps(found.__dict__)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("channels", None, r"the field channels \(None\) is not a list of names"),
        ("channels", 5, r"the field channels \(5\) is not a list of names"),
        ("blank", "x", r"the field blank \(x\) is not a whole number from 0 to 64"),
        ("slices", [1], r"the field slices \(\[1\]\) is not an odd number from 1 to 101"),
        ("slice_axis", "x", r"the field slice_axis \(x\) is not 0, 1 or 2"),
        ("labels", None, r"the field labels \(None\) is not an object that maps names"),
        ("labels", [None], r"the field labels \(\[None\]\) is not an object that maps names"),
        ("slices", None, None),
    ],
)
def test_a_card_inside_a_file_is_looked_at_field_by_field(
    tmp_path: Path, field: str, value: object, words: str | None
) -> None:
    tensors = {"conv.weight": torch.ones(2, 1, 1, 1, 1), "conv.bias": torch.zeros(2)}
    card = {**FACTS, "labels": {"background": 0, "body": 1}, field: value}
    save_file(tensors, tmp_path / "net.safetensors", {embedded.METADATA_KEY: json.dumps(card)})
    if words is None:
        assert imports.adopt(tmp_path / "net.safetensors", to=tmp_path, name="m").is_dir()
        return
    with pytest.raises(ModelError, match=rf"net\.safetensors: {words}"):
        imports.adopt(tmp_path / "net.safetensors", to=tmp_path, name="m")


def test_outputs_are_put_into_an_order_of_all_of_them_or_not_at_all(tmp_path: Path) -> None:
    for order in ([0, 0, 1], [0, 1], [0, 1, 3]):
        with pytest.raises(ModelError, match=r"is no order of the 3 outputs of segresnet"):
            imports.adopt(CONTAINERS / "tiny_segresnet_raw.pth", to=tmp_path, given={**FACTS, "outputs": order})


def test_import_refuses_to_guess_and_names_all_options_at_once(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not state channels, orientation, spacing") as caught:
        imports.adopt(CONTAINERS / "tiny_segresnet_raw.pth", to=tmp_path)
    assert all(option in str(caught.value.hint) for option in ("--labels", "--spacing", "--window", "--patch"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name",
    sorted(
        p.name for p in CONTAINERS.glob("tiny_segresnet_*") if "expected" not in p.name and "whole_module" not in p.name
    ),
)
def test_every_container_becomes_the_same_network(tmp_path: Path, name: str) -> None:
    """No tensor tells the groups of a group norm: the user does."""
    arch = 'segresnet {"norm": ["GROUP", {"num_groups": 2}]}'
    made = library.read_card(imports.adopt(CONTAINERS / name, to=tmp_path, name="m", arch=arch, given=FACTS))
    with safe_open(CONTAINERS / "tiny_segresnet_expected.safetensors", "pt") as file:
        x, y = file.get_tensor("__input__"), file.get_tensor("__output__")
    with torch.inference_mode():
        assert (weights.network_of(made)(x) - y).abs().max() < 1e-5


def test_a_checkpoint_is_known_by_what_it_holds_though_it_is_called_an_archive(tmp_path: Path) -> None:
    """A checkpoint of torch is a zip archive, and a browser may name it one."""
    shutil.copy(CONTAINERS / "tiny_segresnet_raw.pth", tmp_path / "weights.zip")
    assert imports.inspect(tmp_path / "weights.zip").network == "segresnet"


def test_weights_in_several_files_are_refused_as_such(tmp_path: Path) -> None:
    tensors = load_file(CONTAINERS / "tiny_segresnet_raw.safetensors")
    places = {name: f"model-{1 + i % 2:05}-of-00002.safetensors" for i, name in enumerate(tensors)}
    for file in set(places.values()):
        save_file({name: tensors[name] for name in tensors if places[name] == file}, tmp_path / file)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    with pytest.raises(ModelError, match="its weights lie in several files"):
        imports.inspect(tmp_path)


def test_a_label_value_is_written_in_digits() -> None:
    with pytest.raises(UsageError, match="the values are whole numbers"):
        imports.options(labels="background=0,liver=²")


@pytest.mark.parametrize("labels", ["background,liver,liver", "background=0,liver=1,liver=2"])
def test_a_structure_is_named_once(labels: str) -> None:
    with pytest.raises(UsageError, match="names a structure twice"):
        imports.options(labels=labels)


def test_what_the_user_states_stands_in_the_card(tmp_path: Path) -> None:
    made = library.read_card(imports.adopt(CONTAINERS / "tiny_segresnet_raw.pth", to=tmp_path, given=FACTS))
    assert made.name == "tiny-segresnet-raw"
    assert made.grid.spacing == (1.5, 1.5, 2.0)
    assert made.window.size == (16, 16, 16)
    assert [label.id for label in made.labels] == [0, 1, 2]


def test_foreign_tensors_beside_the_network_are_left_out_and_said(tmp_path: Path) -> None:
    folder = imports.adopt(CONTAINERS / "tiny_segresnet_lightning.ckpt", to=tmp_path, given=FACTS)
    assert "loss_fn.weight" not in load_file(folder / "weights.safetensors")
    assert "1 tensors beside the network were left out: loss_fn.weight" in (folder / "model.json").read_text()


@pytest.mark.parametrize("prefix", ["", "net."])
def test_foreign_tensors_that_share_the_networks_prefix_are_left_out_too(tmp_path: Path, prefix: str) -> None:
    tensors = load_file(CONTAINERS / "tiny_segresnet_raw.safetensors")
    foreign = {"loss_fn.weight": torch.ones(4), "criterion.dice.smooth": torch.tensor(1.0)}
    torch.save({prefix + name: tensor for name, tensor in {**tensors, **foreign}.items()}, tmp_path / "w.pt")
    found = imports.inspect(tmp_path / "w.pt")
    assert (found.network, found.tensors) == ("segresnet", 25)
    said = f"2 tensors beside the network were left out: {prefix}criterion.dice.smooth, {prefix}loss_fn.weight"
    assert said in found.notes


def test_a_network_among_what_may_be_its_layers_is_taken_where_the_user_says_so(tmp_path: Path) -> None:
    tensors = {f"backbone.{name}": t for name, t in load_file(CONTAINERS / "tiny_segresnet_raw.safetensors").items()}
    head = {"controller.weight": torch.ones(4, 4, 1, 1, 1), "controller.bias": torch.ones(4)}
    torch.save({**tensors, **head, "loss.matrix": torch.ones(3, 3)}, tmp_path / "w.pt")
    with pytest.raises(
        ModelError, match=r"1 tensors that may be layers .* segresnet, .* controller\.weight"
    ) as refused:
        imports.inspect(tmp_path / "w.pt")
    assert str(refused.value.hint).startswith("--arch segresnet takes it alone")
    assert imports.inspect(tmp_path / "w.pt", arch="segresnet").network == "segresnet"
    torch.save({**tensors, "loss.matrix": torch.ones(3, 3)}, tmp_path / "w.pt")
    assert imports.inspect(tmp_path / "w.pt").network == "segresnet"


AUTO3DSEG = {
    "modality": "mri",
    "normalize_mode": "meanstd",
    "intensity_bounds": [-2.0, 3.0],
    "orientation_ras": True,
    "resample": True,
    "resample_resolution": [1.0, 1.0, 1.5],
    "roi_size": [16, 16, 16],
    "crop_foreground": True,
    "sigmoid": False,
    "class_names": ["Tumour", "node"],
}


def auto3dseg(folder: Path, **changes: Any) -> Path:
    tensors = load_file(CONTAINERS / "tiny_segresnet_raw.safetensors")
    torch.save({"epoch": 3, "state_dict": tensors, "config": {**AUTO3DSEG, **changes}}, folder / "model.pt")
    return folder / "model.pt"


def test_a_checkpoint_of_auto3dseg_is_imported_by_the_configuration_inside_it(tmp_path: Path) -> None:
    made = library.read_card(imports.adopt(auto3dseg(tmp_path), to=tmp_path, name="m"))
    assert (made.channels, made.grid.axes, made.grid.spacing, made.grid.anchor) == (
        ("MR",),
        "RAS",
        (1, 1, 1.5),
        "monai",
    )
    assert (made.window.size, made.window.overlap) == ((16, 16, 16), 0.625)
    assert [label.name for label in made.labels] == ["background", "tumour", "node"]
    steps = [step["step"] for step in made.document["intensity"]]
    assert steps == ["crop", "resample", "standardise", "outside"]


@pytest.mark.parametrize(
    ("changes", "axes", "spacing"),
    [
        ({"resample": False}, "RAS", None),
        ({"orientation_ras": False}, None, (1, 1, 1.5)),
        ({"orientation_ras": False, "resample": False}, None, None),
    ],
)
def test_scans_are_turned_and_resampled_where_auto3dseg_did_so(
    tmp_path: Path, changes: dict[str, Any], axes: str | None, spacing: tuple[float, ...] | None
) -> None:
    grid = library.read_card(imports.adopt(auto3dseg(tmp_path, **changes), to=tmp_path, name="m")).grid
    assert (grid.axes, grid.spacing, grid.transpose) == (axes, spacing, (0, 1, 2) if axes else (2, 1, 0))


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({"modality": "ct", "normalize_mode": "range"}, ["intensity"]),
        ({"sigmoid": True}, ["labels"]),
        ({"class_names": ["a"]}, ["labels"]),
        ({"extra_modalities": {"image2": "ct"}}, ["channels", "intensity"]),
        ({"custom_data_transforms": [{"key": "normalize_transforms"}]}, ["intensity"]),
    ],
)
def test_what_the_configuration_of_auto3dseg_leaves_open_is_asked_for(
    tmp_path: Path, changes: dict[str, Any], missing: list[str]
) -> None:
    found = imports.inspect(auto3dseg(tmp_path, **changes))
    assert list(found.missing) == missing
    assert any("roi_size [16, 16, 16]" in note for note in found.notes)
    if "normalize_mode" in changes:
        with pytest.raises(ModelError, match="by 'range': a sigmoid, for which segcli has no step"):
            imports.adopt(tmp_path / "model.pt", to=tmp_path, name="m")


@pytest.mark.parametrize("name", ["convInit.conv.weight", "up_layers.0.0.norm2.bias"])
def test_a_network_without_one_of_its_tensors_is_not_a_smaller_one(tmp_path: Path, name: str) -> None:
    """Its last convolution alone would be a pointwise network."""
    tensors = load_file(CONTAINERS / "tiny_segresnet_raw.safetensors")
    del tensors[name]
    torch.save(tensors, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=f"do not match the network segresnet: .*{name} is missing") as caught:
        imports.inspect(tmp_path / "w.pt")
    assert "nearest is segresnet" in str(caught.value.hint)


def unetr(folder: Path, img_size: list[int]) -> Path:
    """A UNETR's checkpoint, whose tensors tell how many patches its input has."""
    sizes: dict[str, Any] = {"in_channels": 1, "out_channels": 3, "feature_size": 4, "hidden_size": 12, "mlp_dim": 8}
    torch.save(registry.build("unetr_monai", {**sizes, "img_size": img_size}).state_dict(), folder / "w.pt")
    return folder / "w.pt"


def test_the_sides_of_an_input_that_is_no_cube_are_asked_for(tmp_path: Path) -> None:
    path = unetr(tmp_path, [16, 32, 48])
    found = imports.inspect(path)
    assert found.missing["patch_size"].startswith("--patch")
    assert "img_size" not in found.arguments
    without = {k: v for k, v in FACTS.items() if k != "patch_size"}
    with pytest.raises(ModelError, match="does not state patch_size"):
        imports.adopt(path, to=tmp_path, given=without)
    with pytest.raises(ModelError, match=r"does not take windows of 32×32×32 voxels .*tensors tell 6 patches"):
        imports.adopt(path, to=tmp_path, given={**FACTS, "patch_size": [32, 32, 32]})
    made = library.read_card(imports.adopt(path, to=tmp_path, given={**FACTS, "patch_size": [16, 32, 48]}))
    assert made.architecture.arguments["img_size"] == [16, 32, 48]
    assert made.window.size == (16, 32, 48)


def test_a_stated_input_size_is_asked_for_no_more(tmp_path: Path) -> None:
    path = unetr(tmp_path, [16, 32, 48])
    without = {k: v for k, v in FACTS.items() if k != "patch_size"}
    arch = 'unetr {"img_size": [48, 32, 16]}'
    assert library.read_card(imports.adopt(path, to=tmp_path, given=without, arch=arch)).window.size == (48, 32, 16)


def test_the_patch_becomes_the_input_size_that_tensors_do_not_tell(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"embedding_dim": 12, "num_classes": 3, "num_heads": [1, 2, 3, 4]}
    torch.save(registry.build("nnformer_synapse", {**sizes, "crop_size": [64, 64, 64]}).state_dict(), tmp_path / "w.pt")
    made = library.read_card(imports.adopt(tmp_path / "w.pt", to=tmp_path, given={**FACTS, "patch_size": [64, 64, 64]}))
    assert made.architecture.arguments["crop_size"] == [64, 64, 64]
    assert "crop_size" not in made.document.get("notes", "")


def test_windows_that_the_network_cannot_halve_are_refused_with_sizes_near_them(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="segresnet does not take windows of 15×16×17 voxels") as caught:
        imports.adopt(CONTAINERS / "tiny_segresnet_raw.pth", to=tmp_path, given={**FACTS, "patch_size": [15, 16, 17]})
    assert caught.value.hint == "--patch 14,16,16 or --patch 16,16,18 would do"
    assert list(tmp_path.iterdir()) == []


def test_import_says_what_it_guessed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = {"labels": "background,a,b", "spacing": "keep", "orientation": "RAS", "normalise": "none", "channels": "CT"}

    def imported(*, as_json: bool) -> str:
        path = CONTAINERS / "tiny_segresnet_lightning.ckpt"
        given = {**texts, "patch": "16,16,16"}
        answer.import_model(checkpoint=path, name="m", output=tmp_path, overwrite=True, **given, json=as_json)
        said = capsys.readouterr()
        assert said.err == "" or not as_json
        return said.out if as_json else said.err

    said = imported(as_json=False).splitlines()
    assert said[1:] == [
        "note: 1 tensors beside the network were left out: loss_fn.weight",
        "note: the activation: ReLU",
        "note: the norm: instance norm with scales, not groups",
    ]
    assert [f"note: {note}" for note in json.loads(imported(as_json=True))["notes"]] == said


def test_stacked_prefixes_are_taken_off(tmp_path: Path) -> None:
    tensors = load_file(CONTAINERS / "tiny_segresnet_raw.safetensors")
    stacked = {f"module._orig_mod.model.{name}": tensor for name, tensor in tensors.items()}
    torch.save({"epoch": 1, "model": {"state_dict": stacked}}, tmp_path / "w.pt")
    found = imports.inspect(tmp_path / "w.pt")
    assert found.network == "segresnet"
    assert "the prefix '_orig_mod.model.' was taken off" in found.notes


@pytest.mark.parametrize(
    ("family", "arguments", "today", "then"),
    [
        ("monai_unet", {"spatial_dims": 3, "channels": [4, 8], "strides": [2], "norm": "batch"}, r"adn\.N", "norm"),
        ("monai_unet", {"spatial_dims": 3, "channels": [4, 8], "strides": [2], "num_res_units": 2}, r"adn\.A", "act"),
        ("basicunet", {"features": [4, 4, 8, 8, 8, 4]}, r"adn\.N", "norm"),
        ("swinunetr", {"feature_size": 12}, "linear(?=[12])", "fc"),
        ("swinunetr", {"feature_size": 12}, "swinViT", "swin_vit"),
    ],
)
def test_former_names_of_tensors_are_those_of_today(
    tmp_path: Path, family: str, arguments: dict[str, Any], today: str, then: str
) -> None:
    net = registry.build(family, {"in_channels": 1, "out_channels": 3, **arguments})
    found = []
    for replaced in (today, then):
        tensors = {re.sub(today, then, name) if replaced == then else name: t for name, t in net.state_dict().items()}
        assert any(re.search(replaced, name) for name in tensors)
        torch.save({"state_dict": tensors}, tmp_path / "w.pt")
        one = imports.inspect(tmp_path / "w.pt")
        found.append((one.network, one.arguments, one.tensors, one.parameters))
    assert found[0] == found[1]


def two_networks() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    tensors = load_file(CONTAINERS / "tiny_segresnet_raw.safetensors")
    return tensors, {name: tensor + 1 if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def under(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    ("layout", "plain", "average"),
    [
        (lambda a, b: {"model": a, "ema": b, "epoch": 3}, "model", "ema"),
        (lambda a, b: {"ema": b, "weights_of_mine": a}, "weights_of_mine", "ema"),
        (
            lambda a, b: {"state_dict": under("module", a), "state_dict_ema": under("module", b)},
            "state_dict",
            "state_dict_ema",
        ),
        (lambda a, b: {"state_dict": {**under("net", a), **under("net_ema", b)}}, "net", "net_ema"),
        (lambda a, b: {"model": a, "emaModel": b}, "model", "emaModel"),
        (lambda a, b: {"avg_model": b, "net": a}, "net", "avg_model"),
        (lambda a, b: {**a, **under("ema", b)}, "without a prefix", "ema"),
    ],
)
def test_of_a_network_and_its_average_the_network_is_taken_and_that_is_said(
    tmp_path: Path, layout: Any, plain: str, average: str
) -> None:
    own, other = two_networks()
    torch.save(layout(own, other), tmp_path / "w.pt")
    told: list[str] = []
    made = imports.adopt(tmp_path / "w.pt", to=tmp_path, name="m", given=FACTS, tell=told.append)
    assert f"the network {plain} is taken, not its average: --table {average} takes that" in told
    name = "convInit.conv.weight"
    assert torch.equal(load_file(made / "weights.safetensors")[name], own[name])
    made = imports.adopt(tmp_path / "w.pt", to=tmp_path, name="ema", given=FACTS, wanted=imports.WhichModel(average))
    assert torch.equal(load_file(made / "weights.safetensors")[name], other[name])


@pytest.mark.parametrize(
    ("layout", "names"),
    [
        (lambda a, b: {"student": a, "teacher": b}, "student, teacher"),
        (lambda a, b: {"teacher": b, "student": a}, "teacher, student"),
        (lambda a, b: [a, b], "0, 1"),
        (lambda a, b: {**under("student", a), **under("teacher", b)}, "student, teacher"),
        (lambda a, b: {"model": a, "optimal_model": b}, "model, optimal_model"),
        (lambda a, b: {**b, **under("module", a)}, "module, without a prefix"),
        (lambda a, b: {**b, **under("_orig_mod", a), "loss.weight": torch.ones(2)}, "_orig_mod, without a prefix"),
    ],
)
def test_of_networks_that_are_equals_none_is_taken(tmp_path: Path, layout: Any, names: str) -> None:
    own, other = two_networks()
    torch.save(layout(own, other), tmp_path / "w.pt")
    with pytest.raises(ModelError, match=f"holds 2 whole networks of one kind: {names}") as caught:
        imports.inspect(tmp_path / "w.pt")
    chosen = names.split(", ")[0]
    assert caught.value.hint == f"choose one with --table {chosen}"
    assert imports.inspect(tmp_path / "w.pt", wanted=imports.WhichModel(chosen)).network == "segresnet"


def test_a_table_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    own, other = two_networks()
    torch.save({"model": own, "ema": other}, tmp_path / "w.pt")
    with pytest.raises(ModelError, match="no table of tensors is called 'teacher'") as caught:
        imports.inspect(tmp_path / "w.pt", wanted=imports.WhichModel("teacher"))
    assert caught.value.hint == "--table takes one of: model, ema"


def test_a_network_under_two_names_is_one_and_either_name_takes_it(tmp_path: Path) -> None:
    own, other = two_networks()
    torch.save({"student": own, "teacher": own}, tmp_path / "w.pt")
    assert imports.inspect(tmp_path / "w.pt").network == "segresnet"
    for table, said in (("teacher", ["the networks teacher and student are equal"]), ("student", [])):
        found = imports.inspect(tmp_path / "w.pt", wanted=imports.WhichModel(table))
        assert [note for note in found.notes if "equal" in note] == said
    torch.save({"student": own, "teacher": {k: v.clone() for k, v in own.items()}, "other": other}, tmp_path / "w.pt")
    found = imports.inspect(tmp_path / "w.pt", wanted=imports.WhichModel("teacher"))
    assert "the networks teacher and student are equal" in found.notes
    found = imports.inspect(tmp_path / "w.pt", wanted=imports.WhichModel("other"))
    assert not [note for note in found.notes if "equal" in note]


def test_of_a_bundles_network_and_its_average_the_network_is_taken_and_that_is_said(tmp_path: Path) -> None:
    shutil.copytree(CONTAINERS / "bundle_tiny_unet", tmp_path / "b")
    own = torch.load(tmp_path / "b" / "models" / "model.pt", weights_only=True)
    torch.save({"model": own, "ema": {k: v + 1 for k, v in own.items()}}, tmp_path / "b" / "models" / "model.pt")
    found = imports.inspect(tmp_path / "b")
    assert "the network model is taken, not its average: --table ema takes that" in found.notes
    torch.save({"student": own, "teacher": {k: v + 1 for k, v in own.items()}}, tmp_path / "b" / "models" / "model.pt")
    with pytest.raises(ModelError, match="holds 2 whole networks of one kind: student, teacher"):
        imports.inspect(tmp_path / "b")


def test_in_a_checkpoint_of_nnunet_its_own_network_is_taken_or_the_table_that_is_chosen(tmp_path: Path) -> None:
    content = torch.load(
        CONTAINERS / "nnunetv2_tinyct" / "model" / "fold_0" / "checkpoint_final.pth", weights_only=False
    )
    own = content["network_weights"]
    content["ema_weights"] = {k: v + 1 if v.is_floating_point() else v for k, v in own.items()}
    path = tmp_path / "checkpoint_final.pth"
    torch.save(content, path)
    told: list[str] = []
    made = imports.adopt(path, to=tmp_path, name="own", tell=told.append)
    other = imports.adopt(path, to=tmp_path, name="ema", wanted=imports.WhichModel("ema_weights"), tell=told.append)
    said = "the network network_weights is taken, as in nnU-Net, not ema_weights: --table takes one"
    assert [note for note in told if "ema_weights" in note] == [said]
    one, two = (load_file(folder / "weights.safetensors") for folder in (made, other))
    assert all(torch.equal(two[name], tensor + 1) for name, tensor in one.items())
    with pytest.raises(ModelError, match="no table of tensors is called 'teacher'"):
        imports.inspect(path, wanted=imports.WhichModel("teacher"))


def test_an_optimisers_tables_are_no_second_network(tmp_path: Path) -> None:
    own, other = two_networks()
    torch.save({"model": own, "optimizer": {"exp_avg": other}}, tmp_path / "w.pt")
    assert imports.inspect(tmp_path / "w.pt").network == "segresnet"


@pytest.mark.parametrize(
    "wrapper", ["_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module", "_fpw_module", "module"]
)
def test_names_of_wrappers_in_the_middle_are_taken_out(tmp_path: Path, wrapper: str) -> None:
    own, _ = two_networks()
    wrapped = {
        name.replace("up_layers.", f"up_layers.{wrapper}.").replace("conv_final.", f"conv_final.{wrapper}."): tensor
        for name, tensor in own.items()
    }
    torch.save({f"net.{name}": tensor for name, tensor in wrapped.items()}, tmp_path / "w.pt")
    found = imports.inspect(tmp_path / "w.pt")
    assert (found.network, found.tensors) == ("segresnet", len(own))
    assert f"the wrappers' names were taken out: {wrapper}" in found.notes


def test_labels_that_are_not_as_many_as_outputs_are_refused(tmp_path: Path) -> None:
    given = {**FACTS, **imports.options(labels="background,a,b,c,d")}
    with pytest.raises(ModelError, match=r"has 3 outputs, not 5 \(background, a, b, c, d\)"):
        imports.adopt(CONTAINERS / "tiny_segresnet_raw.pth", to=tmp_path, given=given)


def test_channels_that_are_not_as_many_as_inputs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has 1 input channels, not 2 \(T1, T2\)"):
        imports.adopt(CONTAINERS / "tiny_segresnet_raw.pth", to=tmp_path, given={**FACTS, "channels": ["T1", "T2"]})


def test_one_output_fewer_than_labels_means_outputs_that_stand_alone(tmp_path: Path) -> None:
    given = {**FACTS, **imports.options(labels="background,a,b,c")}
    made = library.read_card(imports.adopt(CONTAINERS / "tiny_segresnet_raw.pth", to=tmp_path, given=given))
    assert (made.decide.rule, made.decide.values) == ("regions", (1, 2, 3))


def test_a_model_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    path = CONTAINERS / "tiny_segresnet_raw.pth"
    folder = imports.adopt(path, to=tmp_path, given=FACTS)
    with pytest.raises(OutputExists, match="is there already") as caught:
        imports.adopt(path, to=tmp_path, given=FACTS)
    assert caught.value.hint == "choose another --name; --overwrite replaces it"
    assert imports.adopt(path, to=tmp_path, given={**FACTS, "overlap": 0.25}, replace=True) == folder
    assert library.read_card(folder).window.overlap == 0.25
    assert [p.name for p in tmp_path.iterdir()] == [folder.name]


def left(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "files",
    [{"thesis.txt": "years"}, {"model.json": "{}", "thesis.txt": "years"}, {"model.json": "not JSON"}],
)
def test_overwrite_never_takes_a_folder_that_is_no_model(tmp_path: Path, files: dict[str, str]) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    before = left(tmp_path)
    with pytest.raises(OutputExists, match=r"has no model\.json of segcli's"):
        imports.adopt(CONTAINERS / "tiny_segresnet_raw.pth", to=tmp_path, name="m", given=FACTS, replace=True)
    assert left(tmp_path) == before


def test_overwrite_never_takes_what_lies_in_a_models_folder_beside_it(tmp_path: Path) -> None:
    path = CONTAINERS / "tiny_segresnet_raw.pth"
    folder = imports.adopt(path, to=tmp_path, name="m", given=FACTS)
    (folder / "thesis.txt").write_text("years")
    before = left(tmp_path)
    with pytest.raises(OutputExists, match=r"holds thesis\.txt, which is no file that its model\.json names"):
        imports.adopt(path, to=tmp_path, name="m", given=FACTS, replace=True)
    assert left(tmp_path) == before


def test_overwrite_follows_no_link(tmp_path: Path) -> None:
    path = CONTAINERS / "tiny_segresnet_raw.pth"
    own = imports.adopt(path, to=tmp_path, name="own", given=FACTS)
    (tmp_path / "m").symlink_to(own)
    with pytest.raises(OutputExists, match="is no folder"):
        imports.adopt(path, to=tmp_path, name="m", given=FACTS, replace=True)
    assert imports.verify(own).name == "own"


def test_the_old_model_stays_when_the_new_one_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = CONTAINERS / "tiny_segresnet_raw.pth"
    folder = imports.adopt(path, to=tmp_path, name="m", given=FACTS)
    before = left(tmp_path)
    rename = Path.rename

    def full(self: Path, target: Path) -> Path:
        if target == folder and not full_once:
            full_once.append(True)
            raise OSError(28, "No space left on device")
        return rename(self, target)

    full_once: list[bool] = []
    monkeypatch.setattr(written, "exchange", lambda one, other: False)
    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(OutputError):
        imports.adopt(path, to=tmp_path, name="m", given={**FACTS, "overlap": 0.25}, replace=True)
    assert left(tmp_path) == before


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("in_one_step", [True, False], ids=["the system exchanges names", "in two steps"])
def test_a_kill_at_any_moment_leaves_the_old_model_or_the_new_one_to_be_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_one_step: bool
) -> None:
    """Each step of the import that touches a name may be its last; whoever looks for the model finds a whole one."""
    path = CONTAINERS / "tiny_segresnet_raw.pth"
    monkeypatch.setenv("SEGCLI_WEIGHTS", str(tmp_path))
    if not in_one_step:
        monkeypatch.setattr(written, "exchange", lambda one, other: False)
    folder = imports.adopt(path, to=tmp_path, name="m", given=FACTS)
    seen, absent = set(), 0
    for step in range(1, 60):
        if (pid := os.fork()) == 0:
            sys.addaudithook(partial(_end_at, [step]))
            imports.adopt(path, to=tmp_path, name="m", given={**FACTS, "overlap": 0.25}, replace=True)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        absent += not folder.exists()
        ways = (lambda: library.find("m"), lambda: library.find(str(folder)), library.installed)
        ways[step % 3]()  # what finds it first also has to bring it back
        seen.add(imports.verify(folder).window.overlap)
        if code == 0:
            break
        if seen & {0.25}:
            imports.adopt(path, to=tmp_path, name="m", given=FACTS, replace=True)
            assert [p.name for p in tmp_path.iterdir()] == ["m"], "left-overs of dead imports are swept"
    assert code == 0
    assert seen == {0.25, 0.5}
    assert absent == (0 if in_one_step else 1)


def test_a_folder_of_others_that_has_a_models_former_name_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(written, "exchange", lambda one, other: False)
    path = CONTAINERS / "tiny_segresnet_raw.pth"
    imports.adopt(path, to=tmp_path, name="m", given=FACTS)
    (tmp_path / ".m.former").mkdir()
    (tmp_path / ".m.former" / "thesis.txt").write_text("years")
    before = left(tmp_path)
    with pytest.raises(OutputError):
        imports.adopt(path, to=tmp_path, name="m", given={**FACTS, "overlap": 0.25}, replace=True)
    assert left(tmp_path) == before


def _end_at(left_steps: list[int], event: str, _: Any) -> None:
    """An audit hook: the process is gone at the N-th name that is made, renamed or removed."""
    if event in ("os.mkdir", "os.rename", "ctypes.dlsym", "os.remove", "os.rmdir", "shutil.rmtree"):
        left_steps[0] -= 1
        if left_steps[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("name", ["..", "x" * 129])
def test_a_name_that_is_a_path_or_too_long_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="is no name for a model"):
        imports.adopt(CONTAINERS / "tiny_segresnet_raw.pth", to=tmp_path, name=name, given=FACTS)


def test_verify_finds_a_tensor_that_was_changed(tmp_path: Path) -> None:
    folder = imports.adopt(CONTAINERS / "tiny_segresnet_raw.pth", to=tmp_path, given=FACTS)
    assert imports.verify(folder).name == "tiny-segresnet-raw"
    path, notes = folder / "weights.safetensors", embedded.safetensors_metadata(folder / "weights.safetensors")
    tensors = load_file(path)
    tensors["conv_final.2.conv.bias"] += 1e-3
    save_file(tensors, path, notes)
    with pytest.raises(ModelError, match=r"checksum .* does not match"):
        imports.verify(folder)
    document = json.loads((folder / "model.json").read_text())
    del document["sha256"]  # whoever changes the weights can change the card, but not the digest inside unseen
    (folder / "model.json").write_text(json.dumps(document))
    with pytest.raises(ModelError, match="not those that it was made with"):
        imports.verify(folder)


def test_the_weights_file_alone_is_a_model(tmp_path: Path) -> None:
    folder = imports.adopt(CONTAINERS / "tiny_segresnet_raw.pth", to=tmp_path, given=FACTS)
    alone = library.find(str(folder / "weights.safetensors"))
    assert [label.name for label in alone.labels] == ["background", "liver", "spleen"]
    again = imports.inspect(folder / "weights.safetensors")
    assert again.missing == {}


def test_arch_that_does_not_fit_is_refused_with_what_does(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not the network uxnet3d but segresnet"):
        imports.inspect(CONTAINERS / "tiny_segresnet_raw.pth", arch="uxnet3d")


def test_arch_chooses_what_tensors_do_not_tell(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"in_channels": 1, "out_channels": 2, "feature_size": 12, "num_heads": [1, 2, 2, 4]}
    torch.save(registry.build("swinunetr", sizes).state_dict(), tmp_path / "w.pt")
    assert imports.inspect(tmp_path / "w.pt").network == "swinunetr"
    assert imports.inspect(tmp_path / "w.pt", arch="swinunetr_new_merging").network == "swinunetr_new_merging"


def test_tensors_of_no_network_are_refused_by_some_names(tmp_path: Path) -> None:
    torch.save({"layer.weight": torch.zeros(3)}, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"1 tensors of no network that segcli knows, among them layer\.weight"):
        imports.inspect(tmp_path / "w.pt")


def test_an_encoder_alone_cannot_segment(tmp_path: Path) -> None:
    names = ["module.patch_embed.proj.weight", "module.layers1.0.blocks.0.mlp.fc1.weight"]
    torch.save({"state_dict": {name: torch.zeros(3) for name in names}}, tmp_path / "model_swinvit.pt")
    with pytest.raises(ModelError) as caught:
        imports.inspect(tmp_path / "model_swinvit.pt")
    assert "it cannot segment" in str(caught.value.hint)
    torch.save({name: torch.zeros(3) for name in [*names, "module.decoder1.conv.weight"]}, tmp_path / "other.pt")
    with pytest.raises(ModelError) as caught:
        imports.inspect(tmp_path / "other.pt")
    assert "it cannot segment" not in str(caught.value.hint)
    assert "torch.onnx.export" in str(caught.value.hint)


def test_a_graph_keeps_the_card_inside_it(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    document = {
        "format": 1,
        "name": "dots",
        "architecture": {"name": "pointwise", "in_chans": 1, "out_chans": 2},
        "channels": ["CT"],
        "orientation": "RAS",
        "spacing": [2, 2, 2],
        "intensity": [],
        "patch_size": [4, 4, 4],
        "labels": {"background": 0, "body": 1},
    }
    shape = ["n", 1, 4, 4, 4]
    weight = helper.make_tensor("w", TensorProto.FLOAT, [2, 1, 1, 1, 1], [0.0, 1.0])
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", shape), ("y", ["n", 2, 4, 4, 4]))]
    graph = helper.make_graph([helper.make_node("Conv", ["x", "w"], ["y"])], "g", ends[:1], ends[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    helper.set_model_props(model, {embedded.METADATA_KEY: json.dumps(document)})
    onnx.save(model, tmp_path / "dots.onnx")
    made = library.read_card(imports.adopt(tmp_path / "dots.onnx", to=tmp_path / "models"))
    assert (made.onnx, made.weights) == ("model.onnx", ())
    assert made.labels[1].name == "body"
    # It holds no certificate of ours, but the card has its checksum.
    answer.verify(tmp_path / "models" / "dots")
    model.graph.node[0].name = "other"
    onnx.save(model, tmp_path / "models" / "dots" / "model.onnx")
    with pytest.raises(ModelError, match=r"checksum .* does not match"):
        answer.verify(tmp_path / "models" / "dots")


def test_a_folder_with_two_models_asks_for_one(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "plans.json").write_text("{}")
    with pytest.raises(ModelError, match="holds 2 models: a, b"):
        imports.inspect(tmp_path)


def test_options_of_nnunet_are_for_its_folders_alone(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--folds chooses in nnU-Net's folders"):
        imports.inspect(CONTAINERS / "tiny_segresnet_raw.pth", wanted=imports.WhichModel(folds=("0",)))


@pytest.mark.parametrize("made", ["plans.json", "configs/metadata.json", "model.onnx"])
def test_a_table_is_chosen_in_a_checkpoint_file_alone(tmp_path: Path, made: str) -> None:
    path = tmp_path / "given" / made
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    (path.parent / "inference.json").write_text("{}")
    name = made if made.endswith(".onnx") else "given"
    with pytest.raises(UsageError, match=f"--table chooses among .* checkpoint file, and {name} is none"):
        imports.inspect(tmp_path / "given", wanted=imports.WhichModel("ema"))


@pytest.mark.parametrize(
    ("texts", "fields"),
    [
        ({"labels": "background=0,liver=6"}, {"labels": {"background": 0, "liver": 6}}),
        ({"spacing": "keep"}, {"spacing": None}),
        ({"orientation": "file"}, {"orientation": None}),
        ({"patch": "256,320", "slice_axis": 0}, {"slice_axis": 0, "patch_size": [1, 256, 320]}),
        ({"channels": "T1, T2"}, {"channels": ["T1", "T2"]}),
        ({"blend": "constant"}, {"blend": "constant"}),
        (
            {"normalise": "-100,300,50,20"},
            {
                "intensity": [
                    {"step": "clip", "low": -100.0, "high": 300.0},
                    {"step": "standardise", "mean": 50.0, "sd": 20.0},
                    {"step": "outside", "value": 0},
                ]
            },
        ),
    ],
)
def test_the_command_lines_texts_become_fields(texts: dict[str, Any], fields: dict[str, Any]) -> None:
    assert imports.options(**texts) == fields


@pytest.mark.parametrize(
    "texts",
    [
        {"spacing": "1,2"},
        {"window": "a,b"},
        {"window": "0,1", "normalise": "zscore"},
        {"normalise": "magic"},
        {"labels": "a,b,a"},
        {"patch": "96,96"},
        {"patch": "96.5,96,96"},
        {"patch": "inf,96,96"},
        {"spacing": "nan,1,1"},
        {"window": "-inf,200"},
        {"labels": f"background=0,liver={'9' * 5000}"},
    ],
)
def test_texts_that_say_nothing_are_usage_errors(texts: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        imports.options(**texts)


def test_labels_may_stand_in_a_json_file_as_a_mapping_to_whole_numbers(tmp_path: Path) -> None:
    path = tmp_path / "dataset.json"
    for text in ('{"labels": {"background": 0, "liver": 6}}', '{"background": 0, "liver": 6}'):
        path.write_text(text)
        assert imports.options(labels=str(path)) == {"labels": {"background": 0, "liver": 6}}
    for text, why in (('["liver"]', "is not"), ('{"liver": "six"}', "is not"), ("{", "cannot be read as JSON")):
        path.write_text(text)
        with pytest.raises(UsageError, match=rf"--labels .*dataset.json: {why}"):
            imports.options(labels=str(path))


@pytest.mark.parametrize(
    ("files", "wanted", "error", "sentence"),
    [
        (
            (),
            {},
            ModelError,
            "given: neither an nnU-Net folder nor a MONAI bundle, and 0 checkpoints in it, but nothing",
        ),
        (("saved_model.pb", "variables/a.index"), {}, ModelError, "but saved_model.pb, variables.*exported to ONNX"),
        (("a.pt", "b.pt"), {}, ModelError, "given: neither .*, and 2 checkpoints in it"),
        (
            ("t/fold_0/checkpoint_final.pth", "t/fold_1/checkpoint_final.pth", "t/dataset.json"),
            {},
            ModelError,
            r"given: folds of nnU-Net without the plans.json .*give one checkpoint: t/fold_0/checkpoint_final.pth",
        ),
        (("model.json",), {}, ModelError, "given: is a model folder of segcli already"),
        (("a.pt",), {"config": "inference"}, UsageError, "--config chooses in a MONAI bundle, and given is none"),
        (
            ("n/plans.json", "b/configs/metadata.json", "b/configs/inference.json"),
            {},
            ModelError,
            "given: holds 2 models: .*give the folder of one of them",
        ),
    ],
)
def test_a_folder_that_is_no_one_model_is_refused(
    tmp_path: Path, files: tuple[str, ...], wanted: dict[str, Any], error: type[Exception], sentence: str
) -> None:
    (tmp_path / "given").mkdir()
    for name in files:
        path = tmp_path / "given" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    with pytest.raises(error, match=sentence):
        imports.inspect(tmp_path / "given", wanted=imports.WhichModel(**wanted))


def test_a_model_that_is_not_there_is_called_that(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nowhere\.pt: no such file or folder"):
        imports.inspect(tmp_path / "nowhere.pt")


def test_the_one_checkpoint_of_a_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "raw.pth").write_bytes((CONTAINERS / "tiny_segresnet_raw.pth").read_bytes())
    alone = imports.inspect(CONTAINERS / "tiny_segresnet_raw.pth")
    assert imports.inspect(tmp_path / "given").arguments == alone.arguments


def test_what_macos_puts_beside_files_in_archives_is_no_checkpoint(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "net.zip", "w") as archive:
        archive.write(CONTAINERS / "tiny_segresnet_raw.pth", "model/net.pth")
        archive.writestr("__MACOSX/model/._net.pth", b"\0\5\x16\7" + bytes(100))
    assert imports.inspect(tmp_path / "net.zip").network == "segresnet"


def test_an_archive_that_unpacks_to_far_more_than_its_size_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros.pt", bytes(12_000_000))
    with pytest.raises(ModelError, match=r"bomb\.zip: unpacks to far more than its size: not allowed"):
        imports.inspect(tmp_path / "bomb.zip")


def meshnet(folder: Path, *, files: int = 1, layers: int = 3, outputs: int = 2, **beside: Any) -> Path:
    """brainchop's folder of a MeshNet: kernels of `layers` layers of which model.json states three."""
    folder.mkdir()
    widths = [1, *[2] * (layers - 1), outputs]
    rows = [{"dilation": d, "padding": d, "kernel_size": 3, "in_channels": 1, "out_channels": 2} for d in (1, 2)]
    last = {"dilation": 1, "padding": 0, "kernel_size": 1, "in_channels": 2, "out_channels": outputs}
    (folder / "model.json").write_text(json.dumps({"layers": [*rows, last]}))
    tensors = {
        f"net.{i}.weight": torch.ones(widths[i + 1], widths[i], *[3 if i < layers - 1 else 1] * 3)
        for i in range(layers)
    }
    for number in range(files):
        torch.save(tensors, folder / f"w{number}.pth")
    for name, found in beside.items():
        (folder / f"{name}.json").write_text(json.dumps(found))
    return folder


def test_brainchops_labels_are_named_by_a_list_or_a_mapping_of_all_numbers(tmp_path: Path) -> None:
    told = {
        "mapping": {"labels": {"0": "Unknown", "1": "liver"}},
        "list": {"colormap": ["Unknown", "liver"]},
        "second": {"labels": {"0": "Unknown", "7": "liver"}, "colormap": {"labels": {"0": "Unknown", "1": "liver"}}},
    }
    for name, beside in told.items():
        made = imports.adopt(meshnet(tmp_path / name, **beside), to=tmp_path / "models")
        assert [s.name for s in library.read_card(made).structures] == ["liver"]
    with pytest.raises(ModelError, match="--labels"):
        imports.adopt(meshnet(tmp_path / "none"), to=tmp_path / "models")
    with pytest.raises(ModelError, match="--labels"):
        imports.adopt(meshnet(tmp_path / "more", labels=["a", "b", "c"]), to=tmp_path / "models")


def test_brainchops_folder_has_one_file_of_weights_with_as_many_convolutions_as_layers(tmp_path: Path) -> None:
    for files in (0, 2):
        with pytest.raises(ModelError, match=rf"{files}: {files} files of weights beside model.json, one is wanted"):
            imports.inspect(meshnet(tmp_path / str(files), files=files))
    with pytest.raises(ModelError, match=r"4 convolutions, where model.json has 3"):
        imports.inspect(meshnet(tmp_path / "deeper", layers=4))


def test_a_network_of_pictures_sees_neighbouring_slices_as_channels(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = registry.build("unet3plus_base", {"in_channels": 3, "n_classes": 1, "filters": [2, 4, 8, 16, 32]})
    torch.save(net.state_dict(), tmp_path / "w.pt")
    assert list(imports.inspect(tmp_path / "w.pt").missing)[-1] == "slice_axis"
    texts = {"labels": "background,liver", "spacing": "keep", "orientation": "RAS", "window": "-200,250"}
    given = imports.options(**texts, channels="CT", patch="32,32", slice_axis=2, slices=3)  # type: ignore[arg-type]
    made = library.read_card(imports.adopt(tmp_path / "w.pt", to=tmp_path, given=given))
    assert (made.slices, made.slice_axis, made.window.size) == (3, 2, (32, 32, 1))
    assert (made.decide.rule, made.decide.values) == ("regions", (1,))
