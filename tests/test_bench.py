import json
from pathlib import Path

import pytest
from models import organs

from segcli.bench import __main__ as bench
from segcli.bench import material, stages
from segcli.card import read_card
from segcli.formats import read


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


def test_a_table_has_a_line_for_each_row(capsys: pytest.CaptureFixture[str]) -> None:
    bench.table("start", [{"what": "segcli --help", "seconds": 0.12345}])
    assert capsys.readouterr().out == "\nstart\n  what segcli --help   seconds 0.123\n"


def test_a_run_is_told_by_its_record(tmp_path: Path) -> None:
    card = read_card(organs(tmp_path / "organs"))
    row = stages.whole(material.scan(tmp_path, (16, 40, 40)), card, tmp_path / "out", 1, "openvino")
    assert row["windows"] >= 1
    assert row["peak_mb"] > 0
    assert json.dumps(row)
