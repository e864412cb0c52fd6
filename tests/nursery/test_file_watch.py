"""Renewed certificates and tokens at every endpoint, and warnings before they expire.

The certificates are real and so are the handshakes; what a running watch does every 10 s is called
directly. tests/e2e/test_renewed_certificates.py has the daemons that run it.
"""

from __future__ import annotations

import logging
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from hbtrio.http.server import serve_http
from hbtrio.net.endpoints import Endpoint, Unreachable
from hbtrio.net.tls import client_tls
from hbtrio.net.tls_files import TlsFiles, client_files, server_files, token_files
from hbtrio.nursery.agent.vim_client import VimClient
from hbtrio.nursery.file_watch import CHECK_S, FileWatch
from hbtrio.wire.vim import GuestResponse, VerdictEvent, patch_instance
from hbtrio.wire.vim_result import Delivered, NotSent
from hbtrio.wire.vocabulary import Event
from support.made_certificates import MadeAuthority, MadePair, in_days

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@attrs.define
class Wall:
    """A wall clock that a test sets."""

    now: datetime = attrs.field(factory=lambda: datetime.now(UTC))

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> MadeAuthority:
    return MadeAuthority.make(tmp_path_factory.mktemp("ca") / "ca")


def copied(folder: Path, pair: MadePair) -> MadePair:
    """A pair of its own that a test may renew."""
    own = MadePair(folder / "own.pem", folder / "own.key")
    own.take(pair)
    return own


async def renewed(watch: FileWatch) -> None:
    """What a running watch does within 20 s."""
    await watch.check()
    await watch.check()


async def app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"fine"})


@asynccontextmanager
async def serving(tls: TlsFiles) -> AsyncIterator[int]:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:

            async def serve(*, task_status: trio.TaskStatus[None]) -> None:
                await serve_http(
                    app, listeners, tls=tls, on_crash=pytest.fail, task_status=task_status
                )

            await nursery.start(serve)
            yield listeners[0].socket.getsockname()[1]
            nursery.cancel_scope.cancel()


async def shown_at(port: int, trusted: str) -> str:
    """When the certificate expires that a server shows."""
    tls = client_tls("test", authority=trusted)
    stream = await Endpoint(host="127.0.0.1", port=port).connect(tls)
    assert isinstance(stream, trio.SSLStream)
    text: str = stream.getpeercert()["notAfter"]
    await trio.aclose_forcefully(stream)
    return text


def as_shown(moment: datetime) -> str:
    return f"{moment:%b} {moment.day:2} {moment:%H:%M:%S %Y} GMT"


# -- servers: the VIM's address, the operators', and the link's is one more ------------------------


