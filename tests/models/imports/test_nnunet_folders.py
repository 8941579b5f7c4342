"""nnU-Net's folders answer as nnU-Net does: the same preprocessing, the same labels."""

import json
import os
import pickle
import shutil
from collections import OrderedDict
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from segcli import formats
from segcli.engines.choose import open_engine
from segcli.errors import ModelError
from segcli.inference.decide import labels_on
from segcli.inference.intensity import Outside, Standardise, normalise
from segcli.inference.prepare import prepare
from segcli.inference.segment import segment
from segcli.inference.windows import Sliding, WindowPlan, blend_weights
from segcli.models import card, checkpoint, imports, library, weights
from segcli.models.imports import nnunet, nnunet_axes
from segcli.models.imports.recognise import Recognised
from segcli.models.imports.source import label_names
from segcli.networks import registry
from segcli.space.grids import model_grid
from segcli.space.resample import Interpolation, onto
from segcli.space.volume import Grid, Volume

CONTAINERS = Path(__file__).parents[2] / "data" / "containers"
SHARED = Path(os.environ["SEGCLI_SHARED"]) / "golden" / "containers" if "SEGCLI_SHARED" in os.environ else None
CASES = [("nnunetv2_tinyct", "caseB", (0,))]
if SHARED is not None:
    CASES += [
        ("nnunetv2_tinyct", "caseA", (0,)),
        ("nnunetv2_tinyct", "caseA", (0, 1)),
        ("nnunetv2_tinyct", "caseB", (0, 1)),
        ("nnunetv2_tinyold_plans", "caseD", (0,)),
    ]


def line(values: list[float]) -> Volume:
    """Voxels along the last axis, 1 mm apart."""
    return Volume(np.array(values, np.float32).reshape(1, 1, 1, -1), Grid((1, 1, len(values)), np.eye(4)))


# ---- what nnU-Net does to a scan ------------------------------------------------------------------------------------


def test_a_cubic_spline_stays_within_the_range_of_what_it_goes_through() -> None:
    edge = line([0, 0, 0, 0, 1, 1, 1, 1])
    fine = Grid((1, 1, 16), np.diag([1, 1, 0.5, 1.0]))
    values = onto(edge, fine, Interpolation("cubic")).data
    assert values.min() == 0
    assert values.max() == 1
    assert 0.05 < np.diff(values.ravel()).max() < 0.7


def test_slices_apart_keep_each_to_its_own_range() -> None:
    step = np.zeros((1, 2, 4, 8), np.float32)
    step[:, 0, :, 4:], step[:, 1, :, 4:] = 1, 5
    thick = Volume(step, Grid((2, 4, 8), np.diag([4, 1, 1, 1.0])))
    fine = Grid((2, 4, 16), np.diag([4, 1, 0.5, 1.0]))
    values = onto(thick, fine, Interpolation("cubic", coarse=3)).data[0]
    assert [values[0].max(), values[1].max()] == [1, 5]


def test_beyond_the_image_there_is_what_the_card_says_and_not_air() -> None:
    image, beyond = normalise(line([2, 4]), [Standardise(mean=2, sd=2), Outside(0)], outside=0)
    assert image.data.ravel().tolist() == [0, 1]
    assert beyond == 0


def test_the_mean_of_the_inside_counts_the_holes() -> None:
    ring = np.full((1, 1, 5, 5), 3, np.float32)
    ring[..., 2, 2] = 0  # a hole in plane is open through a single slice, so three slices close it
    cube = np.repeat(ring, 5, axis=1)
    cube[:, [0, 4]] = 3
    whole = Volume(cube, Grid((5, 5, 5), np.eye(4)))
    image, _ = normalise(whole, [Standardise(where="inside")])
    # 122 voxels of 3 and 3 of 0
    mean = 122 * 3 / 125
    sd = (122 * (3 - mean) ** 2 / 125 + 3 * mean**2 / 125) ** 0.5
    assert image.data[0, 2, 2, 2] == pytest.approx(-mean / sd)
    outside, _ = normalise(whole, [Standardise(where="nonzero")])
    assert outside.data[0, 2, 2, 2] == 0


def test_the_inside_is_that_of_all_channels_before_any_step() -> None:
    """The second channel's zeros count where the first is not 0, also where a step before made it 0."""
    image = Volume(np.array([[7, 7, 9, 0], [2, 4, 0, 0]], np.float32).reshape(2, 1, 1, 4), Grid((1, 1, 4), np.eye(4)))
    steps = [Standardise(7, 1, channels=(0,)), Standardise(where="inside", channels=(1,))]
    found = normalise(image, steps)[0].data[1].ravel()
    sd = (8 / 3) ** 0.5  # of 2, 4 and 0
    assert found.tolist() == pytest.approx([0, 2 / sd, -2 / sd, 0])


def test_the_gaussian_is_largest_at_half_the_edge() -> None:
    plan = WindowPlan((1, 1, 8), centre="voxel")
    row = blend_weights(plan)[0, 0]
    assert row.argmax() == 4
    assert row[3] == pytest.approx(row[5])


# ---- folders of version 2 -------------------------------------------------------------------------------------------


def golden(name: str, file: str) -> Path:
    """A file of the small copy (case B, two folds), else of the shared set."""
    path = CONTAINERS / name / file
    if path.exists():
        return path
    assert SHARED is not None
    return SHARED / name / file


@pytest.mark.parametrize(("name", "case", "folds"), CASES)
def test_a_scan_is_prepared_as_nnunet_does(tmp_path: Path, name: str, case: str, folds: tuple[int, ...]) -> None:
    expected = load_file(golden(name, f"expected_{case}_folds0_mirror.safetensors"))["preprocessed"]
    made = library.read_card(imports.adopt(golden(name, "model"), to=tmp_path))
    image = prepare(formats.read([golden(name, f"{case}_0000.nii.gz")]), made.procedure)
    assert image.outside == 0
    assert np.abs(image.image.data - expected).max() < 1e-5


@pytest.mark.parametrize("mirror", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("name", "case", "folds"), CASES)
def test_labels_are_those_of_nnunet(tmp_path: Path, name: str, case: str, folds: tuple[int, ...], mirror: bool) -> None:
    """0.1 % of the voxels may differ by nnU-Net's sums in float16 (the next test); these networks know little."""
    which = f"{case}_folds{''.join(map(str, folds))}_{'' if mirror else 'no'}mirror"
    expected = load_file(golden(name, f"expected_{which}.safetensors"))["segmentation"]
    made = chosen(library.read_card(imports.adopt(golden(name, "model"), to=tmp_path)), folds)
    engine = open_engine(made, engine="torch", device="cpu", mirror=mirror).engine
    labels = segment(formats.read([golden(name, f"{case}_0000.nii.gz")]), made.procedure, engine).labels.data[0]
    assert (labels == expected).mean() > 0.998


