"""The same scan, network and weights through MONAI and through nnU-Net's predictor, each in a process of its own.

python -m segcli.bench.peers monai|nnunet SCAN MODEL_FOLDER THREADS prints one JSON line: stages, seconds, peak MB.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PEERS = {"monai": "monai", "nnunet": "nnunetv2"}
BEGAN = time.perf_counter()


def installed() -> list[str]:
    return [name for name, library in PEERS.items() if find_spec(library)]


class _Clock:
    def __init__(self) -> None:
        self.last, self.stages = BEGAN, dict[str, float]()

    def __call__(self, stage: str) -> None:
        now = time.perf_counter()
        self.stages[stage] = round(now - self.last, 2)
        self.last = now


def monai(scan: Path, folder: Path, threads: int) -> dict[str, float]:
    """As the published 3D UX-Net test script: dictionary transforms, four windows a call, inverse, argmax."""
    clock = _Clock()
    import numpy as np
    import torch

    t, data, inferers = (import_module(f"monai.{name}") for name in ("transforms", "data", "inferers"))

    from segcli.bench.material import HIGH, LOW, WANTED, WINDOW
    from segcli.models.library import read_card
    from segcli.models.weights import network_of

    torch.set_num_threads(threads)
    card = read_card(folder)
    clock("imports")
    net = network_of(card)
    clock("load")
    steps = [
        t.LoadImaged(keys=["image"]),
        t.EnsureChannelFirstd(keys=["image"]),
        t.Spacingd(keys=["image"], pixdim=(WANTED,) * 3, mode="bilinear"),
        t.Orientationd(keys=["image"], axcodes="RAS", labels=None),
        t.ScaleIntensityRanged(keys=["image"], a_min=LOW, a_max=HIGH, b_min=0, b_max=1, clip=True),
    ]
    if card.document["crop"] == "positive":
        steps.append(t.CropForegroundd(keys=["image"], source_key="image"))
    prepare = t.Compose(steps)
    batch = data.list_data_collate([prepare({"image": str(scan)})])
    clock("prepare")
    with torch.inference_mode(), tempfile.TemporaryDirectory() as out:
        batch["pred"] = inferers.sliding_window_inference(batch["image"], (WINDOW,) * 3, 4, net, overlap=0.5)
        clock("network")
        finish = t.Compose(
            [
                t.EnsureTyped(keys="pred"),
                t.Invertd(keys="pred", transform=prepare, orig_keys="image", nearest_interp=False, to_tensor=True),
                t.AsDiscreted(keys="pred", argmax=True),
            ]
        )
        labels = [finish(item) for item in data.decollate_batch(batch)]
        clock("decide")
        t.SaveImaged(keys="pred", output_dir=out, output_dtype=np.uint8, separate_folder=False, print_log=False)(
            labels[0]
        )
        clock("write")
    return clock.stages


def nnunet(scan: Path, folder: Path, threads: int) -> dict[str, float]:
    """nnU-Net v2's reader, resampling, predictor without mirroring, export and writer around the same network."""
    clock = _Clock()
    import numpy as np
    import torch

    reader = import_module("nnunetv2.imageio.simpleitk_reader_writer").SimpleITKIO
    predictor_of = import_module("nnunetv2.inference.predict_from_raw_data").nnUNetPredictor
    resampling = import_module("nnunetv2.preprocessing.resampling.default_resampling")

    from segcli.bench.material import HIGH, LOW, WANTED, WINDOW
    from segcli.models.library import read_card
    from segcli.models.weights import network_of

    torch.set_num_threads(threads)
    card = read_card(folder)
    clock("imports")
    net = network_of(card)
    clock("load")
    files = reader()
    data, facts = files.read_images([str(scan)])
    data = (np.clip(data.astype(np.float32), LOW, HIGH) - LOW) / (HIGH - LOW)
    old, new = facts["spacing"], (WANTED,) * 3
    shape = resampling.compute_new_shape(data.shape[1:], old, new)
    image = resampling.resample_data_or_seg_to_shape(data, shape, old, new, False, order=3, order_z=0)
    clock("prepare")
    predictor = predictor_of(
        tile_step_size=0.5,
        use_gaussian=True,
        use_mirroring=False,
        perform_everything_on_device=False,
        device=torch.device("cpu"),
        verbose=False,
        allow_tqdm=False,
    )
    labels: Any = type("Labels", (), {"num_segmentation_heads": len(card.labels)})
    configuration: Any = type("Configuration", (), {"patch_size": [WINDOW] * 3})
    predictor.network, predictor.label_manager = net, labels()
    predictor.configuration_manager = configuration()
    logits = predictor.predict_sliding_window_return_logits(torch.as_tensor(np.asarray(image)).float())
    clock("network")
    back = resampling.resample_data_or_seg_to_shape(logits, data.shape[1:], new, old, False, order=1, order_z=0)
    found = torch.softmax(torch.as_tensor(np.asarray(back)).float(), 0).argmax(0).numpy().astype(np.uint8)
    clock("decide")
    with tempfile.TemporaryDirectory() as out:
        files.write_seg(found, str(Path(out) / "labels.nii.gz"), facts)
        clock("write")
    return clock.stages


def main(peer: str, scan: str, folder: str, threads: str) -> None:
    import warnings

    from segcli.memory import peak_memory

    warnings.simplefilter("ignore")
    stages = {"monai": monai, "nnunet": nnunet}[peer](Path(scan), Path(folder), int(threads))
    peak = peak_memory() / 1e6
    print(json.dumps({"stages": stages, "seconds": round(sum(stages.values()), 2), "peak_mb": round(peak)}))


if __name__ == "__main__":
    main(*sys.argv[1:5])
