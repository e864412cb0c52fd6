"""A home of its own for a test of real processes."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import real_processes as real


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory with a short name, in which scenes and sockets are made.

    At its end no process that was started with it, no socket and no scene may be left.
    """
    with tempfile.TemporaryDirectory(prefix="e2e.") as name:
        home = Path(name)
        monkeypatch.setenv("TMPDIR", name)
        monkeypatch.setattr(tempfile, "tempdir", name)
        yield home
        deadline = time.monotonic() + real.SOON_S
        while (left := real.started_below(home)) and time.monotonic() < deadline:
            time.sleep(0.02)  # they may be on their way out
        real.end(left)
        assert left == set()
        assert real.sockets_below(home) == []
        assert list(home.glob("hbt.*")) == []
