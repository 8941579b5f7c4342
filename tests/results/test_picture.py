"""picture: the patient's left is on the right, millimetres are square, and colour is never alone."""

from __future__ import annotations

import io
import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segcli.results import lettering
from segcli.results import montage as sheets
from segcli.results.measure import Structure
from segcli.results.montage import montage, montage_picture
from segcli.results.picture import (
    VIEWS,
    Section,
    bright,
    display_window,
    drawn_colour,
    extent,
    is_grey,
    number_places,
    overlay,
    ruled,
    sections,
    significant,
)
from segcli.space.volume import AXES_CODES, Grid, Volume, turned, turning
from segcli.structures import Label

NAMES = (Label(0, "background"), Label(1, "left_box", colour=(20, 20, 60)), Label(2, "rod", colour=(200, 90, 0)))


def scan(spacing: tuple[float, float, float] = (4.0, 2.0, 1.0)) -> tuple[Volume, Volume]:
    """A bright box at the left, the front and the top of a scan that is 80 mm long in each direction."""
    shape = tuple(round(80 / s) for s in spacing)
    affine = np.eye(4)
    affine[:3, :3] = np.diag(spacing[::-1])[:, ::-1]
    grid = Grid((shape[0], shape[1], shape[2]), affine)
    image = np.full((1, *shape), 100, np.float32)
    labels = np.zeros((1, *shape), np.uint8)
    d, h, w = shape
    box = (0, slice(3 * d // 4, d), slice(0, h // 4), slice(3 * w // 4, w))  # S, A, L
    image[box], labels[box] = 900, 1
    return Volume(image, grid), Volume(labels, grid)


def turn(volume: Volume, code: str) -> Volume:
    order, flips = turning(volume.grid.axes, code)
    data = np.transpose(volume.data, [0, *(i + 1 for i in order)])
    return Volume(np.flip(data, tuple(i + 1 for i, flip in enumerate(flips) if flip)), turned(volume.grid, code))


def quarter(mask: np.ndarray) -> str:
    """Where in a picture a mark lies."""
    y, x = np.argwhere(mask).mean(axis=0) / mask.shape
    return ("top" if y < 0.5 else "bottom") + (" left" if x < 0.5 else " right")


def test_left_is_on_the_right_and_the_nose_points_left() -> None:
    shown = sections(*scan(), count=1)
    assert quarter(shown["axial"][0].labels == 1) == "top right"  # anterior is up
    assert quarter(shown["coronal"][0].labels == 1) == "top right"  # superior is up
    assert quarter(shown["sagittal"][0].labels == 1) == "top left"  # anterior is left
    assert ["".join(shown[view][0].letters) for view in VIEWS] == ["RLAP", "RLSI", "APSI"]


@pytest.mark.parametrize("code", AXES_CODES)
def test_the_same_scan_in_other_axes_gives_the_same_pictures(code: str) -> None:
    image, labels = scan()
    plain, other = sections(image, labels, 2), sections(turn(image, code), turn(labels, code), 2)
    for view in VIEWS:
        for a, b in zip(plain[view], other[view], strict=True):
            assert a.position == b.position
            assert np.array_equal(a.grey, b.grey)
            assert np.array_equal(a.labels, b.labels)


def test_a_millimetre_is_as_long_across_as_along() -> None:
    shown = sections(*scan((8.0, 1.0, 2.0)), count=1, size=160)
    assert {s.grey.shape for slices in shown.values() for s in slices} == {(160, 160)}


def test_slices_lie_where_the_labels_are() -> None:
    shown = sections(*scan((4.0, 4.0, 4.0)), count=3)
    assert [s.index for s in shown["axial"]] == [16, 17, 18]  # planes 15 to 19 of 20
    assert [s.position for s in shown["axial"]] == ["64.0 mm S", "68.0 mm S", "72.0 mm S"]


def test_more_slices_than_planes_are_as_many_as_there_are() -> None:
    assert len(sections(*scan((20.0, 20.0, 20.0)), count=9)["axial"]) == 1


def test_an_oblique_scan_and_an_empty_map_are_drawn() -> None:
    image, labels = scan()
    turn = np.eye(4)
    turn[:2, :2] = [[0.9, -0.43589], [0.43589, 0.9]]
    grid = Grid(image.grid.shape, turn @ image.grid.affine)
    empty = Volume(np.zeros_like(labels.data), grid)
    shown = sections(Volume(image.data, grid), empty, 3)
    assert len(shown["axial"]) == 3
    # To the patient's left along a row is a little to the back as well, and not up or down.
    assert [shown[view][0].letters for view in VIEWS] == [
        ("RA", "LP", "AL", "PR"),
        ("RA", "LP", "S", "I"),
        ("AL", "PR", "S", "I"),
    ]


def test_an_axis_that_leans_little_has_one_letter() -> None:
    image, labels = scan()
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(0.2), -np.sin(0.2)], [np.sin(0.2), np.cos(0.2)]]  # 11 degrees
    grid = Grid(image.grid.shape, turn @ image.grid.affine)
    shown = sections(Volume(image.data, grid), Volume(labels.data, grid), 1)
    assert ["".join(shown[view][0].letters) for view in VIEWS] == ["RLAP", "RLSI", "APSI"]


