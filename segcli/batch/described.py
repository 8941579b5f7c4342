"""What is said of a case with its labels: volumes and doubts, and its record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from msgspec import UNSET
from msgspec.structs import replace as with_

from segcli.formats.stated import stated
from segcli.results import checks, record
from segcli.results.measure import summed, tallied
from segcli.results.record import LabelsFacts, Measured, Record

if TYPE_CHECKING:
    from segcli.batch.stages import Job, Labelled


def measured(job: Job, labelled: Labelled) -> Measured:
    """Volumes of the structures that were asked for, and what the checks have to say."""
    result, scan = labelled.result, labelled.loaded.scan
    counted = tallied(result.labels, scan)
    findings = checks.run(
        result.labels,
        scan,
        job.card,
        result.confidence,
        stated(scan.source),
        job.options.classes,
        result.disagreement,
        counted,
    )
    return Measured(scan.grid, summed(counted, job.shown.labels, result.labels.grid, with_image=True), findings)


def recorded(job: Job, labelled: Labelled, labels: LabelsFacts, measured: Measured) -> Record:
    """The record as far as it is known when the label map is written."""
    loaded, result, source = labelled.loaded, labelled.result, labelled.loaded.scan.source
    warnings = (
        *(source.warnings if source else ()),
        *(warning for _, opened in job.models for warning in opened.warnings),
        *result.warnings,
    )
    made = with_(
        record.about(loaded.case.name, job.model, labels, measured, warnings),
        input=loaded.key["input"],
        model_sources=job.sources,
        options=loaded.key["options"],
        engine=labelled.engine,
        source=dict(source.facts) if source and source.facts is not None else None,
        windows=result.windows,
        crops=list(labelled.crops) or UNSET,
        confidence=_rounded(result.confidence),
        disagreement=_rounded(result.disagreement) or UNSET,
        after=labelled.effects or UNSET,
        postprocessing=labelled.changed,
        versions=record.versions(labelled.engine["name"]),
    )
    if job.to.identifiers:
        from segcli.formats.dicom.identifiers import identifiers

        made = with_(made, identifiers=identifiers(source))
    return made


def _rounded(shares: Mapping[int, float]) -> dict[str, float]:
    """Label -> share, as the record has it."""
    return {str(label): round(value, 4) for label, value in shares.items()}
