"""segcli from Python does what the command does."""

import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from models import organs

import segcli


def scan(folder: Path) -> Path:
    hu = np.full((20, 18, 16), -1000, np.int16)
    hu[5:15, 4:14, 3:13] = 40
    path = folder / "scan.nii.gz"
    image = nibabel.Nifti1Image(hu, np.diag([3.0, 3.0, 3.0, 1.0]))
    image.set_qform(image.affine, 1)
    image.set_sform(image.affine, 1)
    nibabel.save(image, path)
    return path


def test_a_path_becomes_labels_volumes_and_a_file(tmp_path: Path) -> None:
    result = segcli.segment(scan(tmp_path), model=str(organs(tmp_path / "organs")), engine="onnx")
    assert result.labels.data.shape == (1, 16, 18, 20)
    assert result.volumes_ml["body"] == pytest.approx(27.0)  # 10 x 10 x 10 voxels of 27 mm3
    saved = nibabel.load(result.save(tmp_path / "labels.nii.gz"))
    assert np.array_equal(np.asarray(saved.dataobj).transpose(2, 1, 0), result.labels.data[0])


def test_a_volume_in_memory_gives_the_same_labels_as_its_file(tmp_path: Path) -> None:
    from segcli import formats

    model = str(organs(tmp_path / "organs"))
    path = scan(tmp_path)
    read = formats.read([path])
    assert np.array_equal(
        segcli.segment(read, model, engine="onnx").labels.data, segcli.segment(path, model, engine="onnx").labels.data
    )


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'segmnt'"):
        _ = segcli.segmnt


def test_importing_segcli_changes_nothing_and_what_an_engine_needs_is_undone(tmp_path: Path) -> None:
    program = f"""
import os, sys, types
before, modules = dict(os.environ), {{name for name, module in sys.modules.items() if module is None}}
import segcli
assert dict(os.environ) == before
for engine in ("openvino", "onnx"):
    segcli.segment({str(scan(tmp_path))!r}, {str(organs(tmp_path / "organs"))!r}, engine=engine)
assert dict(os.environ) == before
assert {{name for name, module in sys.modules.items() if module is None}} == modules
assert "openvino.tools.ovc" not in sys.modules
sys.modules["openvino.tools.ovc"] = types.SimpleNamespace(convert_model="the converter")
import openvino
from openvino import convert_model
assert openvino.convert_model == convert_model == "the converter"
assert not hasattr(openvino, "convert_modle")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stderr
