"""segcli from Python does what the command does."""

import doctest
import inspect
import json
import multiprocessing
import os
import pickle
import re
import shutil
import subprocess
import sys
import types
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import models
import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from models import organs
from runs import in_process

import segcli
import segcli.api
import segcli.api.model
import segcli.api.result
import segcli.space.volume
import segcli.structures
from segcli.api import Model, Result
from segcli.api.words import FLAGS, VALUED, said
from segcli.engines.opening import Opening

SAMPLE = Path(__file__).parent / "data" / "mni_icbm152" / "mni_icbm152_t1.nii.gz"
RAS = np.array([[-3.0, 0, 0, 30], [0, 3.0, 0, -20], [0, 0, 3.0, 7], [0, 0, 0, 1]])


def scan(folder: Path) -> Path:
    hu = np.full((20, 18, 16), -1000, np.int16)
    hu[5:15, 4:14, 3:13] = 40
    path = folder / "scan.nii.gz"
    image = nibabel.Nifti1Image(hu, np.diag([3.0, 3.0, 3.0, 1.0]))
    image.set_qform(image.affine, 1)
    image.set_sform(image.affine, 1)
    nibabel.save(image, path)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> segcli.Model:
    return segcli.load(organs(tmp_path_factory.mktemp("models") / "organs"), engine="onnx")


def cube(*, lopsided: bool = False) -> np.ndarray:
    """(i, j, k) Hounsfield units: a body in air."""
    hu = np.full((20, 18, 16), -1000, np.int16)
    hu[5:15, 4:14, 3:13] = 40
    if lopsided:
        hu[5:7, 4:6, 3:5] = 150
    return hu


def test_a_path_becomes_labels_volumes_and_files(tmp_path: Path) -> None:
    result = segcli.segment(scan(tmp_path), model=str(organs(tmp_path / "organs")), engine="onnx")
    assert result.labels.shape == (20, 18, 16)  # i, j, k, as nibabel has the file
    assert result.volumes_ml["body"] == pytest.approx(27.0)  # 10 x 10 x 10 voxels of 27 mm3
    labels, record = result.save(tmp_path / "labels.nii.gz")
    assert np.array_equal(np.asarray(nibabel.load(labels).dataobj), result.labels)
    assert json.loads(record.read_text())["structures"][0]["volume_ml"] == 27.0


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_threads_that_use_one_model_have_the_labels_of_one(tmp_path: Path, engine: str) -> None:
    model = segcli.load(organs(tmp_path / "organs"), engine=engine, device="cpu")
    scans = [np.roll(cube(lopsided=True), i, 0) for i in range(3)]
    wanted = [model.segment(scan, affine=RAS).labels for scan in scans]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda scan: model.segment(scan, affine=RAS).labels, scans * 3))
    assert all(np.array_equal(one, other) for one, other in zip(found, wanted * 3, strict=True))


def in_another_process(model: segcli.Model, hu: np.ndarray) -> segcli.Result:
    return model.segment(hu, affine=RAS, probabilities=True)


def test_a_model_and_its_results_cross_between_processes(tmp_path: Path, model: segcli.Model) -> None:
    here = model.segment(cube(lopsided=True), affine=RAS)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        there = pool.submit(in_another_process, model, cube(lopsided=True)).result()
    assert np.array_equal(there.labels, here.labels)
    assert there.record["structures"] == here.record["structures"]
    assert there.probabilities.shape == (6, 20, 18, 16)
    labels, _, page = there.save(tmp_path, report="html")
    assert np.array_equal(np.asarray(nibabel.load(labels).dataobj), here.labels)
    assert page.name == "scan_seg.html"


def test_a_model_is_loaded_once_for_all_the_tasks_of_another_process(model: segcli.Model) -> None:
    sent = pickle.dumps(model)
    assert pickle.loads(sent) is pickle.loads(sent)
    assert pickle.loads(sent).engine == model.engine


