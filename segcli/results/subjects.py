"""FreeSurfer's folders of subjects, SUBJECT/mri/aseg.mgz: which file is a subject's label map, and whose it is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from segcli.errors import InputError, first_few

_LABELS = re.compile(r"aseg|aparc|wmparc")
_USUAL = "aseg.mgz"  # FreeSurfer's own label map; the others divide its cortex and white matter into parcels
_TEMPLATE = re.compile(r"fsaverage\d?")  # recon-all puts it, or a link to it, among the subjects


def subject(folder: Path, path: Path) -> Path | None:
    """The folder of the subject of which a file below a folder is, as SUBJECT of SUBJECT/mri/aseg.mgz."""
    return path.parent.parent if path.parent.name == "mri" and path.parent != folder else None


def one_of_each(folder: Path, paths: Sequence[Path], told: list[str]) -> list[Path] | None:
    """Label maps without what else FreeSurfer wrote in the folders of subjects; None where no subject has one.

    Of several of a subject it is aseg.mgz.

    told     gets sentences about subjects that are left out, and about such a choice
    errors   InputError: a subject has several, and no aseg.mgz
    """
    of: dict[Path, list[Path]] = {}
    for path in paths:
        if path.suffix.lower() == ".mgz" and (own := subject(folder, path)) is not None:
            of.setdefault(own, []).extend([path] if _LABELS.match(path.name) else [])
    if not any(of.values()):
        return None
    kept = [path for path in paths if not of.keys() & set(path.parents)]
    chosen: list[Path] = []
    for own, labels in of.items():
        if _TEMPLATE.fullmatch(own.name):
            told.append(f"{own.name} is FreeSurfer's template and is left out")
        elif labels:
            kept.append(_only(own, labels))
            chosen += labels if len(labels) > 1 and not chosen else []
        else:
            told.append(f"{own.name}/mri has no aseg, aparc or wmparc and is left out")
    if chosen:
        told.append(f"of a subject's label maps ({first_few([path.name for path in chosen], 5)}) {_USUAL} is compared")
    return kept


def _only(own: Path, labels: Sequence[Path]) -> Path:
    if len(labels) > 1 and own / "mri" / _USUAL in labels:
        return own / "mri" / _USUAL
    if len(labels) > 1:
        shown = first_few([path.name for path in labels], 5)
        here, one = own.parent.as_posix(), labels[0].stem
        gather = f'mkdir {one}; for s in "{here}"/*; do cp "$s/mri/{one}.mgz" "{one}/${{s##*/}}.mgz"; done'
        raise InputError(
            f"{own.name}/mri: which one is compared is not said: {shown}",
            hint=f"gather one of each subject in a folder: {gather}",
        )
    return labels[0]
