"""A model that takes the name of another one, while other programs put things into the same folder."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from ct_facts import CONTAINERS, FACTS
from models import organs

from segcli.engines.export.folder import export_folder
from segcli.engines.export.verified import export_onnx
from segcli.errors import ModelError, OutputExists
from segcli.formats import atomic
from segcli.models import imports
from segcli.models.imports import written
from segcli.models.library import find


def _comes_late(monkeypatch: pytest.MonkeyPatch, come: Callable[[], object], *, in_one_step: bool) -> None:
    """`come` happens when the last look at the folder is over and the next call gives it its name."""
    real, waiting = written.exchange, [come]

    def exchange(one: Path, other: Path) -> bool:
        while waiting:
            waiting.pop()()
        return in_one_step and real(one, other)

    monkeypatch.setattr(written, "exchange", exchange)


@pytest.mark.parametrize("in_one_step", [True, False])
def test_what_comes_into_a_models_folder_at_the_last_moment_stays_where_it_was_put(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_one_step: bool
) -> None:
    path = CONTAINERS / "tiny_segresnet_raw.pth"
    folder = imports.adopt(path, to=tmp_path, name="m", given=FACTS)
    _comes_late(monkeypatch, lambda: (folder / "thesis.txt").write_text("years"), in_one_step=in_one_step)
    with pytest.raises(OutputExists, match=r"holds thesis\.txt"):
        imports.adopt(path, to=tmp_path, name="m", given=FACTS, replace=True)
    assert (folder / "thesis.txt").read_text() == "years"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m"]
    assert imports.verify(folder).name == "m"


@pytest.mark.parametrize("in_one_step", [True, False])
def test_what_comes_into_a_model_while_it_is_taken_away_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_one_step: bool
) -> None:
    path = CONTAINERS / "tiny_segresnet_raw.pth"
    imports.adopt(path, to=tmp_path, name="m", given=FACTS)
    real = written._still_a_model

    def look(gone: Path, folder: Path) -> None:
        real(gone, folder)
        (gone / "thesis.txt").write_text("years")  # by a program that had the folder open

    monkeypatch.setattr(written, "_still_a_model", look)
    if not in_one_step:
        monkeypatch.setattr(written, "exchange", lambda one, other: False)
    imports.adopt(path, to=tmp_path, name="m", given=FACTS, replace=True)
    assert [p.read_text() for p in tmp_path.rglob("thesis.txt")] == ["years"]
    assert imports.verify(tmp_path / "m").name == "m"


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_takes_the_name_of_a_new_model_at_the_last_moment_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    folder, real = tmp_path / "m", written.unclaimed
    looked = []

    def late(path: Path, *, replace: bool) -> None:
        real(path, replace=replace)
        looked.append(path)
        if len(looked) == 2:  # before anything was made, and when all is made
            {"file": folder.touch, "folder": folder.mkdir, "link": lambda: folder.symlink_to("nowhere")}[kind]()

    monkeypatch.setattr(written, "unclaimed", late)
    with pytest.raises(OutputExists, match="is there already"):
        imports.adopt(CONTAINERS / "tiny_segresnet_raw.pth", to=tmp_path, name="m", given=FACTS)
    assert [p.name for p in tmp_path.iterdir()] == ["m"]
    assert not folder.is_dir() or list(folder.iterdir()) == []


def test_the_names_of_a_card_lead_to_no_file_outside_its_folder(tmp_path: Path) -> None:
    thesis = tmp_path / "thesis.txt"
    thesis.write_text("years")
    path = CONTAINERS / "tiny_segresnet_raw.pth"
    folder = imports.adopt(path, to=tmp_path, name="m", given=FACTS)
    for names in (["../thesis.txt", str(thesis)], "../thesis.txt"):
        document = json.loads((folder / "model.json").read_text())
        (folder / "model.json").write_text(json.dumps({**document, "weights": names, "onnx": str(thesis)}))
        (folder / "weights.safetensors").unlink(missing_ok=True)
        imports.adopt(path, to=tmp_path, name="m", given=FACTS, replace=True)
    assert thesis.read_text() == "years"
    assert imports.verify(folder).name == "m"


def test_a_refusal_of_what_was_made_names_the_file_that_it_was_made_of(tmp_path: Path) -> None:
    import torch

    tensors = torch.load(CONTAINERS / "tiny_segresnet_raw.pth", weights_only=True)
    torch.save({name: tensor.int() for name, tensor in tensors.items()}, tmp_path / "whole.pth")
    with pytest.raises(ModelError, match=r"^whole\.pth: .* holds values of the type int32, not weights"):
        imports.adopt(tmp_path / "whole.pth", to=tmp_path / "out", name="m", given=FACTS)
    assert not list((tmp_path / "out").iterdir())


def test_an_exported_model_gives_way_with_all_its_files(tmp_path: Path) -> None:
    soft, hard = (organs(tmp_path / name, name=name, onnx=False) for name in ("soft", "hard"))
    own = {k: v for k, v in json.loads((soft / "model.json").read_text()).items() if k not in ("weights", "sha256")}
    whole = {**own, "name": "m", "architecture": {"name": "parts"}, "parts": ["soft", "hard"]}
    (tmp_path / "both").mkdir()
    (tmp_path / "both" / "model.json").write_text(json.dumps(whole))
    made = export_folder(find(str(tmp_path / "both")), tmp_path / "out" / "m", export_onnx)
    assert sorted(made) == ["hard.onnx", "soft.onnx"]
    assert hard.is_dir()
    imports.adopt(CONTAINERS / "tiny_segresnet_raw.pth", to=tmp_path / "out", name="m", given=FACTS, replace=True)
    assert sorted(p.name for p in (tmp_path / "out").rglob("*")) == ["m", "model.json", "weights.safetensors"]


def test_2_3_what_a_killed_export_left_goes_with_the_next_one_and_graphs_of_others_stay(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    model, out = find(str(organs(tmp_path / "organs", onnx=False))), tmp_path / "out"

    def folder() -> Path:
        """One that the dead process could have made."""
        return out / atomic.partial_name("m").replace(f"-{os.getpid()}-", f"-{ended.pid}-")

    left, theirs = folder(), folder()
    (left / "rough").mkdir(parents=True)
    for place in (left, left / "rough"):
        export_onnx(model, place / "organs.onnx")
    theirs.mkdir()
    (theirs / "thesis.onnx").write_bytes(b"\x08\x08")
    with written.whole_folder(out / "n", replace=False):
        pass
    assert sorted(p.name for p in out.iterdir()) == sorted([theirs.name, "n"])
    assert (theirs / "thesis.onnx").exists()
