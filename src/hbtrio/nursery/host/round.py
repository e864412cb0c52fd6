"""Runs the votes and notices of one instance on its host, one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Protocol

import attrs
import trio

from hbtrio.fsm.ballot import Ballot, Outcome, as_reported
from hbtrio.nursery.host.vetoes import Vetoes
from hbtrio.nursery.time_guard import Source
from hbtrio.nursery.window_tasks import WindowTasks
from hbtrio.nursery.windows import Answer, BallotWindow, stay_silent
from hbtrio.policy.allowances import HOST_ALLOWS_S
from hbtrio.policy.more_time import NOT_OPEN, Extension, Extensions, Grant
from hbtrio.policy.quota import Quota
from hbtrio.policy.time_guard import OnTimeGuard
from hbtrio.wire.channel_codec import MAX_NAME_BYTES, plain_text
from hbtrio.wire.channel_messages import (
    ActionResponse,
    Message,
    MoreTime,
    Nack,
    RejectWithdrawn,
    TimeGranted,
)
from hbtrio.wire.vocabulary import (
    EVENT_TABLE,
    Event,
    NotificationType,
    VoteResult,
    WindowKind,
)

#: The only voter that a host knows.
_GUEST: Final = "guest"

#: Requests for more time of an instance that are answered, per second; others are not.
_REQUESTS_PER_S: Final = 8

#: Withdrawn rejects of an instance that are taken, and in how many seconds; others are not.
WITHDRAWALS: Final = 3
WITHDRAWALS_S: Final = 15.0

#: The messages of a guest about votes and notices.
OF_ROUNDS: Final = (ActionResponse, MoreTime, RejectWithdrawn)


class NotHeartbeating(Exception):
    """The instance can't take part in a vote or notice; nothing was sent to it."""


class RoundOpen(Exception):
    """Another vote or notice is open on this instance; deployed guests can handle only one."""


@attrs.define(eq=False)
class Round:
    """A vote or notice on an instance; it has exactly one outcome."""

    event: Event
    notification: NotificationType
    invocation_id: int
    window: BallotWindow
    #: Decides how much longer the window stays open.
    extensions: Extensions
    #: The id of the agent's command that opened the round, or "".
    command_id: str = ""
    #: Who requested it, or "".
    who: str = ""
    #: Whether it is the vote of an action, whose notice follows if nobody rejects.
    begins_action: bool = False
    #: Whether the host itself rejects it.
    is_objected: bool = False
    #: Says at its end why it is rejected whatever the guest says; "" if it is not.
    refusal: Callable[[], str] = lambda: ""
    done: trio.Event = attrs.field(factory=trio.Event)
    outcome: Outcome | None = None
    _news: trio.Event = attrs.field(factory=trio.Event)

    @property
    def is_vote(self) -> bool:
        """Whether it is a vote; else a notice."""
        return self.notification is NotificationType.REVOCABLE

    @property
    def kind(self) -> str:
        """What it is, in a word."""
        return "vote" if self.is_vote else "notice"

    @property
    def is_accepted(self) -> bool:
        """Whether it has ended without a reject: only a reject refuses the event."""
        return self.outcome is not None and self.outcome.result is not VoteResult.REJECT

    async def next_extension(self, number: int) -> Extension | None:
        """Waits for an extension of the window, the first of which has the number 0.

        Returns:
            None if the vote or notice has ended before it.
        """
        granted = self.extensions.granted
        while len(granted) <= number and not self.done.is_set():
            await self._news.wait()
        return granted[number] if number < len(granted) else None

    def extend(self, seconds: int, name: str) -> Grant:
        """Extends the window by what is granted of ``seconds``, for the voter ``name``."""
        grant = self.extensions.ask(seconds, name)
        if grant.seconds:
            self.window.extend(grant.seconds)
            self._tell()
        return grant

    def close(self) -> None:
        """Lets those go on who wait for its end; called once, with the outcome at hand."""
        self.done.set()
        self._tell()

    def _tell(self) -> None:
        news, self._news = self._news, trio.Event()
        news.set()

    def open_text(self, now: float) -> str:
        """Says why another round can't be opened now."""
        left_s = self.window.remaining_s(now)
        return f"a {self.kind} on {self.event} is open for another {left_s:.1f} s"


class RoundSetup(Protocol):
    """What a host shares with the rounds of all instances."""

    @property
    def guard(self) -> OnTimeGuard:
        """The process's on-time guard."""

    @property
    def new_id(self) -> Callable[[], int]:
        """Makes invocation ids."""

    @property
    def vetoes(self) -> Vetoes:
        """Counts the rejects of all instances."""


class RoundReports(Protocol):
    """Reports what happens to the rounds of an instance before they end."""

    def publish_extension(self, current: Round, extension: Extension) -> None:
        """Reports that a window was extended."""

    def publish_override(self, event: Event, reason: str, who: str) -> None:
        """Reports that a reject was overridden."""

    def publish_withdrawal(self, event: Event, name: str) -> None:
        """Reports that a voter would not reject an event any more."""


