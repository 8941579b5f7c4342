"""Models of every kind of configuration that nnU-Net v2 has, of seeded weights, and what nnU-Net itself makes of scans.

    python tests/nnunet_matrix.py FOLDER

runs in nnU-Net's own environment; `tests/nnunet_v2.py --matrix` starts it there. It writes FOLDER/scans/ENDING/ with
two small scans of smooth noise, upright with thick slices and oblique, and for each row of ROWS the folder of a model,
FOLDER/ROW/TRAINER__PLANS__CONFIGURATION, and nnU-Net's label maps FOLDER/ROW/CASE.ENDING. A network's last layer is
set so that the logits are as wide as a trained network's and the classes equally likely. nnU-Net adds windows up in
float16; here it does so in float32, as segcli.
"""

from __future__ import annotations

import json
import pickle
import sys
import warnings
from pathlib import Path
from typing import Any

SHAPE = (26, 44, 40)  # z, y, x
SPACING = {"thick": (4.5, 1.1, 1.2), "oblique": (1.7, 1.3, 1.15)}
WIDTH = 3.0
NAMES = {"background": 0, "organ": 1, "lesion": 2, "vessel": 3}
REGIONS = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "rim": 3}
ORDERS = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
TORCH = {"is_seg": False, "force_separate_z": None, "memefficient_seg_resampling": False}

# Row -> what differs from the plain 3d_fullres model: `configuration` of the plans, and fields of it, of the plans, of
# dataset.json; trainer; folds; further rows that an ensemble is made of, or the one that a cascade begins with.
ROWS: dict[str, dict[str, Any]] = {
    "2d": {"configuration": "2d"},
    "3d_lowres": {"configuration": "3d_lowres"},
    "3d_fullres": {},
    "3d_cascade_fullres": {"configuration": "3d_cascade_fullres", "after": "3d_lowres"},
    "folds": {"folds": 2},
    "resenc": {"network": "ResidualEncoderUNet"},
    "regions": {"labels": REGIONS},
    "masked": {"masked": True, "schemes": ["ZScoreNormalization"]},
    "zscore": {"schemes": ["ZScoreNormalization"]},
    "rescale": {"schemes": ["RescaleTo01Normalization"]},
    "transposed_102": {"transpose": [1, 0, 2]},
    "transposed_201": {"transpose": [2, 0, 1]},
    "nrrd": {"ending": ".nrrd"},
    "mha": {"ending": ".mha"},
    "nibabel": {"reader": "NibabelIO"},
    "reoriented": {"reader": "NibabelIOWithReorient"},
    "no_mirroring": {"trainer": "nnUNetTrainerNoMirroring", "mirror": None},
    "no_deep_supervision": {"trainer": "nnUNetTrainerNoDeepSupervision"},
    "batch_norm": {"trainer": "nnUNetTrainerBN"},
    "no_resampling": {"resampling": ("no_resampling_hack", {}, {})},
    "torchres": {"resampling": ("resample_torch_fornnunet", TORCH, TORCH)},
    "torchres_nosepz": {"resampling": ("resample_torch_fornnunet", *[{**TORCH, "force_separate_z": False}] * 2)},
    "together": {"resampling": ("resample_data_or_seg_to_shape", *[{**ORDERS, "force_separate_z": False}] * 2)},
    "linear": {"resampling": ("resample_data_or_seg_to_shape", {**ORDERS, "order": 1}, ORDERS)},
    "tta": {"mirror": [0, 1, 2], "tta": True},
    "postprocessing": {"postprocessing": True},
    "ensemble": {"of": ["2d", "3d_fullres"]},
    "regions_lowres": {"labels": REGIONS, "configuration": "3d_lowres"},
    "ensemble_regions": {"of": ["regions", "regions_lowres"]},
}


def folder_of(home: Path, row: str) -> Path:
    facts = ROWS[row]
    trainer, configuration = facts.get("trainer", "nnUNetTrainer"), facts.get("configuration", "3d_fullres")
    return home / row / f"{trainer}__nnUNetPlans__{configuration}"


def ending(row: str) -> str:
    return str(ROWS[row].get("ending", ".nii.gz"))


# ---- in nnU-Net's environment


