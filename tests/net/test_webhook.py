"""The webhook over real sockets: what it sends, and what it makes of every answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from hbtrio.net.tls_files import client_files
from hbtrio.net.webhook import Webhook
from hbtrio.wire.alert import Alert, Severity, Told, Undelivered, signature_headers
from support.certificates import AUTHORITY, of_agent
from support.webhook_receiver import Receiver, webhook_receiver

TOLD = Told(Alert(kind="loss", severity=Severity.CRITICAL, hostname="h"), "a1", "now")
SECRET = "0123456789-secret"

FOUND = b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n"


def status(number: int) -> bytes:
    return b"HTTP/1.1 %d Some Words\r\ncontent-length: 0\r\n\r\n" % number


@asynccontextmanager
async def posting(
    *, timeout_s: float = 30.0, secret: str = ""
) -> AsyncIterator[tuple[Webhook, Receiver]]:
    async with webhook_receiver() as receiver:
        given = (lambda: secret) if secret else None
        webhook = Webhook(receiver.url, given, None, timeout_s, lambda: 1_700_000_000.9)
        yield webhook, receiver
        await webhook.aclose()


async def test_the_request() -> None:
    async with posting(secret=SECRET) as (webhook, receiver):
        await webhook.send(TOLD)
        (one,) = receiver.requests
        assert (one.method, one.target, one.body) == ("POST", "/hook?x=1", TOLD.body)
        signed = signature_headers(SECRET, "a1", 1_700_000_000, TOLD.body)
        assert signed.items() <= one.headers.items()
        assert one.headers["content-type"] == "application/json"


async def test_without_a_secret_it_is_not_signed() -> None:
    async with posting() as (webhook, receiver):
        await webhook.send(TOLD)
        assert "webhook-signature" not in receiver.requests[0].headers


@pytest.mark.parametrize(
    ("answer", "fault", "is_final"),
    [
        *((status(number), f"status {number}", False) for number in (408, 425, 429, 500, 503)),
        *((status(number), f"status {number}", True) for number in (400, 401, 404, 410)),
        (FOUND, "status 302", True),
        (b"no HTTP at all\r\n\r\n", "no valid answer", False),
        (b"", "no valid answer", False),
    ],
)
async def test_what_is_no_delivery(answer: bytes, fault: str, is_final: bool) -> None:
    async with posting() as (webhook, receiver):
        receiver.answers = [answer]
        with pytest.raises(Undelivered) as caught:
            await webhook.send(TOLD)
        assert (str(caught.value), caught.value.is_final) == (fault, is_final)
        await webhook.send(TOLD)  # as if nothing had been
        assert len(receiver.requests) == 2


async def test_an_answer_whose_body_never_ends_is_an_answer() -> None:
    async with posting() as (webhook, receiver):
        receiver.answers = [b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\nbegun"]
        await webhook.send(TOLD)


async def test_no_answer() -> None:
    async with posting(timeout_s=0.3) as (webhook, receiver):
        receiver.answers = [None]
        with pytest.raises(Undelivered, match=r"^no answer within 0\.3 s$"):
            await webhook.send(TOLD)


async def test_nobody_listens() -> None:
    async with webhook_receiver() as receiver:
        url = receiver.url
    webhook = Webhook(url, None, None, 30.0, lambda: 0.0)
    with pytest.raises(Undelivered, match=r"^connection refused$"):
        await webhook.send(TOLD)
    await webhook.aclose()


@pytest.mark.parametrize("known", [True, False])
async def test_over_tls_the_receiver_must_be_known(known: bool) -> None:
    tls = client_files("notify", authority=str(AUTHORITY) if known else "", keys="notify.")
    async with webhook_receiver(of_agent().value.context) as receiver:
        webhook = Webhook(receiver.url, None, tls, 30.0, lambda: 0.0)
        if known:
            await webhook.send(TOLD)
        else:
            with pytest.raises(Undelivered, match=r"^the certificate is refused: "):
                await webhook.send(TOLD)
        assert len(receiver.requests) == known
        await webhook.aclose()


async def test_it_ends_when_it_is_cancelled() -> None:
    async with posting() as (webhook, receiver):
        receiver.answers = [None]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(webhook.send, TOLD)
            await receiver.wait_for(1)
            nursery.cancel_scope.cancel()
