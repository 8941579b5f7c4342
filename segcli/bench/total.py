"""TotalSegmentator's `total` with networks of true size and drawn weights, by segcli and by TotalSegmentator itself.

Both are commands of their own on one CT, from one folder of models, with the same windows. TotalSegmentator is the one
on the path, of any environment; it draws the models, and is run with its usage statistics off.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil

from segcli.bench import material, stages
from segcli.bench.results import Row
from segcli.documents import Facts
from segcli.engines.precision import on_cpu

SHAPE, FULL = (96, 240, 240), (192, 400, 400)  # 128 and 256 voxels of 1.5 mm along each axis
_SILENT = {"totalseg_id": "", "send_usage_stats": False, "prediction_counter": 0, "statistics_disclaimer_shown": True}

# Run by TotalSegmentator's own Python: FOLDER. Networks of nnU-Net's six stages, as those of the release are planned.
_DRAW = """
import json, sys
from pathlib import Path
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from totalsegmentator.map_tasks_config import TASK_CONFIGS, TASK_ID_WEIGHTS_CONFIGS
from totalsegmentator.map_to_binary import class_map_5_parts, map_taskid_to_partname_ct

mode = TASK_CONFIGS["total"]["sub_modes"]["default"]
kind = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
for number in mode["task_id"]:
    place = Path(sys.argv[1]) / TASK_ID_WEIGHTS_CONFIGS[number]["foldername"]
    folder = place / f"{mode['trainer']}__nnUNetPlans__3d_fullres"
    if (folder / "fold_0" / "checkpoint_final.pth").is_file():
        continue
    labels = class_map_5_parts[map_taskid_to_partname_ct[number]]
    size = dict(n_stages=6, features_per_stage=[32, 64, 128, 256, 320, 320], kernel_sizes=[[3] * 3] * 6,
                strides=[[1] * 3] + [[2] * 3] * 5, n_conv_per_stage=[2] * 6, n_conv_per_stage_decoder=[2] * 5,
                conv_bias=True, norm_op_kwargs={"eps": 1e-5, "affine": True}, nonlin_kwargs={"inplace": True})
    types = dict(conv_op=torch.nn.Conv3d, norm_op=torch.nn.InstanceNorm3d, nonlin=torch.nn.LeakyReLU)
    torch.manual_seed(number)
    net = PlainConvUNet(1, num_classes=len(labels) + 1, deep_supervision=True, **size, **types)
    said = dict(conv_op="torch.nn.modules.conv.Conv3d", norm_op="torch.nn.modules.instancenorm.InstanceNorm3d",
                nonlin="torch.nn.LeakyReLU", dropout_op=None, dropout_op_kwargs=None)
    rule, apart = "resample_data_or_seg_to_shape", {"force_separate_z": None, "order_z": 0}
    configuration = {
        "data_identifier": "x", "preprocessor_name": "DefaultPreprocessor", "batch_size": 2, "patch_size": [128] * 3,
        "median_image_size_in_voxels": [231, 231, 231], "spacing": [1.5] * 3, "batch_dice": False,
        "normalization_schemes": ["CTNormalization"], "use_mask_for_norm": [False], "resampling_fn_data": rule,
        "resampling_fn_seg": rule, "resampling_fn_probabilities": rule,
        "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, **apart},
        "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, **apart},
        "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, **apart},
        "architecture": {"network_class_name": kind, "arch_kwargs": {**size, **said},
                         "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"]}}
    values = dict(max=3000.0, mean=-50.0, median=-10.0, min=-1024.0, percentile_00_5=-1000.0, percentile_99_5=1000.0,
                  std=400.0)
    plans = {"dataset_name": place.name, "plans_name": "nnUNetPlans", "image_reader_writer": "NibabelIOWithReorient",
             "original_median_spacing_after_transp": [1.5] * 3, "original_median_shape_after_transp": [231, 231, 231],
             "transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2],
             "experiment_planner_used": "ExperimentPlanner", "label_manager": "LabelManager",
             "foreground_intensity_properties_per_channel": {"0": values},
             "configurations": {"3d_fullres": configuration}}
    dataset = {"channel_names": {"0": "CT"}, "numTraining": 1, "file_ending": ".nii.gz",
               "labels": {"background": 0, **{name: value for value, name in labels.items()}}}
    (folder / "fold_0").mkdir(parents=True, exist_ok=True)
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    init = {"configuration": "3d_fullres", "fold": 0, "dataset_json": dataset, "plans": plans}
    torch.save({"network_weights": net.state_dict(), "trainer_name": mode["trainer"], "init_args": init,
                "inference_allowed_mirroring_axes": None, "current_epoch": 1, "grad_scaler_state": None,
                "logging": {}, "_best_ema": 0.0, "optimizer_state": {}}, folder / "fold_0" / "checkpoint_final.pth")
