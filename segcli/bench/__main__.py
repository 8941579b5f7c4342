"""python -m segcli.bench [PART ...] [--threads N] [--json FILE] [--plots FOLDER]: tables on stdout, plots as PNG.
python -m segcli.bench compare old.json new.json: what moved between two such files.

start     processes that only begin, and the first finished window of the default model
network   one window of 96^3 voxels of a 3D UX-Net with 16 and with 48 features in each CPU engine; share of the
          machine's float32 matrix product
certificates
          every network exported, its logits and labels in each engine beside torch's
peers     a CT of 96x300x300 voxels to 1.5 mm and back, 14 classes: segcli, MONAI's script (with its crop), nnU-Net's
          predictor (without crop and mirroring), equal weights and windows; peers that are not installed are left out
total     a CT of 96x240x240 voxels, with --full of 192x400x400, by TotalSegmentator's five networks in their true size
          with drawn weights: segcli, and TotalSegmentator, which has to be on the path; not among the parts that run
          when none is named
big       a CT of 200 slices of 512 x 512 voxels, with --full of 1600, and 118 classes under --max-ram 4G
decide    labels of 64 columns, with --full of 512, of a CT of 400 slices of 512 x 512 voxels, from logits of 14 and of
          118 classes: with one thread, two, four, ... up to --threads
scaling   all but the network against slices and classes; the network against windows and threads

Under the title of each table stands what its columns mean. Compare lines of one run only: times move with what else the
machine does.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from segcli.bench import deciding, material, peers, stages, total
from segcli.bench.certificates import certificates
from segcli.bench.results import Results, Row, compare
from segcli.engines.precision import native_bfloat16
from segcli.errors import OutputExists
from segcli.formats.atomic import write_bytes
from segcli.parallel import cores

Curves = dict[str, list[tuple[float, float]]]
PARTS = ("start", "network", "certificates", "peers", "total", "big", "decide", "scaling")
ALONE = ("total",)  # run when they are named, for they need another program
SHAPE = (96, 300, 300)


def main(words: Sequence[str] | None = None) -> None:
    """Run the parts that were named, all but those of ALONE when none was; or compare two files of results."""
    words = sys.argv[1:] if words is None else words
    if words[:1] == ["compare"]:
        compare(words[1:])
        return
    parser = argparse.ArgumentParser("segcli.bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--json", type=Path, help="a file for all tables, which `compare` reads")
    parser.add_argument("--plots", type=Path, help="folder for scaling.png (needs matplotlib)")
    parser.add_argument("--full", action="store_true", help="the long versions of parts that have one")
    parser.add_argument("--work", type=Path, help="folder for scans and models that a later run uses again")
    given = parser.parse_args(words)
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"no part is called {min(unknown)!r}; there are {', '.join(PARTS)}")
    if given.plots is not None and not find_spec("matplotlib"):
        parser.error("--plots needs matplotlib: pip install 'segcli[bench]'")
    try:
        results = Results(given.json, given.threads)
    except OutputExists as error:
        parser.error(error.message)
    with tempfile.TemporaryDirectory(prefix="segcli-bench-") as temporary:
        folder = given.work or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for part in given.parts or [one for one in PARTS if one not in ALONE]:
            if part == "start":
                results.table(part, stages.start(folder, given.threads))
            elif part == "network":
                for features in (material.SMALL, material.OFFICIAL):
                    card = material.model(folder, 14, features=features)
                    results.table(part, stages.network(card, given.threads), f"{part}: {features} features")
            elif part == "certificates":
                results.table(part, certificates(folder))
            elif part == "big":
                results.table(part, [stages.big(folder, given.threads, 1600 if given.full else 200)])
            elif part == "decide":
                results.table(part, deciding.table(given.threads, 512 if given.full else 64))
            elif part == "total":
                results.table(part, total.compare(folder, given.threads, given.full))
            elif part == "peers":
                beside_peers(folder, given.threads, results)
            else:
                curves = stages.scaling(folder, given.threads, given.full)
                results.table(part, points(curves))
                if given.plots is not None:
                    plot(curves, given.plots)


def beside_peers(folder: Path, threads: int, results: Results) -> None:
    """segcli beside MONAI with the crop, and beside nnU-Net without; in bfloat16 too, by a processor that has it."""
    scan = material.scan(folder, SHAPE)
    kinds = [(kind, "float32") for kind in ("openvino", "onnx", "torch")]
    if native_bfloat16():
        kinds += [(kind, "bfloat16") for kind in ("openvino", "torch")]
    here = peers.installed()
    for peer, crop, blend in (("monai", True, "constant"), ("nnunet", False, "gaussian")):
        card = material.model(folder, 14, crop=crop, blend=blend)
        rows = [
            stages.whole(
                scan, card, folder / "out", threads, kind, "--precision", precision, title=f"{kind} {precision}"
            )
            for kind, precision in kinds
        ]
        if peer in here:
            rows.append(stages.peer(peer, scan, card, threads))
            last = rows[-1]
            for row in rows:
                row["ratio"] = last["seconds"] / row["seconds"]
                row["memory"] = row["peak_mb"] / last["peak_mb"]
        results.table("peers", rows, f"peers: {peer if peer in here else f'{peer} is not installed'}")


def points(curves: Curves) -> list[Row]:
    """A row for each point: what was held against, how many, and the seconds."""
    return [{"against": f"{name} {x:g}", "seconds": y} for name, curve in curves.items() for x, y in curve]


def plot(curves: Curves, folder: Path) -> None:
    """Every curve in one picture, scaling.png, from zero on, ticks at what was measured; in proportion is dashed."""
    import matplotlib  # type: ignore[import-not-found,unused-ignore]

    matplotlib.use("agg")
    from matplotlib import pyplot  # type: ignore[import-not-found,unused-ignore]

    titles = {
        "slices": "all but the network\n192 x 192 voxels a slice, 14 classes",
        "classes": "all but the network\n64 slices of 192 x 192 voxels",
        "windows": "the network\nwindows of 96 x 96 x 96 voxels, all threads",
        "threads": "the network\none window of 96 x 96 x 96 voxels",
    }
    figure, axes = pyplot.subplots(1, len(curves), figsize=(4 * len(curves), 3.4), layout="constrained")
    for axis, (name, points) in zip(axes, curves.items(), strict=True):
        across, seconds = zip(*points, strict=True)
        ideal = [seconds[-1] * x / across[-1] for x in across]
        if name == "threads":
            ideal = [seconds[0] / x for x in across]
        axis.plot(across, ideal, "--", color="0.6", label="in proportion")
        axis.plot(across, seconds, marker="o", label="measured")
        axis.legend(frameon=False, fontsize=8, loc="lower left" if name == "threads" else "upper left")
        axis.set_title(titles[name], fontsize=9)
        axis.set(xlabel=name, ylabel="seconds", xlim=(0, 1.08 * max(across)), ylim=(0, 1.12 * max(seconds)))
        axis.set_xticks(across, [f"{x:g}" for x in across], rotation=45, fontsize=8)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    write_bytes(folder / "scaling.png", picture.getvalue())
    pyplot.close(figure)


if __name__ == "__main__":
    main()
