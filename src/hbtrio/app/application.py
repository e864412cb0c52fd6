"""An application as its author sees it: handlers, and a block in which it is registered."""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable
from contextlib import closing
from types import TracebackType
from typing import Final, Self, TypeVar

import anyio
import attrs
from anyio.abc import TaskGroup

from hbtrio.app.answers import Accept, Healthy, Reject, Unhealthy
from hbtrio.app.connection import Connection, Handlers
from hbtrio.app.handlers import Handler
from hbtrio.app.questions import Notice, Vote
from hbtrio.app.stream import GuestStream
from hbtrio.app.terms import DEFAULT_SOCKET, Refused, Terms, socket_path
from hbtrio.fsm.backoff import Backoff
from hbtrio.wire.vocabulary import CorrectiveAction

_log = logging.getLogger("hbtrio.app")

#: The wait between two attempts to register: doubling from the first to the last, in seconds.
FIRST_RETRY_S: Final = 0.5
LAST_RETRY_S: Final = 10.0

HealthHandler = Callable[[], Healthy | Unhealthy | Awaitable[Healthy | Unhealthy]]
VoteHandler = Callable[[Vote], Accept | Reject | Awaitable[Accept | Reject]]
NoticeHandler = Callable[[Notice], Awaitable[None] | None]

_H = TypeVar("_H", bound=HealthHandler)
_V = TypeVar("_V", bound=VoteHandler)
_N = TypeVar("_N", bound=NoticeHandler)


