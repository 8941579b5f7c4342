"""An ONNX file with its weights inside, wherever they lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from segcli.errors import ModelError, SegcliError, cause_of
from segcli.formats.strangers import no_pointer
from segcli.formats.streams import bytes_of, opened
from segcli.system import is_plain


def with_external_data(path: Path) -> bytes:
    """The bytes of an ONNX file; weights that lie in files beside it are taken in.

    errors   ModelError: not ONNX; a file beside it that is missing, too short, elsewhere or a link; over 2 GB in all
    """
    import onnx
    from google.protobuf.message import DecodeError, EncodeError  # type: ignore[import-untyped]
    from onnx import external_data_helper as external

    data = bytes_of(path, ModelError)
    no_pointer(data, path.name, ModelError)
    try:
        model: Any = onnx.load_model_from_string(data)
        outside = [t for t in external._get_all_tensors(model) if external.uses_external_data(t)]
        for name in sorted({external.ExternalDataInfo(tensor).location for tensor in outside}):
            _beside(path, name)
        if not outside:
            return data
        external.load_external_data_for_model(model, str(path.parent))
        found: bytes = model.SerializeToString()
    except SegcliError:
        raise
    except DecodeError as error:
        raise ModelError(f"{path.name}: not an ONNX file, or truncated") from error
    except (EncodeError, ValueError, OSError, onnx.checker.ValidationError) as error:
        raise ModelError(
            f"{path.name}: its weights in files beside it cannot be taken in: {cause_of(error)}",
            hint="copy the files again; over 2 GB import the checkpoint that it was exported from",
        ) from error
    return found


def _beside(path: Path, name: str) -> None:
    """Refuse a name that is not that of a plain file in the graph's folder."""
    if not is_plain(name):
        raise ModelError(
            f"{path.name}: its weights lie in {name!r}, which is no plain name of a file beside it: not allowed",
            hint="export it again with its weights inside, or in a file beside it",
        )
    beside = path.with_name(name)
    if beside.is_symlink() or not beside.is_file():
        raise ModelError(
            f"{path.name}: its weights lie in {name}, which is not beside it",
            hint="copy both files into one folder and import again",
        )
    with opened(beside):  # or it may not be read, which onnx calls damaged
        pass
