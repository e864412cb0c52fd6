"""What becomes of a vote or a notice: one verdict, in time, that keeps a reject a reject."""

from __future__ import annotations

import math
from collections import defaultdict
from functools import partial
from typing import Final

from hbtrio.nursery.host.memory import OPEN_S
from hbtrio.simulate.invariant import Excuse, Invariant
from hbtrio.simulate.invariants.excuses import AWAY, OVERRIDDEN, STOPPED_BETWEEN, VIM_AWAY
from hbtrio.simulate.observations import (
    AGENT,
    REJECT,
    VIM,
    Asked,
    Condition,
    Decided,
    Observation,
    Owner,
    Recorded,
    RejectArrived,
    Struck,
    Verdict,
)
from hbtrio.store.recovery import TRY_S

_AGENT: Final = (*AWAY, Condition.DISK_BAD)

_AGENT_AWAY: Final = Excuse(
    "agent-away",
    "the agent or host that was asked was stopped, down or without a disk meanwhile, or the link "
    "between them was cut",
)


_OVERTOOK: Final = Excuse(
    "overtook", "it came on a connection of its own just before the reply to its question"
)


class OneVerdict(Invariant):
    """Every vote and notice that was asked for has a verdict, within its window."""

    name = "one-verdict"
    excuses = (_AGENT_AWAY, VIM_AWAY, STOPPED_BETWEEN, _OVERTOOK)

    def prepare(self) -> None:
        """Creates what is remembered."""
        self._asked: dict[str, Asked] = {}
        self._answered: set[str] = set()
        self._missed: set[str] = set()

    def see(self, observation: Observation) -> None:
        """Judges late verdicts and those without a question, and looks for missing ones."""
        match observation:
            case Asked(request=request, answer_by_s=answer_by_s):
                self._asked[request] = observation
                self.agenda.add(answer_by_s + self.bounds.way_s, partial(self._look, observation))
            case Verdict(request=request) if request not in self._asked:
                self._answered.add(request)
                self.agenda.add(
                    observation.at_s + self.bounds.way_s, partial(self._look_for_question, request)
                )
            case Verdict(request=request):
                self._answered.add(request)
                asked = self._asked[request]
                if (
                    observation.at_s > asked.answer_by_s + self.bounds.way_s
                    and request not in self._missed
                ):
                    self._late(asked)

    def _look_for_question(self, request: str) -> None:
        if request in self._asked:
            self.excuse(_OVERTOOK)
        else:
            self.judge(f"a verdict about {request}, for which nobody asked")

    def _look(self, asked: Asked) -> None:
        if asked.request in self._answered:
            return
        agent_away = self._agent_away(asked)
        vim_away = self._vim_away(asked)
        if not (agent_away or vim_away):
            self._missed.add(asked.request)
        self.judge(
            f"{_words(asked)} has no verdict", (_AGENT_AWAY, agent_away), (VIM_AWAY, vim_away)
        )

    def _late(self, asked: Asked) -> None:
        """Judges a verdict that was due while something was away, and comes now."""
        since_s = self.truth.now_s - self.bounds.crossed_s
        # An operator still waits for a host that goes on; the VIM has gone on by itself.
        away = asked.owner is Owner.OPERATOR and self._agent_away(asked)
        self.judge(
            f"{_words(asked)} has its verdict only now",
            (VIM_AWAY, self._vim_away(asked)),
            (_AGENT_AWAY, away),
            (
                STOPPED_BETWEEN,
                any(
                    self.truth.held_since(since_s, one, Condition.STOPPED)
                    for one in self._deciders(asked)
                ),
            ),
        )

    def _deciders(self, asked: Asked) -> tuple[str, ...]:
        """Who answers: the agent; an operator's host, through the agent if there is one."""
        if asked.owner is Owner.VIM:
            return (AGENT,)
        return AGENT, self.truth.host_of.get(asked.instance, "")

    def _agent_away(self, asked: Asked) -> bool:
        conditions = (*_AGENT, Condition.LINK_DOWN)
        return any(
            self.truth.held_since(asked.at_s, one, *conditions) for one in self._deciders(asked)
        )

    def _vim_away(self, asked: Asked) -> bool:
        away = self.truth.held_since(asked.at_s, VIM, Condition.VIM_AWAY)
        return asked.owner is Owner.VIM and away


def _words(asked: Asked) -> str:
    return (
        f"{asked.request} about {asked.event} of {asked.instance}, due at "
        f"{asked.answer_by_s:.3f} s,"
    )


class VerdictOnce(Invariant):
    """A verdict reaches its requester at most once."""

    name = "verdict-once"

    def prepare(self) -> None:
        """Creates what is remembered."""
        self._seen: dict[str, Verdict] = {}

    def see(self, observation: Observation) -> None:
        """Judges verdicts."""
        if isinstance(observation, Verdict):
            first = self._seen.setdefault(observation.request, observation)
            if first is not observation:
                self.judge(
                    f"{observation.request}: {observation.result}, "
                    f"and {first.result} already at {first.at_s:.3f} s"
                )


_CROSSED: Final = Excuse("crossed", "it arrived while the decision was made")
_DIED: Final = Excuse("died", "the process that it reached has died, and its socket with it")
_NO_DISK: Final = Excuse(
    "no-disk", "it was started while its disk took nothing, and so can't have a link yet"
)