@pytest.mark.slow
@pytest.mark.parametrize(("name", "case", "folds"), [case for case in CASES if case[2] == (0,)])
def test_with_sums_in_float16_logits_are_those_of_nnunet(
    tmp_path: Path, name: str, case: str, folds: tuple[int, ...]
) -> None:
    expected = load_file(golden(name, f"expected_{case}_folds{''.join(map(str, folds))}_nomirror.safetensors"))
    made = chosen(library.read_card(imports.adopt(golden(name, "model"), to=tmp_path)), folds)
    scan = formats.read([golden(name, f"{case}_0000.nii.gz")])
    faithful = replace(made.procedure, window=replace(made.window, sums=made.sums))
    prepared = prepare(scan, faithful)
    engine = open_engine(made, engine="torch", device="cpu").engine
    slabs = list(Sliding(prepared.image, engine, faithful.window, outside=prepared.outside).volumes())
    for slab in slabs:
        box = prepared.image.grid.box_of(slab.grid)
        wanted = expected["logits"][(slice(None), *box)].astype(np.float32)
        assert np.abs(slab.data - wanted).max() < 1e-2
    labels = labels_on(scan.grid, slabs, made.decide, prepared.image.grid, prepared.wanted, made.interpolation)
    assert (labels.data[0] == expected["segmentation"]).mean() > 0.9997


def chosen(made: card.ModelCard, folds: tuple[int, ...]) -> card.ModelCard:
    """The card with some of its folds."""
    return replace(made, weights=made.weights[: len(folds)], sha256=made.sha256[: len(folds)])


def test_a_checkpoint_of_version_2_carries_its_own_plans(tmp_path: Path) -> None:
    path = CONTAINERS / "nnunetv2_tinyct" / "model" / "fold_0" / "checkpoint_final.pth"
    alone = library.read_card(imports.adopt(path, to=tmp_path, name="alone"))
    folder = library.read_card(imports.adopt(path.parent.parent, to=tmp_path, name="folder"))
    assert replace(alone, name="", source="", document={}, weights=(), sha256=(), folder=None) == replace(
        folder, name="", source="", document={}, weights=(), sha256=(), folder=None
    )
    assert len(folder.weights) == 2


def results(tmp_path: Path, *names: str) -> Path:
    """nnU-Net's folder of results for one data set, with copies of the small model under these names."""
    place = tmp_path / "nnUNet_results" / "Dataset001_Tiny"
    for name in names:
        shutil.copytree(CONTAINERS / "nnunetv2_tinyct" / "model", place / name)
    return place


def test_of_several_configurations_the_usual_one_is_taken_and_that_is_said(tmp_path: Path) -> None:
    names = [f"nnUNetTrainer__nnUNetPlans__{name}" for name in ("2d", "3d_cascade_fullres", "3d_fullres", "3d_lowres")]
    found = imports.inspect(results(tmp_path, *names))
    assert found.notes == [
        "nnUNetTrainer__nnUNetPlans__3d_fullres is taken; there is also nnUNetTrainer__nnUNetPlans__2d, "
        "nnUNetTrainer__nnUNetPlans__3d_cascade_fullres, nnUNetTrainer__nnUNetPlans__3d_lowres "
        "(--configuration, --trainer, --plans)"
    ]


def test_options_choose_among_trainers_plans_configurations_and_folds(tmp_path: Path) -> None:
    place = results(
        tmp_path,
        "nnUNetTrainer__nnUNetPlans__3d_fullres",
        "nnUNetTrainerBN__nnUNetPlans__3d_fullres",
        "nnUNetTrainer__nnUNetResEncUNetLPlans__3d_fullres",
    )
    usual = imports.inspect(place)
    assert "nnUNetTrainer__nnUNetPlans__3d_fullres is taken" in usual.notes[0]
    assert imports.inspect(place, wanted=imports.WhichModel(trainer="nnUNetTrainerBN")).notes == []
    assert imports.inspect(place, wanted=imports.WhichModel(plans="nnUNetResEncUNetLPlans")).notes == []
    with pytest.raises(ModelError, match="nothing there is of --configuration 2d; it holds 3 models") as caught:
        imports.inspect(place, wanted=imports.WhichModel(configuration="2d"))
    assert "--trainer" in str(caught.value.hint)
    one = "nnUNetTrainerBN__nnUNetPlans__3d_fullres"
    with pytest.raises(ModelError, match="nothing there is of") as caught:
        imports.inspect(place / one, wanted=imports.WhichModel(configuration="2d"))
    assert caught.value.message == f"{one}: nothing there is of --configuration 2d; it holds one model: {one}"
    assert caught.value.hint == "leave out --configuration, or give another folder"
    assert (usual.folds, imports.inspect(place, wanted=imports.WhichModel(folds=("1",))).folds) == (2, 1)
    with pytest.raises(ModelError, match="has no fold 7") as caught:
        imports.inspect(place, wanted=imports.WhichModel(folds=("0", "7")))
    assert caught.value.hint == "--folds takes some of: 0, 1"
    with pytest.raises(ModelError, match="has no fold all") as caught:
        imports.inspect(place, wanted=imports.WhichModel(folds=("all",)))
    told = "--folds takes some of: 0, 1; `all` is nnU-Net's own fold_all; without --folds every numbered one is taken"
    assert caught.value.hint == told


def test_where_none_of_several_is_the_usual_one_a_choice_is_asked_for(tmp_path: Path) -> None:
    place = results(tmp_path, "nnUNetTrainerA__nnUNetPlans__3d_fullres", "nnUNetTrainerB__nnUNetPlans__3d_fullres")
    with pytest.raises(ModelError, match="holds 2 models: nnUNetTrainerA__nnUNetPlans__3d_fullres, "):
        imports.inspect(place)
    chosen = imports.WhichModel(trainer="nnUNetTrainerB")
    assert imports.inspect(place, wanted=chosen).container == "nnU-Net v2 folder, 2 folds"


def test_second_names_of_the_networks_tensors_are_no_news(tmp_path: Path) -> None:
    """nnU-Net stores its encoder once more under the decoder's name, and each layer in a list."""
    folder = edited(tmp_path)
    assert imports.inspect(folder).notes == []
    path = folder / "fold_0" / "checkpoint_final.pth"
    content = torch.load(path, weights_only=False)
    name = "decoder.encoder.stages.0.0.convs.0.conv.weight"
    content["network_weights"][name] = content["network_weights"][name].clone()
    torch.save(content, path)
    assert imports.inspect(folder).notes == [f"1 tensors without effect on the output are left out: {name}"]


def test_what_plans_say_becomes_the_card(tmp_path: Path) -> None:
    made = library.read_card(imports.adopt(CONTAINERS / "nnunetv2_tinyct" / "model", to=tmp_path))
    assert made.channels == ("CT",)
    assert made.grid.spacing == (2, 1, 1)
    assert made.grid.axes is None
    assert (made.interpolation.how, made.interpolation.coarse) == ("cubic", 3)
    assert (made.window.size, made.window.stride, made.window.centre) == ((12, 24, 24), "even", "voxel")
    assert made.mirror == (0, 1, 2)
    assert (made.window.sums, made.sums) == ("float32", "float16"), "sums in float16 are for --faithful"
    assert [label.name for label in made.labels] == ["background", "organ", "lesion"]


