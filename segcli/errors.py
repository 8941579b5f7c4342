"""What segcli refuses to do, and the exit code of each refusal.

SegcliError
├── UsageError        2   arguments that contradict each other
├── InputError       65   not one readable volume
│   └── InputMissing 66   nothing there, or nothing to do
├── EngineError      69   engine, device or what an installed package adds not available, or faulty
├── DownloadFailed   69   a file of a network that does not come, or other bytes than stated
├── OutOfMemory      71   every way to need less memory failed
├── OutputError      74   cannot write, disk full
│   └── OutputExists 73   would overwrite a file that is not a verified earlier result
├── Denied           77   not permitted, to read or to write
├── ModelError       78   no such model, a wrong card, weights that do not fit
└── CasesFailed       1   some of several cases failed, the others are done

Each is also the built-in error that it is (ValueError, OSError, FileNotFoundError, FileExistsError, PermissionError,
MemoryError), for programs that do not know segcli. So where a refusal can arise within segcli, a handler of one of
those stands below one that lets SegcliError pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


_SHORT, _ENDLESS = 160, 600  # characters of what a library says: of some sentences, of one without an end


class SegcliError(Exception):
    """A refusal: one sentence with file and value, and a hint that says what to do next.

    The sentence begins with what it is about, a file, a model or an option, and a colon.

    >>> try:
    ...     segcli.read("nowhere.nii.gz")
    ... except segcli.SegcliError as error:
    ...     print(error.message, error.exit_code)
    nowhere.nii.gz: no such file or folder 66
    """

    exit_code: ClassVar[int] = 70

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        """A refusal crosses between processes whole, with its hint."""
        return _again, (type(self), self.message, self.hint)

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message

    def about(self, *names: str) -> Self:
        """The same refusal about what has these names: the first of them stands before it, unless it begins with one.

        A sentence about several begins with "a, b: " or "a and b: ".
        """
        begins = tuple(f"{name}{end}" for name in names for end in (":", ",", " and "))
        told = self.message if self.message.startswith(begins) else f"{names[0]}: {self.message}"
        return type(self)(told, hint=self.hint)


def _again(kind: type[SegcliError], message: str, hint: str | None) -> SegcliError:
    return kind(message, hint=hint)


def cause_of(error: BaseException) -> str:
    """What a library says of an error, in one line: its first sentence, and more whole ones as far as they are short.

    Only a sentence without an end is cut, between words and visibly. The error's class where it says nothing.
    """
    import re  # for refusals alone

    first, *more = re.split(r"(?<=[.!?])\s+(?=[A-Z\[])", " ".join(str(error).split("\n\n")[0].split()))
    said = first or type(error).__name__
    if len(said) > _ENDLESS:
        return said[:_ENDLESS].rpartition(" ")[0] + " ..."
    for sentence in more:
        if len(said) + len(sentence) >= _SHORT:
            break
        said += f" {sentence}"
    return said


def first_few(words: Sequence[object], most: int) -> str:
    """At most so many words with commas between, and dots behind them where there are more."""
    return ", ".join(map(str, words[:most])) + " ..." * (len(words) > most)


def near(word: str, known: Iterable[str]) -> str:
    """The end of a refusal: a question about the nearest known word, in large or small letters, or nothing."""
    asked = question(word, known)
    return f"; {asked}" if asked else ""


def question(word: str, known: Iterable[str]) -> str:
    """Whether the nearest known word was meant; nothing where none is near."""
    import difflib  # for refusals alone

    small = {one.lower(): one for one in known}
    found = difflib.get_close_matches(word.lower(), list(small), 1)
    return f"did you mean {small[found[0]]!r}?" if found else ""


class UsageError(SegcliError, ValueError):
    exit_code = 2


class InputError(SegcliError, ValueError):
    exit_code = 65


class InputMissing(InputError, FileNotFoundError):
    exit_code = 66


class EngineError(SegcliError):
    exit_code = 69


class DownloadFailed(SegcliError):
    exit_code = 69


class OutOfMemory(SegcliError, MemoryError):
    exit_code = 71


class OutputError(SegcliError, OSError):
    exit_code = 74


class OutputExists(OutputError, FileExistsError):
    exit_code = 73


class Denied(SegcliError, PermissionError):
    exit_code = 77


class ModelError(SegcliError, ValueError):
    exit_code = 78


class CasesFailed(SegcliError):
    exit_code = 1
