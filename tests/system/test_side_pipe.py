"""A pipe beside its outputs, with real processes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from hbtrio.system.runner import ProcessNotStarted, SystemProcesses
from hbtrio.system.side_pipe import SidePipe

pytestmark = pytest.mark.processes

BOUND_S = 30.0


def script(directory: Path, body: str) -> str:
    path = directory / "script"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


async def test_what_a_script_writes_there_arrives_while_it_runs(tmp_path: Path) -> None:
    """In any shell: one whose redirections know single digits opens the descriptor's file."""
    os.mkfifo(tmp_path / "fifo")
    path = script(
        tmp_path, f'echo EXTEND=30 > "/dev/fd/$AT"\nread _ < {tmp_path}/fifo\necho done\n'
    )
    heard, arrived = bytearray(), trio.Event()

    def take(data: bytes) -> None:
        heard.extend(data)
        arrived.set()

    async def let_go() -> None:
        await arrived.wait()
        await trio.to_thread.run_sync((tmp_path / "fifo").write_text, "\n")

    with trio.fail_after(BOUND_S):
        async with SystemProcesses() as runner, trio.open_nursery() as nursery:
            nursery.start_soon(let_go)
            result = await runner.run([path], side=SidePipe("AT", take))
    assert (result.exit_code, result.stdout, bytes(heard)) == (0, b"done\n", b"EXTEND=30\n")


async def test_no_descriptor_is_left_whatever_happens(tmp_path: Path) -> None:
    path = script(tmp_path, 'exec > "/dev/fd/$AT"; echo x; exit 3')
    side = SidePipe("AT", lambda _: None)
    with trio.fail_after(BOUND_S):
        async with SystemProcesses() as runner:
            await runner.run([path], side=side)
            before = len(os.listdir("/proc/self/fd"))
            for _ in range(3):
                assert (await runner.run([path], side=side)).exit_code == 3
                with pytest.raises(ProcessNotStarted):
                    await runner.run([str(tmp_path / "missing")], side=side)
                with trio.move_on_after(0):
                    await runner.run([path], side=side)
            assert len(os.listdir("/proc/self/fd")) == before
