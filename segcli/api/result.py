"""Result: the labels of a scan and all that is said of them, for a program, a notebook or files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Integral
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from segcli import formats
from segcli.api.words import in_python
from segcli.batch import described, outputs, stages
from segcli.batch.clashes import apart
from segcli.batch.names import folder_or_file
from segcli.batch.objects import Objects, today
from segcli.batch.outputs import Destination
from segcli.batch.stages import Job, Labelled
from segcli.documents import Document
from segcli.errors import EngineError, UsageError, near
from segcli.folders import at_home
from segcli.formats.atomic import temporary_folder, translated
from segcli.results import measure
from segcli.results.record import LabelsFacts, Measured
from segcli.results.scan_checks import Finding
from segcli.space.volume import LPS_OF_RAS, Volume, Voxels
from segcli.structures import Label, chosen

if TYPE_CHECKING:
    from segcli.inference.segment import Segmentation
    from segcli.results.measure import Report

Names = str | int | Sequence[str | int]  # what structures are called by: names, numbers, codes


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """Labels of a scan, what they measure, and how far they can be trusted.

    scan     the voxels that were labelled, (C, D, H, W)
    volume   the labels on the scan's own grid, (1, D, H, W)
    turned   whether `labels` has the axes i, j, k, as nibabel has them; else k, j, i, as ITK has them
    given    what the caller gave

    >>> result = segcli.segment("scan.nii.gz")
    >>> result.verdict, round(result.volumes_ml["left_hippocampus"], 1), result.mask("thalamus").dtype
    ('pass', 6.7, dtype('bool'))
    >>> result.rows[0]["name"], result.checks[0].severity, result.record["model"]["name"]
    ('left_cerebral_white_matter', 'note', 'uxnet')
    >>> result.to_nibabel().shape, result.to_sitk().GetSize()
    ((197, 233, 189), (197, 233, 189))
    """

    scan: Volume
    volume: Volume
    turned: bool
    given: Any
    _job: Job
    _labelled: Labelled

    def __repr__(self) -> str:
        found = [s for s in self.report.structures if s.voxels]
        total = sum(s.volume_ml for s in found)
        return (
            f"<Result {self._labelled.loaded.case.name}: {self._job.model['name']}, "
            f"{len(found)} of {len(self.report.structures)} structures, {total:.4g} mL, {self.verdict}>"
        )

    def _repr_png_(self) -> bytes:
        """Slices with the labels over them, for a notebook."""
        return self._picture

    @cached_property
    def _picture(self) -> bytes:
        from segcli.results.montage import montage_picture
        from segcli.results.picture import png

        return png(montage_picture(self.scan, self.volume, self.structures, self.record, day=today()))

    # ---- labels

    @cached_property
    def labels(self) -> Voxels:
        """Every voxel's label, 3-D, in the orientation and the order of axes of the input's own array.

        (i, j, k) for NIfTI, MGH and nibabel, and for an array in RAS+; (k, j, i) for DICOM, NRRD, MetaImage and
        SimpleITK, for an array in LPS+ and for a Volume.
        """
        data: Voxels = self.volume.data[0]
        return data.transpose(2, 1, 0) if self.turned else data

    @property
    def affine(self) -> NDArray[np.float64]:
        """(4, 4), from indices of `labels` to RAS+ mm, as nibabel has it."""
        lps = self.volume.grid.affine
        ras: NDArray[np.float64] = LPS_OF_RAS @ (lps[:, [2, 1, 0, 3]] if self.turned else lps)
        return ras

    @property
    def structures(self) -> tuple[Label, ...]:
        """The labels that were looked for, background first."""
        return self._job.shown.labels

    def mask(self, *structures: str | int) -> NDArray[np.bool_]:
        """Where any of the structures is, as `labels`; by name, number or code, "hippocampus" for both sides."""
        ids = [label.id for label in chosen(self._job.shown.structures, names_of(structures), "mask")]
        found: NDArray[np.bool_] = np.isin(self.labels, ids)
        return found

    @property
    def probabilities(self) -> NDArray[np.float32] | None:
        """Of each label, (K, ...) from 0 to 1 with the axes of `labels`; None unless they were asked for.

        They are the network's: steps of the card and options that change labels leave them as they are.
        """
        found = self.details.probabilities
        return None if found is None else self._floats(found)

    @property
    def disagreement(self) -> NDArray[np.float32] | None:
        """Share of an ensemble's members that decide otherwise, as `labels`; None unless it was asked for."""
        found = self.details.votes
        return None if found is None else self._floats(found)[0]

    def _floats(self, volume: Volume) -> NDArray[np.float32]:
        data = volume.data.transpose(0, 3, 2, 1) if self.turned else volume.data
        return data.astype(np.float32) / np.float32(255)

    # ---- what is said of them

    @cached_property
    def _measured(self) -> Measured:
        return described.measured(self._job, self._labelled)

    @property
    def report(self) -> Report:
        """Voxels, mm3, mL, intensity and place of each structure."""
        return self._measured.report

    @property
    def volumes_ml(self) -> Mapping[str, float]:
        """Millilitres of each structure by name; 0 where it was not found."""
        return {s.name: s.volume_ml for s in self.report.structures}

    @property
    def rows(self) -> list[Document]:
        """A flat dict for each structure: the columns of `--report csv`."""
        return measure.rows(self.report)

    @property
    def table(self) -> Any:
        """The rows as a pandas.DataFrame with the structures' names as its index.

        errors   EngineError (69): pandas is not installed; `rows` needs nothing
        """
        try:
            import pandas
        except ImportError as error:
            raise EngineError("a table needs pandas", hint="pip install pandas, or take `rows`") from error
        return pandas.DataFrame(self.rows).set_index("name")

    @property
    def checks(self) -> Sequence[Finding]:
        """Every doubt about the labels, the gravest first: code, severity, structure, sentence."""
        return self._measured.findings

    @property
    def verdict(self) -> Literal["pass", "review", "fail"]:
        """The worst of the doubts; "pass" without any but notes."""
        found: Literal["pass", "review", "fail"] = self.record["verdict"]
        return found

    @property
    def warnings(self) -> list[str]:
        """Sentences about the input and the run."""
        found: list[str] = self.record["warnings"]
        return found

    @property
    def details(self) -> Segmentation:
        """Stage times, windows, confidence."""
        return self._labelled.result

    @cached_property
    def record(self) -> Document:
        """What `segcli predict` writes beside a label map, without what only files have (`labels`, `extras`, `run`)."""
        nowhere = LabelsFacts(file="", sha256="")
        made = described.recorded(self._job, self._labelled, nowhere, self._measured).document
        del made["labels"]
        return made

    # ---- for others

    def to_sitk(self) -> Any:
        """The labels as a SimpleITK.Image on the scan's grid; its geometry is to the bit that of a SimpleITK input."""
        from segcli.space.itk_image import image_of

        return image_of(self.volume, self.given)

    def to_nibabel(self) -> Any:
        """The labels as a nibabel.Nifti1Image with the forms, codes and units that `save` writes.

        errors   EngineError (69): nibabel is not installed
        """
        try:
            import nibabel
        except ImportError as error:
            raise EngineError("nibabel is not installed", hint="pip install nibabel") from error
        with temporary_folder() as folder:
            path = Path(folder, "labels.nii")
            formats.write(self.volume, self.structures, path, self.scan.source)
            data = path.read_bytes()
        kind = nibabel.Nifti2Image if data[0] in (28, 0) and b"n+2" in data[:16] else nibabel.Nifti1Image
        return kind.from_bytes(data)

    @in_python
    def save(
        self,
        to: str | PathLike[str],
        *,
        write: str | Sequence[str] = (),
        report: str | Sequence[str] = (),
        tables: str | Sequence[str] = (),
        split: bool = False,
        layout: Literal["flat", "bids"] = "flat",
        stats_format: Literal["segcli", "totalseg"] = "segcli",
        seg_type: Literal["binary", "fractional", "labelmap"] = "binary",
        series_description: str | None = None,
        series_number: int | None = None,
        content_date: Literal["source", "now"] = "source",
        anonymous: bool = False,
        overwrite: bool = False,
        include_identifiers: bool = False,
    ) -> list[Path]:
        """Write label map and record, and what else is asked for, all or none; the paths, the label map first.

        to       a file whose ending chooses the format (.nii.gz, .nrrd, .mha, .mgz, ...), or a folder
        others   as the options of `segcli predict` of that name
        errors   OutputExists: a file is there that is not this result, without `overwrite`; OutputError: no space, ...
        """
        if not isinstance(to, str | PathLike):
            raise UsageError(f"to={to!r}: is neither a str nor a path")
        named = at_home(to)
        path = Path(named)
        if not fspath(to):
            raise UsageError("to='': has an empty name", hint="give a folder or a file; . is this folder")
        for name, value, choices in (
            ("layout", layout, ("flat", "bids")),
            ("stats_format", stats_format, ("segcli", "totalseg")),
            ("seg_type", seg_type, ("binary", "fractional", "labelmap")),
            ("content_date", content_date, ("source", "now")),
        ):
            if value not in choices:
                raise UsageError(f"{name}={value!r}: is not one of {', '.join(choices)}")
        folder, file = folder_or_file(named)
        place = Destination(
            folder=folder,
            file=file,
            overwrite=overwrite,
            forms=_kinds("--write", write),
            reports=_kinds("--report", report),
            tables=_kinds("--tables", tables),
            split=split,
            layout=layout,
            stats=stats_format,
            seg_type=seg_type,
            identifiers=include_identifiers,
            dicom=Objects(series_description, series_number, content_date, anonymous),
        )
        job, case = replace(self._job, to=place), self._labelled.loaded.case
        outputs.refuse_beforehand(self.scan, place, self._job.shown.labels)
        for what, wanted, found, how in (
            ("probabilities", place.probabilities, self.details.probabilities, "segment(..., probabilities=True)"),
            ("disagreement", place.votes, self.details.votes, "load([...], disagreement=True)"),
        ):
            if wanted and found is None:
                raise UsageError(
                    f"the scan was labelled without {what}, which are to be written", hint=f"ask for them: {how}"
                )
        apart([case], self._job.shown, place)
        with translated(path):
            (folder or path.parent).mkdir(parents=True, exist_ok=True)
        return list(stages.write(job, self._labelled).paths)


def names_of(value: Names) -> tuple[str, ...]:
    """One name or number, or several; UsageError for what is neither."""
    if isinstance(value, str | Integral):
        return (str(value),)
    if not isinstance(value, Iterable):
        raise UsageError(f"{value!r}: is neither a name nor several of them")
    return tuple(map(str, value))


def _kinds(option: outputs.Option, value: str | Sequence[str]) -> tuple[str, ...]:
    """The kinds of output that an option of the command can name; UsageError with the nearest one otherwise."""
    known = outputs.choices(option)
    for kind in names_of(value):
        if kind not in known:
            told = f"{option.removeprefix('--')}={kind!r}: is not one of {', '.join(known)}"
            raise UsageError(told + near(kind, known))
    return names_of(value)
