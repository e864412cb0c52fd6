"""Waits for an answer or a deadline, whichever comes first.

One rule holds for all windows, in guest, host and agent and for each application:

    Before a deadline decides, what has already arrived is read (socket, channel, queue, thread),
    and a deadline counts only while the process is on time.

:class:`Window` applies that rule to one answer. Its sources read the places where the answer
arrives. Reading is bounded, so that a peer that sends without end can't postpone the decision.

:class:`BallotWindow` is a window with several voters: the five timeouts VOTE, SHUTDOWN_NOTICE,
SUSPEND_NOTICE, RESUME_NOTICE and RESTART, for guest and host alike. It runs its handlers
concurrently in a nursery. It closes early when its ballot closes: all have answered, or one has
rejected. At its deadline it cancels the remaining handlers and logs which voters did not answer. It
announces the outcome at the moment it closes, not when the last cancelled handler has ended: a
script that ignores TERM must not delay the answer.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Final, Generic, TypeVar

import msgspec
import trio

from hbtrio.fsm.ballot import Ballot, BallotState, Outcome
from hbtrio.nursery.time_guard import Source, sleep_until_on_time
from hbtrio.policy.more_time import OFF, Grant
from hbtrio.policy.time_guard import CALM_S, OnTimeGuard
from hbtrio.wire.vocabulary import VoteResult, WindowKind

_log = logging.getLogger("hbtrio.windows")

#: Answers of each result that are logged for one window: there may be a thousand voters.
LINES_EACH: Final = 20


class Answer(msgspec.Struct, frozen=True):
    """A handler's answer. For :attr:`VoteResult.TIMEOUT` the window supplies the reason.

    ``by_name``: whether the reason needs the voter's name beside it, see :meth:`Ballot.answer`.
    """

    result: VoteResult
    reason: str = ""
    by_name: bool = False


class Abstention(msgspec.Struct, frozen=True):
    """A handler that could not answer, which counts as agreement but is named in the outcome.

    ``cause`` follows the voter's name, such as ``was killed by signal SIGKILL``.
    """

    cause: str


#: Asks for more time in a window: the voter, how many seconds, when its own time ends on trio's
#: clock, and what is called with the grant, at once or later, unless the window closes first.
AskTime = Callable[[str, int, float, Callable[[Grant], None]], None]

T = TypeVar("T")


class Window(Generic[T]):
    """Waits for one answer until a deadline.

    Args:
        seconds: how long the window stays open, at least 0; ``math.inf``: until :meth:`close`.
        guard: the process's on-time guard; while the process is late, the deadline is postponed.
        sources: read the places where the answer arrives; called when the deadline has come.
        allows_s: how long after the deadline a late process still waits for an answer, in seconds
            (:mod:`hbtrio.policy.allowances`).
        at_most_s: how long it waits after it has woken up, in seconds. Without an ``allows_s`` this
            is the only bound.
    """

    def __init__(
        self,
        seconds: float,
        guard: OnTimeGuard,
        *,
        sources: Iterable[Source] = (),
        allows_s: float = math.inf,
        at_most_s: float = CALM_S,
    ) -> None:
        self.seconds = seconds
        #: When the window was opened, on trio's clock; NaN before.
        self.opened_at = math.nan
        self._guard = guard
        self._sources = list(sources)
        self.allows_s = allows_s
        self._at_most_s = at_most_s
        self._answers: list[T] = []
        self._scope = trio.CancelScope()

    @property
    def deadline(self) -> float:
        """When the window closes at the latest, on trio's clock; NaN before it is opened."""
        return self.opened_at + self.seconds

    def remaining_s(self, now: float) -> float:
        """Seconds until the deadline, 0 after it; the full length before the window is opened."""
        return self.seconds if math.isnan(self.deadline) else max(0.0, self.deadline - now)

    @contextmanager
    def reading(self, source: Source) -> Iterator[None]:
        """Adds ``source`` to the sources of the window within the context."""
        self._sources.append(source)
        try:
            yield
        finally:
            self._sources.remove(source)

    def extend(self, seconds: float) -> None:
        """Keeps the window open for so much longer than :attr:`seconds` so far, at least 0."""
        self.seconds += seconds

    def close(self, answer: T) -> None:
        """Closes the window with ``answer``; a second answer is ignored."""
        if not self._answers:
            self._answers.append(answer)
            self._scope.cancel()

    async def wait(self) -> T:
        """Opens the window and returns the answer.

        A checkpoint. Cancelled from outside, it raises ``trio.Cancelled``.

        Raises:
            trio.TooSlowError: the deadline came first.
        """
        self.opened_at = trio.current_time()
        slept_until = -math.inf
        with self._scope:
            while slept_until < self.deadline:  # else it was extended meanwhile
                slept_until = self.deadline
                await sleep_until_on_time(
                    slept_until,
                    self._guard,
                    at_most_s=self._at_most_s,
                    allows_s=self.allows_s,
                    sources=self._sources,
                )
        if not self._answers:
            raise trio.TooSlowError
        return self._answers[0]


