"""Arguments that make each network small: for benchmarks and tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Size = tuple[int, int, int]


CLASSES = 3


_CUBE: Size = (32, 32, 32)


@dataclass(frozen=True)
class Small:
    """Arguments that make a network small, and its window; one voxel deep for a network of slices.

    counted   what the family calls its channels and its classes
    """

    arguments: Mapping[str, Any]
    size: Size = _CUBE
    counted: tuple[str, str] = ("in_channels", "out_channels")
    channels: int = 1

    @property
    def all_arguments(self) -> dict[str, Any]:
        channels, classes = self.counted
        return {**self.arguments, channels: self.channels, classes: CLASSES}


_UX: dict[str, Any] = {"feat_size": [8, 16, 24, 32], "depths": [1, 2, 1, 1], "hidden_size": 48}


_CHANS = ("in_chans", "out_chans")


_FEATURES: dict[str, Any] = {"features": [8, 8, 16, 16, 32, 8]}


_SWIN: dict[str, Any] = {"feature_size": 12, "num_heads": [1, 2, 3, 4], "window_size": 4}


_PLUS: dict[str, Any] = {"filters": [4, 6, 8, 10, 12]}


_CLASSES = ("in_channels", "n_classes")


_ATTENTION: dict[str, Any] = {"feature_size": 4, "num_heads": 2, "dims": [8, 16, 32, 64], "depths": [1, 2, 1, 1]} | {
    "proj_size": [8, 8, 4, 2],
    "decoder_proj_size": 4,
    "decoder_depth": 2,
    "decoder_num_heads": 2,
}


_VIT: dict[str, Any] = {"img_shape": [32, 32, 32], "embed_dim": 24, "num_heads": 3, "mlp_hidden": 48} | {
    "decoder_widths": [32, 16, 8, 8, 8]
}


_TAMASINO = ("input_dim", "output_dim")


_NNUNET: dict[str, Any] = {
    "n_stages": 4,
    "features_per_stage": [8, 12, 16, 24],
    "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3]],
    "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2]],
    "n_conv_per_stage_decoder": [2, 2, 2],
}


_NN = ("input_channels", "num_classes")


_FORMER: dict[str, Any] = {"embedding_dim": 12, "num_heads": [1, 2, 3, 4]}


NETWORKS: dict[str, Small] = {
    "uxnet3d": Small(_UX, counted=_CHANS),
    "uxnet3d_legacy_dense": Small(_UX, counted=_CHANS),
    "deformuxnet": Small(_UX, counted=_CHANS),
    "deformuxnet_conv1offset_dense": Small(_UX, counted=_CHANS),
    "deformuxnet_conv3offset": Small(_UX, counted=_CHANS),
    "unetr": Small({"img_size": [32, 32, 32], "feature_size": 8, "hidden_size": 48, "mlp_dim": 96, "num_heads": 4}),
    "unetr_tamasino_article": Small(_VIT, counted=_TAMASINO),
    "unetr_tamasino_upstream": Small(_VIT, counted=_TAMASINO),
    "unetrpp_synapse": Small({**_ATTENTION, "img_size": [32, 64, 64]}, (32, 64, 64)),
    "unetrpp_acdc": Small({**_ATTENTION, "img_size": [8, 32, 32]}, (8, 32, 32)),
    "unetrpp_lung": Small({**_ATTENTION, "img_size": [8, 32, 32]}, (8, 32, 32)),
    "unetrpp_tumor": Small({**_ATTENTION, "img_size": [32, 32, 32]}, channels=4),
    "swinunetr": Small(_SWIN, (64, 64, 64)),
    "swinunetr_new_merging": Small(_SWIN, (64, 64, 64)),
    "swinunetr_v2_new_merging": Small(_SWIN, (64, 64, 64)),
    "segresnet": Small({"init_filters": 8}),
    "segresnetds": Small({"init_filters": 8}),
    "unet3plus_3d": Small(_PLUS, counted=_CLASSES),
    "unet3plus": Small(_PLUS, (1, 64, 64), _CLASSES),
    "unet3plus_deepsup": Small(_PLUS, (1, 64, 64), _CLASSES),
    "unet3plus_cgm": Small(_PLUS, (1, 64, 64), _CLASSES),
    "nnunet_plain": Small({**_NNUNET, "n_conv_per_stage": [2, 2, 2, 2]}, counted=_NN),
    "nnunet_resenc": Small({**_NNUNET, "n_blocks_per_stage": [1, 2, 2, 2]}, counted=_NN),
    "nnformer_synapse": Small(
        {**_FORMER, "crop_size": [32, 64, 64], "window_size": [[4, 4, 4], [4, 4, 4], [2, 4, 4], [2, 2, 2]]},
        (32, 64, 64),
        _NN,
    ),
    "nnformer_acdc": Small(
        {**_FORMER, "crop_size": [14, 64, 64], "window_size": [[3, 4, 4], [3, 4, 4], [7, 4, 4], [3, 2, 2]]},
        (14, 64, 64),
        _NN,
    ),
    "nnformer_tumor": Small({**_FORMER, "crop_size": [32, 64, 32], "window_size": [4, 4, 4, 2]}, (32, 64, 32), _NN),
    "basicunet": Small(_FEATURES),
    "basicunetplusplus": Small(_FEATURES),
    "dynunet": Small(
        {"spatial_dims": 3, "kernel_size": [3, 3, 3, 3], "strides": [1, 2, 2, 2], "upsample_kernel_size": [2, 2, 2]}
        | {"filters": [8, 12, 16, 24], "res_block": True}
    ),
    "monai_unet": Small(
        {"spatial_dims": 3, "channels": [8, 12, 16, 24], "strides": [2, 2, 2], "num_res_units": 2, "act": "PRELU"}
    ),
    "pointwise": Small({}, counted=_CHANS),
}
