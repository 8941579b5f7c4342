"""A card's network as an ONNX graph that was compared with torch.

The graph has standard operators, one volume in, one out, a fixed window and any number of windows. In its metadata
stand the card, a certificate of the comparison, and a digest of all the rest of the file.
"""

from __future__ import annotations

import base64
import io
import json
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from segcli import __version__
from segcli.engines.export.certificate import (
    DIGEST_KEY,
    Windows,
    compare,
    digest,
    runtimes,
    samples,
    seeded,
    shorten,
    tensor_digest,
    versions,
)
from segcli.engines.export.onnx_file import CERTIFICATE_KEY, props
from segcli.engines.room import of_network, refuse_too_large
from segcli.errors import ModelError, cause_of
from segcli.models.card import ModelCard
from segcli.models.embedded import METADATA_KEY
from segcli.models.library import file_sha256
from segcli.models.weights import network_of
from segcli.networks.blocks import ChannelNorm

# What float32 arithmetic in another order may change, and (half) weights rounded to float16.
LIMITS = {False: (1e-3, 0.999), True: (5e-2, 0.98)}


def certified(
    card: ModelCard, given: Windows, *, opset: int = 17, half: bool = False, count: int = 2, threads: int = 1
) -> bytes:
    """The ONNX file of a card's network, with card, certificate and digest inside; the same bytes each time.

    given    windows of real scans to compare on, beside `count` windows of seeded noise
    half     weights rounded to float16; without it only those are stored so that lose nothing
    threads  that compare; with another number torch's logits, which the certificate samples, may round otherwise
    errors   ModelError (78): the network has no standard operators for it, or a CPU engine answers otherwise;
             OutOfMemory (71), as `refuse_too_large`
    """
    refuse_too_large(card, None, lambda: of_network(card))
    network = _all_folds(card)
    shown = {f"seeded {i}": seeded(card, i) for i in range(count)} | dict(given)
    with torch.no_grad(), _threads(threads):
        wanted = {name: network(torch.from_numpy(x)).numpy() for name, x in shown.items()}
    model = _graph(plainer(network, many=math.prod(card.window.size) > _SUMMED), card, opset)
    shorten(model, half)
    bare = model.SerializeToString(deterministic=True)
    compared = {name: compare(card, bare, shown, wanted, name, threads) for name in runtimes()}
    error = max(r["max_relative_error"] for r in compared.values())
    equal = min(r["agreement"] for r in compared.values())
    most, least = LIMITS[half]
    if not (error <= most and equal >= least):
        raise ModelError(
            f"{card.name}: the exported graph answers otherwise than the network: largest relative error {error:.0e} "
            f"(at most {most:.0e}), equal labels {equal:.2%} (at least {least:.1%}); it was not kept",
            hint="try another --opset, or leave --fp16 out",
        )
    certificate = {
        "max_relative_error": error,
        "agreement": equal,
        "windows": list(shown),
        "engines": compared,
        "weights": "float16" if half else "as stored",
        "sources": [file_sha256(card.file(name)) for name in card.weights],
        "tensors": tensor_digest(model),
        "samples": base64.b64encode(samples(wanted["seeded 0"]).astype("<f4").tobytes()).decode(),
        "versions": versions(),
    }
    own = {k: v for k, v in card.document.items() if k not in ("sha256", "onnx", "onnx_sha256", "weights", "ensemble")}
    helper.set_model_props(
        model,
        {
            METADATA_KEY: json.dumps(own, ensure_ascii=False),  # the labels' order is that of the channels
            CERTIFICATE_KEY: json.dumps(certificate, sort_keys=True),
        },
    )
    helper.set_model_props(model, {**props(model), DIGEST_KEY: digest(model)})
    data: bytes = model.SerializeToString(deterministic=True)
    return data


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """torch with so many: sums in one order, so that the certificate, and with it the file, repeats."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _all_folds(card: ModelCard) -> nn.Module:
    if not card.weights:
        raise ModelError(f"{card.name}: has no weights to export")
    folds = [network_of(card, fold) for fold in range(len(card.weights))]
    return folds[0] if len(folds) == 1 else _Mean(folds)


class _Mean(nn.Module):
    """The mean of the folds' logits."""

    def __init__(self, folds: Sequence[nn.Module]) -> None:
        super().__init__()
        self.folds = nn.ModuleList(folds)

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = self.folds[0](x)
        for fold in list(self.folds)[1:]:
            total = total + fold(x)
        return total / len(self.folds)


