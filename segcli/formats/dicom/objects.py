"""What every DICOM object made from a scan takes over from the scan's series.

Patient, study and frame of reference are the source's. Dates are copied from it, and identifiers are derived from what
the object holds: the same labels of the same scan by the same model give the same bytes, whatever the clock says.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import cached_property
from typing import Literal, get_args

import highdicom as hd
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

import segcli
from segcli.errors import InputError, UsageError
from segcli.formats.dicom.files import DicomFile, is_uid, with_loss
from segcli.formats.dicom.frames import Frame
from segcli.formats.dicom.stack import farthest
from segcli.formats.dicom.texts import SPOILT, text_of
from segcli.space.volume import Source, Volume
from segcli.structures import Label, renamed, side_of, structures, told_apart, words_of

MANUFACTURER = "segcli"
PRIVATE = "99SEGCLI"  # coding scheme of classes without a code of their own
SNOMED = "SCT"
_ABNORMAL = {"108369006", "52988006", "4147007", "367643001", "79654002", "6574001", "416940007"}
_ABNORMAL_WORDS = {  # of names that have no code
    *("tumor", "tumors", "tumour", "tumours", "lesion", "lesions", "nodule", "nodules", "metastasis", "metastases"),
    *("cancer", "cyst", "cysts", "edema", "oedema", "necrosis", "hemorrhage", "haemorrhage", "hematoma", "haematoma"),
    *("infarct", "infarction"),
}
_PATIENT = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex")
_STUDY = (
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
)
_OPTIONAL = (
    *("PatientAge", "PatientSize", "PatientWeight", "StudyDescription", "PatientIdentityRemoved"),
    *("IssuerOfPatientID", "QualityControlSubject"),
    # By whom a trial knows its patients, who have no other name there.
    *("ClinicalTrialSponsorName", "ClinicalTrialProtocolID", "ClinicalTrialProtocolName"),
    *("ClinicalTrialSiteID", "ClinicalTrialSiteName", "ClinicalTrialSubjectID", "ClinicalTrialSubjectReadingID"),
    *("ClinicalTrialTimePointID", "ClinicalTrialTimePointDescription", "ClinicalTrialCoordinatingCenterName"),
)
_LOSS = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")
_METHOD = ("DeidentificationMethod", "DeidentificationMethodCodeSequence")
# What an object that names the sponsor of a trial has too, if only empty (type 2 of PS3.3 C.7.1.3).
_OF_A_TRIAL = ("ClinicalTrialProtocolName", "ClinicalTrialSiteID", "ClinicalTrialSiteName")
_ZONE = re.compile(r"\+((0\d|1[0-3])[0-5]\d|1400)|-(?!0000)((0\d|1[01])[0-5]\d|1200)")  # PS3.3 C.12.1


@dataclass(frozen=True)
class About:
    """What the user says of an object that is made.

    description  of its series; None: "segcli" and the model
    number       of the segmentation's series, a structure set having the next and a report the one after; None: the
                 source's and 1000, 2000 and 3000, so that objects of several series of a study are told apart
    moment       when it is made, for its dates, which are in the time zone that the source states; None: they are those
                 of the source, so that equal labels make equal bytes
    anonymous    whether patient, dates and study numbers stay away; identifiers of instances stay, which tie it to
                 its slices
    """

    description: str | None = None
    number: int | None = None
    moment: datetime | None = None
    anonymous: bool = False


AS_SOURCE = About()


@dataclass(frozen=True)
class Maker:
    """What made the labels: the model's name, and its hash, "" where nobody knows it."""

    algorithm: str
    version: str


Made = Literal["segmentation", "structure set", "report"]  # in the order of their series' numbers


@dataclass(frozen=True)
class Code:
    """A coded term: value, scheme, and a meaning for people."""

    value: str
    scheme: str
    meaning: str

    def dataset(self) -> Dataset:
        out = Dataset()
        out.CodeValue, out.CodingSchemeDesignator, out.CodeMeaning = self.value, self.scheme, self.meaning
        return out


@dataclass(frozen=True)
class Term:
    """What a label means: category, type, side where it has one, and whether it is abnormal tissue, not a part."""

    category: Code
    kind: Code
    side: Code | None
    abnormal: bool


