"""An application as its author sees it: handlers, and a block in which it is registered."""

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
from hbtrio.app.membership import Membership
from hbtrio.app.registration import DEFAULT_SOCKET, Refused, Terms, socket_path
from hbtrio.app.responses import ActionWord
from hbtrio.wire.vocabulary import CorrectiveAction

_log = logging.getLogger("hbtrio.app")


class Application:
    """An application that takes part in its VM's heartbeat, votes and notices.

    Enter it with ``async with``: it is registered with the guest daemon for as long as the block
    runs. Entering waits for nothing: if the daemon is not there yet, or restarts, the application
    is registered as soon as it can be, after 0.5 s and then at growing intervals of up to 10 s. A
    daemon that has sent no challenge for 5 ``heartbeat_s``, and 10 s, is taken for hung and
    connected to anew.
    Leaving the block signs it off, which is no failure. Handlers must be in place before, so that
    nothing can be asked that nobody answers; they run only inside the block.

    Under trio and under asyncio alike. An application may be entered again after it was left. In a
    forked child it is over: nothing that the child does or leaves is heard by the guest daemon.

    Args:
        name: what operators read, 1 to 39 bytes of UTF-8, printable. It need not be unique.
        heartbeat_s: how often the guest asks for a sign of life: 0.4 to 3600 s, in whole ms. After
            two such intervals without one the application is taken for hung.
        vote_s: how long the vote handler may take, in whole seconds, 1 to 86400 as for all windows.
            None of them is longer than the window of the VM as a whole.
        shutdown_notice_s: how long the notice handler may take for stop and reboot.
        suspend_notice_s: the same for pause, suspend, and the begin of resize and migrations.
        resume_notice_s: the same for unpause, resume, and the end of resize and migrations.
        corrective_action: what is to be done with the VM when the application is hung or ill:
            none, log, reboot, stop.
        health_every_s: how often the health handler is called, and how long it may take: 0.1 to
            3600 s. None is ``heartbeat_s``.
        on_health: see the method of that name, as for the next two.
        on_vote: the handler of votes.
        on_notice: the handler of notices.
        socket: where the guest daemon listens; at most 107 bytes.
        jitter: returns a number from 0 to 1: how much of half the wait is taken off the wait
            between two attempts to register.

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: an argument is out of its range; the text says which and what it may be.
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
        socket: str | os.PathLike[str] = DEFAULT_SOCKET,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._terms = Terms(
            name=name,
            heartbeat_s=heartbeat_s,
            vote_s=vote_s,
            shutdown_notice_s=shutdown_notice_s,
            suspend_notice_s=suspend_notice_s,
            resume_notice_s=resume_notice_s,
            corrective_action=corrective_action,
            health_every_s=health_every_s,
        )
        self._socket = socket_path(socket)
        self._jitter = jitter
        self._handlers = Handlers(self.name)
        self._tasks: TaskGroup | None = None
        #: As long as the block runs.
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
        """Sets what is asked for the health, and returns it: a decorator, as are the other two.

        It takes no argument and returns :class:`Healthy` or :class:`Unhealthy`; it is called when
        the application has registered and then every ``health_every_s``. Heartbeats do not wait
        for it: they carry what it said last, and healthy before its first word. While it raises,
        outruns ``health_every_s`` or returns something else, the heartbeats are silent, and after
        two intervals of that the application is taken for hung, until the handler is well again.

        Coroutine functions run in the event loop; all others are called in a thread of their own
        and may block. That holds for all handlers.

        Raises:
            RuntimeError: it is set already, or the application is running.
            TypeError: it can't be called, or not like that.
        """
        self._set_health(handler)
        return handler

    @overload
    def on_vote(self, handler: AsyncVote) -> AsyncVote: ...
    @overload
    def on_vote(self, handler: PlainVote) -> PlainVote: ...
    def on_vote(self, handler: VoteHandler) -> VoteHandler:
        """Sets what answers votes, and returns it.

        It takes a :class:`Vote` and returns :class:`Accept` or :class:`Reject`. Without it all is
        accepted. If it raises, is not done by ``vote.deadline`` (it is cancelled then) or returns
        something else, it has not answered: that is agreement when the window ends, and an error in
        the log. It is cancelled as well when the guest goes on to the next question, when the
        connection is lost, and when the block is left.

        Raises:
            RuntimeError: it is set already, or the application is running.
            TypeError: it can't be called, or not like that.
        """
        self._set_vote(handler)
        return handler

    @overload
    def on_notice(self, handler: AsyncNotice) -> AsyncNotice: ...
    @overload
    def on_notice(self, handler: PlainNotice) -> PlainNotice: ...
    def on_notice(self, handler: NoticeHandler) -> NoticeHandler:
        """Sets what is told of events, and returns it.

        It takes a :class:`Notice` and returns None when the application is prepared. Whatever it
        does, the event happens when the window ends. It is cancelled like that of votes, and
        failures are treated like those.

        Raises:
            RuntimeError: it is set already, or the application is running.
            TypeError: it can't be called, or not like that.
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
        """The name it registers with."""
        return self._terms.name

    @property
    def registered(self) -> bool:
        """Whether the guest daemon counts on this application at this moment."""
        membership = self._membership
        return membership is not None and membership.registered and membership.is_here()

    async def wait_registered(self) -> None:
        """Returns once the application is registered; put a timeout around it if it matters.

        It has a checkpoint only if it waits.

        Raises:
            Refused: the guest daemon's last word was that it does not accept the registration. That
                is tried again like any other failure, for the daemon may change its mind.
            RuntimeError: the application is not running.
        """
        while not self._is_registered():
            await self._running().changed()

    def _is_registered(self) -> bool:
        """The same, if it is known yet: raises what :meth:`wait_registered` does."""
        membership = self._running()
        if membership.refused and not membership.registered:
            raise Refused(
                f"the guest daemon does not accept {self.name} with a heartbeat every "
                f"{self._terms.heartbeat_s:g} s"
            )
        return membership.registered

    def _running(self) -> Membership:
        if self._membership is None or not self._membership.is_here():
            raise RuntimeError(f"application {self.name} is not running")
        return self._membership

    def _listen(self, listener: Callable[[], None]) -> None:
        """Has this called in the event loop whenever it may be known, until the block is left."""
        self._running().listener = listener

    # -- its run ----------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._tasks is not None:
            raise RuntimeError(f"application {self.name} is running already")
        self._membership = Membership(self._terms, self._handlers, self._socket, self._jitter)
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
            # An exception of the block is to reach the author as it is, in no group, and so is its
            # cancellation.
            await tasks.__aexit__(None, None, None)
        except BaseExceptionGroup as group:
            # And so is one that came up in here: Ctrl-C, which trio raises wherever it likes.
            raise _alone(group) from None
        finally:
            self._tasks = self._membership = None
            membership.end()


def _has_event_loop() -> bool:
    """Whether there is one, which is so in a child forked under trio; asyncio's stays behind."""
    try:
        anyio.current_time()
    except RuntimeError:
        return False
    return True


def _alone(error: BaseException) -> BaseException:
    """What is in a group, and in the groups in it, if it is the only one."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
