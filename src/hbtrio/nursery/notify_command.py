"""Delivers alerts by running a command for each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from hbtrio.system.runner import ProcessNotStarted, ProcessRunner
from hbtrio.wire.alert import Told, Undelivered
from hbtrio.wire.channel_codec import plain_text

#: Bytes of a tenant's text, or of a command's complaint, that are passed on.
_TEXT_BYTES: Final = 223


class NotifyCommand:
    """Runs a command for each alert.

    Args:
        argv_of: replaces the placeholders of the command, given their values by name.
        processes: runs it.
        timeout_s: how long it may take.
    """

    name = "command"

    def __init__(
        self,
        argv_of: Callable[..., list[str]],
        processes: ProcessRunner,
        timeout_s: float,
    ) -> None:
        self._argv_of = argv_of
        self._processes = processes
        self._timeout_s = timeout_s

    async def send(self, told: Told) -> None:
        """Runs the command; see :class:`~hbtrio.nursery.notifier.AlertChannel`."""
        alert = told.alert
        argv = self._argv_of(
            kind=alert.kind,
            severity=alert.severity,
            hostname=alert.hostname,
            uuid=alert.uuid,
            name=plain_text(alert.name, _TEXT_BYTES),
            reason=plain_text(alert.reason, _TEXT_BYTES),
            state=alert.state,
            time=told.time,
            json=told.body.decode(),
        )
        try:
            with trio.fail_after(self._timeout_s):
                result = await self._processes.run(argv)
        except trio.TooSlowError:
            raise Undelivered(f"timed out after {self._timeout_s:g} s") from None
        except ProcessNotStarted as error:
            raise Undelivered(f"{error.path}: {error.reason}") from None
        if result.exit_code != 0:
            ended = f"signal {result.signal}" if result.signal else f"exit {result.exit_code}"
            stderr = plain_text(result.stderr.decode("utf-8", "replace"), _TEXT_BYTES)
            raise Undelivered(f"{ended}: {stderr}")