def referable(source: Source | None, what: str) -> Source:
    """The source of a scan that objects can refer to.

    errors   UsageError: no DICOM; InputError: without a frame of reference, or a file without an identifier
    """
    hint = "without --write dicom-seg, dicom-sr and rtstruct it gets its label map, reports and tables"
    if source is None or source.kind != "dicom":
        raise UsageError(f"{what} needs a DICOM series as its source", hint=hint)
    files = list(dict.fromkeys(plane.file for plane in source.header.planes if plane is not None))
    lacking = {
        "frame of reference": not files[0].text("FrameOfReferenceUID"),
        "SOPInstanceUID in each file": not all(file.text("SOPInstanceUID") for file in files),
    }
    for name in (name for name, lacks in lacking.items() if lacks):
        raise InputError(
            f"{files[0].name}: its series has no {name}, without which {what} cannot be written", hint=hint
        )
    return source


class Scan:
    """The series that labels are written for: its real planes, and what its headers lend to a new object.

    numbers   planes of the volume that come from a file; those that filled a gap get no labels
    """

    def __init__(self, labels: Volume, like: Source | None, what: str, maker: Maker, about: About = AS_SOURCE) -> None:
        like = referable(like, what)
        planes: Sequence[Frame | None] = like.header.planes
        self.numbers = [k for k, plane in enumerate(planes) if plane is not None]
        self.frames: list[Frame] = [plane for plane in planes if plane is not None]
        self.files = list(dict.fromkeys(f.file for f in self.frames))
        grid = labels.grid
        if grid.shape != (len(planes), *self.frames[0].shape):
            raise ValueError(f"labels of {grid.shape} for a series of {len(planes)} x {self.frames[0].shape}")
        corners = grid.world([[k, 0, 0] for k in self.numbers])
        apart = np.linalg.norm(corners - [f.position for f in self.frames], axis=1).max()
        if apart > farthest(grid.spacing[0]):
            raise ValueError(f"the labels lie up to {apart:.3g} mm off the planes of their series")
        self.grid = grid
        self.maker, self.about = maker, about

    @property
    def header(self) -> Dataset:
        return self.files[0].header

    @property
    def frame_of_reference(self) -> str:
        return self.uid_of("FrameOfReferenceUID")

    def uid_of(self, keyword: str, file: DicomFile | None = None) -> str:
        """An identifier of the source, "" where it has none; see `lawful`."""
        return lawful((file or self.files[0]).text(keyword))

    @cached_property
    def zone(self) -> timezone | None:
        """The time zone in which all dates and times of the source are; None where it states none."""
        stated = self.files[0].text("TimezoneOffsetFromUTC")
        if self.about.anonymous or not _ZONE.fullmatch(stated):
            return None
        minutes = int(stated[1:3]) * 60 + int(stated[3:])
        return timezone(timedelta(minutes=-minutes if stated[0] == "-" else minutes))

    @cached_property
    def date_time(self) -> tuple[str, str]:
        """Date and time of the series, of the study where it has none; those of the clock only where it is wished."""
        if self.about.moment is not None:
            moment = self.about.moment.astimezone(self.zone) if self.zone is not None else self.about.moment
            return f"{moment:%Y%m%d}", f"{moment:%H%M%S}"
        if self.about.anonymous:
            return "19000101", "000000"
        for name in ("Series", "Study", "Acquisition", "Content"):
            date, time = self.files[0].text(f"{name}Date"), self.files[0].text(f"{name}Time")
            if re.fullmatch(r"\d{8}", date):
                return date, time if re.fullmatch(r"\d{2,6}(\.\d+)?", time) else "000000"
        return "19000101", "000000"

    def number(self, kind: Made) -> int:
        """The series number of a new object: the source's, moved to where scanners seldom number, or as wished."""
        place, wished = get_args(Made).index(kind), self.about.number
        if wished is not None:
            return wished + place
        return self.files[0].count("SeriesNumber", 0) % 100000 + 1000 * (place + 1)

    @property
    def description(self) -> str:
        """What the series of a new object is called."""
        return _one_value(self.about.description or f"segcli {self.maker.algorithm}")[:64]

    def reference(self, file: DicomFile) -> Dataset:
        out = Dataset()
        out.ReferencedSOPClassUID = file.text("SOPClassUID")
        out.ReferencedSOPInstanceUID = self.uid_of("SOPInstanceUID", file)
        return out

    def lend(self, target: Dataset, names: Sequence[Label]) -> None:
        """Patient and study of the source; those that the standard demands are empty where the source has none.

        Others that are empty in the source stay away: some of them may not be empty.

        Text is written as UTF-8 where the source names a character set, or the object's own names need it. Where the
        source names none, what is not ASCII in its text becomes "?", since nobody knows what it is.
        """
        anonymous = self.about.anonymous
        for keyword in (*_PATIENT, *_STUDY, *(() if anonymous else (*_OPTIONAL, *_METHOD))):
            demanded = keyword in (*_PATIENT, *_STUDY)
            lent = None if anonymous else _readable(self.header, keyword)
            if lent is not None and (demanded or not lent.is_empty):
                target[keyword] = lent
            elif demanded:
                setattr(target, keyword, "")
        if "ClinicalTrialSponsorName" in target:
            for keyword in _OF_A_TRIAL:
                setattr(target, keyword, target.get(keyword, ""))
        target.StudyInstanceUID = self.uid_of("StudyInstanceUID")
        if self.zone is not None:
            target.TimezoneOffsetFromUTC = self.files[0].text("TimezoneOffsetFromUTC")
        if anonymous:
            target.PatientName, target.PatientIdentityRemoved = "Anonymous", "YES"
            target.DeidentificationMethod = "segcli: no patient, dates or study numbers; UIDs kept"
            target.LongitudinalTemporalInformationModified = "REMOVED"
        known = self.files[0].text("SpecificCharacterSet").strip("\\") not in ("", "ISO_IR 6")
        own = (self.about.description or "", *(label.name for label in names))
        if (known and not anonymous) or not all(map(str.isascii, own)):
            target.SpecificCharacterSet = "ISO_IR 192"
        elif not anonymous:
            target.pop("SpecificCharacterSet", None)
        if not known and not anonymous:
            for keyword in (*_PATIENT, *_STUDY, *_OPTIONAL, *_METHOD[:1]):
                text = text_of(target, keyword)
                if not text.isascii():
                    setattr(target, keyword, text.encode("ascii", "replace").decode())

    def sign(self, target: Dataset) -> None:
        """What made an object, as a device: name and hash of the model, segcli and its version; for research."""
        algorithm, version = self.maker.algorithm, self.maker.version
        target.Manufacturer, target.ManufacturerModelName = MANUFACTURER, algorithm[:64]
        target.SoftwareVersions = [segcli.__version__, version[:64]] if version else segcli.__version__
        target.DeviceSerialNumber = version[:16] or "none"
        target.DeviceUID = uid("device", MANUFACTURER, algorithm, version)
        target.ContentQualification = "RESEARCH"

    def blank(self) -> Dataset:
        """A stand-in for a source instance, of nobody: the library checks what a scanner wrote more than it should."""
        out = Dataset()
        for keyword in (*_PATIENT, *_STUDY):
            setattr(out, keyword, None)
        out.StudyInstanceUID = self.uid_of("StudyInstanceUID")
        return out

    @cached_property
    def loss(self) -> Dataset:
        """That the scan's pixels were once compressed with loss, which what is made of them says too; else empty."""
        out = Dataset()
        for file in self.files:
            if with_loss(file):
                for element in filter(None, (_readable(file.header, keyword) for keyword in _LOSS)):
                    out[element.keyword] = element
                out.LossyImageCompression = "01"
                break
        return out

    def date(self, target: Dataset) -> None:
        """The dates of the source, or those that are wished, in place of the library's."""
        target.SeriesDate, target.SeriesTime = self.date_time
        target.ContentDate, target.ContentTime = self.date_time
        for keyword in ("InstanceCreationDate", "InstanceCreationTime"):
            target.pop(keyword, None)
        if self.about.moment is not None:
            target.InstanceCreationDate, target.InstanceCreationTime = self.date_time
        for item in target.get("ContributingEquipmentSequence", ()):
            item.ContributionDateTime = "".join(self.date_time)


