"""What is observed of histories, and of what hosts report."""

from __future__ import annotations

from datetime import UTC, datetime

import attrs
import pytest
import trio

from hbtrio.nursery.host.reports import Report, ReportKind, Reports
from hbtrio.simulate.askers import Said
from hbtrio.simulate.disk import Disk
from hbtrio.simulate.events import ObservedEvents
from hbtrio.simulate.histories import HistoryReader
from hbtrio.simulate.network import Network
from hbtrio.simulate.observations import AGENT, Decided, Observation, Recorded, Reported
from hbtrio.simulate.places import Stage
from hbtrio.store.store import Store
from hbtrio.wire.vocabulary import Event, VoteResult
from support.simulation import Simulation

OVERRIDDEN = "overridden after 1 reject in 3600 s: busy"
INSERT = """
INSERT INTO history (time, kind, uuid, hostname, event, result, reason, who, corrective_action,
                     kept_at, command_id, note)
VALUES (5.5, ?, 'u0', 'compute-0', 'stop', 'accept', ?, ?, '', 6.0, '', '')
"""


class Observed:
    """A stage, what was observed on it, and what was asked for."""

    def __init__(self) -> None:
        self.simulation = Simulation()
        timeline, trace = self.simulation.timeline, self.simulation.trace
        self.seen: list[Observation] = []
        self.said: list[Said] = []
        self.stage = Stage(timeline, trace, Network(timeline, trace), self.seen.append)

    def find(self, said: Said) -> str:
        self.said.append(said)
        return "r1"


def recorded(kind: str, reason: str = "", who: str = "vim") -> list[Observation]:
    """What is observed of a line in the agent's history."""
    observed = Observed()
    disk = Disk(observed.simulation.timeline)
    disk.prepare(Store.schema)
    reader = HistoryReader(observed.stage, disk, observed.find, decides=AGENT)
    disk.db.execute(INSERT, (kind, reason, who))
    for _ in range(2):
        reader.read()
    is_vote = kind == "vote"
    assert observed.said in ([], [Said("u0", "stop", is_vote, 5.5, who)])
    assert [said.who for said in observed.said] in ([], [who])
    return observed.seen


@pytest.mark.parametrize("kind", ["vote", "notice"])
def test_what_the_agent_has_decided_is_in_its_history(kind: str) -> None:
    assert recorded(kind) == [Decided(0.0, AGENT, "r1", "accept"), Recorded(0.0, "r1", "accept")]


def test_a_history_says_that_a_reject_does_not_stand() -> None:
    assert recorded("vote", OVERRIDDEN) == [
        Decided(0.0, AGENT, "r1", "accept", True),
        Recorded(0.0, "r1", "accept", True),
    ]


def test_a_history_says_that_a_group_of_the_agent_has_rejected() -> None:
    by_group = [
        recorded("vote", f"group {name}: vm1 is lost", who)[-1]
        for name, who in (("spread", "vim"), ("spread", "operator uid 0"), ("all", "vim"))
    ]
    assert by_group == [Recorded(0.0, "r1", "accept", by_group=one) for one in (True, True, False)]


def test_what_a_host_has_decided_for_an_operator_is_recorded_by_the_agent() -> None:
    who = "operator uid 0 of the agent"
    assert recorded("vote", who=who) == [Recorded(0.0, "r1", "accept")]


@pytest.mark.parametrize(
    ("kind", "reason", "who"),
    [("vote", "refused: no link", "vim"), ("vote", "", "drain d1 of root"), ("action", "", "root")],
)
def test_other_lines_are_of_no_request(kind: str, reason: str, who: str) -> None:
    assert recorded(kind, reason, who) == []


def reported(**members: object) -> list[Observation]:
    """What is observed of a host's report."""
    observed = Observed()
    process = observed.simulation.process("compute-0")
    reports = Reports(lambda: datetime.now(UTC))
    events = ObservedEvents(
        observed.stage, "compute-0", process, {"u0": "vm0"}, lambda: observed.find
    )
    report = Report(datetime.fromtimestamp(5.5, UTC), uuid="u0", **members)  # type: ignore[arg-type]

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(events.run, reports)
            reports.publish(report)
            nursery.cancel_scope.cancel()

    process.start(run)
    observed.simulation.run(1.0)
    assert process.error is None
    assert all(said == Said("u0", "stop", True, 5.5) for said in observed.said)
    assert all(said.who == report.who for said in observed.said)
    return [attrs.evolve(one, at_s=0.0) for one in observed.seen]


@pytest.mark.parametrize(("reason", "overridden"), [("", False), (OVERRIDDEN, True)])
def test_a_host_says_how_a_vote_has_ended(reason: str, overridden: bool) -> None:
    seen = reported(
        kind=ReportKind.VOTE,
        reason=reason,
        event=Event.STOP,
        result=VoteResult.ACCEPT,
        who="operator uid 0 of the agent",
    )
    assert seen == [Decided(0.0, "compute-0", "r1", VoteResult.ACCEPT, overridden)]


def test_any_other_report_is_observed_as_it_is() -> None:
    seen = reported(kind=ReportKind.NOT_ACTED, reason="", cause="brake")
    assert seen == [Reported(0.0, "compute-0", "vm0", "not-acted", "brake")]


def test_nobody_waits_for_what_a_drain_asks() -> None:
    vote = {"kind": ReportKind.VOTE, "event": Event.STOP, "result": VoteResult.REJECT}
    assert reported(reason="", who="drain d1 of root", **vote) == []
