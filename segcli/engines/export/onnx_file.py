"""An ONNX file as bytes that were checked: hash, standard operators, one volume in, one out."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx.external_data_helper import load_external_data_for_model

from segcli.errors import ModelError, cause_of
from segcli.formats.strangers import no_pointer
from segcli.models.card import ModelCard, part
from segcli.models.library import file_sha256

Message = Any  # a part of an ONNX file: the library states no types
CERTIFICATE_KEY = "segcli_certificate"  # in the metadata of segcli's exports
OPSETS = range(9, 24)
_MOST_WINDOWS = 64  # of a graph with a fixed batch: each run fills it up, whatever the number of windows
_STANDARD = ("", "ai.onnx")
_KINDS = {"FLOAT": 4, "DOUBLE": 8, "FLOAT16": 2, "BFLOAT16": 2, "INT8": 1, "UINT8": 1, "INT16": 2, "UINT16": 2} | {
    "INT32": 4, "UINT32": 4, "INT64": 8, "UINT64": 8, "BOOL": 1
}  # fmt: skip
_SIZES = {onnx.TensorProto.DataType.Value(kind): size for kind, size in _KINDS.items()}  # bytes of one number


@dataclass(frozen=True, eq=False)
class OnnxFile:
    """Bytes to load, and what the card says of them.

    data      a whole ONNX model, without external data
    hashes    sha256 of each file that they come from
    shape     (C, d, h, w) of one window
    channels  of the output
    batch     windows at a time that the graph is made for; None for any number
    """

    name: str
    data: bytes
    hashes: dict[str, str]
    shape: tuple[int, int, int, int]
    channels: int
    input: str
    batch: int | None = None


def read(data: bytes, name: str, card: ModelCard, sha256: str | None = None) -> OnnxFile:
    """Check the bytes of an ONNX file against a card.

    errors   ModelError: another hash, not ONNX, operators or opset beyond the standard's, data outside the folder,
             an input that is not one float volume with the card's channels and window, more than one output
    """
    no_pointer(data, name, ModelError)
    digest = hashlib.sha256(data).hexdigest()
    if sha256 is not None and digest != sha256:
        raise ModelError(
            f"{name}: sha256 is {digest}, the card says {sha256}", hint="the file is damaged or from another version"
        )
    hashes = {name: digest}
    model = parsed(data, name)
    _standard(model, name)
    _biases(model, name)
    _same_weights(model, name, card)
    if outside := sorted({location for tensor in _tensors(model.graph) for location in _external(tensor)}):
        data = _whole(model, outside, hashes, card, name)
    shape = (card.inputs, *card.window.size)
    initialised = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in initialised]
    outputs = list(model.graph.output)
    if len(inputs) != 1 or len(outputs) != 1:
        raise ModelError(
            f"{name}: has {len(inputs)} inputs and {len(outputs)} outputs, not one of each",
            hint="export the network with its last output alone, without those of deep supervision",
        )
    _fits(inputs[0], shape, f"{name}: the input {inputs[0].name!r}")
    channels = len(card.decide.values)
    _fits(outputs[0], (channels, *card.window.size), f"{name}: the output {outputs[0].name!r}")
    return OnnxFile(name, data, hashes, shape, channels, inputs[0].name, _batch(inputs[0], name))


def _batch(value: Message, name: str) -> int | None:
    """The first size of a tensor, where it is stated; ModelError where it is no number of windows to run at a time."""
    sizes = value.type.tensor_type.shape.dim
    if not sizes or not sizes[0].dim_value:
        return None
    batch: int = sizes[0].dim_value
    if not 0 < batch <= _MOST_WINDOWS:
        raise ModelError(
            f"{name}: is made for {batch} windows at a time, not for 1 to {_MOST_WINDOWS}",
            hint="export the model with a batch of 1, or of any size",
        )
    return batch


def parsed(data: bytes, name: str) -> Message:
    """The model proto of an ONNX file's bytes.

    errors   ModelError: not ONNX, or truncated
    """
    try:
        model: Message = onnx.load_model_from_string(data)
    except DecodeError as error:
        raise ModelError(f"{name}: not an ONNX file, or truncated") from error
    if not model.HasField("graph"):  # as no bytes at all are read
        raise ModelError(f"{name}: not an ONNX file, or truncated")
    return model


def props(model: Message) -> dict[str, str]:
    """The metadata of a model proto."""
    return {entry.key: entry.value for entry in model.metadata_props}


def convolution(shape: tuple[int, ...]) -> bytes:
    """An ONNX file that convolves "x" (1, 1, n, n, n) with 3 x 3 x 3 ones, padded with zeros."""
    from onnx import TensorProto, helper

    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    ones = helper.make_tensor("w", TensorProto.FLOAT, (1, 1, 3, 3, 3), [1.0] * 27)
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1] * 6)
    graph = helper.make_graph([node], "ones", values[:1], values[1:], [ones])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data: bytes = model.SerializeToString()
    return data


def answered(file: OnnxFile, shape: tuple[int, ...], count: int) -> None:
    """Refuse logits of another shape than (count, channels, d, h, w)."""
    wanted = (count, file.channels, *file.shape[1:])
    if tuple(shape) != wanted:
        raise ModelError(f"{file.name}: the output has the shape {tuple(shape)}, the card says {wanted}")


def _standard(model: Message, name: str) -> None:
    domains = {entry.domain: entry.version for entry in model.opset_import}
    opset = next((domains[d] for d in _STANDARD if d in domains), 0)
    if opset not in OPSETS:
        raise ModelError(
            f"{name}: opset {opset} is not one of {OPSETS[0]} to {OPSETS[-1]}",
            hint="export it again with opset_version=17, or convert it with onnx.version_converter",
        )
    nodes = [*_nodes(model.graph), *(node for function in model.functions for node in function.node)]
    own = {(function.domain, function.name) for function in model.functions}
    for node in nodes:
        if node.domain not in _STANDARD and (node.domain, node.op_type) not in own:
            raise ModelError(
                f"{name}: the operator {node.domain}.{node.op_type} is not a standard one",
                hint="export the model with operators of the ONNX standard only",
            )


def _biases(model: Message, name: str) -> None:
    """Refuse a convolution whose bias has another length than its channels: older runtimes read beyond its end."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type not in ("Conv", "ConvTranspose") or not {*node.input[1:3]} <= shapes.keys():
            continue
        weight, *biases = (shapes[one] for one in node.input[1:3])
        groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
        channels = weight[0] if node.op_type == "Conv" else weight[1] * groups
        if any(bias != (channels,) for bias in biases):
            raise ModelError(f"{name}: the convolution {node.name!r} of {channels} channels has a bias of {biases[0]}")


