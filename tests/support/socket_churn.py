"""Makes and removes files named like channel sockets, as fast as it is told, in its own process.

    python -m support.socket_churn DIRECTORY PER_SECOND SECONDS

It makes as many as belong to these seconds, even if a busy machine takes longer. At most 200 exist
at a time, of all kinds: sockets with a listener that never answers, sockets without one, plain
files, FIFOs, links, and names without a uuid. In the end all are gone, and it prints how many there
were.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

#: Files that exist at a time.
ALIVE: Final = 200


def uuid_of(number: int) -> str:
    """The uuid in the name of a file."""
    return f"99999999-0000-4000-8000-{number:012x}"


def _listening(path: Path) -> socket.socket:
    one = _bound(path)
    one.listen()
    return one


def _bound(path: Path) -> socket.socket:
    one = socket.socket(socket.AF_UNIX)
    one.bind(str(path))
    return one


_KINDS: Final[tuple[Callable[[Path], socket.socket | None], ...]] = (
    _listening,
    _bound,
    lambda path: path.touch(),
    lambda path: os.mkfifo(path),
    lambda path: path.symlink_to("/dev/null"),
    _listening,
)


def _main(directory: Path, per_s: int, seconds: float) -> int:
    alive: deque[tuple[Path, socket.socket | None]] = deque()

    def remove() -> None:
        path, one = alive.popleft()
        path.unlink()
        if one is not None:
            one.close()

    began = time.monotonic()
    total = round(per_s * seconds)
    number = 0
    while number < total:
        while number < min(total, (time.monotonic() - began) * per_s):
            place = f"no-uuid-{number}" if number % 50 == 0 else uuid_of(number)
            path = directory / f"cgcs.heartbeat.{place}.sock"
            alive.append((path, _KINDS[number % len(_KINDS)](path)))
            if len(alive) > ALIVE:
                remove()
            number += 1
        time.sleep(0.001)
    while alive:
        remove()
    return number


if __name__ == "__main__":
    print(_main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
