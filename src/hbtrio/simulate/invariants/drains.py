"""Drains: no more actions at once than asked for, and nobody who was told is left in doubt."""

from __future__ import annotations

from functools import partial
from typing import Final

from hbtrio.simulate.invariant import Excuse, Invariant
from hbtrio.simulate.invariants.excuses import AWAY
from hbtrio.simulate.invariants.groups import HARMLESS
from hbtrio.simulate.invariants.notices import ARRIVES_S, ENDS, GUEST_AWAY, UNREACHABLE
from hbtrio.simulate.observations import (
    AGENT,
    ActionEnded,
    Began,
    CommandBegan,
    CommandEnded,
    Condition,
    Notified,
    Observation,
    Purpose,
)
from hbtrio.simulate.order_observations import LOST, DrainBegan, DrainEnded

#: For how long before a notice arrived its guest may have been away: a window.
_WINDOW_S: Final = 15.0
_UNLINKED: Final = Excuse(
    "unlinked",
    "the drain is an agent's, and the link of the VM's host was away, or the agent: a host that "
    "does not hear of the drain's end goes on with its action",
)


class DrainBounded(Invariant):
    """A drain acts on no more VMs at once than it may; each it tells has its action or its end."""

    name = "drain-bounded"
    excuses = (GUEST_AWAY, _UNLINKED)

    def prepare(self) -> None:
        """Creates what is remembered."""
        self._drains: dict[str, DrainBegan] = {}
        #: The last notice of each instance that was told by a drain, until it has its end.
        self._told: dict[str, Notified] = {}
        #: The drains of the commands that run, and of each instance told whose command has begun.
        self._running: dict[str, str] = {}
        self._acted: set[str] = set()

    def see(self, observation: Observation) -> None:
        """Counts the commands of each drain, and follows its notices."""
        match observation:
            case DrainBegan(drain=drain):
                self._drains[drain] = observation
            case DrainEnded(drain=drain, outcome=outcome) if outcome != LOST:
                self.agenda.add(self.truth.now_s + ARRIVES_S, partial(self._check, drain))
            case Notified(event=event, instance=instance):
                self._forget(instance)
                if event in ENDS and _drain_of(observation) in self._drains:
                    self._told[instance] = observation
            case CommandBegan(purpose=Purpose.ACTION, name=name, instance=instance):
                # A VM goes on for an operator, and for no drain.
                if instance in self._told and name not in HARMLESS:
                    self._command(observation, _drain_of(self._told[instance]))
            case CommandEnded(command=command):
                self._running.pop(command, None)
            case ActionEnded(action=action):
                self._action_ended(action)
            case Began(condition=Condition.VM_GONE, who=instance):
                self._forget(instance)

    def _forget(self, instance: str) -> None:
        self._told.pop(instance, None)
        self._acted.discard(instance)

    def _action_ended(self, action: str) -> None:
        """Takes the end of an action: a later command on its instance is of another one."""
        for instance, told in list(self._told.items()):
            if told.action == action and instance in self._acted:
                self._forget(instance)

    def _command(self, began: CommandBegan, drain: str) -> None:
        self._acted.add(began.instance)
        running = sum(other == drain for other in self._running.values())
        self._running[began.command] = drain
        most = self._drains[drain].most
        if running >= most:
            self.judge(f"{began.name} of {began.instance} beside {running} more, at most {most}")

    def _check(self, drain: str) -> None:
        for instance, told in list(self._told.items()):
            if _drain_of(told) != drain or instance in self._acted:
                continue
            self._forget(instance)
            since_s = told.at_s - _WINDOW_S
            self.judge(
                f"{instance} was told of {told.event} at {told.at_s:.3f} s by drain {drain}, which "
                "is over",
                (GUEST_AWAY, self.truth.held_since(since_s, instance, *UNREACHABLE)),
                (_UNLINKED, self._is_unlinked(drain, instance, since_s)),
            )

    def _is_unlinked(self, drain: str, instance: str, since_s: float) -> bool:
        host = self.truth.host_of.get(instance, "")
        return self._drains[drain].host == AGENT and any(
            self.truth.held_since(since_s, who, *AWAY, Condition.LINK_DOWN, Condition.DISK_BAD)
            for who in (AGENT, host)
        )


def _drain_of(notified: Notified) -> str:
    return notified.action.partition(" ")[0]
