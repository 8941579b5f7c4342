"""A network of one 1x1x1 convolution in NumPy."""

import hashlib

import numpy as np
from safetensors.numpy import load

from segcli.engines.host import HostEngine
from segcli.engines.table import EngineSpec


class Lines(HostEngine):
    name = "numpy cpu"

    def run(self, patches):
        return np.einsum("kc,ncdhw->nkdhw", self.weight, patches) + self.bias.reshape(-1, 1, 1, 1)


def opened(card, chosen, run):
    data = card.file(card.weights[0]).read_bytes()
    engine = Lines(run.threads, run.max_ram)
    engine.weight, engine.bias = load(data)["conv.weight"][:, :, 0, 0, 0], load(data)["conv.bias"]
    return engine, {card.weights[0]: hashlib.sha256(data).hexdigest()}


ENGINE = EngineSpec(
    name="lines",
    title="Lines",
    library="numpy",
    reads="weights",
    devices=("cpu",),
    open=opened,
    trials={"lines": lambda cube: np.pad(cube, ((0, 0), (0, 0), (1, 1), (1, 1), (1, 1)))[:, :, 1:-1, 1:-1, 1:-1]},
)
