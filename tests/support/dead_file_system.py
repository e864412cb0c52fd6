"""A file system whose server never answers: whoever looks into it waits, until it is ended.

FUSE does as a dead file server does: ``stat``, ``open`` and ``exec`` below the directory hang, and
only KILL ends who hangs.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

_MNT_DETACH: Final = 2
_MS_NOSUID_NODEV: Final = 6


@contextmanager
def dead_file_system(directory: Path) -> Iterator[Path]:
    """Makes a directory dead while the block runs; skips the test where nothing can be mounted."""
    libc = ctypes.CDLL(None, use_errno=True)
    directory.mkdir()
    try:
        server = os.open("/dev/fuse", os.O_RDWR)
    except OSError as error:
        pytest.skip(f"/dev/fuse: {error.strerror}")
    try:
        options = f"fd={server},rootmode=40000,user_id=0,group_id=0"
        place = str(directory).encode()
        if libc.mount(b"dead", place, b"fuse", _MS_NOSUID_NODEV, options.encode()):
            pytest.skip(f"mount: {os.strerror(ctypes.get_errno())}")
        try:
            yield directory
        finally:
            libc.umount2(place, _MNT_DETACH)
    finally:
        # Whoever still hangs gets an error.
        os.close(server)