def edited(tmp_path: Path, dataset: dict[str, Any] | None = None, plans: dict[str, Any] | None = None) -> Path:
    """A folder of version 2 with one fold and some entries of its dataset.json and plans.json changed."""
    source, folder = CONTAINERS / "nnunetv2_tinyct" / "model", tmp_path / "edited__nnUNetPlans__3d_fullres"
    (folder / "fold_0").mkdir(parents=True)
    (folder / "fold_0" / "checkpoint_final.pth").write_bytes((source / "fold_0" / "checkpoint_final.pth").read_bytes())
    for name, change in (("dataset.json", dataset), ("plans.json", plans)):
        document = json.loads((source / name).read_text())
        (folder / name).write_text(json.dumps({**document, **(change or {})}))
    return folder


@pytest.mark.parametrize(
    ("field", "value", "shown"),
    [("spacing", None, "None"), ("spacing", [1, None, 2], r"\[1, None, 2\]"), ("patch_size", None, "None")],
)
def test_plans_whose_sizes_are_no_numbers_are_refused_with_the_fields_name(
    tmp_path: Path, field: str, value: Any, shown: str
) -> None:
    plans = json.loads((CONTAINERS / "nnunetv2_tinyct" / "model" / "plans.json").read_text())
    plans["configurations"]["3d_fullres"][field] = value
    with pytest.raises(ModelError, match=f"the plans' {field} is of an unexpected kind: {shown}"):
        imports.inspect(edited(tmp_path, plans=plans))


def resampling(tmp_path: Path, function: str, back: str | None = None, **options: Any) -> Path:
    """A folder of version 2 whose plans resample with another function, the network's output perhaps with its own."""
    plans = json.loads((CONTAINERS / "nnunetv2_tinyct" / "model" / "plans.json").read_text())
    for name, used in (("data", function), ("probabilities", back or function)):
        plans["configurations"]["3d_fullres"][f"resampling_fn_{name}"] = used
        plans["configurations"]["3d_fullres"][f"resampling_fn_{name}_kwargs"] = dict(options)
    return edited(tmp_path, plans=plans)


@pytest.mark.parametrize(
    ("function", "options", "how", "coarse"),
    [
        ("resample_data_or_seg_to_shape", {"order": 1, "order_z": 0, "force_separate_z": None}, "linear", 3),
        ("resample_data_or_seg_to_shape", {"order": 1, "order_z": 1, "force_separate_z": False}, "linear", None),
        ("resample_data_or_seg_to_shape", {"order": 1}, "linear", None),  # its own default is not to separate
        ("resample_torch_fornnunet", {"force_separate_z": False}, "linear", None),
        ("resample_torch_fornnunet", {}, "linear", 3),
        ("resample_torch_fornnunet", {"separate_z_anisotropy_threshold": 4}, "linear", 4),
        ("resample_torch_simple", {"is_seg": False, "memefficient_seg_resampling": False}, "linear", None),
    ],
)
def test_each_of_nnunets_resampling_functions_becomes_what_it_does(
    tmp_path: Path, function: str, options: dict[str, Any], how: str, coarse: float | None
) -> None:
    made = library.read_card(imports.adopt(resampling(tmp_path, function, **options), to=tmp_path, name="m"))
    assert (made.interpolation.how, made.interpolation.coarse) == (how, coarse)
    assert made.grid.spacing == (2, 1, 1)


@pytest.mark.parametrize("function", ["no_resampling_hack", "no_resampling_data_or_seg_to_shape"])
def test_plans_that_resample_nothing_leave_scans_on_their_grid(tmp_path: Path, function: str) -> None:
    folder = resampling(tmp_path, function)
    assert library.read_card(imports.adopt(folder, to=tmp_path, name="m")).grid.spacing is None


@pytest.mark.parametrize(
    ("function", "options"),
    [
        ("resample_data_or_seg_to_shape", {"order": 2}),
        ("resample_data_or_seg_to_shape", {"order": 5}),
        ("resample_data_or_seg_to_shape", {"is_seg": True}),
        ("resample_data_or_seg_to_shape", {"order": 1, "order_z": 3, "force_separate_z": None}),
        ("resample_data_or_seg_to_shape", {"order": 1, "anti_aliasing": True}),
        ("resample_torch_simple", {"mode": "area"}),
        ("resample_torch_simple", {"force_separate_z": True}),
        ("resample_torch_fornnunet", {"force_separate_z": True}),
        ("resample_data_or_seg_to_shape", {"order": 1, "order_z": 1, "force_separate_z": None}),
        ("resample_data_or_seg_to_shape", {"order": 1, "force_separate_z": True}),
        ("resample_torch_fornnunet", {"force_separate_z": False, "mode": "nearest-exact"}),
        ("resample_torch_fornnunet", {"aniso_axis_mode": "linear"}),
        ("resample_of_my_own", {}),
    ],
)
def test_a_resampling_that_segcli_lacks_is_refused_by_name(
    tmp_path: Path, function: str, options: dict[str, Any]
) -> None:
    with pytest.raises(ModelError, match=f"resample in a way that segcli lacks: {function}"):
        imports.adopt(resampling(tmp_path, function, **options), to=tmp_path, name="m")


def test_outputs_that_come_back_in_another_way_than_segclis_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="resample the network's output in a way that segcli lacks"):
        imports.inspect(resampling(tmp_path, "resample_data_or_seg_to_shape", order=3, force_separate_z=False))


def trained(folder: Path, **sizes: Any) -> torch.nn.Module:
    """Weights of the plans' network built with other arguments, as a trainer of its own makes them, put in place."""
    plans = json.loads((folder / "plans.json").read_text())
    described = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    known = {k: v for k, v in described.items() if not k.startswith("dropout")}
    torch.manual_seed(0)
    net = registry.build("nnunet_plain", {**known, "input_channels": 1, "num_classes": 3, **sizes})
    path = folder / "fold_0" / "checkpoint_final.pth"
    content = torch.load(path, weights_only=False)
    torch.save({**content, "network_weights": net.state_dict()}, path)
    return net


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"norm_op": "torch.nn.BatchNorm3d"}, "the norm is BatchNorm3d, not the InstanceNorm3d of the plans"),
        ({"conv_bias": False}, "its convolutions have no bias, other than the plans say"),
    ],
)
def test_where_a_trainer_changes_the_network_its_tensors_tell_and_not_the_plans(
    tmp_path: Path, sizes: dict[str, Any], said: str
) -> None:
    folder = edited(tmp_path)
    net = trained(folder, **sizes)
    made = library.read_card(imports.adopt(folder, to=tmp_path, name="m"))
    assert said in made.document["notes"]
    x = torch.randn(1, 1, 12, 24, 24)
    with torch.inference_mode():
        assert torch.equal(weights.network_of(made)(x), net(x))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "net."])
