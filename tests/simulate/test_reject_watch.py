"""A reject is seen at the host and at the agent before either has decided by it."""

from __future__ import annotations

from hbtrio.simulate.fleet import Fleet
from hbtrio.simulate.observations import AGENT, REJECT, Decided, Observation, RejectArrived
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
    assert decided
    assert {process for process, _ in decided} > {AGENT}
    for key, at_s in decided.items():
        assert 0.0 < at_s - arrived[key] < 0.1
    assert arrived.keys() == decided.keys()
