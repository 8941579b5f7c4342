"""segcli doctor: what this machine has, whether each engine really convolves, and whether weights are what shipped."""

from __future__ import annotations

import importlib.util
import platform
import time
from typing import TYPE_CHECKING

import typer

from segcli import __version__
from segcli.commands.options import Commands, Json
from segcli.commands.terminal import SCHEMA, print_facts, print_json, table
from segcli.documents import Document
from segcli.errors import EngineError, ModelError, cause_of
from segcli.packages import not_loaded, version_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from segcli.engines.table import Trial

commands = Commands("doctor")

LIBRARIES = (
    "torch", "numpy", "scipy", "SimpleITK", "pydicom", "pylibjpeg", "pylibjpeg-libjpeg", "pylibjpeg-openjpeg",
    "pyjpegls", "highdicom", "onnx", "protobuf", "onnxruntime", "openvino", "safetensors", "pyyaml", "msgspec",
    "platformdirs", "typer", "rich", "psutil", "pillow", "jinja2", "httpx", "truststore", "distributed",
)  # fmt: skip
SIZE = 24  # edge of the convolved cube, voxels


@commands.command()
def doctor(json: Json = False) -> None:
    """Run a small 3-D convolution on each engine, compare the sums of the weights that ship; versions, cores, memory.

    Ends with 78 where a file of weights is not what its card states, with 69 where no engine works or a library that
    segcli cannot do without is missing.
    """
    try:
        found = diagnosis()
    except Exception as error:
        if not_loaded("", error) is not None:  # a library that segcli cannot do without: which ones there are is told
            _say_libraries(json)
        raise
    if json:
        print_json({"schema": SCHEMA, **found})
    else:
        print_facts(found["machine"])
        table("engines", [{**row, "seconds": row["seconds"] if row["works"] else None} for row in found["engines"]])
        table("weights", found["weights"])
        _say_libraries(json)
    if not all(w["right"] for w in found["weights"]):
        raise typer.Exit(ModelError.exit_code)
    if not any(e["works"] for e in found["engines"]):
        raise typer.Exit(EngineError.exit_code)


def _say_libraries(json: bool) -> None:
    """The versions of the libraries alone."""
    found = libraries()
    if json:
        print_json({"schema": SCHEMA, "libraries": found})
    else:
        table("libraries", [{"name": name, "version": version} for name, version in found.items()])


def libraries() -> dict[str, str | None]:
    """The version of each library that segcli uses, None where it is not installed."""
    return {name: _version(name) for name in LIBRARIES}


def diagnosis() -> Document:
    """machine: facts; engines: one row each with `works` and why not; weights: files; libraries: versions or None."""
    from segcli.engines.table import engines
    from segcli.models.library import cache_home, places
    from segcli.parallel import cores

    return {
        "machine": {
            "segcli": __version__,
            "python": platform.python_version(),
            "system": platform.platform(terse=True),
            "cores": cores(),
            "memory": _memory(),
            "models": ", ".join(str(p) for p in places()),
            "cache": str(cache_home()),
        },
        "engines": [
            _tried(name, spec.library, trial, spec.notes.get(name, str))
            for spec in engines().values()
            for name, trial in spec.trials.items()
        ],
        "weights": _weights(),
        "libraries": libraries(),
    }


def _memory() -> str:
    """How much memory there is, how much of it is free where the system tells, and what a job's variables allow."""
    from segcli.memory import available, free_is_told, of_job, total

    whole, given = f"{total() / 2**30:.1f} GiB", of_job()
    job = "" if given is None else f"; SLURM's variables give the job {given / 2**30:.1f} GiB"
    if free_is_told():
        return f"{available() / 2**30:.1f} of {whole} free{job}"
    return f"{whole}; the system does not tell how much of it is free{job}"


def _weights() -> list[Document]:
    """A row for each file of weights that came with segcli: its sum, and whether its model's card states that one."""
    from itertools import zip_longest

    from segcli.models.card import part
    from segcli.models.library import file_sha256, read_card, shipped

    folders = sorted(path.parent for place in shipped() for path in place.glob("*/model.json"))
    rows: list[Document] = []
    for folder in folders:
        try:
            card = read_card(folder)
            stated = dict(zip_longest(card.weights, card.sha256, fillvalue=""))
            if card.onnx:
                stated[card.onnx] = card.onnx_sha256 or ""
            sums = {name: file_sha256(part(folder, name)) for name in stated}
        except ModelError as error:
            rows.append({"file": folder.name, "right": False, "sha256": "", "note": error.message})
            continue
        for name, found in sums.items():
            note = "" if found == stated[name] else f"its card states {stated[name] or 'no sum'}"
            rows.append({"file": f"{folder.name}/{name}", "right": not note, "sha256": found, "note": note})
    return rows


def _version(name: str) -> str | None:
    try:
        return version_of(name)
    except ImportError:
        return None


def _tried(name: str, library: str, convolve: Trial, note: Callable[[], str]) -> Document:
    """A 3 x 3 x 3 convolution of ones over a cube of ones: 27 inside, 8 at a corner."""
    import numpy as np

    row = {"engine": name, "works": False, "seconds": 0.0, "note": ""}
    if importlib.util.find_spec(library) is None:
        return {**row, "note": f"{library} is not installed"}
    start = time.perf_counter()
    try:
        out = convolve(np.ones((1, 1, SIZE, SIZE, SIZE), np.float32))
    except Exception as error:  # whatever a library raises is the finding here
        return {**row, "note": cause_of(error)}
    right = out.shape == (1, 1, SIZE, SIZE, SIZE) and out[0, 0, 5, 5, 5] == 27 and out[0, 0, 0, 0, 0] == 8
    seconds = round(time.perf_counter() - start, 2)
    said = note() if right else "computes a wrong convolution"
    return {**row, "works": bool(right), "seconds": seconds, "note": said}