def test_wrapped_names_are_understood_as_bare_ones(tmp_path: Path, prefix: str) -> None:
    folder = edited(tmp_path)
    path = folder / "fold_0" / "checkpoint_final.pth"
    content = torch.load(path, weights_only=False)
    names = content["network_weights"]
    torch.save({**content, "network_weights": {prefix + name: tensor for name, tensor in names.items()}}, path)
    made = library.read_card(imports.adopt(folder, to=tmp_path, name="m"))
    bare = library.read_card(imports.adopt(edited(tmp_path / "bare"), to=tmp_path, name="plain"))
    x = torch.randn(1, 1, 12, 24, 24)
    with torch.inference_mode():
        assert torch.equal(weights.network_of(made)(x), weights.network_of(bare)(x))


def test_weights_of_another_size_than_the_plans_are_refused(tmp_path: Path) -> None:
    folder = edited(tmp_path)
    trained(folder, num_classes=4)
    with pytest.raises(ModelError, match=r"not those of the plans' PlainConvUNet: 0 missing, 0 unexpected, \d+ of"):
        imports.inspect(folder)


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ({"image_reader_writer": "Tiff3DIO"}, "the reader Tiff3DIO is not one that segcli knows: its orientation"),
        ({}, "the normalisation PercentileNormalization of channel 0 is not one that segcli has"),
    ],
)
def test_a_refusal_names_what_the_plans_state_and_segcli_lacks(
    tmp_path: Path, entry: dict[str, str], sentence: str
) -> None:
    plans = json.loads((CONTAINERS / "nnunetv2_tinyct" / "model" / "plans.json").read_text())
    if not entry:
        plans["configurations"]["3d_fullres"]["normalization_schemes"] = ["PercentileNormalization"]
    folder = edited(tmp_path, plans={**plans, **entry})
    with pytest.raises(ModelError, match=sentence) as caught:
        imports.adopt(folder, to=tmp_path, name="m")
    assert "does not state" not in caught.value.message
    assert sentence in " ".join(imports.inspect(folder).notes)


def test_a_preprocessor_and_a_label_manager_of_a_fork_are_not_taken_for_nnunets_own(tmp_path: Path) -> None:
    plans = json.loads((CONTAINERS / "nnunetv2_tinyct" / "model" / "plans.json").read_text())
    plans["configurations"]["3d_fullres"]["preprocessor_name"] = "OurPreprocessor"
    folder = edited(tmp_path, plans={**plans, "label_manager": "OurLabels"})
    with pytest.raises(ModelError, match=r"prepare scans by OurPreprocessor, .*; the plans make labels by OurLabels"):
        imports.adopt(folder, to=tmp_path, name="m")
    given = imports.options(normalise="-100,200,50,80", labels="background,a,b")
    made = library.read_card(imports.adopt(folder, to=tmp_path, name="m", given=given))
    assert [label.name for label in made.labels] == ["background", "a", "b"]


def test_intensity_properties_under_their_former_name_are_those_of_today(tmp_path: Path) -> None:
    plans = json.loads((CONTAINERS / "nnunetv2_tinyct" / "model" / "plans.json").read_text())
    today = imports.inspect(CONTAINERS / "nnunetv2_tinyct" / "model").found["intensity"]
    known = plans.pop("foreground_intensity_properties_per_channel")
    folder = edited(tmp_path)
    (folder / "plans.json").write_text(json.dumps({**plans, "foreground_intensity_properties_by_modality": known}))
    assert imports.inspect(folder).found["intensity"] == today


def test_tensors_beside_the_plans_network_are_layers_of_another_one(tmp_path: Path) -> None:
    path = edited(tmp_path) / "fold_0" / "checkpoint_final.pth"
    stored = torch.load(path, weights_only=False)
    stored["network_weights"]["attention.gate.weight"] = torch.ones(4, 4)
    torch.save(stored, path)
    with pytest.raises(ModelError, match=r"1 tensors stand beside the network .* attention\.gate\.weight") as caught:
        imports.inspect(path.parents[1])
    assert "ONNX" in (caught.value.hint or "")


def test_structures_of_one_value_are_one_label(tmp_path: Path) -> None:
    folder = edited(tmp_path, {"labels": {"background": 0, "left kidney": 1, "spleen": 2, "right kidney": 1}})
    found = imports.inspect(folder)
    assert found.found["labels"] == {"background": 0, "left_kidney_and_right_kidney": 1, "spleen": 2}
    assert "left_kidney and right_kidney have the value 1 and are one label" in found.notes
    regions = {"background": 0, "core": [2, 3], "rest": [1, 2], "rim": 3}
    (folder / "dataset.json").write_text(
        json.dumps({"channel_names": {"0": "CT"}, "labels": regions, "regions_class_order": [2, 1, 2]})
    )
    found = imports.inspect(folder)
    assert found.found["labels"] == {"background": 0, "core_and_rim": 2, "rest": 1}
    assert found.found["regions"] == [2, 1, 2]


def test_regions_are_written_in_the_order_of_their_classes(tmp_path: Path) -> None:
    labels = {"background": 0, "Whole tumour": [1, 2, 3], "core": [2, 3], "enhancing": [3]}
    folder = edited(tmp_path, {"labels": labels, "regions_class_order": [1, 2, 3]})
    made = library.read_card(imports.adopt(folder, to=tmp_path))
    assert [(label.name, label.id) for label in made.labels][1:] == [("whole_tumour", 1), ("core", 2), ("enhancing", 3)]
    assert (made.decide.rule, made.decide.values) == ("regions", (1, 2, 3))


def test_copies_of_the_plans_that_cross_validation_leaves_are_no_models(tmp_path: Path) -> None:
    folder = edited(tmp_path)
    (folder / "crossval_results_folds_0").mkdir()
    for name in ("plans.json", "dataset.json"):
        (folder / "crossval_results_folds_0" / name).write_text((folder / name).read_text())
    assert imports.inspect(tmp_path).container == "nnU-Net v2 folder, fold_0"


def test_all_cases_in_one_fold_and_the_best_checkpoint_do(tmp_path: Path) -> None:
    folder = edited(tmp_path)
    (folder / "fold_0").rename(folder / "fold_all")
    (folder / "fold_all" / "checkpoint_final.pth").rename(folder / "fold_all" / "checkpoint_best.pth")
    found = imports.inspect(folder)
    assert found.container == "nnU-Net v2 folder, fold_all"
    assert found.notes == ["fold_all: checkpoint_best.pth is taken, no checkpoint_final.pth is there"]


