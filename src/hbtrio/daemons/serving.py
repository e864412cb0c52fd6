"""Serves the HTTP APIs of host and agent, and holds what they need from outside."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import attrs
import trio

from hbtrio.api.auth import OperatorAdmission, VimAdmission
from hbtrio.api.control import ControlAdmission
from hbtrio.http.server import serve_http
from hbtrio.log.subject import Find
from hbtrio.net.connections import Listener
from hbtrio.net.tls_files import TlsFiles
from hbtrio.nursery.supervisor import Supervisor


class DaemonLog(Protocol):
    """The part of a :class:`~hbtrio.log.LogQueue` that a daemon uses."""

    #: What is known of whom a line names.
    find: Find

    @property
    def lines_dropped(self) -> int:
        """How many lines were lost."""

    def shed(self, shedding: bool) -> None:  # noqa: FBT001 - a callback with this one argument
        """Drops and counts lines below level warning from now on, or logs them again."""


@attrs.frozen
class ApiEndpoint:
    """Where an API is served, and what is needed to get in.

    Args:
        address: where that is, for the log.
        listen: opens its listeners.
        token: returns the token; None if there is none.
        tls: its certificates; None without TLS.
    """

    address: str
    listen: Callable[[], Awaitable[Sequence[Listener]]]
    token: Callable[[], str] | None = None
    tls: TlsFiles | None = None


async def serve_api(
    whose: str,
    api: ControlAdmission | OperatorAdmission | VimAdmission,
    listeners: Sequence[Listener],
    tls: TlsFiles | None,
    *,
    supervisor: Supervisor,
    log: logging.Logger,
    task_status: trio.TaskStatus[None],
) -> None:
    """Serves an API until cancelled; a programming error in it is logged and counted.

    Args:
        whose: names the API in the log.
        api: the application behind its admission.
        listeners: closed at the end.
        tls: its certificates; None without TLS.
        supervisor: counts programming errors.
        log: the daemon's logger.
        task_status: started as soon as connections are accepted.
    """

    def crashed(error: BaseException) -> None:
        supervisor.count_crash()
        log.error("%s API failed", whose, exc_info=error)

    await serve_http(
        api,
        listeners,
        tls=tls,
        classes=api.classes,
        on_crash=crashed,
        task_status=task_status,
    )
