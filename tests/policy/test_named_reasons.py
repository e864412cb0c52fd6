"""Names before reasons, and several reasons in one text of bounded length."""

from __future__ import annotations

import itertools

from hbtrio.policy.named_reasons import MAX_CHARACTERS, joined, named


def test_a_name_stands_before_its_reason_and_also_alone() -> None:
    assert named("orders", "3 orders are open") == "orders: 3 orders are open"
    assert named("orders", "") == "orders"


def test_reasons_are_joined_without_the_empty_ones() -> None:
    assert joined([]) == ""
    assert joined(["", "a", "", "b"]) == "a; b"


def test_no_more_is_read_than_there_is_room_for() -> None:
    reasons = ("x" * 99 for _ in itertools.count())
    text = joined(reasons)
    assert len(text) == MAX_CHARACTERS == 1000
    assert next(reasons) == "x" * 99  # the endless rest was left alone
    assert joined(["x" * 999]) == "x" * 999
    assert joined(["x" * 1001]) == "x" * 1000