class RoundSlot:
    """Holds the one vote or notice that may be open on an instance.

    Args:
        uuid: the instance.
        tasks: runs the windows.
        setup: makes invocation ids, has the process's on-time guard, and counts rejects.
        source: reads what the instance has sent.
        on_over: called once for each opened round, when it has its outcome.
        reports: reports what happens to a round before that.
    """

    def __init__(
        self,
        uuid: str,
        tasks: WindowTasks,
        setup: RoundSetup,
        source: Source,
        on_over: Callable[[Round], None],
        reports: RoundReports,
    ) -> None:
        #: The open round, or None.
        self.current: Round | None = None
        self._uuid = uuid
        self._tasks = tasks
        self._guard = setup.guard
        self._source = source
        self._new_id = setup.new_id
        self._on_over = on_over
        self._reports = reports
        self._vetoes = setup.vetoes
        self._requests = Quota(_REQUESTS_PER_S, 1.0)
        self._withdrawals = Quota(WITHDRAWALS, WITHDRAWALS_S)
        self._is_reserved = False

    @contextmanager
    def reserved(self) -> Iterator[None]:
        """Reserves the next round for the caller, who opens it right after the context."""
        self._is_reserved = True
        try:
            yield
        finally:
            self._is_reserved = False

    def check_free(self, now: float) -> None:
        """Raises RoundOpen if a round is open, or the next one is reserved."""
        if self.current is not None:
            raise RoundOpen(self.current.open_text(now))
        if self._is_reserved:
            raise RoundOpen("an action on the instance is about to open the next vote or notice")

    def open(
        self,
        event: Event,
        notification: NotificationType,
        kind: WindowKind,
        seconds: float,
        extensions: Extensions,
        command_id: str,
        who: str,
        *,
        begins_action: bool,
    ) -> Round:
        """Opens a round; none may be open."""
        assert self.current is None
        ballot = Ballot(notification, [_GUEST])
        window = BallotWindow(
            kind,
            seconds,
            ballot,
            self._over,
            self._guard,
            [self._source],
            self._uuid,
            allows_s=HOST_ALLOWS_S,
        )
        self.current = Round(
            event,
            notification,
            self._new_id(),
            window,
            extensions,
            command_id,
            who,
            begins_action,
        )
        self._tasks.hold(window, {_GUEST: stay_silent})
        return self.current

    def received(
        self,
        message: ActionResponse | MoreTime | RejectWithdrawn,
        now: float,
        send: Callable[[Message], None],
    ) -> None:
        """Handles a message of the instance about a round; sends the reply, if it has one."""
        if isinstance(message, RejectWithdrawn):
            rule = EVENT_TABLE.get(message.event_type)
            if rule is not None and rule.voted and self._withdrawals.take(now):
                name = plain_text(message.name, MAX_NAME_BYTES)
                self._reports.publish_withdrawal(message.event_type, name)
        elif isinstance(message, MoreTime):
            if (granted := self._more_time(message, now)) is not None:
                send(granted)
        elif not self._answer(message):
            send(Nack(message.invocation_id, "no action with this invocation_id is open"))

    def _answer(self, response: ActionResponse) -> bool:
        """Counts the instance's answer; returns False if it is not for the open round."""
        # Only the id identifies the round: a deployed guest copies the other fields from its
        # applications.
        if self.current is None or response.invocation_id != self.current.invocation_id:
            return False
        # With ``unknown``, a deployed client repeats the reason of the action before.
        is_stale = response.vote_result is VoteResult.UNKNOWN
        reason = "" if is_stale else response.log_msg
        self.current.window.answer(_GUEST, Answer(response.vote_result, reason))
        return True

    def object(self, reason: str) -> None:
        """Rejects the open vote for a reason of the host's own; a guest need not answer."""
        if self.current is not None:
            self.current.is_objected = True
            self.current.window.answer(_GUEST, Answer(VoteResult.REJECT, reason))

    def _more_time(self, request: MoreTime, now: float) -> TimeGranted | None:
        """Extends the open round for the instance; returns the answer, or None: it has none.

        One that was read before the window closed is in time.
        """
        if not self._requests.take(now):
            return None
        current = self.current
        if current is None or request.invocation_id != current.invocation_id:
            grant = Grant(0, NOT_OPEN)
        else:
            grant = current.extend(request.seconds, plain_text(request.name, MAX_NAME_BYTES))
            if grant.seconds:
                self._reports.publish_extension(current, current.extensions.granted[-1])
        return TimeGranted(request.invocation_id, request.request, int(grant.seconds), grant.reason)

    def abort(self, reason: str) -> None:
        """Ends the open round without an answer; does nothing if none is open."""
        if self.current is not None:
            self.current.window.abort(reason)

    def release(self) -> None:
        """Lets go of its owner, which has ended; no round may be opened after it."""
        del self._source, self._on_over, self._reports

    def _over(self, _: Outcome) -> None:
        current, self.current = self.current, None
        if current is None:
            return
        outcome = as_reported(current.window.ballot, current.window.seconds)
        current.outcome = self._bounded(current, outcome)
        self._on_over(current)
        current.close()

    def _bounded(self, current: Round, outcome: Outcome) -> Outcome:
        """Overrides a reject of the guest's that is one too many: the action goes on.

        But nobody's action begins that must not any more.
        """
        rejected = outcome.result is VoteResult.REJECT
        if not current.begins_action:
            return outcome
        if why := current.refusal():
            return outcome if rejected else Outcome(VoteResult.REJECT, why)
        if not rejected or current.is_objected:
            return outcome
        if self._vetoes.stands(self._uuid, current.event):
            return outcome
        reason = f"overridden after {self._vetoes.rule.words}: {outcome.reason}"
        self._reports.publish_override(current.event, reason, current.who)
        return Outcome(VoteResult.ACCEPT, reason)
