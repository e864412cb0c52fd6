"""The tables themselves: what a table refuses to be, and what holds for every table we have."""

from __future__ import annotations

from enum import Enum
from typing import Any

import pytest

from hbtrio.fsm.diagrams import TABLES
from hbtrio.fsm.table import Decision, IllegalEvent, Table

#: The end of each machine. A guest session has none: even a shut down one could be started again.
TERMINAL = {
    "guest session": set(),
    "heartbeat": {"GONE"},
    "presence of a guest": set(),
    "ballot": {"REFUSED", "ANSWERED", "EXPIRED", "ABORTED"},
    "action": {"DONE", "REJECTED", "FAILED"},
    "an instance in a drain": {"DONE", "SKIPPED", "FAILED", "CANCELLED"},
    "ownership": set(),
    "correction": {"ENDED"},
    "application": {"GONE"},
    "vote or notice at the agent": {
        "STORED",
        "AGREED",
        "LOST",
        "DENIED",
        "DROPPED",
        "FORGOTTEN",
    },
    "delivery to the VIM": {"DELIVERED", "UNCONFIRMED", "UNDELIVERED", "REPLACED"},
    "hold on a host's alarms": {"OVER"},
}
EVERY_TABLE = pytest.mark.parametrize("table", TABLES, ids=lambda table: str(table.name))


class Lamp(Enum):
    OFF = "off"
    ON = "on"
    BROKEN = "broken"


class Touch(Enum):
    PRESSED = "pressed"
    DROPPED = "dropped"


class Look(Enum):
    DARK = "dark"
    SHARDS = "shards"


ROWS = {
    Lamp.OFF: {Touch.PRESSED: Lamp.ON, Touch.DROPPED: Lamp.BROKEN},
    Lamp.ON: {Touch.PRESSED: Lamp.OFF, Touch.DROPPED: Lamp.BROKEN},
    Lamp.BROKEN: {Touch.PRESSED: Lamp.BROKEN},
}
ILLEGAL = {Lamp.BROKEN: frozenset({Touch.DROPPED})}


def lamp(rows: dict[Lamp, Any] = ROWS, illegal: dict[Lamp, Any] = ILLEGAL) -> Table[Lamp, Touch]:
    return Table("lamp", Lamp.OFF, rows, illegal, Touch)


def test_a_complete_table_answers_every_pair() -> None:
    table = lamp()
    assert table.after(Lamp.OFF, Touch.PRESSED) is Lamp.ON
    assert table.after(Lamp.ON, Touch.PRESSED) is Lamp.OFF
    assert table.after(Lamp.ON, Touch.DROPPED) is Lamp.BROKEN
    assert table.after(Lamp.BROKEN, Touch.PRESSED) is Lamp.BROKEN
    with pytest.raises(IllegalEvent, match=r"^lamp: DROPPED is illegal in BROKEN$") as caught:
        table.after(Lamp.BROKEN, Touch.DROPPED)
    assert (caught.value.state, caught.value.event) == (Lamp.BROKEN, Touch.DROPPED)


def test_what_a_table_knows_of_itself() -> None:
    table = lamp()
    assert (table.name, table.initial) == ("lamp", Lamp.OFF)
    assert (table.states, table.events) == (tuple(Lamp), tuple(Touch))
    assert table.terminal == (Lamp.BROKEN,)


@pytest.mark.parametrize(
    ("rows", "illegal", "fault"),
    [
        (ROWS, {}, "DROPPED in BROKEN is missing"),
        (ROWS | {Lamp.OFF: {Touch.PRESSED: Lamp.ON}}, ILLEGAL, "DROPPED in OFF is missing"),
        (ROWS, ILLEGAL | {Lamp.ON: {Touch.PRESSED}}, "PRESSED in ON is both legal and illegal"),
        (
            {Lamp.OFF: ROWS[Lamp.OFF], Lamp.ON: ROWS[Lamp.ON]},
            {Lamp.BROKEN: frozenset(Touch)},
            "BROKEN has no row",
        ),
    ],
)
def test_a_table_with_a_hole_or_a_contradiction_is_not_built(
    rows: dict[Lamp, Any], illegal: dict[Lamp, Any], fault: str
) -> None:
    with pytest.raises(ValueError, match=f"^lamp: {fault}$"):
        lamp(rows, illegal)