# Voxels of a window from which a norm's sums are added up along one axis after the other: over 256 x 256 x 256 both
# runtimes, which add up in float32, are off by 0.004 of the largest logit of a MeshNet.
_SUMMED = 1 << 22


def plainer(network: nn.Module, *, many: bool = False) -> nn.Module:
    """The network with modules replaced in place, by type, by ones whose graphs run faster, or more exactly.

    many   whether a window has so many voxels that norms need sums of sums

    Measured on a 3D UX-Net of 16 features, one thread, processor time of OpenVINO and ONNX Runtime: layer norm over
    channels as mean, difference and product instead of two transpositions, 1.2 and 1.06 times faster. Left alone:
    the grouped 1x1x1 convolutions (as multiply-adds 1.05 and 0.98, and compiling takes twice as long).
    """
    for name, module in list(network.named_children()):
        if type(module) is ChannelNorm:
            setattr(network, name, _ChannelNorm(module))
        elif many and type(module) is nn.GroupNorm and module.num_groups == module.num_channels:
            setattr(network, name, _VoxelNorm(module))
        else:
            plainer(module, many=many)
    return network


class _ChannelNorm(nn.Module):
    """ChannelNorm in (N, C, ...) order throughout."""

    def __init__(self, module: ChannelNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = module.weight, module.bias, module.eps

    def forward(self, x: Tensor) -> Tensor:
        y = x - x.mean(1, keepdim=True)
        variance = (y * y).mean(1, keepdim=True)
        row = (1, -1, *[1] * (x.dim() - 2))
        return y / torch.sqrt(variance + self.eps) * self.weight.reshape(row) + self.bias.reshape(row)


class _VoxelNorm(nn.Module):
    """Group norm of one channel a group, (N, C, D, H, W), with sums along one axis after the other."""

    def __init__(self, module: nn.GroupNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = module.weight, module.bias, module.eps

    def forward(self, x: Tensor) -> Tensor:
        y = x - self._mean(x)
        y = y / torch.sqrt(self._mean(y * y) + self.eps)
        return y if self.weight is None else y * self.weight[:, None, None, None] + self.bias[:, None, None, None]

    def _mean(self, x: Tensor) -> Tensor:
        # Kept and dropped in turn: OpenVINO makes one sum of several that are alike.
        return x.mean(4).mean(3, keepdim=True).mean(2)[..., None, None]


def _graph(network: nn.Module, card: ModelCard, opset: int) -> Any:
    """The traced network as a model proto, names free of scopes, without a producer's notes."""
    if card.window.whole:
        raise ModelError(
            f"{card.name} is shown whole images of any size, and a graph has one", hint="use --engine torch"
        )
    x = torch.zeros(1, card.inputs, *card.window.size)
    buffer = io.BytesIO()
    batch = {0: "batch"}
    try:
        # The exporter prints its graph when it fails; its warnings concern its own future.
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), torch.no_grad():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                network,
                (x,),
                buffer,  # type: ignore[arg-type]
                dynamo=False,
                opset_version=opset,
                input_names=["image"],
                output_names=["logits"],
                dynamic_axes={"image": batch, "logits": batch},
            )
    except (RuntimeError, ValueError) as error:  # torch.onnx.errors all are RuntimeErrors
        raise ModelError(
            f"{card.name}: cannot be exported with opset {opset}: {cause_of(error)}",
            hint="try --opset 20, or use --engine torch",
        ) from error
    model = onnx.load_model_from_string(buffer.getvalue())
    model.producer_name, model.producer_version, model.doc_string = "segcli", __version__, ""
    model.graph.name = card.name
    for node in model.graph.node:
        node.doc_string = ""
    for value, channels in (
        (model.graph.input[0], card.inputs),
        (model.graph.output[0], len(card.decide.values)),
    ):
        shape = ["batch", channels, *card.window.size]
        value.CopyFrom(helper.make_tensor_value_info(value.name, TensorProto.FLOAT, shape))
    return model
