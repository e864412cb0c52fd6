"""Applications for programs made of plain threads, without an event loop of their own.

::

    from hbtrio.app import Application, Notice
    from hbtrio.app.sync import in_background

    def drain(notice: Notice) -> None: ...

    with in_background(Application("web", on_notice=drain)):
        server.serve_forever()
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import anyio
from anyio.from_thread import BlockingPortal, start_blocking_portal

from hbtrio.app.application import Application


class Background:
    """An application that runs in the background. Its methods may be called from any thread."""

    def __init__(self, app: Application, portal: BlockingPortal) -> None:
        self._app = app
        self._portal = portal

    @property
    def registered(self) -> bool:
        """Whether the guest daemon counts on the application at this moment."""
        return self._app.registered

    def wait_registered(self, timeout_s: float) -> None:
        """Blocks until the application is registered.

        Args:
            timeout_s: how long it waits at the most, in seconds.

        Raises:
            Refused: the guest daemon's last word was that it does not accept the registration.
            RuntimeError: the application is not running any more.
            TimeoutError: it is not registered yet.
        """
        self._portal.call(self._wait_registered, timeout_s)

    async def _wait_registered(self, timeout_s: float) -> None:
        with anyio.fail_after(timeout_s):
            await self._app.wait_registered()


@contextmanager
def in_background(app: Application) -> Iterator[Background]:
    """Runs an application in an event loop (asyncio's) in a thread of its own.

    It is registered for as long as the block runs, as with ``async with``. Functions that are its
    handlers are called in further threads, one at a time for votes and notices (a thread whose
    window has closed can't be stopped: its result is dropped), one for the health. They may block;
    coroutine functions run in the loop and must not.

    Leaving the block waits for no handler in a thread: those are daemons, which end with the
    process.

    Raises:
        RuntimeError: the application is running already.
    """
    with (
        start_blocking_portal("asyncio", name=f"hbtrio.app {app.name}") as portal,
        portal.wrap_async_context_manager(app),
    ):
        yield Background(app, portal)
