"""Keys from the bytes that a terminal sends."""

from __future__ import annotations

import codecs
import re
from typing import Final

#: The sequences of xterm and its relatives, in normal and application mode, and of VT220.
_SEQUENCES: Final = {
    "[A": "up",
    "OA": "up",
    "[B": "down",
    "OB": "down",
    "[H": "home",
    "OH": "home",
    "[1~": "home",
    "[7~": "home",
    "[F": "end",
    "OF": "end",
    "[4~": "end",
    "[8~": "end",
    "[5~": "page-up",
    "[6~": "page-down",
}
_CHARACTERS: Final = {
    "\r": "enter",
    "\n": "enter",
    "\x7f": "backspace",
    "\b": "backspace",
    "\x0c": "redraw",
    "\x15": "erase",
}

#: A complete sequence behind ESC; and the beginning of one.
_WHOLE: Final = re.compile(r"\[[0-?]*[ -/]*[@-~]|O[@-~]")
_BEGUN: Final = re.compile(r"\[[0-?]*[ -/]*|O")

#: A sequence that is longer than this is none.
_LONGEST: Final = 32


class Keys:
    """Decodes what a terminal sends, in pieces of any size.

    A key is a printable character, or one of ``up``, ``down``, ``home``, ``end``, ``page-up``,
    ``page-down``, ``enter``, ``escape``, ``backspace``, ``erase`` (Ctrl-U) and ``redraw`` (Ctrl-L).
    Others are left out.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("ignore")
        self._rest = ""

    @property
    def is_waiting(self) -> bool:
        """Whether an escape sequence may go on; if nothing follows soon, it was the key ESC."""
        return bool(self._rest)

    def feed(self, data: bytes) -> list[str]:
        """The keys that are complete with these bytes."""
        text = self._rest + self._decoder.decode(data)
        self._rest = ""
        keys = []
        while text:
            if text[0] != "\x1b":
                key = _CHARACTERS.get(text[0], text[0] if text[0].isprintable() else "")
                text = text[1:]
            elif (whole := _WHOLE.match(text, 1)) is not None:
                key = _SEQUENCES.get(whole[0], "")
                text = text[whole.end() :]
            elif text == "\x1b" or (len(text) < _LONGEST and _BEGUN.fullmatch(text, 1)):
                self._rest = text
                break
            else:
                key, text = "escape", text[1:]
            if key:
                keys.append(key)
        return keys

    def flush(self) -> list[str]:
        """The keys of a sequence that does not go on."""
        rest, self._rest = self._rest, ""
        return ["escape", *self.feed(rest[1:].encode())] if rest else []