def test_a_ct_is_windowed_to_soft_tissue_and_an_mr_by_its_percentiles() -> None:
    image, _ = scan()
    ct = Volume(np.where(image.data > 500, 60, -1000).astype(np.float32), image.grid)
    assert display_window(ct) == (-160.0, 240.0)
    assert display_window(image) == (100.0, 900.0)


def test_what_is_labelled_is_as_bright_beside_bright_fat_as_without_it() -> None:
    image, labels = scan((2.0, 2.0, 2.0))
    image.data[0, 20:35, 10:30, 10:30] = 200
    image.data[0, 20:35, 15:25, 15:25] = 300
    labels.data[:], labels.data[0, 20:35, 10:30, 10:30] = 0, 1
    image.data[0, :12] = 5000  # a neck
    image.data[0, 35:, :16] = 4000  # a cap on the head, a part of the rim
    assert display_window(image)[1] == 5000
    assert display_window(image, NAMES, labels)[1] <= 900
    labels.data[:], labels.data[0, 24:26, 19:21, 19:21] = 0, 1  # dark fluid in something brighter
    image.data[labels.data != 0] = 20
    assert display_window(image, NAMES, labels)[1] >= 200
    labels.data[:] = 0
    assert display_window(image, NAMES, labels) == display_window(image)


def test_a_contour_is_opaque_and_the_area_is_not() -> None:
    labels = np.zeros((40, 40), np.uint8)
    labels[10:30, 10:30] = 2  # 20 x 20, the second structure: dashes
    alpha = np.asarray(overlay(labels, (NAMES[0], NAMES[2])))[..., 3]
    assert alpha[0, 0] == 0
    assert alpha[15, 15] == round(255 * 0.35)
    assert (alpha[10, 10:30] == 255).all()


def test_neighbouring_numbers_have_other_lines() -> None:
    labels = np.zeros((60, 60), np.uint8)
    labels[5:55, 5:25], labels[5:55, 35:55] = 1, 2
    alpha = np.asarray(overlay(labels, NAMES))[..., 3] == 255
    assert alpha[5:55, 5].all()
    assert 0.4 < alpha[5:55, 35].mean() < 0.6


def test_a_dark_colour_is_lifted_until_it_can_be_seen() -> None:
    assert min(bright((0, 0, 0))) >= 89
    assert bright((200, 90, 0)) == (200, 90, 0)


def test_the_montage_is_a_png_with_equal_bytes_each_time(tmp_path: Path) -> None:
    image, labels = scan()
    montage(image, labels, NAMES, tmp_path / "a.png")
    montage(image, labels, NAMES, tmp_path / "b.png")
    data = (tmp_path / "a.png").read_bytes()
    assert data == (tmp_path / "b.png").read_bytes()
    assert Image.open(io.BytesIO(data)).format == "PNG"


def test_a_scan_that_is_black_all_over_is_drawn() -> None:
    image, labels = scan()
    assert montage_picture(Volume(image.data * 0, image.grid), labels, NAMES).size[0] > 600


def test_voxels_that_are_not_finite_are_black() -> None:
    image, labels = scan()
    image.data[0, 0] = np.nan
    image.data[0, 1] = np.inf
    assert sections(image, labels, 3)["coronal"][0].grey.dtype == np.uint8


def test_slices_lie_within_the_main_piece_and_a_far_island_moves_none() -> None:
    image, labels = scan((2.0, 2.0, 2.0))
    alone = sections(image, labels, 3)
    labels.data[0, 0, 39, 0] = 2  # one voxel at the other end
    again = sections(image, labels, 3)
    assert [[s.index for s in again[view]] for view in VIEWS] == [[s.index for s in alone[view]] for view in VIEWS]
    assert sections(image, labels, 40, whole=True)["axial"][0].index == 0
    assert extent(labels, (0.02, 0.98))[0] == (30, 39)  # ten planes of equal area hold 10 % each
    assert extent(labels, (0.12, 0.88))[0] == (31, 38)


