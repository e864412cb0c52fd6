"""When a guest is told of an event: not after its reject, and never without an end."""

from __future__ import annotations

import math
from functools import partial
from typing import Final

import attrs

from hbtrio.simulate.invariant import Excuse, Invariant
from hbtrio.simulate.invariants.excuses import AWAY, HOST_AWAY, OVERRIDDEN, VIM_AWAY
from hbtrio.simulate.observations import (
    AGENT,
    REJECT,
    VIM,
    ActionBegan,
    ActionEnded,
    Asked,
    Began,
    Condition,
    Decided,
    Notified,
    Observation,
    Owner,
    Recorded,
    Reported,
    Verdict,
)

#: The end notices of each event that is announced: of what has happened, or of what will not.
ENDS: Final = {
    "stop": frozenset({"resume"}),
    "reboot": frozenset({"resume"}),
    "pause": frozenset({"unpause"}),
    "suspend": frozenset({"resume"}),
    "resize_begin": frozenset({"resize_end"}),
    "live_migrate_begin": frozenset({"live_migrate_end"}),
    "cold_migrate_begin": frozenset({"cold_migrate_end"}),
}

#: Within how long after an operator's action its last notice has arrived, in seconds.
ARRIVES_S: Final = 1.0

_MIGRATIONS: Final = frozenset({"live_migrate_begin", "cold_migrate_begin"})


_GONE_ON: Final = Excuse(
    "gone-on", "the VIM was away, and had gone on without the verdict when that arrived"
)


class NoNoticeAfterReject(Invariant):
    """No guest is told of an event whose vote was rejected."""

    name = "no-notice-after-reject"
    excuses = (OVERRIDDEN, _GONE_ON)

    def prepare(self) -> None:
        """Creates what is remembered."""
        self._votes: dict[str, Asked] = {}
        #: When the vote of an action was rejected, and the request.
        self._rejected: dict[str, Verdict] = {}
        self._overridden: set[str] = set()
        #: When a reject of each instance was overridden last, as its host says: one that a plan has
        #: asked for is of no request.
        self._overridden_s: dict[str, float] = {}

    def see(self, observation: Observation) -> None:
        """Judges notices by the votes of their actions."""
        match observation:
            case Asked(vote=True):
                self._votes[observation.request] = observation
            case Verdict(request=request) if request in self._votes:
                action = self._votes[request].action
                if observation.result == REJECT:
                    self._rejected[action] = observation
                else:  # asked again, and accepted
                    self._rejected.pop(action, None)
            case (
                Decided(overridden=True, request=request)
                | Recorded(overridden=True, request=request)
            ):
                self._overridden.add(request)
            case Reported(kind="overridden", instance=instance, at_s=at_s):
                self._overridden_s[instance] = at_s
            case Notified(event=event, action=action) if event in ENDS:
                if (rejected := self._rejected.get(action)) is not None:
                    self.judge(
                        f"{observation.instance} is told of {event}, and rejected it at "
                        f"{rejected.at_s:.3f} s",
                        (OVERRIDDEN, self._was_overridden(observation.instance, rejected)),
                        (_GONE_ON, self._had_gone_on(rejected)),
                    )

    def _was_overridden(self, instance: str, rejected: Verdict) -> bool:
        overridden_s = self._overridden_s.get(instance, -math.inf)
        return rejected.request in self._overridden or overridden_s >= rejected.at_s

    def _had_gone_on(self, rejected: Verdict) -> bool:
        asked = self._votes[rejected.request]
        away = self.truth.held_since(asked.at_s, VIM, Condition.VIM_AWAY)
        return away and rejected.at_s > asked.answer_by_s


GUEST_AWAY: Final = Excuse(
    "guest-away", "the guest that was told is no more, or can't be reached now"
)

#: A guest that is so, or was so since, knows nothing of the notice or can't be told of its end.
UNREACHABLE: Final = (
    Condition.GUEST_DOWN,
    Condition.GUEST_STOPPED,
    Condition.VM_HUNG,
    Condition.VM_GONE,
    Condition.VM_PAUSED,
    Condition.CHANNEL_DISTURBED,
)


#: A guest that is so when the end is sent does not take it.
_DEAF: Final = (Condition.VM_STALLED, Condition.GUEST_LYING)


@attrs.frozen
class _Open:
    notified: Notified
    due_s: float


_BOTH: Final = Excuse(
    "both", "the VIM went on with its action on the VM, which an operator had taken from it"
)


