import json
import platform
import re
import sys
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import pytest
from models import organs

from segcli import networks, parallel
from segcli.bench import __main__ as bench
from segcli.bench import certificates, deciding, material, results, stages, total
from segcli.bench.sgemm import unsteered
from segcli.formats import read
from segcli.models.library import read_card
from segcli.networks.registry import small_networks


def test_floating_point_operations_are_those_of_the_convolution(tmp_path: Path) -> None:
    # 6 outputs x 1 input, one product and one sum each, 32^3 voxels
    assert stages.flops(read_card(organs(tmp_path / "organs"))) == pytest.approx(2 * 6 * 32**3 / 1e9)


def test_the_scan_is_the_same_each_time_and_has_its_spacing(tmp_path: Path) -> None:
    path = material.scan(tmp_path, (8, 20, 16))
    first = path.read_bytes()
    path.unlink()
    assert material.scan(tmp_path, (8, 20, 16)).read_bytes() == first
    assert read([path]).grid.spacing == pytest.approx(material.SPACING)


def test_a_part_that_there_is_not_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        bench.main(["speed"])
    assert ended.value.code == 2
    assert "no part is called 'speed'" in capsys.readouterr().err


def test_total_needs_totalsegmentator_and_runs_only_when_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="TotalSegmentator is not on the path"):
        bench.main(["total"])
    run = list[str]()
    monkeypatch.setattr(results.Results, "table", lambda self, part, rows, title="": run.append(part))
    for module, name in (
        (stages, "start"), (stages, "network"), (bench, "certificates"), (stages, "big"), (stages, "scaling"),
        (bench, "beside_peers"), (bench, "points"), (material, "model"),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, lambda *_, **__: {})
    bench.main(["--threads", "1"])
    assert "total" not in run
    assert {"start", "big", "scaling"} <= set(run)


@pytest.mark.parametrize(("native", "more"), [(False, []), (True, ["openvino bfloat16", "torch bfloat16"])])
def test_beside_its_peers_segcli_runs_in_bfloat16_where_the_processor_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, native: bool, more: list[str]
) -> None:
    asked = list[str]()

    def whole(*words: object, title: str) -> results.Row:
        assert words[-2:] == ("--precision", title.split()[1])
        asked.append(title)
        return {"pipeline": title, "seconds": 2.0, "peak_mb": 100.0}

    monkeypatch.setattr(stages, "whole", whole)
    monkeypatch.setattr(stages, "peer", lambda name, *_: {"pipeline": name, "seconds": 5.0, "peak_mb": 400.0})
    monkeypatch.setattr(bench.peers, "installed", lambda: ["monai"])
    monkeypatch.setattr(bench, "native_bfloat16", lambda: native)
    monkeypatch.setattr(material, "scan", lambda *_: tmp_path / "scan.nii")
    monkeypatch.setattr(material, "model", lambda *_, **__: None)
    shown = dict[str, list[results.Row]]()
    monkeypatch.setattr(results.Results, "table", lambda self, part, rows, title="": shown.update({title: rows}))
    bench.beside_peers(tmp_path, 2, results.Results(None, 2))
    assert asked == 2 * ["openvino float32", "onnx float32", "torch float32", *more]
    beside, alone = shown.values()
    assert {(row["ratio"], row["memory"]) for row in beside[:-1]} == {(2.5, 0.25)}
    assert all("ratio" not in row for row in alone)


def test_seconds_and_peak_of_a_command_are_of_its_process() -> None:
    seconds, peak = total._timed(
        [sys.executable, "-c", "import time; x = b'x' * (1 << 26); time.sleep(0.5)"], {"SEGCLI_OFFLINE": "1"}, 1
    )
    assert 0 < seconds < 60
    assert 67 < peak < 150  # whatever the size of this process
    with pytest.raises(SystemExit, match="ended with 3"):
        total._timed([sys.executable, "-c", "raise SystemExit(3)"], {}, 1)


def test_a_table_has_what_its_columns_mean_and_a_line_for_each_row(capsys: pytest.CaptureFixture[str]) -> None:
    results.Results(None, 1).table("start", [{"what": "segcli --help", "seconds": 0.12345}])
    told = capsys.readouterr().out.splitlines()
    assert told[:2] == ["", "start"]
    assert told[2].startswith("  # seconds    from the start of a process")
    assert told[-1] == "  what segcli --help   seconds 0.123"


def test_labels_are_timed_with_one_thread_and_more_and_the_cores_are_the_processs_own_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(deciding, "SHAPE", (40, 60))
    monkeypatch.setattr(parallel, "_allowed", lambda: 4)
    monkeypatch.setattr(parallel, "_group_share", lambda: None)
    parallel.use()
    try:
        rows = list(deciding.table(3, 24, (5,)))
        assert [row["threads"] for row in rows] == [1, 2, 3]
        assert parallel.cores() == 4
    finally:
        monkeypatch.undo()
        parallel.use()
    assert all(
        set(row) <= {word.split()[0] for word in results.MEANINGS["decide"].splitlines()} | {"classes", "threads"}
        for row in rows
    )
    assert ["alone" in row for row in rows] == [False, True, True]
    assert all(row["slabs"] and row["blocks"] and row["cpu_s"] >= 0 for row in rows)