def test_no_two_numbers_overlap_and_a_shell_has_none() -> None:
    rows, columns = np.ogrid[:80, :80]
    r = np.hypot(rows - 40, columns - 40)
    areas = {1: (r > 30) & (r < 36), 2: r < 9, 3: (r >= 9) & (r < 20), 444: (r >= 20) & (r < 30)}  # 1: a shell of 6
    found = number_places(areas)
    assert found.keys() == {2, 3, 444}
    boxes = [(y - 6, y + 6, x - 3 * len(str(i)) - 2, x + 3 * len(str(i)) + 2) for i, (y, x) in found.items()]
    for a, b in itertools.combinations(boxes, 2):
        assert a[1] <= b[0] or b[1] <= a[0] or a[3] <= b[2] or b[3] <= a[2]


def test_a_number_without_room_is_left_out() -> None:
    areas = {1: np.zeros((20, 20), bool), 2: np.zeros((20, 20), bool)}
    areas[1][2:18, 1:10], areas[2][2:18, 10:19] = True, True
    assert len(number_places(areas)) == 2
    narrow = {i: area[:, 3:16] for i, area in areas.items()}
    assert len(number_places(narrow)) == 1


def test_both_sides_of_a_pair_have_one_kind_of_line() -> None:
    pair = (
        Label(1, "a_left", colour=(200, 0, 0), pair="a_right"),
        Label(2, "middle", colour=(0, 200, 0)),
        Label(3, "a_right", colour=(200, 0, 0), pair="a_left"),
    )
    labels = np.zeros((40, 90), np.uint8)
    labels[5:35, 5:25], labels[5:35, 35:55], labels[5:35, 65:85] = 1, 2, 3
    solid = np.asarray(overlay(labels, pair))[..., 3] == 255
    assert solid[5:35, 5].all()
    assert solid[5:35, 65].all()
    assert not solid[5:35, 35].all()


def test_a_grey_structure_is_drawn_in_a_colour_and_filled_weakly() -> None:
    for grey in ((245, 245, 245), (196, 196, 196), (60, 60, 60)):
        assert not is_grey(drawn_colour(grey))
    assert drawn_colour((200, 90, 0)) == (200, 90, 0)
    labels = np.zeros((40, 40), np.uint8)
    labels[5:35, 5:35] = 1
    alpha = np.asarray(overlay(labels, (Label(1, "white_matter", colour=(245, 245, 245)),)))[..., 3]
    assert alpha[8, 8] == round(255 * 0.12)
    assert (alpha[5, 5:35] == 255).all()


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (("lung_upper_lobe_left", "lung_lower_lobe_left", "aorta"), (-1350.0, 150.0)),
        (("left_cerebral_white_matter", "third_ventricle", "brain"), (0.0, 80.0)),
        (("rib_left_1", "vertebrae_l1", "liver"), (-450.0, 1050.0)),
        (("liver", "spleen", "vertebrae_l1"), (-160.0, 240.0)),
    ],
)
def test_a_ct_is_windowed_by_what_is_labelled(names: tuple[str, ...], shown: tuple[float, float]) -> None:
    image, _ = scan()
    ct = Volume(np.where(image.data > 500, 60, -1000).astype(np.float32), image.grid)
    assert display_window(ct, [Label(i, name) for i, name in enumerate(names, 1)]) == shown


def test_each_slice_has_a_copy_without_labels_beside_it() -> None:
    image, labels = scan()
    sheet = np.asarray(montage_picture(image, labels, NAMES)).astype(int)
    coloured = np.ptp(sheet[8:308, :-310], axis=2) > 20  # of the first row of pictures
    tiles = [coloured[:, 8 + k * 308 : 308 + k * 308].any() for k in range(6)]
    assert tiles == [True, False] * 3


def test_the_head_of_the_montage_tells_case_verdict_and_doubts() -> None:
    image, labels = scan()
    plain = montage_picture(image, labels, NAMES)
    facts = {
        "case": "sub-01",
        "model": {"name": "toy"},
        "verdict": "review",
        "checks": [{"code": "volume", "severity": "fail", "sentence": "too large " * 60}],
        "warnings": ["a", "b", "c", "d", "e"],
    }
    told = montage_picture(image, labels, NAMES, facts)
    assert told.height == plain.height + 20 * 7  # case, verdict, four doubts, and how many more
    assert told.width == plain.width
    inks = {p for _, p in told.crop((0, 0, told.width, 140)).getcolors(1 << 20) or ()}
    assert {(255, 214, 120), (255, 150, 140)} <= inks


