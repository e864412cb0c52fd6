"""Groups across hosts: an agent lets nobody take more members down than the group permits.

What hbtrio's own actions take down are the VMs on which an operator's action or its command is in
progress, and those on which the VIM acts with the consent that it was given. Two moments are
judged: when a vote passes, and when a command begins.
"""

from __future__ import annotations

from typing import Final

import attrs

from hbtrio.simulate.invariant import Excuse, Invariant
from hbtrio.simulate.invariants.excuses import AWAY
from hbtrio.simulate.invariants.groups import HARMLESS
from hbtrio.simulate.invariants.notices import ENDS
from hbtrio.simulate.invariants.owners import NEXT_STEP_S
from hbtrio.simulate.observations import (
    AGENT,
    REJECT,
    ActionBegan,
    ActionEnded,
    Asked,
    CommandBegan,
    Condition,
    Grouped,
    Notified,
    Observation,
    Owner,
    Placed,
    ProcessStarted,
    Purpose,
    Reported,
    Verdict,
)
from hbtrio.simulate.truth import SILENT_KINDS

#: How long before the answer to a question its vote may have been let through, in seconds: a host
#: waits for one that is open.
_DECIDED_S: Final = 1.5

#: How long before its command begins a host may have asked the agent for an action of its own, in
#: seconds: the longest windows of a vote and a notice, and a moment.
_ACTED_S: Final = 45.0

#: For how long a place is kept at least once the VM was told, in seconds.
_TOLD_S: Final = 200.0

#: The events after which a VM does not come back as one that was started anew.
_FREEZES: Final = frozenset({"pause", "suspend", "live_migrate_begin"})

_UNLINKED: Final = Excuse(
    "unlinked",
    "the agent, the host of a VM that counts, or the link between them was away: a host without a "
    "link acts all the same, and what it does then is not known",
)


@attrs.define
class _ByVim:
    """An action for which the VIM has consent.

    Args:
        instance: the instance.
        began_s: when it began.
        next_s: until when its place is kept.
    """

    instance: str
    began_s: float
    next_s: float


