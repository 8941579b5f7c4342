"""What is written beside label map and record when it is asked for: one table of kinds, and where each file goes.

A further kind comes from an installed package: an entry point of the group `segcli.outputs` that names an `Output`. Its
`write` gets a path in a folder of its own and may use it in any way.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from segcli.batch.bids import derivative_name
from segcli.batch.objects import Objects, Signed, refuse_unreferable, today
from segcli.documents import Facts
from segcli.errors import EngineError, UsageError
from segcli.packages import added
from segcli.structures import Label, file_names, renamed

if TYPE_CHECKING:
    from segcli.batch.cases import Case
    from segcli.inference.segment import Segmentation
    from segcli.models.card import ModelCard
    from segcli.results.measure import Report
    from segcli.space.volume import Volume

LABELS = {"flat": "_seg.nii.gz", "bids": "_dseg.nii.gz"}  # what the name of a case gets in each layout
RECORD = {"flat": "_seg.json", "bids": "_dseg.json"}
_LARGEST = 65535  # number of a segment, PS3.3 C.8.20.2

Option = Literal["--write", "--report", "--tables", "--split", "--layout", "--stats-format"]
Need = Literal["dicom", "probabilities", "viewer", "votes"]
Writer = Callable[[Path, "Finished"], Sequence[str]]


@dataclass(frozen=True)
class Output:
    """One kind of file that segcli makes of a case.

    kind     its name, which the user gives to `option`
    ending   what the name of the case gets, unique; with `inside` that of a folder
    says     what the file is, in a few words
    write    writes it at a path; returns sentences for the user and the record
    needs    what there has to be: a scan that is DICOM, probabilities, the script of the viewer, an ensemble's votes
    also     whether something else that was asked for brings it along
    inside   names of the files in the folder, where there are several
    bids     whether a BIDS derivative may have such files
    shows    its file says at its beginning what it shows, as `shown.shown_in` reads it
    """

    kind: str
    ending: str
    says: str
    write: Writer
    option: Option = "--write"
    needs: tuple[Need, ...] = ()
    also: Callable[[Destination], bool] = lambda to: False
    inside: Callable[[ModelCard], Iterable[str]] | None = None
    bids: bool = False
    shows: bool = False

    @property
    def asked(self) -> str:
        """How it is asked for."""
        return self.option if self.option == "--split" else f"{self.option} {self.kind}"


@dataclass(frozen=True)
class Destination:
    """Where outputs go and which of them are made.

    folder    None: beside each input
    file      of the label map of one scan, instead of a folder; the other files have its name before their endings
    layout    "flat", or "bids" for a derivatives tree
    """

    folder: Path | None = None
    file: Path | None = None
    overwrite: bool = False
    forms: tuple[str, ...] = ("nifti",)
    reports: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    split: bool = False
    layout: Literal["flat", "bids"] = "flat"
    stats: Literal["segcli", "totalseg"] = "segcli"
    seg_type: Literal["binary", "fractional", "labelmap"] = "binary"
    identifiers: bool = False
    dicom: Objects = field(default_factory=Objects)

    @property
    def outputs(self) -> list[Output]:
        """The kinds that are made: reports and tables as they were named, then the others."""
        known = {(output.option, output.kind): output for output in outputs()}
        named = [known["--report", kind] for kind in self.reports] + [known["--tables", kind] for kind in self.tables]
        forms = [known["--write", kind] for kind in self.forms if kind != "nifti"]
        return [*named, *(o for o in outputs() if o not in named and (o in forms or o.also(self)))]

    @property
    def probabilities(self) -> bool:
        """Whether something that is written needs probabilities."""
        kinds = ("dicom-seg",) if self.seg_type == "fractional" else ()
        return any("probabilities" in o.needs or o.kind in kinds for o in self.outputs)

    @property
    def votes(self) -> bool:
        """Whether something that is written needs the votes of an ensemble."""
        return any("votes" in o.needs for o in self.outputs)

    def base(self, case: Case, model: str) -> Path:
        """Outputs of a case are this path with something added to its name."""
        if self.file is not None:
            from segcli.results.recorded import base_of

            return self.file.with_name(base_of(self._stem))
        path = (self.folder or case.beside) / case.name
        if self.layout == "bids":
            return path.with_name(derivative_name(path.name, "".join(c for c in model if c.isalnum())))
        return path

    @property
    def _stem(self) -> str:
        from segcli.formats.table import stem

        return stem(self.file) if self.file is not None else ""

    def labels(self, case: Case, model: str) -> Path:
        return self.file or beside(self.base(case, model), LABELS[self.layout])

    def record(self, case: Case, model: str) -> Path:
        if self.file is not None:
            return self.file.with_name(f"{self._stem}.json")
        return beside(self.base(case, model), RECORD[self.layout])

    def files(self, case: Case, card: ModelCard) -> list[Path]:
        """Label map, record, and what else is made of a case."""
        first = [self.labels(case, card.name), self.record(case, card.name)]
        return first + list(planned(self.base(case, card.name), card, self))


@dataclass(frozen=True, eq=False)
class Finished:
    """What a writer may use of a case.

    base    outputs are this path with an ending
    scan    (C, D, H, W), as in the file; the labels of `result` are on its grid
    card    the model, with no other structures than those that are written
    facts   the record, as JSON has it
    bare    the scan itself is not there, and `scan` is black
    """

    base: Path
    scan: Volume
    result: Segmentation
    card: ModelCard
    to: Destination
    report: Report
    facts: Facts
    bare: bool = False

    @property
    def signed(self) -> Signed:
        """Who made it, and what is to be said of it, for a DICOM object."""
        return self.to.dicom.signed(self.card.name, str(self.facts["model"]["sha256"]))


def beside(base: Path, ending: str) -> Path:
    """`base` with an ending added to its name, whatever dots the name has."""
    return base.with_name(base.name + ending)


def planned(base: Path, card: ModelCard, to: Destination) -> dict[Path, Output]:
    """Every file that `write` makes for these wishes, and what it is, in the order of writing."""
    found: dict[Path, Output] = {}
    for output in to.outputs:
        path = beside(base, output.ending)
        names = output.inside(card) if output.inside is not None else None
        found |= {path: output} if names is None else {path / name: output for name in names}
    return found


def refuse_beforehand(scan: Volume, to: Destination, labels: Iterable[Label] = ()) -> None:
    """Before anything is computed, refuse what cannot be written: UsageError, InputError, EngineError.

    DICOM objects of a scan that none can refer to, numbers of labels that DICOM cannot have, a missing viewer, a label
    map whose format cannot say where the scan's voxels are.
    """
    if to.file is not None:
        from segcli import formats

        formats.refuse_unwritable(to.file, scan.grid)
    if any("viewer" in output.needs for output in to.outputs):
        from segcli.results.page.niivue import script

        script()
    dicom = {output.kind for output in outputs() if "dicom" in output.needs}
    if kind := next((kind for kind in to.forms if kind in dicom), None):
        refuse_unreferable(scan.source, kind)
    most = max(labels, key=lambda label: label.id, default=None)
    packed = to.seg_type == "labelmap" and any(output.kind == "dicom-seg" for output in to.outputs)
    if packed and most is not None and most.id > _LARGEST:
        told = f"--seg-type labelmap: numbers go up to {_LARGEST} there, and {most.name} has {most.id}"
        raise UsageError(told, hint="--seg-type binary numbers its segments from 1 on")


def write(case: Finished) -> tuple[list[Path], list[str]]:
    """Write what was asked for; returns the paths, and sentences for the user and the record."""
    wanted = planned(case.base, case.card, case.to)
    said = [sentence for path, output in wanted.items() for sentence in output.write(path, case)]
    return list(wanted), list(dict.fromkeys(said))


# ---- what writes each kind -----------------------------------------------------------------------------------------


def _csv(path: Path, case: Finished) -> Sequence[str]:
    from segcli.formats import atomic
    from segcli.results.measure import csv_text, rows

    atomic.write_bytes(path, csv_text(rows(case.report), "\t" if path.suffix == ".tsv" else ",").encode())
    return ()


def _page(viewer: bool, path: Path, case: Finished) -> Sequence[str]:
    from segcli.formats import atomic
    from segcli.results.page import case_page
    from segcli.results.page.niivue import script

    shown = script() if viewer else ""
    atomic.write_bytes(path, case_page(case.scan, case.result.labels, case.card, case.facts, shown, bare=case.bare))
    return ()


def _montage(columns: int, path: Path, case: Finished) -> Sequence[str]:
    from segcli.results.montage import montage

    montage(case.scan, case.result.labels, case.card.labels, path, case.facts, columns, today(), bare=case.bare)
    return ()


def _table(form: str, path: Path, case: Finished) -> Sequence[str]:
    from segcli.formats import tables

    tables.write(case.card.labels, form, path)
    return tables.changes(case.card.labels, form)


def _dicom_seg(path: Path, case: Finished) -> Sequence[str]:
    from segcli.formats.dicom import seg_writer

    kind = case.to.seg_type
    shown = _fractions(case.result, case.card) if kind == "fractional" else case.result.labels
    return seg_writer.write(shown, case.card.structures, path, case.scan.source, kind=kind, **case.signed)


def _fractions(result: Segmentation, card: ModelCard) -> Volume:
    """Probabilities of the card's structures in the order of their values, (K, D, H, W) float32 from 0 to 1."""
    import numpy as np

    from segcli.space.volume import Volume

    if result.probabilities is None:
        raise UsageError("--seg-type fractional: there are no probabilities for a label map that exists already")
    channels = [card.decide.values.index(value) for value in sorted(label.id for label in card.structures)]
    return Volume(result.probabilities.data[channels].astype(np.float32) / 255, result.labels.grid)


