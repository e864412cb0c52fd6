"""Makes a daemon's notifier of ``[notify]`` in its configuration."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from functools import partial

from hbtrio.config.expansion import expand
from hbtrio.config.notify import NotifySettings
from hbtrio.net.tls_files import client_files, token_files
from hbtrio.nursery.file_watch import FileWatch
from hbtrio.nursery.notifier import AlertChannel, Notifier
from hbtrio.nursery.notify_command import NotifyCommand
from hbtrio.system.runner import ProcessRunner


@asynccontextmanager
async def open_notifier(
    settings: NotifySettings,
    file: str,
    processes: ProcessRunner,
    *,
    hostname: str,
    files: FileWatch,
    wall_clock: Callable[[], datetime],
) -> AsyncIterator[Notifier]:
    """Makes a notifier, whose connections are closed with the block; the caller runs it.

    Args:
        settings: what the configuration says.
        file: the configuration file, for faults.
        processes: runs the command.
        hostname: the daemon's host.
        files: uses secret and certificates when they are renewed.
        wall_clock: the wall clock with its zone.

    Raises:
        UserError: the secret or the certificates can't be used.
    """
    where = f"{file}: notify"
    channels: list[AlertChannel] = []
    async with AsyncExitStack() as stack:
        if settings.command:
            argv_of = partial(expand, settings.command)
            channels.append(NotifyCommand(argv_of, processes, settings.timeout_s))
        if settings.webhook:
            # Here: httpx is a tenth of a second of a host's start, and 8 MiB of its memory.
            from hbtrio.net.webhook import Webhook

            secret, tls = None, None
            if settings.secret_file:
                secret_file = token_files(settings.secret_file, f"{where}.secret_file")
                files.add(f"{where}.secret_file", secret_file)
                secret = partial(getattr, secret_file, "value")
            if settings.webhook.startswith("https:"):
                tls = client_files(where, authority=settings.authority, keys="notify.")
                files.add_tls(where, tls)
            webhook = Webhook(settings.webhook, secret, tls, settings.timeout_s, time.time)
            stack.push_async_callback(webhook.aclose)
            channels.append(webhook)
        yield Notifier(
            channels,
            per_minute=settings.per_minute,
            hostname=hostname,
            wall_clock=wall_clock,
            new_id=lambda: str(uuid.uuid4()),
        )
