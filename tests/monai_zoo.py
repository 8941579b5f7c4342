"""Compare segcli with MONAI's own inference, for bundles of seeded weights made of configurations.

    python tests/monai_zoo.py FOLDER [BUNDLE ...]

FOLDER holds a folder for each bundle with its configs/, as MONAI's model zoo has them. Every inference file in it is
tried: MONAI parses it and builds the network, whose weights are drawn with a seed and whose last layer is set so that
the logits are as wide as a trained network's and the classes equally likely; it prepares an upright and an oblique scan
of smooth noise, runs the bundle's inferer and what follows, all but the saving. segcli imports the same folder and
labels the same scans, as its authors have it (--faithful). Printed is a table: whether it was imported, and the share
of equal labels among the voxels that one or the other labels; labels that MONAI interpolates are rounded.

Windows are 64 voxels at most along each axis, in both programs, and files are read by nibabel. The code of a searched
architecture (DiNTS) is drawn where the folder has none. Where MONAI needs what is not in the folder (scripts/) the
reason stands in place of a share. The program ends with 1
where an imported bundle agrees in less than 99.9 % of the voxels.
"""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import monai
import nibabel
import numpy as np
import torch
import yaml
from monai.bundle import ConfigParser
from scipy.ndimage import gaussian_filter

from segcli import formats
from segcli.batch.cases import Case
from segcli.batch.outputs import Destination
from segcli.batch.stages import Job, Loaded, Options, label
from segcli.engines.choose import open_engine
from segcli.errors import SegcliError
from segcli.models import imports, library

ENOUGH = 0.999
LARGEST = 64  # voxels of a window along an axis
SHAPE = (72, 56, 64)  # of the scans, i, j, k: a little longer than a window along i on the bundle's own grid
STEPS, SHARES = (1.2, 1.1, 1.3), (1.1, 1.05, 0.95)  # mm; of the bundle's steps, where it has some
WIDTH = 3.0  # standard deviation of the logits
TURNS = {"upright": (0.0, 0.0), "oblique": (0.3, -0.2)}  # about the first and the last axis


def affine(steps: Sequence[float], about_first: float, about_last: float) -> np.ndarray:
    (c, s), (d, t) = ((np.cos(a), np.sin(a)) for a in (about_first, about_last))
    turn = np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ np.array([[d, -t, 0], [t, d, 0], [0, 0, 1]])
    made = np.eye(4)
    made[:3, :3], made[:3, 3] = turn @ np.diag(steps) @ np.diag([-1, -1, 1]), (31.0, 27.0, -40.0)
    return made


def scans(folder: Path, channels: int, steps: Sequence[float]) -> dict[str, list[Path]]:
    """The same smooth noise in HU, upright and oblique: a file for each channel."""
    rng = np.random.default_rng(7)
    images = [gaussian_filter(rng.normal(size=SHAPE), 1.5) for _ in range(channels)]
    found: dict[str, list[Path]] = {}
    for name, turns in TURNS.items():
        for c, image in enumerate(images):
            path = folder / f"{name}_{c}.nii.gz"
            voxels = np.round(image / image.std() * 150 + 60).astype(np.int16)
            nibabel.save(nibabel.Nifti1Image(voxels, affine(steps, *turns)), path)
            found.setdefault(name, []).append(path)
    return found


def configurations(configs: Path) -> Iterator[Path]:
    yield from sorted(p for p in configs.glob("inference*") if p.suffix in (".json", ".yaml", ".yml"))


def shortened(path: Path) -> dict[str, Any]:
    """Write a configuration for the processor with windows of LARGEST at most, and return it."""
    text = path.read_text(encoding="utf-8").replace("torch.device('cuda')", "torch.device('cpu')")
    config = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    roi = config.get("inferer", {}).get("roi_size")
    if isinstance(roi, list):
        config["inferer"]["roi_size"] = [min(n, LARGEST) for n in roi]
    text = json.dumps(config) if path.suffix == ".json" else yaml.safe_dump(config, sort_keys=False)
    path.write_text(text, encoding="utf-8")
    return config


