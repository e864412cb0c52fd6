"""Text of unknown origin, and what is left of it where it goes."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given

from hbtrio.text import (
    as_argument,
    blanked,
    printable,
    printable_json,
    printable_lines,
    reason_after,
)
from support.tenant_texts import HOSTILE, HOSTILE_CATEGORIES, TENANT_TEXTS, hostile_in

#: A few of each kind that must be among the hostile, whatever the version of Unicode.
NAMED = (
    "\x00\n\r\x1b\x7f\x80\x85\x9b\xad\u061c\u200b\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d"
    "\u202e\u2066\u2067\u2068\u2069\ufeff\ud800\udfff\U000e0001\U000e007f"
)


def test_the_table_has_what_it_should() -> None:
    assert set(NAMED) <= set(HOSTILE)
    assert hostile_in("a\x9b b\u202e") == ["U+009B", "U+202E"]
    assert len(HOSTILE_CATEGORIES) == 5


@pytest.mark.parametrize(
    ("function", "leaves"),
    [
        (printable, "a\\x1bb\\u2028c\\U000e0001d\\ne"),
        (printable_lines, "a\\x1bb\\u2028c\\U000e0001d\ne"),
        (blanked, "a b c d e"),
        (as_argument, "a b c d e"),
    ],
)
def test_what_becomes_of_what_is_unprintable(function: Callable[[str], str], leaves: str) -> None:
    assert function("a\x1bb\u2028c\U000e0001d\ne") == leaves
    for char in HOSTILE.replace("\n", ""):
        assert hostile_in(function(f"<{char}>")) == [], f"U+{ord(char):04X}"
    assert function("caf\u00e9 \u4f60 \U0001f40d") == "caf\u00e9 \u4f60 \U0001f40d"


@given(TENANT_TEXTS)
def test_a_line_stays_a_line(text: str) -> None:
    for function in (printable, blanked, as_argument):
        assert function(text).isprintable()
    assert all(line.isprintable() for line in printable_lines(text).split("\n"))
    assert len(blanked(text)) == len(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("-rf /", "_-rf /"),
        ("--", "_--"),
        ("\u2028 \x00--help", "_--help"),
        ("a -b", "a -b"),
        ("\u2010b", "\u2010b"),
        (" \x1b\n", ""),
    ],
)
def test_an_argument_is_no_option(text: str, value: str) -> None:
    assert as_argument(text) == value


@given(TENANT_TEXTS)
def test_no_text_is_an_option(text: str) -> None:
    value = as_argument(text)
    assert not value.startswith(("-", " "))
    assert as_argument(value) == value


@pytest.mark.parametrize("text", [NAMED.replace("\ud800\udfff", ""), "\U0001f40d\u00e9", "plain"])
def test_json_stays_what_it_was(text: str) -> None:
    data = json.dumps({text: [text]}, ensure_ascii=False).encode()
    escaped = printable_json(data)
    assert escaped.decode().isprintable()
    assert json.loads(escaped) == {text: [text]}


def test_json_escapes_only_what_it_must() -> None:
    data = '{"a":"\u00e9\x7f\u202e\U000e0001\\u0000\U0001f40d"}'.encode()
    escaped = '{"a":"\u00e9\\u007f\\u202e\\udb40\\udc01\\u0000\U0001f40d"}'
    assert printable_json(data).decode() == escaped


@pytest.mark.parametrize(
    ("head", "reason", "rest"),
    [
        ("paused", "paused: user", "user"),
        ("paused", "paused", "paused"),
        ("stopped", "shut off: destroyed", "shut off: destroyed"),
        ("loss", "", ""),
    ],
)
def test_a_reason_does_not_repeat_its_head(head: str, reason: str, rest: str) -> None:
    assert reason_after(head, reason) == rest