def test_a_warning_of_the_run_has_the_ink_of_a_note() -> None:
    _, labels = scan()
    facts = {"case": "a", "model": {"name": "toy"}, "verdict": "pass", "checks": [], "warnings": list("abcdef")}
    inks = [ink for _, ink in sheets._head(facts, labels)[2:]]
    assert inks == [sheets._VERDICTS["note"]] * 5


def test_1_5_a_break_of_line_in_a_name_moves_nothing_in_the_head() -> None:
    image, labels = scan()
    facts = {"case": "a b", "model": {"name": "toy"}, "verdict": "pass"}
    plain = montage_picture(image, labels, NAMES, facts)
    assert montage_picture(image, labels, NAMES, {**facts, "case": "a\nb"}) == plain


def test_the_head_has_the_date_of_the_scan_where_identifiers_are_let_in() -> None:
    _, labels = scan()
    facts = {"case": "a", "model": {"name": "toy"}, "verdict": "pass"}
    line = sheets._head(facts | {"identifiers": {"StudyDate": "20260131"}}, labels)[1][0]
    assert line.startswith("verdict: pass, scan of 2026-01-31, labels named by toy, voxels ")
    assert "scan of" not in sheets._head(facts, labels)[1][0]
    assert "scan of" not in sheets._head(facts | {"identifiers": {"StudyDate": "31.1."}}, labels)[1][0]


def test_the_head_has_the_day_on_which_the_picture_is_made() -> None:
    image, labels = scan()
    facts = {"case": "a", "model": {"name": "toy"}, "verdict": "pass"}
    assert ", made 2026-01-31, research use only" in sheets._head(facts, labels, "2026-01-31")[1][0]
    assert montage_picture(image, labels, NAMES, facts) != montage_picture(
        image, labels, NAMES, facts, day="2026-01-31"
    )


def test_the_large_form_has_seven_slices_of_each_view() -> None:
    image, labels = scan((2.0, 2.0, 2.0))
    labels.data[0, 5:35, 5:35, 5:35] = 2
    assert montage_picture(image, labels, NAMES, columns=7).width == 8 + 7 * 308 + round(1.6 * 300)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.2036, "0.204"), (11.55, "11.6"), (277.53, "278"), (1548.2, "1548"), (9.996, "10.0"), (0, "0")],
)
def test_numbers_have_three_significant_digits(value: float, text: str) -> None:
    assert significant(value) == text


def white(section: Section) -> np.ndarray:
    """Where a slice is white only with its scale bar."""
    return (ruled(section) == 255) & (section.grey != 255)


def test_a_slice_has_a_scale_bar_of_the_length_that_it_states() -> None:
    """80 mm in 300 pixels: the longest round length within a third of the width is 2 cm, 75 pixels and its end."""
    image, labels = scan()
    (section,) = sections(image, labels, 1)["axial"]
    rows = white(section).sum(axis=1)
    assert rows.max() == 76
    assert rows.argmax() > 0.9 * len(rows)


def test_a_view_of_a_single_slice_is_not_drawn_in_the_montage() -> None:
    image, labels = scan()
    one = Grid((1, *image.grid.shape[1:]), image.grid.affine)
    drawn = montage_picture(Volume(image.data[:, -1:], one), Volume(labels.data[:, -1:], one), NAMES)
    whole = montage_picture(image, labels, NAMES)
    assert drawn.height < 400 < whole.height


def test_117_structures_all_have_a_line_in_columns_of_the_legend(monkeypatch: pytest.MonkeyPatch) -> None:
    image, labels = scan()
    many = labels.data.copy()
    many[0].reshape(-1)[:117] = np.arange(1, 118)
    listed: list[int] = []

    def legend(pen: object, part: list[Structure], names: object, left: int, top: int, more: int, size: object) -> None:
        listed.extend(s.label for s in part)
        assert more == 0

    monkeypatch.setattr(sheets, "_legend", legend)
    montage_picture(image, Volume(many, labels.grid), [Label(i, f"s{i}") for i in range(118)])
    assert listed == list(range(1, 118))


def test_a_wide_name_does_not_reach_its_volume() -> None:
    cut = sheets._fitting("W" * 60, 200, 12)
    assert cut.endswith("...")
    assert lettering.font_of(12).getlength(cut) <= 200


def test_letters_that_the_first_font_lacks_are_drawn_in_one_that_has_them() -> None:
    fonts = lettering._fonts(12)
    having = next((k for k, font in enumerate(fonts) if lettering._has(font, "ü")), 0)
    if having == 0:
        pytest.skip("this computer has none of the fonts")
    assert lettering._parts("Müller", 12) == [(fonts[0], "M"), (fonts[having], "ü"), (fonts[0], "ller")]
    assert lettering.length_of("Müller", 12) > lettering.length_of("Mller", 12)
