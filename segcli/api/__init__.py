"""segcli from Python: what `segcli predict` computes, as values.

What is public: the names in `segcli.__all__`, with the attributes and arguments that their docstrings name. A name or a
meaning among them changes only with a line under "Changed" in CHANGELOG.md, and from 1.0 on only with a new major
version. Everything else may change at any time.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from numbers import Integral
from os import PathLike
from pathlib import Path
from typing import Literal, Unpack

from segcli import errors, formats
from segcli.api.model import How, Model, kept, opened_model
from segcli.api.result import Result
from segcli.api.scans import PathName, Scan, form
from segcli.api.words import in_python
from segcli.engines.choose import EngineName
from segcli.engines.opening import Opening
from segcli.engines.precision import Precision
from segcli.errors import SegcliError, UsageError
from segcli.folders import at_home
from segcli.space.volume import Grid, Volume
from segcli.structures import Label

__all__ = ["Grid", "Label", "Model", "Result", "SegcliError", "Volume", "errors", "load", "read", "segment"]


@in_python
def load(
    model: PathName | Sequence[PathName] = "uxnet",
    *,
    engine: EngineName = "auto",
    device: str = "auto",
    tta: bool = False,
    precision: Precision = "auto",
    half: bool = False,
    threads: int | None = None,
    batch: int | None = None,
    max_ram: int | None = None,
    max_vram: int | None = None,
    disagreement: bool = False,
) -> Model:
    """A model, loaded once for as many scans as there are.

    model     name, folder or file; several are an ensemble of equal labels
    engine    "auto", "torch", "onnx", "openvino", or that of a package; device: as --device
    tta       whether mirrored copies are averaged, left and right swapped
    precision  "auto" (half on CUDA unless the model's card forbids it, float32 on a CPU), "float32", "tf32",
              "bfloat16", "float16", or "fast": bfloat16 also on a processor that has it, and fewer windows;
              half: an old word for "auto", that goes in the next version
    threads   of the CPU; batch: windows at a time; max_ram, max_vram: bytes
    disagreement  whether `Result.disagreement` is wanted, of an ensemble or of folds
    errors    segcli.errors.ModelError: no such model, or a wrong one; EngineError: engine or device is not there

    >>> segcli.load("uxnet", engine="onnx", device="cpu")
    <Model uxnet on onnxruntime cpu: 32 structures>
    """
    if half:
        warnings.warn("half=True is precision='auto', the default, and goes", DeprecationWarning, stacklevel=3)
    opening = Opening(
        model=_names(model),
        engine=engine,
        device=device,
        threads=threads,
        batch=batch,
        mirror=tta,
        precision=precision,
        max_ram=max_ram,
        max_vram=max_vram,
        votes=disagreement,
    )
    return opened_model(_checked(opening))


def _names(model: PathName | Sequence[PathName]) -> tuple[str, ...]:
    return tuple(map(os.fsdecode, _paths("model", model)))


def _paths(name: str, given: PathName | Iterable[PathName]) -> list[PathName]:
    """One path or several, of an argument; UsageError for what is neither."""
    several = [given] if isinstance(given, str | PathLike) or not isinstance(given, Iterable) else [*given]
    for one in several:
        if not isinstance(one, str | PathLike):
            raise UsageError(f"{name}={one!r}: is neither a str nor a path")
    return several


def _checked(opening: Opening) -> Opening:
    if not opening.model:
        raise UsageError("model=[]: names no model")
    for name in ("engine", "device", "precision"):
        if not isinstance(word := getattr(opening, name), str):
            raise UsageError(f"{name}={word!r}: is no str")
    for name in ("threads", "batch", "max_ram", "max_vram"):
        count = getattr(opening, name)
        if isinstance(count, bool) or not isinstance(count, Integral | None):
            raise UsageError(f"{name}={count!r}: is no int")
        if count is not None and count < 1:
            raise UsageError(f"{name}={count}: is at least 1")
    return opening


@in_python
def segment(
    scan: Scan,
    model: PathName | Sequence[PathName] = "uxnet",
    *,
    engine: EngineName = "auto",
    device: str = "auto",
    tta: bool = False,
    precision: Precision = "auto",
    threads: int | None = None,
    **how: Unpack[How],
) -> Result:
    """Label every voxel of a scan: `load(model, ...).segment(scan, ...)`, where the last model is kept loaded.

    how   the options of `Model.segment`, which says what they mean

    >>> result = segcli.segment("scan.nii.gz")
    >>> result
    <Result scan: uxnet, 32 of 32 structures, 1899 mL, pass>
    """
    names = _names(model)
    wanted = Opening(model=names, engine=engine, device=device, threads=threads, mirror=tta, precision=precision)
    return kept(_checked(wanted)).segment(scan, **how)


@in_python
def read(
    scan: PathName | Sequence[PathName],
    *,
    affine: Literal["sform", "qform", "pixdim"] | None = None,
    series: str | None = None,
    volume: int | None = None,
    channels: int = 1,
    fill_gaps: bool = False,
) -> Volume:
    """The voxels of a file or a DICOM folder on their grid, or of several files as channels; nothing is resampled.

    channels  how many a 4-D file must have to be taken for those of one scan

    >>> scan = segcli.read("scan.nii.gz")
    >>> scan.data.shape, scan.grid.axes
    ((1, 189, 233, 197), 'SAR')
    """
    paths = _paths("scan", scan)
    if not isinstance(channels, Integral):
        raise UsageError(f"channels={channels!r}: is no int")
    return formats.read(
        [Path(at_home(path)) for path in paths],
        affine=form(affine),
        series=series,
        volume=volume,
        channels=max(channels, len(paths)),
        fill_gaps=fill_gaps,
    )
