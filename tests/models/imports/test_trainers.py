"""Networks that nnU-Net's trainers bring with them: STU-Net and MedNeXt, from folders of both versions."""

import json
import pickle
import shutil
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segcli import formats
from segcli.engines.choose import open_engine
from segcli.errors import ModelError
from segcli.inference.segment import segment
from segcli.models import imports, library
from segcli.models.imports import trainers
from segcli.networks import mednext, registry, stunet

TINY = Path(__file__).parents[2] / "data" / "containers" / "nnunetv2_tinyct"
MILLIONS = {"small": 14.60, "base": 58.26, "large": 440.30, "huge": 1457.33}  # of the paper, for 105 classes
MEDNEXT = {"S": (5.55, 5.97), "B": (10.5, 11.0), "M": (17.55, 18.3), "L": (61.8, 62.9)}  # kernels 3 and 5
STRIDES = [[2, 2, 2]] * 4


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Sizes of a second's work behind the trainers' names."""
    if "published" not in request.node.name:
        monkeypatch.setitem(stunet.SIZES, "small", (2, 1))
        monkeypatch.setitem(stunet.SIZES, "large", (2, 2))
        monkeypatch.setitem(mednext.SIZES, "S", ([1] * 9, [1] * 9))


def parameters(found: registry.Inferred) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in registry.build(found.family, found.config).parameters())


@pytest.mark.parametrize("size", MILLIONS)
def test_each_stunet_has_the_published_number_of_parameters(size: str) -> None:
    network = stunet.sized(size, 1, 105, [[2, 2, 2]] * 5)
    assert parameters(network) / 1e6 == pytest.approx(MILLIONS[size], rel=0.003)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("size", MEDNEXT)
def test_each_mednext_has_the_published_number_of_parameters(size: str, kernel: int) -> None:
    network = mednext.sized(size, kernel, 1, 14)
    assert parameters(network) / 1e6 == pytest.approx(MEDNEXT[size][kernel == 5], rel=0.01)


@pytest.mark.parametrize(
    ("trainer", "kind"),
    [
        ("STUNetTrainer", "STU-Net"),
        ("STUNetTrainer_small_ft", "STU-Net"),
        ("STUNetTrainer_huge_ep4k", "STU-Net"),
        ("nnUNetTrainerV2_MedNeXt_L_kernel5_lr_1e_4", "MedNeXt"),
        ("nnUNetTrainer_MedNeXt_B_kernel3", "MedNeXt"),
        ("nnUNetTrainer_MedNeXt", None),
        ("nnUNetTrainer", None),
    ],
)
def test_a_trainers_name_says_which_network_it_brings(trainer: str, kind: str | None) -> None:
    found = trainers.named(trainer, 1, 2, STRIDES)
    assert (found and found.kind) == (kind and f"the trainer's {kind}")


@pytest.mark.parametrize(
    ("trainer", "mirrors"),
    [
        ("nnUNetTrainerV2", True),
        ("nnUNetTrainerV2_DA3", True),
        ("STUNetTrainer_small", True),
        ("nnUNetTrainerV2_noMirroring", False),
        ("nnUNetTrainerV2_ep4000_nomirror__nnUNetPlansv2.1", False),
        ("nnUNetTrainerV2_noDataAugmentation", False),
        ("nnUNetTrainerV2_MA_noDA", False),
    ],
)
def test_a_network_that_was_trained_without_mirrored_images_is_shown_none(trainer: str, mirrors: bool) -> None:
    assert trainers.mirrors_v1(trainer) is mirrors


def version_2(folder: Path, trainer: str, net: torch.nn.Module) -> Path:
    """A folder of version 2 whose trainer has its own network, its plans' is another."""
    (folder / "fold_0").mkdir(parents=True)
    plans, dataset = (json.loads((TINY / "model" / f"{name}.json").read_text()) for name in ("plans", "dataset"))
    plans["configurations"]["3d_fullres"]["patch_size"] = [16, 32, 32]
    for name, document in (("plans", plans), ("dataset", dataset)):
        (folder / f"{name}.json").write_text(json.dumps(document))
    stored = {
        "network_weights": net.state_dict(),
        "init_args": {"configuration": "3d_fullres", "plans": plans, "dataset_json": dataset},
        "trainer_name": trainer,
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }
    torch.save(stored, folder / "fold_0" / "checkpoint_final.pth")
    return folder


def planned_strides() -> list[list[int]]:
    plans = json.loads((TINY / "model" / "plans.json").read_text())
    strides: list[list[int]] = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["strides"]
    return strides


