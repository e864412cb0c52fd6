"""Runs small simulated fleets, for tests that compare them."""

from __future__ import annotations

from hbtrio.simulate.fleet import Fleet
from hbtrio.simulate.schedule import Schedule


def fleet_digest() -> str:
    """The digest of a short run; called in other processes."""
    fleet = Fleet(Schedule(seed=3, minutes=4.0, vms=2, hosts=2), lambda _: None)
    fleet.run(40.0)
    return fleet.trace.digest
