"""One table of formats: a format is added in one file, in segcli's own folder or in an installed package."""

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from dicom_phantom import series
from models import organs
from packages import example
from runs import command, files, scan

from segcli import formats
from segcli.formats import table
from segcli.space.volume import Grid, Volume

GRID = Grid((3, 4, 5), np.diag([4.0, 3, 2, 1]))


def array(path: Path, volume: Volume) -> Path:
    """A volume in the package's format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, volume.data[0])
    path.with_suffix(".json").write_text(json.dumps({"affine": volume.grid.affine.tolist()}))
    return path


@pytest.mark.slow
def test_a_format_of_an_installed_package_is_read_by_every_command(tmp_path: Path) -> None:
    env = example(tmp_path / "site")
    model = organs(tmp_path / "model")
    known = scan(tmp_path / "known" / "x.nii.gz")
    array(tmp_path / "in" / "x.npy", formats.read([known]))

    told = json.loads(command("info", "in/x.npy", "--model", model, "--json", env=env, cwd=tmp_path).stdout)
    assert told["grid"] == json.loads(command("info", known, "--model", model, "--json").stdout)["grid"]
    assert told["source"] == {"format": "NumPy"}

    words = ("--model", model, "--engine", "onnx")
    for where in ("in/x.npy", "known"):
        done = command("predict", where, "-o", f"out/{Path(where).parts[0]}", *words, env=env, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    mine, theirs = (formats.read([tmp_path / "out" / name / "x_seg.nii.gz"]) for name in ("in", "known"))
    assert np.array_equal(mine.data, theirs.data)
    assert mine.grid.same_as(theirs.grid)

    array(tmp_path / "truth" / "x.npy", theirs)
    done = command("evaluate", "out/in", "truth", "--json", env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {row["dice"] for row in json.loads(done.stdout)["scores"]} == {1.0}


@pytest.mark.slow
def test_a_folder_is_searched_for_the_endings_of_installed_formats_too(tmp_path: Path) -> None:
    env = example(tmp_path / "site")
    array(tmp_path / "in" / "deep" / "a.npy", Volume(np.zeros((1, 3, 4, 5), np.float32), GRID))
    words = ("--model", organs(tmp_path / "model"), "--engine", "onnx")
    done = command("predict", "in", "-o", "out", *words, env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "deep/a_seg.nii.gz" in files(tmp_path / "out")
    assert command("predict", "in", "-o", "out2", *words, cwd=tmp_path).returncode == 66


def test_the_other_half_of_a_scan_in_such_a_format_counts_for_its_hash(tmp_path: Path) -> None:
    env = example(tmp_path / "site")
    path = array(tmp_path / "a.npy", Volume(np.zeros((1, 3, 4, 5), np.float32), GRID))
    code = f"from segcli import formats; from pathlib import Path; print(len(formats.files_of(Path({str(path)!r}))))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.strip() == "2"


def test_a_module_of_the_folder_that_declares_a_format_is_in_the_table() -> None:
    folder = Path(formats.__file__).parent
    rooms = [p for p in folder.rglob("*.py") if " Format(" in p.read_text() and p.name != "table.py"]
    declared = sum(p.read_text().count(" = Format(") for p in rooms)
    assert len(table.known()) == declared == 5


def test_every_ending_that_is_written_is_one_of_a_scan_and_is_read_again(tmp_path: Path) -> None:
    labels = Volume(np.arange(60, dtype=np.uint8).reshape(1, 3, 4, 5), GRID)
    assert set(table.written()) == {".nii.gz", ".nii", ".nrrd", ".mha", ".mgz", ".mgh"}
    for ending in table.written():
        assert ending in table.endings()
        path = formats.write(labels, [], tmp_path / f"a{ending}")
        assert np.array_equal(formats.read([path]).data, labels.data)
        assert formats.ending_of(path) == ending


def test_a_scan_without_a_name_gets_the_ending_of_its_content(tmp_path: Path) -> None:
    def unnamed(content: bytes) -> str:
        (tmp_path / "stdin").write_bytes(content)
        return formats.ending_of(tmp_path / "stdin")

    folder = series(tmp_path / "ct")
    slice_of_one: Callable[[], bytes] = next(folder.iterdir()).read_bytes
    assert unnamed(gzip.compress(b"not an image")) == ""
    assert unnamed(b"ObjectType = Image\n") == ".mha"
    assert unnamed(b"\x93NUMPY") == ""
    assert unnamed(slice_of_one()) == ""


def test_the_longest_ending_is_taken_from_a_name() -> None:
    names = ("a.nii.gz", "a.b.NII.GZ", "a.hdr", "a.nhdr", "a.MHA", "a.mgz", "a.img", "a.gz", ".nii.gz")
    assert [table.stem(Path(n)) for n in names] == ["a", "a.b", "a", "a", "a", "a", "a.img", "a.gz", ".nii.gz"]


def test_a_pair_with_packed_voxels_is_one_label_map_of_a_folder(tmp_path: Path) -> None:
    from scan_files import nifti_bytes

    from segcli.results.pairing import pair_folders

    header, voxels = nifti_bytes(pair=True)
    for folder in ("pred", "ref"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.hdr").write_bytes(header)
        (tmp_path / folder / "a.img.gz").write_bytes(gzip.compress(voxels))
    pairs, alone = pair_folders(tmp_path / "pred", tmp_path / "ref")
    assert [name for name, *_ in pairs] == ["a"]
    assert alone == []
