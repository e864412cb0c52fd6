"""The board's lines at any size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbtrio.cli.ctl.board.model import Board
from hbtrio.cli.ctl.board.view import picture
from hbtrio.cli.ctl.feed import Away, Seen
from hbtrio.cli.ctl.screen import width_of
from hbtrio.wire.operator import InstanceDetail, VoterLine, VoterRequestLine
from support.board_cases import board_of, fleet_status, happened, instance, uuid_at, voted
from support.tenant_texts import TENANT_TEXTS, hostile_in
from support.time_zone import time_zone

NOW = 100.0


@pytest.fixture(autouse=True)
def _in_utc() -> Iterator[None]:
    with time_zone("UTC"):
        yield


def texts(board: Board, columns: int = 80, rows: int = 24, now: float = NOW) -> list[str]:
    lines, _ = picture(board, columns, rows, now)
    return ["".join(text for text, _ in line).rstrip() for line in lines]


BUSY = board_of(
    *(instance(number) for number in range(4, 40)),
    instance(1, "lost"),
    voted(2, 5.0),
    instance(3, restart_remaining_s=100.0),
)
for number in range(20):
    BUSY = BUSY.learned(happened(number))


def test_at_80_columns() -> None:
    assert texts(BUSY) == [
        "h: 38 of 39 heartbeating (1 lost), hbtrio 1 since 2026-01-01 00:00:00+00:00",
        "",
        "vm-2  vote stop                               ██████████░░░░░░░░░░     5 s left",
        "vm-3  RESTART                                 ████████████████████   100 s left",
        "",
        "NAME   STATE         HEALTH     WHY",
        "vm-1   lost          unknown    reason 1",
        "vm-2   heartbeating  healthy    vote stop is open",
        "vm-3   heartbeating  healthy    RESTART is open",
        *(f"vm-{n}   heartbeating  healthy    reason {n}" for n in range(4, 10)),
        "vm-10  heartbeating  healthy    reason 10",
        "",
        "Events",
        *(f"00:00:00 vm-{n} stopped: why" for n in range(15, 20)),
        "39 of 39, by worst   ? help  / filter  s sort  u unhealthy  Enter detail  q quit",
    ]


def test_at_60_columns_only_what_matters() -> None:
    lines = texts(BUSY, columns=60)
    assert "NAME   STATE         WHY" in lines
    assert lines[-1] == "39 of 39, by worst          ? help  / filter  s sort  q quit"


def test_at_120_columns_all() -> None:
    assert "NAME   STATE         HEALTH      RTT ms  MISSED  WHY" in texts(BUSY, columns=120)


def test_an_agents_instances_have_a_host() -> None:
    board = Board("unix:/x").learned(Seen(fleet_status(3), NOW))
    lines = texts(board, columns=120)
    assert "NAME  HOST       STATE         HEALTH     WHY" in lines
    assert "vm-1  compute-1  heartbeating  healthy    reason 1" in lines


def test_a_low_screen_has_the_table_alone() -> None:
    lines = texts(BUSY, rows=8)
    assert lines[:4] == [
        "h: 38 of 39 heartbeating (1 lost), hbtrio 1 since 2026-01-01 00:00:00+00:00",
        "",
        "NAME   STATE         HEALTH     WHY",
        "vm-1   lost          unknown    reason 1",
    ]
    assert len(lines) == 8


def test_events_take_what_the_table_leaves() -> None:
    board = board_of(instance(1))
    for number in range(40):
        board = board.learned(happened(1, reason=str(number)))
    lines = texts(board)
    assert sum("stopped" in line for line in lines) == 13


def test_windows_count_down() -> None:
    assert texts(BUSY, now=NOW + 3)[2].endswith("████░░░░░░░░░░░░░░░░     2 s left")
    assert texts(BUSY, now=NOW + 60)[2].endswith("░░░░░░░░░░░░░░░░░░░░     0 s left")


def test_more_windows_than_there_is_room_for() -> None:
    board = board_of(*(voted(number, 5.0) for number in range(20)))
    lines = texts(board)
    assert sum("s left" in line for line in lines) == 5
    assert "... 15 more windows" in lines


def test_a_daemon_that_is_away() -> None:
    lines = texts(BUSY.learned(Away("the daemon went away")))
    assert lines[0] == "AWAY, trying again; what is below is old: the daemon went away"
    assert lines[1].startswith("h: 38 of 39")


def test_the_troubles_of_a_host_are_above_the_table() -> None:
    board = board_of(instance(1), crashes=2, alarms=1, brake_closed=True, late=True)
    lines = texts(board)
    assert lines[1].startswith("ALARM: 1 mass failure, ")
    assert lines[2].startswith("the brake is closed")


def test_before_the_first_status() -> None:
    assert texts(Board("unix:/x"))[0] == "connecting to unix:/x"


def test_nothing_passes_the_filter() -> None:
    assert "no instance is shown" in texts(attrs.evolve(BUSY, filter="zz").arranged())


def test_the_chosen_row_is_marked_and_on_the_screen() -> None:
    board = attrs.evolve(BUSY, chosen=uuid_at(39))
    lines, _ = picture(board, 80, 24, NOW)
    (chosen,) = [line for line in lines if any(style == "chosen" for _, style in line)]
    assert chosen[0][0].startswith("vm-39 ")
    assert width_of(chosen[0][0]) == 80


def test_details() -> None:
    board = attrs.evolve(BUSY, chosen=uuid_at(2), pane="detail")
    lines = texts(board)
    assert f"          uuid  {uuid_at(2)}" in lines
    assert "         beats  10, 0 missed, RTT 1.0 ms" in lines
    assert any(line.startswith("vm-2  vote stop ") for line in lines)
    assert [line for line in lines if "stopped" in line] == ["00:00:00 vm-2 stopped: why"]


def known(number: int, count: int, **members: Any) -> InstanceDetail:
    """What a host tells of an instance with so many voters, of which each third has answered."""
    rejected = VoterRequestLine(
        kind="vote", event="stop", answer="reject", reason="busy", time="2026-01-01T00:00:00+00:00"
    )
    voters = tuple(
        VoterLine(name=f"app-{n}", health="healthy", last=None if n % 3 else rejected)
        for n in range(count)
    )
    words = msgspec.structs.asdict(instance(number))
    return InstanceDetail(**(words | {"voters": voters} | members))


def detail(of: InstanceDetail, rows: int = 24) -> list[str]:
    board = attrs.evolve(BUSY, chosen=uuid_at(2), pane="detail", known=of)
    return texts(board, rows=rows)


def test_details_have_the_voters_and_their_answers() -> None:
    lines = detail(known(2, 2, voters_unlisted=3))
    place = lines.index("        voters  app-0: healthy")
    assert lines[place + 1].startswith("                  vote stop")
    assert lines[place + 1].endswith(": reject: busy")
    assert lines[place + 2 : place + 4] == [
        "                app-1: healthy",
        "                and 3 more",
    ]
    assert [line for line in lines if "stopped" in line] == ["00:00:00 vm-2 stopped: why"]


@pytest.mark.parametrize(
    ("members", "line"),
    [
        ({"voters": ()}, "        voters  none: no application, and no event script"),
        ({"voters": None}, "        voters  unknown: its guest does not report them"),
    ],
)
def test_details_without_voters_say_why(members: dict[str, Any], line: str) -> None:
    assert line in detail(known(2, 0, **members))


def test_details_of_one_that_is_away_have_its_last_voters() -> None:
    lines = detail(known(2, 1, heartbeating=False))
    assert "   last voters  app-0: healthy" in lines
    assert not any(
        "voters" in line for line in detail(known(2, 0, heartbeating=False, voters=None))
    )


def test_what_is_known_of_another_instance_is_not_shown() -> None:
    assert not any("app-0" in line for line in detail(known(3, 1)))


def test_many_voters_leave_room_for_the_events() -> None:
    lines = detail(known(2, 32))
    assert "                and more: see `hbtrio ctl show`" in lines
    assert "00:00:00 vm-2 stopped: why" in lines
    whole = detail(known(2, 32), rows=90)
    assert any("app-31" in line for line in whole)
    assert not any("and more" in line for line in whole)


def test_help() -> None:
    lines = texts(attrs.evolve(BUSY, pane="help"), columns=60)
    assert not any("…" in line for line in lines[1:])
    assert lines[-1] == "any key"


@given(
    st.integers(1, 200),
    st.integers(1, 60),
    st.sampled_from(["table", "detail", "help"]),
    TENANT_TEXTS,
    st.booleans(),
)
def test_any_size_and_any_text(columns: int, rows: int, pane: str, text: str, typing: bool) -> None:
    board = board_of(
        instance(1, name=text, why=text, health="unhealthy", health_reason=text),
        instance(2, open=voted(2, 3.0).open, name=text),
        voted(3, 1.0),
    ).learned(happened(1, reason=text))
    voter = VoterLine(name=text, health="ill", reason=text)
    board = attrs.evolve(
        board,
        pane=pane,
        chosen=uuid_at(1),
        typing=typing,
        away=pane,
        known=known(1, 0, voters=(voter,) * 3),
    )
    lines, page = picture(board, columns, rows, NOW)
    assert len(lines) == rows
    assert page >= 1
    for line in lines:
        whole = "".join(part for part, _ in line)
        assert width_of(whole) <= columns
        assert not hostile_in(whole)