def seeded(found: registry.Inferred) -> torch.nn.Module:
    torch.manual_seed(0)
    return registry.build(found.family, found.config)


@pytest.mark.slow
def test_a_stunet_of_version_2_has_the_strides_of_the_plans_and_labels_a_scan(tmp_path: Path) -> None:
    net = seeded(stunet.sized("small", 1, 3, planned_strides()[1:]))
    folder = version_2(tmp_path / "a", "STUNetTrainer_small", net)
    made = library.read_card(imports.adopt(folder, to=tmp_path, name="m"))
    assert made.architecture.name == "stunet"
    strides = made.architecture.arguments["pool_op_kernel_sizes"]
    assert strides == (planned_strides()[1:] + [[1, 1, 1]] * 5)[:5]
    scan = formats.read([TINY / "caseB_0000.nii.gz"])
    labels = segment(scan, made.procedure, open_engine(made, engine="torch", device="cpu").engine).labels
    assert labels.data.shape == (1, 11, 44, 30)
    assert imports.inspect(folder).notes == []


@pytest.mark.slow
def test_a_mednext_of_version_2_is_told_by_its_trainer(tmp_path: Path) -> None:
    folder = version_2(tmp_path / "a", "nnUNetTrainer_MedNeXt_S_kernel3", seeded(mednext.sized("S", 3, 1, 3)))
    made = library.read_card(imports.adopt(folder, to=tmp_path, name="m"))
    assert made.architecture.name == "mednext"
    scan = formats.read([TINY / "caseB_0000.nii.gz"])
    labels = segment(scan, made.procedure, open_engine(made, engine="torch", device="cpu").engine).labels
    assert labels.data.shape == (1, 11, 44, 30)


def test_a_mednext_of_a_trainer_of_ones_own_is_told_by_its_tensors(tmp_path: Path) -> None:
    network = mednext.sized("S", 5, 1, 3)
    folder = version_2(tmp_path / "a", "nnUNetTrainer_MedNeXtPlus", seeded(network))
    found = imports.inspect(folder)
    assert found.network == "mednext"
    assert found.arguments | dict(network.config) == found.arguments
    assert any("do_res" in note for note in found.notes)


def test_tensors_of_another_size_than_the_trainers_are_refused(tmp_path: Path) -> None:
    net = seeded(stunet.sized("large", 1, 3, planned_strides()[1:]))
    folder = version_2(tmp_path / "a", "STUNetTrainer_small", net)
    with pytest.raises(ModelError, match="the weights are not those of the trainer's STU-Net"):
        imports.inspect(folder)


def version_1(
    folder: Path,
    trainer: str,
    net: torch.nn.Module,
    extra: dict[str, Any],
    called: str = "model_final_checkpoint.model",
) -> Path:
    """A folder of version 1 as its trainer leaves it, with a checkpoint of that name."""
    properties = {0: OrderedDict(mean=np.float64(50), sd=np.float64(80), percentile_00_5=-150.0, percentile_99_5=300.0)}
    stage = {
        "patch_size": np.array([16, 32, 32]),
        "current_spacing": np.array([2.0, 1.0, 1.0]),
        "pool_op_kernel_sizes": [[1, 2, 2], [2, 2, 2], [2, 2, 2], [2, 2, 2], [1, 2, 2]],
    }
    plans = OrderedDict(
        num_modalities=1,
        num_classes=2,
        modalities={0: "CT"},
        normalization_schemes=OrderedDict([(0, "CT")]),
        dataset_properties={"intensityproperties": properties},
        use_mask_for_norm=OrderedDict([(0, False)]),
        transpose_forward=[0, 1, 2],
        plans_per_stage={0: stage},
    )
    place = folder / "fold_0"
    place.mkdir(parents=True)
    torch.save({"epoch": 1, "state_dict": {**net.state_dict(), **extra}}, place / called)
    info = OrderedDict(init=("/x", 0), name=trainer, plans=plans)
    (place / f"{called}.pkl").write_bytes(pickle.dumps(info, 2))
    (folder / "plans.pkl").write_bytes(pickle.dumps(plans, 4))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "trainer",
    ["STUNetTrainer_small", "nnUNetTrainerV2_MedNeXt_S_kernel5"],
)
def test_a_folder_of_version_1_is_the_network_of_its_trainer(tmp_path: Path, trainer: str) -> None:
    strides = [[1, 2, 2], [2, 2, 2], [2, 2, 2], [2, 2, 2], [1, 2, 2]]
    of_stunet = trainer.startswith("STU")
    network = stunet.sized("small", 1, 3, strides) if of_stunet else mednext.sized("S", 5, 1, 3)
    extra = {} if of_stunet else {"dummy_tensor": torch.ones(1)}
    folder = version_1(tmp_path / "a", trainer, seeded(network), extra)
    made = library.read_card(imports.adopt(folder, to=tmp_path, name="m", given=imports.options(labels="back,a,b")))
    assert (made.architecture.name, made.average) == (network.family, "probabilities")
    assert dict(made.architecture.arguments) == dict(network.config)
    scan = formats.read([TINY / "caseB_0000.nii.gz"])
    labels = segment(scan, made.procedure, open_engine(made, engine="torch", device="cpu").engine).labels
    assert labels.data.shape == (1, 11, 44, 30)