def searched(config: dict[str, Any], folder: Path) -> None:
    """Draw the code of a DiNTS's architecture where the configuration wants one: each level goes on, a third crosses.

    Of the edges of a block the first lead to the first level, from it and from the one below, and so on.
    """
    space, path = config.get("dints_space"), str(config.get("arch_ckpt_path"))
    file = folder / "models" / path.rpartition("/models/")[2].rstrip("'")
    if not isinstance(space, dict) or file.exists():
        return
    blocks, depths = space["num_blocks"], space["num_depths"]
    straight = [
        source == level for level in range(depths) for source in range(level - 1, level + 2) if 0 <= source < depths
    ]
    rng = np.random.default_rng(1)
    opened = np.maximum(np.array(straight, int), rng.random((blocks, len(straight))) < 1 / 3)
    code = {"arch_code_a": opened, "arch_code_c": rng.integers(0, 5, opened.shape)}
    torch.save({**code, "node_a": np.ones((blocks + 1, depths), int)}, file)


class Theirs:
    """A bundle in MONAI: its network with seeded weights, and its way from files to labels."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        sys.path.insert(0, str(folder))  # its own scripts, where it has some
        for name in [n for n in sys.modules if n.partition(".")[0] == "scripts"]:
            del sys.modules[name]
        os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"  # codes of architectures are arrays of NumPy
        self.parser = ConfigParser(dict(config))
        self.parser.update({"bundle_root": str(folder), "device": "$torch.device('cpu')"})
        for name in ("preprocessing", "preprocessing_transforms"):
            for item in self._transforms(name):
                if item.get("reader") == "ITKReader":
                    item.pop("reader")
        for item in self._transforms("postprocessing"):
            if str(item.get("_target_", "")).startswith("SaveImage"):
                item["_disabled_"] = True
        network = self.parser.config.get("network_def")
        if isinstance(network, dict) and "img_size" not in signature(monai.networks.nets.SwinUNETR).parameters:
            network.pop("img_size", None)  # which MONAI 1.5 took away
        torch.manual_seed(0)
        self.network = self.parser.get_parsed_content("network").eval()
        self.before = self.parser.get_parsed_content("preprocessing")
        self.inferer = self.parser.get_parsed_content("inferer")
        self.after = self.parser.get_parsed_content("postprocessing")

    def _transforms(self, name: str) -> list[dict[str, Any]]:
        found = self.parser.config.get(name, [])
        found = found.get("transforms", []) if isinstance(found, dict) else found
        return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []

    def channels(self) -> int:
        """That the scans have: those of the network, of which DeepEdit's are a person's clicks but for the first."""
        network = self.parser.config.get("network_def")
        if "number_intensity_ch" in self.parser.config:
            return int(self.parser.config["number_intensity_ch"])
        if isinstance(network, dict) and "in_channels" in network:
            return int(self.parser.get_parsed_content("network_def::in_channels"))
        return int(next(m.in_channels for m in self.network.modules() if hasattr(m, "in_channels")))

    def steps(self) -> list[float]:
        """Of scans that need some resampling, mm."""
        for item in self._transforms("preprocessing"):
            if str(item.get("_target_", "")).startswith("Spacing"):
                wanted = ConfigParser(dict(self.parser.config)).get_parsed_content("preprocessing")
                found = next(t for t in wanted.transforms if hasattr(t, "spacing_transform"))
                return [float(a * b) for a, b in zip(found.spacing_transform.pixdim, SHARES, strict=True)]
        return list(STEPS)

    def logits(self, files: list[Path]) -> tuple[dict[str, Any], torch.Tensor]:
        loaded = self.before.transforms[0]
        keys = list(getattr(loaded, "keys", ["image"]))
        named = {key: str(files[i % len(files)]) for i, key in enumerate(keys)}
        if len(keys) == 1:
            named = {keys[0]: [str(f) for f in files] if len(files) > 1 else str(files[0])}
        data = self.before(named)
        with torch.no_grad():
            return data, self.inferer(data["image"][None].float(), self.network)

    def balance(self, files: list[Path]) -> None:
        """Make the last convolution's answers as wide as a trained network's, and no class likelier than the others."""
        logits = torch.as_tensor(np.asarray(self.logits(files)[1]))
        convolutions = [m for m in self.network.modules() if getattr(m, "out_channels", None) == logits.shape[1]]
        last = [m for m in convolutions if getattr(m, "bias", None) is not None][-1]
        wider = WIDTH / logits.std()
        with torch.no_grad():
            last.weight *= wider
            last.bias.copy_(last.bias * wider - wider * logits.mean(dim=[0, 2, 3, 4]))

    def labels(self, files: list[Path]) -> np.ndarray:
        data, logits = self.logits(files)
        found = self.after({**data, "pred": logits[0]})["pred"]
        return np.asarray(found)[0].round().astype(int).transpose(2, 1, 0)


def ours(model: Path, files: list[Path]) -> np.ndarray:
    card = library.read_card(model)
    opened = open_engine(card, engine="torch", device="cpu")
    job = Job(card, opened, Destination(None), Options(faithful=True))
    loaded = Loaded(Case("scan", tuple(files), files[0].parent), formats.read(files), {}, {})
    return label(job, loaded).result.labels.data[0]


def agreement(a: np.ndarray, b: np.ndarray) -> float:
    labelled = (a > 0) | (b > 0)
    return float((a == b)[labelled].mean()) if labelled.any() else 1.0


def said(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__


def row(source: Path, config: Path, home: Path) -> list[str]:
    """Bundle, whether it was imported, and the two shares, or why there is none."""
    name = f"{source.name} {config.stem.removeprefix('inference').lstrip('_')}".strip()
    folder = home / "bundle"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder, copy_function=shutil.copyfile)
    (folder / "models").mkdir(exist_ok=True)
    try:
        changed = shortened(folder / "configs" / config.name)
        searched(changed, folder)
        theirs = Theirs(folder, changed)
        channels = theirs.channels()
        files = scans(home, channels, theirs.steps())
        theirs.balance(files["upright"])
    except Exception as error:  # whatever a bundle's own code raises
        return [name, "not tried", f"MONAI: {said(error)}", ""]
    torch.save(theirs.network.state_dict(), folder / "models" / _weights(config))
    try:
        model = imports.adopt(
            folder,
            to=home,
            name="ours",
            replace=True,
            wanted=imports.WhichModel(config=config.name),
            tell=lambda _: None,
        )
    except SegcliError as error:
        return [name, "no", said(error), ""]
    try:
        expected = [theirs.labels(f) for f in files.values()]
    except Exception as error:  # a package that MONAI uses there is missing, say
        return [name, "yes", f"MONAI: {said(error)}", ""]
    found = [ours(model, f) for f in files.values()]
    return [name, "yes", *(f"{agreement(a, b):.4%}" for a, b in zip(expected, found, strict=True))]


def _weights(config: Path) -> str:
    """The name of the file of weights that a configuration loads."""
    word = config.read_text(encoding="utf-8").partition("load_path")[2].partition("/models/")[2]
    name = word.split("'")[0].split('"')[0]
    return name if name.endswith((".pt", ".pth")) else "model.pt"


def main() -> int:
    folder, wanted = Path(sys.argv[1]), sys.argv[2:]
    print(f"MONAI {monai.__version__}; bundle | imported | upright | oblique")
    low = False
    for source in sorted(p for p in folder.iterdir() if (p / "configs").is_dir()):
        if wanted and source.name not in wanted:
            continue
        for config in configurations(source / "configs"):
            with tempfile.TemporaryDirectory() as home:
                found = row(source, config, Path(home))
            print(" | ".join(found), flush=True)
            low |= any(float(share[:-1]) < 100 * ENOUGH for share in found[2:] if share.endswith("%"))
    return int(low)


if __name__ == "__main__":
    sys.exit(main())
