"""Short courses of events in which everything that can happen between two steps is tried."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

#: When the course of events begins, in seconds; by then all heartbeat.
SCENARIO_S: Final = 20.0


class Scenario(StrEnum):
    """What happens, to the first instance and nobody else, or to all in a drain."""

    #: The VIM asks for a vote, which the VM rejects.
    VOTE = "vote"
    #: An operator reboots the VM, which agrees, at a host without an agent.
    ACT = "act"
    #: The VIM migrates the VM, which agrees, to the other host.
    MIGRATE = "migrate"
    #: An operator drains a host without an agent: one VM after the other is rebooted.
    DRAIN = "drain"
    #: An operator has an agent drain two hosts: the VM of one is rebooted after that of the other.
    FLEET_DRAIN = "fleet-drain"

    @property
    def has_agent(self) -> bool:
        """Whether the hosts are linked to an agent."""
        return self not in (Scenario.ACT, Scenario.DRAIN)

    @property
    def hosts(self) -> int:
        """How many hosts it needs."""
        return 2 if self in (Scenario.MIGRATE, Scenario.FLEET_DRAIN) else 1

    @property
    def vms(self) -> int:
        """How many instances it needs."""
        return 2 if self in (Scenario.DRAIN, Scenario.FLEET_DRAIN) else 1

    @property
    def by_operator(self) -> bool:
        """Whether an operator acts; else the VIM does."""
        return self in (Scenario.ACT, Scenario.DRAIN, Scenario.FLEET_DRAIN)

    @property
    def rejects(self) -> bool:
        """Whether the VM rejects what it is asked."""
        return self is Scenario.VOTE
