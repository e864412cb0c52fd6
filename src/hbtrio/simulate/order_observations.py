"""What is observed of orders that last: the holds and drains of operators, as plain values."""

from __future__ import annotations

from typing import Final

import attrs

from hbtrio.simulate.observations import Observation

#: The outcome of a drain whose host knows of it no more.
LOST: Final = "lost"


@attrs.frozen
class HoldSet(Observation):
    """A host has put an instance on hold, in place of a hold in force.

    Args:
        instance: the instance.
        host: which host.
        until_s: until when at least, in seconds from the start of the run.
        stored: whether the host says that it outlives a restart.
    """

    instance: str
    host: str
    until_s: float
    stored: bool = True


@attrs.frozen
class HoldEnded(Observation):
    """An operator ends a hold; ``certain``: the host has said so, and is not only asked to."""

    instance: str
    certain: bool = True


@attrs.frozen
class DrainBegan(Observation):
    """A host has begun a drain, of which ``most`` actions may be in progress at once."""

    drain: str
    host: str
    most: int


@attrs.frozen
class DrainEnded(Observation):
    """A drain is over; ``outcome`` is a word of docs/acting.md, or ``LOST``."""

    drain: str
    outcome: str


@attrs.frozen
class Planned(Observation):
    """Somebody has planned an action on an instance; the times are in seconds of the run.

    Args:
        plan: its id.
        instance: the instance.
        site: who carries it out: a host, or the agent.
        not_before_s: from when on its guest is to be asked.
        before_s: when it is to be performed without its vote.
    """

    plan: str
    instance: str
    site: str
    not_before_s: float
    before_s: float


@attrs.frozen
class PlanStepped(Observation):
    """Who follows a plan has heard of its state, a word of docs/drain.md, and why it is so."""

    plan: str
    state: str
    reason: str = ""


@attrs.frozen
class Refused(Observation):
    """A host has refused a command of the agent that came too late."""

    process: str
    request: str