def test_every_part_is_explained() -> None:
    assert list(results.MEANINGS) == list(bench.PARTS)


def test_the_columns_of_a_run_and_of_a_network_are_all_explained(tmp_path: Path) -> None:
    card = read_card(organs(tmp_path / "organs"))
    row = stages.whole(material.scan(tmp_path, (16, 40, 40)), card, tmp_path / "out", 1, "openvino")
    text = results.MEANINGS["peers"]
    (record,) = (tmp_path / "out").glob("*_seg.json")
    stages_of_a_case = json.loads(record.read_text(encoding="utf-8"))["run"]["seconds"]
    told = [key for key in row if key not in {*results.NAMES, *stages_of_a_case} and not key.startswith("step ")]
    assert [key for key in told if key not in text] == []


def _file(path: Path, rows: list[dict[str, object]], title: str = "start", **more: object) -> Path:
    made = results.Results(path, 2)
    made.table("start", rows, title)
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **more}), encoding="utf-8")
    return path


def test_two_files_of_results_are_compared_figure_by_figure(tmp_path: Path, capsys) -> None:
    same, moved = {"what": "same", "seconds": 2.0}, {"what": "a", "seconds": 1.0, "peak_mb": 100, "step": "none"}
    old = _file(tmp_path / "old.json", [same, moved, {"what": "gone", "seconds": 1.0}])
    later = {"what": "a", "seconds": 0.5, "peak_mb": 105, "step": "on disk"}
    new = _file(tmp_path / "new.json", [same, later, {"what": "more", "seconds": 1.0}], threads=4)
    capsys.readouterr()
    bench.main(["compare", str(old), str(new)])
    said = capsys.readouterr()
    assert said.out.partition("\n\n")[2].splitlines() == [
        "start · a: seconds 1 -> 0.5   x 0.50 *",
        "start · a: peak_mb 100 -> 105   x 1.05",
        "start · a: step none -> on disk",
        "start · gone: only in the old file",
        "start · more: only in the new file",
    ]
    assert said.err == "warning: another number of threads: not segcli alone makes the difference\n"


def test_results_that_are_the_same_are_said_to_be(tmp_path: Path, capsys) -> None:
    path = _file(tmp_path / "one.json", [{"what": "a", "seconds": 1.0}])
    bench.main(["compare", str(path), str(path)])
    assert capsys.readouterr().out.endswith("\n\nevery figure is the same\n")


def test_rows_of_one_name_are_compared_in_their_order(tmp_path: Path, capsys) -> None:
    old = _file(tmp_path / "old.json", [{"what": "a", "seconds": 1.0}, {"what": "a", "seconds": 2.0}])
    new = _file(tmp_path / "new.json", [{"what": "a", "seconds": 1.0}, {"what": "a", "seconds": 4.0}])
    bench.main(["compare", str(old), str(new)])
    assert "start · a · again: seconds 2 -> 4   x 2.00 *" in capsys.readouterr().out


def test_rows_of_other_numbers_of_threads_and_classes_are_not_taken_for_each_other(tmp_path: Path, capsys) -> None:
    rows = [{"classes": k, "threads": n, "seconds": 1.0 * k / n} for k in (14, 118) for n in (1, 2, 4)]
    old = _file(tmp_path / "old.json", [row for row in rows if row["threads"] < 4], "decide")
    new = _file(tmp_path / "new.json", [{**row, "seconds": 2 * row["seconds"]} for row in rows], "decide")
    capsys.readouterr()
    bench.main(["compare", str(old), str(new)])
    assert capsys.readouterr().out.partition("\n\n")[2].splitlines() == [
        "decide · classes 14 · threads 1: seconds 14 -> 28   x 2.00 *",
        "decide · classes 14 · threads 2: seconds 7 -> 14   x 2.00 *",
        "decide · classes 118 · threads 1: seconds 118 -> 236   x 2.00 *",
        "decide · classes 118 · threads 2: seconds 59 -> 118   x 2.00 *",
        "decide · classes 14 · threads 4: only in the new file",
        "decide · classes 118 · threads 4: only in the new file",
    ]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"segcli_bench": 2, "tables": []}', "[" * 100_000, '{"tables": 3}'])
def test_a_file_that_holds_no_results_is_refused_by_name(text: str, tmp_path: Path) -> None:
    path = tmp_path / "some.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SystemExit, match=r"some\.json: "):
        bench.main(["compare", str(path), str(path)])


