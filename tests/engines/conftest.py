"""The suite's small models are found from this folder too, and the smallest is a fixture."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import pytest
from small import model

from segcli.models.card import ModelCard


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> ModelCard:
    return model(tmp_path_factory.mktemp("models") / "small")
