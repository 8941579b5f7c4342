"""label_table: the names that other programs give the values of a label map."""

from __future__ import annotations

from pathlib import Path

import pytest

from segcli.errors import InputError, InputMissing
from segcli.formats import tables
from segcli.formats.label_table import labels, read
from segcli.structures import Label

LUT = """#No. Label Name:            R   G   B   A
0   Unknown                     0   0   0   0

2   Left-Cerebral-White-Matter  245 245 245 0
41  Right-Cerebral-White-Matter 245 245 245 0
1001 ctx-lh-bankssts            25  100 40  0
"""


def table(tmp_path: Path, name: str, text: str) -> list[Label]:
    (tmp_path / name).write_text(text, encoding="utf-8")
    return read(tmp_path / name)


def test_a_lookup_table_of_freesurfer(tmp_path: Path) -> None:
    left, right, parcel = table(tmp_path, "FreeSurferColorLUT.txt", LUT)
    assert left == Label(2, "left_cerebral_white_matter", None, (245, 245, 245), "right_cerebral_white_matter")
    assert right.pair == left.name
    assert (parcel.id, parcel.name, parcel.colour, parcel.pair) == (1001, "ctx_lh_bankssts", (25, 100, 40), None)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "name,index\nbackground,0\nLiver,5\n"),
        ("a.csv", "\ufeffLabel,Structure\n5,Liver\n"),
        ("a.tsv", "index\tname\tcolor\n0\tbackground\t#000000\n5\tliver\tn/a\n"),
        ("a.txt", "5 liver 128 128 128 255\n"),
        ("a.txt", '    5   128  128  128        1  1  1    "liver"\n'),
    ],
)
def test_each_table_gives_the_same_label(tmp_path: Path, name: str, text: str) -> None:
    assert table(tmp_path, name, text) == [Label(5, "liver")]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("text", ["index,name\r\n5,Größe\r\n\r\n", "5 Größe 1 2 3 0\r\n"])
def test_a_table_as_windows_writes_text_is_read(tmp_path: Path, encoding: str, text: str) -> None:
    path = tmp_path / ("a.csv" if "," in text else "a.txt")
    path.write_bytes(text.encode(encoding))
    assert [label.name for label in read(path)] == ["größe"]


@pytest.mark.parametrize(
    ("form", "ending"), [("slicer", "ctbl"), ("itksnap", "label"), ("freesurfer", "txt"), ("bids", "tsv")]
)
def test_what_segcli_writes_is_read_back(tmp_path: Path, form: str, ending: str) -> None:
    own = [
        Label(3, "kidney_left", None, (1, 2, 3), "kidney_right"),
        Label(4, "kidney_right", None, (9, 8, 7), "kidney_left"),
    ]
    assert read(tables.write(own, form, tmp_path / f"own.{ending}")) == own


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("a.txt", "5 liver 1 2 3\nhello\n", "a.txt: line 2 is not one of a table of labels: 'hello'"),
        ("a.csv", "a,b\n1,2\n", "a.csv: not a table of labels: its headings are a, b"),
        ("a.csv", "index,name\nfive,liver\n", "a.csv: line 2: 'five' is no number of a label"),
        ("a.csv", "index,name\n5,liver\n5,spleen\n", "a.csv: names the value 5 twice: 'liver' and 'spleen'"),
        ("a.csv", "index,name\n0,background\n", "a.csv: not a table of labels: it names no value above 0"),
        ("a.csv", f"index,name\n1,{'a' * 140000}\n", "a.csv: not a table of labels: field larger than field limit"),
        ("a.csv", f"index,name\n{'9' * 5000},a\n", "a.csv: line 2: '9+' is no number of a label"),
        ("a.txt", f"{'9' * 5000} liver 1 2 3\n", "a.txt: line 1 is not one of a table of labels"),
    ],
)
def test_what_is_no_table_of_labels_is_refused(tmp_path: Path, name: str, text: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        table(tmp_path, name, text)


def test_a_table_that_is_not_there_and_one_that_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(InputMissing):
        read(tmp_path / "none.csv")
    with pytest.raises(InputError, match="is a folder, not a file"):
        read(tmp_path)
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="it is no text"):
        read(tmp_path / "a.txt")


def test_names_that_fall_together_are_told_apart_by_their_value() -> None:
    assert [x.name for x in labels({1: "a b", 2: "A-B", 3: "..."})] == ["a_b", "a_b_2", "label_3"]
    assert [x.name for x in labels({1: "a_3", 2: "a", 3: "a"})] == ["a_3", "a", "a_3_3"]