def _rtstruct(path: Path, case: Finished) -> Sequence[str]:
    from segcli.formats.dicom import rtstruct

    return rtstruct.write(case.result.labels, case.card.structures, path, case.scan.source, **case.signed)


def _dicom_sr(path: Path, case: Finished) -> Sequence[str]:
    from segcli.formats import atomic
    from segcli.formats.dicom import sr

    there, labels = atomic.at_present(beside(case.base, DICOM_SEG)), case.result.labels
    return sr.write(labels, case.card.structures, path, case.scan.source, segmentation=there, **case.signed)


def _image(path: Path, case: Finished, values: Volume | None) -> Sequence[str]:
    from segcli import formats

    if values is None:
        raise UsageError(f"{path.name}: cannot be made of a label map that exists already")
    formats.write_image(values, path, case.scan.source, description=f"segcli {case.card.name}", slope=1 / 255)
    return ()


def _volume_names(path: Path, case: Finished) -> Sequence[str]:
    from segcli.formats import tables

    return _json(path, tables.bids_volumes(f"segcli {case.card.name}", case.card.labels, case.card.decide.values))


def _statistics(path: Path, case: Finished) -> Sequence[str]:
    from segcli.results.measure import stats_totalseg

    return _json(path, stats_totalseg(case.report))


