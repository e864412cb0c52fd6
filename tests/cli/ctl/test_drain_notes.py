"""The line of a drain in a status: which hosts it names, and what colours it."""

from __future__ import annotations

import pytest

from hbtrio.cli.ctl.drain_notes import drain_notes
from hbtrio.wire.operator import DrainBody


def drain(counts: dict[str, int], hosts: tuple[str, ...] = ("a",), phase: str = "running") -> str:
    body = DrainBody(
        id="d1",
        action="stop",
        who="uid 0",
        begun="yesterday",
        phase=phase,
        parallel=1,
        retry_for_s=0.0,
        on_reject="wait",
        hosts=hosts,
        counts=counts,
    )
    ((text, colour),) = drain_notes([body])
    return f"{colour or '-'} {text.removesuffix('; by uid 0 since yesterday')}"


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({"waiting": 2, "acting": 1}, "- drain of a: stop, 0 of 3 ended: 2 waiting, 1 acting"),
        (
            {"waiting": 1, "rejected": 1},
            "warn drain of a: stop, 0 of 2 ended: 1 waiting, 1 rejected",
        ),
        ({"blocked": 1, "done": 1}, "warn drain of a: stop, 1 of 2 ended: 1 blocked, 1 done"),
        ({"skipped": 1, "failed": 2}, "bad drain of a: stop, 3 of 3 ended: 1 skipped, 2 failed"),
        ({}, "- drain of a: stop, 0 of 0 ended: no instance"),
    ],
)
def test_what_went_wrong_colours_it(counts: dict[str, int], said: str) -> None:
    assert drain(counts) == said


@pytest.mark.parametrize(
    ("hosts", "said"),
    [
        ((), "no instance"),
        (("a", "b"), "a, b"),
        (("a", "b", "c", "d"), "a, b, 2 more"),
    ],
)
def test_the_first_hosts_are_named(hosts: tuple[str, ...], said: str) -> None:
    assert drain({"waiting": 1}, hosts).startswith(f"- drain of {said}: stop, ")


def test_one_that_takes_no_more_turns_says_so() -> None:
    assert ": stop, cancelled, 0 of 1 ended: " in drain({"acting": 1}, phase="cancelled")
