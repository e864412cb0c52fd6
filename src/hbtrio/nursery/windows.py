"""The five timeouts as cancel scopes.

VOTE, SHUTDOWN_NOTICE, SUSPEND_NOTICE, RESUME_NOTICE and RESTART become cancel scopes in this place
only, for guest and host alike. A window opens with a deadline and runs its handlers side by side in
a nursery. It closes early when its ballot closes: all have answered, or one has rejected. At its
deadline it cancels the handlers that are left and says who was silent. The outcome is announced at
the moment of closing, not when the last cancelled handler is gone: a script that ignores TERM must
not hold up the answer.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import attrs
import trio

from hbtrio.fsm.ballot import Ballot, BallotState, Outcome
from hbtrio.nursery.time_guard import sleep_until_on_time
from hbtrio.policy.time_guard import CALM_S, OnTimeGuard
from hbtrio.wire.vocabulary import VoteResult, WindowKind

_log = logging.getLogger("hbtrio.windows")

#: Answers of each result that have a line in the log: there may be a thousand voters.
LINES_EACH: Final = 20


@attrs.frozen
class Answer:
    """What a handler has to say; that it is out of time is the window's to word."""

    result: VoteResult
    reason: str = ""


#: A handler answers, or returns None: it has no say and does not count. It is cancelled when the
#: window closes without it.
Handler = Callable[["Window"], Awaitable[Answer | None]]


class Window:
    """One window: a ballot with a deadline.

    Args:
        kind: which of the five it is.
        seconds: how long it stays open, at least 0.
        ballot: the round it bounds; a ballot that is closed already opens no window.
        announce: called with the outcome, exactly once, at the moment the window closes. It must
            not block.
        guard: the process's on-time guard; while it says late, the deadline is put off.
    """

    def __init__(
        self,
        kind: WindowKind,
        seconds: float,
        ballot: Ballot,
        announce: Callable[[Outcome], None],
        guard: OnTimeGuard,
    ) -> None:
        self.kind = kind
        self.seconds = seconds
        self.ballot = ballot
        self.opened_at = math.nan
        self._announce = announce
        self._announced = False
        self._answers: Counter[VoteResult] = Counter()
        self._guard = guard
        self._scope = trio.CancelScope()

    @property
    def deadline(self) -> float:
        """When it closes at the latest, on trio's clock; NaN before it is open."""
        return self.opened_at + self.seconds

    def remaining_s(self, now: float) -> float:
        """Seconds until it closes, 0 when it is over."""
        return max(0.0, self.deadline - now) if self.deadline == self.deadline else self.seconds

    async def hold(self, handlers: Mapping[str, Handler]) -> Outcome:
        """Opens the window, runs the handlers and returns the outcome once all of them are gone.

        Args:
            handlers: one for each voter of the ballot.

        Cancelled from outside, it ends its handlers and announces that the round was aborted.
        """
        self.opened_at = trio.current_time()
        try:
            if self.ballot.state is BallotState.OPEN:  # else nobody is to be asked any more
                await self._run(handlers)
        finally:
            self.abort("stopped before the answer came")
            self._say_surplus()
        return self.ballot.settled

    async def _run(self, handlers: Mapping[str, Handler]) -> None:
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._close_in_time)
                for voter, handler in handlers.items():
                    nursery.start_soon(self._ask, voter, handler)

    def answer(self, voter: str, answer: Answer) -> None:
        """Counts an answer that came by another way than a handler's return."""
        self.ballot.answer(voter, answer.result, answer.reason)
        self._settle()

    def abort(self, why: str) -> None:
        """Closes the window without its answers; harmless when it is closed."""
        self.ballot.abort(why)
        self._settle()

    def _settle(self) -> None:
        outcome = self.ballot.outcome
        if outcome is None:
            return
        self._scope.cancel()
        if not self._announced:
            self._announced = True
            self._announce(outcome)

    async def _ask(self, voter: str, handler: Handler) -> None:
        answer = await handler(self)
        if answer is None:
            self.ballot.leave(voter)
            self._settle()
        else:
            if answer.result is VoteResult.TIMEOUT:
                # Only here it is known by the name that tells it from others of its name.
                answer = Answer(answer.result, f"no answer in time from {voter}")
            self._say(voter, answer)
            self.answer(voter, answer)

    def _say(self, voter: str, answer: Answer) -> None:
        if self.ballot.state is not BallotState.OPEN:
            return  # it came in the moment of closing and does not count
        self._answers[answer.result] += 1
        if self._answers[answer.result] <= LINES_EACH:
            reason = f": {answer.reason}" if answer.reason else ""
            _log.info("%s: %s%s", voter, answer.result, reason)

    def _say_surplus(self) -> None:
        surplus = sum(max(0, count - LINES_EACH) for count in self._answers.values())
        if surplus:
            _log.info("%s window: %d more answers not shown", self.kind, surplus)

    async def _close_in_time(self) -> None:
        await sleep_until_on_time(self.deadline, self._guard, at_most_s=self.seconds + CALM_S)
        silent = ", ".join(self.ballot.owed)
        if self.ballot.expire() is not None:
            _log.info("%s window closed after %g s, silent: %s", self.kind, self.seconds, silent)
        self._settle()


async def stay_silent(_: Window) -> Answer | None:
    """The handler of a voter whose answer arrives by :meth:`Window.answer`."""
    await trio.sleep_forever()