def decided(**rows: Any) -> Decision[Lamp, Look, Touch]:
    by_state = {Lamp[name]: row for name, row in rows.items()}
    return Decision("a look at the lamp", lamp(), by_state, Look)


PRESS = {Look.DARK: Touch.PRESSED, Look.SHARDS: Touch.PRESSED}
DROP = {Look.DARK: Touch.PRESSED, Look.SHARDS: Touch.DROPPED}


def test_a_complete_decision_names_the_event_for_every_pair() -> None:
    decision = decided(OFF=PRESS, ON=DROP)
    assert decision.event(Lamp.OFF, Look.SHARDS) is Touch.PRESSED
    assert decision.event(Lamp.ON, Look.SHARDS) is Touch.DROPPED
    assert (decision.states, decision.cases) == ((Lamp.OFF, Lamp.ON), tuple(Look))
    # The end needs no row: nothing is observed there.
    with pytest.raises(KeyError):
        decision.event(Lamp.BROKEN, Look.DARK)


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        ({"OFF": PRESS}, "DARK in ON is missing"),
        ({"OFF": PRESS, "ON": {Look.DARK: Touch.PRESSED}}, "SHARDS in ON is missing"),
    ],
)
def test_a_decision_with_a_hole_is_not_built(rows: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValueError, match=f"^a look at the lamp: {fault}$"):
        decided(**rows)


def test_a_decision_for_an_illegal_event_is_not_built() -> None:
    stuck = {**ROWS, Lamp.ON: {Touch.PRESSED: Lamp.OFF}}
    illegal = {**ILLEGAL, Lamp.ON: frozenset({Touch.DROPPED})}
    fault = "^look: SHARDS in ON decides DROPPED, which is illegal there$"
    with pytest.raises(ValueError, match=fault):
        Decision("look", lamp(stuck, illegal), {Lamp.OFF: DROP, Lamp.ON: DROP}, Look)


def test_every_machine_is_looked_at_here() -> None:
    assert [table.name for table in TABLES] == list(TERMINAL)


@EVERY_TABLE
def test_every_state_can_be_reached_from_the_first(table: Table[Any, Any]) -> None:
    reached, new = {table.initial}, {table.initial}
    while new:
        new = {after for state in new for after in table.rows[state].values()} - reached
        reached |= new
    assert reached == set(table.states)


@EVERY_TABLE
def test_exactly_the_expected_states_are_the_end(table: Table[Any, Any]) -> None:
    assert {state.name for state in table.terminal} == TERMINAL[table.name]
    # At the end nothing may come any more, not even something that changes nothing.
    assert all(table.rows[state] == {} for state in table.terminal)


@EVERY_TABLE
def test_from_everywhere_there_is_a_way_to_the_end(table: Table[Any, Any]) -> None:
    ends = set(table.terminal) or {table.initial}
    arriving, new = set(ends), set(ends)
    while new:
        new = {s for s in table.states if new & set(table.rows[s].values())} - arriving
        arriving |= new
    assert arriving == set(table.states)


@EVERY_TABLE
def test_every_event_is_used_and_every_name_and_value_stands_once(table: Table[Any, Any]) -> None:
    used = {event for row in table.rows.values() for event in row}
    assert used == set(table.events)
    for words in (table.states, table.events):
        assert len({word.value for word in words}) == len(words)


@EVERY_TABLE
def test_every_pair_is_legal_or_raises_and_changes_nothing(table: Table[Any, Any]) -> None:
    for state in table.states:
        for event in table.events:
            if event in table.illegal[state]:
                with pytest.raises(IllegalEvent):
                    table.after(state, event)
            else:
                assert table.after(state, event) in table.states
