"""Keeps an agent's groups, across all of its hosts: who is a member, and who takes them down.

:mod:`hbtrio.policy.groups` decides, before a host is asked. An action of the VIM holds its place
from its vote to its end notice, or until its instance is back; it lapses as at a host. What a host
does on its own has a place, too, as long as the host says so, and from when the host has asked.
Nobody waits for an agent's groups, so what has lapsed is seen at the next look.

A member stays one while no host reports it, and over restarts of the agent: its name and the host
that had it last are stored.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

import attrs
import trio

from hbtrio.config.groups import GroupSettings, names_needed
from hbtrio.fsm.heartbeat.outage import CALL_OFF_MIGRATION_S, CALL_OFF_S
from hbtrio.fsm.ownership import NEXT_STEP_S
from hbtrio.nursery.agent.fleet import Fleet
from hbtrio.nursery.agent.kept_members import KeptMembers
from hbtrio.policy.group_rule import Group
from hbtrio.policy.groups import TAKING_DOWN, Groups
from hbtrio.store.group_members import GroupMember
from hbtrio.store.records import HistoryEntry
from hbtrio.wire.link_messages import Instance
from hbtrio.wire.vocabulary import EVENT_TABLE, Event, ExpectedEffect, Health

#: Whose place an instance has from the VIM's accepted vote on.
_VIM: Final = "vim"

#: The same of what its host does on its own.
_HOST: Final = "host"

#: The same of what its host has asked about, from the answer on.
_ASKED: Final = "asked"


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
        kept: remembers the members.
    """

    def __init__(
        self, settings: Mapping[str, GroupSettings], fleet: Fleet, kept: KeptMembers
    ) -> None:
        configured = [
            Group.configured(name, **attrs.asdict(group)) for name, group in settings.items()
        ]
        self._rule = Groups(configured, self._state_of)
        self._needs_names = any(names_needed(settings))
        self._fleet = fleet
        self._kept = kept
        self._announced: dict[str, _Announced] = {}
        #: The hosts that have asked about instances, and were not refused.
        self._asked: dict[str, str] = {}
        #: The reports of instances when the agent's own actions on them ended. A host sends the end
        #: before the instance's next state, so these still have that action.
        self._outdated: dict[str, Instance | None] = {}

    async def load(self) -> None:
        """Takes the members that an earlier run of the agent had; called before any other method.

        Raises:
            StoreFault: the store can't be read.
        """
        for member in await self._kept.load():
            # The groups may have changed since: others may be none now.
            if not self._rule.joined(member.uuid, member.name):
                self._kept.drop(member.uuid)
        await self._kept.write()

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
        # What its host does with it was not decided here: it does not make the instance one that is
        # down already.
        self._look(undecided=uuid)
        return self._rule.refusal(uuid)

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

    def acted(self, uuid: str, holder: str) -> None:
        """Gives the place of an action back that its host has brought to its end."""
        self._outdated[uuid] = self._fleet.live(uuid)
        self.give_back(uuid, holder)

    # -- what hosts ask about ---------------------------------------------------------------------

    def ask(self, hostname: str, uuid: str, event: Event) -> str:
        """Takes the place of an instance that its host is about to take down; returns why not.

        The place is given back by :meth:`asked_over`, and by :meth:`host_up`: from then on the host
        says itself what it does.
        """
        if not (refusal := self.take(uuid, event, _ASKED)):
            self._asked[uuid] = hostname
        return refusal

    def asked_over(self, hostname: str, uuid: str) -> None:
        """Takes that what a host has asked about has ended, or does not happen."""
        if self._asked.get(uuid) == hostname:
            del self._asked[uuid]
            self.give_back(uuid, _ASKED)

    def host_up(self, hostname: str) -> None:
        """Takes that a host has a new link, and will say what it does."""
        for uuid in tuple(self._asked):
            self.asked_over(hostname, uuid)

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

    async def changed(self, uuid: str) -> None:
        """Takes that an instance was reported, bound to a host or deleted; stores members."""
        if not self._rule:
            return
        if uuid in self._fleet.instances:
            self._join(uuid)
        elif self._fleet.has_vim:
            self._leave(uuid)
        await self._kept.write()

    async def forget(self, uuid: str, history_entry: HistoryEntry) -> bool:
        """Forgets a member that the fleet does not have.

        Args:
            uuid: the instance.
            history_entry: what the history says of it then.

        Returns:
            Whether it was such a member.

        Raises:
            StoreFault: the store failed; it is one still.
        """
        if uuid in self._fleet.instances or uuid not in self._rule.members:
            return False
        await self._kept.forget(uuid, history_entry)
        if uuid in self._fleet.instances:  # it has come meanwhile
            await self.changed(uuid)
        else:
            self._leave(uuid)
        return True

    @asynccontextmanager
    async def forgetting_host(self, hostname: str) -> AsyncIterator[tuple[str, ...]]:
        """Gives the members that a host had last, which are none any more after the block.

        Those that another host has are not among them. The caller removes the host and them from
        the store and the fleet, or raises.
        """
        bound = self._fleet.instances
        last = [
            uuid
            for uuid in self._kept.last_on(hostname)
            if uuid not in bound or bound[uuid].hostname == hostname
        ]
        async with self._kept.forgetting(last):
            yield tuple(last)
        for uuid in last:
            if uuid in bound:
                self._join(uuid)
            else:
                self._leave(uuid)
        await self._kept.write()

    def _join(self, uuid: str) -> None:
        bound, live = self._fleet.instances[uuid], self._fleet.live(uuid)
        self._rule.joined(uuid, "" if live is None else live.domain)
        if (name := self._rule.members.get(uuid)) is None:
            self._kept.drop(uuid)
        else:
            self._kept.put(GroupMember(uuid, name, bound.hostname))

    def _leave(self, uuid: str) -> bool:
        self._kept.drop(uuid)
        self._outdated.pop(uuid, None)
        return self._rule.left(uuid)

    def _look(self, undecided: str = "") -> None:
        """Takes what the hosts have reported by now, and what has lapsed.

        Args:
            undecided: the instance of which its host's own doings are left out.
        """
        fleet, now = self._fleet, trio.current_time()
        for uuid in fleet.instances:
            self._join(uuid)
        if fleet.has_vim:
            # It says which instances exist. Without one, a host may only have lost a channel.
            for uuid in sorted(self._rule.members.keys() - fleet.instances.keys()):
                self._leave(uuid)
        for uuid, hostname in tuple(self._asked.items()):
            if (bound := fleet.instances.get(uuid)) is None or bound.hostname != hostname:
                self.asked_over(hostname, uuid)
        for uuid in self._rule.members:
            event = None if uuid == undecided else self._done_by_host(uuid)
            self._rule.give_back(uuid, _HOST)
            if event is not None:
                self.hold(uuid, event, _HOST)
        for uuid, announced in tuple(self._announced.items()):
            is_well = not self._state_of(uuid)
            announced.was_down |= not is_well
            freezes = EVENT_TABLE[announced.event].effect is ExpectedEffect.FREEZES
            if now >= announced.lapses_at or (is_well and announced.was_down and not freezes):
                self._over(uuid)

    def _done_by_host(self, uuid: str) -> Event | None:
        """The event by which an instance's host says it is taken down."""
        live = self._fleet.live(uuid)
        if live is None:
            return None
        event: Event | None = None
        if live.open is not None and not live.open.vote:
            event = live.open.event
        if live is not self._outdated.get(uuid):
            self._outdated.pop(uuid, None)
            event = live.acting or event
        return event if event in TAKING_DOWN else None

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
