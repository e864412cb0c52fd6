"""TCP ports for daemons that have to be given a number."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator
from typing import Final

#: Below Linux's ephemeral ports, which start at 32768: one of those could become the local port of
#: any connection between here and the daemon's bind.
_LOWEST: Final = 10_000

#: How many each of pytest-xdist's workers has for itself.
_SLICE: Final = 1_000
_SLICES: Final = 20


def free_port() -> int:
    """A port on 127.0.0.1 that nothing listens at, and that no other worker is given."""
    while True:
        port = next(_ports)
        with socket.socket() as probe:
            # As daemons do: connections that have just ended at this port are no obstacle.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


def _worker_ports() -> Iterator[int]:
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = _LOWEST + worker % _SLICES * _SLICE
    # Another run of the tests, in another checkout, is likely to be elsewhere in the slice.
    number = random.randrange(_SLICE)
    while True:
        yield first + number
        number = (number + 1) % _SLICE


_ports: Final = _worker_ports()
