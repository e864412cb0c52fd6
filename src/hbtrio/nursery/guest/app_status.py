"""Lists the applications of this guest at a socket of its own, for ``hbtrio apps``.

Not at the applications' socket: there every message has 228 bytes and is the deployed library's,
and whoever may connect is a tenant's process. This socket is for the daemon's user and root alone
(mode 0600), so that no application can read the others' reasons or keep the daemon busy. The daemon
reads nothing from it: a connection is the question. Answers are bounded in number and in time.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import trio

from hbtrio.errors import UserError
from hbtrio.net.accepting import accept_connections
from hbtrio.net.unix_socket import UnixListener, open_unix_listener
from hbtrio.policy.quota import Quota
from hbtrio.wire.app_status import GuestApplications, encode_status

_log = logging.getLogger("hbtrio.guest")

#: Answers in progress, and answers begun per second; further connections are closed at once.
AT_ONCE: Final = 4
PER_S: Final = 10

#: How long one answer may take, in seconds.
ANSWER_S: Final = 5.0

#: Opens the socket.
StatusListen = Callable[[], Awaitable[UnixListener]]


def status_listen(path: str) -> StatusListen:
    """Returns what opens the socket at a path, for the daemon's user and root alone."""
    return partial(open_unix_listener, path, 0o600)


class AppStatusSocket:
    """The status socket. The guest goes on without it if it can't be opened.

    Args:
        listen: opens the socket; raises UserError.
        status: makes the status.
    """

    def __init__(self, listen: StatusListen, status: Callable[[], GuestApplications]) -> None:
        self._listen = listen
        self._status = status
        self._listener: UnixListener | None = None
        self._opened = trio.Event()
        self._answering = 0
        self._answers = Quota(PER_S, 1.0)

    async def open(self) -> None:
        """Opens the socket, unless it is open; a fault is a warning."""
        if self._listener is not None:
            return
        try:
            self._listener = await self._listen()
        except UserError as error:
            _log.warning("`hbtrio apps` can't ask this guest: %s", error)
        else:
            self._opened.set()

    async def serve(self) -> None:
        """Waits until the socket is open, then serves it until cancelled, which closes it."""
        await self._opened.wait()
        assert self._listener is not None
        async with trio.open_nursery() as nursery:
            await accept_connections(
                self._answer,
                self._listener,
                nursery,
                whose="requests for the applications",
                to_the_last=False,
            )

    async def _answer(self, stream: trio.SocketStream) -> None:
        if self._answering >= AT_ONCE or not self._answers.take(trio.current_time()):
            return
        self._answering += 1
        try:
            with trio.move_on_after(ANSWER_S):
                await stream.send_all(encode_status(self._status()))
        except trio.BrokenResourceError:
            pass  # whoever asked has gone
        finally:
            self._answering -= 1
