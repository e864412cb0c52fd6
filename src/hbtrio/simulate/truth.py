"""Knows what is the case in a fleet: folds observations into the state that invariants ask for."""

from __future__ import annotations

from collections import defaultdict
from typing import Final

import attrs

from hbtrio.simulate.observations import (
    ActionBegan,
    ActionEnded,
    Asked,
    Began,
    CommandBegan,
    CommandEnded,
    Condition,
    Notified,
    Observation,
    Over,
    Placed,
    ProcessStarted,
    Purpose,
    Reported,
)
from hbtrio.simulate.order_observations import HoldEnded, HoldSet


class Contradiction(Exception):
    """The observations can't be true together: whoever observes is at fault, not the fleet."""


@attrs.define
class _Span:
    """When a condition was so; overlapping ones are one."""

    began_s: float
    over_s: float | None = None
    depth: int = 1


@attrs.define
class Action:
    """An action in progress: how it began, and when its last step was."""

    began: ActionBegan
    step_s: float


#: What a host reports of an instance that does not heartbeat.
SILENT_KINDS: Final = frozenset({"stopped", "loss", "paused", "absent", "unwatched"})


class Truth:
    """The state of a fleet at ``now_s``, in seconds from the start of the run."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.host_of: dict[str, str] = {}
        #: When each process was started last.
        self.started_s: dict[str, float] = {}
        #: The commands that run, by instance.
        self.commands: defaultdict[str, list[CommandBegan]] = defaultdict(list)
        self._spans: defaultdict[tuple[Condition, str], list[_Span]] = defaultdict(list)
        #: Pairs of instance and host of which the host has last said that it heartbeats.
        self._heartbeating: set[tuple[str, str]] = set()
        #: When each instance was last reported to heartbeat again.
        self.heard_s: dict[str, float] = {}
        self._actions: dict[str, Action] = {}
        #: When the last action on each instance, or its command, has ended.
        self.acted_s: dict[str, float] = {}
        #: Until when the last hold on each instance was to be.
        self.held_until_s: dict[str, float] = {}

    def see(self, observation: Observation) -> None:
        """Takes in what happened.

        Raises:
            Contradiction: it is earlier than the one before, or ends what has not begun.
        """
        if observation.at_s < self.now_s:
            raise Contradiction(f"{observation}: the time is {self.now_s:.4f} already")
        self.now_s = observation.at_s
        match observation:
            case Began():
                self._begin(observation)
            case Over():
                self._end(observation)
            case Placed():
                self.host_of[observation.instance] = observation.host
            case ProcessStarted():
                self.started_s[observation.process] = observation.at_s
            case Reported(kind="heartbeating", instance=instance, host=host):
                self._heartbeating.add((instance, host))
                self.heard_s[instance] = observation.at_s
            case Reported(instance=instance, host=host) if observation.kind in SILENT_KINDS:
                self._heartbeating.discard((instance, host))
            case CommandBegan():
                self.commands[observation.instance].append(observation)
            case CommandEnded():
                self._end_command(observation)
            case ActionBegan():
                self._actions[observation.action] = Action(observation, observation.at_s)
            case ActionEnded(action=action) if action in self._actions:
                ended = self._actions.pop(action)
                self.acted_s[ended.began.instance] = observation.at_s
            case HoldSet(instance=instance):
                self.held_until_s[instance] = observation.until_s
            case HoldEnded(instance=instance, certain=True):
                self.held_until_s[instance] = observation.at_s
            case Asked() | Notified() if observation.action in self._actions:
                self._actions[observation.action].step_s = observation.at_s

    # -- conditions --------------------------------------------------------------------------

    def holds(self, who: str, *conditions: Condition) -> bool:
        """Whether one of the conditions is so now."""
        return self.held_since(self.now_s, who, *conditions, ended=False)

    def held_since(
        self, since_s: float, who: str, *conditions: Condition, ended: bool = True
    ) -> bool:
        """Whether one of the conditions is so, or, if ``ended``, was so at ``since_s`` or later."""
        for condition in conditions:
            spans = self._spans.get((condition, who))
            if spans and (spans[-1].over_s is None or (ended and spans[-1].over_s >= since_s)):
                return True
        return False

    def held_at(self, at_s: float, who: str, *conditions: Condition) -> bool:
        """Whether one of the conditions was so at ``at_s``, its ends included."""
        return any(
            span.began_s <= at_s and (span.over_s is None or at_s <= span.over_s)
            for condition in conditions
            for span in self._spans.get((condition, who), ())
        )

    def began_s(self, who: str, *conditions: Condition) -> float | None:
        """When the first of the conditions that are so now began; None if none is."""
        spans = [spans[-1] for c in conditions if (spans := self._spans.get((c, who)))]
        return min((span.began_s for span in spans if span.over_s is None), default=None)

    def lasted_s(self, since_s: float, who: str, *conditions: Condition) -> float:
        """For how long the conditions have been so since then, each counted, in seconds."""
        spans = [span for c in conditions for span in self._spans.get((c, who), ())]
        ends = [self.now_s if span.over_s is None else span.over_s for span in spans]
        return sum(
            max(0.0, end - max(span.began_s, since_s))
            for span, end in zip(spans, ends, strict=True)
        )

    def _begin(self, began: Began) -> None:
        spans = self._spans[began.condition, began.who]
        if spans and spans[-1].over_s is None:
            spans[-1].depth += 1
        else:
            spans.append(_Span(began.at_s))

    def _end(self, over: Over) -> None:
        spans = self._spans[over.condition, over.who]
        if not spans or spans[-1].over_s is not None:
            raise Contradiction(f"{over}: it has not begun")
        spans[-1].depth -= 1
        if not spans[-1].depth:
            spans[-1].over_s = over.at_s

    # -- instances ---------------------------------------------------------------------------

    def heartbeats(self, instance: str) -> bool:
        """Whether the host that it is on has last reported that it heartbeats."""
        return (instance, self.host_of.get(instance)) in self._heartbeating

    def actions(self, instance: str) -> list[Action]:
        """The actions on an instance that are in progress, the oldest first."""
        return [action for action in self._actions.values() if action.began.instance == instance]

    def _end_command(self, ended: CommandEnded) -> None:
        for commands in self.commands.values():
            for command in commands:
                if command.command == ended.command:
                    commands.remove(command)
                    if command.purpose is Purpose.ACTION:
                        self.acted_s[command.instance] = ended.at_s
                    return
        raise Contradiction(f"{ended}: it has not begun")
