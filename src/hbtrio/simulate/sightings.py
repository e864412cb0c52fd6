"""Counts what a campaign has to have seen to have proved anything.

A run without a violation says nothing about a situation that never came up. So each situation that
an invariant is there for is counted, and a campaign in which one has not been seen says so.
"""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from typing import Final

from hbtrio.simulate.invariants.acting import FAILED
from hbtrio.simulate.observations import (
    AGENT,
    VIM,
    ActionBegan,
    ActionEnded,
    Asked,
    Began,
    CommandBegan,
    CommandEnded,
    Condition,
    Decided,
    Observation,
    Owner,
    ProcessStarted,
    Purpose,
    Recorded,
    RejectArrived,
    Reported,
    Struck,
    Verdict,
)
from hbtrio.simulate.order_observations import LOST, DrainBegan, DrainEnded, Refused
from hbtrio.simulate.truth import Truth

#: How long before the end of a window is late, in seconds.
LATE_S: Final = 0.25


class Sighting(StrEnum):
    """A situation; the value is what was seen, in plain words."""

    LATE_VERDICT = "a verdict within the last 250 ms of its window"
    REJECT_AT_STOPPED = "a reject that arrived at a stopped process"
    DEATH_IN_VOTE = "a daemon that died while a vote was open"
    POWER_CUT_IN_VOTE = "a power cut while a vote was open"
    VERDICT_PAST_VIM = "a verdict although the VIM was away in its window"
    EXPIRED = "a command that came too late, and was refused"
    OVERRIDDEN = "a reject that somebody decided over"
    LOSS_WITHOUT_LINK = "a loss while the link was down"
    LOSS_AFTER_RESTART = "a VM that hung before its host's daemon was started, and was reported"
    TAKEOVER = "an action that outlived a restart of the agent"
    TAKEN_FROM_VIM = "an operator who took an instance from the VIM"
    RETRIED = "a corrective command that failed and was run again"
    PAUSED = "a corrective command that was not run: the VM was paused"
    OWNED = "a corrective command that was not run: somebody owned the instance"
    BRAKE = "a corrective command that was not run: too many VMs had failed"
    LIBVIRT_SILENT = "a corrective command that was not run: libvirt did not answer"
    HELD = "a corrective command that was not run: the VM was on hold"
    GROUP = "a corrective command that was not run: its group forbade it"
    FLEET_GROUP = "a vote that a group with members on several hosts rejected"
    DRAIN_OUTLIVED = "a drain that outlived a restart of its host"


#: The causes of ``not-acted`` that are sightings. ``paused`` hardly ever is one: each answer of
#: libvirt first ends the correction of an instance that it calls paused, see :meth:`_see_report`.
_CAUSES: Final = {
    "paused": Sighting.PAUSED,
    "owner": Sighting.OWNED,
    "brake": Sighting.BRAKE,
    "libvirt-silent": Sighting.LIBVIRT_SILENT,
    "hold": Sighting.HELD,
    "group": Sighting.GROUP,
}


