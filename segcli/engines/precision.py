"""In which numbers a network computes: what may be asked for, what a processor has, and what a run settles on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from segcli.errors import EngineError, UsageError, near

if TYPE_CHECKING:
    from segcli.models.card import ModelCard

# "fast" is what --fast asks for: like "auto", and bfloat16 on a processor that has it.
Precision = Literal["auto", "float32", "tf32", "bfloat16", "float16", "fast"]
PRECISIONS = tuple(word for word in get_args(Precision) if word != "fast")
Refusals = Mapping[str, str]  # precision -> "" where a device has it, else why not
_CPU_FLAGS = {"avx512_bf16", "amx_bf16"}  # of x86 processors that multiply bfloat16 themselves
ON_GPUS = "is for GPUs"
NOT_THERE = "computes in float32 alone"


@cache
def native_bfloat16(flags: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this processor computes in bfloat16 itself; no where Linux does not say."""
    try:
        lines = flags.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return False
    return any(_CPU_FLAGS & {*line.split()} for line in lines if line.startswith("flags"))


def on_cpu() -> Refusals:
    """What torch and OpenVINO compute in on this processor."""
    missing = "" if native_bfloat16() else "has no AVX512-BF16 and no AMX: bfloat16 would be slower than float32"
    return {"float32": "", "tf32": ON_GPUS, "bfloat16": missing, "float16": ON_GPUS}


def settled(asked: str, cards: Sequence[ModelCard], refusals: Refusals, title: str, device: str) -> str:
    """The precision of a run on a device: what was asked for, or what "auto" and "fast" take there.

    On a GPU that is half precision: bfloat16 where a card says so, float16 elsewhere. A card with `half` false keeps
    float32; so does a processor, but for bfloat16 that it has and "fast" asks for.

    refusals  of the engine on the device
    errors    UsageError (2): no precision has the name; EngineError (69): the engine does not compute like that
              on the device, and why
    """
    if asked in ("auto", "fast"):
        half = "bfloat16" if device == "cpu" or any(card.half == "bfloat16" for card in cards) else "float16"
        wanted = (asked == "fast" or device != "cpu") and not any(card.half is False for card in cards)
        return half if wanted and refusals.get(half, "no") == "" else "float32"
    if asked not in PRECISIONS:
        raise UsageError(f"no precision is called {asked!r}{near(asked, PRECISIONS)}", hint=", ".join(PRECISIONS))
    able = [word for word, why in refusals.items() if not why]
    if asked in able:
        return asked
    why = refusals.get(asked, "")
    reason = f"{asked} {why}" if why == ON_GPUS else f"{device} {why}" if why else f"{title} does not compute in it"
    raise EngineError(f"--precision {asked}: {reason}", hint=f"on {device} there is {' or '.join(able)}")
