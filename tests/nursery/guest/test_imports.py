"""The guest lives in small VMs: what it must not load, asked of a real guest process."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hbtrio.wire.channel_codec import decode, encode
from hbtrio.wire.channel_messages import (
    ActionNotify,
    ActionResponse,
    Challenge,
    ChallengeResponse,
    Exit,
    Init,
    InitAck,
    Message,
)
from hbtrio.wire.lines import LineReader
from hbtrio.wire.vocabulary import Event, NotificationType, VoteResult

#: Of the host, the agent and the tools; and libraries that would bring a second event loop.
FORBIDDEN = {
    "anyio",
    "asyncio",
    "cattrs",
    "click",
    "h11",
    "httpcore",
    "httpx",
    "inotify_simple",
    "rich",
    "sqlite3",
    "starlette",
    "structlog",
    "tomllib",
    "trio_serial",  # only where the device is a tty
}
FORBIDDEN_OURS = {
    "hbtrio.cli.host",
    "hbtrio.config.host",
    "hbtrio.config.toml",
    "hbtrio.lab",
    "hbtrio.nursery.host.channel",
    "hbtrio.nursery.host.daemon",
    "hbtrio.http.server",
}

#: What a guest may hold in memory after a vote and some beats. It is 32 MB with trio, attrs and
#: msgspec on Python 3.11; each library of the host is another 4 to 10.
RSS_LIMIT_MB = 40

#: Runs the command and says, at its end, what it has loaded.
PROGRAM = """
import json, sys
from hbtrio.cli import main
status = main(sys.argv[1:])
print(json.dumps([status, sorted(sys.modules)]))
"""

BOUND_S = 30.0


def loaded(modules: list[str]) -> set[str]:
    """Of what must not be there, what is."""
    return {
        name for name in modules if name.partition(".")[0] in FORBIDDEN or name in FORBIDDEN_OURS
    }


class Host:
    """A host that talks to one guest over a real socket, in blocking calls."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(BOUND_S)
        self._connection = connection
        self._lines = LineReader()
        self._heard: list[Message] = []
        self._sequence = 0

    def send(self, message: Message) -> None:
        self._sequence += 1
        self._connection.sendall(encode(message, self._sequence))

    def next(self) -> Message:
        while not self._heard:
            data = self._connection.recv(4096)
            assert data, "the guest hung up"
            self._heard = [decode(line) for line in self._lines.feed(data)]
        return self._heard.pop(0)


@contextmanager
def running_guest(directory: Path) -> Iterator[tuple[subprocess.Popen[str], Host]]:
    """A guest process with both scripts, and its host."""
    script = directory / "script"
    script.write_text("#!/bin/sh\necho fine\n")
    script.chmod(0o755)
    config = directory / "guest.conf"
    config.write_text(
        f"HEALTH_CHECK_SCRIPT={script}\nHEALTH_CHECK_INTERVAL=30\n"
        f"EVENT_NOTIFICATION_SCRIPT={script}\n"
    )
    path = str(directory / "channel")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen(1)
        listener.settimeout(BOUND_S)
        command = [sys.executable, "-c", PROGRAM, "guest", "--config", str(config)]
        command += ["--device", path, "--app-socket", str(directory / "api"), "--name", "vm1"]
        guest = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            connection, _ = listener.accept()
            with connection:
                yield guest, Host(connection)
        finally:
            guest.kill()
            guest.wait()
            assert guest.stdout is not None
            guest.stdout.close()


def rss_mb(pid: int) -> float:
    """Resident memory, in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def test_the_command_alone_loads_little() -> None:
    program = "import json, sys, hbtrio.cli.guest; print(json.dumps(sorted(sys.modules)))"
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=BOUND_S
    )
    assert loaded(json.loads(run.stdout)) == set()


@pytest.mark.processes
def test_a_guest_at_work_loads_little_and_stays_small(tmp_path: Path) -> None:
    with running_guest(tmp_path) as (guest, host):
        init = host.next()
        assert isinstance(init, Init)
        host.send(InitAck(init.invocation_id))
        for number in range(20):
            host.send(Challenge(number))
            answer = host.next()
            assert isinstance(answer, ChallengeResponse)
            assert answer.heartbeat_response == number
        host.send(ActionNotify(900, Event.STOP, NotificationType.REVOCABLE, 9000))
        assert host.next() == ActionResponse(
            900, Event.STOP, NotificationType.REVOCABLE, VoteResult.ACCEPT, "fine"
        )
        size_mb = rss_mb(guest.pid)
        print(f"resident memory of a guest at work: {size_mb:.1f} MB")
        guest.send_signal(signal.SIGTERM)
        assert isinstance(host.next(), Exit)
        output, _ = guest.communicate(timeout=BOUND_S)
        status, modules = json.loads(output)
    assert status == 0
    assert loaded(modules) == set()
    assert size_mb < RSS_LIMIT_MB
