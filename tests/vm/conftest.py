"""The image is built once for all tests; without the tools for it there are none."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from support import real_processes as real
from vm import initramfs
from vm.bed import Supply, make_supply

#: Where the cache is, whatever a test does with its environment.
_CACHE = initramfs.cache_directory()


@pytest.fixture(scope="session")
def supply() -> Iterator[Supply]:
    """This checkout's image, and a machine that has booted it.

    Where no VM can be made none is tested, unless HBTRIO_REQUIRE_VM=1 makes that a failure.
    """
    if reason := initramfs.obstacle():
        if os.environ.get("HBTRIO_REQUIRE_VM") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    with initramfs.image(_CACHE) as image, tempfile.TemporaryDirectory(prefix="vm.") as name:
        yield trio.run(make_supply, image, Path(name) / "booted")


@pytest.fixture(autouse=True)
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory with a short name, in which beds are made; at its end no process is left."""
    with tempfile.TemporaryDirectory(prefix="vm.") as name:
        monkeypatch.setenv("TMPDIR", name)
        monkeypatch.setattr(tempfile, "tempdir", name)
        yield Path(name)
        left = real.started_below(Path(name))
        real.end(left)
        assert left == set()
        assert real.sockets_below(Path(name)) == []
