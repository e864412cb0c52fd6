"""Operators of hosts without an agent put VMs on hold, plan actions, and drain their hosts."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest
import trio

from hbtrio.simulate.begin_watch import BeginWatch
from hbtrio.simulate.drain_course import DrainCourse, Drained
from hbtrio.simulate.fleet import Fleet
from hbtrio.simulate.hold_course import HoldCourse
from hbtrio.simulate.observations import (
    ActionBegan,
    ActionEnded,
    CarriedOut,
    Decided,
    Notified,
    Observation,
    Owner,
    Reported,
)
from hbtrio.simulate.order_observations import (
    LOST,
    DrainBegan,
    DrainEnded,
    HoldEnded,
    HoldSet,
    Planned,
    PlanStepped,
    Refused,
)
from hbtrio.simulate.plan_course import PlanCourse
from hbtrio.simulate.requests import OperatorRequests
from hbtrio.simulate.schedule import Schedule
from hbtrio.wire.link_codec import encode_link
from hbtrio.wire.link_messages import Hello

NAMES = {"u0": "vm0", "u1": "vm1"}
WISH = {"action": "stop"}


@pytest.fixture(scope="module")
def seen() -> list[Observation]:
    """What is observed in a quiet fleet without an agent."""
    seen: list[Observation] = []
    Fleet(Schedule(seed=18, minutes=8.0, vms=4, hosts=2), seen.append).run(280.0)
    return seen


def test_holds_are_set_and_over(seen: list[Observation]) -> None:
    holds = [one for one in seen if isinstance(one, HoldSet)]
    assert len({one.instance for one in holds}) > 1
    assert all(one.stored and one.until_s < 280.0 for one in holds)
    ended = [one for one in seen if isinstance(one, HoldEnded) and one.certain]
    assert 0 < len(ended) < len(holds)
    over = [one for one in seen if isinstance(one, Reported) and one.kind == "hold-over"]
    assert len(over) == len(holds)


def test_drains_begin_and_end(seen: list[Observation]) -> None:
    began = [one for one in seen if isinstance(one, DrainBegan)]
    ended = [one for one in seen if isinstance(one, DrainEnded)]
    assert sorted(one.drain for one in ended) == sorted(one.drain for one in began) != []
    assert {one.most for one in began} <= {1, 2}
    told = [one for one in seen if isinstance(one, Notified) and one.action[0] in "dp"]
    drains = {one.action.split()[0] for one in told}
    assert drains <= {one.drain for one in began}
    assert {drain[0] for drain in drains} == {"d", "p"}


def test_a_drain_decides_no_request_of_anybody_else(seen: list[Observation]) -> None:
    decided = [one for one in seen if isinstance(one, Decided) and one.process != one.request]
    hosts = [(one.process, one.request) for one in decided if one.process.startswith("compute")]
    assert len(set(hosts)) == len(hosts)


class Host:
    """Answers as a host does: what is asked of it, in order; an error is raised."""

    def __init__(self, *answers: list[dict[str, Any] | Exception]) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, str]] = []
        #: What was posted.
        self.wishes: list[dict[str, Any]] = []

    async def ask(
        self, method: str, path: str, body: dict[str, Any] | None
    ) -> AsyncIterator[dict[str, Any]]:
        await trio.lowlevel.checkpoint()
        self.asked.append((method, path))
        if body:
            self.wishes.append(body)
        for answer in self.answers.pop(0):
            if isinstance(answer, Exception):
                raise answer
            yield answer


def began(drain: str = "d1") -> dict[str, Any]:
    return {"step": "drain", "id": drain, "parallel": 2}


def entry(drain: str, *, ended: str | None = None, plans: str = "") -> dict[str, Any]:
    """A drain in the list of its host, or a plan."""
    instances = [{"uuid": plans}] if plans else []
    return {"id": drain, "ended": ended, "before": plans or None, "instances": instances}


def state(word: str, uuid: str = "u0") -> dict[str, Any]:
    return {"step": "instance", "uuid": uuid, "hostname": "compute-0", "state": word}


END: dict[str, Any] = {"step": "end", "outcome": "drained"}
GONE = trio.BrokenResourceError()


def nothing(_uuid: str, _drain: str, *, has_turn: bool, acts: bool) -> None:
    del has_turn, acts


async def restore(_uuid: str) -> None:
    await trio.lowlevel.checkpoint()


async def drained(host: Host, turn: Drained = nothing, *, planned: str = "") -> list[Observation]:
    """What is observed of a drain, or of a plan for an instance."""
    seen: list[Observation] = []
    course = DrainCourse(
        "compute-0",
        NAMES,
        drained=turn,
        ask=host.ask,
        restore=restore,
        now=lambda: 7.0,
        observe=seen.append,
        say=lambda _: None,
        quiet_s=100.0,
    )
    await (course.plan(planned, WISH, (9.0, 20.0)) if planned else course.drain(WISH))
    return seen


BEGAN = DrainBegan(7, "d1", "compute-0", 2)
ACTS = ActionBegan(7, "d1 vm0", "vm0", Owner.OPERATOR, host="compute-0")
ACTED = ActionEnded(7, "d1 vm0")
ENDED = DrainEnded(7, "d1", "drained")


async def test_the_lines_of_a_drain_are_observed(autojump_clock: trio.abc.Clock) -> None:
    lines = [began(), state("waiting"), state("asked"), state("told"), state("acting")]
    host = Host([*lines, state("done"), END])
    assert await drained(host) == [BEGAN, ACTS, ACTED, ENDED]
    assert host.asked == [("POST", "/v1/drains")]


async def test_a_drain_is_followed_over_a_restart(autojump_clock: trio.abc.Clock) -> None:
    host = Host(
        [began(), state("told"), GONE],
        [GONE],
        [began(), state("acting"), state("done"), END],
    )
    assert await drained(host) == [BEGAN, ACTS, ACTED, ACTS, ACTED, ENDED]
    assert host.asked[1:] == [("GET", "/v1/drains/d1/progress")] * 2


async def test_a_drain_whose_first_line_never_came_is_found(
    autojump_clock: trio.abc.Clock,
) -> None:
    listed = [entry("d0", ended="then"), entry("p1", plans="u0"), entry("d1")]
    host = Host([GONE], [GONE], [{"drains": listed}], [began(), END])
    assert await drained(host) == [BEGAN, ENDED]


async def test_a_plan_is_followed_as_a_drain(autojump_clock: trio.abc.Clock) -> None:
    host = Host([{"id": "d1"}], [began(), state("told"), state("done"), END])
    assert await drained(host, planned="u0") == [
        Planned(7, "d1", "vm0", "compute-0", 9.0, 20.0),
        BEGAN,
        PlanStepped(7, "d1", "told"),
        ACTS,
        PlanStepped(7, "d1", "done"),
        ACTED,
        ENDED,
    ]
    assert host.asked == [("POST", "/v1/instances/u0/plan"), ("GET", "/v1/drains/d1/progress")]


async def test_a_plan_whose_answer_never_came_is_found_by_its_instance(
    autojump_clock: trio.abc.Clock,
) -> None:
    listed = [entry("d0"), entry("p1", plans="u1"), entry("d1", plans="u0")]
    host = Host([GONE], [{"drains": listed}], [began(), END])
    assert await drained(host, planned="u0") == [BEGAN, ENDED]


async def test_a_plan_that_was_refused_is_none(autojump_clock: trio.abc.Clock) -> None:
    assert await drained(Host([], [{"drains": [entry("p1", plans="u1")]}]), planned="u0") == []


def plans(seen: list[datetime], *, is_there: bool = True) -> tuple[PlanCourse, Host]:
    host = Host(*([{"id": "d1"}] if number % 2 == 0 else [began(), END] for number in range(20)))
    course = DrainCourse(
        "compute-0",
        NAMES,
        drained=nothing,
        ask=host.ask,
        restore=restore,
        now=trio.current_time,
        observe=lambda _: None,
        say=lambda _: None,
        quiet_s=1000.0,
    )

    def utc() -> datetime | None:
        seen.append(datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=trio.current_time()))
        return seen[-1] if is_there else None

    return PlanCourse("u0", course, utc=utc, now=trio.current_time, quiet_s=1000.0), host


async def test_actions_are_planned_until_it_is_quiet(autojump_clock: trio.abc.Clock) -> None:
    seen: list[datetime] = []
    course, host = plans(seen)
    await course.run(Random("plans"))
    assert len(seen) > 1
    for now, wish in zip(seen, host.wishes, strict=True):
        begin, end = (datetime.fromisoformat(wish[name]) for name in ("not_before", "before"))
        assert now <= begin < end < datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=1000)
        assert wish["action"] in ("reboot", "stop")


async def test_nothing_is_planned_for_what_is_nowhere(autojump_clock: trio.abc.Clock) -> None:
    seen: list[datetime] = []
    course, host = plans(seen, is_there=False)
    await course.run(Random("plans"))
    assert seen
    assert host.asked == []


async def test_an_agent_drains_hosts_that_are_drawn(autojump_clock: trio.abc.Clock) -> None:
    host = Host(*([began(f"d{number}"), END] for number in range(40)))
    course = DrainCourse(
        "agent",
        NAMES,
        drained=nothing,
        ask=host.ask,
        hosts=("compute-0", "compute-1"),
        restore=restore,
        now=trio.current_time,
        observe=lambda _: None,
        say=lambda _: None,
        quiet_s=trio.current_time() + 3000.0,
    )
    await course.run(Random("drains"))
    assert {frozenset(wish["hosts"]) for wish in host.wishes} == {
        frozenset({"compute-0"}),
        frozenset({"compute-1"}),
        frozenset({"compute-0", "compute-1"}),
    }


async def test_a_drain_that_was_refused_is_none(autojump_clock: trio.abc.Clock) -> None:
    assert await drained(Host([], [{"drains": []}])) == []


async def test_a_drain_of_which_its_host_knows_no_more_is_lost(
    autojump_clock: trio.abc.Clock,
) -> None:
    assert await drained(Host([began(), GONE], [])) == [BEGAN, DrainEnded(7, "d1", LOST)]


@pytest.mark.parametrize("word", ["asked", "told", "acting"])
async def test_who_has_its_turn_is_told_by_the_drain(
    word: str, autojump_clock: trio.abc.Clock
) -> None:
    turns: list[tuple[str, str]] = []

    def turn(uuid: str, drain: str, *, has_turn: bool, acts: bool) -> None:
        del acts
        if has_turn:
            turns.append((uuid, drain))

    host = Host([began(), state("waiting"), state("waiting", "u1"), state(word), END])
    await drained(host, turn)
    assert turns == [("u0", "d1")]


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([[{"stored": True}], [{}]], ["set", "asked to end", "ended"]),
        ([[{"stored": True}], []], ["set", "asked to end"]),
        ([[{"stored": True}], [GONE]], ["set", "asked to end"]),
        ([[], []], ["asked to end"]),
    ],
)
async def test_a_hold_is_what_the_host_says(
    answers: list[list[dict[str, Any] | Exception]],
    expected: list[str],
    autojump_clock: trio.abc.Clock,
) -> None:
    host = Host(*answers)
    seen: list[Observation] = []
    began_s = trio.current_time()
    course = HoldCourse(
        "u0",
        "vm0",
        host=lambda: "compute-0",
        ask=lambda word, body: host.ask("POST", word, body),
        now=lambda: trio.current_time() - began_s,
        observe=seen.append,
        say=lambda _: None,
        quiet_s=170.0,
    )
    draw = Random("a")
    draw.random = iter([0.5, 0.5, 0.1, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]).__next__  # type: ignore[method-assign]
    await course.run(draw)
    words = {HoldSet: "set", HoldEnded: "ended"}
    assert [
        "asked to end" if isinstance(one, HoldEnded) and not one.certain else words[type(one)]
        for one in seen
    ] == expected
    assert host.asked == [("POST", "hold"), ("POST", "unhold")]


def requests() -> OperatorRequests:
    return OperatorRequests("op", Owner.OPERATOR, NAMES, lambda: 7.0, lambda _: None)


def test_what_nobody_listens_to_is_a_request_of_its_own() -> None:
    ledger = requests()
    ledger.begin_action("u0", "act-1")
    ledger.written("u0", "stop", True)
    assert ledger.request_of("u0", "stop", True) == "op-1"  # it may be over before its line is here
    ledger.heard("u0", {"step": "vote", "event": "stop", "window": "VOTE", "seconds": 11.0})
    assert ledger.request_of("u0", "stop", True) == "op-1"
    ledger.action_ended("u0")
    ledger.written("u0", "stop", True)
    assert ledger.request_of("u0", "stop", True) == "op-2"
    assert ledger.action_of("u0") == ""  # a plan's, or of one that its host has resumed


def test_a_drain_that_has_to_wait_for_an_action_tells_nothing() -> None:
    ledger = requests()
    ledger.begin_action("u0", "act-1")
    ledger.drained("u0", "d1", has_turn=True)
    assert ledger.action_of("u0") == "act-1"


def test_what_a_drain_asks_is_of_its_action() -> None:
    ledger = requests()
    ledger.written("u0", "stop", False)
    ledger.drained("u0", "d1", has_turn=True)
    assert (ledger.action_of("u0"), ledger.request_of("u0", "stop", False)) == ("d1 vm0", "op-1")


def test_a_drain_that_waits_for_a_plan_tells_nothing_before_that_is_over() -> None:
    ledger = requests()
    ledger.drained("u0", "p1", has_turn=True)
    ledger.drained("u0", "d1", has_turn=True)  # it is asked, and waits
    assert ledger.action_of("u0") == "d1 vm0"
    ledger.drained("u0", "p1", has_turn=True, acts=True)
    assert ledger.action_of("u0") == "p1 vm0"
    ledger.drained("u0", "d1", has_turn=True)  # again
    assert ledger.action_of("u0") == "p1 vm0"
    ledger.drained("u0", "p1", has_turn=False)
    assert ledger.action_of("u0") == "d1 vm0"
    ledger.drained("u0", "d1", has_turn=False)
    ledger.begin_action("u0", "act-1")
    ledger.drained("u0", "d1", has_turn=False)
    assert ledger.action_of("u0") == "act-1"


@pytest.mark.parametrize(
    ("reply", "refused"),
    [
        ({"ok": False, "reason": "expired 0.3 s ago: nothing was done"}, True),
        ({"ok": False, "reason": "no such instance"}, False),
        ({"ok": True, "reason": "expired"}, False),
    ],
)
def test_a_refusal_of_what_came_too_late_is_seen_at_the_agent(
    reply: dict[str, Any], refused: bool
) -> None:
    seen: list[Observation] = []
    watch = BeginWatch(lambda: 7.0, seen.append, lambda *_: 0.0)
    line = json.dumps({"command_id": "c1", **reply}, separators=(",", ":"))
    watch.link_to_agent("compute-0")(line.encode() + b"\n")
    assert seen == ([Refused(7, "compute-0", "c1")] if refused else [])


OPENED = json.dumps({"event_type": "stop", "notification_type": "revocable"}).encode() + b"\n"


def sent(command: dict[str, Any]) -> bytes:
    members = {"command_id": "c1", "uuid": "u0", "begin_by_s": 5.0, "boot_id": "b1", **command}
    return json.dumps(members, separators=(",", ":")).encode() + b"\n"


def carried_out(*messages: bytes, refused: bool = False, said: bytes = b"") -> list[str]:
    """The commands that a host carries out that gets these, and then asks its instance."""
    seen: list[Observation] = []
    watch = BeginWatch(lambda: 7.0, seen.append, lambda *_: 0.0)
    to_host = watch.link_to_host("compute-0")
    for message in messages:
        to_host(message)
    to_agent = watch.link_to_agent("compute-0")
    to_agent(said)
    if refused:
        to_agent(b'{"command_id":"c1","ok":false,"reason":"paused"}\n')
    watch.channel_from_host("u0", "compute-0")(OPENED)
    return [one.request for one in seen if isinstance(one, CarriedOut)]


def test_what_a_host_asks_for_an_action_is_none_of_the_votes_before() -> None:
    vote, act = (
        sent({"event": "stop", "vote": True}),
        sent({"action": "reboot", "command_id": "c2"}),
    )
    assert carried_out(vote) == ["c1"]
    assert carried_out(vote, refused=True) == []
    assert carried_out(vote, act) == []
    assert carried_out(act, vote) == ["c1"]


@pytest.mark.parametrize(("boot_id", "left"), [("b1", ["c1"]), ("b2", [])])
def test_what_a_host_was_asked_for_ends_with_its_process(boot_id: str, left: list[str]) -> None:
    hello = encode_link(Hello(1, "compute-0", "h0", boot_id, "1.0", 0))
    assert carried_out(sent({"event": "stop", "vote": True}), said=hello) == left
