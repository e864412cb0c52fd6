"""What keys and news make of the board."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from hbtrio.cli.ctl.board.model import EVENTS, FILTER, Board
from hbtrio.cli.ctl.board.rows import ORDERS
from hbtrio.cli.ctl.feed import Away, Seen, SeenOne
from hbtrio.errors import UserError
from hbtrio.wire.operator import GroupLine, MemberLine, RoundEntry
from support.board_cases import (
    board_of,
    fleet_status,
    happened,
    host_status,
    instance,
    uuid_at,
    voted,
)

PAGE = 5

KEYS = [
    *("up", "down", "home", "end", "page-up", "page-down", "enter", "escape", "backspace"),
    *("erase", "redraw", "/", "s", "S", "u", "?", "j", "k", "g", "G", "1", "vm", "x"),
]


def pressed(board: Board, *keys: str) -> Board:
    for key in keys:
        board = board.pressed(key, PAGE)
    return board


def names(board: Board) -> list[str]:
    return [row.name for row in board.shown]


TEN = board_of(*(instance(number) for number in range(10)))

ONE_OF_EACH = board_of(
    instance(1),
    instance(2, "lost", missed=3),
    instance(3, health="unhealthy", round_trip_ms=7.0),
    instance(4, "absent", round_trip_ms=None),
    instance(10, "paused"),
)


# -- what is shown --------------------------------------------------------------------------


def test_the_worst_come_first() -> None:
    assert names(ONE_OF_EACH) == ["vm-2", "vm-3", "vm-4", "vm-1", "vm-10"]


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("worst", ["vm-2", "vm-3", "vm-4", "vm-1", "vm-10"]),
        ("name", ["vm-1", "vm-2", "vm-3", "vm-4", "vm-10"]),
        ("state", ["vm-4", "vm-3", "vm-1", "vm-2", "vm-10"]),
        ("host", ["vm-2", "vm-3", "vm-4", "vm-1", "vm-10"]),
        ("RTT", ["vm-3", "vm-2", "vm-1", "vm-10", "vm-4"]),
        ("missed", ["vm-2", "vm-3", "vm-4", "vm-1", "vm-10"]),
    ],
)
def test_orders(order: str, expected: list[str]) -> None:
    board = ONE_OF_EACH
    while board.order != order:
        board = pressed(board, "s")
    assert names(board) == expected


def test_the_orders_go_round() -> None:
    board, seen = ONE_OF_EACH, []
    for _ in ORDERS:
        seen.append(board.order)
        board = pressed(board, "s")
    assert (seen, board.order) == (list(ORDERS), "worst")
    assert pressed(board, "S").order == list(ORDERS)[-1]


def test_only_what_needs_somebody() -> None:
    board = pressed(ONE_OF_EACH, "u")
    assert names(board) == ["vm-2", "vm-3", "vm-4"]
    assert names(pressed(board, "u")) == names(ONE_OF_EACH)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("VM-1", ["vm-1", "vm-10"]), ("paused", ["vm-10"]), ("0000000a-", ["vm-10"]), ("zz", [])],
)
def test_a_filter(text: str, expected: list[str]) -> None:
    typing = pressed(ONE_OF_EACH, "/", *text)
    assert (names(typing), typing.typing) == (expected, True)
    kept = pressed(typing, "enter")
    assert (names(kept), kept.typing, kept.filter) == (expected, False, text)
    assert names(pressed(kept, "escape")) == names(ONE_OF_EACH)


def test_typing_a_filter() -> None:
    typing = pressed(ONE_OF_EACH, "/", "q", "s", "up")
    assert (typing.filter, typing.quit, typing.order) == ("qs", False, "worst")
    assert pressed(typing, "backspace").filter == "q"
    assert pressed(typing, "erase").filter == ""
    given_up = pressed(typing, "escape")
    assert (given_up.filter, given_up.typing) == ("", False)
    assert len(pressed(typing, *"x" * 100).filter) == FILTER


# -- choosing -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "place"),
    [
        (["down"], 0),
        (["up"], 0),
        (["down", "down", "j"], 2),
        (["down", "down", "k"], 0),
        (["down", "up", "up"], 0),
        (["end"], 9),
        (["G", "down"], 9),
        (["G", "g"], 0),
        (["down", "page-down"], PAGE),
        (["end", "page-up"], 9 - PAGE),
        (["page-down"], PAGE - 1),
        ([" ", " ", " "], 9),
    ],
)
def test_choosing(keys: list[str], place: int) -> None:
    assert pressed(TEN, *keys).place == place


def test_nothing_is_chosen_at_first_nor_after_escape() -> None:
    assert TEN.place is None
    assert pressed(TEN, "end", "escape").place is None


def test_the_choice_stays_with_its_instance() -> None:
    board = pressed(TEN, "end")
    lost = board.learned(SeenOne(instance(9, "lost"), 101.0))
    assert (board.place, lost.place) == (9, 0)


def test_the_chosen_row_is_on_the_screen() -> None:
    assert TEN.scrolled(PAGE).top == 0
    end = pressed(TEN, "end").scrolled(PAGE)
    assert end.top == 5
    assert pressed(end, "up").scrolled(PAGE).top == 5
    assert pressed(end, "home").scrolled(PAGE).top == 0
    assert pressed(end, "escape").scrolled(PAGE).top == 0
    # After rows have gone, or the screen has grown, there is no room left below the last one.
    assert attrs.evolve(TEN, top=8).scrolled(PAGE).top == 5
    assert attrs.evolve(TEN, top=8).scrolled(20).top == 0


def test_nothing_to_choose() -> None:
    empty = Board("unix:/x")
    for key in KEYS:
        assert pressed(empty, key).chosen == ""


def test_details_and_back() -> None:
    detail = pressed(TEN, "down", "down", "enter")
    assert (detail.pane, detail.chosen) == ("detail", uuid_at(1))
    assert pressed(detail, "down").chosen == uuid_at(2)
    for key in ("escape", "q", "backspace", "enter"):
        left = pressed(detail, key)
        assert (left.pane, left.quit) == ("table", False)
    assert pressed(TEN, "enter").chosen == uuid_at(0)


def test_any_key_leaves_the_help() -> None:
    shown = pressed(TEN, "?")
    assert shown.pane == "help"
    for key in ("x", "q", "escape", "?"):
        left = pressed(shown, key)
        assert (left.pane, left.quit) == ("table", False)


def test_leaving() -> None:
    assert pressed(TEN, "q").quit


# -- news -----------------------------------------------------------------------------------


def test_a_status_replaces_all_instances() -> None:
    board = TEN.learned(Seen(host_status(instance(3)), 200.0))
    assert names(board) == ["vm-3"]


def test_a_fleet() -> None:
    board = Board("unix:/x").learned(Seen(fleet_status(3), 100.0))
    assert board.fleet
    assert [row.host for row in board.shown] == ["compute-0", "compute-1", "compute-0"]


def test_an_agents_windows_count_down_too() -> None:
    vote = RoundEntry(kind="vote", event="stop", window="VOTE", remaining_s=5.0)
    fleet = fleet_status(2)
    one = replace(fleet.instances[0], open=vote, restart_remaining_s=40.0)
    board = Board("unix:/x").learned(Seen(fleet, 90.0)).learned(SeenOne(one, 100.0))
    found = [(row.name, window.title, window.deadline) for row, window in board.windows]
    assert found == [("vm-0", "vote stop", 105.0), ("vm-0", "RESTART", 140.0)]
    assert board.rows[one.uuid].why == "vote stop is open; RESTART is open"


def test_windows_have_a_deadline() -> None:
    board = board_of(voted(1, 9.0), voted(2, 4.0), instance(3, restart_remaining_s=30.0), at=100.0)
    found = [(row.name, one.title, one.deadline, one.whole_s) for row, one in board.windows]
    assert found == [
        ("vm-2", "vote stop", 104.0, 10.0),
        ("vm-1", "vote stop", 109.0, 10.0),
        ("vm-3", "RESTART", 130.0, 100.0),
    ]
    closed = board.learned(SeenOne(instance(1), 101.0))
    assert [row.name for row, _ in closed.windows] == ["vm-2", "vm-3"]


def test_what_is_known_stays_while_the_daemon_is_away() -> None:
    away = TEN.learned(Away("the daemon went away\x1b[31m"))
    assert (away.away, away.shown) == ("the daemon went away\\x1b[31m", TEN.shown)
    assert away.learned(Seen(host_status(), 1.0)).away == ""


def test_the_oldest_events_are_forgotten() -> None:
    board = TEN
    for number in range(EVENTS + 3):
        board = board.learned(happened(1, reason=f"{number}"))
    assert len(board.events) == EVENTS
    assert (board.events[0].reason, board.events[-1].reason) == ("3", f"{EVENTS + 2}")


@given(st.lists(st.sampled_from(KEYS), max_size=30))
def test_any_keys(keys: list[str]) -> None:
    board = pressed(ONE_OF_EACH, *keys)
    assert all(board.rows[row.uuid] is row for row in board.shown)
    assert board.place is None or board.shown[board.place].uuid == board.chosen
    top = board.scrolled(3).top
    assert 0 <= top <= max(0, len(board.shown) - 3)


def test_only_members_of_a_group_and_its_line_above() -> None:
    status = host_status(instance(1), instance(2, "lost"), instance(3))
    group = GroupLine(
        name="db",
        rule="at most 1 of 2 may be unavailable",
        members=(uuid_at(1), uuid_at(2)),
        available=1,
        max_unavailable=1,
        allowed_now=0,
        unavailable=(MemberLine(uuid=uuid_at(2), name="db-2", state="is lost"),),
    )
    with_group = replace(status, groups=(group,))
    board = Board("unix:/x", "db").learned(Seen(with_group, 100.0))
    assert [row.uuid for row in board.shown] == [uuid_at(2), uuid_at(1)]
    words = "group db: db-2 is lost, at most 1 of 2 may be unavailable"
    assert (words, "warn") in board.head
    with pytest.raises(UserError, match="no group db"):
        Board("unix:/x", "db").learned(Seen(status, 100.0))
