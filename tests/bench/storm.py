"""The VIM that votes on very many instances at once.

    python -m bench.storm VIM_PORT AGENT_PORT INSTANCES

It hears what it is told until there is a line on standard input, and then sends all votes, each on
a connection of its own. It ends with a JSON object: the members of :class:`Storm`.
"""

from __future__ import annotations

import json
import math
import re
import select
import socket
import sys
import time
from collections import Counter
from typing import Final

import attrs

from bench.agent_report import share
from bench.measure import Measure
from bench.sample import allow_descriptors
from bench.vim_wire import Target, is_whole
from bench.wire_vim import WireVim
from support.guest_farm import uuid_of

#: The window of the farm's guests for a vote, in seconds, and how long verdicts are waited for: the
#: agent tells of a window that has ended, too.
_WINDOW_S: Final = 9.0
_WITHIN_S: Final = 30.0

#: What the project aims for.
AIM_P99_MS: Final = 1500.0

_UUID: Final = re.compile(rb"/instances/([0-9a-f-]{36})")
_REASON: Final = re.compile(rb'"log"\s*:\s*"([^"]*)"')


@attrs.frozen
class Storm:
    """Votes on many instances at once.

    Attributes:
        votes: how many.
        verdict_ms: of each verdict, from before the first connection was made to the whole PATCH.
        refused: how often a vote was refused, by the reason.
    """

    votes: int
    verdict_ms: list[float]
    refused: dict[str, int]

    @property
    def in_time(self) -> int:
        """Verdicts within the window."""
        return sum(ms <= _WINDOW_S * 1e3 for ms in self.verdict_ms)

    def as_text(self) -> str:
        """Its page."""
        lines = [f"{self.votes} votes at once: {self.in_time} verdicts within {_WINDOW_S:g} s"]
        if self.verdict_ms:
            lines[0] += (
                f", p50 {share(self.verdict_ms, 0.5):.0f}, p99 {share(self.verdict_ms, 0.99):.0f}, "
                f"max {max(self.verdict_ms):.0f} ms"
            )
        lines += [f"refused {times} times: {reason}" for reason, times in self.refused.items()]
        return "\n".join(lines)

    def measures(self) -> list[Measure]:
        """Its lines of the summary."""
        name = f"{self.votes} votes at once on {self.votes} VMs"
        # One that did not come took longer than any.
        missing = self.votes - len(self.verdict_ms)
        p99_ms = share([*self.verdict_ms, *[math.inf] * missing], 0.99)
        p99 = Measure.at_most(f"{name}: p99 of the verdicts", p99_ms, AIM_P99_MS, "ms", digits=0)
        return [
            Measure(
                f"{name}: verdicts in their window",
                "all",
                f"{self.in_time}, {sum(self.refused.values())} refused",
                self.in_time == self.votes,
            ),
            attrs.evolve(p99, seen=f"none, {missing} are missing") if math.isinf(p99_ms) else p99,
        ]


def storm(vim: WireVim, agent_port: int, instances: int) -> Storm:
    """Votes on all of them."""
    asking: dict[int, tuple[socket.socket, bytearray]] = {}
    verdict_ms: dict[bytes, float] = {}
    refused: Counter[str] = Counter()
    began = time.monotonic()
    for index in range(instances):
        target = Target("agent", agent_port, uuid_of(index))
        connection = target.dial()
        connection.sendall(target.vote())
        asking[connection.fileno()] = connection, bytearray()
        vim.poll.register(connection, select.POLLIN)
    while len(verdict_ms) + refused.total() < instances:
        left_s = began + _WITHIN_S - time.monotonic()
        if left_s <= 0:
            break
        for fd, _ in vim.poll.poll(left_s * 1e3):
            if fd not in asking:
                said = vim.hear(fd)
                if b'"guest-response"' in said and (uuid := _UUID.search(said)):
                    verdict_ms.setdefault(uuid[1], (time.monotonic() - began) * 1e3)
                continue
            connection, reply = asking[fd]
            data = connection.recv(65536)
            reply += data
            if is_whole(reply) or not data:
                del asking[fd]
                vim.poll.unregister(fd)
                connection.close()
                if b'"timeout":"0"' in reply or b" 200 " not in reply:
                    refused[_reason(bytes(reply))] += 1
    return Storm(instances, list(verdict_ms.values()), dict(refused))


def _reason(reply: bytes) -> str:
    """Why a vote was refused, without what only one instance is called."""
    reason = _REASON.search(reply)
    text = (reason[1] if reason else reply.partition(b"\r\n")[0] or b"no answer").decode()
    return re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "UUID", text)


if __name__ == "__main__":
    allow_descriptors()
    _vim = WireVim(int(sys.argv[1]))
    _vim.until_told()
    print(json.dumps(attrs.asdict(storm(_vim, int(sys.argv[2]), int(sys.argv[3])))))
