"""3D DeformUX-Net (Lee et al., 2023): 3D UX-Net with a depth-wise deformable convolution in each block.

Facts: MASILab/deform-uxnet at b2bfad7 and the operator of D3Dnet it calls. As checked in, the official block cannot be
built; the obvious repair (kernel 3, one group for each channel) is what golden outputs were made with.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segcli.networks.blocks import Spec, unsure_norm
from segcli.networks.registry import About, Inferred, Shapes, Small
from segcli.networks.uxnet3d import PointwiseMLP, UXDecoder, UXEncoder, infer_sizes, is_dense

# How offsets are made. The flat forms are the repository's: a 1x1x1 convolution with padding 1, whose output, two
# voxels larger on every axis, is then read as if it were not.
BRANCHES = {
    "conv1x1x1_pad1_flat": (1, 1),
    "conv1x1x1_pad1_flat_batch": (1, 1),
    "conv1x1x1": (1, 0),
    "conv3x3x3_pad1": (3, 1),
}


def deform_conv3d(x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A depth-wise convolution whose taps look where the offsets send them, with stride 1.

    x        (N, C, D, H, W)
    offset   (N, 3*k^3, D, H, W), voxels; three channels (D, H, W) for each tap, the tap along W fastest
    weight   (C, 1, k, k, k), k odd
    bias     (C,)
    returns  (N, C, D, H, W)

    Between voxels x is interpolated linearly, outside it is 0.
    """
    channels = x.shape[1]
    d, h, w = x.shape[2:]
    taps = list(product(range(weight.shape[2]), repeat=3))
    # One voxel of zeros before each axis and two behind hold the neighbours of every position from -1 to the size;
    # a position further out has the value, 0, of the nearest of these. Axes of one voxel need no special case.
    rows = F.pad(x, (1, 2, 1, 2, 1, 2)).movedim(1, 4).reshape(-1, channels)  # (N * padded voxels, C)
    strides = ((h + 3) * (w + 3), w + 3, 1)
    # Half precision cannot hold a position and its fraction.
    offset = offset.to(torch.promote_types(offset.dtype, torch.float32)).reshape(-1, len(taps), 3, d, h, w)
    steps = torch.tensor(taps, device=x.device) - weight.shape[2] // 2
    grid = torch.meshgrid(*[torch.arange(n, device=x.device) for n in (d, h, w)], indexing="ij")
    first = torch.arange(x.shape[0], device=x.device).reshape(-1, 1, 1, 1, 1) * ((d + 3) * strides[0])
    shares = []
    for axis, size in enumerate((d, h, w)):
        at = offset[:, :, axis] + (grid[axis] + steps[:, axis].reshape(-1, 1, 1, 1))
        at = at.clamp(min=-1.0).clamp(max=size)  # (N, taps, D, H, W)
        floor = at.floor()
        first = first + (floor.long() + 1) * strides[axis]
        shares.append(torch.stack((floor + 1 - at, at - floor), -1).to(x.dtype))  # (N, taps, D, H, W, 2)
    corners = torch.tensor(list(product((0, 1), repeat=3)), device=x.device)
    neighbours = corners[:, 0] * strides[0] + corners[:, 1] * strides[1] + corners[:, 2]
    total = bias
    for tap, (i, j, k) in enumerate(taps):
        a, b, c = (share[:, tap] for share in shares)
        share = a[..., :, None, None] * b[..., None, :, None] * c[..., None, None, :]
        index = first[:, tap].reshape(-1, 1) + neighbours  # (N * voxels, 8)
        samples = _weighted(rows, index, share.reshape(-1, 8))
        total = torch.addcmul(total, samples, weight[:, 0, i, j, k])
    return total.reshape(-1, d, h, w, channels).permute(0, 4, 1, 2, 3)


def _weighted(rows: Tensor, index: Tensor, share: Tensor) -> Tensor:
    """Sums of eight rows, each with its share: (R, C), (M, 8), (M, 8) -> (M, C).

    ONNX has no such operator, so an exported graph gathers and adds. 3-D GridSample would do both, but does not exist
    before opset 20, few engines have it, and on a CPU torch takes ten times as long for it as for this.
    """
    exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)  # torch 2.6 has the second alone
    if not (exporting() or torch.onnx.is_in_onnx_export()):
        return F.embedding_bag(index, rows, per_sample_weights=share, mode="sum")
    return (rows[index] * share[..., None]).sum(1)


def flat_offsets(offset: Tensor, size: Sequence[int], whole_batch: bool = False) -> Tensor:
    """Offsets for a volume of `size` read from a larger tensor, in its memory's order, as the official kernel does.

    With `whole_batch` the batch is one memory, so that an item's offsets depend on its neighbours; that is what the
    official code computes for a batch. Otherwise each item is read as a batch of one.
    """
    wanted = (-1, offset.shape[1], *size)
    voxels = 1
    for n in size:
        voxels *= n
    count = offset.shape[1] * voxels
    if whole_batch:
        return offset.flatten()[: offset.shape[0] * count].reshape(wanted)
    return offset.flatten(1)[:, :count].reshape(wanted)


