"""Runs hostile programs at the socket of a real guest, in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from support.guest_farm import module_environment


@asynccontextmanager
async def hostile_applications(path: Path) -> AsyncIterator[dict[str, int]]:
    """Attacks a guest's socket for applications until the end of the block; each kind's pid."""
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "support.hostile_applications_process", str(path)],
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
    finally:
        await process.stdin.aclose()
        with trio.move_on_after(10, shield=True):
            await process.wait()
        if process.returncode is None:
            process.kill()
    # Else one of them would have attacked for a part of the time only.
    assert process.returncode == 0
