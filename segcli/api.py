"""segcli from Python: what `segcli predict` computes, as values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from segcli import formats
from segcli.inference.segment import Segmentation
from segcli.inference.segment import segment as label
from segcli.models.card import ModelCard
from segcli.models.library import find
from segcli.results.measure import Report, measure
from segcli.space.volume import Volume
from segcli.structures import Label

if TYPE_CHECKING:
    from segcli.engines.choose import Kind, Opened


@dataclass(frozen=True, eq=False)
class Result:
    """Labels of a scan and what they measure.

    labels   (1, D, H, W) on the scan's own grid; D, H, W are the file's k, j, i
    names    every label of the model, background first
    report   voxels, mm3, mL, intensity, place of each structure
    details  stage times, windows, confidence, warnings
    """

    labels: Volume
    names: tuple[Label, ...]
    report: Report
    details: Segmentation

    @property
    def volumes_ml(self) -> Mapping[str, float]:
        """Millilitres of each structure by name; 0 where it was not found."""
        return {s.name: s.volume_ml for s in self.report.structures}

    def save(self, path: str | PathLike[str]) -> Path:
        """Write the label map, .nii.gz or another of `segcli.formats.written()`, on the scan's grid."""
        return formats.write(self.labels, self.names, Path(path), self.labels.source)


def segment(
    scan: Volume | str | PathLike[str] | Sequence[str | PathLike[str]],
    model: str = "uxnet",
    *,
    engine: Kind = "auto",
    device: str = "auto",
    threads: int | None = None,
) -> Result:
    """Label every voxel of a scan.

    scan    a file, a DICOM folder, several files as the model's channels, or a Volume in memory (LPS affine)
    model   name, folder or file; the last one is kept loaded
    errors  segcli.errors.SegcliError: a sentence and a hint
    """
    card, opened = _opened(model, engine, device, threads)
    if not isinstance(scan, Volume):
        paths = [scan] if isinstance(scan, str | PathLike) else list(scan)
        scan = formats.read([Path(p) for p in paths], channels=len(card.channels))
    details = label(scan, card.procedure, opened.engine)
    return Result(details.labels, card.labels, measure(details.labels, card.labels, scan), details)


@lru_cache(maxsize=1)
def _opened(model: str, engine: Kind, device: str, threads: int | None) -> tuple[ModelCard, Opened]:
    from segcli.engines.choose import open_engine

    card = find(model)
    return card, open_engine(card, engine=engine, device=device, threads=threads)
