"""What a refusal is to a program, and what is said of other libraries' errors."""

import pickle

import pytest

from segcli import errors
from segcli.errors import cause_of


@pytest.mark.parametrize(
    ("kind", "builtin", "code"),
    [
        (errors.UsageError, ValueError, 2),
        (errors.InputError, ValueError, 65),
        (errors.InputMissing, FileNotFoundError, 66),
        (errors.OutOfMemory, MemoryError, 71),
        (errors.OutputExists, FileExistsError, 73),
        (errors.OutputError, OSError, 74),
        (errors.Denied, PermissionError, 77),
        (errors.ModelError, ValueError, 78),
    ],
)
def test_a_refusal_is_also_the_built_in_error_that_it_is(kind, builtin, code):
    refusal = kind("a.nii: broken", hint="mend it")
    for one in (refusal, pickle.loads(pickle.dumps(refusal))):
        assert isinstance(one, builtin)
        assert (type(one), one.message, one.hint, str(one)) == (
            kind,
            "a.nii: broken",
            "mend it",
            "a.nii: broken (mend it)",
        )
        assert one.exit_code == code


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("a.nii: truncated", "a.nii: truncated"),
        ("in/a.nii: no such file", "in/a.nii: no such file"),
        ("a.nii and b.nii: other grids", "a.nii and b.nii: other grids"),
        ("not enough memory for a.nii", "a.nii: not enough memory for a.nii"),
        ("a.nii.gz: truncated", "a.nii: a.nii.gz: truncated"),
    ],
)
def test_a_refusal_about_a_file_begins_with_its_name_once(said: str, told: str) -> None:
    about = errors.InputError(said, hint="mend it").about("a.nii", "in/a.nii")
    assert (type(about), about.message, about.hint) == (errors.InputError, told, "mend it")


def test_what_is_not_permitted_is_no_failure_of_an_output():
    assert not issubclass(errors.Denied, errors.OutputError)


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (ValueError("\n one\ntwo\n\nthree"), "one two"),
        (ValueError("a word " * 100), "a word " * 85 + "a ..."),
        (
            ValueError("It has shape (3,\n 4). Use 5. " + "This is long, " * 20 + "isn't it?"),
            "It has shape (3, 4). Use 5.",
        ),
        (ValueError("x" * 500 + ". Y"), "x" * 500 + "."),
        (RuntimeError(" \n"), "RuntimeError"),
        (IndexError(), "IndexError"),
    ],
)
def test_a_cause_is_a_line_that_is_never_empty(error: Exception, cause: str) -> None:
    assert cause_of(error) == cause