"""


def compare(folder: Path, threads: int, full: bool) -> Iterator[Row]:
    """A row for TotalSegmentator and one for each precision of segcli, with the ratio of their times and memories.

    errors   SystemExit without TotalSegmentator
    """
    command = shutil.which("TotalSegmentator")
    if command is None:
        raise SystemExit("total: TotalSegmentator is not on the path")
    scan, results = material.scan(folder, FULL if full else SHAPE), folder / "results"
    stages.run([str(Path(command).with_name("python")), "-c", _DRAW, str(results)])
    places = {"TOTALSEG_WEIGHTS_PATH": str(results), "TOTALSEG_HOME_DIR": str(folder / "totalsegmentator")}
    theirs = _theirs(command, scan, folder, threads, places)
    yield theirs
    for word in ("float32", "bfloat16"):
        if not on_cpu()[word]:
            own = _ours(scan, folder / f"out_total_{word}", threads, word, {**places, "SEGCLI_OFFLINE": "1"})
            ratios = {"ratio": theirs["seconds"] / own["seconds"], "memory": own["peak_mb"] / theirs["peak_mb"]}
            yield {**own, **ratios}


def _ours(scan: Path, out: Path, threads: int, precision: str, places: Mapping[str, str]) -> Row:
    words = [sys.executable, "-m", "segcli", "predict", str(scan), "--model", "totalsegmentator", "--device", "cpu"]
    words += ["--threads", str(threads), "--precision", precision, "--quiet", "-o", str(out)]
    # Imported, and exported for the engine, in a run before: that is done once for all scans.
    for _ in range(2):
        shutil.rmtree(out, ignore_errors=True)
        seconds, peak = _timed(words, places, threads)
    record: Facts = json.loads((out / f"{scan.name.partition('.')[0]}_seg.json").read_text(encoding="utf-8"))
    return {
        "pipeline": f"segcli {record['engine']['name']} {precision}",
        "seconds": seconds,
        "peak_mb": peak,
        "windows": record["windows"],
        **record["run"]["seconds"],
    }


def _theirs(command: str, scan: Path, folder: Path, threads: int, places: Mapping[str, str]) -> Row:
    home = Path(places["TOTALSEG_HOME_DIR"])
    home.mkdir(exist_ok=True)
    (home / "config.json").write_text(json.dumps(_SILENT), encoding="utf-8")
    words = [command, "-i", str(scan), "-o", str(folder / "theirs.nii.gz"), "--ml", "--device", "cpu", "--quiet"]
    seconds, peak = _timed([*words, "--nr_thr_saving", "1"], places, threads)
    return {"pipeline": "TotalSegmentator", "seconds": seconds, "peak_mb": peak}


def _timed(words: Sequence[str], places: Mapping[str, str], threads: int) -> tuple[float, int]:
    """Seconds of a whole command, and the peak in MB of its largest process, looked at every twentieth of a second.

    The system's own figure starts from the size of the process that starts another.
    """
    environment = {**os.environ, **places, "OMP_NUM_THREADS": str(threads)}
    began, peak = time.perf_counter(), 0
    process = psutil.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        with contextlib.suppress(psutil.Error):
            for one in (process, *process.children(recursive=True)):
                peak = max(peak, one.memory_info().rss)
        time.sleep(0.05)
    seconds = time.perf_counter() - began
    if process.returncode:
        raise SystemExit(f"{' '.join(words)} ended with {process.returncode}")
    return round(seconds, 2), round(peak / 1e6)