def test_folds_that_are_left_out_are_said(tmp_path: Path) -> None:
    folder = edited(tmp_path)
    for name in ("fold_1", "fold_all", "fold_2"):
        shutil.copytree(folder / "fold_0", folder / name)
    (folder / "fold_2" / "checkpoint_final.pth").unlink()
    found = imports.inspect(folder)
    assert (found.folds, found.notes) == (
        2,
        ["fold_2: no final or best checkpoint there, left out", "fold_all: left out (--folds)"],
    )
    chosen = imports.inspect(folder, wanted=imports.WhichModel(folds=("all",)))
    assert (chosen.folds, chosen.notes) == (1, ["fold_2: no final or best checkpoint there, left out"])


def test_a_list_of_one_label_is_that_label(tmp_path: Path) -> None:
    folder = edited(tmp_path, {"labels": {"background": 0, "lesion": [2], "organ": [1]}})
    made = library.read_card(imports.adopt(folder, to=tmp_path))
    assert [(label.name, label.id) for label in made.labels] == [("background", 0), ("organ", 1), ("lesion", 2)]
    assert made.decide.rule == "argmax"


def test_label_names_of_any_script_are_kept_and_each_change_is_said(tmp_path: Path) -> None:
    folder = edited(tmp_path, {"labels": {"background": 0, "左肺": 1, "Œsophage (abdominal)": 2}})
    told: list[str] = []
    made = library.read_card(imports.adopt(folder, to=tmp_path, name="m", tell=told.append))
    assert [label.name for label in made.labels] == ["background", "左肺", "œsophage_abdominal"]
    assert told == ["labels are called in another way: 'Œsophage (abdominal)' œsophage_abdominal"]


@pytest.mark.parametrize(
    ("names", "called"),
    [
        (["Tumour+", "tumour-"], ["tumour_plus", "tumour_minus"]),
        (["node <1cm", "node >1cm"], ["node_below_1cm", "node_above_1cm"]),
        (["a b", "a-b", "A_B"], ["a_b", "a_b_2", "a_b_3"]),
        (["a b", "a-b", "a_b_2"], ["a_b", "a_b_3", "a_b_2"]),
        (["हृदय", "Почка левая", "腎臓 (右)"], ["हृदय", "почка_левая", "腎臓_右"]),
        (["!", "?"], ["unnamed", "unnamed_2"]),
    ],
)
def test_names_that_fall_together_are_told_apart_legibly(names: list[str], called: list[str]) -> None:
    assert label_names(names)[0] == called


def test_channels_are_in_the_order_of_their_numbers_and_told_apart() -> None:
    plans = json.loads((CONTAINERS / "nnunetv2_tinyct" / "model" / "plans.json").read_text())
    chosen = plans["configurations"]["3d_fullres"]
    chosen |= {"normalization_schemes": ["NoNormalization"] * 3, "use_mask_for_norm": [True] * 3}
    names: dict[str, str] = {"2": "T2", "0": "noNorm", "1": "T1"}
    dataset = {"channel_names": names, "labels": {"background": 0, "organ": 1}}
    init = {"plans": plans, "dataset_json": dataset, "configuration": "3d_fullres"}

    def channels() -> list[str]:
        content = {"network_weights": {"conv.weight": torch.zeros(1)}, "init_args": init}
        source = nnunet.file(checkpoint.Stored("a.pth", "torch", content, ""))
        found: list[str] = source.states(Recognised("nnunet_plain", {})).fields["channels"]
        return found

    assert channels() == ["noNorm", "T1", "T2"]
    names["2"] = "T1"
    assert channels() == ["noNorm_0", "T1_1", "T1_2"]


@pytest.mark.parametrize(
    ("dataset", "plans", "words"),
    [
        ({"labels": None}, {}, r"dataset.json: the field labels \(None\) is not an object of names and numbers"),
        ({"labels": {"organ": 1, "lesion": 2}}, {}, "none of the labels organ, lesion has the value 0"),
        ({"channel_names": ["CT"]}, {}, r"the field channel_names \(\['CT'\]\) is not an object of names and numbers"),
        ({"labels": {"background": 0, "whole": [1, 2], "core": 2}}, {}, "the field 'regions_class_order' is missing"),
        ({"channel_names": {"0": "CT", "1": "PET"}}, {}, "the plans have 1 normalisations for 2 channels"),
        ({}, {"configurations": {"3d_fullres": {}}}, "plans.json and dataset.json: the field '.*' is missing"),
    ],
)
def test_plans_that_are_incomplete_are_refused_by_the_field(
    tmp_path: Path, dataset: dict[str, Any], plans: dict[str, Any], words: str
) -> None:
    with pytest.raises(ModelError, match=words):
        imports.inspect(edited(tmp_path, dataset, plans))


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("use_mask_for_norm", "no", "use_mask_for_norm is 'no', not a list of true and false"),
        ("use_mask_for_norm", ["false"], r"use_mask_for_norm is \['false'\]"),
        ("patch_size", [32.5, 32, 32], "unexpected kind"),
        ("patch_size", ["32", 32, 32], "unexpected kind"),
        ("spacing", None, "unexpected kind"),
    ],
)
def test_plans_that_state_a_field_in_another_kind_are_refused_and_not_taken_for_what_they_may_mean(
    tmp_path: Path, field: str, value: object, words: str
) -> None:
    plans = json.loads((CONTAINERS / "nnunetv2_tinyct" / "model" / "plans.json").read_text())
    plans["configurations"]["3d_fullres"][field] = value
    with pytest.raises(ModelError, match=words):
        imports.adopt(edited(tmp_path, plans=plans), to=tmp_path, name="m")


def test_an_ignored_label_has_no_output(tmp_path: Path) -> None:
    folder = edited(tmp_path, {"labels": {"background": 0, "lesion": 2, "organ": 1, "ignore": 3}})
    made = library.read_card(imports.adopt(folder, to=tmp_path))
    assert [label.name for label in made.labels] == ["background", "organ", "lesion"]


def test_transposed_plans_transpose_the_grid(tmp_path: Path) -> None:
    plans = {"transpose_forward": [2, 0, 1], "transpose_backward": [1, 2, 0]}
    made = library.read_card(imports.adopt(edited(tmp_path, plans=plans), to=tmp_path))
    assert made.grid.transpose == (2, 0, 1)


def test_plans_whose_way_back_is_another_one_are_refused(tmp_path: Path) -> None:
    plans = {"transpose_forward": [2, 0, 1], "transpose_backward": [2, 0, 1]}
    with pytest.raises(ModelError, match=r"transpose_backward \[2, 0, 1\] does not undo their transpose_forward"):
        imports.inspect(edited(tmp_path, plans=plans))


def test_a_reader_that_turns_scans_states_the_orientation(tmp_path: Path) -> None:
    folder = edited(tmp_path, plans={"image_reader_writer": "NibabelIOWithReorient"})
    assert library.read_card(imports.adopt(folder, to=tmp_path)).grid.axes == "SAR"