class RejectKept(Invariant):
    """A reject that reached a process is never turned into consent by it."""

    name = "reject-kept"
    excuses = (OVERRIDDEN, _CROSSED, _DIED, _NO_DISK)

    def prepare(self) -> None:
        """Creates what is remembered."""
        self._arrived: dict[tuple[str, str], float] = {}

    def see(self, observation: Observation) -> None:
        """Judges decisions by what had arrived."""
        match observation:
            case RejectArrived(process=process, request=request, at_s=at_s):
                self._arrived.setdefault((process, request), at_s)
            case Decided(process=process, request=request, result=result) if result != REJECT:
                arrived_s = self._arrived.get((process, request))
                if arrived_s is not None:
                    now_s = self.truth.now_s
                    started_s = self.truth.started_s.get(process, -math.inf)
                    self.judge(
                        f"{request}: {process} decides {result}, and the reject has been in its "
                        f"socket for {now_s - arrived_s:.4f} s",
                        (OVERRIDDEN, observation.overridden),
                        (_CROSSED, now_s - arrived_s <= self.bounds.crossed_s),
                        (_DIED, started_s > arrived_s),
                        (_NO_DISK, self._had_no_disk(process, started_s, arrived_s)),
                    )

    def _had_no_disk(self, process: str, started_s: float, arrived_s: float) -> bool:
        """Whether its disk took nothing when it was started, and when the reject came."""
        return all(
            self.truth.held_at(at_s, process, Condition.DISK_BAD) for at_s in (started_s, arrived_s)
        )


class DecidedOnce(Invariant):
    """A process decides a vote or notice once: it never contradicts itself."""

    name = "decided-once"
    excuses = (OVERRIDDEN, _DIED)

    def prepare(self) -> None:
        """Creates what is remembered."""
        self._decided: dict[tuple[str, str], Decided] = {}

    def see(self, observation: Observation) -> None:
        """Judges decisions by those before."""
        if not isinstance(observation, Decided):
            return
        process, request = observation.process, observation.request
        before = self._decided.get((process, request))
        self._decided[process, request] = observation
        if before is not None and (before.result == REJECT) != (observation.result == REJECT):
            started_s = self.truth.started_s.get(process, -math.inf)
            self.judge(
                f"{request}: {process} decides {observation.result}, and decided {before.result} "
                f"at {before.at_s:.3f} s",
                (OVERRIDDEN, observation.overridden),
                (_DIED, started_s > before.at_s),
            )


_HOST_DIED: Final = Excuse(
    "host-died", "a host that is killed may lose what it has not written yet, as documented"
)

_LOST: Final = Excuse("lost", "a power cut took the line before, which was not synced")
_ASKED_AGAIN: Final = Excuse(
    "asked-again", "a host that was restarted resumes the operator's action, and asks again"
)

#: How long after a verdict the history has it, in seconds.
RECORDED_S: Final = 5.0

#: How long after a disk is well again what had waited for it is written, at most, in seconds: a
#: host's store may have to be opened first, and what is left to write tried once more.
_RETRY_S: Final = OPEN_S + 2 * TRY_S


class HistoryAgrees(Invariant):
    """The history says of each vote and notice what was answered, once."""

    name = "history-agrees"
    excuses = (_AGENT_AWAY, _HOST_DIED, _LOST, _ASKED_AGAIN)

    def prepare(self) -> None:
        """Creates what is remembered."""
        #: The hosts that operators asked, by request.
        self._hosts: dict[str, str] = {}
        self._verdicts: dict[str, Verdict] = {}
        self._recorded: defaultdict[str, list[Recorded]] = defaultdict(list)
        #: When a machine lost its power last.
        self._power_cut_s = -math.inf

    def see(self, observation: Observation) -> None:
        """Compares lines of the history with verdicts, whichever comes first."""
        match observation:
            case Asked(request=request, owner=Owner.OPERATOR, instance=instance):
                self._hosts[request] = self.truth.host_of.get(instance, "")
            case Verdict(request=request) if request not in self._verdicts:
                self._verdicts[request] = observation
                for line in self._recorded[request]:
                    self._compare(observation, line)
                self._look_again(observation)
            case Recorded(request=request):
                if lines := self._recorded[request]:
                    self.judge(
                        f"{request}: the history has a second line, {observation.result}",
                        (_LOST, self._power_cut_s > lines[-1].at_s),
                        (_ASKED_AGAIN, self._resumed_since(request, lines[-1].at_s)),
                    )
                lines.append(observation)
                if request in self._verdicts:
                    self._compare(self._verdicts[request], observation)
            case Struck(kind=kind, at_s=at_s) if kind.startswith("cut-power"):
                self._power_cut_s = at_s

    def _compare(self, verdict: Verdict, line: Recorded) -> None:
        if (verdict.result == REJECT) != (line.result == REJECT):
            self.judge(
                f"{verdict.request}: {verdict.result} was answered, and the history has "
                f"{line.result}"
            )

    def _resumed_since(self, request: str, at_s: float) -> bool:
        host = self._hosts.get(request)
        return host is not None and self.truth.started_s.get(host, 0.0) > at_s

    def _look_again(self, verdict: Verdict) -> None:
        self.agenda.add(
            self.truth.now_s + RECORDED_S + self.bounds.late_s, partial(self._missing, verdict)
        )

    def _missing(self, verdict: Verdict) -> None:
        if self._recorded[verdict.request]:
            return
        truth, host = self.truth, self._hosts.get(verdict.request, "")
        since_s = truth.now_s - RECORDED_S
        away = any(
            truth.held_since(since_s, process, *_AGENT, Condition.LINK_DOWN)
            or truth.held_since(since_s - _RETRY_S, process, Condition.DISK_BAD)
            for process in (host, AGENT)
        )
        died = truth.started_s.get(host, 0.0) > verdict.at_s
        self.judge(
            f"{verdict.request}: the history has nothing about it",
            (_AGENT_AWAY, away),
            (_HOST_DIED, died),
        )
        if away:
            self._look_again(verdict)
