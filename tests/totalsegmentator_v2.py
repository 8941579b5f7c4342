"""Compare segcli's labels with TotalSegmentator 2's own, task by task and scan by scan, both from one folder of models.

    python tests/totalsegmentator_v2.py FOLDER SCANS [TASK ...]

FOLDER is a results folder of TotalSegmentator (TOTALSEG_WEIGHTS_PATH); models that a task lacks there are drawn, small
ones with seeded weights, by nnU-Net itself and under TotalSegmentator's names. SCANS is a folder of .nii.gz; two are
made where there is none: an upright one in RAS, and a thick, turned one in LPS order. The command TotalSegmentator has
to be on the path, of any environment; it is run with its usage statistics off. segcli runs the same folder in place,
with --faithful.

TotalSegmentator predicts by nnU-Net's predict_from_files_sequential, its own way without further processes, which take
longer to start than these networks. Both programs add windows up in float16, as nnU-Net does.

Counted are the voxels that one or the other labels; the program ends with 1 where a scan agrees in less than 99.9 % of
them.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk

ENOUGH = 0.999
# vertebrae_pp is left out: it ends with an IndexError where its vertebrae are one piece, which drawn weights make them.
# Task -> (TotalSegmentator's word, fast, numbers of its networks and of those that find where to look).
TASKS: dict[str, tuple[str, bool, tuple[int, ...]]] = {
    "total": ("total", False, (291, 292, 293, 294, 295)),
    "fast": ("total", True, (297,)),
    "lung_vessels": ("lung_vessels", False, (117, 297)),
    "liver_segments": ("liver_segments", False, (570, 298)),
    "body": ("body", False, (299,)),
    "total_mr": ("total_mr", False, (850, 851)),
}

# Run by TotalSegmentator's own Python: draw the models of datasets that a results folder lacks.
DRAW = """
import json, sys
from pathlib import Path
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from totalsegmentator import map_to_binary as names
from totalsegmentator.map_tasks_config import TASK_CONFIGS, TASK_ID_WEIGHTS_CONFIGS

PARTS = {
    "total": (names.map_taskid_to_partname_ct, names.class_map_5_parts),
    "total_mr": (names.map_taskid_to_partname_mr, names.class_map_parts_mr),
}
found = {}
for task, config in TASK_CONFIGS.items():
    for mode in config.get("sub_modes", {"default": config}).values():
        numbers = mode["task_id"] if isinstance(mode["task_id"], list) else [mode["task_id"]]
        for number in numbers:
            found.setdefault(number, (task, mode, len(numbers) > 1))
