"""Starts the daemons of a lab, ensures that they end, and waits until they serve."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import trio

from hbtrio.errors import ExitStatus, UserError
from hbtrio.lab.daemon import Daemon, log_tail
from hbtrio.system.reaper_link import ReaperLink

#: How long a daemon may take from its start until it serves its control socket, in seconds.
_START_S: Final = 15.0
_PROBE_S: Final = 0.02


class Launcher:
    """Starts daemons that always end with the lab.

    Args:
        nursery: watches the daemons; a daemon that ends by itself cancels it.
        reaper: ends the daemons if the lab's process is killed.
    """

    def __init__(self, nursery: trio.Nursery, reaper: ReaperLink) -> None:
        self._nursery = nursery
        self._reaper = reaper

    async def launch(
        self,
        name: str,
        arguments: Sequence[str],
        log: Path,
        *,
        module: str = "hbtrio",
        stdout: bool = False,
        env: Mapping[str, str] | None = None,
    ) -> Daemon:
        """Starts a daemon; the arguments are those of :meth:`Daemon.start`."""
        with self._reaper.starting(env) as given:
            daemon = await Daemon.start(
                name, arguments, log, module=module, stdout=stdout, env=given
            )
            self._reaper.add(daemon.pid)
        self._nursery.start_soon(self._watch, daemon)
        return daemon

    async def _watch(self, daemon: Daemon) -> None:
        try:
            await daemon.watch()
        finally:
            self._reaper.discard(daemon.pid)


async def until_it_serves(daemon: Daemon, place: Path | int) -> None:
    """Waits until a daemon accepts connections at its control socket, or at a port of the loopback.

    Raises:
        UserError: the daemon did not serve in time.
    """
    with trio.move_on_after(_START_S):
        while not _serves(place):  # noqa: ASYNC110 - another process sets no Event
            await trio.sleep(_PROBE_S)
        return
    tail = log_tail(daemon.name, daemon.log)
    raise UserError(f"{daemon.name} did not serve within {_START_S:g} s\n{tail}", ExitStatus.FAILED)


def _serves(place: Path | int) -> bool:
    is_port = isinstance(place, int)
    with socket.socket(socket.AF_INET if is_port else socket.AF_UNIX) as probe:
        # Not trio's: it takes EAGAIN, a full backlog, for a connection in progress. One to the
        # loopback is made or refused at once, but a socket that does not block says so later.
        probe.settimeout(_PROBE_S if is_port else 0)
        try:
            probe.connect(("127.0.0.1", place) if is_port else str(place))
        except OSError:
            return False
        return True


def write_toml(path: Path, settings: Mapping[str, Any]) -> None:
    """Writes a configuration of keys and tables of keys, and tables in those."""

    def line(name: str, value: object) -> str:
        if isinstance(value, dict):
            return f"{name} = {{ {', '.join(line(key, one) for key, one in value.items())} }}"
        # JSON strings, numbers, booleans and lists are valid TOML, except for escaped surrogate
        # pairs.
        return f"{name} = {json.dumps(value, ensure_ascii=False)}"

    lines = [line(name, value) for name, value in settings.items() if not isinstance(value, dict)]
    for name, table in settings.items():
        if isinstance(table, dict):
            lines += [f"[{name}]", *(line(key, value) for key, value in table.items())]
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")