def _same_weights(model: Message, name: str, card: ModelCard) -> None:
    """Refuse an export of other weights than the card's: the two would give different labels."""
    try:
        certificate = json.loads(props(model).get(CERTIFICATE_KEY, "{}"))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{name}: the certificate inside is not JSON: {error}") from error
    sources = certificate.get("sources", []) if isinstance(certificate, dict) else None
    if not isinstance(sources, list):
        raise ModelError(f"{name}: the certificate inside lists no sources", hint="export the model again")
    if card.sha256 and sources and list(card.sha256) != sources:
        raise ModelError(
            f"{name}: was exported from weights with sha256 {sources[0]}, the card says {card.sha256[0]}",
            hint="export the model again with `segcli export-onnx`",
        )


def _nodes(graph: Message) -> Iterator[Message]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)


def _tensors(graph: Message) -> Iterator[Message]:
    yield from graph.initializer
    for node in _nodes(graph):
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for inner in (attribute.g, *attribute.graphs):
                yield from inner.initializer


def _external(tensor: Message) -> Iterator[str]:
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        yield from (entry.value for entry in tensor.external_data if entry.key == "location")


def _whole(model: Message, locations: list[str], hashes: dict[str, str], card: ModelCard, name: str) -> bytes:
    """The model with its external data inside; the files are plain names in the model's folder."""
    if card.folder is None:
        raise ModelError(f"{name}: its weights lie in {locations[0]!r}, and the model has no folder")
    for location in locations:
        hashes[location] = file_sha256(part(card.folder, location))
    try:
        load_external_data_for_model(model, str(card.folder))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:  # an offset beyond the end, a wrong length
        raise ModelError(
            f"{name}: its weights in {locations[0]} cannot be read: {cause_of(error)}",
            hint="the file beside it is damaged, or from another version of the model",
        ) from error
    _complete(model, name, locations[0])
    try:
        data: bytes = model.SerializeToString()
    except ValueError as error:
        raise ModelError(f"{name}: over 2 GB with its external data", hint="use --engine torch") from error
    return data


def _complete(model: Message, name: str, location: str) -> None:
    """Refuse tensors that have other bytes than their shapes ask for: their file ended before."""
    for tensor in _tensors(model.graph):
        size = _SIZES.get(tensor.data_type)
        if size is None or not tensor.HasField("raw_data"):
            continue
        wanted = size * math.prod(tensor.dims)
        if len(tensor.raw_data) != wanted:
            raise ModelError(
                f"{name}: {tensor.name or 'a tensor'} has {len(tensor.raw_data)} of {wanted} bytes in {location}",
                hint="the file beside it is damaged, or from another version of the model",
            )


def _fits(value: Message, shape: tuple[int, ...], what: str) -> None:
    """Refuse a tensor that is not float32 of rank 5, or whose stated sizes are not (any, *shape)."""
    kind = value.type.tensor_type
    if kind.elem_type != onnx.TensorProto.FLOAT:
        names = {number: name.lower() for name, number in onnx.TensorProto.DataType.items()}
        raise ModelError(
            f"{what} is {names.get(kind.elem_type, f'of the type {kind.elem_type}')}, not float32",
            hint="export the network with float32 at both ends (keep_io_types, where what lies between is float16) and "
            "without an argmax, a channel for each label",
        )
    if not kind.HasField("shape"):
        return
    stated = [d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim]
    if len(stated) != 5:
        raise ModelError(
            f"{what} has {len(stated)} axes, not 5: (batch, channels, d, h, w)",
            hint="export it for volumes; a network of slices is imported from its checkpoint, not from its graph",
        )
    if any(a not in (None, b) for a, b in zip(stated[1:], shape, strict=True)):
        raise ModelError(
            f"{what} has the shape {tuple(stated[1:])}, the card says {shape}",
            hint="the card's channels, labels and patch_size have to be the graph's, whose order is channels, d, h, w",
        )