for number in map(int, sys.argv[2:]):
    task, mode, several = found[number]
    own, tables = PARTS.get(task, ({}, {}))
    labels = tables[own[number]] if several else names.class_map[task]
    place = Path(sys.argv[1]) / TASK_ID_WEIGHTS_CONFIGS[number]["foldername"]
    if place.is_dir():
        continue
    steps = mode["resample"] if isinstance(mode["resample"], list) else [mode["resample"]] * 3
    size = dict(n_stages=3, features_per_stage=[6, 8, 12], kernel_sizes=[[3, 3, 3]] * 3,
                strides=[[1, 1, 1], [2, 2, 2], [2, 2, 2]], n_conv_per_stage=[2, 2, 2], n_conv_per_stage_decoder=[2, 2],
                conv_bias=True, norm_op_kwargs={"eps": 1e-5, "affine": True}, nonlin_kwargs={"inplace": True})
    torch.manual_seed(number)
    types = dict(conv_op=torch.nn.Conv3d, norm_op=torch.nn.InstanceNorm3d, nonlin=torch.nn.LeakyReLU)
    net = PlainConvUNet(1, num_classes=len(labels) + 1, deep_supervision=True, **size, **types)
    torch.nn.init.normal_(net.decoder.seg_layers[-1].weight, 0, 2)
    torch.nn.init.normal_(net.decoder.seg_layers[-1].bias, 0, 2)
    said = dict(conv_op="torch.nn.modules.conv.Conv3d", norm_op="torch.nn.modules.instancenorm.InstanceNorm3d",
                nonlin="torch.nn.LeakyReLU", dropout_op=None, dropout_op_kwargs=None)
    resampled = {"force_separate_z": None, "order_z": 0}
    configuration = {
        "data_identifier": "x", "preprocessor_name": "DefaultPreprocessor", "batch_size": 2,
        "patch_size": [32, 32, 32], "median_image_size_in_voxels": [32, 32, 32], "spacing": steps[::-1],
        "normalization_schemes": ["CTNormalization"], "use_mask_for_norm": [False], "batch_dice": False,
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, **resampled},
        "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, **resampled},
        "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, **resampled},
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": {**size, **said},
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
    }
    values = dict(max=195.0, mean=39.7, median=33.2, min=-60.7, percentile_00_5=-33.5, percentile_99_5=169.7, std=38.6)
    plans = {
        "dataset_name": place.name, "plans_name": "nnUNetPlans", "image_reader_writer": "SimpleITKIO",
        "original_median_spacing_after_transp": steps[::-1], "original_median_shape_after_transp": [32, 32, 32],
        "transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2], "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager", "foreground_intensity_properties_per_channel": {"0": values},
        "configurations": {mode.get("model", "3d_fullres"): configuration},
    }
    dataset = {"channel_names": {"0": "CT"}, "numTraining": 1, "file_ending": ".nii.gz",
               "labels": {"background": 0, **{name: value for value, name in labels.items()}}}
    folder = place / f"{mode['trainer']}__nnUNetPlans__{mode.get('model', '3d_fullres')}"
    (folder / "fold_0").mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    init = {"configuration": mode.get("model", "3d_fullres"), "fold": 0, "dataset_json": dataset, "plans": plans}
    torch.save({"network_weights": net.state_dict(), "trainer_name": mode["trainer"], "init_args": init,
                "inference_allowed_mirroring_axes": None, "current_epoch": 1, "grad_scaler_state": None, "logging": {},
                "_best_ema": 0.0, "optimizer_state": {}}, folder / "fold_0" / "checkpoint_final.pth")
    print("drawn:", folder.relative_to(sys.argv[1]), flush=True)
"""

# Run by TotalSegmentator's own Python: TASK FAST SCAN OUT ...
RUN = """
import sys
import nibabel
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from totalsegmentator.python_api import totalsegmentator

task, fast, *files = sys.argv[1:]

def in_this_process(self, source, out, save_probabilities=False, overwrite=True, folder_with_segs_from_prev_stage=None,
                    **processes):
    more = dict(folder_with_segs_from_prev_stage=folder_with_segs_from_prev_stage)
    return self.predict_from_files_sequential(source, out, save_probabilities, overwrite, **more)

nnUNetPredictor.predict_from_files = in_this_process
if __name__ == "__main__":
    for scan, out in zip(files[::2], files[1::2]):
        how = dict(ml=True, fast=fast == "True", task=task, device="cpu", quiet=True, nr_thr_saving=1)
        found = totalsegmentator(nibabel.load(scan), None, **how)
        nibabel.save(found, out)
