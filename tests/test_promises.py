"""The numbered promises and the tests that hold them: none without the other."""

import re
from pathlib import Path

TESTS = Path(__file__).parent
NAMED = re.compile(r"def test_((?:\d+_\d+_(?:and_)?)+)")


def promised() -> set[str]:
    return set(re.findall(r"^(\d+\.\d+) ", (TESTS / "PROMISES.md").read_text(encoding="utf-8"), re.MULTILINE))


def held() -> set[str]:
    names = (name for path in TESTS.rglob("test_*.py") for name in NAMED.findall(path.read_text(encoding="utf-8")))
    return {f"{a}.{b}" for name in names for a, b in re.findall(r"(\d+)_(\d+)", name)}


def test_every_promise_has_a_test() -> None:
    assert promised() - held() == set()


def test_no_test_bears_a_number_that_is_not_promised() -> None:
    assert held() - promised() == set()
