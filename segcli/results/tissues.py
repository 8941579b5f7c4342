"""Sums over the structures of a brain: grey and white matter, fluid, all of it but the fluid, all inside the skull."""

from __future__ import annotations

from collections.abc import Mapping

from segcli.documents import Facts
from segcli.structures import words_of

_GREY = {"cortex", "thalamus", "caudate", "putamen", "pallidum", "hippocampus", "amygdala", "accumbens"}
_FLUID = {"csf", "ventricle", "vent"}
_REST = {
    "stem",
    "dc",
    "ventraldc",
    "callosum",
    "cc",
}  # grey and white at once, or a part of the white that has its own number
# Of the brain that labelled fluid outside the ventricles must have to be all of it: FreeSurfer's csf is a thousandth,
# that of SynthSeg's maps a fifth to a half.
AROUND = 0.05
SAYS = (
    "Total brain: grey and white matter, brain stem and ventral diencephalon. Grey matter: cortex and deep nuclei, the "
    "cerebellum's too. Fluid: ventricles and csf, as far as they are labelled. Intracranial: total brain and fluid, "
    "where the fluid around the brain is labelled."
)


def tissues_of(record: Facts, volumes: Mapping[str, float]) -> dict[str, float]:
    """The sums of a record's volumes; empty where only some structures were asked for: no whole brain."""
    return {} if (record.get("options") or {}).get("classes") else tissues(volumes)


def tissues(volumes: Mapping[str, float]) -> dict[str, float]:
    """Sums of the volumes of structures by their names, in the same unit; empty unless grey and white matter are there.

    The intracranial volume is among them where a structure holds the fluid around the brain (AROUND).
    """
    found = {"total brain": 0.0, "grey matter": 0.0, "white matter": 0.0, "fluid": 0.0}
    for name, volume in volumes.items():
        words = set(words_of(name))
        kind = (
            "white matter"
            if {"white", "matter"} <= words
            else "grey matter"
            if words & _GREY
            else "fluid"
            if words & _FLUID
            else ""
        )
        if kind:
            found[kind] += volume
        if kind in ("grey matter", "white matter") or words & _REST:
            found["total brain"] += volume
    if not (found["grey matter"] and found["white matter"]):
        return {}
    around = sum(volume for name, volume in volumes.items() if "csf" in words_of(name))
    whole = found["total brain"] + found["fluid"]
    return found | ({"intracranial": whole} if around >= AROUND * found["total brain"] else {})