def _json(path: Path, document: Facts) -> Sequence[str]:
    from segcli.formats import atomic
    from segcli.results.record import to_json

    atomic.write_bytes(path, to_json(document))
    return ()


def _mask(path: Path, case: Finished) -> Sequence[str]:
    import numpy as np

    from segcli import formats
    from segcli.space.volume import Volume

    values, labels = file_names(case.card.name, case.card.structures), case.result.labels
    mask = Volume((labels.data == values[path.name.removesuffix(".nii.gz")]).astype(np.uint8), labels.grid)
    formats.write(mask, (), path, case.scan.source, description=f"segcli {case.card.name}")
    called = {number: name for name, number in values.items()}
    return renamed(case.card.structures, called, "masks cannot be called as these structures")


# ---- the table -----------------------------------------------------------------------------------------------------

DICOM_SEG = "_seg.dcm"
_report = partial(Output, option="--report")
BUILT_IN = (
    _report("csv", "_seg.csv", "the structures as a table", _csv),
    _report("tsv", "_seg.tsv", "the same with tabs between", _csv),
    _report("html", "_seg.html", "a page: slices, volumes, doubts", partial(_page, False), shows=True),
    _report(
        "html-viewer", "_seg_viewer.html", "with NiiVue inside", partial(_page, True), needs=("viewer",), shows=True
    ),
    _report(
        "png", "_seg.png", "slices with the labels over them, verdict, model, day", partial(_montage, 3), shows=True
    ),
    _report("png-large", "_seg_large.png", "the same, seven slices of each view", partial(_montage, 7), shows=True),
    Output("slicer", ".ctbl", "names and colours for 3D Slicer", partial(_table, "slicer"), "--tables"),
    Output("itksnap", ".label", "the same for ITK-SNAP", partial(_table, "itksnap"), "--tables"),
    Output("freesurfer", "_lut.txt", "the same for FreeSurfer", partial(_table, "freesurfer"), "--tables"),
    Output(
        "bids",
        "_dseg.tsv",
        "the same as BIDS has it; always with `--layout bids`",
        partial(_table, "bids"),
        "--tables",
        also=lambda to: to.layout == "bids",
        bids=True,
    ),
    Output(
        "dicom-seg",
        DICOM_SEG,
        "a DICOM Segmentation of the source series; `--seg-type` chooses its kind",
        _dicom_seg,
        needs=("dicom",),
        also=lambda to: "dicom-sr" in to.forms,  # which refers to the segmentation that it was measured on
    ),
    Output("rtstruct", "_rtstruct.dcm", "contours as an RT Structure Set", _rtstruct, needs=("dicom",)),
    Output("dicom-sr", "_sr.dcm", "the volumes as a DICOM Structured Report", _dicom_sr, needs=("dicom",)),
    Output(
        "probabilities",
        "_probseg.nii.gz",
        "of each label as the network has it, before the card's steps with the labels; uint8 with a slope",
        lambda path, case: _image(path, case, case.result.probabilities),
        needs=("probabilities",),
        bids=True,
    ),
    Output(
        "disagreement",
        "_disagreement.nii.gz",
        "where the members of an ensemble differ",
        lambda path, case: _image(path, case, case.result.votes),
        needs=("votes",),
    ),
    Output(
        "bids",
        "_probseg.json",
        "with probabilities: which volume is which structure",
        _volume_names,
        "--layout",
        also=lambda to: to.layout == "bids" and "probabilities" in to.forms,
        bids=True,
    ),
    Output(
        "totalseg",
        "_statistics.json",
        "volumes in TotalSegmentator's shape",
        _statistics,
        "--stats-format",
        also=lambda to: to.stats == "totalseg",
    ),
    Output(
        "masks",
        "_seg",
        "a folder with a mask of each structure",
        _mask,
        "--split",
        also=lambda to: to.split,
        inside=lambda card: [f"{name}.nii.gz" for name in file_names(card.name, card.structures)],
    ),
)


