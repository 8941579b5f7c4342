"""Labels that lungmask gives to a scan made here with a small network of set weights, for test_frames.py.

    python tests/inference/lungmask_original.py FILE

It needs lungmask 0.2.22. FILE gets the labels of each slice before and after its last steps on the whole, those of a
scan that is one slice, and those of a second network for lobes once they are fused with the first one's.
"""

import sys
from importlib import import_module
from typing import Any

import numpy as np
import torch
from golden import uniform
from numpy.typing import NDArray
from safetensors.numpy import save_file
from scipy.ndimage import gaussian_filter
from torch import Tensor

SIZES = {"in_channels": 1, "n_classes": 3, "depth": 3, "wf": 2}
ONE = slice(2, 3)  # a scan of one slice
LOBES = SIZES | {"n_classes": 6}


def phantom() -> NDArray[np.int16]:
    """A chest in HU of eight slices (S, P, L): two lungs, a heart, a table beneath; and a slice of air."""
    slices, rows, columns = np.mgrid[:8, :110, :131].astype(float)
    image = np.full(slices.shape, -1000.0)
    image[((rows - 56) / 42) ** 2 + ((columns - 66) / 58) ** 2 < 1] = 40
    for middle in (40, 92):
        image[((rows - 52) / (28 - slices)) ** 2 + ((columns - middle) / 17) ** 2 < 1] = -850
    image[((rows - 45) / 12) ** 2 + ((columns - 66) / 15) ** 2 < 1] = 120
    image[(rows > 103) & (columns > 8) & (columns < 120)] = 100
    image += gaussian_filter(np.random.default_rng(3).normal(size=image.shape), 1) * 150
    image[7] = -1000
    return image.round().astype(np.int16)


def weights(shapes: dict[str, tuple[int, ...]], seed: str = "lungmask") -> dict[str, Tensor]:
    """Tensors by their names; the norms leave maps as they are."""
    made = {}
    for name, shape in shapes.items():
        if "num_batches" in name:
            made[name] = torch.zeros(shape, dtype=torch.int64)
        elif name.endswith(("running_mean", "running_var")):
            made[name] = torch.full(shape, float(name.endswith("var")))
        else:
            wide = (3 / max(1, int(np.prod(shape[1:])))) ** 0.5 if len(shape) > 1 else 0.2
            made[name] = uniform(seed, name, list(shape), -wide, wide)
            if len(shape) == 1 and ".block." in name and name.endswith("weight"):
                made[name] = 1 + made[name]
    return made


def balanced(net: torch.nn.Module, slices: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
    """The last layer with which no class is likelier than the others over the scan; it is set in the network too."""
    x = torch.as_tensor((np.minimum(slices, 600) + 1024) / 1624, dtype=torch.float32)[:, None]
    with torch.inference_mode():
        net.last.weight *= 3 / net(x).std()
        answers = net(x)
        for _ in range(200):
            classes = answers.shape[1]
            shares = torch.bincount(answers.argmax(1).ravel(), minlength=classes) / answers[:, 0].numel()
            change = 0.1 * (1 / classes - shares)
            answers += change[:, None, None]
            net.last.bias += change
    return {f"last.{name}": tensor.detach().numpy().copy() for name, tensor in net.last.named_parameters()}


def network(sizes: dict[str, int], seed: str) -> torch.nn.Module:
    net = import_module("lungmask.resunet").UNet(**sizes, padding=True, batch_norm=True, up_mode="upsample")
    net.load_state_dict(weights({name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}, seed))
    return net.eval()


def main() -> None:
    net, lobes = network(SIZES, "lungmask"), network(LOBES, "lobes")
    program: Any = import_module("lungmask").LMInferer.__new__(import_module("lungmask").LMInferer)
    program.batch_size, program.device, program.tqdm_disable = 4, torch.device("cpu"), True
    slices, _ = import_module("lungmask.utils").preprocess(phantom(), resolution=[256, 256])
    found: dict[str, NDArray[Any]] = dict(balanced(net, slices))
    found |= {f"lobes.{name}": tensor for name, tensor in balanced(lobes, slices).items()}
    for program.volume_postprocessing in (False, True):
        name = "after" if program.volume_postprocessing else "before"
        found[name] = program._inference(phantom(), net)
        print(name, np.bincount(found[name].ravel()))
    found["one_slice"] = program._inference(phantom()[ONE], net)
    print("one slice", np.bincount(found["one_slice"].ravel()))
    program.modelname, program.model, program.fillmodel, program.fillmodelm = "lobes", lobes, "lungs", net
    found["fused"] = program.apply(phantom())
    print("fused", np.bincount(found["fused"].ravel()))
    save_file(found, sys.argv[1])


if __name__ == "__main__":
    main()