def test_a_reader_that_turns_scans_hands_them_over_before_the_plans_transpose_them(tmp_path: Path) -> None:
    plans = {
        "image_reader_writer": "NibabelIOWithReorient",
        "transpose_forward": [1, 2, 0],
        "transpose_backward": [2, 0, 1],
    }
    made = library.read_card(imports.adopt(edited(tmp_path, plans=plans), to=tmp_path))
    axial = Grid((5, 4, 3), np.eye(4)[[2, 1, 0, 3]])
    assert axial.axes == "SPL"
    assert (made.grid.axes, made.grid.transpose) == ("ARS", (0, 1, 2))
    assert model_grid(axial, replace(made.grid, spacing=None)).shape == (4, 3, 5)


def test_the_second_stage_of_a_cascade_is_refused(tmp_path: Path) -> None:
    plans = json.loads((CONTAINERS / "nnunetv2_tinyct" / "model" / "plans.json").read_text())
    plans["configurations"]["3d_fullres"]["previous_stage"] = "3d_lowres"
    with pytest.raises(ModelError, match="second stage of a cascade"):
        imports.inspect(edited(tmp_path, plans=plans))


def cascade(tmp_path: Path, shown: int, **dataset: Any) -> Path:
    """The folder of a second stage, with the first beside it; both are the small model, the second with more inputs."""
    source = CONTAINERS / "nnunetv2_tinyct" / "model"
    plans = json.loads((source / "plans.json").read_text())
    for stage in ("3d_lowres", "3d_fullres"):
        plans["configurations"][stage] = {**plans["configurations"]["3d_fullres"]}
    plans["configurations"]["3d_fullres"]["previous_stage"] = "3d_lowres"
    for stage in ("3d_lowres", "3d_fullres"):
        folder = tmp_path / f"nnUNetTrainer__nnUNetPlans__{stage}"
        shutil.copytree(source, folder)
        (folder / "plans.json").write_text(json.dumps(plans))
        stated = json.loads((source / "dataset.json").read_text())
        (folder / "dataset.json").write_text(json.dumps({**stated, **dataset}))
        for path in folder.glob("fold_*/checkpoint_final.pth"):
            stored = torch.load(path, weights_only=False)
            stored["init_args"] |= {"plans": plans, "configuration": stage}
            if stage == "3d_fullres":
                for name, tensor in stored["network_weights"].items():
                    if "encoder.stages.0.0.convs.0" in name and tensor.ndim == 5 and tensor.shape[1] == 1:
                        stored["network_weights"][name] = tensor.repeat(1, 1 + shown, 1, 1, 1)
            torch.save(stored, path)
    return tmp_path / "nnUNetTrainer__nnUNetPlans__3d_fullres"