class NoticeEnded(Invariant):
    """Every notice of an event is followed by its end, by its cancellation or by it."""

    name = "notice-ended"
    excuses = (GUEST_AWAY, VIM_AWAY, _BOTH, HOST_AWAY)

    def prepare(self) -> None:
        """Creates what is remembered."""
        self._open: dict[str, _Open] = {}
        #: The actions of operators that are in progress: their hosts send all notices themselves.
        self._by_operators: set[str] = set()
        #: All actions of operators that were ever in progress.
        self._of_operators: set[str] = set()
        #: The instances of the VIM's actions in progress, and when the last on each has ended.
        self._by_vim: dict[str, str] = {}
        self._vim_ended_s: dict[str, float] = {}
        #: When each action of an operator has ended.
        self._ended_s: dict[str, float] = {}

    def see(self, observation: Observation) -> None:
        """Follows each notice to its end."""
        match observation:
            case Notified(event=event, instance=instance) if event in ENDS:
                bounds = self.bounds
                lasts_s = bounds.call_off_s
                if event in _MIGRATIONS:
                    lasts_s = bounds.migration_call_off_s
                opened = _Open(observation, observation.at_s + lasts_s)
                self._open[instance] = opened
                self.agenda.add(opened.due_s, partial(self._check, opened))
            case Notified(event=event, instance=instance):
                opened_now = self._open.get(instance)
                if opened_now is not None and event in ENDS[opened_now.notified.event]:
                    del self._open[instance]
            case Began(condition=Condition.VM_GONE, who=instance):
                self._open.pop(instance, None)  # it has happened
            case ActionBegan(owner=Owner.OPERATOR, action=action):
                self._by_operators.add(action)
                self._of_operators.add(action)
            case ActionBegan(action=action, instance=instance):
                self._by_vim[action] = instance
            case ActionEnded(action=action) if action in self._by_vim:
                self._vim_ended_s[self._by_vim.pop(action)] = observation.at_s
            case ActionEnded(action=action) if action in self._by_operators:
                self._by_operators.discard(action)
                self._action_ended(action)

    def _action_ended(self, action: str) -> None:
        """Looks soon at the notice of an action that its host has ended."""
        self._ended_s[action] = self.truth.now_s
        for opened in self._open.values():
            if opened.notified.action == action:
                self.agenda.add(self.truth.now_s + ARRIVES_S, partial(self._check_soon, opened))

    def _check_soon(self, opened: _Open) -> None:
        """Checks at once what a host that was there all the time has called off, or has not.

        One that operators reach through an agent goes on without them if that is away.
        """
        since_s, instance = opened.notified.at_s, opened.notified.instance
        host = self.truth.host_of[instance]
        if not (
            self.truth.held_since(since_s, instance, *UNREACHABLE)
            or self.truth.held_since(since_s, host, *AWAY, Condition.LINK_DOWN)
            or self.truth.held_since(since_s, AGENT, *AWAY, Condition.DISK_BAD)
        ):
            self._check(opened)

    def _check(self, opened: _Open) -> None:
        notified = opened.notified
        if self._open.get(notified.instance) is opened:
            del self._open[notified.instance]
            since_s, instance = notified.at_s, notified.instance
            self.judge(
                f"{instance} was told of {notified.event} at {since_s:.3f} s, and of no end",
                (GUEST_AWAY, self._was_guest_away(notified)),
                (VIM_AWAY, self.truth.held_since(since_s, VIM, Condition.VIM_AWAY)),
                (_BOTH, self._was_both(notified)),
                (HOST_AWAY, self._was_host_away(notified)),
            )

    def _was_guest_away(self, notified: Notified) -> bool:
        """Whether the guest was away, or could not take the end when that was to be sent."""
        held_since, instance = self.truth.held_since, notified.instance
        sent_s = self._ended_s.get(notified.action, math.inf) - ARRIVES_S
        return held_since(notified.at_s, instance, *UNREACHABLE) or (
            sent_s < math.inf and held_since(sent_s, instance, *_DEAF)
        )

    def _was_host_away(self, notified: Notified) -> bool:
        """Whether the host was stopped when it was to end what it had announced for an action.

        Meanwhile the guest, which hears no challenge, has closed the channel, and the end with it.
        """
        ended_s = self._ended_s.get(notified.action, math.inf)
        host = self.truth.host_of.get(notified.instance, "")
        return ended_s < math.inf and self.truth.held_since(ended_s - ARRIVES_S, host, *AWAY)

    def _was_both(self, notified: Notified) -> bool:
        """Whether the VIM acted on an instance, too, since an operator's action had it told.

        One that is not known is an operator's: a drain's, which was heard of after its notice.
        """
        instance = notified.instance
        since_s = self._vim_ended_s.get(instance, -math.inf)
        by_operator = not notified.action or notified.action in self._of_operators
        return by_operator and (instance in self._by_vim.values() or since_s >= notified.at_s)
