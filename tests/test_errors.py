"""What is said of other libraries' errors."""

import pytest

from segcli.errors import cause_of


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (ValueError("\n one\ntwo"), "one"),
        (ValueError("x" * 500), "x" * 120),
        (RuntimeError(" \n"), "RuntimeError"),
        (IndexError(), "IndexError"),
    ],
)
def test_a_cause_is_a_line_that_is_never_empty(error: Exception, cause: str) -> None:
    assert cause_of(error) == cause
