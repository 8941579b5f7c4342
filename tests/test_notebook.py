"""A notebook that uses segcli as its users do, run from start to end in a kernel of its own."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from models import organs

nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
pytest.importorskip("ipykernel", reason="ipykernel is not installed")

CELLS = (
    """import numpy as np
import segcli
hu = np.full((20, 18, 16), -1000, np.int16)
hu[5:15, 4:14, 3:13] = 40
hu[6:8, 5:8, 4:8] = 150""",
    """model = segcli.load("organs", engine="onnx", precision="float32")
model""",
    """result = model.segment(hu, affine=np.diag([3.0, 3.0, 3.0, 1.0]), keep_islands=True)
result""",
    """print(result.verdict, result.volumes_ml["body"], result.labels.shape)
assert result.mask("liver").sum() == 24""",
    """[(row["name"], row["volume_ml"]) for row in result.rows][0]""",
    """[path.name for path in result.save("out", report=["csv", "html"])]""",
)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_notebook_runs_from_start_to_end_and_shows_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    organs(tmp_path / "organs")
    kernel = tmp_path / "jupyter" / "kernels" / "here"
    kernel.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(json.dumps({"argv": command, "display_name": "here", "language": "python"}))
    for name, place in (("JUPYTER_PATH", "jupyter"), ("IPYTHONDIR", "ipython"), ("JUPYTER_RUNTIME_DIR", "run")):
        monkeypatch.setenv(name, str(tmp_path / place))
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    nbclient.NotebookClient(
        book, timeout=120, kernel_name="here", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    shown = [cell.outputs[-1] if cell.outputs else None for cell in book.cells]
    assert shown[0] is None
    assert shown[1].data["text/plain"] == "<Model organs on onnxruntime cpu: 5 structures>"
    assert "image/png" in shown[2].data
    assert shown[2].data["text/plain"].startswith("<Result ")
    assert shown[3].text.endswith("(20, 18, 16)\n")
    assert shown[4].data["text/plain"].startswith("('body', ")
    assert (tmp_path / "out").is_dir()
    assert sum(name.endswith((".html", ".csv")) for name in eval(shown[5].data["text/plain"])) == 2