"""


def made(folder: Path) -> None:
    """Two scans: texture in a ball with air around it, upright in RAS, and turned in LPS order with thick slices."""
    rng = np.random.default_rng(17)
    for name, steps, turn, side in (("upright", (3.0, 3.0, 3.0), 0.0, 1), ("turned", (2.7, 2.9, 5.0), 0.2, -1)):
        shape = tuple(int(150 / step) for step in steps)
        at = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
        coarse = sitk.GetImageFromArray(rng.normal(40, 90, (12, 12, 12)).astype(np.float32))
        grid = sitk.Image([int(n) for n in shape[::-1]], sitk.sitkFloat32)
        grid.SetSpacing([11 / (n - 1) for n in shape[::-1]])
        texture = sitk.GetArrayFromImage(sitk.Resample(coarse, grid, sitk.Transform(), sitk.sitkBSpline))
        data = np.where((at**2).sum(0) < 0.8, texture, -1000).round().astype(np.int16)
        image = sitk.GetImageFromArray(data.T)
        image.SetSpacing(steps)
        c, s = np.cos(turn), np.sin(turn)
        # ITK's axes are LPS: RAS order has the first two reversed.
        image.SetDirection((np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.diag([-side, -side, 1])).ravel().tolist())
        sitk.WriteImage(image, str(folder / f"ct_{name}.nii.gz"))


def theirs(command: Path, folder: Path, home: Path, task: str, files: list[tuple[Path, Path]]) -> None:
    """TotalSegmentator's label map of each scan, without a word to its authors."""
    home.mkdir(exist_ok=True)
    silent = {
        "totalseg_id": "",
        "send_usage_stats": False,
        "prediction_counter": 0,
        "statistics_disclaimer_shown": True,
    }
    (home / "config.json").write_text(json.dumps(silent))
    word, fast, _ = TASKS[task]
    script = home / "run.py"
    script.write_text(RUN)
    words = [command.with_name("python"), script, word, fast, *(path for pair in files for path in pair)]
    places = {"TOTALSEG_HOME_DIR": str(home), "TOTALSEG_WEIGHTS_PATH": str(folder)}
    done = subprocess.run(
        list(map(str, words)), env={**os.environ, **places}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"TotalSegmentator ended with {done.returncode}:\n{done.stderr[-2000:]}")


def ours(folder: Path, home: Path, task: str, scans: list[Path], to: Path) -> None:
    """segcli's label map of each scan, from the same folder in place."""
    model = {"total": "totalsegmentator"}.get(task, f"totalsegmentator-{task}")
    words = ["predict", *scans, "--model", model, "--faithful", "-o", to, "--device", "cpu", "--quiet"]
    places = {"SEGCLI_HOME": str(home), "TOTALSEG_WEIGHTS_PATH": str(folder), "SEGCLI_OFFLINE": "1"}
    command = [sys.executable, "-m", "segcli", *map(str, words)]
    subprocess.run(command, env={**os.environ, **places}, check=True, stdout=subprocess.DEVNULL)


def agreement(one: Path, other: Path) -> tuple[int, float]:
    """How many voxels one or the other labels, and the share of these with equal labels."""
    a, b = (sitk.GetArrayFromImage(sitk.ReadImage(str(path))) for path in (one, other))
    labelled = (a > 0) | (b > 0)
    return int(labelled.sum()), float((a == b)[labelled].mean()) if labelled.any() else 1.0


def main() -> int:
    folder, source = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    tasks = sys.argv[3:] or list(TASKS)
    found = shutil.which("TotalSegmentator")
    if found is None:
        sys.exit("TotalSegmentator is not on the path")
    command = Path(found)
    for place in (folder, source):
        place.mkdir(parents=True, exist_ok=True)
    if not any(source.glob("*.nii.gz")):
        made(source)
    numbers = dict.fromkeys(number for task in tasks for number in TASKS[task][2])
    lacking = [n for n in numbers if not any(folder.glob(f"Dataset{n:03}_*"))]
    if lacking:
        subprocess.run([command.with_name("python"), "-c", DRAW, folder, *map(str, lacking)], check=True)
    scans = sorted(source.glob("*.nii.gz"))
    shares = []
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        for task in tasks:
            ours(folder, home / "segcli", task, scans, home / task)
            files = [(scan, home / f"{task}_{scan.name}") for scan in scans]
            theirs(command, folder, home / "theirs", task, files)
            for scan, out in files:
                case = scan.name.removesuffix(".nii.gz")
                voxels, share = agreement(out, home / task / f"{case}_seg.nii.gz")
                shares.append(share)
                print(f"{task:15} {case:14} {voxels:8} voxels {share:9.4%}", flush=True)
    print(f"{len(tasks)} tasks, {len(scans)} scans: {min(shares):.4%} at least")
    return int(min(shares) < ENOUGH)


if __name__ == "__main__":
    sys.exit(main())