class DeformConv(nn.Module):
    """A depth-wise deformable convolution that makes its own offsets."""

    def __init__(self, channels: int, kernel: int, branch: str) -> None:
        super().__init__()
        if branch not in BRANCHES:
            raise ValueError(f"offset_branch is one of {', '.join(BRANCHES)}, not {branch!r}")
        self.branch = branch
        self.weight = nn.Parameter(torch.empty(channels, 1, kernel, kernel, kernel))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)
        self.bias = nn.Parameter(torch.zeros(channels))
        size, padding = BRANCHES[branch]
        self.conv_offset = nn.Conv3d(channels, 3 * kernel**3, size, padding=padding)
        nn.init.zeros_(self.conv_offset.weight)

    def forward(self, x: Tensor) -> Tensor:
        offset = self.conv_offset(x)
        if "flat" in self.branch:
            offset = flat_offsets(offset, x.shape[2:], whole_batch=self.branch.endswith("batch"))
        return deform_conv3d(x, offset, self.weight, self.bias)


class DeformBlock(PointwiseMLP):
    """A block of 3D DeformUX-Net: a deformable convolution, then the channels of each voxel."""

    def __init__(self, channels: int, kernel: int, dense: bool, branch: str) -> None:
        super().__init__(channels, dense)
        self.ddc = DeformConv(channels, kernel, branch)

    def forward(self, x: Tensor) -> Tensor:
        return self.add(x, self.ddc(x))


class DeformUXNet3D(UXDecoder):
    """3D DeformUX-Net.

    x        (N, in_chans, D, H, W), each size a multiple of 16
    returns  (N, out_chans, D, H, W), logits

    pointwise      "depthwise", or "dense", whose parameter count is the published one
    offset_branch  one of BRANCHES; "..._flat" reads each item alone, "..._flat_batch" the batch as the official code
    drop_path_rate, layer_scale_init_value and conv_block are official arguments that change nothing after training.
    """

    def __init__(
        self,
        in_chans: int = 1,
        out_chans: int = 13,
        depths: Sequence[int] = (2, 2, 2, 2),
        feat_size: Sequence[int] = (48, 96, 192, 384),
        drop_path_rate: float = 0,
        layer_scale_init_value: float = 1e-6,
        hidden_size: int = 768,
        norm_name: Spec = "instance",
        conv_block: bool = True,
        res_block: bool = True,
        spatial_dims: int = 3,
        pointwise: str = "depthwise",
        offset_branch: str = "conv1x1x1_pad1_flat",
        deform_kernel: int = 3,
    ) -> None:
        if spatial_dims != 3:
            raise ValueError(f"3D DeformUX-Net has 3 dimensions, not {spatial_dims}")
        super().__init__(in_chans, out_chans, feat_size, hidden_size, norm_name, res_block)
        block = partial(DeformBlock, kernel=deform_kernel, dense=is_dense(pointwise), branch=offset_branch)
        self.deformuxnet_3d = UXEncoder(in_chans, depths, feat_size, block)

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(x, self.deformuxnet_3d(x))


_CONV3 = partial(DeformUXNet3D, offset_branch="conv3x3x3_pad1")
_DENSE = partial(DeformUXNet3D, pointwise="dense")

ABOUT = About(
    "3D DeformUX-Net",
    "Lee et al. 2023, arXiv:2310.00199",
    "3-D",
    "the padding of the offsets' branch",
    "none: its authors published none",
)
FAMILIES: dict[str, Callable[..., nn.Module]] = {
    "deformuxnet": DeformUXNet3D,
    "deformuxnet_conv1offset": DeformUXNet3D,
    "deformuxnet_conv1offset_dense": _DENSE,
    "deformuxnet_conv3offset": _CONV3,
    "deformuxnet_amos_conv1offset_dense": _DENSE,
    "deformuxnet_amos_conv3offset": _CONV3,
}

SMALL = dict.fromkeys(
    ("deformuxnet", "deformuxnet_conv1offset_dense", "deformuxnet_conv3offset"),
    Small({"feat_size": [8, 16, 24, 32], "depths": [1, 2, 1, 1], "hidden_size": 48}, counted=("in_chans", "out_chans")),
)

# MONAI before 0.9 stored, and never applied, a shortcut convolution where widths are equal.
INERT: tuple[str, ...] = (r"decoder1\.layer\.conv3\.conv\.weight",)


def infer(shapes: Shapes) -> Inferred | None:
    """The sizes of a 3D DeformUX-Net; tensors do not tell how a 1x1x1 offset branch is padded and read."""
    config = infer_sizes(shapes, "deformuxnet_3d")
    branch = shapes.get("deformuxnet_3d.stages.0.0.ddc.conv_offset.weight")
    kernel = shapes.get("deformuxnet_3d.stages.0.0.ddc.weight")
    if config is None or branch is None or kernel is None:
        return None
    config["deform_kernel"] = kernel[2]
    if branch[2] == 3:
        config["offset_branch"] = "conv3x3x3_pad1"
        return Inferred("deformuxnet_conv3offset", config, unsure_norm(config, "norm_name"))
    config["offset_branch"] = "conv1x1x1_pad1_flat"
    said = "offset_branch: padding is not in the tensors; the repository's conv1x1x1_pad1_flat taken"
    return Inferred("deformuxnet_conv1offset", config, {"offset_branch": said, **unsure_norm(config, "norm_name")})
