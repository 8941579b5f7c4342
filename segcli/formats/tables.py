"""Label tables as Slicer, ITK-SNAP, FreeSurfer and BIDS read them, and those inside a NIfTI and an NRRD.

Each function gives the text of a file for labels in the order of their numbers, background first. Formats: conventions
of each program, and BIDS derivatives (dseg.tsv).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from segcli.documents import Document
from segcli.formats.atomic import write_bytes
from segcli.structures import Label, renamed, structures, told_apart


def slicer(names: Sequence[Label]) -> str:
    """3D Slicer's .ctbl: number, name without spaces, red, green, blue, opacity."""
    word = _words(names)
    rows = [f"{n.id} {word[n.id]} {_colour(n)} 255" for n in structures(names)]
    return "\n".join(["# Color table file, written by segcli", "0 Background 0 0 0 0", *rows]) + "\n"


def itksnap(names: Sequence[Label]) -> str:
    """ITK-SNAP's label description: number, red, green, blue, opacity, visible, in the mesh, "name"."""
    clear = '    0     0    0    0        0  0  0    "Clear Label"'
    rows = [
        f'{n.id:5d} {n.colour[0]:5d}{n.colour[1]:5d}{n.colour[2]:5d}        1  1  1    "{_quoted(n.name)}"'
        for n in structures(names)
    ]
    rule = "#" * 48
    head = [
        rule,
        "# ITK-SnAP Label Description File",
        "# File format:",
        "# IDX   -R-  -G-  -B-  -A--  VIS MSH  LABEL",
        rule,
    ]
    return "\n".join([*head, clear, *rows]) + "\n"


def freesurfer(names: Sequence[Label]) -> str:
    """FreeSurfer's lookup table: number, name without spaces, red, green, blue, transparency (0 is opaque)."""
    word = _words(names)
    rows = [f"{n.id:<6d} {word[n.id]:<40s} {_colour(n)} 0" for n in structures(names)]
    return (
        "\n".join(["#No.   Label Name:" + " " * 30 + "R   G   B   A", f"0      {'Unknown':<40s} 0 0 0 0", *rows]) + "\n"
    )


def bids(names: Sequence[Label]) -> str:
    """The dseg.tsv of BIDS derivatives: index, name, color, and the structure's code (`bids_sidecar` explains it)."""
    rows = [("index", "name", "color", "code"), ("0", "background", "#000000", "n/a")]
    for n in structures(names):
        rows.append((str(n.id), _line(n.name), "#{:02x}{:02x}{:02x}".format(*n.colour), _line(n.code or "n/a")))
    return "".join("\t".join(row) + "\n" for row in rows)


FORMATS: dict[str, Callable[[Sequence[Label]], str]] = {
    "slicer": slicer,
    "itksnap": itksnap,
    "freesurfer": freesurfer,
    "bids": bids,
}


def write(names: Sequence[Label], form: str, path: Path) -> Path:
    """Write the table in one of FORMATS; whole, and read back."""
    write_bytes(path, FORMATS[form](names).encode())
    return path


def changes(names: Sequence[Label], form: str) -> tuple[str, ...]:
    """A sentence where a table cannot have the names as they are."""
    bare = form in ("slicer", "freesurfer")  # a name ends at a blank there
    return renamed(structures(names), _words(names), f"names without blanks in the table for {form}") if bare else ()


def bids_sidecar(description: str) -> Document:
    """What the dseg.json says: a label map made by a program, in the scan's own space; what the column `code` is."""
    code = "terminology and code of the structure, such as SCT (SNOMED CT)"
    return {"Description": description, "Manual": False, "SpatialReference": "orig", "code": {"Description": code}}


def bids_volumes(description: str, names: Sequence[Label], values: Sequence[int]) -> Document:
    """What the probseg.json says: the structure of each volume of the file, n/a for one without a name.

    values   the label value of each volume, in their order
    """
    name = {label.id: _line(label.name) for label in names}
    volumes = [name.get(value, "n/a") for value in values]
    return {"Description": description, "Manual": False, "SpatialReference": "orig", "LabelMap": volumes}


def caret(names: Sequence[Label]) -> bytes:
    """The Caret label table (XML, colours 0 to 1) of a NIfTI's extension of code 0; empty without names."""
    if not names:
        return b""
    rows = ['<Label Key="0" Red="0" Green="0" Blue="0" Alpha="0">background</Label>']
    for n in structures(names):
        red, green, blue = (f"{c / 255:.6g}" for c in n.colour)
        rows.append(f'<Label Key="{n.id}" Red="{red}" Green="{green}" Blue="{blue}" Alpha="1">{escape(n.name)}</Label>')
    return (
        '<?xml version="1.0" encoding="UTF-8"?><CaretExtension><VolumeInformation Index="0"><LabelTable>'
        + "".join(rows)
        + "</LabelTable><VolumeType>Label</VolumeType></VolumeInformation></CaretExtension>"
    ).encode()


def segments(names: Sequence[Label], shape: tuple[int, int, int]) -> str:
    """The lines in the header of an NRRD by which 3D Slicer shows its labels as segments with names and colours.

    Keys as in Slicer's "Segmentation file format" (Slicer User Guide, Data formats); a code is its terminology entry.

    shape   (D, H, W) of the label map, all of which each segment may cover
    """
    d, h, w = shape
    found = structures(names)
    lines = ["Segmentation_ContainedRepresentationNames:=Binary labelmap|"] if found else []
    for number, n in enumerate(found):
        facts = {
            "ID": f"Segment_{n.id}",
            "Name": _escaped(_line(n.name)),
            "Color": " ".join(f"{c / 255:.6g}" for c in n.colour),
            "LabelValue": str(n.id),
            "Layer": "0",
            "Extent": f"0 {w - 1} 0 {h - 1} 0 {d - 1}",
            "Tags": _terminology(n),
        }
        lines += [f"Segment{number}_{key}:={value}" for key, value in facts.items() if value]
    return "".join(f"{line}\n" for line in lines)


def _terminology(label: Label) -> str:
    """Slicer's terminology entry of a structure with a code: a category, then the type."""
    scheme, _, value = (label.code or "").partition(" ")
    meaning = re.sub(r"[~^|]", " ", _escaped(_line(label.name)))
    entry = f"Segmentation category and type~SCT^123037004^Anatomical Structure~{scheme}^{value}^{meaning}~^^~~^^~^^"
    return f"TerminologyEntry:{entry}|" if value else ""


def _escaped(text: str) -> str:
    """As a value in the header of an NRRD."""
    return text.replace("\\", "\\\\")


def _colour(label: Label) -> str:
    return " ".join(str(c) for c in label.colour)


def _words(names: Sequence[Label]) -> dict[int, str]:
    """Number of each structure -> its name without blanks, no two alike."""
    return told_apart({n.id: re.sub(r"\s+", "_", n.name) for n in structures(names)}, str.__add__)


def _quoted(name: str) -> str:
    return _line(name).replace('"', "'")


def _line(name: str) -> str:
    return re.sub(r"\s+", " ", name.strip())
