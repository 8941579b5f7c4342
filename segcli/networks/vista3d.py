"""VISTA3D's automatic branch: an image encoder and a map for each class that is asked for; no points (He et al. 2024).

Facts: MONAI 1.6, `networks.nets.vista3d132`. Its code is open (Apache-2.0); its published weights are not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segcli.documents import Document
from segcli.networks.blocks import layer
from segcli.networks.registry import About, Inferred, Shapes, Small, length
from segcli.networks.segresnet import SegResNetDS

# The branch that answers points, and its head.
INERT: tuple[str, ...] = (r"point_head\..*", r"image_encoder\.up_layers\..*")

SUPPORTED = 132  # classes that it was trained on, by the numbers from 1
# What it labels where nothing is asked for: no lesions, nothing that others are parts of.
_ON_REQUEST = {2, 16, 18, 20, 21, 23, 24, 25, 26, 27, 128, 129, 130, 131, 132}
EVERYTHING = tuple(number for number in range(1, SUPPORTED + 1) if number not in _ON_REQUEST)


class _Encoder(nn.Module):
    """SegResNetDS with its decoder under the name of the automatic branch."""

    def __init__(self, in_channels: int, width: int, blocks_down: Sequence[int]) -> None:
        super().__init__()
        made = SegResNetDS(
            init_filters=width,
            in_channels=in_channels,
            out_channels=width,
            norm="instance",
            blocks_down=blocks_down,
            dsdepth=1,
        )
        self.encoder, self.up_layers_auto = made.encoder, made.up_layers

    def forward(self, x: Tensor) -> Tensor:
        maps = self.encoder(x)
        y: Tensor = maps.pop()
        for level in self.up_layers_auto:
            y = level(y, maps.pop())
        return self.up_layers_auto[-1].get_submodule("head")(y)


class _Classes(nn.Module):
    """A map for each class: how well a voxel's channels go with what the class is known by."""

    def __init__(self, width: int, n_embeddings: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.InstanceNorm1d(1), nn.GELU(), nn.Linear(width, width))
        self.class_embeddings = nn.Embedding(n_embeddings, width)
        self.image_post_mapping = nn.Sequential(layer(width, width), layer(width, width))

    def forward(self, x: Tensor, classes: Tensor) -> Tensor:
        x = self.image_post_mapping(x)
        wanted = self.mlp(self.class_embeddings(classes)[:, None])[:, 0]  # (classes, C)
        return (wanted @ x.flatten(2)).unflatten(2, x.shape[2:])


class VISTA3D(nn.Module):
    """Logits of background, which are 0, and of the classes that are asked for, in their order.

    x          (N, in_channels, D, H, W), each axis a multiple of 2^(len(blocks_down) - 1)
    returns    (N, 1 + classes, D, H, W); memory grows with the classes
    classes    their numbers in VISTA3D's list, all that it was trained on where None
    n_embeddings  that the file has a place for
    """

    wanted: Tensor

    def __init__(
        self,
        in_channels: int = 1,
        encoder_embed_dim: int = 48,
        blocks_down: Sequence[int] = (1, 2, 2, 4, 4),
        n_embeddings: int = 512,
        classes: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        chosen = list(range(1, SUPPORTED + 1)) if classes is None else list(classes)
        if not chosen or not all(0 <= number < n_embeddings for number in chosen):
            raise ValueError(f"classes are numbers below {n_embeddings}, at least one")
        self.register_buffer("wanted", torch.tensor(chosen), persistent=False)
        self.image_encoder = _Encoder(in_channels, encoder_embed_dim, blocks_down)
        self.class_head = _Classes(encoder_embed_dim, n_embeddings)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.class_head(self.image_encoder(x), self.wanted)
        return F.pad(maps, (0,) * 6 + (1, 0))  # background in front


ABOUT = About(
    "VISTA3D, its automatic branch",
    "He et al. 2024, arXiv:2406.05285; MONAI's vista3d132",
    "3-D",
    "which classes are asked for: 117 are, of 132, as where its program is asked for nothing",
    "the bundle vista3d of MONAI's model zoo, not in the catalogue because its weights are for non-commercial use: the "
    "recipe vista3d is for a checkpoint of your own",
)
FAMILIES: dict[str, Callable[..., nn.Module]] = {"vista3d": VISTA3D}

_SMALL: Document = {"encoder_embed_dim": 8, "blocks_down": [1, 1, 1], "classes": [1, 2]}
SMALL = {"vista3d": Small(_SMALL, counted=("in_channels", "n_embeddings"))}


def infer(shapes: Shapes) -> Inferred | None:
    """The sizes of a VISTA3D; which of its classes are asked for is in no tensor."""
    first, known = (
        shapes.get("image_encoder.encoder.conv_init.weight"),
        shapes.get("class_head.class_embeddings.weight"),
    )
    if first is None or known is None:
        return None
    levels = length(shapes, "image_encoder.encoder.layers.")
    return Inferred(
        "vista3d",
        {
            "in_channels": first[1],
            "encoder_embed_dim": first[0],
            "blocks_down": [length(shapes, f"image_encoder.encoder.layers.{i}.blocks.") for i in range(levels)],
            "n_embeddings": known[0],
            "classes": list(EVERYTHING if known[0] > SUPPORTED else range(1, known[0])),
        },
        {"classes": "classes are not in the tensors: those taken that it labels where nothing is asked for"},
    )
