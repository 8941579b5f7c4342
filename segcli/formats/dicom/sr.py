"""Volumes to a DICOM structured report (TID 1500), each measured on a segment of the Segmentation beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

import segcli
from segcli.formats.atomic import whole_file
from segcli.formats.dicom.objects import (
    AS_SOURCE,
    MANUFACTURER,
    About,
    Maker,
    Scan,
    all_named,
    concept,
    fingerprint,
    lawful,
    remarks,
    short_names,
    term,
    uid,
)
from segcli.formats.dicom.texts import without_warnings
from segcli.space.volume import Source, Volume
from segcli.structures import Label, structures

_PROCEDURES = {
    "CT": codes.LN.CTUnspecifiedBodyRegion,
    "MR": codes.LN.MRIUnspecifiedBodyRegion,
    "PT": codes.LN.PETUnspecifiedBodyRegion,
}
_ML = hd.sr.CodedConcept("mL", "UCUM", "mL")


def write(
    labels: Volume,
    names: Sequence[Label],
    path: Path,
    like: Source | None,
    *,
    segmentation: Path,
    algorithm: str,
    version: str,
    about: About = AS_SOURCE,
) -> tuple[str, ...]:
    """Write the volume of each structure, in mL, as a report that refers to the segments it was measured on.

    labels        (1, D, H, W) integers on the grid of `like`; structures that are absent have 0 mL
    segmentation  the Segmentation object of these labels, written before
    algorithm     the model's name; version: its hash
    errors        UsageError for another source than DICOM, OutputError
    """
    scan = Scan(labels, like, "a structured report", Maker(algorithm, version), about)
    all_named(labels, names)
    wanted = structures(names)
    stored = labels.data[0, scan.numbers]
    counts = np.bincount(stored.ravel(), minlength=1 + max(n.id for n in wanted))
    volumes = {n: round(float(counts[n.id]) * labels.grid.voxel_mm3 / 1000, 3) for n in wanted}
    identity = fingerprint(scan, stored, names, "sr")
    with without_warnings():
        segments = pydicom.dcmread(segmentation, stop_before_pixels=True)
        report = _object(scan, volumes, segments, identity)

    with whole_file(path, lambda temporary: read(temporary) == [(n.name, volumes[n]) for n in wanted]) as file:
        report.save_as(file, enforce_file_format=True)
    return remarks(names)


def read(path: Path) -> list[tuple[str, float]]:
    """Name and millilitres of each volume of a report, in its order."""
    with without_warnings():
        report = hd.sr.srread(path)
        groups = report.content.get_volumetric_roi_measurement_groups()
    return [(str(g.tracking_identifier), float(g.get_measurements(codes.SCT.Volume)[0].value)) for g in groups]


def _object(scan: Scan, volumes: dict[Label, float], segments: Dataset, identity: str) -> hd.sr.Comprehensive3DSR:
    algorithm, version = scan.maker.algorithm, scan.maker.version
    short = short_names(list(volumes))
    numbers = {str(s.SegmentLabel): int(s.SegmentNumber) for s in segments.SegmentSequence}
    device = hd.sr.DeviceObserverIdentifyingAttributes(
        uid=uid("device", MANUFACTURER, algorithm, version),
        name=algorithm,
        manufacturer_name=MANUFACTURER,
        model_name=algorithm,
        serial_number=version[:16] or None,
    )
    observer = hd.sr.ObserverContext(observer_type=codes.DCM.Device, observer_identifying_attributes=device)
    made_by = hd.sr.AlgorithmIdentification(
        name=algorithm, version=version or segcli.__version__, parameters=[f"software: segcli {segcli.__version__}"]
    )
    series = hd.sr.SourceSeriesForSegmentation(scan.uid_of("SeriesInstanceUID"))
    measured = []
    for label, volume in volumes.items():
        segment = hd.sr.ReferencedSegment(
            sop_class_uid=str(segments.SOPClassUID),
            sop_instance_uid=str(segments.SOPInstanceUID),
            segment_number=numbers[short[label.id]],
            source_series=series,
        )
        known_as = hd.sr.TrackingIdentifier(uid=uid(identity, label.name), identifier=label.name)
        measured.append(_measured(label, volume, segment, known_as, made_by))
    report = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_device_context=observer),
        procedure_reported=_PROCEDURES.get(scan.files[0].text("Modality"), codes.SCT.ImagingProcedure),
        imaging_measurements=measured,
        title=codes.DCM.ImagingMeasurementReport,
    )
    document = hd.sr.Comprehensive3DSR(
        evidence=[_evidence(scan, segments), *(_evidence(scan, f.header) for f in scan.files)],
        content=report,
        series_instance_uid=uid(identity, "series"),
        series_number=scan.number("report"),
        sop_instance_uid=uid(identity, "instance"),
        instance_number=1,
        manufacturer=MANUFACTURER,
        is_complete=True,
        series_description=scan.description,
    )
    scan.sign(document)
    scan.lend(document, list(volumes))
    scan.date(document)
    return document


def _measured(
    label: Label,
    volume: float,
    segment: hd.sr.ReferencedSegment,
    known_as: hd.sr.TrackingIdentifier,
    made_by: hd.sr.AlgorithmIdentification,
) -> hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations:
    """The volume of one structure, in mL, as measured on a segment."""
    meant = term(label)
    side = concept(meant.side) if meant.side else None
    sites = [hd.sr.FindingSite(anatomic_location=concept(meant.kind), laterality=side)]
    return hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=known_as,
        referenced_segment=segment,
        finding_type=concept(meant.kind),
        finding_category=concept(meant.category),
        finding_sites=None if meant.abnormal else sites,  # a tumour is no place, and where it lies is not known
        algorithm_id=made_by,
        measurements=[hd.sr.Measurement(name=codes.SCT.Volume, value=volume, unit=_ML)],
    )


def _evidence(scan: Scan, header: Dataset) -> Dataset:
    """What a report needs to refer to an instance; the patient is lent afterwards, as the source says it."""
    ds = scan.blank()
    for keyword in ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID"):
        setattr(ds, keyword, lawful(str(header[keyword].value)))
    ds.StudyInstanceUID = scan.uid_of("StudyInstanceUID")
    return ds
