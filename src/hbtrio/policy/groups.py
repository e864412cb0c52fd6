"""Decides whether a member of a group may go down: the one place that does.

A member is available while it is heartbeating and healthy, and none of our own actions is taking it
down. An action takes its *place* in one step with the decision, before it begins, and gives it back
once it has ended or was called off. So two actions at one moment can't both have the last place.

- A member that is available may go down if no more than the permitted number is unavailable then.
- One that is unavailable already does not make it worse: only those are counted that our own
  actions take down.
- A corrective action waits only for those, and for members that were lost before; at least one
  corrective action of a group may run.

An instance in several groups must satisfy the rules of all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import attrs

from hbtrio.policy.group_rule import Group
from hbtrio.wire.vocabulary import EVENT_TABLE, CorrectiveAction, Event

#: What a member does while the event is in progress. Events that are not listed take nothing down.
TAKING_DOWN: Final[Mapping[Event, str]] = {
    Event.STOP: "is stopping",
    Event.REBOOT: "is restarting",
    Event.PAUSE: "is being paused",
    Event.SUSPEND: "is being suspended",
    Event.RESIZE_BEGIN: "is being resized",
    Event.LIVE_MIGRATE_BEGIN: "is being migrated",
    Event.COLD_MIGRATE_BEGIN: "is being migrated",
}
assert set(TAKING_DOWN) == {event for event, rule in EVENT_TABLE.items() if rule.voted}

#: The same for a corrective action. Others do nothing to a VM.
CORRECTING: Final[Mapping[CorrectiveAction, str]] = {
    CorrectiveAction.REBOOT: "is restarting",
    CorrectiveAction.STOP: "is stopping",
}


@attrs.frozen
class Unavailable:
    """A member that is unavailable, and what it is or does: ``is lost``."""

    uuid: str
    name: str
    words: str


@attrs.frozen
class GroupPicture:
    """A group at one moment.

    Args:
        group: its rule.
        total: the number of its members.
        unavailable: those that are.
    """

    group: Group
    total: int
    unavailable: tuple[Unavailable, ...]

    @property
    def available(self) -> int:
        """How many members are available."""
        return self.total - len(self.unavailable)

    @property
    def allowed(self) -> int:
        """How many members may be unavailable."""
        return self.group.allowed(self.total)

    @property
    def allowed_now(self) -> int:
        """How many more members may go down now."""
        return max(0, self.allowed - len(self.unavailable))


class Groups:
    """The groups of a host or fleet, their members, and who takes which of them down.

    Args:
        groups: as they are configured.
        state_of: returns what an instance is, in words that follow its name, such as ``is lost``;
            "" while it is heartbeating and healthy.
    """

    def __init__(self, groups: Iterable[Group], state_of: Callable[[str], str]) -> None:
        self.groups = tuple(groups)
        self._state_of = state_of
        #: The names of all instances that are a member of some group, by uuid.
        self.members: dict[str, str] = {}
        self._of: dict[str, tuple[Group, ...]] = {}
        self._by_group: dict[str, dict[str, None]] = {group.name: {} for group in self.groups}
        #: What each instance does, by who takes it down.
        self._places: dict[str, dict[str, str]] = {}
        #: Since when those are lost whose corrective action waits.
        self._waiting: dict[str, float] = {}

    def __bool__(self) -> bool:
        return bool(self.groups)

    # -- members --------------------------------------------------------------------------------

    def joined(self, uuid: str, name: str) -> bool:
        """Takes an instance that was seen, and its name; returns whether it is a member anew.

        It stays one until :meth:`left`, whatever becomes of it. A name that is unknown now, "",
        does not replace the one that was known.
        """
        name = name or self.members.get(uuid, "")
        if self.members.get(uuid) == name and uuid in self._of:
            return False
        found = tuple(group for group in self.groups if group.has(uuid, name))
        self.left(uuid)
        if not found:
            return False
        self.members[uuid], self._of[uuid] = name, found
        for group in found:
            self._by_group[group.name][uuid] = None
        return True

    def left(self, uuid: str) -> bool:
        """Takes that an instance no longer exists here; returns whether it was a member."""
        for group in self._of.pop(uuid, ()):
            del self._by_group[group.name][uuid]
        return self.members.pop(uuid, None) is not None

    def groups_of(self, uuid: str) -> tuple[Group, ...]:
        """Returns the groups of an instance."""
        return self._of.get(uuid, ())

    def name_of(self, uuid: str) -> str:
        """Returns the name of an instance's first group; "" if it has none."""
        return next((group.name for group in self.groups_of(uuid)), "")

    def in_group(self, name: str) -> frozenset[str]:
        """Returns the members of a group.

        Raises:
            KeyError: there is no such group.
        """
        return frozenset(self._by_group[name])

    # -- the decision ---------------------------------------------------------------------------

    def refusal(self, uuid: str) -> str:
        """Returns why an instance must not go down now, through an action; "" if it may."""
        is_down = bool(self._words(uuid))
        for group in self.groups_of(uuid):
            others = [one for one in self._by_group[group.name] if one != uuid]
            counted = [
                one for one in others if (self._places.get(one) if is_down else self._words(one))
            ]
            if len(counted) >= group.allowed(len(others) + 1):
                return self._refused(group, counted)
        return ""

    def take(self, uuid: str, holder: str, words: str) -> str:
        """Takes an instance's place if it may go down; returns why it must not, else "".

        Args:
            uuid: the instance.
            holder: who takes it down; has at most one place of an instance.
            words: what the instance does then: ``is restarting``.
        """
        if not (refusal := self.refusal(uuid)):
            self.hold(uuid, holder, words)
        return refusal

    def hold(self, uuid: str, holder: str, words: str) -> None:
        """Takes an instance's place, whatever the rules say: it goes down in any case."""
        if self.groups:
            self._places.setdefault(uuid, {})[holder] = words

    def give_back(self, uuid: str, holder: str) -> bool:
        """Gives a place back: the action has ended or was called off; returns whether it was taken.

        From then on the instance's own state says whether it is available.
        """
        places = self._places.get(uuid, {})
        was_taken = places.pop(holder, None) is not None
        if was_taken and not places:
            del self._places[uuid]
        return was_taken

    def holds(self, uuid: str, holder: str) -> bool:
        """Returns whether a place is taken."""
        return holder in self._places.get(uuid, {})

    @property
    def going_down(self) -> frozenset[str]:
        """The instances that our own actions take down."""
        return frozenset(self._places)

    # -- corrective actions ---------------------------------------------------------------------

    def hindrance(self, uuid: str, lost_at: float, waited_s: float = 0.0) -> str:
        """Returns why a corrective action has to wait; "" if it need not.

        Args:
            uuid: the failed instance.
            lost_at: when it failed, on any one clock: of several the oldest goes first.
            waited_s: for how long it has waited for its groups, in seconds.
        """
        before = (lost_at, uuid)
        for group in self.groups_of(uuid):
            if waited_s >= group.max_delay_s:
                continue
            others = [one for one in self._by_group[group.name] if one != uuid]
            counted = [
                one
                for one in others
                if one in self._places or (self._waiting.get(one, math.inf), one) < before
            ]
            if len(counted) >= max(1, group.allowed(len(others) + 1)):
                return self._refused(group, counted)
        return ""

    def waits(self, uuid: str, lost_at: float) -> None:
        """Takes that a corrective action waits for a group: those that were lost later wait too."""
        self._waiting[uuid] = lost_at

    def waits_no_more(self, uuid: str) -> bool:
        """Takes that it waits no more; returns whether it did."""
        return self._waiting.pop(uuid, None) is not None

    def next_delay_s(self, uuid: str, waited_s: float) -> float:
        """Returns in how many seconds the next group of an instance is waited for no longer."""
        left = (group.max_delay_s - waited_s for group in self.groups_of(uuid))
        return min((one for one in left if one > 0), default=0.0)

    # -- for people -----------------------------------------------------------------------------

    def pictures(self) -> tuple[GroupPicture, ...]:
        """Returns all groups as they are now, in the order of the configuration."""
        return tuple(self.picture(group) for group in self.groups)

    def picture(self, group: Group) -> GroupPicture:
        """Returns a group as it is now."""
        members = self._by_group[group.name]
        named = sorted((self.members[uuid] or uuid, uuid) for uuid in members)
        unavailable = tuple(
            Unavailable(uuid, name, words) for name, uuid in named if (words := self._words(uuid))
        )
        return GroupPicture(group, len(members), unavailable)

    def _words(self, uuid: str) -> str:
        """What an instance is or does; "" if it is available."""
        places = self._places.get(uuid)
        return next(iter(places.values())) if places else self._state_of(uuid)

    def _refused(self, group: Group, counted: Iterable[str]) -> str:
        named = sorted((self.members[uuid] or uuid, self._words(uuid)) for uuid in counted)
        return group.refusal(named, len(self._by_group[group.name]))
