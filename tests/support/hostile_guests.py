"""Runs hostile guests in a process of their own beside a real host."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from support.guest_farm import module_environment
from support.hostile_guests_process import KINDS

__all__ = ["KINDS", "hostile_guests"]


@asynccontextmanager
async def hostile_guests(
    channel_dir: Path, control_socket: Path, *, first: int, count: int
) -> AsyncIterator[dict[str, str]]:
    """Attacks the host until the end of the block; the kind of each guest, by its uuid.

    Args:
        channel_dir: the directory of the channels.
        control_socket: the host's.
        first: the number of the first hostile guest.
        count: how many.
    """
    process = await trio.lowlevel.open_process(
        [
            *(sys.executable, "-m", "support.hostile_guests_process"),
            *(str(channel_dir), str(first), str(count), str(control_socket)),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=module_environment(),
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        said = b""
        with trio.fail_after(20):
            while not said.endswith(b"\n"):
                said += await process.stdout.receive_some()
        yield json.loads(said)
        # Else it would have attacked for a part of the time only.
        assert process.poll() is None
    finally:
        await process.stdin.aclose()
        with trio.move_on_after(10, shield=True):
            await process.wait()
        if process.returncode is None:
            process.kill()
