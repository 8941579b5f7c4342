"""VISTA3D's own components in the words of MONAI's, as far as its automatic branch uses them: no points, no prompts."""

from __future__ import annotations

from collections.abc import Sequence

from segcli.documents import Content, Document

# Facts: the bundle's scripts/inferer.py, and MONAI 1.6, apps.vista3d.transforms.
_MONAI: dict[str, Document] = {
    "VistaPreTransformd": {"_target_": "Identityd"},  # it changes prompts alone
    "VistaPostTransformd": {"_target_": "AsDiscreted", "argmax": True},  # background is where no class is above 0
    "Vista3dInferer": {"_target_": "SlidingWindowInferer", "mode": "gaussian"},
}


def plain(item: Content) -> Content:
    """A component of a configuration, or the one of MONAI's own that does the same for the automatic branch."""
    name = str(item.get("_target_", "")).rpartition(".")[2] if isinstance(item, dict) else ""
    known = _MONAI.get(name)
    if known is None or not isinstance(item, dict):
        return item
    own = ("keys", "roi_size", "overlap", "sw_batch_size")
    return {**{key: value for key, value in item.items() if key in own}, **known}


def labels(names: Sequence[str], numbers: Sequence[int]) -> dict[str, int]:
    """Of the names of all classes, by their numbers, those that the network is asked for; background first."""
    return {"background": 0, **{names[n]: n for n in numbers}} if len(names) > max(numbers) else {}
