"""A reject is seen at the host and at the agent before either has decided by it."""

from __future__ import annotations

from msgspec.json import encode

from hbtrio.simulate.askers import Askers
from hbtrio.simulate.fleet import Fleet
from hbtrio.simulate.observations import (
    AGENT,
    REJECT,
    Asked,
    Decided,
    Observation,
    Owner,
    Recorded,
    RejectArrived,
)
from hbtrio.simulate.reject_watch import RejectWatch
from hbtrio.simulate.requests import OperatorRequests, Requests
from hbtrio.simulate.schedule import Schedule


def test_each_reject_is_seen_where_it_arrives_before_it_is_decided_by() -> None:
    seen: list[Observation] = []
    Fleet(Schedule(seed=1, minutes=10.0, vms=4, hosts=2), seen.append).run(150.0)
    arrived = {
        (one.process, one.request): one.at_s for one in seen if isinstance(one, RejectArrived)
    }
    decided = {
        (one.process, one.request): one.at_s
        for one in seen
        if isinstance(one, Decided) and one.result == REJECT
    }
    # A host also rejects by itself, beside an operator's action: then none arrives there.
    by_guests = {key: at_s for key, at_s in decided.items() if key in arrived}
    for key, at_s in by_guests.items():
        assert 0.0 < at_s - arrived[key] < 0.1
    overridden = {
        (one.process, one.request) for one in seen if isinstance(one, Decided) and one.overridden
    }
    # For what a drain asks all before it begins nobody waits, and nobody is told how it ended.
    asked = {one.request for one in seen if isinstance(one, Asked)}
    awaited = {key for key in arrived if key[1].partition(",")[0] in asked}
    assert awaited - overridden <= by_guests.keys()
    assert len(awaited) > 0.8 * len(arrived)
    assert {process for process, _ in by_guests} > {AGENT}
    by_group = {(AGENT, one.request) for one in seen if isinstance(one, Recorded) and one.by_group}
    by_agent = {key for key in decided if key[0] == AGENT}
    assert by_agent <= by_guests.keys() | by_group
    assert by_agent & by_guests.keys()


def test_a_reject_of_what_a_drain_of_the_agent_asks_is_of_no_request() -> None:
    seen: list[Observation] = []
    vims = Requests("vim", Owner.VIM, {"u0": "vm0"}, lambda: 7.0, lambda _: None)
    vims.name("u0", "stop", is_vote=True)
    operators = OperatorRequests("op", Owner.OPERATOR, {"u0": "vm0"}, lambda: 7.0, lambda _: None)
    askers = Askers(operators, vims)
    watch = RejectWatch(lambda: 7.0, seen.append, askers.invoked, askers.commanded)
    to_host, to_agent = watch.link_to_host(), watch.link_to_agent()
    for command, who in (("c1", "drain d1 of root"), ("c2", "vim")):
        asked = {"command_id": command, "uuid": "u0", "event": "stop", "vote": True, "who": who}
        to_host(encode(asked) + b"\n")
        report = {"kind": "vote", "command_id": command, "result": "reject"}
        to_agent(encode(report) + b"\n")
    assert seen == [RejectArrived(7.0, AGENT, "vim-1")]
    assert watch.commands == {"c1": "", "c2": "vim-1"}
