"""Outputs that would be each other's, or an input: refused before anything runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from segcli.batch.case import Case, called
from segcli.batch.outputs import Destination
from segcli.errors import UsageError
from segcli.models.card import ModelCard
from segcli.system import key_of, keys_of


def apart(cases: Sequence[Case], card: ModelCard, to: Destination) -> None:
    """Refuse, before anything runs, outputs that would be each other's or an input."""
    if to.file is not None and len(cases) > 1:
        raise one_label_map(to, len(cases))
    inputs = {key: case for case in cases for path in case.paths if not path.is_dir() for key in keys_of(path)}
    owners: dict[Path, Case] = {}
    for case in cases:
        for path in to.files(case, card) if case.fault is None else ():
            key = key_of(path)
            other = owners.setdefault(key, case)
            if other is not case:
                raise one_name(other, case, path.name)
            taken = next((inputs[key] for key in keys_of(path) if key in inputs), None)
            if taken is not None:
                raise UsageError(
                    f"{path.name}: the output of {called(case)} would overwrite the input {called(taken)}",
                    hint="choose another folder with -o",
                )


def one_name(one: Case, other: Case, written: str) -> UsageError:
    """The refusal of two cases that would be written as one, and what works: names keep folders below what is named."""
    hint = "rename one, or run `predict` for each with another -o"
    above = _above(one.paths[0], other.paths[0]) if one.beside != other.beside else None
    if above is not None:
        hint = f"name the folder above both, {above}, whose folders the names then have; or {hint}"
    return UsageError(f"{one.paths[0]} and {other.paths[0]} would both be written as {written}", hint=hint)


def _above(one: Path, other: Path) -> Path | None:
    """The nearest folder that both lie in; None where that is a whole disk, or they lie on two."""
    first, second = (Path(os.path.abspath(path)) for path in (one, other))  # noqa: PTH100 - links are followed nowhere
    around = {*second.parents}
    return next((folder for folder in first.parents if folder in around and folder != folder.parent), None)


def one_label_map(to: Destination, count: int) -> UsageError:
    """The refusal of several scans where -o names a file."""
    return UsageError(f"-o {to.file} is one label map, and there are {count} scans", hint="name a folder with -o")
