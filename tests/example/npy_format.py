"""A NumPy array with its affine in a JSON file beside it."""

import json

import numpy as np

from segcli.errors import InputMissing
from segcli.formats.table import Format
from segcli.space.volume import Grid, Source, Volume


def read(path, wanted):
    beside = path.with_suffix(".json")
    if not beside.exists():
        raise InputMissing(f"{path.name}: its grid, {beside.name}, was not found beside it")
    grid = Grid(np.load(path, mmap_mode="r").shape, json.loads(beside.read_text())["affine"])
    wanted.seen(grid)
    return Volume(np.load(path)[None], grid, Source((path,), "npy", facts={"format": "NumPy"}))


FORMAT = Format(
    "NumPy",
    (".npy",),
    lambda path, head: head.startswith(b"\x93NUMPY"),
    read,
    lambda path: [path, path.with_suffix(".json")],
)
