"""A label map, or a folder of them, beside its references: which files, on which grid, by which names; what is told."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from segcli import formats
from segcli.errors import Denied, InputError, InputMissing, SegcliError, UsageError, first_few
from segcli.formats import freesurfer
from segcli.formats.table import stem
from segcli.models.card import ModelCard
from segcli.results import evaluate as scoring
from segcli.results.evaluate import Score
from segcli.results.numbers import refuse_model
from segcli.results.pairing import Pair, pair_folders
from segcli.results.reference_labels import merged, parts
from segcli.results.scan_checks import label_map
from segcli.space.volume import Grid, Volume
from segcli.structures import Label

_SHOWN = 10  # numbers of labels in a sentence


@dataclass(frozen=True)
class Comparison:
    """How label maps are compared.

    names      the structures that are scored; without them each value that either map of a case holds
    tolerance  of the surface Dice, mm; resample: move a prediction onto another grid instead of refusing it
    affine     which statement of a NIfTI header counts
    numbers    the program whose the references' numbers are, of reference_labels.SETS
    card       the model that both are of
    called     value -> name, for the table, where no structures are named
    tell       whether values that are not scored are told
    """

    names: Sequence[Label] = ()
    tolerance: float = 1.0
    resample: bool = False
    affine: formats.Form | None = None
    numbers: str | None = None
    card: ModelCard | None = None
    tell: bool = True
    called: Mapping[int, str] = field(default_factory=dict)

    def scores(
        self, pairs: Iterable[Pair], say: Callable[[str], None]
    ) -> tuple[dict[str, list[Score]], dict[str, SegcliError]]:
        """The scores of each case by its name, and why others have none; `say` is given sentences for the user.

        errors   UsageError; InputError, Denied: no case has any
        """
        found: dict[str, list[Score]] = {}
        refused: dict[str, SegcliError] = {}
        for pair in pairs:
            try:
                found[pair.name] = self._case(pair, say)
            except (InputError, Denied) as error:
                refused[pair.name] = error
        if not found:
            first = next(iter(refused.values()))
            more = f" (and none of {len(refused)} cases can be compared)" if len(refused) > 1 else ""
            raise type(first)(first.message + more, hint=first.hint)
        return found, refused

    def _case(self, pair: Pair, say: Callable[[str], None]) -> list[Score]:
        """The scores of a case; without a prediction all that its reference has is missed."""
        name, mine, truth = pair
        if self.card is not None:
            if mine is not None:
                refuse_model(mine, self.card)
            if self.numbers is None:  # else the reference has numbers of its own
                refuse_model(truth, self.card)
        if mine is None:
            ref, own = self._reference(truth)
            pred = replace(ref, data=np.zeros_like(ref.data))
        else:
            pred, ref, own = self._both(mine, truth, say)
        names = self.names or own
        if self.numbers is not None:
            ref = merged(ref, self.numbers)
        try:
            found = scoring.evaluate(pred, ref, names, self.tolerance, resample=self.resample, called=self.called)
        except InputError as error:
            raise error.about(" and ".join(path.name for path in (mine, truth) if path is not None)) from error
        if self.tell:
            self._tell(name, pred, ref, names, say)
        return found

    def _tell(self, name: str, pred: Volume, ref: Volume, names: Sequence[Label], say: Callable[[str], None]) -> None:
        """What of a case is not scored, and whether its reference has the numbers of a program that was not named."""
        if self.resample and (gone := scoring.lost(pred, ref.grid)):
            ml = gone * pred.grid.voxel_mm3 / 1000
            told = f"{gone:,} labelled voxels of the prediction ({ml:.3g} mL) lie beyond the reference's grid"
            say(f"warning: {name}: {told} and are not scored")
        if self.resample and (gone := scoring.lost(ref, pred.grid)):
            ml = gone * ref.grid.voxel_mm3 / 1000
            told = f"{gone:,} labelled voxels of the reference ({ml:.3g} mL) lie beyond the prediction's grid"
            say(f"warning: {name}: {told} and count as missed")
        left = scoring.unscored(pred, ref, names)
        for whose, values in zip(("prediction", "reference"), left, strict=True):
            if names and values:
                say(f"warning: {name}: values of the {whose} that are not scored: {first_few(values, _SHOWN)}")
        known = {label.id for label in names} or {*left[0]}
        if self.numbers is None and (found := parts(left[1], known)):
            whose = "model" if self.card is not None else "prediction"
            told = (
                f"{first_few(found, _SHOWN)} of the reference are numbers of FreeSurfer that the {whose} does not have"
            )
            say(f"warning: {name}: {told}: --reference-labels freesurfer counts them as the whole that they are of")

    def _reference(self, truth: Path) -> tuple[Volume, Sequence[Label]]:
        """A reference without a prediction on a grid of its own, and names as of `_both`; nothing is told of them."""
        if not formats.is_segmentation(truth):
            return label_map(truth, self.affine, self._known(truth=True)), ()
        from segcli.formats.dicom.seg import common_grid

        ref, names = self._segmentation(truth, common_grid([truth]), self.numbers, lambda sentence: None)
        return ref, names if self.numbers is None else ()

    def _both(self, mine: Path, truth: Path, say: Callable[[str], None]) -> tuple[Volume, Volume, Sequence[Label]]:
        """Prediction and reference on grids of their own, and names for their values where a Segmentation has some.

        A DICOM Segmentation lies on the planes of the other's grid; two of them on the planes that they have.
        """
        objects = [path for path in (mine, truth) if formats.is_segmentation(path)]
        if len(objects) == 2:
            return self._two_segmentations(mine, truth, say)
        plain = {
            path: label_map(path, self.affine, self._known(truth=path == truth))
            for path in (mine, truth)
            if path not in objects
        }
        names: Sequence[Label] = ()
        if objects:
            (one,), (other,) = objects, plain.values()
            plain[one], names = self._segmentation(one, other.grid, self.numbers if one == truth else None, say)
            mine_alone, truth_alone = scoring.unscored(plain[mine], plain[truth], names)
            others = sorted({*mine_alone, *truth_alone}) if names else ()
            names = [*names, *(Label(i, f"label_{i}") for i in others)]
        return plain[mine], plain[truth], names if self.numbers is None else ()

    def _known(self, *, truth: bool) -> set[int]:
        """The numbers that have names in a prediction or, where `truth`, in a reference."""
        labels = [*self.names, *(self.card.labels if self.card is not None else ())]
        of_program = freesurfer.names() if truth and self.numbers == "freesurfer" else {}
        return {label.id for label in labels} | of_program.keys()

    def _segmentation(
        self, path: Path, grid: Grid, numbers: str | None, say: Callable[[str], None]
    ) -> tuple[Volume, Sequence[Label]]:
        """The labels of a DICOM Segmentation on a grid, numbered as the card has its segments' names.

        Without a card its segments' own numbers count, and where they are said to be those of a program.

        numbers  the name of that program; None: nothing is said
        errors   InputError: they are plainly not that program's
        """
        from segcli.formats.dicom.seg import labels_on, segments_in

        if self.card is not None and numbers is None:
            return labels_on(path, grid, self.card.labels), ()
        segments = {number: name for number, name in segments_in(path).items() if number != 0}
        if numbers is not None and [*segments] == [*range(1, len(segments) + 1)]:
            told = f"{path.name}: its segments are numbered from 1 to {len(segments)}, which are not those of {numbers}"
            raise InputError(told, hint="leave --reference-labels away: with --model segments go by their names")
        named = [f"{number} {name}" for number, name in segments.items()]
        shown = first_few(named, 5)
        instead = f"as those of {numbers}" if numbers is not None else "with --model by names"
        say(f"note: {path.name}: its segments are compared by their own numbers ({shown}), {instead}")
        return labels_on(path, grid), [Label(number, name) for number, name in segments.items()]

    def _two_segmentations(
        self, mine: Path, truth: Path, say: Callable[[str], None]
    ) -> tuple[Volume, Volume, Sequence[Label]]:
        """Two DICOM Segmentations on the planes that they have, their segments by their names."""
        from segcli.formats.dicom.seg import common_grid, in_other_frames, labels_on, segments_in

        by_names = f"{mine.name} and {truth.name}: are both DICOM Segmentations, whose segments go by their names"
        if self.numbers is not None:
            raise UsageError(by_names, hint="leave --reference-labels away")
        if self.names and self.card is None:
            raise UsageError(f"{by_names}, and --labels has numbers", hint="leave it away, or name their model")
        grid = common_grid([mine, truth])
        if in_other_frames([mine, truth]):
            told = "their positions are in different frames of reference: are they of one scan?"
            say(f"warning: {mine.name} and {truth.name}: {told}")
        if self.card is not None:
            return labels_on(mine, grid, self.card.labels), labels_on(truth, grid, self.card.labels), ()
        called = [dict.fromkeys(segments_in(path).values()) for path in (mine, truth)]
        if not called[0].keys() & called[1].keys():
            shown = " and ".join(", ".join([*names][:5]) or "none" for names in called)
            told = f"{mine.name} and {truth.name}: no segments of one have a name of the other's: {shown}"
            raise InputError(told, hint="give one of them as a label map: numbers are compared then")
        names = [Label(number, name) for number, name in enumerate({**called[1], **called[0]}, 1)]
        return labels_on(mine, grid, names), labels_on(truth, grid, names), names


def paired(prediction: Path, reference: Path, say: Callable[[str], None]) -> list[Pair]:
    """The cases of two files or two folders; `say` is given sentences for the user.

    errors   InputMissing, UsageError, InputError
    """
    for path in (prediction, reference):
        if not path.exists():
            raise InputMissing(f"{path}: no such file or folder")
    if prediction.is_dir() != reference.is_dir():
        raise UsageError(f"{prediction} and {reference}: one is a folder, the other a file")
    if not prediction.is_dir():
        return [Pair(stem(prediction), prediction, reference)]
    pairs, told = pair_folders(prediction, reference)
    for sentence in told:
        say(f"warning: {sentence}")
    return pairs
