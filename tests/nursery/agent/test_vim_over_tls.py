"""The agent's requests to a VIM with an https URL: whom it trusts, and what it then knows."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio

from hbtrio.errors import ExitStatus, UserError
from hbtrio.net.tls import server_tls
from hbtrio.net.tls_files import client_files
from hbtrio.nursery.agent.vim_client import VimClient
from hbtrio.wire.vim import GuestResponse, VerdictEvent, patch_instance
from hbtrio.wire.vim_result import Delivered, MissingAnswer, NotSent, Unconfirmed
from hbtrio.wire.vocabulary import Event
from support.certificates import AUTHORITY, HERE, pair

U = "4ba21eb5-8257-4ae0-a8bd-b07d1a0c8b59"
ACTION = patch_instance(U, VerdictEvent(U, Event.STOP, GuestResponse.ALLOW, "").body())

TlsStream = trio.SSLStream[trio.SocketStream]


class Vim:
    """A VIM behind TLS: the requests that it has got, and its URL."""

    def __init__(self, port: int) -> None:
        self.url = f"https://127.0.0.1:{port}"
        self.got: list[bytes] = []


@asynccontextmanager
async def a_vim(
    answer: Callable[[TlsStream], Awaitable[None]], certificate: str = "agent"
) -> AsyncIterator[Vim]:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    vim = Vim(listener.socket.getsockname()[1])
    context = server_tls("test", *pair(certificate))

    async def serve(stream: trio.SocketStream) -> None:
        wrapped = trio.SSLStream(stream, context, server_side=True)
        request = b""
        try:
            while b"\r\n\r\n" not in request or not request.endswith(b"}"):
                request += await wrapped.receive_some(65536)
        except trio.BrokenResourceError:
            return  # it does not trust us
        vim.got.append(request)
        await answer(wrapped)

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, serve, [listener])
            yield vim
            nursery.cancel_scope.cancel()


async def yes(stream: TlsStream) -> None:
    await stream.send_all(b"HTTP/1.0 200 OK\r\n\r\nfine")
    await stream.aclose()


async def nothing(stream: TlsStream) -> None:
    """Closes in order, without a byte of HTTP."""
    await stream.aclose()


async def nothing_at_all(stream: TlsStream) -> None:
    """Closes without TLS having a say."""
    await stream.transport_stream.aclose()


@pytest.mark.parametrize(
    ("answer", "delivery"),
    [
        (yes, Delivered(200, b"fine")),
        (nothing, Unconfirmed(MissingAnswer.CLOSED)),
        (nothing_at_all, Unconfirmed(MissingAnswer.CLOSED)),
    ],
)
async def test_a_vim_that_is_trusted(
    answer: Callable[[TlsStream], Awaitable[None]], delivery: object
) -> None:
    async with a_vim(answer) as vim:
        client = VimClient(vim.url, tls=client_files("test", authority=AUTHORITY))
        assert await client.send(ACTION) == delivery
        assert len(vim.got) == 1
        assert vim.got[0].startswith(f"PATCH /nfvi-plugins/v1/instances/{U} HTTP/1.1\r\n".encode())


@pytest.mark.parametrize(
    ("certificate", "authority", "fault"),
    [
        ("agent", "other-authority.pem", "unable to get local issuer certificate"),
        ("compute-0-by-other", "authority.pem", "unable to get local issuer certificate"),
        ("agent-elsewhere", "authority.pem", "IP address mismatch"),
        # Whom the system trusts, which is not us.
        ("agent", "", "unable to get local issuer certificate"),
    ],
)
async def test_a_vim_that_is_not(certificate: str, authority: str, fault: str) -> None:
    """Nothing is sent to it, and it is tried again later."""
    async with a_vim(yes, certificate) as vim:
        trusted = authority and str(HERE / authority)
        client = VimClient(vim.url, tls=client_files("test", authority=trusted))
        answer = await client.send(ACTION)
        assert isinstance(answer, NotSent)
        refused = f"no connection to {vim.url}: the certificate is refused: {fault}"
        assert answer.reason.startswith(refused)
        assert vim.got == []


def test_an_authority_that_can_t_be_used() -> None:
    for file, fault in (
        ("none.pem", "no such file or directory"),
        ("make.sh", "no certificates in PEM: no certificate or crl found"),
    ):
        with pytest.raises(UserError) as caught:
            client_files("vim.url_authority", authority=str(HERE / file))
        assert str(caught.value) == f"vim.url_authority: {HERE / file}: {fault}"
        assert caught.value.status is ExitStatus.USAGE


def test_in_clear_no_authority_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading them takes longer than many a start."""

    def load(self: ssl.SSLContext, *_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(ssl.SSLContext, "load_default_certs", load)
    VimClient("http://127.0.0.1:30002")
    with pytest.raises(AssertionError):
        VimClient("https://127.0.0.1:30002")
