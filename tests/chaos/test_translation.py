"""What real daemons say becomes observations."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from chaos.records import Records, RunClock
from chaos.translation import LEARNS_S, Sayings
from hbtrio.simulate.observations import (
    AGENT,
    Decided,
    Observation,
    Owner,
    Recorded,
    Reported,
)
from hbtrio.simulate.requests import Requests
from hbtrio.store import history
from hbtrio.store.migration import migrate
from hbtrio.store.records import HistoryEntry
from hbtrio.store.schema import MIGRATIONS
from hbtrio.wire.vocabulary import Event, VoteResult

UUID = "00000000-1111-4222-8bcd-0123456789ef"


class Desk:
    """Somebody who asks, and what was observed."""

    def __init__(self, directory: Path) -> None:
        self.clock = RunClock()
        self.clock.begin()
        self.began = datetime.now(UTC).timestamp()
        self.records = Records(self.clock, directory / "observations.jsonl")
        self.time = 0.0
        names = {UUID: "vm0"}
        self.requests = Requests("vim", Owner.VIM, names, lambda: self.time, self.records.observe)
        self.commands: dict[str, str] = {}
        self.sayings = Sayings(self.records, names, self.requests.request_at, self.commands)

    def ask(self, at_s: float, event: str = "stop", *, vote: bool = True) -> str:
        self.time = at_s
        return self.requests.name(UUID, event, vote)

    def says(self, at_s: float, kind: str, **members: str) -> None:
        time = datetime.fromtimestamp(self.began + at_s, UTC).isoformat(timespec="milliseconds")
        self.sayings.event("compute-0", {"time": time, "kind": kind, "uuid": UUID, **members})

    def seen(self) -> list[Observation]:
        return list(self.records)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    desk.records.close()


def test_a_vote_is_known_by_the_agents_id(desk: Desk) -> None:
    first, second = desk.ask(1.0), desk.ask(5.0)
    desk.commands["c-1"] = first
    desk.says(9.0, "vote", event="stop", result="reject", command_id="c-1")
    [decided] = desk.seen()
    assert isinstance(decided, Decided)
    assert (decided.process, decided.request, decided.result) == ("compute-0", first, "reject")
    assert second != first
    assert decided.at_s == pytest.approx(9.0, abs=0.1)


def test_who_asked_without_an_agent_is_not_said_in_an_event(desk: Desk) -> None:
    desk.ask(1.0)
    desk.says(5.0, "vote", event="stop", result="accept")
    assert desk.seen() == []


@pytest.mark.parametrize(
    ("says", "heartbeats"),
    [
        (["heartbeating"], True),
        (["heartbeating", "loss"], False),
        (["heartbeating", "stopped"], False),
        (["heartbeating", "corrective"], True),
        (["heartbeating", "paused", "heartbeating"], True),
    ],
)
def test_reports(desk: Desk, says: list[str], heartbeats: bool) -> None:
    for number, kind in enumerate(says):
        desk.says(float(number), kind)
    desk.says(9.0, "not-acted", cause="paused")
    reports = [one for one in desk.seen() if isinstance(one, Reported)]
    assert [one.kind for one in reports] == [*says, "not-acted"]
    assert reports[-1].cause == "paused"
    assert {one.instance for one in reports} == {"vm0"}
    assert (("vm0", "compute-0") in desk.sayings.heartbeating) is heartbeats


def row(
    at_s: float, kind: str, result: VoteResult | None, reason: str = "", who: str = "vim"
) -> tuple[float, str, VoteResult | None, str, str]:
    return at_s, kind, result, reason, who


def read_history(
    desk: Desk,
    directory: Path,
    *rows: tuple[float, str, VoteResult | None, str, str],
    decides: str = AGENT,
) -> list[Observation]:
    """Has a history with these rows, each written a quarter of a second later."""
    with closing(sqlite3.connect(directory / "agent.db", isolation_level=None)) as db:
        migrate(db, MIGRATIONS)
        for at_s, kind, result, reason, who in rows:
            time = datetime.fromtimestamp(desk.began + at_s, UTC)
            event = Event.STOP if kind in ("vote", "notice") else None
            entry = HistoryEntry(time, kind, UUID, "compute-0", reason, event, result, who)
            history.record(db, entry, desk.began + at_s + 0.25)
    desk.sayings.history(directory / "agent.db", decides=decides)
    return desk.seen()


def decided(seen: list[Observation]) -> list[tuple[str, str]]:
    return [(one.request, one.result) for one in seen if isinstance(one, Decided)]


def test_a_history(desk: Desk, tmp_path: Path) -> None:
    request = desk.ask(1.0)
    seen = read_history(
        desk,
        tmp_path,
        row(4.0, "vote", VoteResult.REJECT, "busy"),
        row(6.0, "vote", VoteResult.ERROR, "refused: it is not there"),
        row(7.0, "loss", None),
    )
    [decision, recorded] = seen
    assert isinstance(decision, Decided)
    assert (decision.process, decision.request, decision.result) == (AGENT, request, "reject")
    assert isinstance(recorded, Recorded)
    assert (recorded.request, recorded.result) == (request, "reject")
    assert recorded.at_s - decision.at_s == pytest.approx(0.25, abs=0.01)


def test_a_vote_in_a_history_is_the_last_one_until_then(desk: Desk, tmp_path: Path) -> None:
    first, _ = desk.ask(1.0), desk.ask(9.0)
    seen = read_history(desk, tmp_path, row(5.0, "vote", VoteResult.ACCEPT))
    assert decided(seen) == [(first, "accept")]


def test_its_operator_may_learn_a_little_later_that_he_has_asked(
    desk: Desk, tmp_path: Path
) -> None:
    request = desk.ask(5.0 + 0.5 * LEARNS_S)
    # A vote is no notice.
    rows = row(5.0, "notice", VoteResult.ACCEPT), row(5.0, "vote", VoteResult.ACCEPT)
    assert decided(read_history(desk, tmp_path, *rows)) == [(request, "accept")]


def test_a_vote_that_is_decided_already_is_not_the_one_asked_for_just_after(
    desk: Desk, tmp_path: Path
) -> None:
    first, second = desk.ask(1.0), desk.ask(5.0 + 0.5 * LEARNS_S)
    seen = read_history(
        desk,
        tmp_path,
        row(5.0, "vote", VoteResult.REJECT),
        row(5.2, "vote", VoteResult.ACCEPT),
        row(8.0, "vote", VoteResult.REJECT),  # a contradiction
    )
    assert decided(seen) == [(first, "reject"), (second, "accept"), (second, "reject")]


@pytest.mark.parametrize("who", ["drain d-1 of root", "plan d-2 of root"])
def test_nobody_waits_for_what_a_drain_asks(desk: Desk, tmp_path: Path, who: str) -> None:
    _, second = desk.ask(1.0), desk.ask(5.0 + 0.5 * LEARNS_S)
    seen = read_history(
        desk,
        tmp_path,
        row(5.0, "vote", VoteResult.REJECT, who=who),
        row(6.0, "vote", VoteResult.ACCEPT, who="root"),
    )
    assert decided(seen) == [(second, "accept")]


def test_what_a_host_asks_for_an_action_of_its_agent_is_no_request(
    desk: Desk, tmp_path: Path
) -> None:
    request = desk.ask(1.0)
    seen = read_history(
        desk,
        tmp_path,
        row(3.0, "vote", VoteResult.REJECT, who=""),
        row(4.0, "vote", VoteResult.ACCEPT),
    )
    assert decided(seen) == [(request, "accept")]


def test_what_a_host_without_an_agent_asks_for_an_action_is_its_operators_request(
    desk: Desk, tmp_path: Path
) -> None:
    request = desk.ask(1.0)
    one = row(3.0, "vote", VoteResult.REJECT, who="")
    assert decided(read_history(desk, tmp_path, one, decides="compute-0")) == [(request, "reject")]