def test_a_process_keeps_one_model_whichever_way_it_was_asked_for(
    tmp_path: Path, model: segcli.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []
    opened = Opening.open
    monkeypatch.setattr(Opening, "open", lambda self, card: loaded.append(self) or opened(self, card))
    other = str(organs(tmp_path / "other"))
    segcli.segment(scan(tmp_path), model=other, engine=model.opening.engine)
    again = pickle.loads(pickle.dumps(segcli.load(other, engine=model.opening.engine)))
    again.segment(scan(tmp_path))
    assert [one.model for one in loaded] == [(other,), (other,)]  # of which `load` itself did one


@pytest.mark.parametrize("start", [segcli.load, lambda **how: segcli.segment("scan.nii.gz", **how)])
def test_no_model_and_no_thread_are_refused(start: Callable[..., object]) -> None:
    for wrong, text in (({"model": []}, r"model=\[\]: names no model"), ({"threads": 0}, "threads=0: is at least 1")):
        with pytest.raises(segcli.errors.UsageError, match=text):
            start(**wrong)


def test_one_scan_in_every_form_gives_the_same_labels_in_the_order_of_its_own_axes(
    tmp_path: Path, model: segcli.Model
) -> None:
    hu = cube(lopsided=True)
    image = nibabel.Nifti1Image(hu, RAS)
    path = tmp_path / "scan.nii.gz"
    nibabel.save(image, path)
    expected = model.segment(path).labels
    assert expected[5, 4, 3] == 2  # the liver's corner
    lps_kji = (np.diag([-1.0, -1, 1, 1]) @ RAS)[:, [2, 1, 0, 3]]
    assert np.array_equal(model.segment(image).labels, expected)
    assert np.array_equal(model.segment(nibabel.load(path)).labels, expected)
    assert np.array_equal(model.segment(hu, affine=RAS).labels, expected)
    assert np.array_equal(model.segment(hu.T, affine=lps_kji, space="LPS").labels, expected.T)
    assert np.array_equal(model.segment(sitk.ReadImage(str(path))).labels, expected.T)
    assert np.array_equal(model.segment(segcli.read(path)).labels, expected.T)


def test_labels_go_back_to_the_library_that_the_scan_came_from_on_its_very_grid(model: segcli.Model) -> None:
    image = sitk.GetImageFromArray(cube().T)
    turn = np.linalg.qr(np.array([[1.0, 0.2, 0.1], [0, 1, 0.3], [0.1, 0, 1]]))[0]
    image.SetSpacing((1.1, 2.3, 3.7))
    image.SetOrigin((-11.3, 5.7, 0.1))
    image.SetDirection(turn.reshape(-1).tolist())
    result = model.segment(image)
    back = result.to_sitk()
    geometry = (back.GetSize(), back.GetSpacing(), back.GetOrigin(), back.GetDirection())
    assert geometry == (image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())
    assert np.array_equal(sitk.GetArrayFromImage(back), result.labels)
    given = nibabel.Nifti1Image(cube(), RAS)
    given.set_sform(RAS, 4)
    given.set_qform(RAS, 1)
    labels = model.segment(given)
    made = labels.to_nibabel()
    assert np.allclose(made.affine, RAS)
    assert np.allclose(labels.affine, RAS)
    assert (int(made.header["sform_code"]), int(made.header["qform_code"])) == (4, 1)
    assert np.array_equal(np.asarray(made.dataobj), labels.labels)
    of_file = labels.to_sitk()
    ijk = (4, 7, 2)
    ras = RAS @ (*ijk, 1)
    assert of_file.TransformIndexToPhysicalPoint(ijk) == pytest.approx((-ras[0], -ras[1], ras[2]))


def test_a_scaled_image_of_nibabel_is_taken_as_its_file_is_read(tmp_path: Path, model: segcli.Model) -> None:
    image = nibabel.Nifti1Image(np.random.default_rng(1).normal(0, 300, (20, 18, 16)), RAS)
    image.set_data_dtype(np.int16)
    path = tmp_path / "scan.nii.gz"
    nibabel.save(image, path)  # with a slope and an intercept
    assert np.array_equal(model.segment(nibabel.load(path)).scan.data, model.segment(path).scan.data)


def test_the_record_is_that_of_the_command(tmp_path: Path, model: segcli.Model) -> None:
    from segcli.commands.app import app

    path = scan(tmp_path)
    result = model.segment(path, classes=["liver", "body"], min_size=0.5)
    command = ["predict", str(path), "-m", str(model.card.folder), "--engine", "onnx", "-o", str(tmp_path / "out")]
    with pytest.raises(SystemExit):
        app([*command, "--classes", "liver,body", "--min-size", "0.5", "-q"])
    written = json.loads((tmp_path / "out" / "scan_seg.json").read_text())
    for gone in ("labels", "extras", "run"):
        del written[gone]
    assert json.loads(json.dumps(result.record)) == written
    assert set(result.volumes_ml) == {"body", "liver"}
    assert (result.verdict, [f.sentence for f in result.checks]) == (
        written["verdict"],
        [c["sentence"] for c in written["checks"]],
    )


def test_masks_rows_probabilities_and_a_picture_of_a_result(model: segcli.Model) -> None:
    seen: list[tuple[int, int]] = []
    result = model.segment(
        cube(lopsided=True), affine=RAS, probabilities=True, progress=lambda done, total: seen.append((done, total))
    )
    assert result.mask("liver").sum() == 8
    assert result.mask("liver", "body").sum() == 1000
    assert [row["name"] for row in result.rows] == ["body", "liver", "spleen", "heart", "spine"]
    assert result.probabilities is not None
    assert result.probabilities.shape == (6, 20, 18, 16)
    assert np.array_equal(result.probabilities.argmax(axis=0)[result.mask("liver")], np.full(8, 2))
    assert seen[-1][0] == seen[-1][1] > 0
    assert result._repr_png_().startswith(b"\x89PNG")
    assert repr(result) == "<Result scan: organs, 2 of 5 structures, 27 mL, " + result.verdict + ">"
    assert repr(model) == "<Model organs on onnxruntime cpu: 5 structures>"


def test_a_structure_may_be_called_by_its_number(model: segcli.Model) -> None:
    result = model.segment(cube(), affine=RAS, classes=[1, "liver"])
    assert list(result.volumes_ml) == ["body", "liver"]
    assert np.array_equal(result.mask(1), result.mask("body"))


def test_models_are_averaged_as_the_command_averages_them(tmp_path: Path) -> None:
    names = [organs(tmp_path / name, name=name, ensemble_average="probabilities") for name in ("a", "b")]
    words = [word for name in names for word in ("--model", name)]
    run = in_process("predict", scan(tmp_path), *words, "--engine", "onnx", "-o", tmp_path / "out")
    assert run.returncode == 0, run.stderr
    (path,) = (tmp_path / "out").glob("*.json")
    said = json.loads(path.read_text())["options"]
    options = segcli.load(names, engine="onnx").segment(scan(tmp_path)).record["options"]
    assert json.loads(json.dumps(options)) == said
    assert said["average"] == "probabilities"
    options = segcli.load(names, engine="onnx").segment(scan(tmp_path), average="logits").record["options"]
    assert options["average"] == "logits"


# Options of predict that Python says in another way, and those that only a command in a shell needs.
OTHERWISE = {
    "output": "save(to)",
    "fast": "precision='fast'",
    "channel": "a list or {channel: path}",
    "fail_on": "result.verdict",
}
SHELL = {"help", "json", "quiet", "verbose", "events", "files_from", "0", "shard", "jobs", "scheduler"}


def test_every_option_of_predict_is_there_from_python() -> None:
    from typer.main import get_command

    from segcli.commands.app import app

    predict = get_command(app).commands["predict"]
    words = [max(p.opts, key=len) for p in predict.params]
    options = {word.lstrip("-").replace("-", "_") for word in words if word.startswith("-")}
    assert {"classes", "where", "average"} <= options
    places = (segcli.load, segcli.Model.segment, segcli.Model.segment_many, segcli.Result.save)
    there = {name for place in places for name in inspect.signature(place).parameters}
    assert options - there - SHELL == set(OTHERWISE)


def test_scans_of_a_folder_are_chosen_as_the_command_chooses_them(tmp_path: Path, model: segcli.Model) -> None:
    for name in ("sub-01_T1w", "sub-01_T2w", "sub-02_T1w"):
        shutil.copy(scan(tmp_path), (tmp_path / "in").mkdir(exist_ok=True) or tmp_path / "in" / f"{name}.nii.gz")

    def chosen(**how: object) -> list[str]:
        return [result.record["case"] for result in model.segment_many(tmp_path / "in", **how)]

    assert chosen(suffix="T1w", participant_label=["02"]) == ["sub-02_T1w"]
    assert chosen(exclude="*_T1w*") == ["sub-01_T2w"]
    assert chosen(include=["sub-01*"]) == ["sub-01_T1w", "sub-01_T2w"]
    with pytest.raises(segcli.errors.UsageError, match="of one folder"):
        list(model.segment_many([tmp_path / "in"], include="*"))
    with pytest.raises(segcli.errors.UsageError, match="is logits or probabilities"):
        model.segment(scan(tmp_path), average="mean")
    with pytest.raises(segcli.errors.UsageError, match="nothing to average with"):
        model.segment(scan(tmp_path), average="logits")


def test_a_table_is_a_data_frame_where_pandas_is_installed(
    model: segcli.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = model.segment(cube(), affine=RAS)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(segcli.errors.EngineError, match="pandas"):
        _ = result.table
    frame = types.SimpleNamespace(set_index=lambda name: ("indexed", name))
    monkeypatch.setitem(sys.modules, "pandas", types.SimpleNamespace(DataFrame=lambda rows: frame))
    assert result.table == ("indexed", "name")


@pytest.mark.parametrize(
    ("scan", "affine", "told"),
    [
        (None, None, "NoneType: is no scan"),
        ("", None, "an input has an empty name"),
        (np.zeros((4, 4, 4)), np.eye(3), r"an affine of shape \(3, 3\), where \(4, 4\) is expected"),
        (np.zeros((4, 4, 4, 2)), RAS, r"shape \(4, 4, 4, 2\), where three axes are expected"),
    ],
)
def test_what_is_no_scan_is_refused_in_plain_words(
    model: segcli.Model, scan: object, affine: object, told: str
) -> None:
    with pytest.raises(segcli.SegcliError, match=told):
        model.segment(scan, affine=affine)


def test_a_fourth_axis_of_one_voxel_is_none(model: segcli.Model) -> None:
    one, other = (model.segment(data, affine=RAS).labels for data in (cube(), cube()[..., None]))
    assert np.array_equal(one, other)


def test_what_a_folder_is_listed_as_names_a_scan(tmp_path: Path) -> None:
    """An entry of os.scandir is a path whose text is none: it was "no such file"."""
    scan(tmp_path)
    organs(tmp_path / "model")
    entries = {entry.name: entry for entry in os.scandir(tmp_path)}
    model, name = segcli.load(entries["model"], engine="onnx"), entries["scan.nii.gz"]
    for given in (name, [name], {"CT": name}):
        assert model.segment(given).labels.any()


def test_one_refused_scan_of_many_costs_no_other(tmp_path: Path, model: segcli.Model) -> None:
    good = scan(tmp_path)
    (tmp_path / "bad.nii.gz").write_bytes(b"no scan")
    refused: list[tuple[object, str]] = []
    results = model.segment_many(tmp_path, refused=lambda given, error: refused.append((given, str(error))))
    assert [r.volumes_ml["body"] for r in results] == [27.0]
    assert [given for given, _ in refused] == [tmp_path / "bad.nii.gz"]
    with pytest.raises(segcli.SegcliError, match=r"bad\.nii\.gz"):
        list(model.segment_many([good, tmp_path / "bad.nii.gz"]))


def test_saving_never_takes_the_place_of_another_file(tmp_path: Path, model: segcli.Model) -> None:
    path = scan(tmp_path)
    result = model.segment(path)
    with pytest.raises(segcli.SegcliError, match="would overwrite the input"):
        result.save(path, overwrite=True)
    (tmp_path / "mine.nrrd").write_bytes(b"mine")
    with pytest.raises(segcli.errors.OutputExists):
        result.save(tmp_path / "mine.nrrd")
    with pytest.raises(segcli.errors.OutputError, match="cannot write in"):
        result.save(path / "below" / "a file")
    assert (tmp_path / "mine.nrrd").read_bytes() == b"mine"
    result.save(tmp_path / "mine.nrrd", overwrite=True, report="csv")
    assert result.save(tmp_path / "mine.nrrd", report="csv")[2].name == "mine_seg.csv"  # its own again
    with pytest.raises(segcli.SegcliError, match="did you mean 'html'"):
        result.save(tmp_path / "page", report="htm")
    for how, told in (
        ({"layout": "tree"}, "layout='tree': is not one of flat, bids"),
        ({"stats_format": "csv"}, "stats_format='csv': is not one of segcli, totalseg"),
        ({"seg_type": "map"}, "seg_type='map': is not one of binary, fractional, labelmap"),
        ({"content_date": "today"}, "content_date='today': is not one of source, now"),
    ):
        with pytest.raises(segcli.errors.UsageError, match=told):
            result.save(tmp_path / "page", **how)
    with pytest.raises(segcli.errors.UsageError, match="to='': has an empty name"):
        result.save("")
    with pytest.raises(segcli.errors.UsageError, match=r"seg\.dcm: a label map is not written as \.dcm"):
        result.save(tmp_path / "seg.dcm", write="dicom-seg")


@pytest.mark.parametrize("name", ["", ".", "..", "../other", "a/../../other", "/tmp/other"])
def test_2_11_a_scans_name_leads_out_of_no_folder(tmp_path: Path, model: segcli.Model, name: str) -> None:
    with pytest.raises(segcli.errors.UsageError, match="leads out of it or is none"):
        model.segment(scan(tmp_path), name=name)


def test_memory_is_at_least_a_byte(model: segcli.Model) -> None:
    for limit in ("max_ram", "max_vram"):
        with pytest.raises(segcli.errors.UsageError, match=f"{limit}=-1: is at least 1"):
            segcli.load(model.card.folder, **{limit: -1})


FORKS = """
import multiprocessing, sys, warnings
import segcli

warnings.simplefilter("ignore")
scan, model, loaded = sys.argv[1:]
kept = segcli.load(model, engine="onnx") if loaded == "yes" else None

def volume(again):
    chosen = kept if again else segcli.load(model, engine="onnx")
    return chosen.segment(scan).volumes_ml["body"]

with multiprocessing.get_context("fork").Pool(1) as pool:
    for again in (True, False) if kept else (False,):
        try:
            print(pool.map_async(volume, [again]).get(60))
        except segcli.errors.EngineError as error:
            print(error.message)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are never forks there")
@pytest.mark.parametrize(("loaded", "told"), [("yes", ["this process is a fork"] * 2), ("no", ["[27.0]"])])
def test_a_fork_of_a_process_that_has_loaded_a_model_is_refused_and_does_not_wait_forever(
    tmp_path: Path, model: segcli.Model, loaded: str, told: list[str]
) -> None:
    words = [sys.executable, "-c", FORKS, scan(tmp_path), model.card.folder, loaded]
    done = subprocess.run(words, capture_output=True, text=True, timeout=100, check=True)
    assert [line[: len(begin)] for line, begin in zip(done.stdout.splitlines(), told, strict=True)] == told


class Tensor:
    """One that NumPy may not have, as torch says it."""

    def __array__(self, *_: object, **__: object) -> np.ndarray:
        raise RuntimeError("it requires grad")


@pytest.mark.parametrize(
    ("given", "how", "told"),
    [
        (np.zeros((4, 4, 4)), {}, "does not say where its voxels are"),
        (np.zeros((4, 4)), {"affine": np.eye(4)}, "three axes are expected"),
        (np.ma.masked_less(np.arange(64).reshape(4, 4, 4), 3), {"affine": np.eye(4)}, "3 of 64 voxels are masked"),
        (Tensor(), {"affine": np.eye(4)}, "Tensor: cannot become an array of NumPy: it requires grad"),
        ([[[0, 1], [2]]], {"affine": np.eye(4)}, "list: cannot become an array of NumPy"),
        (np.zeros((4, 4, 4), complex), {"affine": np.eye(4)}, "complex128"),
        (np.zeros((4, 4, 4)), {"affine": np.zeros((4, 4))}, "the scan's grid"),
        (np.zeros((4, 4, 4)), {"affine": {}}, "the scan's grid"),
        (np.zeros((4, 4, 4)), {"affine": Tensor()}, "the scan's grid: it requires grad"),
        (np.zeros((4, 4, 4)), {"affine": np.eye(4), "space": "LAS"}, "is RAS or LPS"),
        (np.zeros((4, 4, 4)), {"affine": "sfrm"}, "sform, qform, pixdim"),
        (nibabel.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4)), {"affine": "sfrm"}, "sform, qform, pixdim"),
        (nibabel.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4)), {"affine": np.eye(4)}, "says itself"),
        (sitk.Image(4, 4, sitk.sitkInt16), {}, "of 2 dimensions"),
        ([], {}, "no scan was given"),
        (["a.nii", "b.nii"], {}, "2 paths for a model of 1 channel"),
        ({"T1": "a.nii"}, {}, "T1"),
        ({"CT": np.zeros((4, 4, 4))}, {}, "names files.*channels in memory are a list"),
        (["a.nii", np.zeros((4, 4, 4))], {"affine": np.eye(4)}, "paths and scans in memory are the channels of one"),
        (sitk.Image(4, 4, 4, sitk.sitkInt16), {"affine": np.eye(4)}, "this scan says itself where it is"),
        ("nothing.nii", {}, "no such file"),
        ("nothing.nii", {"affine": np.eye(4)}, "affine= is for an array, and a file says itself where its voxels are"),
        (np.zeros((4, 4, 4)), {"affine": np.eye(4), "series": "3"}, "series=, where= and volume= are for files"),
        (np.zeros((4, 4, 4)), {"affine": np.eye(4), "volume": 2}, "series=, where= and volume= are for files"),
        ("a.nii", {"volume": "2"}, "volume='2': is no int"),
    ],
)
def test_what_is_no_scan_is_refused_with_a_sentence(
    model: segcli.Model, given: object, how: dict[str, object], told: str
) -> None:
    with pytest.raises(segcli.SegcliError, match=told):
        model.segment(given, **how)


def test_what_speaks_against_a_scan_is_a_warning_before_the_network_runs(tmp_path: Path) -> None:
    model = segcli.load(organs(tmp_path / "mr", modality="MR", channels=["MR"]), engine="onnx")
    seen: list[tuple[int, int]] = []
    noisy = cube() + np.random.default_rng(0).integers(-30, 30, cube().shape).astype(np.int16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match=r"organs|Hounsfield"):
            model.segment(noisy, affine=RAS, progress=lambda done, total: seen.append((done, total)))
    assert not seen


def test_warnings_are_at_the_place_that_called_and_name_the_argument(tmp_path: Path, model: segcli.Model) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    scan(folder)
    nibabel.save(nibabel.Nifti1Image((cube() > 0).astype(np.uint8) + (cube() > 200), RAS), folder / "map.nii.gz")
    for called in (lambda: model.segment(folder), lambda: next(model.segment_many(folder))):
        with pytest.warns(
            UserWarning, match="left out.*: map.nii.gz; allow_label_map=True takes them as scans"
        ) as told:
            called()
        assert {warning.filename for warning in told} == {__file__}
    with pytest.warns(UserWarning, match="left out"):  # code whose module has no name, as a program may run it
        exec("model.segment(folder)", {"model": model, "folder": folder})


def examples_run(*modules: types.ModuleType) -> int:
    """How many examples the docstrings of modules have, all of which say the truth."""
    run = 0
    for module in modules:
        for test in doctest.DocTestFinder().find(module, globs={"segcli": segcli, "nibabel": nibabel, "numpy": np}):
            runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
            runner.run(test)
            assert runner.summarize(verbose=False).failed == 0, test.name
            run += len(test.examples)
    return run


def test_the_examples_of_volumes_labels_and_errors_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert examples_run(segcli.space.volume, segcli.structures, segcli.errors) >= 7


@pytest.mark.slow
def test_the_examples_in_the_docstrings_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(SAMPLE, tmp_path / "scan.nii.gz")
    monkeypatch.chdir(tmp_path)
    assert examples_run(segcli.api, segcli.api.model, segcli.api.result) >= 15


def test_every_public_class_and_function_has_an_example() -> None:
    public = [getattr(segcli, name) for name in segcli.__all__]
    for one in (*(x for x in public if callable(x)), segcli.Model.segment, segcli.Model.segment_many):
        assert ">>> " in one.__doc__, one


@pytest.mark.slow
def test_the_programs_in_the_help_text_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(SAMPLE, tmp_path / "scan.nii.gz")
    monkeypatch.chdir(tmp_path)
    text = (Path(segcli.__file__).parent / "help" / "python.md").read_text(encoding="utf-8")
    programs = re.findall(r"```python\n(.*?)```", text, re.S)
    assert len(programs) == 3
    for program in programs:
        exec(program, {})
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        f"scan_seg.{e}" for e in ("csv", "html", "json", "nii.gz")
    ]


def test_every_public_name_is_there_documented_and_completed() -> None:
    assert dir(segcli) == segcli.__all__ == sorted(segcli.__all__, key=lambda n: (not n[0].isupper(), n))
    assert (Path(segcli.__file__).parent / "py.typed").exists()
    for name in set(segcli.__all__) - {"__version__"}:
        assert getattr(segcli, name).__doc__, name


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


def test_half_is_an_old_word_for_the_precision_that_auto_takes(tmp_path: Path) -> None:
    folder = organs(tmp_path / "organs")
    with pytest.warns(DeprecationWarning, match="precision='auto'"):
        made = segcli.load(folder, engine="onnx", half=True)
    assert made.opening.precision == "auto"
    with pytest.raises(segcli.SegcliError, match="tf32 is for GPUs"):
        segcli.load(folder, engine="onnx", device="cpu", precision="tf32")


def two_bodies(folder: Path) -> Path:
    hu = cube()
    hu[17:19, 15:17, 13:15] = 40  # eight voxels of 27 mm3 apart from the body
    image = nibabel.Nifti1Image(hu, np.diag([3.0, 3.0, 3.0, 1.0]))
    nibabel.save(image, path := folder / "two.nii.gz")
    return path


def test_pieces_that_the_card_takes_away_are_told_and_stay_on_request(tmp_path: Path) -> None:
    own = organs(tmp_path / "organs", after=[{"step": "largest"}])
    model = segcli.load(own, engine="onnx")
    result = model.segment(two_bodies(tmp_path))
    assert result.volumes_ml["body"] == pytest.approx(27.0)
    (effect,) = result.record["after"]
    assert [(c["name"], c["removed_ml"]) for c in effect["changed"]] == [("body", 0.216)]
    kept = model.segment(two_bodies(tmp_path), keep_islands=True)
    assert kept.volumes_ml["body"] == pytest.approx(27.216)
    assert "after" not in kept.record
    assert kept.record["options"]["keep_islands"] is True


def test_borders_that_the_card_refines_are_those_of_the_scan_and_the_record_says_how_much_moved(tmp_path: Path) -> None:
    """The model sees voxels of 3 mm, the scan has 1 mm: the heart's border is at none of the model's."""
    hu = np.full((40, 40, 40), -1000, np.float32)
    hu[4:36, 4:36, 4:36] = 40
    hu[10:30, 10:30, 10:30] = 290 + np.random.default_rng(0).normal(0, 5, (20, 20, 20))
    hu[10:30, 10:30, 10:21] += 150
    right = np.select([hu > 375, hu > 200], [4, 3], 0)
    nibabel.save(nibabel.Nifti1Image(hu, np.eye(4)), path := tmp_path / "two.nii.gz")
    step = {"step": "refine", "mm": 1, "around_mm": 16, "spread": 1.5, "structures": ["spleen", "heart"]}
    wrong, records = [], []
    for name, after in (("plain", []), ("refined", [step])):
        model = segcli.load(organs(tmp_path / name, after=after), engine="onnx")
        result = model.segment(path)
        there = np.isin(result.labels, (3, 4)) & (right > 0)
        wrong.append(int((result.labels != right)[there].sum()))
        records.append(result.record)
    assert wrong[1] < wrong[0] / 4
    assert "after" not in records[0]
    (effect,) = records[1]["after"]
    assert effect["step"] == {**step, "mm": 1.0, "around_mm": 16.0}
    assert "heart" in {c["name"] for c in effect["changed"]} <= {"spleen", "heart"}


def test_faithful_is_handed_to_the_model(tmp_path: Path) -> None:
    corners = {"anchor": "corners", "intensity": [{"step": "resample", "whole": True}, *models.CARD["intensity"]]}
    model = segcli.load(organs(tmp_path / "organs", **corners, spacing=[4.0, 4.0, 4.0]), engine="onnx")
    near, smooth = (model.segment(two_bodies(tmp_path), faithful=f) for f in (True, False))
    assert near.record["options"]["faithful"] is True
    assert not np.array_equal(near.labels, smooth.labels)


def test_what_no_model_can_be_loaded_with_is_refused_by_its_name() -> None:
    for how, words in (
        ({"model": []}, "model=.*names no model"),
        ({"threads": -1}, "threads=-1: is at least 1"),
        ({"batch": 0}, "batch=0: is at least 1"),
        ({"threads": "2"}, "threads='2': is no int"),
        ({"max_ram": 2.5}, "max_ram=2.5: is no int"),
        ({"threads": True}, "threads=True: is no int"),
        ({"device": 0}, "device=0: is no str"),
        ({"model": 5}, "model=5: is neither a str nor a path"),
        ({"model": ["a", None]}, "model=None: is neither a str nor a path"),
    ):
        with pytest.raises(segcli.errors.UsageError, match=words):
            segcli.load(**how)


@pytest.mark.parametrize(
    ("sentence", "in_python"),
    [
        ("`predict --volume N` takes one of them", "volume=N takes one of them"),
        ("leave --volume away: it is for models", "leave volume= away: it is for models"),
        ("say so: --affine sform or --affine qform", "say so: affine='sform' or affine='qform'"),
        ("use --device cpu, or a newer torch", "use device='cpu', or a newer torch"),
        ("--device cuda:3: there is none", "device='cuda:3': there is none"),
        ("20 slices: --series series-003-1f2e", "20 slices: series='series-003-1f2e'"),
        ("--where Modality=X: DICOM knows none", "where='Modality=X': DICOM knows none"),
        ("no series fits --where Modality=X", "no series fits where='Modality=X'"),
        ("taken away; --series all gives one name", "taken away; series='all' gives one name"),
        ("--seg-type binary numbers from 1 on", "seg_type='binary' numbers from 1 on"),
        ("without --write dicom-seg, dicom-sr and", "without write='dicom-seg', dicom-sr and"),
        ("the colours of `--tables slicer`", "the colours of tables='slicer'"),
        ("--write rtstruct: a DICOM object", "write='rtstruct': a DICOM object"),
        ("--write disagreement: is one network", "disagreement=True: is one network"),
        ("name several, --model A --model B", "name several, model=['A', 'B']"),
        ("--channel NAME=FILE names the files", "{channel: path} names the files"),
        ("slices; --fill-gaps interpolates", "slices; fill_gaps=True interpolates"),
        ("or give more --max-ram", "or give more max_ram="),
        ("`segcli models --available` lists them", "`segcli models --available` lists them"),
        ("/run--overwrite/ct--volume.nii: truncated", "/run--overwrite/ct--volume.nii: truncated"),
    ],
)
def test_an_option_in_a_sentence_is_called_as_the_argument(sentence, in_python):
    assert said(sentence) == in_python


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"min_size": "x"}, "min_size='x': is a number of mL, at least 0"),
        ({"overlap": "x"}, "overlap='x': is a number, at least 0 and below 1"),
        ({"classes": 1.5}, "1.5: is neither a name nor several of them"),
        ({"name": 3}, "name=3: is no str"),
    ],
)
def test_a_value_of_another_type_is_refused_in_plain_words(model: segcli.Model, how: dict, told: str) -> None:
    with pytest.raises(segcli.errors.UsageError, match=re.escape(told)):
        model.segment(cube(), affine=RAS, **how)


def test_what_is_no_path_is_refused_by_its_argument(model: segcli.Model) -> None:
    for call, told in (
        (lambda: segcli.read(5), "scan=5: is neither a str nor a path"),
        (lambda: segcli.read("a.nii", channels="2"), "channels='2': is no int"),
        (lambda: next(model.segment_many(5)), "scans=5: is neither a folder nor scans"),
        (lambda: model.segment(cube(), affine=RAS).save(5), "to=5: is neither a str nor a path"),
    ):
        with pytest.raises(segcli.errors.UsageError, match=f"^{told}$"):
            call()


def test_numbers_of_numpy_are_options_and_stand_in_the_record(model: segcli.Model) -> None:
    result = model.segment(cube(), affine=RAS, overlap=np.float32(0.25), min_size=np.float32(0.5))
    options = json.loads(json.dumps(result.record["options"]))
    assert (options["overlap"], options["min_size_ml"]) == (0.25, 0.5)


def test_a_precision_that_nobody_knows_is_refused_as_by_the_command(tmp_path: Path) -> None:
    with pytest.raises(segcli.errors.UsageError, match="no precision is called 'half'"):
        segcli.load(organs(tmp_path / "organs"), engine="onnx", precision="half")


def test_what_the_network_was_not_asked_for_is_not_written(tmp_path: Path, model: segcli.Model) -> None:
    result = model.segment(cube(), affine=RAS)
    for what, how in (("probabilities", "segment(..., probabilities=True)"), ("disagreement", "load([...], dis")):
        with pytest.raises(segcli.errors.UsageError, match=f"labelled without {what}") as refused:
            result.save(tmp_path / "out", write=what)
        assert how in str(refused.value.hint)
    assert not (tmp_path / "out").exists()


def test_channels_are_told_as_python_gives_them(model: segcli.Model) -> None:
    image = nibabel.Nifti1Image(np.stack([cube(), cube()], axis=-1), RAS)
    with pytest.raises(segcli.errors.InputError) as refused:
        model.segment(image)
    assert refused.value.hint == "several channels are a list, in the model's order, or {channel: path}"


def test_every_argument_that_is_said_is_one_of_the_interface():
    calls = (segcli.load, segcli.read, Model.segment, Model.segment_many, Result.save)
    known = {name for call in calls for name in inspect.signature(call).parameters}
    assert known >= FLAGS | VALUED


def test_a_refusal_names_the_argument(tmp_path):
    path = tmp_path / "a.nii"
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4, 2), "i2"), np.eye(4)), path)
    with pytest.raises(segcli.errors.InputError, match=r"\(volume=N takes one of them, N from 1 to 2\)"):
        segcli.read(path)
    with pytest.raises(segcli.errors.InputError, match="there is no volume 3"):
        segcli.read(path, volume=3)
