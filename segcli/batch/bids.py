"""A BIDS derivatives tree: how its files are named, and what its root says."""

from __future__ import annotations

import re
from pathlib import Path

# Of the entities of a BIDS name, those that stand after seg-, in the order of the specification (schema, entities).
_AFTER_SEG = re.compile(r"_(?:scale|res|den|label|prov|desc)-")


def name_of(scan: str, model: str) -> str:
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


def describe(folder: Path) -> None:
    """Say at the root of a BIDS derivatives tree what it is, unless that is said already."""
    from segcli import __version__
    from segcli.formats import atomic
    from segcli.results.record import to_json

    path = folder / "dataset_description.json"
    if not path.exists():
        document = {
            "Name": "segcli",
            "BIDSVersion": "1.10.0",
            "DatasetType": "derivative",
            "GeneratedBy": [{"Name": "segcli", "Version": __version__}],
        }
        atomic.write_bytes(path, to_json(document))
