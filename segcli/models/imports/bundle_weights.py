"""Which file of a MONAI bundle's models/ holds the weights."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from segcli.errors import ModelError
from segcli.models.checkpoint import EXPORTED, tensors_of
from segcli.models.imports.bundle_config import References
from segcli.system import is_plain

_USUAL = ("model.pt", "model.pth", "model.safetensors")
_ENDINGS = (".pt", ".pth", ".safetensors")


def weights_file(folder: Path, config: References) -> Path:
    """The file that the configuration loads, else the usual one, else the only one in models/.

    errors   ModelError where there is none of these, or only a program
    """
    named = _loaded(config)
    for name in [named] * (named is not None) + [*_USUAL]:
        if name is not None and (folder / name).is_file():
            return folder / name
    there = sorted(p.name for p in folder.iterdir() if p.name[0] != ".") if folder.is_dir() else []
    alone = [name for name in there if Path(name).suffix in _ENDINGS]
    if len(alone) == 1:
        return folder / alone[0]
    programs = [name for name in there if name.endswith(".ts")]
    if programs and not alone:
        raise ModelError(
            f"{folder.parent.name}: only TorchScript (models/{programs[0]}), a program that would run as code: "
            "not allowed",
            hint=f"save its tensors where it was made: torch.save(torch.jit.load('{programs[0]}').state_dict(), "
            "'model.pt')",
        )
    exported = [name for name in there if name.endswith(".pt2")]
    if exported and not alone:
        raise ModelError(f"{folder.parent.name}: only models/{exported[0]}: {EXPORTED}", hint=tensors_of(exported[0]))
    lacking = f"models/ has no {named or _USUAL[0]}"
    said = f"{lacking}, only {', '.join(there)}" if there else f"{lacking}: it holds nothing"
    graphs = [name for name in there if name.endswith(".onnx")]
    hint = f"import models/{graphs[0]} alone, and give what it does not state" if graphs else None
    if (folder.parent / "large_files.yml").is_file():
        hint = "large_files.yml in the bundle says where it is published: fetch it into models/"
    raise ModelError(f"{folder.parent.name}: {said}", hint=hint)


def _loaded(config: References) -> str | None:
    """The name in models/ of what the configuration's CheckpointLoader loads; None where it does not say."""
    handlers = config.get("handlers", "validate::handlers")
    items: list[Any] = [*(handlers if isinstance(handlers, list) else []), config.get("checkpointloader")]
    for item in items:
        path = item.get("load_path") if isinstance(item, dict) else None
        parts = PurePosixPath(path).parts if isinstance(path, str) else ()
        if len(parts) > 1 and parts[-2] == "models" and is_plain(parts[-1]) and Path(parts[-1]).suffix in _ENDINGS:
            return parts[-1]
    return None
