"""Keys from what terminals send, in pieces of any size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbtrio.cli.ctl.board.keys import Keys

SENT = {
    b"a": ["a"],
    b"/q\r": ["/", "q", "enter"],
    "\u00e9\u20ac".encode(): ["\u00e9", "\u20ac"],
    b"\x1b[A\x1bOB": ["up", "down"],
    b"\x1b[5~\x1b[6~": ["page-up", "page-down"],
    b"\x1b[H\x1b[F\x1b[1~\x1b[4~": ["home", "end", "home", "end"],
    b"\x7f\b\x15\x0c": ["backspace", "backspace", "erase", "redraw"],
    # A sequence for no key of ours, a mouse's, one with a modifier: none of their bytes is a key.
    b"\x1b[15~q": ["q"],
    b"\x1b[<0;10;20Mq": ["q"],
    b"\x1b[1;5Aq": ["q"],
    b"\x1b\x1b[A": ["escape", "up"],
    b"\x1bq": ["escape", "q"],
    b"\x00\x01": [],
    b"\xff\xfeq": ["q"],
}


@pytest.mark.parametrize(("data", "expected"), SENT.items())
def test_keys(data: bytes, expected: list[str]) -> None:
    assert Keys().feed(data) == expected


@pytest.mark.parametrize(("data", "expected"), SENT.items())
def test_keys_in_pieces(data: bytes, expected: list[str]) -> None:
    keys = Keys()
    found = [key for byte in data for key in keys.feed(bytes([byte]))]
    assert found == expected


def test_an_escape_that_nothing_follows_is_a_key() -> None:
    keys = Keys()
    assert keys.feed(b"a\x1b") == ["a"]
    assert keys.is_waiting
    assert keys.flush() == ["escape"]
    assert not keys.is_waiting
    assert keys.flush() == []
    assert keys.feed(b"\x1b[1") == []
    assert keys.flush() == ["escape", "[", "1"]


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    keys = Keys()
    found = [*keys.feed(data), *keys.flush()]
    assert not keys.is_waiting
    assert all(key.isprintable() for key in found)


def test_an_endless_sequence_is_not_kept() -> None:
    keys = Keys()
    assert "escape" in keys.feed(b"\x1b[" + b"1" * 100)
    assert not keys.is_waiting