class Application:
    """An application that takes part in its VM's heartbeat, votes and notices.

    Enter it with ``async with``: it is registered with the guest daemon for as long as the block
    runs. Entering waits for nothing: if the daemon is not there yet, or restarts, the application
    is registered as soon as it can be, after 0.5 s and then at growing intervals of up to 10 s.
    Leaving the block signs it off, which is no failure. Handlers must be in place before, so that
    nothing can be asked that nobody answers; they run only inside the block.

    Under trio and under asyncio alike. An application may be entered again after it was left.

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
        corrective_action: CorrectiveAction | str = CorrectiveAction.LOG,
        health_every_s: float | None = None,
        on_health: HealthHandler | None = None,
        on_vote: VoteHandler | None = None,
        on_notice: NoticeHandler | None = None,
        socket: str | os.PathLike[str] = DEFAULT_SOCKET,
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
        self._handlers = Handlers(None, None, None)
        self._tasks: TaskGroup | None = None
        self._registered = False
        self._refused = False
        self._news: anyio.Event
        self._last_trouble = ""
        if on_health is not None:
            self.on_health(on_health)
        if on_vote is not None:
            self.on_vote(on_vote)
        if on_notice is not None:
            self.on_notice(on_notice)

    # -- handlers ---------------------------------------------------------------------------

    def on_health(self, handler: _H) -> _H:
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
        """
        self._may_set("health", self._handlers.health)
        health = Handler[Healthy | Unhealthy](
            handler, "health", (Healthy, Unhealthy), every_failure=False
        )
        self._handlers = attrs.evolve(self._handlers, health=health)
        return handler

    def on_vote(self, handler: _V) -> _V:
        """Sets what answers votes, and returns it.

        It takes a :class:`Vote` and returns :class:`Accept` or :class:`Reject`. Without it all is
        accepted. If it raises, is not done by ``vote.deadline`` (it is cancelled then) or returns
        something else, it has not answered: that is agreement when the window ends, and an error in
        the log. It is cancelled as well when the guest goes on to the next question, when the
        connection is lost, and when the block is left.

        Raises:
            RuntimeError: it is set already, or the application is running.
        """
        self._may_set("vote", self._handlers.vote)
        vote = Handler[Accept | Reject](handler, "vote", (Accept, Reject), every_failure=True)
        self._handlers = attrs.evolve(self._handlers, vote=vote)
        return handler

    def on_notice(self, handler: _N) -> _N:
        """Sets what is told of events, and returns it.

        It takes a :class:`Notice` and returns None when the application is prepared. Whatever it
        does, the event happens when the window ends. It is cancelled like that of votes, and
        failures are treated like those.

        Raises:
            RuntimeError: it is set already, or the application is running.
        """
        self._may_set("notice", self._handlers.notice)
        notice = Handler[None](handler, "notice", (type(None),), every_failure=True)
        self._handlers = attrs.evolve(self._handlers, notice=notice)
        return handler

    def _may_set(self, what: str, current: object) -> None:
        if self._tasks is not None:
            raise RuntimeError(f"the {what} handler must be set before the application runs")
        if current is not None:
            raise RuntimeError(f"the {what} handler is set already")

    # -- state ------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The name it registers with."""
        return self._terms.name

    @property
    def registered(self) -> bool:
        """Whether the guest daemon counts on this application at this moment."""
        return self._registered

    async def wait_registered(self) -> None:
        """Returns once the application is registered; put a timeout around it if it matters.

        It has a checkpoint only if it waits.

        Raises:
            Refused: the guest daemon's last word was that it does not accept the registration. That
                is tried again like any other failure, for the daemon may change its mind.
            RuntimeError: the application is not running.
        """
        while not self._registered:
            if self._tasks is None:
                raise RuntimeError(f"application {self.name} is not running")
            if self._refused:
                raise Refused(
                    f"the guest daemon does not accept {self.name} with a heartbeat every "
                    f"{self._terms.heartbeat_s:g} s"
                )
            await self._news.wait()

    # -- its run ----------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._tasks is not None:
            raise RuntimeError(f"application {self.name} is running already")
        self._refused = False
        self._news = anyio.Event()
        self._tasks = await anyio.create_task_group().__aenter__()
        self._tasks.start_soon(self._stay_registered)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        tasks = self._tasks
        assert tasks is not None
        tasks.cancel_scope.cancel()
        try:
            # An exception of the block is to reach the author as it is, in no group, and so is its
            # cancellation.
            await tasks.__aexit__(None, None, None)
        except BaseExceptionGroup as group:
            # And so is one that came up in here: Ctrl-C, which trio raises wherever it likes.
            raise _alone(group) from None
        finally:
            self._tasks = None
            self._tell(registered=False)

    async def _stay_registered(self) -> None:
        backoff = Backoff(FIRST_RETRY_S, LAST_RETRY_S)
        while True:
            try:
                stream = GuestStream.connect(self._socket)
            except OSError as error:
                self._trouble(f"{self._socket}: {(error.strerror or str(error)).lower()}")
            else:
                with closing(stream):
                    await self._attend(Connection(stream, self._terms, self._handlers), backoff)
            await anyio.sleep(backoff.next_delay_s())

    async def _attend(self, connection: Connection, backoff: Backoff) -> None:
        accepted = await connection.register()
        if not accepted:
            if accepted is None:
                self._trouble("the guest daemon did not answer the registration")
            else:
                self._trouble("the guest daemon refused the registration", logging.ERROR)
                self._refused = True
            self._tell(registered=False)
            return
        _log.info("%s is registered with the guest daemon", self.name)
        backoff.reset()
        self._refused, self._last_trouble = False, ""
        self._tell(registered=True)
        try:
            await connection.serve()
        except anyio.get_cancelled_exc_class():
            # Before the connection is closed, and bounded in time.
            await connection.say_farewell()
            raise
        finally:
            self._tell(registered=False)
        self._trouble("the guest daemon has gone", logging.WARNING)

    def _trouble(self, text: str, level: int = logging.INFO) -> None:
        """Logs why it is not registered; what does not change is not news."""
        if text == self._last_trouble:
            level = logging.DEBUG
        self._last_trouble = text
        _log.log(level, "%s is not registered: %s", self.name, text)

    def _tell(self, *, registered: bool) -> None:
        self._registered = registered
        self._news.set()
        self._news = anyio.Event()


def _alone(error: BaseException) -> BaseException:
    """What is in a group, and in the groups in it, if it is the only one."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
