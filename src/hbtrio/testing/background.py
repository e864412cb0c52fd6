"""A scripted guest for tests without an event loop, in a thread of its own."""

from __future__ import annotations

import os
from contextlib import ExitStack
from datetime import datetime
from types import TracebackType
from typing import Self

from anyio.from_thread import BlockingPortal, start_blocking_portal

from hbtrio.testing.answers import Answer, Health
from hbtrio.testing.application import WAIT_S, GuestApplication
from hbtrio.testing.guest import ScriptedGuest
from hbtrio.wire.vocabulary import Event


class BackgroundApplication:
    """An application at a :class:`BackgroundGuest`; as :class:`GuestApplication`, but blocking."""

    def __init__(self, application: GuestApplication, portal: BlockingPortal) -> None:
        self._application = application
        self._portal = portal

    @property
    def name(self) -> str:
        """The name of its last registration."""
        return self._application.name

    @property
    def registered(self) -> bool:
        """Whether it is registered now."""
        return self._application.registered

    @property
    def heartbeat_s(self) -> float:
        """The interval of its registration, in seconds."""
        return self._application.heartbeat_s

    @property
    def health(self) -> Health:
        """Its health by its last answer to a challenge."""
        return self._application.health

    @property
    def answers(self) -> list[Answer]:
        """The answers to all votes and notices so far, in order of their end."""
        return self._application.answers

    def window_s(self, event: Event | str, *, vote: bool) -> int:
        """Returns the window that it registered for a vote or notice, in seconds."""
        return self._application.window_s(event, vote=vote)

    def vote(
        self,
        event: Event | str,
        *,
        window_s: float | None = None,
        planned_at: datetime | None = None,
        max_extension_s: int = 0,
    ) -> Answer:
        """See :meth:`GuestApplication.vote`."""
        return self._portal.call(
            lambda: self._application.vote(
                event,
                window_s=window_s,
                planned_at=planned_at,
                max_extension_s=max_extension_s,
            )
        )

    def notify(
        self,
        event: Event | str,
        *,
        window_s: float | None = None,
        planned_at: datetime | None = None,
        max_extension_s: int = 0,
    ) -> Answer:
        """See :meth:`GuestApplication.notify`."""
        return self._portal.call(
            lambda: self._application.notify(
                event,
                window_s=window_s,
                planned_at=planned_at,
                max_extension_s=max_extension_s,
            )
        )

    def wait_ready(self, event: Event | str, *, timeout_s: float = WAIT_S) -> None:
        """See :meth:`GuestApplication.wait_ready`."""
        self._portal.call(lambda: self._application.wait_ready(event, timeout_s=timeout_s))

    def challenge(self, *, timeout_s: float = WAIT_S) -> Health:
        """See :meth:`GuestApplication.challenge`."""
        return self._portal.call(lambda: self._application.challenge(timeout_s=timeout_s))

    def withhold_challenges(self) -> None:
        """See :meth:`GuestApplication.withhold_challenges`."""
        self._portal.call(self._application.withhold_challenges)

    def resume_challenges(self) -> None:
        """See :meth:`GuestApplication.resume_challenges`."""
        self._portal.call(self._application.resume_challenges)

    def wait_health(self, state: str, *, timeout_s: float = WAIT_S) -> Health:
        """See :meth:`GuestApplication.wait_health`."""
        return self._portal.call(lambda: self._application.wait_health(state, timeout_s=timeout_s))

    def disconnect(self) -> None:
        """See :meth:`GuestApplication.disconnect`."""
        self._portal.call(self._application.disconnect)


class BackgroundGuest:
    """A scripted guest in a thread with its own asyncio event loop; a context manager.

    As :class:`ScriptedGuest`, but its methods block, and may be called from any thread.

    Args:
        socket: as for :class:`ScriptedGuest`.
    """

    def __init__(self, socket: str | os.PathLike[str] | None = None) -> None:
        self._guest = ScriptedGuest(socket)
        self._stack = ExitStack()
        self._running: BlockingPortal | None = None

    @property
    def socket(self) -> str:
        """The path where applications connect; see :attr:`ScriptedGuest.socket`."""
        return self._guest.socket

    @property
    def refuses(self) -> bool:
        """Whether registrations are refused."""
        return self._guest.refuses

    @refuses.setter
    def refuses(self, refuses: bool) -> None:
        self._guest.refuses = refuses

    @property
    def applications(self) -> list[BackgroundApplication]:
        """The registered applications, in the order in which they connected."""
        found = self._portal.call(lambda: self._guest.applications)
        return [BackgroundApplication(one, self._portal) for one in found]

    def __enter__(self) -> Self:
        if self._running is not None:
            raise RuntimeError("the scripted guest is running already")
        with ExitStack() as stack:
            portal = stack.enter_context(start_blocking_portal("asyncio"))
            stack.enter_context(portal.wrap_async_context_manager(self._guest))
            self._running, self._stack = portal, stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()
        self._running = None

    def start(self) -> None:
        """See :meth:`ScriptedGuest.start`."""
        self._portal.call(self._guest.start)

    def stop(self) -> None:
        """See :meth:`ScriptedGuest.stop`."""
        self._portal.call(self._guest.stop)

    def restart(self) -> None:
        """See :meth:`ScriptedGuest.restart`."""
        self._portal.call(self._guest.restart)

    def wait_registered(
        self, name: str | None = None, *, timeout_s: float = WAIT_S
    ) -> BackgroundApplication:
        """See :meth:`ScriptedGuest.wait_registered`."""
        found = self._portal.call(lambda: self._guest.wait_registered(name, timeout_s=timeout_s))
        return BackgroundApplication(found, self._portal)

    def wait_gone(self, name: str, *, timeout_s: float = WAIT_S) -> None:
        """See :meth:`ScriptedGuest.wait_gone`."""
        self._portal.call(lambda: self._guest.wait_gone(name, timeout_s=timeout_s))

    @property
    def _portal(self) -> BlockingPortal:
        if self._running is None:
            raise RuntimeError("the scripted guest is not running")
        return self._running
