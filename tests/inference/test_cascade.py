"""A cascade's second model sees the labels of the first, and both count as one model."""

from pathlib import Path

import numpy as np
import pytest
from models import CARD, EACH, of_cascade, organs
from runs import Pointwise, scan

from segcli import formats
from segcli.batch.cases import Case
from segcli.batch.outputs import Destination
from segcli.batch.pipeline import predict
from segcli.batch.stages import Options
from segcli.engines.opening import Opening
from segcli.errors import ModelError
from segcli.inference.cascade import Rule, label_channels
from segcli.inference.parts import Part, segment_parts
from segcli.inference.prepare import prepare
from segcli.inference.together import Member, segment_together
from segcli.models import imports
from segcli.models.card import ModelCard, parse
from segcli.models.library import read_card
from segcli.space.volume import Grid, Volume


def line(values: list[int], step: float = 1.0) -> Volume:
    """Voxels along the last axis, whose first face is at 0 mm."""
    affine = np.diag([1.0, 1.0, step, 1.0])
    affine[2, 3] = step / 2
    return Volume(np.array(values, np.uint8).reshape(1, 1, 1, -1), Grid((1, 1, len(values)), affine))


def told(labels: list[int], inside: list[int], steps: int, rule: Rule = "largest") -> list[list[int]]:
    have, want = line(labels), line([0] * steps, len(labels) / steps)
    body = Volume(line(inside).data > 0, have.grid)
    return label_channels(have, (1, 2), body, want.grid, None, rule).reshape(2, -1).astype(int).tolist()


def test_the_label_with_the_largest_share_of_a_voxel_is_shown() -> None:
    # samples lie at 0.25, 1.75, 3.25 of the six voxels' centres 0..5 where two are made of three
    assert told([0, 1, 1, 2, 2, 2], [1] * 6, 4) == [[0, 1, 0, 0], [0, 0, 1, 1]]


def test_of_equal_shares_the_nearest_voxels_label_is_shown() -> None:
    # samples half-way between two voxels, of which the upper one is the nearest
    assert told([1, 2, 0, 1], [1] * 4, 2) == [[0, 1], [1, 0]]


def test_in_version_1_the_last_label_with_one_half_at_least_is_shown() -> None:
    # samples half-way between two voxels: both have one half, the later label wins, over background too
    assert told([1, 2, 0, 1], [1] * 4, 2, "half") == [[0, 1], [1, 0]]
    assert told([2, 1, 1, 0], [1] * 4, 2, "half") == [[0, 1], [1, 0]]
    # at 1.75 and 3.25 of the six voxels: three quarters of one label
    assert told([0, 1, 1, 2, 2, 2], [1] * 6, 4, "half") == [[0, 1, 0, 0], [0, 0, 1, 1]]


def test_background_where_there_is_nothing_is_a_label_of_its_own() -> None:
    # the middle of four voxels, two of them of a structure: it ties with one kind of background, and wins of two
    have = Volume(np.array([0, 1, 1, 0], np.uint8).reshape(1, 1, 2, 2), Grid((1, 2, 2), np.eye(4)))
    affine = np.diag([1.0, 2.0, 2.0, 1.0])
    affine[1:3, 3] = 0.5
    for inside, seen in (([1, 1, 1, 1], 0), ([0, 1, 1, 1], 1)):
        body = Volume(np.array(inside, bool).reshape(1, 1, 2, 2), have.grid)
        assert label_channels(have, (1,), body, Grid((1, 1, 1), affine), None).sum() == seen


@pytest.fixture
def cascade(tmp_path: Path) -> ModelCard:
    """A second model that labels as the channels of the first one's labels say."""
    return read_card(of_cascade(tmp_path))


