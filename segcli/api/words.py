"""Refusals in the words of Python: an option of the command is called as the argument that it is here."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from segcli.errors import SegcliError
from segcli.packages import at_fault

P = ParamSpec("P")
R = TypeVar("R")

FLAGS = frozenset(
    {"tta", "fill_gaps", "allow_label_map", "skip_empty", "faithful", "keep_islands", "overwrite", "split"}
)
VALUED = frozenset(
    {
        *("affine", "series", "where", "volume", "classes", "overlap", "average", "largest_component", "min_size"),
        *("fill_holes", "engine", "device", "precision", "threads", "batch", "max_ram", "max_vram", "include"),
        *("exclude", "participant_label", "session_label", "suffix", "layout", "seg_type", "report", "tables", "write"),
    }
)
# What has no argument of its name in Python, the longer first.
_OTHERWISE = {
    "--write disagreement": "disagreement=True",
    "--model A --model B": "model=['A', 'B']",
    "name them with --channel NAME=FILE": "several channels are a list, in the model's order, or {channel: path}",
    "--channel NAME=FILE": "{channel: path}",
}
# What is the value of the option that it follows; any other word goes on with the sentence.
_WORDS = "|".join(
    (
        r"(?:sform|qform|pixdim)\b",  # --affine
        r"(?:torch|onnx|openvino)\b",  # --engine
        r"cpu\b|cuda(?::\d+)?",  # --device
        r"all\b|series-[\w-]+",  # --series
        r"\w+[!~]?[=~][^\s:]+",  # --where
        r"(?:binary|dicom-seg|slicer)\b",  # --seg-type, --write, --tables
        r"(?!away:|out:)[^\s:]+(?=:)",  # an option with its value, and what is said of both
    )
)
# An option begins a word: ct--volume.nii has none.
_OPTION = re.compile(
    rf"(?<![^\s(`])(`?)(?:predict )?--(?P<name>[a-z-]+)(?: (?:(?P<number>\d+\b|N\b)|(?P<word>{_WORDS})))?\1"
)


def in_python(call: Callable[P, R]) -> Callable[P, R]:
    """The same function, whose refusals name arguments and no options; a fault in an installed package names that."""

    @functools.wraps(call)
    def told(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return call(*args, **kwargs)
        except SegcliError as error:
            error.message, error.hint = said(error.message), error.hint and said(error.hint)
            error.args = (error.message,)
            raise
        except (OSError, MemoryError):
            raise
        except Exception as error:
            if (fault := at_fault(error)) is None:
                raise
            raise fault from error

    return told


def said(sentence: str) -> str:
    """A sentence with arguments in place of the options of `segcli predict`; other options stay as they are.

    >>> said("`predict --volume N` takes one of them; use --device cpu; leave --tta out")
    "volume=N takes one of them; use device='cpu'; leave tta=True out"
    """
    for told, instead in _OTHERWISE.items():
        sentence = sentence.replace(told, instead)
    return _OPTION.sub(_argument, sentence)


def _argument(option: re.Match[str]) -> str:
    name, word, number = option["name"].replace("-", "_"), option["word"], option["number"]
    if name in FLAGS:
        return f"{name}=True" + (f" {word}" if word else "")
    if name not in VALUED:
        return option[0]
    return f"{name}={number or (repr(word) if word else '')}"
