"""Runs the host's votes and notices in the guest, each as a window, and answers them."""

from __future__ import annotations

import logging
from collections.abc import Collection
from functools import partial
from typing import Final

import trio

from hbtrio.fsm.ballot import Ballot, Outcome
from hbtrio.log.subject import fields
from hbtrio.nursery.guest.outbox import Outbox
from hbtrio.nursery.guest.time_desk import TimeDesk
from hbtrio.nursery.guest.voters import Voters
from hbtrio.nursery.window_tasks import WindowTasks
from hbtrio.nursery.windows import BallotWindow
from hbtrio.policy.allowances import guest_allows_s, guest_window_s
from hbtrio.policy.quota import Quota
from hbtrio.policy.time_guard import OnTimeGuard
from hbtrio.wire.channel_messages import ActionNotify, ActionResponse, TimeGranted
from hbtrio.wire.vocabulary import EVENT_TABLE, Event, NotificationType, VoteResult, window_of

_log = logging.getLogger("hbtrio.guest")

#: Votes and notices with handlers that have not ended. A host has one open at a time.
_LINGERING: Final = 64

#: Votes and notices per second that voters are asked. Each costs a script, and an application an
#: answer, of which the guest reads 35 a second. An honest host asks of all events at once at most.
ROUNDS_PER_S: Final = 30


class GuestRounds:
    """Runs votes and notices; a newer one ends an older one.

    Args:
        voters: vote and receive notices; may be replaced.
        failure_rejects: the events whose votes a voter that fails rejects; may be replaced.
        outbox: sends the answers.
        guard: the process's on-time guard.
    """

    def __init__(
        self,
        voters: Voters,
        failure_rejects: Collection[Event],
        outbox: Outbox,
        guard: OnTimeGuard,
    ) -> None:
        self.voters = voters
        self.failure_rejects = failure_rejects
        #: Runs the windows.
        self.tasks = WindowTasks()
        self._outbox = outbox
        self._guard = guard
        self._window: BallotWindow | None = None
        self._desk: TimeDesk | None = None
        self._opened = Quota(ROUNDS_PER_S, 1.0)

    def open(self, notify: ActionNotify, *, named: bool = False, more_time: bool = False) -> None:
        """Opens a vote or notice; the answer goes to the outbox when its window closes.

        Args:
            notify: the vote or notice.
            named: whether the answer's reason names the applications that gave it.
            more_time: whether the host may be asked for more time.
        """
        self.abort("superseded by a newer action")
        if notify.event_type not in EVENT_TABLE or notify.notification_type is (
            NotificationType.UNKNOWN
        ):
            # No voter knows the event or type.
            self._respond(notify, Outcome(VoteResult.COMPLETE, ""))
            return
        if self.tasks.count >= _LINGERING or not self._opened.take(trio.current_time()):
            self._respond(notify, Outcome(VoteResult.ERROR, "too many actions at once"))
            return
        handlers = self.voters.handlers(notify)
        ballot = Ballot(
            notify.notification_type,
            handlers,
            failure_rejects=notify.event_type in self.failure_rejects,
        )
        window = BallotWindow(
            window_of(notify.event_type, notify.notification_type),
            guest_window_s(notify.timeout_ms),
            ballot,
            partial(self._decided, notify, ballot, named=named),
            self._guard,
            [self._awaits_host],
            allows_s=guest_allows_s(notify.timeout_ms),
        )
        self._desk = TimeDesk(notify, window, self._outbox, offered=more_time)
        window.ask_time = self._desk.ask
        _log.info(
            "%s %s: %s window of %g s, asking %s",
            notify.notification_type,
            notify.event_type,
            window.kind,
            window.seconds,
            ", ".join(handlers) or "nobody",
            extra=fields(notify.notification_type),
        )
        self._window = window
        self.tasks.hold(window, handlers)

    def time_granted(self, message: TimeGranted) -> None:
        """Takes the host's answer to a request for more time."""
        if self._desk is not None:
            self._desk.granted(message)

    def time_refused(self, reason: str) -> None:
        """Takes that the host does not know such requests."""
        if self._desk is not None:
            self._desk.refused(reason)

    def _awaits_host(self) -> bool:
        return self._desk is not None and self._desk.is_waiting()

    def abort(self, reason: str) -> None:
        """Ends the open vote or notice without an answer; does nothing if none is open."""
        if self._window is not None:
            self._window.abort(reason)

    def _decided(
        self, notify: ActionNotify, ballot: Ballot, outcome: Outcome, *, named: bool
    ) -> None:
        reason = ballot.named_reason if named else outcome.reason
        self._respond(notify, Outcome(outcome.result, reason), ballot.named_reason)

    def _respond(self, notify: ActionNotify, outcome: Outcome, logged: str | None = None) -> None:
        reason = outcome.reason if logged is None else logged
        _log.info(
            "%s %s: %s%s",
            notify.notification_type,
            notify.event_type,
            outcome.result,
            f" ({reason})" if reason else "",
            extra=fields(notify.notification_type),
        )
        self._outbox.put(
            ActionResponse(
                invocation_id=notify.invocation_id,
                event_type=notify.event_type,
                notification_type=notify.notification_type,
                vote_result=outcome.result,
                log_msg=outcome.reason,
            )
        )