async def within(
    seconds: float,
    guard: OnTimeGuard,
    wait: Callable[[], Awaitable[T]],
    *,
    sources: Iterable[Source] = (),
) -> T:
    """Calls ``wait`` and returns its result, within a window of ``seconds``.

    A result that has come by the deadline counts, even if this process was stopped over it; see
    :class:`Window`. So does one that comes although ``wait`` is cancelled at the deadline.

    Args:
        seconds: how long the window stays open, at least 0.
        guard: see :class:`Window`.
        wait: cancelled at the deadline. What it raises is raised.
        sources: see :class:`Window`.

    Raises:
        trio.TooSlowError: the deadline came first; ``wait`` has ended.
    """
    window = Window[None](seconds, guard, sources=sources)
    results: list[T] = []
    faults: list[Exception] = []

    async def run() -> None:
        try:
            results.append(await wait())
        except Exception as fault:  # noqa: BLE001 - raised below, not from a group
            faults.append(fault)
        window.close(None)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        with suppress(trio.TooSlowError):
            await window.wait()
        nursery.cancel_scope.cancel()
    if faults:
        raise faults[0]
    if not results:
        raise trio.TooSlowError
    return results[0]


#: Returns the answer of one voter, or why it could not answer, or None if the voter takes no part
#: and does not count. A handler is cancelled when the window closes first. If the answer arrives in
#: a place that only the handler knows, the handler registers it with :meth:`Window.reading`.
Handler = Callable[["BallotWindow"], Awaitable[Answer | Abstention | None]]


class BallotWindow(Window[Outcome]):
    """Runs a ballot until it is decided or its deadline comes.

    Args:
        kind: which of the five timeouts it is.
        seconds: how long it stays open, at least 0.
        ballot: collects the answers; if it is closed already, no handler is run.
        announce: called with the outcome, exactly once, at the moment the window closes. It must
            not block.
        guard: see :class:`Window`.
        sources: see :class:`Window`.
        subject: what the window is about, for the log, such as an instance's uuid.
        allows_s: see :class:`Window`.
    """

    def __init__(
        self,
        kind: WindowKind,
        seconds: float,
        ballot: Ballot,
        announce: Callable[[Outcome], None],
        guard: OnTimeGuard,
        sources: Iterable[Source] = (),
        subject: str = "",
        *,
        allows_s: float = math.inf,
    ) -> None:
        super().__init__(seconds, guard, sources=sources, allows_s=allows_s)
        self.kind = kind
        self._subject = (subject,) if subject else ()
        self.ballot = ballot
        self._announce = announce
        self._announced = False
        self._results: Counter[VoteResult] = Counter()
        #: For handlers that need more time; whoever opens the window may set it.
        self.ask_time: AskTime = _give_no_time

    async def hold(self, handlers: Mapping[str, Handler]) -> Outcome:
        """Opens the window, runs the handlers and returns the outcome once all have ended.

        Args:
            handlers: one for each voter of the ballot.

        Cancelled from outside, it cancels its handlers and announces that the round was aborted.
        """
        try:
            if self.ballot.state is BallotState.OPEN:  # else the voters need not be asked
                await self._run(handlers)
        finally:
            self.abort("stopped before the answer arrived")
            self._log_surplus()
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
        """Counts an answer that did not come from a handler's return."""
        self.ballot.answer(voter, answer.result, answer.reason, by_name=answer.by_name)
        self._settle()

    def abort(self, reason: str) -> None:
        """Closes the window without waiting for answers; does nothing if it is closed."""
        self.ballot.abort(reason)
        self._settle()

    def _expire(self) -> None:
        silent = ", ".join(self.ballot.owed)
        if self.ballot.expire() is not None:
            text = "%s window closed after %g s, no answer from %s"
            self._log(text, self.kind, self.seconds, silent)
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
        elif isinstance(answer, Abstention):
            self.ballot.leave(voter, answer.cause)
            self._settle()
        else:
            if answer.result is VoteResult.TIMEOUT:
                # The handler may not know the unique name that its voter has here.
                answer = Answer(answer.result, f"no answer in time from {voter}")
            self._log_answer(voter, answer)
            self.answer(voter, answer)

    def _log_answer(self, voter: str, answer: Answer) -> None:
        if self.ballot.state is not BallotState.OPEN:
            return  # arrived while the window closed, and does not count
        self._results[answer.result] += 1
        if self._results[answer.result] <= LINES_EACH:
            reason = f": {answer.reason}" if answer.reason else ""
            self._log("%s: %s%s", voter, answer.result, reason)

    def _log_surplus(self) -> None:
        surplus = sum(max(0, count - LINES_EACH) for count in self._results.values())
        if surplus:
            self._log("%s window: %d more answers not shown", self.kind, surplus)

    def _log(self, text: str, *args: object) -> None:
        # The bound of lines is one of a place, and three lines in one place had one together.
        prefix = "%s: " if self._subject else ""
        _log.info(f"{prefix}{text}", *self._subject, *args, stacklevel=2)


def _give_no_time(_: str, __: int, ___: float, answer: Callable[[Grant], None]) -> None:
    answer(Grant(0, OFF))


async def stay_silent(_: BallotWindow) -> Answer | None:
    """Waits until cancelled: for a voter that answers through :meth:`BallotWindow.answer`."""
    await trio.sleep_forever()
