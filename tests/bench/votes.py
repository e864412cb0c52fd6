"""The VIM that votes: how long a vote takes from its POST to the PATCH with the verdict.

    python -m bench.votes VIM_PORT VOTES NAME=PORT=UUID...

One vote after the other, some of each target by turns, so that a noisy neighbour hits all. The time
begins before the connection of the POST is made and ends when the PATCH is read whole, here both.
It begins at a line on standard input. It ends with a JSON object: of each target a list of votes,
see :class:`Vote`.
"""

from __future__ import annotations

import json
import select
import sys
import time
from typing import Final

import attrs

from bench.vim_wire import PATIENCE_S, Target, is_whole
from bench.wire_vim import WireVim

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


def vote(vim: WireVim, target: Target) -> Vote:
    """Asks, and waits for the reply and the verdict."""
    request, reply = target.vote(), bytearray()
    replied = answered = 0.0
    began = time.monotonic()
    with target.dial() as asking:
        asking.sendall(request)
        vim.poll.register(asking, select.POLLIN)
        while not (replied and answered):
            ready = vim.poll.poll(PATIENCE_S * 1e3)
            if not ready:
                raise SystemExit(f"{target.name}: no verdict after {bytes(reply)!r}")
            for fd, _ in ready:
                if fd == asking.fileno():
                    reply += asking.recv(65536)
                    if is_whole(reply):
                        replied = time.monotonic()
                        vim.poll.unregister(asking)
                elif b'"guest-response"' in vim.hear(fd):
                    answered = time.monotonic()
    if b'"timeout":"0"' in reply or b" 200 " not in reply:
        raise SystemExit(f"{target.name}: {bytes(reply)!r}")
    return Vote(began, replied, answered)


def main(port: int, votes: int, targets: list[Target]) -> dict[str, list[Vote]]:
    """Measures all targets."""
    vim = WireVim(port)
    vim.until_told()
    taken: dict[str, list[Vote]] = {target.name: [] for target in targets}
    for turn in range(1 + -(-votes // _TURN)):
        for target in targets:
            for _ in range(_TURN):
                one = vote(vim, target)
                if turn:  # the first one warms up
                    taken[target.name].append(one)
                vim.rest(_PAUSE_S)
    return taken


if __name__ == "__main__":
    _targets = [Target.parse(text) for text in sys.argv[3:]]
    _taken = main(int(sys.argv[1]), int(sys.argv[2]), _targets)
    print(json.dumps({name: [attrs.astuple(one) for one in all_] for name, all_ in _taken.items()}))
