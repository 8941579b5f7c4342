"""The trial of a graph before its model gets a name: whether the engines that are here answer, and answer alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segcli.commands.terminal import say
from segcli.errors import EngineError, ModelError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from segcli.models.card import ModelCard

_ALIKE = 0.01  # of the largest answer: engines differ by rounding, with a graph of 8 or 16 bits inside by more


def gives_logits(card: ModelCard) -> list[str] | None:
    """Run a model's graph on one window of a scan's values, then on as many as a scan shows it at a time.

    ONNX Runtime, where it is there, decides; another engine that cannot run the graph, or answers otherwise, is named
    on stderr.
    returns  the engines that answer as it does, for the card; None where all do
    errors   ModelError: it does not fit the card, cannot be run, or answers with NaN or infinity; EngineError (69)
    """
    import numpy as np

    from segcli.engines.table import installed

    specs = {spec.name: spec for spec in installed() if spec.reads == "graph" and "cpu" in spec.prefers}
    if not specs:
        raise EngineError("no engine for an ONNX file is installed", hint="pip install onnxruntime")
    decides = "onnx" if "onnx" in specs else next(iter(specs))
    logits, alike = _answers(card, decides), [decides]
    largest = float(np.abs(logits).max())
    for name in [name for name in specs if name != decides]:
        try:
            other = _answers(card, name)
        except EngineError as missing:  # of this machine, and no fault of the graph
            say(f"note: {missing.message}: it is not compared")
            del specs[name]
            continue
        except ModelError as refused:
            said = refused.message
        else:
            error = float(np.abs(np.subtract(other, logits, out=other), out=other).max())  # many classes are gigabytes
            if error <= _ALIKE * largest:
                alike.append(name)
                continue
            said = f"{card.onnx}: {specs[name].title} answers otherwise, by {error:.3g} where the most is {largest:.3g}"
        say(f"note: {said}: {specs[decides].title} is taken")
    return None if len(alike) == len(specs) else alike


def _answers(card: ModelCard, name: str) -> NDArray[np.float32]:
    """What a model's graph answers to one window, run by one engine; errors as of `gives_logits`."""
    import numpy as np

    from segcli.engines.choose import open_engine
    from segcli.models import trial

    engine = open_engine(card, engine=name, device="cpu").engine
    window = trial.window(card)
    logits: NDArray[np.float32] = np.array(engine.run(window))
    if engine.batch > 1:
        try:
            engine.run(np.repeat(window, engine.batch, axis=0))
        except ModelError as error:
            raise ModelError(
                f"{card.onnx}: answers one window, but not {engine.batch} at a time, as its input allows: "
                f"{error.message.removeprefix(f'{card.onnx}: ')}",
                hint="export it for a batch of 1",
            ) from error
    if not np.isfinite(logits).all():
        raise ModelError(
            f"{card.onnx}: answers values between {window.min():g} and {window.max():g}, as the card prepares "
            "a scan's, with NaN or infinity",
            hint="the card's intensities are not those of its training, the training diverged, or the export is not of "
            "float32",
        )
    return logits
