"""Reads a host's metrics as Prometheus does, in a process of its own.

    python -m bench.scraper SOCKET

Each line on its standard input has it read them once, and it answers with a line: the number of
bytes, 0 if it was refused or got no answer, as by a host that is overloaded. It ends with its
standard input.
"""

from __future__ import annotations

import socket
import sys
from contextlib import suppress
from typing import Final

_GET: Final = b"GET /metrics HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n"

#: Prometheus' own patience, in seconds.
_PATIENCE_S: Final = 10.0


def scrape(path: str) -> int:
    """Reads the metrics that are served at a socket; returns their size, 0 if there are none."""
    answer = bytearray()
    with suppress(OSError), socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(_PATIENCE_S)
        asking.connect(path)
        asking.sendall(_GET)
        while data := asking.recv(65536):
            answer += data
        if b" 200 " in answer.partition(b"\r\n")[0]:
            return len(answer)
    return 0


if __name__ == "__main__":
    for _ in sys.stdin:
        print(scrape(sys.argv[1]), flush=True)
