"""Label tables are what their programs read."""

from pathlib import Path
from xml.etree import ElementTree

import nibabel
import numpy as np
import pytest
import slicerio

from segcli import formats
from segcli.batch.outputs import choices
from segcli.formats import tables
from segcli.space.volume import Grid, Volume
from segcli.structures import Label

NAMES = (
    Label(0, "background"),
    Label(2, "kidney_right", "SCT 64033007", (185, 102, 83)),
    Label(1, "liver", None, (221, 130, 101)),
)


def test_the_slicer_table_has_a_name_without_spaces_and_an_opacity() -> None:
    assert tables.slicer([*NAMES, Label(3, "a b")]).splitlines() == [
        "# Color table file, written by segcli",
        "0 Background 0 0 0 0",
        "1 liver 221 130 101 255",
        "2 kidney_right 185 102 83 255",
        "3 a_b 128 128 128 255",
    ]


def test_the_ITK_SNAP_table_quotes_its_names() -> None:
    lines = [line.split(None, 7) for line in tables.itksnap(NAMES).splitlines() if not line.startswith("#")]
    assert lines == [
        ["0", "0", "0", "0", "0", "0", "0", '"Clear Label"'],
        ["1", "221", "130", "101", "1", "1", "1", '"liver"'],
        ["2", "185", "102", "83", "1", "1", "1", '"kidney_right"'],
    ]


def test_in_the_FreeSurfer_table_0_is_opaque() -> None:
    lines = [line.split() for line in tables.freesurfer(NAMES).splitlines() if not line.startswith("#")]
    assert lines == [
        ["0", "Unknown", "0", "0", "0", "0"],
        ["1", "liver", "221", "130", "101", "0"],
        ["2", "kidney_right", "185", "102", "83", "0"],
    ]


def test_the_BIDS_table_is_tab_separated_with_hexadecimal_colours() -> None:
    assert tables.bids(NAMES) == (
        "index\tname\tcolor\tcode\n"
        "0\tbackground\t#000000\tn/a\n"
        "1\tliver\t#dd8265\tn/a\n"
        "2\tkidney_right\t#b96653\tSCT 64033007\n"
    )


@pytest.mark.parametrize("form", choices("--tables"))
def test_a_table_of_each_format_is_written_as_its_text(tmp_path: Path, form: str) -> None:
    path = tables.write(NAMES, form, tmp_path / "table")
    assert path.read_text() == tables.FORMATS[form](NAMES)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_label_map_in_NIfTI_carries_its_table(tmp_path: Path, name: str) -> None:
    labels = Volume(np.ones((1, 2, 3, 4), np.uint8), Grid((2, 3, 4), np.eye(4)))
    path = formats.write(labels, [*NAMES, Label(7, "<a & b>")], tmp_path / name)
    image = nibabel.load(path)
    assert np.asarray(image.dataobj).min() == 1
    (extension,) = image.header.extensions
    assert extension.get_code() == 0
    found = ElementTree.fromstring(extension.get_content().rstrip(b"\0")).iter("Label")
    assert [(e.get("Key"), e.text) for e in found] == [
        ("0", "background"),
        ("1", "liver"),
        ("2", "kidney_right"),
        ("7", "<a & b>"),
    ]
    assert formats.read([path]).data.max() == 1


def test_names_without_blanks_are_told_apart_and_said() -> None:
    names = (Label(0, "background"), Label(1, "a b"), Label(2, "a_b"), Label(3, "肝臓"))
    assert [line.split()[:2] for line in tables.slicer(names).splitlines()[2:]] == [
        ["1", "a_b_1"],
        ["2", "a_b_2"],
        ["3", "肝臓"],
    ]
    assert [line.split()[:2] for line in tables.freesurfer(names).splitlines()[2:]] == [
        ["1", "a_b_1"],
        ["2", "a_b_2"],
        ["3", "肝臓"],
    ]
    assert tables.changes(names, "slicer") == (
        "names without blanks in the table for slicer: a b is a_b_1, a_b is a_b_2",
    )
    assert tables.changes(names, "itksnap") == ()


def test_Slicer_shows_an_NRRDs_labels_as_segments_with_names_colours_and_codes(tmp_path: Path) -> None:
    path = tmp_path / "a.seg.nrrd"
    data = np.zeros((1, 4, 5, 6), np.uint8)
    data[0, 1], data[0, 2] = 1, 2
    grid = Grid((4, 5, 6), np.array([[0, 0, 2.0, -5], [0, 1.5, 0, 3], [3, 0, 0, 7], [0, 0, 0, 1]]))
    formats.write(Volume(data, grid), NAMES, path)
    shown = slicerio.read_segmentation(str(path))
    assert [(s["labelValue"], s["name"], s["layer"]) for s in shown["segments"]] == [
        (1, "liver", 0),
        (2, "kidney_right", 0),
    ]
    assert [[round(255 * c) for c in s["color"]] for s in shown["segments"]] == [[221, 130, 101], [185, 102, 83]]
    assert shown["segments"][1]["terminology"]["type"] == ["SCT", "64033007", "kidney_right"]
    assert "terminology" not in shown["segments"][0]
    assert all(s["extent"] == [0, 5, 0, 4, 0, 3] for s in shown["segments"])
    assert np.array_equal(shown["voxels"].transpose(2, 1, 0), data[0])
    assert np.allclose(shown["ijkToLPS"], grid.affine[:, [2, 1, 0, 3]])
    assert np.array_equal(formats.read((path,)).data, data)


def test_an_NRRD_of_labels_without_names_has_no_segments(tmp_path: Path) -> None:
    labels = Volume(np.ones((1, 2, 2, 2), np.uint8), Grid((2, 2, 2), np.eye(4)))
    formats.write(labels, (), tmp_path / "a.nrrd")
    assert b"Segment" not in (tmp_path / "a.nrrd").read_bytes()


def test_no_name_ends_a_line_or_an_entry_in_the_header_of_an_NRRD() -> None:
    lines = tables.segments([Label(1, "a~b|c^d\\e\nf", "SCT 1")], (2, 2, 2)).splitlines()
    assert "Segment0_Name:=a~b|c^d\\\\e f" in lines
    assert any(line.startswith("Segment0_Tags:=") and "SCT^1^a b c d\\\\e f~" in line for line in lines)