async def test_a_server_shows_the_renewed_certificate(
    tmp_path: Path, authority: MadeAuthority, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    own = copied(tmp_path, authority.issue("a5", "agent", soon := in_days(5)))
    newer = authority.issue("a90", "agent", later := in_days(90))
    files = server_files("agent.toml: vim", *own.names)
    watch = FileWatch()
    watch.add_tls("agent.toml: vim", files)
    async with serving(files) as port:
        assert await shown_at(port, authority.file) == as_shown(soon)
        own.take(newer)
        await renewed(watch)
        assert await shown_at(port, authority.file) == as_shown(later)
    assert caplog.text.count("agent.toml: vim: renewed files are in use") == 1


async def test_half_a_renewal_is_no_outage(
    tmp_path: Path, authority: MadeAuthority, caplog: pytest.LogCaptureFixture
) -> None:
    own = copied(tmp_path, authority.issue("b5", "agent", soon := in_days(5)))
    newer = authority.issue("b90", "agent", later := in_days(90))
    files = server_files("agent.toml: vim", *own.names)
    watch = FileWatch()
    watch.add_tls("agent.toml: vim", files)
    async with serving(files) as port:
        own.take_certificate(newer)
        for _ in range(5):
            await watch.check()
            assert await shown_at(port, authority.file) == as_shown(soon)
        fault = f"agent.toml: vim: {own.certificate} and {own.key}: key values mismatch"
        assert watch.faults == [fault]
        assert [one.getMessage() for one in caplog.records] == [
            f"{fault}; what was read before stays in use"
        ]
        own.take(newer)
        await renewed(watch)
        assert await shown_at(port, authority.file) == as_shown(later)
        assert watch.faults == []


async def test_a_new_authority_of_the_clients(tmp_path: Path, authority: MadeAuthority) -> None:
    """Hosts that a new authority has certified are let in, those of the old one no longer."""
    own = copied(tmp_path, authority.agent(90, "c90"))
    other = MadeAuthority.make(tmp_path / "other", "other")
    trusted = tmp_path / "trusted.pem"
    authority.write_to(trusted)
    files = server_files("agent.toml: link", *own.names, str(trusted))
    watch = FileWatch()
    watch.add_tls("agent.toml: link", files)
    old, new = authority.host("compute-0", 90), other.host("compute-0", 90)

    async def is_let_in(port: int, host: MadePair) -> bool:
        tls = client_tls("test", *host.names, authority=authority.file)
        stream = await Endpoint(host="127.0.0.1", port=port).connect(tls)
        try:
            await stream.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            return bool(await stream.receive_some(100))
        except trio.BrokenResourceError:
            return False
        finally:
            await trio.aclose_forcefully(stream)

    async with serving(files) as port:
        assert [await is_let_in(port, one) for one in (old, new)] == [True, False]
        other.write_to(trusted)
        await renewed(watch)
        assert [await is_let_in(port, one) for one in (old, new)] == [False, True]


# -- clients: a host's of its agent, and the agent's of its VIM ------------------------------------


async def test_a_client_trusts_and_shows_what_was_renewed(
    tmp_path: Path, authority: MadeAuthority
) -> None:
    other = MadeAuthority.make(tmp_path / "other", "other")
    own = copied(tmp_path, other.host("compute-0", 90))
    trusted = tmp_path / "trusted.pem"
    other.write_to(trusted)
    files = client_files("host.toml: agent", *own.names, str(trusted), keys="agent.")
    watch = FileWatch()
    watch.add_tls("host.toml: agent", files)
    agent = authority.agent(90, "d90")
    async with serving(server_files("test", *agent.names, authority.file)) as port:
        endpoint = Endpoint(host="127.0.0.1", port=port)
        with pytest.raises(Unreachable, match="the certificate is refused"):
            await endpoint.connect(files.value.context)
        authority.write_to(trusted)
        own.take(authority.host("compute-0", 30, "d30"))
        await renewed(watch)
        stream = await endpoint.connect(files.value.context)
        await stream.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await stream.receive_some(100)).startswith(b"HTTP/1.1 200")
        await trio.aclose_forcefully(stream)


U = "4ba21eb5-8257-4ae0-a8bd-b07d1a0c8b59"
ACTION = patch_instance(U, VerdictEvent(U, Event.STOP, GuestResponse.ALLOW, "").body())


async def test_the_vims_authority(tmp_path: Path, authority: MadeAuthority) -> None:
    other = MadeAuthority.make(tmp_path / "other", "other")
    trusted = tmp_path / "trusted.pem"
    other.write_to(trusted)
    files = client_files("agent.toml: vim.url_authority", authority=str(trusted))
    watch = FileWatch()
    watch.add_tls("agent.toml: vim.url_authority", files)
    vim = authority.issue("e5", "vim", expires := in_days(5))
    noted: list[datetime | None] = []
    async with serving(server_files("test", *vim.names)) as port:
        url = f"https://127.0.0.1:{port}"
        client = VimClient(url, tls=files, on_certificate=noted.append)
        refused = await client.send(ACTION)
        assert isinstance(refused, NotSent)
        assert "the certificate is refused" in refused.reason
        authority.write_to(trusted)
        await renewed(watch)
        assert await client.send(ACTION) == Delivered(200, b"fine")
    assert noted == [expires]


# -- tokens ----------------------------------------------------------------------------------------


