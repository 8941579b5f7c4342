"""doctor: what it looks for is what segcli needs."""

import re
import tomllib
from pathlib import Path

from segcli.commands.doctor import LIBRARIES

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_libraries_are_those_of_a_plain_install_and_that_of_a_cluster() -> None:
    wanted = [re.match(r"[\w-]+", line)[0] for line in PROJECT["dependencies"]]  # type: ignore[index]
    assert list(LIBRARIES) == [*wanted, "distributed"]
