"""What a guest could do at best in Python for its applications: raw epoll and a heap.

    python -m bench.app_floor SOCKET

The same bytes, decoder and encoder as the guest's, the echo checked, the next challenge armed; no
state machine, no bounds, no tasks, no host. It ends with its standard input.
"""

from __future__ import annotations

import heapq
import select
import socket
import sys
import time

from hbtrio.wire.app_codec import AppDecoder, encode
from hbtrio.wire.app_messages import AppChallenge, AppChallengeResponse, AppInit, AppInitAck


class _Peer:
    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.decoder = AppDecoder()
        self.interval_s = 1.0
        self.expected = 0
        self.sequence = 0

    def say(self, message: AppInitAck | AppChallenge) -> None:
        self.sequence += 1
        self.socket.send(encode(message, self.sequence))


def main() -> None:
    """Serves until standard input ends."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(sys.argv[1])
    listener.listen(64)
    poll = select.epoll()
    poll.register(listener, select.EPOLLIN)
    poll.register(sys.stdin, select.EPOLLIN | select.EPOLLHUP)
    peers: dict[int, _Peer] = {}
    due: list[tuple[float, int]] = []
    while True:
        timeout_s = due[0][0] - time.monotonic() if due else -1
        for descriptor, _ in poll.poll(max(0.0, timeout_s) if due else -1):
            if descriptor == sys.stdin.fileno():
                return
            if descriptor == listener.fileno():
                connection, _ = listener.accept()
                poll.register(connection, select.EPOLLIN)
                peers[connection.fileno()] = _Peer(connection)
                continue
            peer = peers[descriptor]
            data = peer.socket.recv(4096)
            if not data:
                poll.unregister(descriptor)
            for message in peer.decoder.feed(data):
                if isinstance(message, AppInit):
                    peer.interval_s = message.heartbeat_interval_ms / 1000
                    peer.say(AppInitAck(True))
                    heapq.heappush(due, (time.monotonic() + peer.interval_s, descriptor))
                elif isinstance(message, AppChallengeResponse):
                    assert message.heartbeat_response == peer.expected
        now = time.monotonic()
        while due and due[0][0] <= now:
            at, descriptor = due[0]
            peer = peers[descriptor]
            peer.expected += 1
            peer.say(AppChallenge(peer.expected))
            heapq.heapreplace(due, (at + peer.interval_s, descriptor))


if __name__ == "__main__":
    main()
