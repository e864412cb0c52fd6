"""Keeps an agent's groups, across all of its hosts: who is a member, and who takes them down.

:mod:`hbtrio.policy.groups` decides, before a host is asked. An action of the VIM holds its place
from its vote to its end notice, or until its instance is back; it lapses as at a host. Nobody waits
for an agent's groups, so what has lapsed is seen at the next look.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs
import trio

from hbtrio.config.groups import GroupSettings, names_needed
from hbtrio.fsm.heartbeat.outage import CALL_OFF_MIGRATION_S, CALL_OFF_S
from hbtrio.fsm.ownership import NEXT_STEP_S
from hbtrio.nursery.agent.fleet import Fleet
from hbtrio.policy.group_rule import Group
from hbtrio.policy.groups import TAKING_DOWN, Groups
from hbtrio.wire.vocabulary import EVENT_TABLE, Event, ExpectedEffect, Health

#: Whose place an instance has from the VIM's accepted vote on.
_VIM: Final = "vim"


@attrs.define
class _Announced:
    """An event of the VIM: until when it is in progress at the latest, and what was seen of it."""

    event: Event
    lapses_at: float
    was_down: bool = False


class FleetGroups:
    """The groups of a fleet.

    Args:
        settings: ``[groups]`` of the configuration.
        fleet: the instances, as their hosts report them.
    """

    def __init__(self, settings: Mapping[str, GroupSettings], fleet: Fleet) -> None:
        configured = [
            Group.configured(name, **attrs.asdict(group)) for name, group in settings.items()
        ]
        self._rule = Groups(configured, self._state_of)
        self._needs_names = any(names_needed(settings))
        self._fleet = fleet
        self._announced: dict[str, _Announced] = {}

    @property
    def rule(self) -> Groups:
        """The groups as the fleet is now."""
        if self._rule:
            self._look()
        return self._rule

    # -- whether an instance may go down ----------------------------------------------------------

    def refusal(self, uuid: str, event: Event) -> str:
        """Returns why an event must not happen to an instance now; "" if it may. Takes nothing."""
        if not self._rule or event not in TAKING_DOWN:
            return ""
        awaited = ", ".join(sorted(self._fleet.awaited))
        if awaited and self._needs_names:
            return f"groups: the agent has just started, and waits for the instances of {awaited}"
        return self.rule.refusal(uuid)

    def take(self, uuid: str, event: Event, holder: str) -> str:
        """Takes an instance's place for an event, if it may happen; returns why it must not.

        Whoever has taken it gives it back. Without a checkpoint between, nobody else has it.
        """
        if refusal := self.refusal(uuid, event):
            return refusal
        self.hold(uuid, event, holder)
        return ""

    def hold(self, uuid: str, event: Event, holder: str) -> None:
        """Takes an instance's place for an event that happens whatever the rules say."""
        if event in TAKING_DOWN:
            self._rule.hold(uuid, holder, TAKING_DOWN[event])

    def give_back(self, uuid: str, holder: str) -> None:
        """Gives a place back, if it was taken."""
        self._rule.give_back(uuid, holder)

    # -- what the VIM does ------------------------------------------------------------------------

    def vote_accepted(self, uuid: str, event: Event) -> None:
        """Takes that the VIM's vote was not rejected: its notice is next."""
        self._announce(uuid, event, NEXT_STEP_S)

    def noticed(self, uuid: str, event: Event) -> None:
        """Takes a notice, of whomever."""
        if EVENT_TABLE[event].effect is ExpectedEffect.RETURNS:
            self._over(uuid)
        else:
            moves = event is Event.LIVE_MIGRATE_BEGIN
            self._announce(uuid, event, CALL_OFF_MIGRATION_S if moves else CALL_OFF_S)

    def _announce(self, uuid: str, event: Event, for_s: float) -> None:
        if self._rule and event in TAKING_DOWN:
            self._announced[uuid] = _Announced(event, trio.current_time() + for_s)
            self.hold(uuid, event, _VIM)

    def _over(self, uuid: str) -> None:
        self._announced.pop(uuid, None)
        self.give_back(uuid, _VIM)

    # -- the fleet --------------------------------------------------------------------------------

    def forget(self, uuid: str) -> bool:
        """Forgets a member that the fleet does not have; returns whether it was one."""
        return uuid not in self._fleet.instances and self._rule.left(uuid)

    def _look(self) -> None:
        """Takes what the hosts have reported by now, and what has lapsed."""
        fleet, now = self._fleet, trio.current_time()
        for uuid in fleet.instances:
            live = fleet.live(uuid)
            self._rule.joined(uuid, "" if live is None else live.domain)
        if fleet.has_vim:
            # It says which instances exist. Without one, a host may only have lost a channel.
            for uuid in sorted(self._rule.members.keys() - fleet.instances.keys()):
                self._rule.left(uuid)
        for uuid, announced in tuple(self._announced.items()):
            is_well = not self._state_of(uuid)
            announced.was_down |= not is_well
            freezes = EVENT_TABLE[announced.event].effect is ExpectedEffect.FREEZES
            if now >= announced.lapses_at or (is_well and announced.was_down and not freezes):
                self._over(uuid)

    def _state_of(self, uuid: str) -> str:
        """What an instance is, as its groups say it; "" if it is available."""
        bound = self._fleet.instances.get(uuid)
        if bound is None:
            return "is gone"
        live = self._fleet.live(uuid)
        if live is None or bound.hostname not in self._fleet.sessions:
            return f"is not reported by {bound.hostname}"
        if not live.heartbeating:
            return f"is {live.state}"
        return "is ill" if live.health is Health.UNHEALTHY else ""
