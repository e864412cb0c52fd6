"""One libvirtd serves all tests here; each begins without a domain."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from libvirt.private_libvirt import PrivateLibvirt, obstacle
from support.leaks import Held, left_since
from vm import initramfs
from vm.initramfs import Image


@pytest.fixture(scope="session")
def libvirtd() -> Iterator[PrivateLibvirt]:
    """A libvirtd that runs.

    Where none can be started nothing is tested, unless HBTRIO_REQUIRE_LIBVIRT=1 makes that a
    failure.
    """
    if reason := obstacle():
        if os.environ.get("HBTRIO_REQUIRE_LIBVIRT") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="lv.") as name:
        private = PrivateLibvirt(Path(name))
        try:
            private.start()
            yield private
        finally:
            private.close()


@pytest.fixture
def libvirt(libvirtd: PrivateLibvirt) -> Iterator[PrivateLibvirt]:
    """The libvirtd, without a domain."""
    yield libvirtd
    libvirtd.destroy_all()


@pytest.fixture(autouse=True)
def no_leaks(libvirtd: PrivateLibvirt) -> Iterator[None]:
    """As for all tests, except that libvirtd may be another process than before."""
    libvirtd.start_if_crashed()
    before = Held.now()
    yield
    left = left_since(before)
    assert left in ({}, {"children": [str(libvirtd.pid)]})


@pytest.fixture(scope="session")
def image() -> Iterator[Image]:
    """What the guest boots."""
    if reason := initramfs.obstacle():
        if os.environ.get("HBTRIO_REQUIRE_LIBVIRT") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    with initramfs.image(initramfs.cache_directory()) as made:
        yield made