@pytest.mark.slow
def test_a_cascade_is_run_as_one_model_whose_record_counts_the_files_of_both(cascade, tmp_path) -> None:
    path = scan(tmp_path / "a.nii.gz")
    opening = Opening((str(cascade.folder),), "torch", "cpu", threads=1)
    first = read_card(cascade.folder.parent / "organs")
    maps, sums = [], []
    for own in (cascade, first):
        opened = Opening((str(own.folder),), "torch", "cpu", threads=1).open(own)
        [done] = predict([Case("a", (path,), tmp_path)], own, opened, Destination(tmp_path / own.name), Options())
        maps.append(formats.read([done.paths[0]]).data)
        sums.append(done.record["model"]["sha256"])
    assert maps[1].any()
    assert np.array_equal(*maps)
    organs(first.folder, **EACH, overlap=0.25)
    assert set(opening.open(cascade).hashes) == {"weights.safetensors", "organs/weights.safetensors"}
    assert imports.verify(cascade.folder).previous == "organs"


def test_the_windows_of_both_models_are_counted_and_progress_never_goes_back(cascade) -> None:
    opened = Opening((str(cascade.folder),), "torch", "cpu", threads=1).open(cascade)
    image = Volume(np.ones((1, 40, 32, 32), np.float32), Grid((40, 32, 32), np.eye(4)))
    earlier, own = opened.earlier, opened.engine
    assert earlier is not None
    first = Member(earlier[0].procedure, earlier[1].engine)
    second = Member(cascade.procedure, own, first)
    alone = segment_together(image, [first]).windows
    for members, count in (([second], 2), ([second, second], 4), ([first, second], 3)):
        ticks: list[tuple[int, int]] = []
        found = segment_together(image, members, lambda *at, to=ticks: to.append(at))
        assert found.windows == count * alone
        assert len(ticks) == found.windows
        shares = [done / total for done, total in ticks]
        assert shares == sorted(shares)
        assert shares[-1] == 1
    decide = cascade.procedure.decide
    parts = [Part(one, {label.id: label.id for label in cascade.structures}) for one in (first, second)]
    shares = []
    both = segment_parts(image, parts, decide, lambda done, total: shares.append(done / total))
    assert (both.windows, len(shares)) == (3 * alone, 3 * alone)
    assert shares == sorted(shares)


def test_windows_that_the_first_model_computed_again_are_told_however_it_is_run(cascade) -> None:
    class Again(Pointwise):
        def run(self, patches: np.ndarray) -> np.ndarray:
            self.repeated += len(patches)
            return super().run(patches)

    opened = Opening((str(cascade.folder),), "torch", "cpu", threads=1).open(cascade)
    assert opened.earlier is not None
    image = Volume(np.ones((1, 9, 8, 7), np.float32), Grid((9, 8, 7), np.eye(4)))
    procedure = opened.earlier[0].procedure

    def second() -> Member:
        return Member(cascade.procedure, opened.engine, Member(procedure, Again()))

    values = {label.id: label.id for label in cascade.structures}
    for found in (
        segment_together(image, [second()]),
        segment_together(image, [Member(procedure, Pointwise()), second()]),
        segment_parts(image, [Part(second(), values)], cascade.procedure.decide),
    ):
        assert [words for words in found.warnings if "in 1 window: computed again" in words]


def test_without_its_first_model_the_channels_are_nothing(cascade) -> None:
    image = Volume(np.ones((1, 9, 8, 7), np.float32), Grid((9, 8, 7), np.eye(4)))
    prepared = prepare(image, cascade.procedure)
    assert prepared.image.data.shape == (6, 9, 8, 7)
    assert not prepared.image.data[1:].any()
    assert prepared.outside.shape == (6,)


def test_a_first_model_that_is_not_there_or_labels_something_else_is_refused(cascade, tmp_path) -> None:
    organs(tmp_path / "organs", **EACH, labels={**CARD["labels"], "spine": 9})
    with pytest.raises(ModelError, match="its first model organs has other channels or label values"):
        imports.verify(cascade.folder)
    (tmp_path / "organs").rename(tmp_path / "gone")
    with pytest.raises(ModelError, match="its first model organs cannot be used: no model 'organs' found"):
        imports.verify(cascade.folder)


def test_a_cascade_is_one_network_of_three_axes() -> None:
    for fields in ({"parts": ["a"]}, {"ensemble": ["a"]}, {"slice_axis": 0, "patch_size": [1, 32, 32]}):
        with pytest.raises(ModelError, match="the field previous"):
            parse({**CARD, "previous": "organs", **fields})
