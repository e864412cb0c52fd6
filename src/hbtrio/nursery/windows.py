"""Windows: an answer or a deadline, whichever comes first.

One rule holds for all of them, in guest, host and agent and for each application:

    Before a deadline decides, what has already arrived is read (socket, channel, queue, thread),
    and a deadline is believed only while the process is on time.

:class:`Window` is that rule for one answer. It is handed its sources: what reads the places where
its answer arrives. Reading is bounded, so that whoever sends without end postpones nothing.

:class:`BallotWindow` is a window with several who answer: the five timeouts VOTE, SHUTDOWN_NOTICE,
SUSPEND_NOTICE, RESUME_NOTICE and RESTART, for guest and host alike. It runs its handlers side by
side in a nursery. It closes early when its ballot closes: all have answered, or one has rejected.
At its deadline it cancels the handlers that are left and says who was silent. The outcome is
announced at the moment of closing, not when the last cancelled handler is gone: a script that
ignores TERM must not hold up the answer.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, Generic, TypeVar

import attrs
import trio

from hbtrio.fsm.ballot import Ballot, BallotState, Outcome
from hbtrio.nursery.time_guard import Source, sleep_until_on_time
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


T = TypeVar("T")


class Window(Generic[T]):
    """A window for one answer.

    Args:
        seconds: how long it stays open, at least 0; ``math.inf``: until it is closed.
        guard: the process's on-time guard; while it says late, the deadline is put off.
        sources: what reads the places where the answer arrives; called when the deadline has come.
        at_most_s: for how long the deadline may be put off, in seconds; by default its own length
            and the guard's time of calm.
    """

    def __init__(
        self,
        seconds: float,
        guard: OnTimeGuard,
        *,
        sources: Iterable[Source] = (),
        at_most_s: float | None = None,
    ) -> None:
        self.seconds = seconds
        #: When it was opened, on trio's clock; NaN before.
        self.opened_at = math.nan
        self._guard = guard
        self._sources = list(sources)
        self._at_most_s = seconds + CALM_S if at_most_s is None else at_most_s
        self._answers: list[T] = []
        self._scope = trio.CancelScope()

    @property
    def deadline(self) -> float:
        """When it closes at the latest, on trio's clock; NaN before it is open."""
        return self.opened_at + self.seconds

    def remaining_s(self, now: float) -> float:
        """Seconds until it closes, 0 when it is over."""
        return self.seconds if math.isnan(self.deadline) else max(0.0, self.deadline - now)

    @contextmanager
    def reading(self, source: Source) -> Iterator[None]:
        """Within this context the window reads ``source`` too before its deadline decides."""
        self._sources.append(source)
        try:
            yield
        finally:
            self._sources.remove(source)

    def close(self, answer: T) -> None:
        """The answer is there; a second one counts for nothing."""
        if not self._answers:
            self._answers.append(answer)
            self._scope.cancel()

    async def wait(self) -> T:
        """Opens the window and returns the answer.

        Raises:
            trio.TooSlowError: the deadline came first.
        """
        self.opened_at = trio.current_time()
        with self._scope:
            await sleep_until_on_time(
                self.deadline, self._guard, at_most_s=self._at_most_s, sources=self._sources
            )
        if not self._answers:
            raise trio.TooSlowError
        return self._answers[0]


#: A handler answers, or returns None: it has no say and does not count. It is cancelled when the
#: window closes without it. Where its answer arrives in a place that only the handler knows, it
#: says so with :meth:`Window.reading`.
Handler = Callable[["BallotWindow"], Awaitable[Answer | None]]


class BallotWindow(Window[Outcome]):
    """A ballot with a deadline.

    Args:
        kind: which of the five it is.
        seconds: how long it stays open, at least 0.
        ballot: the round it bounds; a ballot that is closed already opens no window.
        announce: called with the outcome, exactly once, at the moment the window closes. It must
            not block.
        guard: see :class:`Window`.
        sources: see :class:`Window`.
    """

    def __init__(
        self,
        kind: WindowKind,
        seconds: float,
        ballot: Ballot,
        announce: Callable[[Outcome], None],
        guard: OnTimeGuard,
        sources: Iterable[Source] = (),
    ) -> None:
        super().__init__(seconds, guard, sources=sources)
        self.kind = kind
        self.ballot = ballot
        self._announce = announce
        self._announced = False
        self._results: Counter[VoteResult] = Counter()

    async def hold(self, handlers: Mapping[str, Handler]) -> Outcome:
        """Opens the window, runs the handlers and returns the outcome once all of them are gone.

        Args:
            handlers: one for each voter of the ballot.

        Cancelled from outside, it ends its handlers and announces that the round was aborted.
        """
        try:
            if self.ballot.state is BallotState.OPEN:  # else nobody is to be asked any more
                await self._run(handlers)
        finally:
            self.abort("stopped before the answer came")
            self._say_surplus()
        return self.ballot.settled

    async def _run(self, handlers: Mapping[str, Handler]) -> None:
        async with trio.open_nursery() as nursery:
            for voter, handler in handlers.items():
                nursery.start_soon(self._ask, voter, handler)
            try:
                await self.wait()
            except trio.TooSlowError:
                self._expire()
            nursery.cancel_scope.cancel()

    def answer(self, voter: str, answer: Answer) -> None:
        """Counts an answer that came by another way than a handler's return."""
        self.ballot.answer(voter, answer.result, answer.reason)
        self._settle()

    def abort(self, why: str) -> None:
        """Closes the window without its answers; harmless when it is closed."""
        self.ballot.abort(why)
        self._settle()

    def _expire(self) -> None:
        silent = ", ".join(self.ballot.owed)
        if self.ballot.expire() is not None:
            _log.info("%s window closed after %g s, silent: %s", self.kind, self.seconds, silent)
        self._settle()

    def _settle(self) -> None:
        outcome = self.ballot.outcome
        if outcome is None:
            return
        self.close(outcome)
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
        self._results[answer.result] += 1
        if self._results[answer.result] <= LINES_EACH:
            reason = f": {answer.reason}" if answer.reason else ""
            _log.info("%s: %s%s", voter, answer.result, reason)

    def _say_surplus(self) -> None:
        surplus = sum(max(0, count - LINES_EACH) for count in self._results.values())
        if surplus:
            _log.info("%s window: %d more answers not shown", self.kind, surplus)


async def stay_silent(_: BallotWindow) -> Answer | None:
    """The handler of a voter whose answer arrives by :meth:`BallotWindow.answer`."""
    await trio.sleep_forever()
