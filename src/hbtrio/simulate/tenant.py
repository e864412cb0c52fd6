"""Simulates what runs in a VM: an application with an opinion, which takes its time.

Half of its answers come at once, some late in the window, a few in its last moment, few never. In a
scenario it answers at once, and always the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

import trio

from hbtrio.nursery.windows import Abstention, Answer, BallotWindow, Handler
from hbtrio.policy.health_merge import HealthStatus
from hbtrio.policy.voter_news import KnownVoter
from hbtrio.simulate.observations import Decided, Observation, RejectArrived
from hbtrio.simulate.process import Process, Waiters
from hbtrio.simulate.scenario import Scenario
from hbtrio.wire.channel_messages import ActionNotify
from hbtrio.wire.vocabulary import CorrectiveAction, NotificationType, VoteResult

_NAME: Final = "app"

#: The share of votes that it rejects; if its answer takes long, that is more likely.
_REJECTS: Final = 0.3
_LATE_REJECTS: Final = 0.6

#: From when on an answer takes long, as a share of the window.
_LATE: Final = 0.3

#: The shares of answers at once, within the window, and within its last moment; the rest is never.
_AT_ONCE, _WITHIN, _LAST = 0.5, 0.8, 0.97

#: How much before its window's end a late answer comes, in seconds, at most.
_LAST_MOMENT_S: Final = 0.4

_SOON_S: Final = 0.05

#: Between two looks whether a paused VM runs again, in seconds.
_LOOK_S: Final = 0.05


class Tenant:
    """The application; see :class:`~hbtrio.nursery.guest.voters.Voters`.

    Args:
        name: of its VM.
        process: the guest daemon that asks it. The application itself goes on while that is
            stopped, as long as the VM runs.
        is_ill: whether it reports ill health.
        told: called with each notice's event, when it reaches the application.
        request_of: finds the request of a vote by its event and the host's id; "" if there is none.
        observe: called with its rejects when they reach the daemon, and with what becomes of them.
        scenario: what happens; None: anything.
    """

    def __init__(
        self,
        name: str,
        process: Process,
        *,
        is_ill: Callable[[], bool],
        told: Callable[[str], None],
        request_of: Callable[[str, int], str],
        observe: Callable[[Observation], None],
        scenario: Scenario | None,
    ) -> None:
        self._scenario = scenario
        self._name = name
        self._process = process
        self._draw = process.timeline.random(f"tenant of {process.name}")
        self._is_ill = is_ill
        self._told = told
        self._request_of = request_of
        self._observe = observe

    def handlers(self, notify: ActionNotify) -> Mapping[str, Handler]:
        """Answers a vote or notice."""
        is_vote = notify.notification_type is NotificationType.REVOCABLE
        if not is_vote:
            self._told(notify.event_type)
        window_s = max(0.5, notify.timeout_ms / 1000 - 1.0)
        delay_s = self._delay(window_s)
        rejects = is_vote and self._rejects(delay_s > _LATE * window_s)

        request = self._request_of(notify.event_type, notify.invocation_id) if rejects else ""
        if request:  # a host that was restarted asks again
            request = f"{request}, asked as {notify.invocation_id}"

        async def answer(window: BallotWindow) -> Answer | Abstention | None:
            arrival = Arrival(self._process, delay_s, partial(self._arrived, request))
            try:
                await arrival.wait()
            finally:
                if window.ballot.state.name == "EXPIRED":
                    self._decided(request, VoteResult.TIMEOUT)
            if rejects:
                if window.ballot.state.name == "OPEN":
                    self._decided(request, VoteResult.REJECT)
                return Answer(VoteResult.REJECT, "busy")
            return Answer(VoteResult.ACCEPT if is_vote else VoteResult.COMPLETE)

        return {_NAME: answer}

    def _arrived(self, request: str) -> None:
        if request:
            self._observe(RejectArrived(self._process.timeline.now, self._name, request))

    def _decided(self, request: str, result: VoteResult) -> None:
        if request and self._process.alive:
            now = self._process.timeline.now
            self._observe(Decided(now, self._name, request, result.value))

    def health(self) -> list[HealthStatus]:
        """Its health."""
        if not self._is_ill():
            return []
        return [HealthStatus(False, CorrectiveAction.REBOOT, "it is ill")]

    def known(self) -> Sequence[KnownVoter]:
        """What is known of it."""
        return [KnownVoter(_NAME)]

    def _rejects(self, is_late: bool) -> bool:  # noqa: FBT001
        if self._scenario is not None:
            return self._scenario.rejects
        return self._draw.random() < (_LATE_REJECTS if is_late else _REJECTS)

    def _delay(self, window_s: float) -> float:
        share = self._draw.random()
        if share < _AT_ONCE or self._scenario is not None:
            return _SOON_S * self._draw.random()
        if share < _WITHIN:
            return window_s * self._draw.random()
        if share < _LAST:
            return window_s - _LAST_MOMENT_S * self._draw.random()
        return math.inf


class Arrival:
    """Something that arrives at a daemon, whether that runs or is stopped, while its machine runs.

    Args:
        process: the daemon.
        after_s: how much later, in seconds.
        arrived: called then, unless the process is dead.
    """

    def __init__(self, process: Process, after_s: float, arrived: Callable[[], object]) -> None:
        self._process = process
        self._waiters = Waiters(process)
        self._has_arrived = False
        self._call = arrived
        if after_s < math.inf:
            process.timeline.after(after_s, self._arrive)

    async def wait(self) -> None:
        """Waits for it; can be cancelled."""
        await trio.lowlevel.checkpoint()
        while not self._has_arrived:
            await self._waiters.wait()

    def _arrive(self) -> None:
        if not self._process.alive:
            return
        if self._process.machine.paused:
            self._process.timeline.after(_LOOK_S, self._arrive)
            return
        self._has_arrived = True
        self._call()
        self._waiters.wake()
