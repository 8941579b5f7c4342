"""Answers of brainchop's MeshNet in its own runtime, for tests/networks/test_meshnet.py.

    python tests/networks/meshnet_tinygrad.py FILE

It needs tinygrad and safetensors, and PYTHON=1 where there is no compiler.
Weights and image are drawn with a seed and stored with the logits, for each activation with and without norm.
"""

import sys

import numpy as np
from safetensors.numpy import save_file
from tinygrad import Tensor, nn

DILATIONS = (1, 2, 3)
CHANNELS, CLASSES = 3, 2
FORMS = {"elu": (False, False, True), "gelu": (True, True, False), "relu": (True, False, False)}  # norm, affine, bias


def logits(form: str, weights: dict[str, np.ndarray], image: np.ndarray) -> np.ndarray:
    norm, affine, bias = FORMS[form]
    x = Tensor(image)
    for i, d in enumerate(DILATIONS):
        conv = nn.Conv2d(x.shape[1], CHANNELS, kernel_size=(3, 3, 3), padding=d, dilation=d, bias=bias)
        conv.weight = Tensor(weights[f"model.{i}.0.weight"])
        if bias:
            conv.bias = Tensor(weights[f"model.{i}.0.bias"])
        x = conv(x)
        if norm:
            group = nn.GroupNorm(CHANNELS, CHANNELS, affine=affine)
            if affine:
                group.weight, group.bias = (Tensor(weights[f"model.{i}.1.{part}"]) for part in ("weight", "bias"))
            x = group(x)
        x = getattr(x, form)()
    last = nn.Conv2d(CHANNELS, CLASSES, kernel_size=(1, 1, 1), bias=True)
    last.weight, last.bias = (Tensor(weights[f"model.{len(DILATIONS)}.{part}"]) for part in ("weight", "bias"))
    return last(x).numpy()


def main() -> None:
    rng = np.random.default_rng(5)
    image = rng.normal(size=(1, 1, 5, 6, 7)).astype(np.float32)
    stored = {"image": image}
    for form, (norm, affine, bias) in FORMS.items():
        weights: dict[str, np.ndarray] = {}
        for i in range(len(DILATIONS)):
            weights[f"model.{i}.0.weight"] = rng.normal(size=(CHANNELS, CHANNELS if i else 1, 3, 3, 3)) * 0.3
            if bias:
                weights[f"model.{i}.0.bias"] = rng.normal(size=CHANNELS)
            if norm and affine:
                weights |= {f"model.{i}.1.{part}": rng.normal(size=CHANNELS) for part in ("weight", "bias")}
        weights[f"model.{len(DILATIONS)}.weight"] = rng.normal(size=(CLASSES, CHANNELS, 1, 1, 1))
        weights[f"model.{len(DILATIONS)}.bias"] = rng.normal(size=CLASSES)
        weights = {name: array.astype(np.float32) for name, array in weights.items()}
        stored |= {f"{form}/{name}": array for name, array in weights.items()}
        stored[f"{form}/logits"] = logits(form, weights, image)
    save_file(stored, sys.argv[1])


if __name__ == "__main__":
    main()
