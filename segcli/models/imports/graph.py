"""An ONNX file with its weights inside, wherever they lie, and what it states of its ends."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segcli.errors import ModelError, SegcliError, cause_of
from segcli.formats.strangers import no_pointer
from segcli.formats.streams import bytes_of, opened
from segcli.system import is_plain

_AXES = 5  # (batch, channels, d, h, w)
_KEEP = ("Identity", "Cast")  # operators that change no number that matters here


@dataclass(frozen=True)
class Ends:
    """What a graph states of its one input and its one output.

    inputs, outputs   channels; None where they are open
    size              of a window, (d, h, w); None where it is open
    last              what makes probabilities of the logits at the end: "Softmax", "Sigmoid" or ""
    """

    inputs: int | None = None
    outputs: int | None = None
    size: tuple[int, int, int] | None = None
    last: str = ""


def ends(path: Path) -> Ends:
    """The ends of a graph; none of a file that cannot be read, or of a graph that is refused for its ends later."""
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        model: Any = onnx.load_model_from_string(bytes_of(path, ModelError))
    except DecodeError:
        return Ends()
    stored = {tensor.name for tensor in model.graph.initializer}
    both = [[v for v in side if v.name not in stored] for side in (model.graph.input, model.graph.output)]
    if any(len(side) != 1 for side in both):
        return Ends()
    (inputs, *size), (outputs, *_) = (_sizes(side[0]) for side in both)
    if inputs and size[2] and inputs > size[2]:  # channels last, which is refused as such
        return Ends()
    whole = (size[0], size[1], size[2]) if None not in size else None
    return Ends(inputs, outputs, whole, _last(model))  # type: ignore[arg-type]


def _sizes(value: Any) -> list[int | None]:
    """Channels and window of an input or output, None for each that is not stated."""
    stated = [d.dim_value or None for d in value.type.tensor_type.shape.dim]
    return stated[1:] if len(stated) == _AXES else [None] * (_AXES - 1)


def _last(model: Any) -> str:
    """The operator that makes probabilities of the channels at the end of a graph; "" where there is none."""
    makers = {name: node for node in model.graph.node for name in node.output}
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    node, axis = makers.get(model.graph.output[0].name), 1
    while node is not None and node.op_type in (*_KEEP, "Transpose"):
        if node.op_type == "Transpose":
            order = next((list(a.ints) for a in node.attribute if a.name == "perm"), [*range(_AXES)][::-1])
            axis = order[axis]
        node = makers.get(node.input[0])
    if node is None or node.op_type not in ("Softmax", "Sigmoid"):
        return ""
    along = next((a.i for a in node.attribute if a.name == "axis"), -1 if opset >= 13 else 1) % _AXES
    # Before opset 13 a softmax was over all axes from its own on.
    fits = node.op_type == "Sigmoid" or (along == axis and (opset >= 13 or along == _AXES - 1))
    return str(node.op_type) if fits else ""


def with_external_data(path: Path) -> bytes:
    """The bytes of an ONNX file; weights that lie in files beside it are taken in.

    errors   ModelError: not ONNX; a file beside it that is missing, too short, elsewhere or a link; over 2 GB in all
    """
    import onnx
    from google.protobuf.message import DecodeError, EncodeError
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
