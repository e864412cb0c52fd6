"""Hosts that mean an agent no good, at its link, and HTTP clients at its addresses: a process.

    python -m support.hostile_links LINK PORT PORT

Each function attacks over connections that it makes itself, one after the other, until the process
is killed.
"""

from __future__ import annotations

import itertools
import os
import random
import sys
import uuid
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Final

import attrs
import trio

from hbtrio.wire.link_codec import encode_link
from hbtrio.wire.link_messages import ActionProgress, Goodbye, Hello, LinkReport, Ping, Reply
from hbtrio.wire.vocabulary import CorrectiveAction, Event, VoteResult
from support.agent_world import request_bytes
from support.scripted_host import INSTANCE

Connect = Callable[[], Awaitable[trio.abc.Stream]]

#: What is written into a text of a message: all of it is to stay a text.
INJECTED: Final = (
    "--force",
    "\n2026-01-01 00:00:00 CRITICAL hbtrio: ALARM: all is lost",
    "\x1b[2J\x9b31m\u202e\u2028\x85$(reboot) `reboot` {uuid} %s %n",
    "x" * 1900,
)

#: Bytes of one write.
_WRITE: Final = 32_768


def _some_uuid() -> str:
    return str(uuid.UUID(int=random.getrandbits(128)))


def _reports(numbers: Iterator[int], command_id: str = "") -> bytes:
    return b"".join(
        encode_link(
            LinkReport(
                next(numbers),
                "2025-01-01T00:00:00+00:00",
                kind,
                _some_uuid(),
                text,
                Event.STOP,
                VoteResult.REJECT,
                CorrectiveAction.REBOOT,
                command_id,
            )
        )
        for kind in ("loss", "unhealthy", "vote", "nonsense")
        for text in INJECTED
    )


def _answers(_: Iterator[int]) -> bytes:
    """Of commands that nobody gave."""
    return b"".join(
        encode_link(message)
        for text in INJECTED
        for message in (
            Reply(_some_uuid(), True, text, 44),
            ActionProgress(
                _some_uuid(), '{"step":"end","outcome":"done","reason":"%s"}', last=True
            ),
        )
    )


def _instances(_: Iterator[int]) -> bytes:
    return b"".join(
        encode_link(attrs.evolve(INSTANCE, uuid=_some_uuid(), name=text[:255], why=text))
        for text in INJECTED
    )


def _number(_: Iterator[int]) -> bytes:
    text = random.choice(("NaN", "Infinity", "1e999", "-1", "9" * 4000, '"\\ud800"'))
    return b'{"type":"ping","number":%b}\n' % text.encode()


def _bomb(_: Iterator[int]) -> bytes:
    return random.choice((b"[" * 20_000, b'{"a":' * 4000, b'{"type":"ping",' * 1000)) + b"\n"


def _duplicates(_: Iterator[int]) -> bytes:
    return b'{"type":"ping","type":"goodbye","number":1,"number":2,"reason":"x"}\n'


#: What a host does that is welcome at first, again and again on one connection.
WELCOME: Final[dict[str, Callable[[Iterator[int]], bytes]]] = {
    "reports": _reports,
    "unasked": _answers,
    "instances": _instances,
    "numbers": _number,
    "bombs": _bomb,
    "duplicates": _duplicates,
    "pings": lambda numbers: encode_link(Ping(next(numbers))) * 100,
    "endless line": lambda _: b"x" * 65536,
    "garbage": lambda _: os.urandom(2000) + b"\n",
    "leaver": lambda _: encode_link(Goodbye(random.choice(INJECTED))),
}


async def hostile_host(
    connect: Connect, name: str, write: Callable[[Iterator[int]], bytes]
) -> None:
    """A host that says hello, and then only this; it reads nothing."""
    numbers = itertools.count(1)
    while True:
        hello = Hello(1, name, "", f"boot-{random.getrandbits(30)}", "9.9.9", 0)
        await _attack(connect, encode_link(hello), lambda: write(numbers))


#: What a stranger says, who never becomes a host.
STRANGERS: Final[tuple[Callable[[], bytes], ...]] = (
    lambda: os.urandom(2000) + b"\n",
    lambda: b"x" * 65536,
    lambda: b"[" * 20_000 + b"\n",
    lambda: b'{"type":"hello","protocol":NaN}\n',
    lambda: encode_link(Hello(1, random.choice(INJECTED)[:255], "", "b", "v", 0)),
    lambda: encode_link(Hello(1, "evil", "\u202e\n", "b", "v", 0)),
    lambda: b"",
)


async def stranger(connect: Connect, write: Callable[[], bytes]) -> None:
    """One that is refused, and comes again at once."""
    while True:
        await _attack(connect, b"", write, times=1)


def _get(path: str) -> bytes:
    return request_bytes("GET", path)


#: What a client says.
CLIENTS: Final[tuple[Callable[[], bytes], ...]] = (
    lambda: os.urandom(2000),
    lambda: b"",
    lambda: b"GET /" + b"x" * 65536,
    lambda: b"POST /v1/instances HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n" + b"[" * 20_000,
    lambda: _get("/v1/status") * 50,
    lambda: _get("/v1/instances/" + "%0a%1b[2J%e2%80%ae" * 20),
    lambda: request_bytes("POST", f"/v1/instances/{_some_uuid()}/vote", b'{"uuid":NaN}'),
    lambda: request_bytes("POST", f"/v1/instances/{_some_uuid()}", b"[" * 20_000),
    lambda: request_bytes("POST", f"/v1/instances/{_some_uuid()}", {"uuid": INJECTED[2]}),
    lambda: b"GET /v1/events HTTP/1.1\r\nAuthorization: Bearer \xff\x00\r\n\r\n",
)


async def client(connect: Connect, write: Callable[[], bytes]) -> None:
    """One that asks, reads nothing and comes again."""
    while True:
        await _attack(connect, b"", write, times=2)


async def _attack(
    connect: Connect, first: bytes, write: Callable[[], bytes], times: int | None = None
) -> None:
    """Connects and writes until cut off, or so many times."""
    try:
        stream = await connect()
    except OSError:
        await trio.sleep(0.05)
        return
    async with stream:
        try:
            with trio.move_on_after(2):
                await stream.send_all(first)
                for _ in itertools.count() if times is None else range(times):
                    await stream.send_all(write())
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        await trio.sleep(0.01)


async def _main(link: str, *ports: int) -> None:
    dial = partial(trio.open_unix_socket, link)
    async with trio.open_nursery() as nursery:
        for name, write in WELCOME.items():
            nursery.start_soon(hostile_host, dial, name_of(name), write)
        for say in STRANGERS:
            nursery.start_soon(stranger, dial, say)
        for port in ports:
            for ask in CLIENTS:
                nursery.start_soon(client, partial(trio.open_tcp_stream, "127.0.0.1", port), ask)


def name_of(kind: str) -> str:
    """The name of the hostile host of this kind."""
    return f"evil-{kind.replace(' ', '-')}"


if __name__ == "__main__":
    trio.run(_main, sys.argv[1], *map(int, sys.argv[2:]))