class SightingCounter:
    """Counts the sightings of one run.

    Args:
        truth: takes in each observation before this does.
        corrects: whether the hosts correct losses themselves, without an agent.
    """

    def __init__(self, truth: Truth, *, corrects: bool = False) -> None:
        self.counts: Counter[Sighting] = Counter()
        self._truth = truth
        self._corrects = corrects
        #: The lost instances of which nothing else was reported, and to which nothing was done.
        self._uncorrected: set[str] = set()
        self._open: dict[str, Asked] = {}
        #: Since when the VMs hang that are not reported yet.
        self._hung_s: dict[str, float] = {}
        self._actions: set[str] = set()
        self._outlived: set[str] = set()
        self._commands: dict[str, str] = {}
        self._failed: set[str] = set()
        self._drains: dict[str, DrainBegan] = {}

    def see(self, observation: Observation) -> None:
        """Looks at an observation."""
        match observation:
            case Asked() | Verdict() | RejectArrived() | Decided() | Struck():
                self._see_vote(observation)
            case ActionBegan() | ActionEnded() | ProcessStarted():
                self._see_action(observation)
            case CommandBegan() | CommandEnded():
                self._see_command(observation)
            case DrainBegan() | DrainEnded():
                self._see_drain(observation)
            case Refused():
                self._count(Sighting.EXPIRED)
            case Recorded(by_group=True):
                self._count(Sighting.FLEET_GROUP)
            case Began(condition=Condition.DOWN):
                self._count(Sighting.DEATH_IN_VOTE, when=self._vote_is_open)
            case Began(condition=Condition.VM_HUNG, who=instance):
                self._hung_s[instance] = observation.at_s
            case Reported():
                self._see_report(observation)

    def _count(self, sighting: Sighting, *, when: bool = True) -> None:
        if when:
            self.counts[sighting] += 1

    @property
    def _vote_is_open(self) -> bool:
        now_s = self._truth.now_s
        return any(asked.vote and asked.answer_by_s >= now_s for asked in self._open.values())

    def _see_vote(self, observation: Observation) -> None:
        truth = self._truth
        match observation:
            case Asked(request=request):
                self._open[request] = observation
            case Verdict(request=request) if request in self._open:
                asked = self._open.pop(request)
                before_end_s = asked.answer_by_s - observation.at_s
                self._count(Sighting.LATE_VERDICT, when=0 <= before_end_s <= LATE_S)
                away = truth.held_since(asked.at_s, VIM, Condition.VIM_AWAY)
                self._count(Sighting.VERDICT_PAST_VIM, when=away)
            case RejectArrived(process=process):
                stopped = truth.holds(process, Condition.STOPPED)
                self._count(Sighting.REJECT_AT_STOPPED, when=stopped)
            case Decided(overridden=True):
                self._count(Sighting.OVERRIDDEN)
            case Struck(kind=kind) if kind.startswith("cut-power"):
                self._count(Sighting.POWER_CUT_IN_VOTE, when=self._vote_is_open)

    def _see_action(self, observation: Observation) -> None:
        match observation:
            case ActionBegan(action=action, owner=Owner.OPERATOR, instance=instance):
                owners = {other.began.owner for other in self._truth.actions(instance)}
                self._count(Sighting.TAKEN_FROM_VIM, when=Owner.VIM in owners)
                self._actions.add(action)
            case ActionBegan(action=action):
                self._actions.add(action)
            case ActionEnded(action=action):
                self._count(Sighting.TAKEOVER, when=action in self._outlived)
                self._actions.discard(action)
                self._outlived.discard(action)
            case ProcessStarted(process=process) if process == AGENT:
                self._outlived |= self._actions

    def _see_command(self, observation: Observation) -> None:
        match observation:
            case CommandBegan(purpose=Purpose.CORRECTIVE, command=command, instance=instance):
                self._count(Sighting.RETRIED, when=instance in self._failed)
                self._failed.discard(instance)
                self._uncorrected.discard(instance)
                self._commands[command] = instance
            case CommandEnded(command=command, outcome=outcome) if outcome in FAILED:
                if command in self._commands:
                    self._failed.add(self._commands[command])

    def _see_drain(self, observation: Observation) -> None:
        match observation:
            case DrainBegan(drain=drain):
                self._drains[drain] = observation
            case DrainEnded(drain=drain, outcome=outcome) if drain in self._drains:
                began = self._drains.pop(drain)
                outlived = self._truth.started_s.get(began.host, 0.0) > began.at_s
                self._count(Sighting.DRAIN_OUTLIVED, when=outlived and outcome != LOST)

    def _see_report(self, report: Reported) -> None:
        waits = report.instance in self._uncorrected
        self._uncorrected.discard(report.instance)
        match report.kind:
            case "loss":
                self._see_loss(report)
                if self._corrects:
                    self._uncorrected.add(report.instance)
            case "paused":
                # What libvirt is asked before a command says so; that ends the correction.
                self._count(Sighting.PAUSED, when=waits)
            case "not-acted" if report.cause in _CAUSES:
                self._count(_CAUSES[report.cause])

    def _see_loss(self, loss: Reported) -> None:
        truth = self._truth
        self._count(Sighting.LOSS_WITHOUT_LINK, when=truth.holds(loss.host, Condition.LINK_DOWN))
        hung_s = self._hung_s.pop(loss.instance, None)
        if hung_s is not None:
            after = truth.started_s.get(loss.host, hung_s) > hung_s
            self._count(Sighting.LOSS_AFTER_RESTART, when=after)
