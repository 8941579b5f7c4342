"""Windows that do not fit into memory are refused before the network runs on one, whatever runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from models import CARD, affine, onnx_file, organs
from runs import command, scan

from segcli.engines import room
from segcli.engines.choose import EngineName, open_engine
from segcli.errors import OutOfMemory
from segcli.models.card import parse
from segcli.models.library import find
from segcli.networks import registry

VAST = (512, 512, 512)
LEAST = 4 * (1 + 6) * 512**3  # of what goes in and comes out


def model(folder: Path, size: tuple[int, int, int], **changes: object) -> Path:
    """The small model with a graph of windows of its size."""
    organs(folder, patch_size=size, onnx_sha256=None, **changes)
    (folder / "model.onnx").write_bytes(onnx_file(*affine(), size))
    return folder


@pytest.mark.parametrize("engine", ["torch", "onnx", "openvino"])
def test_6_3_a_window_that_does_not_fit_is_refused_with_the_need_and_what_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: EngineName
) -> None:
    card = find(str(model(tmp_path / "vast", VAST)))
    monkeypatch.setattr(room, "available", lambda: 2 * 10**9)
    said = r"organs: its network takes 3.8 GB of memory for one window of 512 x 512 x 512 voxels \(patch_size\), 2.0 GB"
    with pytest.raises(OutOfMemory, match=said):
        open_engine(card, engine=engine)


@pytest.mark.slow
def test_6_3_it_is_refused_before_it_is_exported_and_by_the_command_within_a_moment(tmp_path: Path) -> None:
    folder = model(tmp_path / "vast", VAST, onnx=None)
    scan(tmp_path / "a.nii.gz")
    done = command("predict", tmp_path / "a.nii.gz", "-o", tmp_path / "out", "-m", folder, "--max-ram", "2G")
    assert done.returncode == 71
    assert b"its network takes 3.8 GB of memory for one window" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("size", [(8192, 8, 8), (96, 96, 96), (1, 512, 512)])
def test_of_windows_that_are_not_vast_nothing_is_counted(monkeypatch: pytest.MonkeyPatch, size: Any) -> None:
    monkeypatch.setattr(room, "available", lambda: 8 * 10**9)
    room.refuse_too_large(parse({**CARD, "patch_size": size}), None, lambda: pytest.fail("counted"))


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(registry.small_networks()))
def test_every_network_has_a_need_for_a_window(family: str) -> None:
    """Of those with windows of one size, what goes in and comes out."""
    small = registry.small_networks()[family]
    flat = {"slice_axis": 0} if small.size[0] == 1 else {}
    labels = {"background": 0, "a": 1, "b": 2}
    own = {**CARD, "codes": {}, "labels": labels, "architecture": {"name": family, **small.all_arguments}}
    for size in (small.size, VAST if not flat else (1, 8192, 8192)):
        card = parse({**own, "patch_size": size, **flat})
        least = 4 * 4 * size[0] * size[1] * size[2]
        assert room.of_network(card) >= least


def test_the_need_of_a_graph_is_that_of_its_largest_operator() -> None:
    assert room.of_graph(onnx_file(*affine(), VAST), (1, *VAST)) == LEAST