def scans(folder: Path) -> None:
    import numpy as np
    import SimpleITK as sitk
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(5)
    for case, spacing in SPACING.items():
        smooth = gaussian_filter(rng.normal(size=SHAPE), [1.5 / (s / 1.2) + 0.5 for s in spacing])
        voxels = np.round(smooth / smooth.std() * 150 + 60).astype(np.int16)
        voxels[:2], voxels[:, :, -3:] = 0, 0  # for the crop to what is not zero
        image = sitk.GetImageFromArray(voxels)
        image.SetSpacing(spacing[::-1])
        image.SetOrigin((-31.0, 12.5, 7.0))
        if case == "oblique":
            turn = sitk.Euler3DTransform((0.0, 0.0, 0.0), 0.2, -0.1, 0.3)
            image.SetDirection(turn.GetMatrix())
        for end in sorted({ending(row) for row in ROWS}):
            (folder / end).mkdir(parents=True, exist_ok=True)
            sitk.WriteImage(image, str(folder / end / f"{case}_0000{end}"))


def plans(facts: dict[str, Any]) -> dict[str, Any]:
    function, image, back = facts.get("resampling", ("resample_data_or_seg_to_shape", ORDERS, ORDERS))
    if function == "resample_data_or_seg_to_shape":
        back = {**back, "order": 1}
        seg = {**ORDERS, "is_seg": True, "order": 1}
    else:
        seg = {**image, **({"is_seg": True} if image else {})}
    resampling = {}
    for kind, options in (("data", image), ("seg", seg), ("probabilities", back)):
        resampling |= {f"resampling_fn_{kind}": function, f"resampling_fn_{kind}_kwargs": options}

    def configuration(patch: list[int], spacing: list[float]) -> dict[str, Any]:
        n = len(patch)
        residual = facts.get("network") == "ResidualEncoderUNet"
        kind = facts.get("network", "PlainConvUNet")
        arguments = {
            "n_stages": 3,
            "features_per_stage": [6, 8, 10],
            "conv_op": f"torch.nn.modules.conv.Conv{n}d",
            "kernel_sizes": [[3] * n] * 3,
            "strides": [[1] * n, [2] * n, [2] * n],
            **({"n_blocks_per_stage": [1, 2, 2]} if residual else {"n_conv_per_stage": [2, 2, 2]}),
            "n_conv_per_stage_decoder": [1, 1] if residual else [2, 2],
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{n}d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        }
        return {
            "data_identifier": "nnUNetPlans",
            "preprocessor_name": "DefaultPreprocessor",
            "batch_size": 2,
            "patch_size": patch,
            "median_image_size_in_voxels": [float(s) for s in SHAPE[-n:]],
            "spacing": spacing,
            "normalization_schemes": facts.get("schemes", ["CTNormalization"]),
            "use_mask_for_norm": [facts.get("masked", False)],
            **resampling,
            "batch_dice": True,
            "architecture": {
                "network_class_name": f"dynamic_network_architectures.architectures.unet.{kind}",
                "arch_kwargs": arguments,
                "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
            },
        }

    fullres = configuration([16, 24, 24], [2.5, 1.25, 1.3])
    lowres = {**configuration([12, 16, 16], [4.0, 2.0, 2.1]), "next_stage": "3d_cascade_fullres"}
    properties = {"max": 600.0, "mean": 60.0, "median": 60.0, "min": -500.0, "percentile_00_5": -300.0}
    return {
        "dataset_name": "Dataset900_Matrix",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [2.0, 1.2, 1.2],
        "original_median_shape_after_transp": list(SHAPE),
        "image_reader_writer": facts.get("reader", "SimpleITKIO"),
        "transpose_forward": (forward := facts.get("transpose", [0, 1, 2])),
        "transpose_backward": [forward.index(i) for i in range(3)],
        "configurations": {
            "2d": configuration([32, 24], [1.25, 1.3]),
            "3d_lowres": lowres,
            "3d_fullres": fullres,
            "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
        },
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": {**properties, "percentile_99_5": 450.0, "std": 150.0}},
    }