def test_a_file_of_results_that_is_not_there_is_told_as_that(tmp_path: Path) -> None:
    gone = tmp_path / "gone.json"
    with pytest.raises(SystemExit, match=rf"^{re.escape(str(gone))}: cannot be read: No such file or directory$"):
        bench.main(["compare", str(gone), str(gone)])


def test_results_take_the_place_of_results_and_of_nothing_else(tmp_path: Path, capsys) -> None:
    path = _file(tmp_path / "mine.json", [{"what": "a", "seconds": 1.0}])
    _file(path, [{"what": "b", "seconds": 1.0}])
    path.write_text("my notes", encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        bench.main(["start", "--json", str(path)])
    assert ended.value.code == 2
    assert "exists already" in capsys.readouterr().err
    assert path.read_text(encoding="utf-8") == "my notes"


def test_what_was_measured_is_kept_when_a_run_is_stopped(tmp_path: Path, capsys) -> None:
    def rows():
        yield {"what": "a", "seconds": 1.0}
        raise KeyboardInterrupt

    made = results.Results(tmp_path / "some.json", 2)
    with pytest.raises(KeyboardInterrupt):
        made.table("start", rows())
    assert results._rows(results._read(tmp_path / "some.json")) == {("start", "a"): {"seconds": 1.0}}


def test_the_machine_is_told_without_its_name(tmp_path: Path) -> None:
    made = results.Results(None, 1).document()
    assert made["machine"]["processor"]
    assert results._processor(tmp_path / "none")
    assert platform.node() not in json.dumps(made)


def test_a_run_is_told_by_its_record(tmp_path: Path) -> None:
    card = read_card(organs(tmp_path / "organs"))
    row = stages.whole(material.scan(tmp_path, (16, 40, 40)), card, tmp_path / "out", 1, "openvino")
    assert row["windows"] >= 1
    assert row["peak_mb"] > 0
    assert json.dumps(row)


def test_the_matrix_product_is_measured_without_what_steers_its_library() -> None:
    told = {"OPENBLAS_CORETYPE": "Haswell", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "OMP_NUM_THREADS": "8", "HOME": "/"}
    assert unsteered(told, 2) == {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2", "HOME": "/"}


def test_the_table_of_certificates_has_every_network() -> None:
    rooms = [import_module(f"{networks.__name__}.{found.name}") for found in iter_modules(networks.__path__)]
    makers = {name: make for room in rooms for name, make in getattr(room, "FAMILIES", {}).items()}
    tried = makers.keys() & small_networks().keys()
    there = {str(makers[name]) for name in tried}  # equal partials are not equal, their texts are
    assert len(there) >= 15
    assert [name for name, make in makers.items() if str(make) not in there] == []


def test_a_small_size_stands_beside_its_network() -> None:
    rooms = [import_module(f"{networks.__name__}.{found.name}") for found in iter_modules(networks.__path__)]
    assert [room.__name__ for room in rooms if hasattr(room, "FAMILIES") and not hasattr(room, "SMALL")] == []
    assert all(room.SMALL.keys() <= room.FAMILIES.keys() for room in rooms if hasattr(room, "SMALL"))


@pytest.mark.slow
@pytest.mark.parametrize("family", ["nnformer_tumor", "basicunet", "basicunetplusplus", "dynunet", "monai_unet"])
def test_a_network_is_certified_in_both_cpu_engines(family: str, tmp_path: Path) -> None:
    found = certificates.certificate(certificates.card_of(family, tmp_path))
    assert set(found["engines"]) == {"onnxruntime", "openvino"}
    assert found["max_relative_error"] <= 1e-4
    assert found["agreement"] >= 0.999


def test_a_first_window_ends_the_process_that_reports_it() -> None:
    told = (
        "import sys, time\nfor e in ('read', 'window'): print('{\"event\": \"%s\"}' % e, file=sys.stderr, flush=True)\n"
    )
    stages.first_window([sys.executable, "-c", f"{told}time.sleep(600)"])


def test_a_process_that_ends_before_its_first_window_is_told_by_what_it_said() -> None:
    with pytest.raises(SystemExit, match="no such model"):
        stages.first_window([sys.executable, "-c", "import sys; sys.exit('no such model')"])


def test_the_long_scan_has_its_slices_and_its_spacing(tmp_path: Path) -> None:
    found = read([material.long_scan(tmp_path, 3)])
    assert found.data.shape == (1, 3, 512, 512)
    assert found.grid.spacing == pytest.approx((1.0, 0.8, 0.8))


def test_every_curve_has_its_place_in_the_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is in the extra [bench]")
    points = [(1.0, 0.5), (2.0, 0.3)]
    bench.plot(dict.fromkeys(("slices", "classes", "windows", "threads"), points), tmp_path / "plots")
    assert (tmp_path / "plots" / "scaling.png").stat().st_size > 10_000
