"""Endpoints in words: parsed, listened at and connected to, with faults in words."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from hbtrio.errors import BACKLOG_FULL, ExitStatus, UserError
from hbtrio.net.endpoints import Endpoint, Unreachable


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="hbt-") as folder:
        yield Path(folder)


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("unix:/run/x.sock", Endpoint(path="/run/x.sock")),
        ("tcp:127.0.0.1:2410", Endpoint(host="127.0.0.1", port=2410)),
        ("tcp:controller:1", Endpoint(host="controller", port=1)),
        ("tcp:[2001:db8::1]:65535", Endpoint(host="2001:db8::1", port=65535)),
    ],
)
def test_words_and_back(text: str, endpoint: Endpoint) -> None:
    assert Endpoint.parse(text) == endpoint
    assert str(endpoint) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "unix:x",
        "tcp:x",
        "tcp:x:",
        "tcp::1",
        "tcp:x:0",
        "tcp:x:65536",
        "tcp:x:１",
        "udp:x:1",
    ],
)
def test_what_is_none(text: str) -> None:
    with pytest.raises(UserError, match="neither unix:/PATH nor tcp:HOST:PORT"):
        Endpoint.parse(text)


async def test_a_unix_socket(place: Path) -> None:
    endpoint = Endpoint(path=str(place / "s"))
    with pytest.raises(Unreachable) as caught:
        await endpoint.connect()
    assert str(caught.value) == f"unix:{place}/s: no such file or directory"
    [listener] = await endpoint.listen(0o600)
    async with listener:
        assert (place / "s").stat().st_mode & 0o777 == 0o600
        stream = await endpoint.connect()
        await stream.aclose()
        with pytest.raises(UserError) as fault:
            await endpoint.listen()
        assert fault.value.status is ExitStatus.IN_USE


async def test_a_full_backlog_is_no_connection(place: Path) -> None:
    path = str(place / "s")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(path)
        listener.listen(0)
        first.connect(path)
        with pytest.raises(Unreachable) as caught:
            await Endpoint(path=path).connect()
    assert str(caught.value) == f"unix:{path}: {BACKLOG_FULL}"


async def test_tcp() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        endpoint = Endpoint(host="127.0.0.1", port=port)
        # Bound and not listening.
        with pytest.raises(Unreachable) as caught:
            await endpoint.connect()
        assert str(caught.value) == f"tcp:127.0.0.1:{port}: connection refused"
        other.listen()
        stream = await endpoint.connect()
        await stream.aclose()
        with pytest.raises(UserError) as fault:
            await endpoint.listen()
        assert str(fault.value) == f"tcp:127.0.0.1:{port}: address already in use"
        assert fault.value.status is ExitStatus.IN_USE


async def test_an_address_of_another_machine() -> None:
    with pytest.raises(UserError) as fault:
        await Endpoint(host="192.0.2.1", port=2411).listen()
    assert str(fault.value) == "tcp:192.0.2.1:2411: cannot assign requested address"
    # Nobody else uses it; and a machine that is booting may have it soon.
    assert fault.value.status is ExitStatus.FAILED


@pytest.mark.parametrize(
    ("number", "text", "status"),
    [
        (socket.EAI_NONAME, "Name or service not known", ExitStatus.USAGE),
        (socket.EAI_AGAIN, "Temporary failure in name resolution", ExitStatus.FAILED),
    ],
)
async def test_an_address_by_a_name_that_is_not_found(
    monkeypatch: pytest.MonkeyPatch, number: int, text: str, status: ExitStatus
) -> None:
    async def no_name(*_: object, **__: object) -> list[trio.SocketListener]:
        raise socket.gaierror(number, text)

    monkeypatch.setattr(trio, "open_tcp_listeners", no_name)
    with pytest.raises(UserError) as fault:
        await Endpoint(host="controller", port=2411).listen()
    assert str(fault.value) == f"tcp:controller:2411: {text.lower()}"
    assert fault.value.status is status


async def test_a_wait_for_an_answer_is_bounded_and_leaves_nothing_behind(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nobody(host: str, port: int) -> trio.SocketStream:
        return await trio.sleep_forever()

    monkeypatch.setattr(trio, "open_tcp_stream", nobody)
    with pytest.raises(Unreachable) as caught:
        await Endpoint(host="192.0.2.1", port=2411).connect()
    assert str(caught.value) == "tcp:192.0.2.1:2411: no answer within 5 s"
    assert trio.current_time() == 5.0
