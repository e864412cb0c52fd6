"""Registers an application with the guest daemon and calls its handlers."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Callable
from types import TracebackType
from typing import Self, overload

import anyio
from anyio.abc import TaskGroup

from hbtrio.app.handler_set import (
    AsyncHealth,
    AsyncNotice,
    AsyncVote,
    Handlers,
    HealthHandler,
    NoticeHandler,
    PlainHealth,
    PlainNotice,
    PlainVote,
    VoteHandler,
)
from hbtrio.app.inhibition import Inhibition
from hbtrio.app.membership import Membership
from hbtrio.app.registration import Refused, Registration, socket_path
from hbtrio.app.responses import ActionWord
from hbtrio.wire.vocabulary import EVENT_TABLE, CorrectiveAction, Event

_log = logging.getLogger("hbtrio.app")


class Application:
    """An application that takes part in its VM's heartbeat, votes and notices.

    Enter the application with ``async with``: it is registered with the guest daemon while the
    block runs. Entering doesn't wait. If the daemon is not running yet, or restarts, the
    application registers as soon as it can: it retries after 0.5 s and then at growing intervals of
    up to 10 s. A daemon that sends no challenge for 5 times ``heartbeat_s``, but at least 10 s,
    counts as hung, and the application reconnects.

    Leaving the block signs the application off, which is not a failure. Set the handlers before
    entering the block, so that no request comes without a handler; handlers run only inside it.

    The application runs under trio and asyncio and may be entered again after it was left. A forked
    child takes no part: the guest daemon notices neither its actions nor its end.

    Args:
        name: the name that operators read: 1 to 39 bytes of UTF-8, printable, need not be unique.
        heartbeat_s: how often the guest sends a challenge: 0.4 to 3600 s, in whole ms. After two
            intervals without a response the application counts as hung.
        vote_s: how long the vote handler may take: whole seconds, 1 to 86400, as for all windows.
            No window is longer than the VM's.
        shutdown_notice_s: how long the notice handler may take for stop and reboot.
        suspend_notice_s: the same for pause, suspend, and the begin of resize and migrations.
        resume_notice_s: the same for unpause, resume, and the end of resize and migrations.
        corrective_action: the action on the VM if the application is hung or ill: none, log,
            reboot or stop.
        health_every_s: how often the health handler is called, and how long it may take: 0.1 to
            3600 s. None is ``heartbeat_s``.
        on_health: the health handler, see :meth:`on_health`.
        on_vote: the vote handler, see :meth:`on_vote`.
        on_notice: the notice handler, see :meth:`on_notice`.
        inhibition: the events that the application rejects while it is registered, see
            :class:`Inhibition`.
        socket: the path of the guest daemon's socket; at most 107 bytes. None is the path in the
            environment's ``HBTRIO_APP_SOCKET``, or the default if that is not set or empty.
        jitter: returns 0 to 1, the share of half the wait by which the wait between two attempts
            to register is shortened.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of range; the text names the argument and its range.
    """

    def __init__(
        self,
        name: str,
        *,
        heartbeat_s: float = 1.0,
        vote_s: int = 8,
        shutdown_notice_s: int = 8,
        suspend_notice_s: int = 8,
        resume_notice_s: int = 13,
        corrective_action: CorrectiveAction | ActionWord = CorrectiveAction.LOG,
        health_every_s: float | None = None,
        on_health: HealthHandler | None = None,
        on_vote: VoteHandler | None = None,
        on_notice: NoticeHandler | None = None,
        inhibition: Inhibition | None = None,
        socket: str | os.PathLike[str] | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._registration = Registration(
            name=name,
            heartbeat_s=heartbeat_s,
            vote_s=vote_s,
            shutdown_notice_s=shutdown_notice_s,
            suspend_notice_s=suspend_notice_s,
            resume_notice_s=resume_notice_s,
            corrective_action=corrective_action,
            health_every_s=health_every_s,
            inhibition=inhibition,
        )
        self._socket = socket_path(socket)
        self._jitter = jitter
        self._handlers = Handlers(self.name)
        self._tasks: TaskGroup | None = None
        #: Set while the block runs.
        self._membership: Membership | None = None
        if on_health is not None:
            self._set_health(on_health)
        if on_vote is not None:
            self._set_vote(on_vote)
        if on_notice is not None:
            self._set_notice(on_notice)

    # -- handlers ---------------------------------------------------------------------------

    @overload
    def on_health(self, handler: AsyncHealth) -> AsyncHealth: ...
    @overload
    def on_health(self, handler: PlainHealth) -> PlainHealth: ...
    def on_health(self, handler: HealthHandler) -> HealthHandler:
        """Sets the health handler and returns it; usable as a decorator, like the other two.

        The handler takes no argument and returns :class:`Healthy` or :class:`Unhealthy`. It is
        called after the registration and then every ``health_every_s``. Heartbeats don't wait for
        the handler: they carry its last result, and healthy before the first. While the handler
        raises, exceeds ``health_every_s`` or returns something else, no heartbeat is sent; after
        two intervals the application counts as hung until the handler succeeds again.

        Coroutine functions run in the event loop. All other handlers are called in a thread of
        their own and may block. The same holds for votes and notices.

        Raises:
            RuntimeError: the handler is set already, or the application is running.
            TypeError: the handler is not callable, or not with these arguments.
        """
        self._set_health(handler)
        return handler

    @overload
    def on_vote(self, handler: AsyncVote) -> AsyncVote: ...
    @overload
    def on_vote(self, handler: PlainVote) -> PlainVote: ...
    def on_vote(self, handler: VoteHandler) -> VoteHandler:
        """Sets the vote handler and returns it.

        The handler takes a :class:`Vote` and returns :class:`Accept` or :class:`Reject`. Without a
        handler the application accepts every vote. If the handler raises, is cancelled at
        ``vote.deadline`` or returns something else, no response is sent and an error is logged;
        silence counts as consent when the window ends. The handler is also cancelled when the
        guest sends its next request, when the connection is lost, and when the block is left.

        Raises:
            RuntimeError: the handler is set already, or the application is running.
            TypeError: the handler is not callable, or not with these arguments.
        """
        self._set_vote(handler)
        return handler

    @overload
    def on_notice(self, handler: AsyncNotice) -> AsyncNotice: ...
    @overload
    def on_notice(self, handler: PlainNotice) -> PlainNotice: ...
    def on_notice(self, handler: NoticeHandler) -> NoticeHandler:
        """Sets the notice handler and returns it.

        The handler takes a :class:`Notice` and returns None when the application is prepared. The
        event happens at the end of the window, whatever the handler does. Cancellation and
        failures are as for votes.

        Raises:
            RuntimeError: the handler is set already, or the application is running.
            TypeError: the handler is not callable, or not with these arguments.
        """
        self._set_notice(handler)
        return handler

    def _set_health(self, function: HealthHandler) -> None:
        self._must_not_run("health")
        self._handlers = self._handlers.with_health(function)

    def _set_vote(self, function: VoteHandler) -> None:
        self._must_not_run("vote")
        self._handlers = self._handlers.with_vote(function)

    def _set_notice(self, function: NoticeHandler) -> None:
        self._must_not_run("notice")
        self._handlers = self._handlers.with_notice(function)

    def _must_not_run(self, what: str) -> None:
        if self._tasks is not None:
            raise RuntimeError(f"the {what} handler must be set before the application runs")

    # -- state ------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The application's name."""
        return self._registration.name

    @property
    def registered(self) -> bool:
        """Whether the application is registered with the guest daemon now."""
        membership = self._membership
        return membership is not None and membership.registered and membership.is_here()

    @property
    def fault(self) -> str:
        """Why the application is not registered; empty while it is and before the first try."""
        membership = self._membership
        return "" if membership is None else membership.fault

    async def ready_for(self, event: Event | str) -> None:
        """Says that the vote handler would not reject this event any more, as it did.

        Whoever waits to ask again because of that reject, as for a planned action, asks at once,
        but not within 5 s of it. The handler is then called as ever, and its answer counts. It is
        a hint: without a reject since the registration, while the application is not registered,
        and with a host or guest daemon that is too old to know of this, it has no effect.

        Args:
            event: one that can be voted on.

        Raises:
            ValueError: the event can't be voted on.
            RuntimeError: the application is not running.

        Cancelled, it has either been said or not.
        """
        await self._running().ready_for(votable(event))

    async def wait_changed(self) -> None:
        """Waits until :attr:`registered` or :attr:`fault` changes; add a timeout if you need one.

        Raises:
            RuntimeError: the application is not running.
        """
        await self._running().changed()

    async def wait_registered(self) -> None:
        """Waits until the application is registered; add a timeout if you need one.

        The method has a checkpoint only if it waits. It can be cancelled at any time.

        Raises:
            Refused: the guest daemon refused the last attempt to register. The application tries
                again, as after any failure.
            RuntimeError: the application is not running.
        """
        while not self._is_registered():
            await self._running().changed()

    def _is_registered(self) -> bool:
        """Returns whether it is registered; raises what :meth:`wait_registered` does."""
        membership = self._running()
        if membership.refused and not membership.registered:
            raise Refused(
                f"the guest daemon refused the registration of {self.name} with a heartbeat every "
                f"{self._registration.heartbeat_s:g} s"
            )
        return membership.registered

    def _running(self) -> Membership:
        if self._membership is None or not self._membership.is_here():
            raise RuntimeError(f"application {self.name} is not running")
        return self._membership

    def _listen(self, listener: Callable[[], None]) -> None:
        """Calls ``listener`` in the event loop on each change until the block is left."""
        self._running().listener = listener

    # -- its run ----------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._tasks is not None:
            raise RuntimeError(f"application {self.name} is running already")
        self._membership = Membership(
            self._registration, self._handlers, self._socket, self._jitter
        )
        self._tasks = await anyio.create_task_group().__aenter__()
        self._tasks.start_soon(self._membership.run)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        tasks, membership = self._tasks, self._membership
        assert tasks is not None
        assert membership is not None
        if not membership.is_here() and not _has_event_loop():
            return
        tasks.cancel_scope.cancel()
        try:
            # An exception or cancellation of the block propagates as it is, not in a group.
            await tasks.__aexit__(None, None, None)
        except BaseExceptionGroup as group:
            # trio may raise KeyboardInterrupt in here.
            raise _alone(group) from None
        finally:
            self._tasks = self._membership = None
            membership.end()


def votable(event: Event | str) -> Event:
    """Returns an event that can be voted on; raises ValueError for any other."""
    for known, rule in EVENT_TABLE.items():
        if event == known and rule.voted:
            return known
    raise ValueError(f"event: no event that can be voted on: {str(event)!r}")


def _has_event_loop() -> bool:
    """Returns whether an event loop runs; a child forked under trio has one, under asyncio not."""
    try:
        anyio.current_time()
    except RuntimeError:
        return False
    return True


def _alone(error: BaseException) -> BaseException:
    """Returns the only exception of a group, also of nested groups; else the group."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
