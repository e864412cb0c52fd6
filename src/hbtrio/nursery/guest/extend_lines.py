"""Reads the requests for more time that a script writes to the descriptor it is given."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Final

from hbtrio.wire.lines import LineReader

_log = logging.getLogger("hbtrio.scripts")

#: The variable that names the descriptor in the environment of a script.
VARIABLE: Final = "HBTRIO_EXTEND_FD"

_LINE: Final = re.compile(rb"EXTEND=([0-9]{1,9})\r?")
_LINE_BYTES: Final = 64

#: Requests of one run of a script; further ones are ignored.
REQUESTS: Final = 64


class ExtendLines:
    """Takes the lines ``EXTEND=SECONDS`` of one script, in bounded memory.

    The first line that is anything else is logged, and so is the first request above ``REQUESTS``.

    Args:
        script: the script, for the log.
        ask: called with the seconds of each request.
    """

    def __init__(self, script: str, ask: Callable[[int], None]) -> None:
        self._script = script
        self._ask = ask
        self._lines = LineReader(_LINE_BYTES)
        self._requests = 0
        self._logged = False

    def feed(self, data: bytes) -> None:
        """Takes the next bytes."""
        for line in self._lines.feed(data):
            if (match := _LINE.fullmatch(line)) is None:
                self._complain(f"{line[:_LINE_BYTES]!r} is not EXTEND=SECONDS")
            elif self._requests >= REQUESTS:
                self._complain(f"more than {REQUESTS} requests for more time")
            else:
                self._requests += 1
                self._ask(int(match[1]))
        if self._lines.skipped:
            self._complain(f"a line of more than {_LINE_BYTES} bytes")

    def _complain(self, text: str) -> None:
        if not self._logged:
            self._logged = True
            _log.warning("script %s: %s: %s", self._script, VARIABLE, text)
