"""Keeps the groups of a host's instances: who is a member, and who takes which of them down.

:mod:`hbtrio.policy.groups` decides. An action of the VIM holds its place from its vote to its end
notice, as :mod:`hbtrio.fsm.ownership` has it, an operator's until it has ended, and a corrective
command until it has ended and the VM is back or RESTART over.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs
import trio

from hbtrio.config.groups import GroupSettings, names_needed
from hbtrio.fsm.domain import MIGRATED, Standing
from hbtrio.fsm.heartbeat.table import HeartbeatState
from hbtrio.fsm.known_domains import Domain
from hbtrio.nursery.host.agent_places import AgentPlaces
from hbtrio.nursery.host.announced_places import AnnouncedPlaces
from hbtrio.nursery.host.channel import Channel
from hbtrio.nursery.host.domains import Domains
from hbtrio.nursery.host.memory import HostMemory
from hbtrio.nursery.host.owners import Owners
from hbtrio.policy.group_rule import Group
from hbtrio.policy.groups import CORRECTING, TAKING_DOWN, Groups
from hbtrio.store.host_records import MemberRecord, Recollection
from hbtrio.wire.vocabulary import CorrectiveAction, Event, Health

#: Whose places an instance may have, beside those of actions and votes.
_ORCHESTRATOR: Final = "orchestrator"
_COMMAND: Final = "command"

_NOT_READ: Final = "groups: the host has just started, and has not read its members yet"
_NOT_NAMED: Final = (
    "groups: libvirt ([libvirt] enabled) has not told the name yet, which may be a member's"
)


class HostGroups:
    """The groups of a host.

    Args:
        settings: ``[groups]`` of the configuration.
        channels: the channels of all instances, by uuid; a live view.
        domains: what libvirt knows.
        owners: who owns each instance.
        memory: remembers the members.
    """

    def __init__(
        self,
        settings: Mapping[str, GroupSettings],
        channels: Mapping[str, Channel],
        domains: Domains,
        owners: Owners,
        memory: HostMemory,
    ) -> None:
        configured = [
            Group.configured(name, **attrs.asdict(group)) for name, group in settings.items()
        ]
        #: The groups of the agent, which has members on other hosts, too.
        self.of_agent = AgentPlaces()
        # Decides, and knows the members.
        self._rule = Groups(configured, self._state_of)
        self.need_names = any(names_needed(settings))
        self._channels = channels
        self._domains = domains
        self._owners = owners
        self._memory = memory
        self._announced = AnnouncedPlaces(memory)
        self._is_read = not memory.is_kept
        self._changed = trio.Event()
        #: The instances for which a corrective command runs.
        self._corrected: set[str] = set()

    @property
    def rule(self) -> Groups:
        """The groups as they are now."""
        for uuid in self._announced.lapsed():
            self.give_back(uuid, _ORCHESTRATOR)
        return self._rule

    # -- whether an instance may go down ----------------------------------------------------------

    def refusal(self, uuid: str, event: Event) -> str:
        """Returns why an event must not happen to an instance now; "" if it may. Takes nothing."""
        return "" if event not in TAKING_DOWN else self._unready(uuid) or self.rule.refusal(uuid)

    def take(self, uuid: str, event: Event, holder: str) -> str:
        """Takes an instance's place for an event, if it may happen; returns why it must not.

        Whoever has taken it gives it back. Without a checkpoint between, nobody else has it.

        Args:
            uuid: the instance.
            event: what is to happen; one that takes nothing down takes no place.
            holder: who takes it down.
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
        """Gives a place back, if it was taken: the action has ended or was called off."""
        if self._rule.give_back(uuid, holder):
            self._note()

    def _unready(self, uuid: str) -> str:
        """Why it can't be known yet whether an instance is a member."""
        if not self._rule:
            return ""
        if not self._is_read:
            return _NOT_READ
        is_named = (
            not self.need_names or self._domains.of(uuid) is not None or self._domains.are_known
        )
        return "" if is_named else _NOT_NAMED

    # -- corrective commands ----------------------------------------------------------------------

    def hindrance(self, uuid: str, action: CorrectiveAction, failed_at: float, since: float) -> str:
        """Returns why a corrective action has to wait; "" if it need not.

        Args:
            uuid: the instance.
            action: the corrective action.
            failed_at: when the instance failed, on trio's clock.
            since: since when the action waits for groups.
        """
        if action not in CORRECTING:
            return ""
        return self.rule.hindrance(uuid, failed_at, trio.current_time() - since)

    async def until_it_may(self, uuid: str, failed_at: float, since: float) -> None:
        """Waits until a corrective action need not wait any more. A checkpoint."""
        await trio.lowlevel.checkpoint()
        while self.rule.hindrance(uuid, failed_at, trio.current_time() - since):
            left_s = self._rule.next_delay_s(uuid, trio.current_time() - since)
            with trio.move_on_after(left_s):
                await self._changed.wait()

    def waits(self, uuid: str, failed_at: float) -> None:
        """Takes that a corrective action waits for a group."""
        self._rule.waits(uuid, failed_at)

    def waits_no_more(self, uuid: str) -> None:
        """Takes that it waits no more."""
        if self._rule.waits_no_more(uuid):
            self._note()

    def command_begins(self, uuid: str, action: CorrectiveAction) -> None:
        """Takes that a corrective command begins."""
        self._corrected.add(uuid)
        self._rule.hold(uuid, _COMMAND, CORRECTING[action])

    def command_ended(self, uuid: str) -> None:
        """Takes that it has ended; if the VM restarts, it is taken down until it is back."""
        self._corrected.discard(uuid)
        self._settle(uuid)

    def _settle(self, uuid: str) -> None:
        if uuid in self._corrected or not self._rule.holds(uuid, _COMMAND):
            return
        channel = self._channels.get(uuid)
        if channel is None or channel.heartbeat.state is not HeartbeatState.RESTARTING:
            self.give_back(uuid, _COMMAND)

    # -- what happens -----------------------------------------------------------------------------

    def recall(self, recollection: Recollection) -> None:
        """Takes the members that an earlier run of the host had, and the places of VIM's events."""
        for member in recollection.members:
            # The groups may have changed since: others may be none now.
            if not self._rule.joined(member.uuid, member.name):
                self._memory.member(member.uuid, None)
        for uuid, event in self._announced.recall(recollection.holds).items():
            self.hold(uuid, event, _ORCHESTRATOR)
        self._is_read = True
        self._note()

    def changed(self, uuid: str) -> None:
        """Takes a change of an instance, its coming or its going."""
        if not self._rule:
            return
        channel = self._channels.get(uuid)
        if channel is not None and not channel.gone:
            domain = self._domains.of(uuid)
            self._joined(uuid, "" if domain is None else domain.name)
        elif uuid in self._rule.members:
            self._left_if_gone(uuid)
        self._settle(uuid)

    def domain_changed(self, domain: Domain) -> None:
        """Takes a change of a domain, whether its instance has a channel or not."""
        if domain.uuid in self._rule.members:
            self.changed(domain.uuid)

    def owner_changed(self, uuid: str) -> None:
        """Takes that an instance has another owner: the VIM's action may have begun or ended."""
        ownership = self._owners.of(uuid)
        event = ownership.event
        if event in TAKING_DOWN:
            self.hold(uuid, Event(event), _ORCHESTRATOR)
            if uuid in self._rule.members:
                self._announced.remember(uuid, event, ownership.lapses_at)
        else:
            self._announced.forget(uuid)
            self.give_back(uuid, _ORCHESTRATOR)

    def forget(self, uuid: str) -> bool:
        """Forgets a member that no longer exists; returns whether it was one without a channel."""
        if uuid in self._channels or not self._rule.left(uuid):
            return False
        self._memory.member(uuid, None)
        self._note()
        return True

    def dismiss(self, uuid: str) -> None:
        """Takes that an instance is not watched any more: it is no member."""
        if self._rule.left(uuid):
            self._memory.member(uuid, None)
            self._note()

    def _joined(self, uuid: str, name: str) -> None:
        was = uuid in self._rule.members
        if self._rule.joined(uuid, name):
            self._memory.member(uuid, MemberRecord(uuid, self._rule.members[uuid]))
        elif was and uuid not in self._rule.members:
            self._memory.member(uuid, None)

    def _left_if_gone(self, uuid: str) -> None:
        domain = self._domains.of(uuid)
        if domain is not None and (not domain.listed or domain.state.words == MIGRATED):
            self.dismiss(uuid)

    def _state_of(self, uuid: str) -> str:
        """What an instance is, as its groups say it; "" if it is available."""
        channel = self._channels.get(uuid)
        if channel is None or channel.gone:
            domain = self._domains.of(uuid)
            is_off = domain is not None and domain.state.standing is Standing.STOPPED
            return "is stopped" if is_off else "is gone"
        if not channel.heartbeating:
            return f"is {channel.heartbeat.state.shown}"
        return "is ill" if channel.heartbeat.health is Health.UNHEALTHY else ""

    def _note(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()