def test_a_folder_as_stunet_publishes_it_is_read_and_one_of_a_training_that_was_ended_early(tmp_path: Path) -> None:
    network = stunet.sized("small", 1, 3, [[1, 2, 2], [2, 2, 2], [2, 2, 2], [2, 2, 2], [1, 2, 2]])
    folder = version_1(tmp_path / "a", "STUNetTrainer_small", seeded(network), {}, "small_ep4k.model")
    found = imports.inspect(folder)
    assert found.network == "stunet"
    assert "fold_0: small_ep4k.model is taken, no model_final_checkpoint.model is there" in found.notes
    assert (found.found["mirror"], [note for note in found.notes if "--tta" in note]) == ([0, 1, 2], [])
    plain = version_1(tmp_path / "c", "STUNetTrainer_small_nomirror", seeded(network), {})
    found = imports.inspect(plain)
    assert found.found["mirror"] == []
    assert "the trainer STUNetTrainer_small_nomirror did not mirror: there is no --tta" in found.notes
    early = version_1(tmp_path / "b", "STUNetTrainer_small", seeded(network), {}, "model_latest.model")
    found = imports.inspect(early)
    assert "fold_0: model_latest.model is taken, no model_final_checkpoint.model is there" in found.notes
    (early / "fold_1").mkdir()
    for end in ("", ".pkl"):
        shutil.copy(folder / "fold_0" / f"small_ep4k.model{end}", early / "fold_1" / f"model_best.model{end}")
    found = imports.inspect(early)  # where one fold has ended, those that have not are none of the model
    assert found.folds == 1
    assert "fold_0: no final or best checkpoint there, left out" in found.notes


@pytest.mark.parametrize(("patch", "beside"), [((32, 64, 64), True), ((32, 64, 64), False), ((64, 64, 64), False)])
def test_windows_of_an_nnformer_are_those_of_its_plans(tmp_path: Path, patch: tuple[int, ...], beside: bool) -> None:
    """Its trainers build the network for the patch of the plans; plans.pkl alone says it as well."""
    folder = nnformer(tmp_path, patch)
    if not beside:
        (folder / "fold_0" / "model_best.model.pkl").unlink()
    made = library.read_card(imports.adopt(folder, to=tmp_path, name="m", given=imports.options(labels="back,a,b")))
    assert made.window.size == tuple(made.architecture.arguments["crop_size"]) == patch
    assert "not the network's" not in made.document.get("notes", "")


def test_plans_of_windows_that_an_nnformer_cannot_have_are_refused(tmp_path: Path) -> None:
    """nnFormer itself finds other tensors in the file than its network has; the published window is a guess."""
    with pytest.raises(ModelError, match="nnformer_synapse does not take windows of 16×32×32 voxels"):
        imports.adopt(nnformer(tmp_path, (16, 32, 32)), to=tmp_path, given=imports.options(labels="back,a,b"))


def nnformer(folder: Path, patch: tuple[int, ...]) -> Path:
    """A folder of nnFormer's with the tensors of windows of 32 x 64 x 64, which its plans may not have."""
    net = seeded(registry.Inferred("nnformer_synapse", registry.small_networks()["nnformer_synapse"].all_arguments))
    trainer = "nnFormerTrainerV2_nnformer_synapse"
    made = version_1(folder / f"{trainer}__plans", trainer, net, {}, called="model_best.model")
    for path in (made / "plans.pkl", made / "fold_0" / "model_best.model.pkl"):
        found = pickle.loads(path.read_bytes())
        found.get("plans", found)["plans_per_stage"][0]["patch_size"] = np.array(patch)
        path.write_bytes(pickle.dumps(found, 2))
    return made
