"""QEMU's control socket: commands and events as JSON lines.

Also a command of its own, for what ``hbtrio ctl act`` is to run::

    python qmp.py SOCKET system_reset
    python qmp.py SOCKET migrate uri=unix:/PATH --until-migrated --then-quit
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import trio

#: Replies come within milliseconds, but a busy machine may have other things to do.
REPLY_S: Final = 20.0

_LINE_BYTES: Final = 1_000_000


class QmpError(Exception):
    """QEMU refused a command, or went away."""


class Qmp:
    """A connection to one QEMU; it bears one for each socket.

    Args:
        stream: its socket.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._buffer = bytearray()
        #: Events that nobody has waited for yet.
        self._events: list[dict[str, Any]] = []

    @classmethod
    async def connect(cls, path: Path) -> Qmp:
        """Connects and shakes hands.

        Raises:
            OSError: nobody listens there.
        """
        qmp = cls(await trio.open_unix_socket(str(path)))
        with trio.fail_after(REPLY_S):
            await qmp._next()
        await qmp("qmp_capabilities")
        return qmp

    async def __call__(self, command: str, **arguments: Any) -> Any:
        """Carries out a command and returns what it returns.

        Raises:
            QmpError: it was refused.
        """
        line = json.dumps({"execute": command, "arguments": arguments}).encode()
        await self._stream.send_all(line + b"\n")
        with trio.fail_after(REPLY_S):
            while True:
                said = await self._next()
                if "return" in said:
                    return said["return"]
                if "error" in said:
                    raise QmpError(f"{command}: {said['error']['desc']}")
                self._events.append(said)

    async def event(
        self, name: str, within_s: float, matches: Callable[[dict[str, Any]], bool] = bool
    ) -> dict[str, Any]:
        """The data of the first event of this name that was not waited for yet, and matches."""
        with trio.fail_after(within_s):
            while True:
                while self._events:
                    said = self._events.pop(0)
                    data = said.get("data", {})
                    if said["event"] == name and matches(data | {"event": name}):
                        assert isinstance(data, dict)
                        return data
                self._events.append(await self._next())

    async def until_migrated(self, within_s: float = 60.0) -> dict[str, Any]:
        """Returns what QEMU says about a migration out of it, once it is completed.

        Raises:
            QmpError: it failed.
        """
        with trio.fail_after(within_s):
            while True:
                about: dict[str, Any] = await self("query-migrate")
                match about.get("status"):
                    case "completed":
                        return about
                    case "failed" | "cancelled":
                        raise QmpError(f"migration {about['status']}: {about}")
                await trio.sleep(0.02)

    async def ended(self) -> None:
        """Returns once QEMU has hung up."""
        with trio.fail_after(REPLY_S), contextlib.suppress(QmpError):
            while True:
                await self._next()

    async def aclose(self) -> None:
        """Hangs up; QEMU goes on."""
        await trio.aclose_forcefully(self._stream)

    async def _next(self) -> dict[str, Any]:
        while (end := self._buffer.find(b"\n")) < 0:
            try:
                data = await self._stream.receive_some(65536)
            except trio.BrokenResourceError as error:
                raise QmpError("QEMU has gone") from error
            if not data or len(self._buffer) > _LINE_BYTES:
                raise QmpError("QEMU has gone")
            self._buffer += data
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        said = json.loads(line)
        assert isinstance(said, dict)
        return said


async def _main(options: argparse.Namespace) -> None:
    qmp = await Qmp.connect(Path(options.socket))
    await qmp(options.command, **dict(text.split("=", 1) for text in options.arguments))
    if options.until_migrated:
        about = await qmp.until_migrated()
        print(f"migrated, {about['downtime']} ms down")
    if options.then_quit:
        await qmp("quit")
        await qmp.ended()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("socket")
    parser.add_argument("command")
    parser.add_argument("arguments", nargs="*", metavar="NAME=VALUE")
    parser.add_argument("--until-migrated", action="store_true")
    parser.add_argument("--then-quit", action="store_true")
    try:
        trio.run(_main, parser.parse_args())
    except (QmpError, OSError, trio.TooSlowError) as error:
        sys.exit(f"qmp: {error!r}")
