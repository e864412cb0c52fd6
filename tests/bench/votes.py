"""The VIM that votes: how long a vote takes from its POST to the PATCH with the verdict.

    python -m bench.votes VIM_PORT VOTES NAME=PORT=UUID...

One vote after the other, some of each target by turns, so that a noisy neighbour hits all. The time
begins before the connection of the POST is made and ends when the PATCH is read whole, here both.
As the VIM does, it closes without an answer what comes to its port. It ends with a JSON object: of
each target a list of votes, see :class:`Vote`.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time
from typing import Final

import attrs

from bench.vim_wire import PATIENCE_S, Target, is_whole
from hbtrio.lab.fake_vim import loopback_socket

#: Between two votes, in seconds: the end of the last one is stored and synced meanwhile.
_PAUSE_S: Final = 0.01

#: Votes of a turn. With many more in a row the guest would be held up by its host, who takes more
#: than forty in a second for a flood.
_TURN: Final = 20


@attrs.frozen
class Vote:
    """When a vote was begun, replied to and answered by its PATCH, on ``time.monotonic``."""

    began: float
    replied: float
    answered: float


class _Vim:
    """A VIM on a port of the loopback."""

    def __init__(self, port: int) -> None:
        self._listener = loopback_socket(port)
        self._listener.listen(128)
        self._poll = select.poll()
        self._poll.register(self._listener, select.POLLIN)
        self._callers: dict[int, tuple[socket.socket, bytearray]] = {}

    def vote(self, target: Target) -> Vote:
        """Asks, and waits for the reply and the verdict."""
        request, reply = target.vote(), bytearray()
        replied = answered = 0.0
        began = time.monotonic()
        with target.dial() as asking:
            asking.sendall(request)
            self._poll.register(asking, select.POLLIN)
            while not (replied and answered):
                ready = self._poll.poll(PATIENCE_S * 1e3)
                if not ready:
                    raise SystemExit(f"{target.name}: no verdict after {bytes(reply)!r}")
                for fd, _ in ready:
                    if fd == asking.fileno():
                        reply += asking.recv(65536)
                        if is_whole(reply):
                            replied = time.monotonic()
                            self._poll.unregister(asking)
                    elif b'"guest-response"' in self._hear(fd):
                        answered = time.monotonic()
        if b'"timeout":"0"' in reply or b" 200 " not in reply:
            raise SystemExit(f"{target.name}: {bytes(reply)!r}")
        return Vote(began, replied, answered)

    def rest(self, seconds: float) -> None:
        """Hears what else comes."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            for fd, _ in self._poll.poll(left * 1e3):
                self._hear(fd)

    def _hear(self, fd: int) -> bytes:
        """Reads of a caller; what it had to say, once that is whole."""
        if fd == self._listener.fileno():
            caller, _ = self._listener.accept()
            self._callers[caller.fileno()] = caller, bytearray()
            self._poll.register(caller, select.POLLIN)
            return b""
        caller, said = self._callers[fd]
        data = caller.recv(65536)
        said += data
        if data and not is_whole(said):
            return b""
        del self._callers[fd]
        self._poll.unregister(fd)
        caller.close()
        return bytes(said)


def main(port: int, votes: int, targets: list[Target]) -> dict[str, list[Vote]]:
    """Measures all targets."""
    vim = _Vim(port)
    taken: dict[str, list[Vote]] = {target.name: [] for target in targets}
    for turn in range(1 + -(-votes // _TURN)):
        for target in targets:
            for _ in range(_TURN):
                vote = vim.vote(target)
                if turn:  # the first one warms up
                    taken[target.name].append(vote)
                vim.rest(_PAUSE_S)
    return taken


if __name__ == "__main__":
    _targets = [Target.parse(text) for text in sys.argv[3:]]
    _taken = main(int(sys.argv[1]), int(sys.argv[2]), _targets)
    print(json.dumps({name: [attrs.astuple(one) for one in all_] for name, all_ in _taken.items()}))
