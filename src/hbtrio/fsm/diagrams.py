"""Generates ``docs/state-machines.md`` from the tables of the state machines.

``make docs`` writes the page, and a test compares the page with the tables that the daemons use.

A diagram shows the transitions between states. Of the events that don't change the state, only
those that do the machine's regular work are drawn; the grid below the diagram lists all events.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, Final

from hbtrio.fsm.action import ACTION_FSM
from hbtrio.fsm.alarm_hold import HOLD_TABLE
from hbtrio.fsm.application_table import APPLICATION_TABLE, ApplicationEvent, ApplicationState
from hbtrio.fsm.ballot import BALLOT_TABLE, BallotEvent, BallotState
from hbtrio.fsm.correction import CORRECTION_TABLE
from hbtrio.fsm.delivery import DELIVERY_TABLE, DeliveryEvent, OutboxState
from hbtrio.fsm.drain_table import DRAIN_TABLE
from hbtrio.fsm.fleet_round import FLEET_ROUND_TABLE
from hbtrio.fsm.guest_session_table import SESSION_TABLE, SessionEvent, SessionState
from hbtrio.fsm.heartbeat.presence import PRESENCE_TABLE
from hbtrio.fsm.heartbeat.table import (
    ANSWER_DECISION,
    HEARTBEAT_TABLE,
    HeartbeatEvent,
    HeartbeatState,
)
from hbtrio.fsm.ownership import OWNERSHIP_TABLE
from hbtrio.fsm.table import Decision, Table

TABLES: Final[tuple[Table[Any, Any], ...]] = (
    SESSION_TABLE,
    HEARTBEAT_TABLE,
    PRESENCE_TABLE,
    BALLOT_TABLE,
    ACTION_FSM,
    DRAIN_TABLE,
    OWNERSHIP_TABLE,
    CORRECTION_TABLE,
    APPLICATION_TABLE,
    FLEET_ROUND_TABLE,
    DELIVERY_TABLE,
    HOLD_TABLE,
)

#: Each stands below the table whose events it decides.
DECISIONS: Final[tuple[Decision[Any, Any, Any], ...]] = (ANSWER_DECISION,)

#: Loops that are drawn: the event sends or records something, although the state stays the same.
_DRAWN_LOOPS: Final[frozenset[tuple[Enum, Enum]]] = frozenset(
    {
        (SessionState.ENABLING, SessionEvent.INIT_RETRY),
        (SessionState.ENABLED, SessionEvent.CHALLENGE),
        (SessionState.ENABLED, SessionEvent.ACTION),
        (HeartbeatState.HEARTBEATING, HeartbeatEvent.ANSWERED),
        (HeartbeatState.HEARTBEATING, HeartbeatEvent.MISSED),
        (HeartbeatState.PROVISIONAL, HeartbeatEvent.ANSWERED),
        (BallotState.OPEN, BallotEvent.ANSWER_CAME),
        (ApplicationState.HEALTHY, ApplicationEvent.CHALLENGE_DUE),
        (ApplicationState.HEALTHY, ApplicationEvent.ANSWERED_HEALTHY),
        (ApplicationState.ILL, ApplicationEvent.ANSWERED_ILL),
        (OutboxState.QUEUED, DeliveryEvent.NOT_SENT),
    }
)

_HEAD: Final = """\
# State machines

These machines make every decision of the daemons. Time is an argument and nothing in them waits, so
tests run them without a clock. `make docs` generates this page from the tables in `hbtrio.fsm`:
edit the tables, not this page.

In the grids, a cell is the next state. `·` means no change. `–` means that the event is illegal in
that state: a driver that delivers it has a bug and gets an error before anything changes. Where the
same observation means different things in different states, a second grid names the event.
"""

_UNCHANGED: Final = "·"
_ILLEGAL: Final = "–"


def render(tables: Iterable[Table[Any, Any]]) -> str:
    """Returns the page, in Markdown with Mermaid diagrams.

    Args:
        tables: the tables, in the order of the page.
    """
    return "\n".join([_HEAD, *(line for table in tables for line in _section(table))])


def _section(table: Table[Any, Any]) -> Iterator[str]:
    yield f"## {table.name[0].upper()}{table.name[1:]}"
    yield ""
    yield "```mermaid"
    yield "stateDiagram-v2"
    yield from (f"    {line}" for line in _drawing(table))
    yield "```"
    yield ""
    yield from _grid(table)
    yield ""
    for decision in DECISIONS:
        if decision.table is table:
            yield from _decision(decision)


def _drawing(table: Table[Any, Any]) -> Iterator[str]:
    for state in table.states:
        yield f'state "{state.value}" as {state.name}'
    yield f"[*] --> {table.initial.name}"
    for state in table.states:
        arrows: dict[Enum, list[str]] = {}
        for event in table.events:
            after = table.rows[state].get(event)
            if after is None or (after is state and (state, event) not in _DRAWN_LOOPS):
                continue
            # Mermaid reads a second colon as the end of the label.
            arrows.setdefault(after, []).append(str(event.value).replace(":", ","))
        for after, events in arrows.items():
            yield f"{state.name} --> {after.name} : {'<br/>'.join(events)}"
    for state in table.terminal:
        yield f"{state.name} --> [*]"


def _grid(table: Table[Any, Any]) -> Iterator[str]:
    yield _row("event", *(f"in {state.value}" for state in table.states))
    yield _row(*["---"] * (len(table.states) + 1))
    for event in table.events:
        yield _row(event.value, *(_cell(table, state, event) for state in table.states))


def _decision(decision: Decision[Any, Any, Any]) -> Iterator[str]:
    yield f"### {decision.name[0].upper()}{decision.name[1:]}"
    yield ""
    yield _row("observed", *(f"in {state.value}" for state in decision.states))
    yield _row(*["---"] * (len(decision.states) + 1))
    for case in decision.cases:
        yield _row(case.value, *(decision.event(s, case).value for s in decision.states))
    yield ""


def _cell(table: Table[Any, Any], state: Enum, event: Enum) -> str:
    after = table.rows[state].get(event)
    if after is None:
        return _ILLEGAL
    return _UNCHANGED if after is state else str(after.value)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def main(arguments: Sequence[str]) -> None:
    """Writes the page to a file.

    Raises:
        SystemExit: the arguments are not exactly one file.
    """
    if len(arguments) != 1:
        raise SystemExit("usage: python -m hbtrio.fsm.diagrams FILE")
    Path(arguments[0]).write_text(render(TABLES), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
