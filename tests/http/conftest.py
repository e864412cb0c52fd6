"""The fake clock of the tests of one connection."""

from __future__ import annotations

import pytest
from trio.testing import MockClock


@pytest.fixture
def clock(autojump_clock: MockClock) -> MockClock:
    """Every test has it, so that a hang is a failure at once: see serving()."""
    return autojump_clock
