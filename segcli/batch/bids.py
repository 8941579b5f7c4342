"""A BIDS derivatives tree: how its files are named, and what its root says."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from segcli.documents import Document, content_of
from segcli.system import bytes_of

# Of the entities of a BIDS name, those that stand after seg-, in the order of the specification (schema, entities).
_AFTER_SEG = re.compile(r"_(?:scale|res|den|label|prov|desc)-")


def derivative_name(scan: str, model: str) -> str:
    """The name of a BIDS derivative, as far as the suffix (_dseg, _probseg): sub-01_T1w -> sub-01_seg-MODEL.

    The scan's own suffix is left out when it is T1w. Any other becomes desc-, the last of the entities, so that a FLAIR
    of the same subject is told apart: sub-01_FLAIR -> sub-01_seg-MODEL_desc-FLAIR. It is added to a desc- that is there
    already. The scan alone decides, so one has the same name in every run. What follows the last "_" and is not
    letters and digits only is no suffix: it stays.
    """
    source, _, suffix = scan.rpartition("_")
    if not source or not (suffix.isascii() and suffix.isalnum()):
        source, suffix = scan, ""
    later = _AFTER_SEG.search(source)
    place = later.start() if later else len(source)
    entities = source[place:]
    if suffix not in ("", "T1w"):
        entities += suffix if "_desc-" in entities else f"_desc-{suffix}"
    return f"{source[:place]}_seg-{model}{entities}"


def set_aside(folder: Path) -> list[Path]:
    """Where a dataset holds what are not its scans: what was made of them, and what they were made of; else nothing."""
    if not os.path.isfile(folder / "dataset_description.json"):  # noqa: PTH113 - False where it may not be asked
        return []
    return [path for path in (folder / "derivatives", folder / "sourcedata") if os.path.isdir(path)]  # noqa: PTH112


def is_raw(folder: Path) -> bool:
    """Whether a folder is the root of a BIDS dataset of scans, and not of one that was made of scans."""
    description = content_of(folder / "dataset_description.json")
    return isinstance(description, dict) and description.get("DatasetType", "raw") == "raw"


def describe(folder: Path, source: Path, strange: Sequence[str]) -> None:
    """Say at the root of a derivatives tree what it is, and which files in it are no part of BIDS.

    source    the root of the dataset that the scans come from
    strange   endings of the names of files and folders that BIDS does not know

    What is there already stays; to a list that segcli began is added what it lacks.
    """
    from segcli import __version__
    from segcli.formats import atomic
    from segcli.results.record import to_json

    path = folder / "dataset_description.json"
    if not os.path.lexists(path):
        document: Document = {
            "Name": "segcli",
            "BIDSVersion": "1.10.0",
            "DatasetType": "derivative",
            "GeneratedBy": [{"Name": "segcli", "Version": __version__}],
        }
        if where := _address(folder, source):
            document["SourceDatasets"] = [where]
        atomic.write_bytes(path, to_json(document))
    path = folder / ".bidsignore"
    there = _lines(path)
    wanted = [_IGNORED, "/cohort*", *(f"*{ending}" for ending in strange)]
    more = [line for line in wanted if line.encode() not in there]
    if more and (not os.path.lexists(path) or there[:1] == [_IGNORED.encode()]):
        atomic.write_bytes(path, b"".join(line + b"\n" for line in (*there, *map(str.encode, more))))


def _lines(path: Path) -> list[bytes]:
    """The lines of a file, none where it is no plain file."""
    try:
        return bytes_of(path).splitlines()
    except OSError:  # a folder, a pipe
        return []


_IGNORED = "# written by segcli: what it makes beside the files that BIDS knows"


def _address(folder: Path, source: Path) -> dict[str, str] | None:
    """Where the source dataset is: by its DOI, or by the way up where the tree lies in it.

    Any other path would tell names of folders, which are nobody's business.
    """
    said = content_of(source / "dataset_description.json")
    if said is None:
        return None
    doi = said.get("DatasetDOI") if isinstance(said, dict) else None
    if isinstance(doi, str) and doi:
        plain = re.sub(r"^(?:doi:|https?://(?:dx\.)?doi\.org/)", "", doi)
        return {"URL": f"https://doi.org/{plain}", "DOI": f"doi:{plain}"}
    inside = os.path.relpath(folder.resolve(), source.resolve())
    if inside == "." or inside.startswith(".."):
        return None
    return {"URL": "/".join([".."] * len(Path(inside).parts))}