def _readable(header: Dataset, keyword: str) -> DataElement | None:
    """An attribute of a header; None where there is none, or what is there is nothing of its kind."""
    if keyword not in header:
        return None
    try:
        return header[keyword]
    except SPOILT:
        return None


def identification(maker: Maker) -> hd.AlgorithmIdentificationSequence:
    """The algorithm as segmentations and structure sets name it: the model, its hash, segcli and its version."""
    return hd.AlgorithmIdentificationSequence(
        name=maker.algorithm[:64],
        family=pydicom.sr.codedict.codes.DCM.ArtificialIntelligence,
        version=maker.version[:64],
        source=MANUFACTURER,
        parameters={"software": f"segcli {segcli.__version__}"},
    )


def concept(code: Code) -> hd.sr.CodedConcept:
    return hd.sr.CodedConcept(code.value, code.scheme, code.meaning)


def uid(*parts: object) -> str:
    """An identifier that depends on nothing but what it identifies (2.25 and 128 bits of a hash, PS3.5 B.2)."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=4).int}"


def lawful(text: str) -> str:
    """An identifier as it is; one derived from it where it is too long or no identifier (a path, perhaps)."""
    return text if not text or is_uid(text) else uid("instead of", text)


def fingerprint(scan: Scan, voxels: NDArray[np.generic], names: Sequence[Label], *settings: object) -> str:
    """A hash of labels, source instances, label table, model, settings and version: what an object is derived from."""
    digest = hashlib.sha256(np.ascontiguousarray(voxels).tobytes())
    for file in scan.files:
        digest.update(file.text("SOPInstanceUID").encode())
    settings = (scan.maker.algorithm, scan.maker.version, *settings)
    if scan.about != AS_SOURCE:
        settings = (*settings, scan.about)
    digest.update(repr((voxels.shape, tuple(names), settings, segcli.__version__)).encode())
    return digest.hexdigest()


def all_named(labels: Volume, names: Sequence[Label]) -> None:
    """ValueError when a label map holds a value that has no name: it would be missing from the object."""
    known = np.zeros(max(int(labels.data.max()), *(n.id for n in names), 0) + 1, bool)
    known[[0, *(n.id for n in names)]] = True
    if not all(known[plane].all() for plane in labels.data[0]):
        raise ValueError("the label map holds values that are not in the label table")


def short_names(names: Sequence[Label]) -> dict[int, str]:
    """Number of each structure -> its name in 64 characters, as DICOM has it: no two are alike, none is two values."""
    plain = {label.id: _one_value(unicodedata.normalize("NFC", label.name)) for label in structures(names)}
    return told_apart(plain, lambda name, ending: name[: 64 - len(ending)] + ending)


def _one_value(text: str) -> str:
    """A text without the character that DICOM has between values."""
    return text.replace("\\", "_")


def term(label: Label) -> Term:
    """The SNOMED CT code of a label, with left and right from its name; a private code where it has none."""
    side = side_of(label.name)
    meaning = " ".join(w for w in words_of(label.name) if side is None or side_of(w) != side).capitalize() or label.name
    meaning = _one_value(meaning)[:64]
    laterality = {"left": Code("7771000", SNOMED, "Left"), "right": Code("24028007", SNOMED, "Right")}
    scheme, _, value = (label.code or "").partition(" ")
    abnormal = value in _ABNORMAL if value else bool(_ABNORMAL_WORDS & set(words_of(label.name)))
    category = (
        Code("49755003", SNOMED, "Morphologically abnormal structure")
        if abnormal
        else Code("123037004", SNOMED, "Anatomical structure")
    )
    if value:
        return Term(category, Code(value, scheme, meaning), laterality[side] if side else None, abnormal)
    short = (
        label.name
        if len(label.name) <= 16 and "\\" not in label.name
        else f"{_one_value(label.name[:7])}-{hashlib.sha256(label.name.encode()).hexdigest()[:8]}"
    )
    return Term(category, Code(short, PRIVATE, meaning), laterality[side] if side else None, abnormal)


def remarks(names: Sequence[Label]) -> tuple[str, ...]:
    """Warnings: the structures without a code of their own, and those that DICOM cannot call as they are called."""
    there = structures(names)
    other = renamed(there, short_names(names), "DICOM cannot have the names of these structures")
    without = ", ".join(n.name for n in there if not n.code)
    return (f"no SNOMED CT code for {without}: a private code ({PRIVATE}) is written", *other) if without else other
