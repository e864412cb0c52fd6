"""Reads a host's metrics as Prometheus does, in a process of its own.

    python -m bench.scraper SOCKET

Each line on its standard input has it read them once, and it answers with a line: the number of
bytes. It ends with its standard input.
"""

from __future__ import annotations

import socket
import sys
from typing import Final

_GET: Final = b"GET /metrics HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n"

#: Longer than any host takes for them, in seconds.
_PATIENCE_S: Final = 60.0


def scrape(path: str) -> int:
    """Reads the metrics that are served at a socket; returns their size.

    Raises:
        SystemExit: the answer is none.
    """
    answer = bytearray()
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(_PATIENCE_S)
        asking.connect(path)
        asking.sendall(_GET)
        while data := asking.recv(65536):
            answer += data
    if b" 200 " not in answer.partition(b"\r\n")[0]:
        raise SystemExit(f"no metrics: {bytes(answer[:200])!r}")
    return len(answer)


if __name__ == "__main__":
    for _ in sys.stdin:
        print(scrape(sys.argv[1]), flush=True)
