"""The agent's end of a host's link: it accepts all that the host says, and does nothing with it.

    python -m bench.link_sink SOCKET

As an agent does, it answers pings and sends its own, acknowledges each report, and switches
reporting on, for the host and for each instance. It ends with its standard input.
"""

from __future__ import annotations

import select
import socket
import sys
import time

from hbtrio.wire.lines import LineReader
from hbtrio.wire.link_codec import MAX_LINK_LINE, decode_from_host, encode_link
from hbtrio.wire.link_messages import (
    PROTOCOL,
    Ack,
    FromHost,
    Hello,
    Instance,
    LinkMessage,
    LinkReport,
    Ping,
    Pong,
    Reporting,
    Welcome,
)


class Sink:
    """What an agent says to one host."""

    def __init__(self) -> None:
        self._reporting: set[str] = set()

    def answers(self, message: FromHost) -> list[LinkMessage]:
        """What an agent says to this message."""
        match message:
            case Hello():
                welcome = Welcome(PROTOCOL, "bench", 0, overloads=True, holds=True)
                return [welcome, Reporting("", enabled=True)]
            case Instance(uuid=uuid) if uuid not in self._reporting:
                self._reporting.add(uuid)
                return [Reporting(uuid, enabled=True)]
            case LinkReport(number=number):
                return [Ack(number)]
            case Ping(number=number):
                return [Pong(number, time.monotonic()), Ping(number)]
            case _:
                return []


def main(path: str) -> None:
    """Serves one host until standard input ends."""
    hosts: dict[int, tuple[socket.socket, LineReader, Sink]] = {}
    with socket.socket(socket.AF_UNIX) as listener, select.epoll() as poll:
        listener.bind(path)
        listener.listen(1)
        poll.register(listener, select.EPOLLIN)
        poll.register(sys.stdin, select.EPOLLIN)
        while True:
            for fd, _ in poll.poll():
                if fd == sys.stdin.fileno():
                    return
                if fd == listener.fileno():
                    host, _ = listener.accept()
                    hosts[host.fileno()] = host, LineReader(MAX_LINK_LINE), Sink()
                    poll.register(host, select.EPOLLIN)
                    continue
                host, lines, sink = hosts[fd]
                data = host.recv(65536)
                if not data:
                    poll.unregister(fd)
                for line in lines.feed(data):
                    for answer in sink.answers(decode_from_host(line)):
                        host.sendall(encode_link(answer))


if __name__ == "__main__":
    main(sys.argv[1])