@cache
def outputs() -> tuple[Output, ...]:
    """Every kind that this installation knows, those of other packages last; errors as in `packages.added`."""
    more = added("output", Output, _names, [name for output in BUILT_IN for name in _names(output)])
    return (*BUILT_IN, *(replace(output, write=_whole(output)) for output in more.values()))


def _names(output: Output) -> tuple[Hashable, ...]:
    return (output.option, output.kind), output.ending


def _whole(output: Output) -> Writer:
    """A package's writer whose file is whole or absent, however it is written.

    errors   EngineError (69): it has written no such file
    """

    def written(path: Path, case: Finished) -> Sequence[str]:
        from segcli.formats import atomic

        with atomic.temporary_folder() as folder:
            file = Path(folder, path.name)
            said = output.write(file, case)
            if not file.is_file():
                raise EngineError(f"{output.asked}: the package that adds it has not written {file.name}")
            atomic.write_bytes(path, file.read_bytes())
        return said

    return written


def choices(option: Option) -> tuple[str, ...]:
    """What an option of the command line can name; "nifti" is the label map, which is always written."""
    return _named(option, outputs())


def offered(option: Option) -> str:
    """What the help says of an option: the built-in kinds, and that there may be others; no package is looked for."""
    return f"{', '.join(_named(option, BUILT_IN))}, or a kind of an installed package"


def _named(option: Option, known: Iterable[Output]) -> tuple[str, ...]:
    kinds = tuple(output.kind for output in known if output.option == option)
    return ("nifti", *kinds) if option == "--write" else kinds
