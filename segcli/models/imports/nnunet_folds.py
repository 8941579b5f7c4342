"""Which folds lie in a folder of nnU-Net, of either version, and which of their checkpoints are taken."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from segcli.errors import ModelError


def fold_files(folder: Path, names: Sequence[str], folds: Sequence[str], latest: str) -> list[Path]:
    """The checkpoint of each fold, the final one where there is one.

    names    of checkpoints, or patterns of names, in the order in which they are wanted
    folds    those that are wanted ("0", "all"); empty for the numbered ones, or all alone when there is no other
    latest   name of the checkpoint that a training leaves which was ended early; taken where no fold has another
    errors   ModelError for folds that are not there
    """
    found = _checkpoints(folder, names) or _checkpoints(folder, [latest])
    if lacking := [fold for fold in folds if fold not in found]:
        hint = f"--folds takes some of: {', '.join(found) or 'none'}"
        if lacking[0] == "all":
            hint += "; `all` is nnU-Net's own fold_all; without --folds every numbered one is taken"
        raise ModelError(f"{folder.name}: has no fold {lacking[0]}", hint=hint)
    numbered = [path for fold, path in found.items() if fold != "all"]
    chosen = [found[fold] for fold in dict.fromkeys(folds)] or numbered or list(found.values())
    if not chosen:
        raise ModelError(f"{folder.name}: has no fold_X/{names[0]}", hint="give the folder that holds the folds")
    return chosen


def _checkpoints(folder: Path, names: Sequence[str]) -> dict[str, Path]:
    """The first of some names in each fold that has one."""
    found: dict[str, Path] = {}
    for place in _fold_folders(folder):
        path = next((path for name in names if (path := _only(place, name)) is not None), None)
        if path is not None:
            found[place.name.removeprefix("fold_")] = path
    return found


def fold_notes(folder: Path, names: Sequence[str], files: Sequence[Path], folds: Sequence[str]) -> list[str]:
    """Sentences about what `fold_files` left out, and about checkpoints that are not the final ones."""
    others = [place for place in _fold_folders(folder) if place.name not in {file.parent.name for file in files}]
    empty = [place.name for place in others if not any(_only(place, name) for name in names)]
    notes = [f"{', '.join(empty)}: no final or best checkpoint there, left out"] if empty else []
    whole = [place.name for place in others if place.name not in empty]
    if whole and not folds:
        notes.append(f"{', '.join(whole)}: left out (--folds)")
    others_taken: dict[str, list[str]] = {}
    for file in files:
        if file.name != names[0]:
            others_taken.setdefault(file.name, []).append(file.parent.name)
    return notes + [f"{', '.join(of)}: {name} is taken, no {names[0]} is there" for name, of in others_taken.items()]


def _only(place: Path, pattern: str) -> Path | None:
    """The one file of a name, or of a pattern of names, in a folder; None for none or several."""
    found = [path for path in place.glob(pattern) if path.is_file() and path.name[0] != "."]
    return found[0] if len(found) == 1 else None


def has_folds(folder: Path) -> bool:
    """Whether there are folds beside the plans."""
    return bool(_fold_folders(folder))


def _fold_folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and re.fullmatch(r"fold_\d+|fold_all|all", p.name))


def folds_in_words(files: Sequence[Path]) -> str:
    return f"{len(files)} folds" if len(files) > 1 else files[0].parent.name
