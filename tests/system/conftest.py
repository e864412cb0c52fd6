"""Tests of processes, files and signals leave nothing behind."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def nothing_stays(no_leaks: None) -> None:
    """Every test here is guarded, see ``no_leaks``."""
