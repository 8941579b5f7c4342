"""What JSON, YAML and plans hold: objects with named fields, whose values are looked at where they are used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Content = Any  # what stands at a place of one, or in a pickle
Document = dict[str, Any]  # one that is being made, or was just read
Facts = Mapping[str, Any]  # one that is only read