def test_the_second_stage_of_a_cascade_is_imported_with_the_first_that_lies_beside_it(tmp_path: Path) -> None:
    labels = json.loads((CONTAINERS / "nnunetv2_tinyct" / "model" / "dataset.json").read_text())["labels"]
    second = cascade(tmp_path, len(labels) - 1)
    made = library.read_card(imports.adopt(second, to=tmp_path / "models", name="m"))
    assert (made.previous, made.inputs) == ("m-first", len(labels))
    assert library.previous_of(made).inputs == 1
    imports.verify(tmp_path / "models" / "m")
    first, damaged = tmp_path / "models" / "m-first", second / "fold_0" / "checkpoint_final.pth"
    before, stored = first.stat().st_ino, torch.load(damaged, weights_only=False)
    stored["network_weights"]["decoder.seg_layers.0.bias"][0] = torch.nan
    torch.save(stored, damaged)
    with pytest.raises(ModelError, match=r"decoder\.seg_layers\.0\.bias holds values that are not finite"):
        imports.adopt(second, to=tmp_path / "models", name="m", replace=True)
    assert first.stat().st_ino == before, "the first model stays with the second one that it was made for"
    plans = json.loads((second / "plans.json").read_text())
    plans["configurations"]["3d_fullres"]["resampling_fn_seg_kwargs"] = {"is_seg": True, "order": 0, "order_z": 0}
    (second / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(ModelError, match="resample the labels of the first stage in a way that segcli lacks"):
        imports.inspect(second)


def test_the_orientation_of_a_dataset_is_that_of_its_files_axes() -> None:
    notes: list[str] = []
    assert nnunet_axes.oriented({"orientation": ["L", "A", "S"]}, (0, 1, 2), notes) == {
        "orientation": "SAL",  # arrays are k, j, i
        "transpose": [0, 1, 2],
    }
    assert nnunet_axes.oriented({"orientation": "LAS"}, (2, 0, 1), notes)["orientation"] == "LSA"
    assert notes == ["scans are turned to LAS, the orientation that dataset.json states"] * 2
    for other in ({}, {"orientation": "as scanned"}, {"orientation": None}, {"orientation": 5}):
        assert nnunet_axes.oriented(other, (0, 1, 2), notes) == {}


def test_a_2d_configuration_keeps_the_distance_of_slices(tmp_path: Path) -> None:
    plans = json.loads((CONTAINERS / "nnunetv2_tinyct" / "model" / "plans.json").read_text())
    flat = plans["configurations"]["2d"]
    arguments = flat["architecture"]["arch_kwargs"]
    arguments["features_per_stage"] = [2, 2, 2, 2]
    net = registry.build("nnunet_plain", {**arguments, "input_channels": 1, "num_classes": 3})
    folder = tmp_path / "trainer__nnUNetPlans__2d"
    (folder / "fold_0").mkdir(parents=True)
    init = {"configuration": "2d", "plans": plans, "dataset_json": {}}
    checkpoint_2d = {
        "network_weights": net.state_dict(),
        "init_args": init,
        "inference_allowed_mirroring_axes": (0, 1),
    }
    torch.save(checkpoint_2d, folder / "fold_0" / "checkpoint_final.pth")
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text((CONTAINERS / "nnunetv2_tinyct" / "model" / "dataset.json").read_text())
    made = library.read_card(imports.adopt(folder, to=tmp_path, name="flat"))
    assert (made.slice_axis, made.window.size, made.mirror) == (0, (1, 40, 40), (1, 2))
    assert made.grid.spacing == (None, 1, 1)
    scan = formats.read([CONTAINERS / "nnunetv2_tinyct" / "caseB_0000.nii.gz"])
    assert prepare(scan, made.procedure).wanted.spacing[0] == pytest.approx(3.5)
    labels = segment(scan, made.procedure, open_engine(made, engine="torch", device="cpu").engine).labels
    assert labels.data.shape == (1, 11, 44, 30)


# ---- folders of version 1 -------------------------------------------------------------------------------------------


TINY: dict[str, Any] = {
    "in_channels": 1,
    "out_channels": 3,
    "img_size": [16, 32, 32],
    "feature_size": 2,
    "num_heads": 2,
    "depths": [1, 1, 1, 1],
    "dims": [4, 8, 16, 32],
    "proj_size": [6, 4, 4, 2],
    "decoder_proj_size": 4,
    "decoder_depth": 1,
    "decoder_num_heads": 2,
}


def version_1(folder: Path, **change: Any) -> tuple[Path, torch.nn.Module]:
    """A folder as UNETR++ leaves it, with random weights."""
    torch.manual_seed(0)
    net = registry.build("unetrpp_synapse", TINY)
    properties = {
        0: OrderedDict(
            mean=np.float64(55.5), sd=np.float64(80.25), percentile_00_5=np.float64(-150), percentile_99_5=300.0
        )
    }
    plans = OrderedDict(
        num_modalities=1,
        modalities={0: "CT"},
        normalization_schemes=OrderedDict([(0, "CT")]),
        dataset_properties={"intensityproperties": properties, "all_classes": [1, 2]},
        use_mask_for_norm=OrderedDict([(0, False)]),
        transpose_forward=[0, 1, 2],
        data_identifier="unetr_pp_Data_plans_v2.1",
        plans_per_stage={0: {"patch_size": np.array([16, 32, 32]), "current_spacing": np.array([3.0, 0.76, 0.76])}},
    )
    place = folder / "fold_0"
    place.mkdir(parents=True)
    stored = {
        "epoch": 1000,
        "state_dict": net.state_dict(),
        "best_stuff": (np.float64(0.8), 0.3),
        "amp_grad_scaler": {},
    }
    torch.save(stored, place / "model_final_checkpoint.model")
    info = OrderedDict(init=("/x", 0), name="unetr_pp_trainer_synapse", plans=OrderedDict(plans, **change))
    (place / "model_final_checkpoint.model.pkl").write_bytes(pickle.dumps(info, 2))
    (folder / "plans.pkl").write_bytes(pickle.dumps(OrderedDict(plans, **change), 4))
    return folder, net


def test_a_folder_of_version_1_needs_names_for_its_labels_and_nothing_else(tmp_path: Path) -> None:
    folder, _ = version_1(tmp_path / "task")
    found = imports.inspect(folder)
    assert list(found.missing) == ["labels"]
    assert found.network == "unetrpp_synapse"
    made = library.read_card(
        imports.adopt(folder, to=tmp_path, name="m", given=imports.options(labels="background,organ,lesion"))
    )
    assert made.window.size == (16, 32, 32)
    assert (made.average, made.sums) == ("probabilities", "float32")


def test_a_cascade_shows_values_that_no_region_writes_as_nnunet_does(tmp_path: Path) -> None:
    """Its second stage has an input for each value in its regions, also for one that its first stage never gives."""
    outputs = len(json.loads((CONTAINERS / "nnunetv2_tinyct" / "model" / "dataset.json").read_text())["labels"])
    order = [*range(1, outputs + 1)]
    regions = {"background": 0, **{f"r{value}": [value, 9] for value in order}}
    second = cascade(tmp_path, outputs + 1, labels=regions, regions_class_order=order)
    made = library.read_card(imports.adopt(second, to=tmp_path / "models", name="m"))
    assert made.procedure.earlier == (*order, 9)
    assert [label.id for label in made.structures] == order
    assert [label.id for label in library.previous_of(made).labels] == [0, *order]


def test_a_cascade_of_version_1_is_imported_with_the_first_stage_from_the_folder_beside(tmp_path: Path) -> None:
    second = tmp_path / "nnUNet" / "3d_cascade_fullres" / "Task001_X" / "nnUNetTrainerV2CascadeFullRes__nnUNetPlansv2.1"
    first = tmp_path / "nnUNet" / "3d_lowres" / "Task001_X" / "nnUNetTrainerV2__nnUNetPlansv2.1"
    version_1(second)
    tensors, _ = version_1_unet(flat_stem=False)
    stem = "conv_blocks_context.0.blocks.0.conv.weight"
    tensors[stem] = tensors[stem].repeat(1, 3, 1, 1, 1)
    torch.save({"epoch": 1, "state_dict": tensors}, second / "fold_0" / "model_final_checkpoint.model")
    labels = imports.options(labels="background,organ,lesion")
    with pytest.raises(ModelError, match=r"second stage of a cascade, .*; none of its plans in 3d_lowres/Task001_X"):
        imports.adopt(second, to=tmp_path, name="m", given=labels)
    version_1(first)
    made = library.read_card(imports.adopt(second, to=tmp_path, name="m", given=labels))
    assert (made.previous, made.inputs, made.procedure.earlier) == ("m-first", 3, (1, 2))
    assert made.procedure.earlier_by == "half"
    assert library.previous_of(made).inputs == 1
    imports.verify(tmp_path / "m")


def test_version_1_averages_probabilities_of_windows(tmp_path: Path) -> None:
    folder, net = version_1(tmp_path / "task")
    made = imports.adopt(folder, to=tmp_path, name="m", given=imports.options(labels="background,organ,lesion"))
    x = torch.randn(1, 1, 16, 32, 32)
    with torch.inference_mode():
        ours, logits = weights.network_of(library.read_card(made))(x), net(x)
    assert torch.allclose(ours, torch.softmax(logits, 1), atol=1e-6)


def test_plans_that_would_call_something_are_refused(tmp_path: Path) -> None:
    folder, _ = version_1(tmp_path / "task", hook=combinations)  # a class: pickled by its name alone
    with pytest.raises(ModelError, match=r"itertools\.combinations: not allowed"):
        imports.inspect(folder)


def test_plans_beside_the_file_win_over_a_recipe_which_names_the_labels(tmp_path: Path) -> None:
    folder, _ = version_1(tmp_path / "task")
    document = {
        "format": 1,
        "name": "tiny",
        "source": "a recipe",
        "architecture": {"name": "unetrpp_synapse", **TINY},
        "channels": ["CT"],
        "spacing": [9, 9, 9],
        "patch_size": [16, 32, 32],
        "labels": {"background": 0, "organ": 1, "lesion": 2},
    }
    (tmp_path / "tiny.json").write_text(json.dumps(document))
    path = folder / "fold_0" / "model_final_checkpoint.model"
    made = library.read_card(imports.adopt(path, to=tmp_path, recipe=str(tmp_path / "tiny.json")))
    assert made.grid.spacing == (3.0, 0.76, 0.76)
    assert [label.name for label in made.labels] == ["background", "organ", "lesion"]
    assert made.source == "a recipe"


def version_1_unet(flat_stem: bool, **layers: Any) -> tuple[dict[str, torch.Tensor], torch.nn.Module]:
    """Tensors as nnU-Net v1's own network names them, and v2's network that computes the same.

    flat_stem  whether the first level of the encoder has kernels of 1x3x3, in the decoder always 3x3x3
    """
    torch.manual_seed(0)
    sizes = {
        "input_channels": 1,
        "n_stages": 3,
        "features_per_stage": [4, 6, 8],
        "kernel_sizes": [[3, 3, 3]] * 3,
        "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
        "n_conv_per_stage": [2, 2, 2],
        "num_classes": 3,
        "n_conv_per_stage_decoder": [2, 2],
    }
    net = registry.build("nnunet_plain", sizes | layers)
    for name, tensor in net.state_dict().items():
        if "transpconvs" in name and name.endswith("bias"):
            tensor.zero_()
        if "seg_layers" in name and name.endswith("bias"):
            tensor.zero_()
        if flat_stem and name.startswith("encoder.stages.0.") and name.endswith("conv.weight"):
            tensor[:, :, [0, 2]] = 0
    places = {"encoder.stages.2.0.convs.0": "conv_blocks_context.2.0.blocks.0"}
    places["encoder.stages.2.0.convs.1"] = "conv_blocks_context.2.1.blocks.0"
    for i in (0, 1):
        for j in (0, 1):
            places[f"encoder.stages.{i}.0.convs.{j}"] = f"conv_blocks_context.{i}.blocks.{j}"
            places[f"decoder.stages.{i}.convs.{j}"] = f"conv_blocks_localization.{i}.{j}.blocks.0"
        places[f"decoder.transpconvs.{i}"] = f"tu.{i}"
        places[f"decoder.seg_layers.{i}"] = f"seg_outputs.{i}"
    old = {}
    for name, tensor in net.state_dict().items():
        place = next((p for p in places if name.startswith(f"{p}.")), None)
        if place is None or (name.endswith("bias") and ("transpconvs" in name or "seg_layers" in name)):
            continue
        inside = flat_stem and name.startswith("encoder.stages.0.") and name.endswith("conv.weight")
        end = name.removeprefix(place).replace(".norm.", ".instnorm.")
        old[f"{places[place]}{end}"] = tensor[:, :, 1:2].clone() if inside else tensor.clone()
    return old, net


@pytest.mark.parametrize("flat_stem", [False, True])
def test_version_1s_own_network_is_version_2s_under_other_names(tmp_path: Path, flat_stem: bool) -> None:
    old, net = version_1_unet(flat_stem)
    torch.save({"epoch": 1, "state_dict": old}, tmp_path / "model_final_checkpoint.model")
    given = imports.options(
        labels="background,a,b", spacing="1,1,1", orientation="file", window="0,1", patch="8,16,16", channels="CT"
    )
    made = library.read_card(
        imports.adopt(tmp_path / "model_final_checkpoint.model", to=tmp_path, name="m", given=given)
    )
    x = torch.randn(1, 1, 8, 16, 16)
    with torch.inference_mode():
        assert (weights.network_of(made)(x) - net(x)).abs().max() < 1e-5


OF_TRAINERS: dict[str, dict[str, Any]] = {
    "nnUNetTrainerV2": {},
    "nnUNetTrainerV2_ReLU": {"nonlin": "torch.nn.ReLU"},
    "nnUNetTrainerV2_GeLU": {"nonlin": "torch.nn.GELU"},
    "nnUNetTrainerV2_Mish": {"nonlin": "torch.nn.Mish"},
    "nnUNetTrainerV2_LReLU_slope_2en1": {"nonlin_kwargs": {"negative_slope": 0.2}},
    "nnUNetTrainerV2_ReLU_convReLUIN": {"nonlin": "torch.nn.ReLU", "nonlin_first": True},
    "nnUNetTrainerV2_lReLU_convlReLUIN": {"nonlin_first": True},
    "nnUNetTrainerV2_NoNormalization_lr1en3": {"norm_op": None},
    "nnUNetTrainerV2_BN": {"norm_op": "torch.nn.BatchNorm3d", "norm_op_kwargs": {"eps": 1e-5}},
    "nnUNetTrainerV2_noDeepSupervision": {},
}


def trained_1(folder: Path, trainer: str, **layers: Any) -> tuple[Path, torch.nn.Module]:
    """A folder as a trainer of version 1 leaves it, and the network that is in it."""
    folder, _ = version_1(folder)
    path = folder / "fold_0" / "model_final_checkpoint.model"
    old, net = version_1_unet(False, **layers)
    torch.save({"epoch": 1, "state_dict": old}, path)
    beside = Path(f"{path}.pkl")
    beside.write_bytes(pickle.dumps({**pickle.loads(beside.read_bytes()), "name": trainer}))
    return folder, net


@pytest.mark.parametrize("container", ["folder", "zip", "file"])
@pytest.mark.parametrize("trainer", OF_TRAINERS)
def test_layers_without_tensors_are_those_of_the_trainer_of_version_1(
    tmp_path: Path, trainer: str, container: str
) -> None:
    folder, net = trained_1(tmp_path / "task", trainer, **OF_TRAINERS[trainer])
    path = folder / "fold_0" / "model_final_checkpoint.model"
    if container != "file":
        path = folder if container == "folder" else Path(shutil.make_archive(str(tmp_path / "task"), "zip", folder))
    given = imports.options(labels="background,a,b")
    made = library.read_card(imports.adopt(path, to=tmp_path, name="m", given=given))
    x = torch.randn(1, 1, 8, 16, 16)
    with torch.inference_mode():
        assert (weights.network_of(made)(x) - net(x).softmax(1)).abs().max() < 1e-5


def test_a_trainer_of_version_1_with_group_norms_is_refused_by_name(tmp_path: Path) -> None:
    folder, _ = trained_1(tmp_path / "task", "nnUNetTrainerV2_GN")
    with pytest.raises(ModelError, match="trainer nnUNetTrainerV2_GN has group norms, which segcli lacks"):
        imports.inspect(folder)


@pytest.mark.skipif(SHARED is None, reason="SEGCLI_SHARED does not name the folder with the full set")
def test_the_stored_folder_of_version_1_answers_as_unetr_plus_plus(tmp_path: Path) -> None:
    assert SHARED is not None
    folder = SHARED / "nnunetv1_unetrpp_synapse"
    given = imports.options(labels="background,organ,lesion")
    made = library.read_card(imports.adopt(folder, to=tmp_path, name="m", given=given))
    expected = {k: torch.from_numpy(v) for k, v in load_file(folder / "expected.safetensors").items()}
    with torch.inference_mode():
        ours = weights.network_of(made)(expected["__input__"])
    assert (ours - torch.softmax(expected["__output__"], 1)).abs().max() < 1e-4


@pytest.mark.skipif(SHARED is None, reason="SEGCLI_SHARED does not name the folder with the full set")
def test_every_stored_container_is_known_or_refused() -> None:
    assert SHARED is not None
    refused = {}
    for path in sorted(p for p in SHARED.iterdir() if "expected" not in p.name):
        try:
            imports.inspect(path)
        except ModelError as error:
            refused[path.name] = error.message
    assert sorted(refused) == [
        "malicious_in_metadata.pth",
        "malicious_plain_pickle.pkl",
        "malicious_raw.pth",
        "tiny_segresnet_whole_module_pickle.pt",
        "torchscript_script.ts",
        "torchscript_trace.pt",
    ]
    assert all("not allowed" in message for message in refused.values())