def model(home: Path, row: str) -> None:
    """The folder of a model, with a checkpoint for each fold."""
    import torch
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    facts, folder = ROWS[row], folder_of(home, row)
    stated, labels = plans(facts), facts.get("labels", NAMES)
    dataset = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 9, "file_ending": ending(row)}
    if labels is REGIONS:
        dataset["regions_class_order"] = [1, 2, 3]
    manager = PlansManager(stated)
    name, trainer = folder.name.rpartition("__")[2], folder.name.partition("__")[0]
    configuration = manager.get_configuration(name)
    inputs = determine_num_input_channels(manager, configuration, dataset)
    outputs = manager.get_label_manager(dataset).num_segmentation_heads
    for fold in range(facts.get("folds", 1)):
        torch.manual_seed(list(ROWS).index(row) * 10 + fold)
        kind = recursive_find_trainer_class_by_name(trainer)
        network = kind.build_network_architecture(
            manager, configuration, inputs, outputs, enable_deep_supervision=False
        )
        balance(network.eval(), (inputs, *configuration.patch_size))
        place = folder / f"fold_{fold}"
        place.mkdir(parents=True)
        init = {"plans": stated, "configuration": name, "fold": fold, "dataset_json": dataset}
        axes = facts.get("mirror", [0, 1, 2][: len(configuration.patch_size)])
        checkpoint = {
            "network_weights": network.state_dict(),
            "init_args": init,
            "trainer_name": trainer,
            "inference_allowed_mirroring_axes": tuple(axes) if axes is not None else None,
        }
        torch.save(checkpoint, place / "checkpoint_final.pth")
    (folder / "plans.json").write_text(json.dumps(stated))
    (folder / "dataset.json").write_text(json.dumps(dataset))


def balance(network: Any, shape: tuple[int, ...]) -> None:
    """Make the last convolution's answers to smooth noise as wide as a trained network's, no class likelier."""
    import numpy as np
    import torch
    from scipy.ndimage import gaussian_filter

    noise = np.random.default_rng(1).normal(size=(4, *shape))
    smooth = gaussian_filter(noise, [0, 0, *[1.5] * (len(shape) - 1)])
    last = network.decoder.seg_layers[-1]
    for module in network.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0
    with torch.no_grad():
        network.train()
        network(torch.as_tensor(smooth / smooth.std()).float())
        network.eval()
        logits = network(torch.as_tensor(smooth / smooth.std()).float())
        wider = WIDTH / logits.std()
        last.weight *= wider
        last.bias.copy_(last.bias * wider - wider * logits.mean(dim=[0, *range(2, logits.ndim)]))


def predict(home: Path, row: str, probabilities: bool) -> None:
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(
        device=torch.device("cpu"), use_mirroring=bool(ROWS[row].get("tta")), allow_tqdm=False, verbose=False
    )
    folds = tuple(range(ROWS[row].get("folds", 1)))
    predictor.initialize_from_trained_model_folder(str(folder_of(home, row)), folds)
    before = ROWS[row].get("after")
    predictor.predict_from_files_sequential(
        str(home / "scans" / ending(row)),
        str(home / row),
        save_probabilities=probabilities,
        folder_with_segs_from_prev_stage=str(home / before) if before else None,
    )


def postprocess(home: Path, row: str) -> None:
    """Keep the largest piece of two structures, as nnU-Net's own function does, and state it beside the model."""
    import SimpleITK as sitk
    from nnunetv2.postprocessing.remove_connected_components import (
        remove_all_but_largest_component_from_segmentation as largest,
    )

    functions, options = [largest, largest], [{"labels_or_regions": 1}, {"labels_or_regions": [2, 3]}]
    (folder_of(home, row) / "postprocessing.pkl").write_bytes(pickle.dumps((functions, options)))
    for case in SPACING:
        path = str(home / row / f"{case}{ending(row)}")
        image = sitk.ReadImage(path)
        labels = sitk.GetArrayFromImage(image)
        for function, how in zip(functions, options, strict=True):
            labels = function(labels, **how)
        made = sitk.GetImageFromArray(labels)
        made.CopyInformation(image)
        sitk.WriteImage(made, path)


def main() -> None:
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    from nnunetv2.ensembling.ensemble import ensemble_folders

    home = Path(sys.argv[1])
    scans(home / "scans")
    wanted = sys.argv[2:] or list(ROWS)
    members = {member for row in wanted for member in ROWS[row].get("of", ())}
    single = [row for row in ROWS if row in {*wanted, *members, *(ROWS[row].get("after") for row in wanted)}]
    single = [row for row in single if "of" not in ROWS[row]]
    for row in single:
        model(home, row)
        torch.load(folder_of(home, row) / "fold_0" / "checkpoint_final.pth", weights_only=False)  # as files name types
    torch.half = torch.float16 = torch.float32  # windows are added up in that type
    for row in single:
        predict(home, row, row in members)
        if ROWS[row].get("postprocessing"):
            postprocess(home, row)
    for row in wanted:
        if "of" in ROWS[row]:
            ensemble_folders([str(home / member) for member in ROWS[row]["of"]], str(home / row), num_processes=1)


if __name__ == "__main__":
    main()
