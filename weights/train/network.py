"""The network for training: segcli's own, with CPU-friendly forms of some operators (same arithmetic)."""

from types import MethodType

import torch
import torch.nn.functional as F
from kernels import Conv3, Conv3Float, Depthwise7, Norm, PointwiseMLP, extension
from torch import Tensor, nn

from segcli.networks.blocks import ChannelNorm, ResidualBlock
from segcli.networks.uxnet3d import UXBlock, UXNet3D

HALF = torch.ops.mkldnn._is_mkldnn_bf16_supported()  # whether bfloat16 is quicker than float32 on this processor


def build(outputs: int, features: int = 16) -> UXNet3D:
    """A 3D UX-Net with random weights; layer scales start at 0.1, not 1e-6: short training must reach them."""
    sizes = [features, 2 * features, 4 * features, 8 * features]
    net = UXNet3D(1, outputs, feat_size=sizes, hidden_size=16 * features)
    for block in net.modules():
        if isinstance(block, UXBlock):
            nn.init.constant_(block.gamma, 0.1)
    return net


def quicken(net: UXNet3D) -> UXNet3D:
    """The same network whose blocks train fast on a CPU, one item at a time; under bfloat16 autocast where HALF."""
    if extension() is None:
        return net
    forms = {UXBlock: ux_block, ChannelNorm: channel_norm, ResidualBlock: residual_block}
    for module in net.modules():
        if type(module) in forms:
            module.forward = MethodType(forms[type(module)], module)  # type: ignore[method-assign]
    net.out.conv.conv.forward = MethodType(pointwise, net.out.conv.conv)
    return net


def ux_block(self: UXBlock, x: Tensor) -> Tensor:
    """All that follows the depth-wise convolution in one kernel."""
    y = Depthwise7.apply(x, self.dwconv.weight, self.dwconv.bias)
    c = len(self.gamma)
    grouped = [t.view(c, 4).T for t in (self.pwconv1.weight, self.pwconv1.bias, self.pwconv2.weight)]
    ends = [t[None] for t in (self.norm.weight, self.norm.bias, self.pwconv2.bias, self.gamma)]
    parameters = torch.cat([*ends[:2], *grouped, *ends[2:]])  # (16, C)
    return PointwiseMLP.apply(x, y, parameters, self.norm.eps)


def channel_norm(self: ChannelNorm, x: Tensor) -> Tensor:
    """The norm over axis 1 without moving it, float32."""
    x = x.float()
    mean, var = x.mean(1, keepdim=True), x.var(1, keepdim=True, unbiased=False)
    return (x - mean) * torch.rsqrt(var + self.eps) * self.weight.view(-1, 1, 1, 1) + self.bias.view(-1, 1, 1, 1)


def residual_block(self: ResidualBlock, x: Tensor) -> Tensor:
    """Norm, residual and activation in one kernel."""
    y = Norm.apply(conv3(self.conv1.conv, x), None, 0.01)
    shortcut = Norm.apply(pointwise(self.conv3.conv, x), None, 1.0) if self.projects else x
    return Norm.apply(conv3(self.conv2.conv, y), shortcut, 0.01)


def conv3(layer: nn.Conv3d, x: Tensor) -> Tensor:
    """A 3x3x3 convolution by the kernels where they fit."""
    if not layer.in_channels % 16 == layer.out_channels % 16 == 0:
        return layer(x)
    if HALF:
        return Conv3.apply(x, layer.weight) if x.shape[-1] % 2 == 0 else layer(x)
    return Conv3Float.apply(x, layer.weight) if hasattr(extension(), "conv3_gw_float") else layer(x)


def pointwise(layer: nn.Conv3d, x: Tensor) -> Tensor:
    """A 1x1x1 convolution as a product of matrices, channels last."""
    y = F.linear(x.permute(0, 2, 3, 4, 1), layer.weight.flatten(1), layer.bias)
    return y.permute(0, 4, 1, 2, 3)