class FleetGroupKept(Invariant):
    """No vote passes and no command begins that takes too many members of an agent's group down."""

    name = "fleet-group-kept"
    excuses = (_UNLINKED,)

    def prepare(self) -> None:
        """Creates what is remembered."""
        self._group: Grouped | None = None
        #: The votes about events that take a VM down, and who counted when each was asked.
        self._votes: dict[str, tuple[Asked, dict[str, float]]] = {}
        #: The last vote of each action of the VIM, and those that have passed.
        self._asked: dict[str, Asked] = {}
        self._passed: set[str] = set()
        #: The VIM's actions that have their places.
        self._by_vim: dict[str, _ByVim] = {}
        #: The operators' actions that take a VM down.
        self._taking: set[str] = set()
        #: Since when the host of each instance has reported that it does not heartbeat.
        self._silent_s: dict[str, float] = {}

    def see(self, observation: Observation) -> None:
        """Judges votes that pass, and commands that begin."""
        match observation:
            case Grouped(host=host) if host == AGENT:
                self._group = observation
            case Placed(instance=instance):
                self._silent_s[instance] = observation.at_s
            case Reported(instance=instance, host=host):
                if host == self.truth.host_of.get(instance):
                    self._report(observation)
            case ProcessStarted(process=process) if process == AGENT:
                self._by_vim.clear()  # it may have forgotten what was accepted and not begun
            case Asked() | Verdict() | Notified():
                self._round(observation)
            case ActionBegan() | ActionEnded() | CommandBegan():
                self._act(observation)

    def _report(self, report: Reported) -> None:
        if report.kind == "heartbeating":
            self._silent_s.pop(report.instance, None)
            ended = [
                action
                for action, one in self._by_vim.items()
                if one.instance == report.instance and self._asked[action].event not in _FREEZES
            ]
            for action in ended:
                del self._by_vim[action]
        elif report.kind in SILENT_KINDS:
            self._silent_s.setdefault(report.instance, report.at_s)

    def _round(self, observation: Observation) -> None:
        match observation:
            case Asked(event=event) if event in ENDS:
                self._ask(observation)
            case Asked(action=action) | Notified(action=action) if action in self._by_vim:
                if observation.event not in ENDS:
                    del self._by_vim[action]
            case Verdict(request=request, result=result) if request in self._votes:
                asked, counted = self._votes.pop(request)
                if result != REJECT:
                    self._pass(asked, counted)

    def _ask(self, asked: Asked) -> None:
        if asked.owner is Owner.OPERATOR:
            self._taking.add(asked.action)
        if asked.vote:
            self._votes[asked.request] = asked, self._others(asked.instance, asked.at_s)
            if asked.owner is Owner.VIM:
                self._asked[asked.action] = asked
        elif (by_vim := self._by_vim.get(asked.action)) is not None:
            by_vim.next_s = asked.at_s + _TOLD_S

    def _pass(self, asked: Asked, counted: dict[str, float]) -> None:
        self._passed.add(asked.request)
        what = f"{asked.request} about {asked.event} of {asked.instance} passes"
        self._judge(what, asked.instance, asked.at_s - _DECIDED_S, counted)

    def _act(self, observation: Observation) -> None:
        match observation:
            case ActionBegan(owner=Owner.VIM, action=action, instance=instance):
                asked = self._asked.get(action)
                started_s = self.truth.started_s.get(AGENT, 0.0)
                if asked and asked.request in self._passed and asked.at_s > started_s:
                    now_s = observation.at_s
                    self._by_vim[action] = _ByVim(instance, now_s, asked.at_s + NEXT_STEP_S)
            case ActionEnded(action=action):
                self._by_vim.pop(action, None)
                self._taking.discard(action)
            case CommandBegan(purpose=Purpose.ACTION, name=name, instance=instance):
                if name not in HARMLESS:
                    since_s = observation.at_s - _ACTED_S
                    counted = self._taken(instance)
                    self._judge(f"{name} of {instance} begins", instance, since_s, counted)

    def _taken(self, but: str) -> dict[str, float]:
        """The other members that are taken down now, and since when."""
        truth, members = self.truth, () if self._group is None else self._group.members
        found: dict[str, float] = {}
        for by_vim in self._by_vim.values():
            if by_vim.next_s > truth.now_s:
                found[by_vim.instance] = by_vim.began_s
        for instance in members:
            begins = [
                one.at_s
                for one in truth.commands[instance]
                if one.purpose is Purpose.ACTION and one.name not in HARMLESS
            ]
            begins += [
                one.began.at_s
                for one in truth.actions(instance)
                if one.began.action in self._taking
            ]
            if begins:
                found[instance] = min(begins)
        return {one: since_s for one, since_s in found.items() if one in members and one != but}

    def _others(self, instance: str, asked_s: float) -> dict[str, float]:
        """The other members that keep an instance from going down, and since when."""
        found = self._taken(instance)
        truth, members = self.truth, () if self._group is None else self._group.members
        heard_s = truth.heard_s.get(instance, asked_s)
        if instance in self._silent_s or heard_s > asked_s - _DECIDED_S:
            return found  # it may be down itself: that makes nothing worse
        silent = {
            one: since_s
            for one, since_s in self._silent_s.items()
            if one in members and one != instance and since_s < asked_s - _DECIDED_S
        }
        return silent | found

    def _judge(self, what: str, instance: str, since_s: float, counted: dict[str, float]) -> None:
        group = self._group
        if group is None or instance not in group.members or len(counted) < group.most:
            return
        truth = self.truth
        began_s = min([since_s, *counted.values()]) - _DECIDED_S
        hosts = (truth.host_of.get(one, "") for one in (instance, *counted))
        unlinked = any(
            truth.held_since(began_s, who, *AWAY, Condition.DISK_BAD, Condition.LINK_DOWN)
            for who in (AGENT, *hosts)
        )
        down = ", ".join(f"{one} since {since_s:.3f} s" for one, since_s in counted.items())
        self.judge(f"{what} while others are down: {down}", (_UNLINKED, unlinked))
