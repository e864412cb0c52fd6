"""One libvirtd serves all tests here; each begins without a domain."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from libvirt.private_libvirt import PrivateLibvirt, obstacle


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
