"""docs/acting.md has each state, event, cause, owner and outcome, and what follows from them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import attrs
import pytest

from hbtrio.fsm.correction import ASK_AGAIN_S, RETRIES, RETRY_MAX_S, RETRY_S, SILENT_S
from hbtrio.fsm.corrective import (
    GONE_WITHIN_S,
    Act,
    Ask,
    Cause,
    Decision,
    Known,
    Never,
    NotNow,
    Picture,
    Policy,
    Question,
    decide,
)
from hbtrio.fsm.domain import Standing
from hbtrio.fsm.heartbeat.illness import (
    HEALTH_INTERVAL_S,
    REPORTS,
    SAME_AGAIN_S,
    UNTIL_NOTICE_S,
)
from hbtrio.fsm.heartbeat.outage import CALL_OFF_MIGRATION_S, CALL_OFF_S
from hbtrio.fsm.heartbeat.table import HeartbeatState
from hbtrio.fsm.ownership import NEXT_STEP_S, Owner
from hbtrio.nursery.host.correction_command import Outcome
from hbtrio.nursery.host.correction_tools import LOOK_S
from hbtrio.nursery.host.loss_looks import LOSS_LOOK_S
from hbtrio.nursery.host.reports import ReportKind
from hbtrio.wire.vocabulary import CorrectiveAction

PAGE: Final = (Path(__file__).parent.parent / "docs" / "acting.md").read_text(encoding="utf-8")

REBOOT: Final = Picture(action=CorrectiveAction.REBOOT)
RUNNING: Final = Known(Standing.RUNNING, "running: booted")
SILENT: Final = Known(words="libvirt unknown", silent=True)

#: What the picture of an instance has to be for each cause, beside nothing else.
HINDERED: Final = {
    Cause.POLICY: attrs.evolve(REBOOT, policy=Policy.OFF),
    Cause.HOLD: attrs.evolve(REBOOT, held="on hold until ..."),
    Cause.BRAKE: attrs.evolve(REBOOT, braked=True),
    Cause.OWNER: attrs.evolve(REBOOT, owner="an operator's action"),
    Cause.LIMIT: attrs.evolve(REBOOT, limit="3 per hour"),
    Cause.GROUP: attrs.evolve(REBOOT, group="group db: db-2 is restarting"),
    Cause.LIBVIRT_SILENT: attrs.evolve(REBOOT, known=SILENT),
    Cause.PAUSED: attrs.evolve(REBOOT, known=Known(Standing.PAUSED, "paused: user")),
    Cause.DOWN: attrs.evolve(REBOOT, known=Known(Standing.STOPPED, "shut off: destroyed")),
    Cause.UNSURE: attrs.evolve(REBOOT, known=Known(Standing.FAILED, "shut off"), starts_gone=True),
    Cause.BUSY: attrs.evolve(REBOOT, known=RUNNING, asks_traffic=True, busy="it writes"),
    Cause.CONFIRM: attrs.evolve(REBOOT, known=RUNNING, asks_confirm=True, refusal="no"),
}


def section(heading: str) -> str:
    """The text below a heading."""
    return PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def rows(heading: str, head: str) -> list[list[str]]:
    """The cells of the table below a heading, whose first row begins with ``head``."""
    table = section(heading).split(f"\n| {head} |")[1].split("\n\n")[0]
    return [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]]
        for line in table.splitlines()[2:]
    ]


def named(cell: str) -> list[str]:
    """What stands between backquotes."""
    return re.findall(r"`([^`]+)`", cell)


SEEN: Final = rows("What is seen, and what is done", "what is seen")


def test_each_state_is_seen() -> None:
    states = {name for row in SEEN for name in named(row[1])}
    assert states == {state.shown for state in HeartbeatState}


def test_each_event_is_seen() -> None:
    events = {name for row in SEEN for name in named(row[2])}
    # A hold is set, not seen.
    known = {str(kind) for kind in ReportKind} - {"hold", "hold-over"}
    assert known <= events
    assert events - known == {"libvirt unknown"}


def test_the_order_of_reasons() -> None:
    """The picture of one for which all reasons hold, from which one after the other is taken."""
    listed = re.findall(r"^\d+\. `([a-z-]+)`", section("Before a command runs"), flags=re.MULTILINE)
    everything = attrs.evolve(
        REBOOT,
        policy=Policy.OFF,
        held="on hold until ...",
        braked=True,
        owner="an operator's action",
        limit="3 per hour",
        group="group db: db-2 is restarting",
        known=SILENT,
        asks_traffic=True,
        busy="it writes",
        asks_confirm=True,
        refusal="no",
    )
    removals: list[dict[str, Any]] = [
        {},
        {"policy": Policy.ON},
        {"held": ""},
        {"braked": False},
        {"owner": ""},
        {"limit": ""},
        {"group": ""},
        {"known": Known(Standing.PAUSED, "paused: user")},
        {"known": RUNNING},
        {"busy": ""},
    ]
    found = []
    picture = everything
    for removal in removals:
        picture = attrs.evolve(picture, **removal)
        decision = decide(picture)
        assert isinstance(decision, NotNow)
        found.append(str(decision.cause))
    assert listed == found
    assert decide(attrs.evolve(picture, refusal="")) == Act()


def outcome_of(decision: Decision) -> str:
    return f"`{decision.cause}`" if isinstance(decision, NotNow) else "runs"


@pytest.mark.parametrize("action", [CorrectiveAction.REBOOT, CorrectiveAction.STOP])
def test_what_libvirt_s_answer_permits(action: CorrectiveAction) -> None:
    table = rows("Before a command runs", "libvirt says")
    assert {row[1]: row[2] for row in table} == {
        f"`{standing.value}`": outcome_of(
            decide(Picture(action=action, known=Known(standing, "words")))
        )
        for standing in Standing
    }


def test_a_log_command_runs_whatever_libvirt_says() -> None:
    log = Picture(action=CorrectiveAction.LOG, owner="somebody")
    for standing in Standing:
        assert decide(attrs.evolve(log, known=Known(standing, "words"))) == Act()
    assert decide(attrs.evolve(log, known=SILENT)) == Act()
    for cause in (Cause.POLICY, Cause.BRAKE, Cause.LIMIT):
        hindered = decide(attrs.evolve(HINDERED[cause], action=CorrectiveAction.LOG))
        assert isinstance(hindered, NotNow)
        assert hindered.cause is cause


def test_each_cause_with_its_consequences() -> None:
    table = {row[0]: row for row in rows("Why nothing was done", "cause")}
    assert set(table) == {f"`{cause}`" for cause in Cause}
    for cause, picture in HINDERED.items():
        decision = decide(picture)
        assert isinstance(decision, NotNow)
        assert decision.cause is cause
        _, _, alarm, anew, _ = table[f"`{cause}`"]
        assert alarm.startswith("yes") == decision.alarm, cause
        assert (anew == "never") == isinstance(decision, Never), cause
    assert set(HINDERED) == set(Cause)


def test_a_vm_that_failed_is_an_alarm() -> None:
    """As the row of ``down`` says, for a host without ``reboot-gone``."""
    decision = decide(attrs.evolve(REBOOT, known=Known(Standing.FAILED, "shut off: crashed")))
    assert decision == Never(Cause.DOWN, "shut off: crashed", alarm=True)


def test_questions_are_asked_before_a_decision() -> None:
    assert decide(REBOOT) == Ask(Question.LIBVIRT)
    assert decide(attrs.evolve(HINDERED[Cause.BUSY], busy=None)) == Ask(Question.TRAFFIC)
    assert decide(attrs.evolve(HINDERED[Cause.CONFIRM], refusal=None)) == Ask(Question.CONFIRM)


def test_each_owner() -> None:
    owners = [name for row in rows("Who owns an instance", "owner") for name in named(row[0])]
    assert owners == [owner.value for owner in Owner]


def test_each_outcome_of_a_command() -> None:
    listed = {
        name for row in rows("What becomes of a command", "outcome") for name in named(row[0])
    }
    assert listed == {outcome.word for outcome in Outcome}


@pytest.mark.parametrize(
    "text",
    [
        f"does not answer within {LOSS_LOOK_S:g} s",
        f"libvirt does not answer within {LOOK_S:g} s",
        f"the call-off time ({CALL_OFF_S / 60:g} minutes; a migration: an hour)",
        f"up to {UNTIL_NOTICE_S:g} s after an accepted vote",
        f"if it lasts {HEALTH_INTERVAL_S:g} s longer",
        f"again within {SAME_AGAIN_S:g} s, or more than {REPORTS} times a minute",
        f"within the last {GONE_WITHIN_S:g} s",
        f"every {ASK_AGAIN_S:g} s",
        f"for {SILENT_S:g} s or 2 intervals",
        f"for {NEXT_STEP_S:g} s after a vote",
        f"{RETRIES} times: after {RETRY_S:g} s, doubling to {RETRY_MAX_S:g} s",
    ],
)
def test_each_time_is_that_of_the_code(text: str) -> None:
    assert text in PAGE


def test_a_migration_is_called_off_after_an_hour() -> None:
    assert CALL_OFF_MIGRATION_S == 3600
