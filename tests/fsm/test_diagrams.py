"""The page of state diagrams: it is the tables, and it is the one in docs."""

from __future__ import annotations

import re
import runpy
import sys
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from hbtrio.fsm.diagrams import DECISIONS, TABLES, main, render
from hbtrio.fsm.table import Decision, Table

PAGE = Path(__file__).resolve().parents[2] / "docs" / "state-machines.md"
EVERY_TABLE = pytest.mark.parametrize("table", TABLES, ids=lambda table: str(table.name))


class Door(Enum):
    SHUT = "shut"
    OPEN = "wide open"
    GONE = "gone"


class Push(Enum):
    PUSHED = "pushed"
    KICKED = "kicked: hard"
    LEFT = "left alone"


DOOR: Table[Any, Any] = Table(
    "door",
    Door.SHUT,
    {
        Door.SHUT: {Push.PUSHED: Door.OPEN, Push.KICKED: Door.OPEN, Push.LEFT: Door.SHUT},
        Door.OPEN: {Push.KICKED: Door.GONE, Push.LEFT: Door.OPEN},
        Door.GONE: {},
    },
    {Door.OPEN: frozenset({Push.PUSHED}), Door.GONE: frozenset(Push)},
    Push,
)

DOOR_SECTION = """\
## Door

```mermaid
stateDiagram-v2
    state "shut" as SHUT
    state "wide open" as OPEN
    state "gone" as GONE
    [*] --> SHUT
    SHUT --> OPEN : pushed<br/>kicked, hard
    OPEN --> GONE : kicked, hard
    GONE --> [*]
```

| event | in shut | in wide open | in gone |
| --- | --- | --- | --- |
| pushed | wide open | – | – |
| kicked: hard | wide open | gone | – |
| left alone | · | · | – |
"""


def test_the_page_in_docs_is_what_is_generated_now() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(TABLES), "run `make docs`"


def test_a_section() -> None:
    page = render([DOOR])
    assert page == render([]) + "\n" + DOOR_SECTION
    assert page.startswith("# State machines\n")


def test_the_sections_stand_in_the_order_of_the_tables() -> None:
    assert render([DOOR, DOOR]) == render([DOOR]) + "\n" + DOOR_SECTION
    titles = re.findall(r"^## (.*)$", render(TABLES), re.MULTILINE)
    assert titles == [
        "Guest session",
        "Heartbeat",
        "Presence of a guest",
        "Ballot",
        "Action",
        "An instance in a drain",
        "Ownership",
        "Correction",
        "Application",
        "Vote or notice at the agent",
        "Delivery to the VIM",
        "Hold on a host's alarms",
    ]


ARROW = re.compile(r"    (\w+) --> (\w+) : ([^:;\"\n]+)")


@EVERY_TABLE
def test_every_change_of_state_is_drawn_and_nothing_that_is_not_in_the_table(
    table: Table[Any, Any],
) -> None:
    drawing = render([table]).partition("```mermaid\n")[2].partition("```")[0].splitlines()
    drawn = set()
    for line in drawing:
        if arrow := ARROW.fullmatch(line):
            before, after, label = arrow.groups()
            drawn |= {(before, after, word) for word in label.split("<br/>")}
    legal = {
        (before.name, after.name, event.value.replace(":", ","))
        for before, row in table.rows.items()
        for event, after in row.items()
    }
    assert drawn <= legal
    assert {arrow for arrow in legal if arrow[0] != arrow[1]} <= drawn
    # What is no arrow is the head, a name or an end: no line that Mermaid would stumble over.
    others = [line for line in drawing if not ARROW.fullmatch(line)]
    assert others == [
        "stateDiagram-v2",
        *(f'    state "{state.value}" as {state.name}' for state in table.states),
        f"    [*] --> {table.initial.name}",
        *(f"    {state.name} --> [*]" for state in table.terminal),
    ]


@EVERY_TABLE
def test_the_grid_read_back_is_the_table(table: Table[Any, Any]) -> None:
    page, _, _ = render([table]).partition("### ")  # what is decided stands below it
    lines = [line for line in page.splitlines() if line.startswith("|")]
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    assert head == ["event", *(f"in {state.value}" for state in table.states)]
    assert [row[0] for row in rows] == [event.value for event in table.events]
    for event, (_, *cells) in zip(table.events, rows, strict=True):
        for state, cell in zip(table.states, cells, strict=True):
            match cell:
                case "–":
                    assert event in table.illegal[state]
                case "·":
                    assert table.after(state, event) is state
                case _:
                    assert table.after(state, event).value == cell
                    assert cell != state.value


@pytest.mark.parametrize("decision", DECISIONS, ids=lambda decision: str(decision.name))
def test_a_decision_stands_below_its_table_and_read_back_is_the_same(
    decision: Decision[Any, Any, Any],
) -> None:
    _, _, section = render([decision.table]).partition(f"### {decision.name.capitalize()}\n\n")
    rows = [line.strip("| ").split(" | ") for line in section.strip().splitlines()]
    head, body = rows[0], rows[2:]
    assert head == ["observed", *(f"in {state.value}" for state in decision.states)]
    assert body == [
        [case.value, *(decision.event(state, case).value for state in decision.states)]
        for case in decision.cases
    ]
    assert f"### {decision.name.capitalize()}" not in render([DOOR])


def test_the_command_writes_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    monkeypatch.setattr(sys, "argv", ["diagrams", str(page)])
    monkeypatch.delitem(sys.modules, "hbtrio.fsm.diagrams")
    runpy.run_module("hbtrio.fsm.diagrams", run_name="__main__")
    assert page.read_bytes() == render(TABLES).encode()


@pytest.mark.parametrize("arguments", [[], ["one.md", "two.md"]])
def test_the_command_wants_one_file(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match=r"^usage: python -m hbtrio\.fsm\.diagrams FILE$"):
        main(arguments)
