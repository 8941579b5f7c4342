"""CPU kernels as differentiable functions: one item, channels last, compiled on first use.

What is here, and not in torch: the weight gradient of a 7x7x7 depth-wise convolution (torch's takes 30 to 100 times
longer), that of a 3x3x3 convolution in bfloat16 or float32, instance norm with residual and leaky ReLU in one pass, and
the loss with its gradient. `extension()` is None where there is no compiler; training then runs on torch alone.
"""

import shutil
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

FLAGS = ["-O3", "-march=native", "-mprefer-vector-width=512", "-ffast-math", "-fopenmp"]


@cache
def extension() -> Any | None:
    """The compiled kernels, or None without a C++ compiler and ninja."""
    if not (shutil.which("c++") and shutil.which("ninja")):
        return None
    from torch.utils.cpp_extension import load

    source = str(Path(__file__).with_name("kernels.cpp"))
    return load("segcli_training", [source], extra_cflags=FLAGS, extra_ldflags=["-fopenmp"])


def rows(x: Tensor) -> Tensor:
    """(1, C, D, H, W) as (D, H, W, C), contiguous."""
    return x.permute(0, 2, 3, 4, 1).contiguous()[0]


def unrows(x: Tensor) -> Tensor:
    """(D, H, W, C) as (1, C, D, H, W); the strides say channels-last, so that torch keeps the layout."""
    return x[None].permute(0, 4, 1, 2, 3)


class Depthwise7(torch.autograd.Function):
    """7x7x7 depth-wise convolution: x (1, C, D, H, W), w (C, 1, 7, 7, 7), b (C,)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        return F.conv3d(x, w.to(x.dtype), b.to(x.dtype), padding=3, groups=len(w))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, ...]:
        x, w = ctx.saved_tensors
        gx = F.conv3d(g, w.flip(2, 3, 4).to(g.dtype), None, padding=3, groups=len(w))
        g = g.float().contiguous()
        gw = extension().depthwise_gw(F.pad(x.float().contiguous(), (3,) * 6), g)
        return gx, gw, g.sum((0, 2, 3, 4))


class Conv3(torch.autograd.Function):
    """3x3x3 convolution in bfloat16; channels in sixteens, an even width; the gradient of w is float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        x, w = x.bfloat16(), w.bfloat16()
        ctx.save_for_backward(x, w)
        return F.conv3d(x, w, padding=1)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        x, w = ctx.saved_tensors
        shape = [1] * 3, [1] * 3, [1] * 3, False, [0] * 3, 1
        gx = torch.ops.aten.convolution_backward(g, x, w, None, *shape, [True, False, False])[0]
        return gx, extension().conv3_gw(rows(x), rows(g))


class Conv3Float(torch.autograd.Function):
    """3x3x3 convolution in float32; channels in sixteens."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.float32)
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        return F.conv3d(x, w, padding=1)

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        x, w = ctx.saved_tensors
        shape = [1] * 3, [1] * 3, [1] * 3, False, [0] * 3, 1
        gx = torch.ops.aten.convolution_backward(g, x, w, None, *shape, [True, False, False])[0]
        return gx, extension().conv3_gw_float(rows(x), rows(g))


class Norm(torch.autograd.Function):
    """leaky(instance norm of x + r): r may be None, a slope of 1 is no activation."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, r: Tensor | None, slope: float) -> Tensor:
        x = rows(x)
        c = x.shape[-1]
        add = None if r is None else rows(r.to(x.dtype)).view(-1, c)
        y, stats = extension().norm(x.view(-1, c), add, 1e-5, slope)
        ctx.save_for_backward(x, y, stats)
        ctx.slope, ctx.residual = slope, r is not None
        return unrows(y.view(x.shape))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor | None, None]:
        x, y, stats = ctx.saved_tensors
        c = x.shape[-1]
        gx, gr = extension().norm_back(rows(g).view(-1, c), x.view(-1, c), y, stats, ctx.slope, ctx.residual)
        return unrows(gx.view(x.shape)), unrows(gr.view(x.shape)) if ctx.residual else None, None


class PointwiseMLP(torch.autograd.Function):
    """x + gamma mlp(norm(y)) of a UX block: x, y (1, C, D, H, W); parameters (16, C), see kernels.cpp."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, parameters: Tensor, eps: float) -> Tensor:
        x, y = rows(x.float()), rows(y)
        c = x.shape[-1]
        out, stats = extension().mlp(x.view(-1, c), y.view(-1, c), parameters, eps)
        ctx.save_for_backward(y, parameters, stats)
        return unrows(out.view(x.shape))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        y, parameters, stats = ctx.saved_tensors
        g = rows(g.float())
        c = y.shape[-1]
        gy, gp = extension().mlp_back(g.view(-1, c), y.view(-1, c), parameters, stats)
        return unrows(g), unrows(gy.view(y.shape)), gp, None


class Loss(torch.autograd.Function):
    """What `train.loss_of` computes: logits (1, K, D, H, W), target (1, D, H, W), weight (K,)."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        k = logits.shape[1]
        value, grad, dice, seen = extension().loss(rows(logits).view(-1, k), target.flatten(), weight)
        ctx.grad, ctx.shape = grad, logits.shape
        present = seen > 0
        ctx.mark_non_differentiable(dice, present)
        return value, dice, present

    @staticmethod
    def backward(ctx: Any, g: Tensor, *_: Tensor) -> tuple[Tensor, None, None]:
        _, k, *size = ctx.shape
        return unrows((ctx.grad * g.to(ctx.grad.dtype)).view(*size, k)), None, None


class LossBetween(torch.autograd.Function):
    """What `train.loss_between` computes: logits (1, K, D, H, W), target (1, D-1, H-1, W-1), shift (3,), weight."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, shift: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        value, grad, dice, seen = extension().loss_between(rows(logits.float()), target[0].contiguous(), shift, weight)
        ctx.grad = grad
        present = seen > 0
        ctx.mark_non_differentiable(dice, present)
        return value, dice, present

    @staticmethod
    def backward(ctx: Any, g: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        return unrows(ctx.grad * g), None, None, None