async def test_a_token(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "token"
    file.touch(0o600)
    file.write_text("the-first-token-0123456789")
    files = token_files(str(file), "agent.toml: vim.token_file")
    watch = FileWatch()
    watch.add("agent.toml: vim.token_file", files)
    file.write_text("short")
    await renewed(watch)
    assert files.value == "the-first-token-0123456789"
    assert "vim.token_file" in caplog.text
    file.write_text("the-second-token-0123456789")
    await renewed(watch)
    assert files.value == "the-second-token-0123456789"
    assert "second-token" not in caplog.text


# -- warnings --------------------------------------------------------------------------------------


def days_warned(caplog: pytest.LogCaptureFixture, what: str) -> list[str]:
    return re.findall(rf"{what}.*?(expires in \d+ \w+|expired)", caplog.text)


async def test_own_certificates_and_authorities_are_warned_of(
    tmp_path: Path, authority: MadeAuthority, caplog: pytest.LogCaptureFixture
) -> None:
    aging = MadeAuthority.make(tmp_path / "aging", "aging", days=20)
    own = authority.agent(40, "f40")
    wall = Wall()
    start = wall.now
    watch = FileWatch(wall)
    files = server_files("agent.toml: link", *own.names, aging.file, keys="link.")
    watch.add_tls("agent.toml: link", files)
    for hours in range(0, 41 * 24, 6):
        wall.now = start + timedelta(hours=hours)
        watch.warn()
    certificate = re.escape(f"link.certificate: {own.certificate}: the certificate of controller-0")
    assert days_warned(caplog, certificate) == [
        "expires in 29 days",
        "expires in 6 days",
        "expires in 23 hours",
        "expired",
    ]
    signer = re.escape(f"link.authority: {aging.file}: the certificate of aging")
    assert days_warned(caplog, signer) == [
        "expires in 19 days",
        "expires in 6 days",
        "expires in 23 hours",
        "expired",
    ]
    assert len(watch.warnings()) == 2


async def test_a_renewed_certificate_is_warned_of_no_longer(
    tmp_path: Path, authority: MadeAuthority, caplog: pytest.LogCaptureFixture
) -> None:
    own = copied(tmp_path, authority.agent(5, "g5"))
    watch = FileWatch()
    watch.add_tls("x", server_files("x", *own.names, keys="link."))
    watch.warn()
    assert len(watch.warnings()) == 1
    own.take(authority.agent(90, "g90"))
    await renewed(watch)
    watch.warn()
    assert watch.warnings() == []
    assert caplog.text.count("expires in") == 1


def test_a_file_of_several_authorities_warns_of_one_in_force(
    tmp_path: Path, authority: MadeAuthority
) -> None:
    """While authorities change, an old one that has expired already stands beside the new one."""
    expired = MadeAuthority.make(tmp_path / "expired", "expired", days=-1)
    soon = MadeAuthority.make(tmp_path / "soon", "soon", days=6)
    both = tmp_path / "both.pem"
    watch = FileWatch()
    both.write_text(Path(expired.file).read_text() + Path(authority.file).read_text())
    watch.add_tls("x", client_files("x", authority=str(both), keys="agent."))
    assert watch.warnings() == []
    both.write_text(both.read_text() + Path(soon.file).read_text())
    watch.add_tls("x", client_files("x", authority=str(both), keys="agent."))
    (line,) = watch.warnings()
    assert line.startswith(f"agent.authority: {both}: the certificate of soon expires in 5 days")


def test_peers_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    wall = Wall(NOW)
    watch = FileWatch(wall)
    watch.note_peer("compute-0", NOW + timedelta(days=8))
    watch.note_peer("compute-1", NOW + timedelta(days=365))
    watch.note_peer("compute-2", None)
    for days in (0, 0.5, 1, 2):
        wall.now = NOW + timedelta(days=days)
        watch.warn()
    assert days_warned(caplog, "compute-0: the certificate") == [
        "expires in 8 days",
        "expires in 7 days",
    ]
    assert "compute-1" not in caplog.text
    assert watch.peer_warning("compute-0") == "its certificate expires in 6 days, on 2026-03-09"
    assert watch.peer_warning("compute-1") == ""
    watch.forget_peer("compute-0")
    assert watch.peer_warning("compute-0") == ""
    assert list(watch.peers) == ["compute-1"]


# -- the task --------------------------------------------------------------------------------------


async def test_the_task_looks_every_10_s(
    tmp_path: Path,
    authority: MadeAuthority,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: trio.testing.MockClock,
) -> None:
    watch = FileWatch()
    watch.add_tls("x", server_files("x", *authority.agent(5, "h5").names, keys="link."))
    looks: list[float] = []

    async def check() -> None:
        looks.append(trio.current_time())

    monkeypatch.setattr(watch, "check", check)
    with trio.move_on_after(35):
        await watch.run()
    assert [round(at - looks[0] + CHECK_S) for at in looks] == [10, 20, 30]
    assert caplog.text.count("expires in") == 1


async def test_without_a_thread_to_look_with(
    tmp_path: Path, authority: MadeAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def no_thread(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    own = copied(tmp_path, authority.agent(5, "j5"))
    files = server_files("x", *own.names)
    first = files.value
    watch = FileWatch()
    watch.add_tls("x", files)
    own.take(authority.agent(90, "j90"))
    with monkeypatch.context() as patched:
        patched.setattr("hbtrio.nursery.file_watch.trio.to_thread.run_sync", no_thread)
        await renewed(watch)
        assert files.value is first
    await renewed(watch)
    assert files.value is not first


async def test_without_files_there_is_no_task() -> None:
    await FileWatch().run()


def test_contexts_are_new_ones(tmp_path: Path, authority: MadeAuthority) -> None:
    """A context that is changed in place would be half-changed when its key does not fit."""
    own = copied(tmp_path, authority.agent(5, "i5"))
    files = server_files("x", *own.names)
    before: ssl.SSLContext = files.value.context
    own.take(authority.agent(90, "i90"))
    files.check()
    files.check()
    assert files.value.context is not before
