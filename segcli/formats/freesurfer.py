"""Names of FreeSurfer's numbers: of aseg, of the parcels of aparc, and of the white matter below these (wmparc)."""

from __future__ import annotations

_SIDED = {  # number of the left one, number of the right one
    "Cerebral-White-Matter": (2, 41),
    "Cerebral-Cortex": (3, 42),
    "Lateral-Ventricle": (4, 43),
    "Inf-Lat-Vent": (5, 44),
    "Cerebellum-White-Matter": (7, 46),
    "Cerebellum-Cortex": (8, 47),
    "Thalamus": (10, 49),
    "Caudate": (11, 50),
    "Putamen": (12, 51),
    "Pallidum": (13, 52),
    "Hippocampus": (17, 53),
    "Amygdala": (18, 54),
    "Accumbens-area": (26, 58),
    "VentralDC": (28, 60),
    "vessel": (30, 62),
    "choroid-plexus": (31, 63),
    "WM-hypointensities": (78, 79),
    "non-WM-hypointensities": (81, 82),
    "UnsegmentedWhiteMatter": (5001, 5002),
}
_MIDDLE = {
    14: "3rd-Ventricle",
    15: "4th-Ventricle",
    16: "Brain-Stem",
    24: "CSF",
    72: "5th-Ventricle",
    77: "WM-hypointensities",
    80: "non-WM-hypointensities",
    85: "Optic-Chiasm",
    251: "CC_Posterior",
    252: "CC_Mid_Posterior",
    253: "CC_Central",
    254: "CC_Mid_Anterior",
    255: "CC_Anterior",
}
_PARCELS = (  # of the Desikan-Killiany atlas, from number 0 on
    "unknown bankssts caudalanteriorcingulate caudalmiddlefrontal corpuscallosum cuneus entorhinal fusiform "
    "inferiorparietal inferiortemporal isthmuscingulate lateraloccipital lateralorbitofrontal lingual "
    "medialorbitofrontal middletemporal parahippocampal paracentral parsopercularis parsorbitalis parstriangularis "
    "pericalcarine postcentral posteriorcingulate precentral precuneus rostralanteriorcingulate "
    "rostralmiddlefrontal superiorfrontal superiorparietal superiortemporal supramarginal frontalpole temporalpole "
    "transversetemporal insula"
)
_HALVES = {"ctx-lh": 1000, "ctx-rh": 2000, "wm-lh": 3000, "wm-rh": 4000}  # number of the first parcel


def names() -> dict[int, str]:
    """Number -> name, as FreeSurferColorLUT.txt has them."""
    found = dict(_MIDDLE)
    for name, (left, right) in _SIDED.items():
        found |= {left: f"Left-{name}", right: f"Right-{name}"}
    for half, first in _HALVES.items():
        found |= {first + number: f"{half}-{name}" for number, name in enumerate(_PARCELS.split())}
    return dict(sorted(found.items()))
