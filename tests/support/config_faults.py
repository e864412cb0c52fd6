"""The faults of a configuration text, with or without the lines on which they stand."""

from __future__ import annotations

import re

import pytest

from hbtrio.config.toml import parse_toml
from hbtrio.errors import ConfigError


def faults_in(text: str, cls: type, name: str) -> list[str]:
    """Every fault as it is printed."""
    with pytest.raises(ConfigError) as caught:
        parse_toml(text, cls, name)
    return caught.value.faults


def without_lines(faults: list[str]) -> list[str]:
    """The same as NAME: fault; tests/config/test_toml_lines.py is about the lines."""
    return [re.sub(r"^([^: ]+):\d+: ", r"\1: ", fault) for fault in faults]
