"""A host for one real guest process: a socket in place of the device, in blocking calls."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from hbtrio.wire.channel_codec import decode, encode
from hbtrio.wire.channel_messages import (
    Challenge,
    ChallengeResponse,
    Init,
    InitAck,
    Message,
)
from hbtrio.wire.lines import LineReader

#: How long a guest may take for anything, in seconds.
BOUND_S: Final = 30.0


class GuestPeer:
    """A host that talks to one guest over a real socket."""

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

    def accept_init(self, *, extensions: int = 0) -> None:
        """Waits for ``init`` and acknowledges it."""
        init = self.next()
        assert isinstance(init, Init)
        self.send(InitAck(init.invocation_id, extensions))

    def beat(self, number: int) -> None:
        """Sends a challenge and waits for its answer; reports of voters may come before it."""
        self.send(Challenge(number))
        while not isinstance(answer := self.next(), ChallengeResponse):
            pass
        assert answer.heartbeat_response == number


@contextmanager
def running_guest(
    command: Sequence[str], directory: Path, config: str = "", stderr: int | None = None
) -> Iterator[tuple[subprocess.Popen[str], GuestPeer]]:
    """A guest process and its host; killed at the end if it has not ended.

    Args:
        command: what to run, without the arguments of ``hbtrio guest``.
        directory: where its files are.
        config: its configuration.
        stderr: where its log goes; None: where that of this process goes.
    """
    (directory / "guest.conf").write_text(config)
    path = str(directory / "channel")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen(1)
        listener.settimeout(BOUND_S)
        own = ["--config", str(directory / "guest.conf"), "--device", path, "--name", "vm1"]
        own += ["--app-socket", str(directory / "api")]
        guest = subprocess.Popen([*command, *own], stdout=subprocess.PIPE, stderr=stderr, text=True)
        try:
            connection, _ = listener.accept()
            with connection:
                yield guest, GuestPeer(connection)
        finally:
            guest.kill()
            guest.wait()
            assert guest.stdout is not None
            guest.stdout.close()
