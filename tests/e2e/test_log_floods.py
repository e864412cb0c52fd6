"""What a hostile peer can make a guest or an agent log: some lines, and their number."""

from __future__ import annotations

import re
import shutil
import socket
import tempfile
from pathlib import Path

import pytest
import trio

from hbtrio.lab.daemon import Daemon
from hbtrio.log.limits import SUBJECT_RATE
from support.real_agent import real_agent
from support.real_processes import SOON_S, logged

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("home")]

#: Tens of times what is logged of it.
_FLOOD = 3000

#: Lines of one subject: at once, and what is gained until the daemon has ended.
_MOST = SUBJECT_RATE.burst + 2

_SUMMARY = re.compile(r"(\d+) lines like this were not logged, the first: (.*)")


def shown_and_withheld(log: str, text: str) -> tuple[int, int]:
    """How many lines with this text there are, and how many more there were."""
    shown = withheld = 0
    for line in log.splitlines():
        if summary := _SUMMARY.search(line):
            withheld += int(summary[1]) * (text in summary[2])
        else:
            shown += text in line
    return shown, withheld


async def test_a_guest_of_a_hostile_host() -> None:
    directory = Path(tempfile.mkdtemp())
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(directory / "device"))
        listener.listen()
        listener.settimeout(SOON_S)
        log = directory / "guest.log"
        guest = await Daemon.start("guest", ["guest", "--device", str(directory / "device")], log)
        host, _ = await trio.to_thread.run_sync(listener.accept)
        with host:
            host.settimeout(SOON_S)
            for _ in range(_FLOOD // 100):
                await trio.to_thread.run_sync(host.sendall, b'{"no":"message"}\n' * 100)
            host.shutdown(socket.SHUT_WR)
            await logged(log, "channel closed")  # all has been read
        await guest.stop()
    shown, withheld = shown_and_withheld(log.read_text(), "message dropped")
    assert SUBJECT_RATE.burst <= shown <= _MOST
    assert shown + withheld == _FLOOD
    shutil.rmtree(directory)


async def test_an_agent_and_strangers_at_its_link() -> None:
    directory = Path(tempfile.mkdtemp())
    async with real_agent(directory) as agent:
        for _ in range(300):
            with trio.fail_after(SOON_S):
                async with await trio.open_unix_socket(str(directory / "link")) as stream:
                    await stream.send_all(b"hello?\n")
                    assert await stream.receive_some() is not None
        await agent.daemon.stop()
        shown, _ = shown_and_withheld(agent.log, "connection refused")
        assert 1 <= shown <= _MOST
        assert len(agent.log.splitlines()) <= _MOST + 10
    shutil.rmtree(directory)
