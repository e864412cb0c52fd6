"""The client and the fake VIM over real sockets: what is known of a request afterwards."""

from __future__ import annotations

import functools
import gc
import json
import logging
import math
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio
import trio.testing

from hbtrio.errors import ExitStatus, UserError
from hbtrio.fsm.delivery import OutboxKind
from hbtrio.lab.fake_vim import FakeVim, fake_vim
from hbtrio.lab.vim_server import Mood
from hbtrio.nursery.agent.vim_client import VimClient
from hbtrio.nursery.agent.vim_delivery import VimDelivery
from hbtrio.nursery.wakeup import WakeUp
from hbtrio.policy.time_guard import OnTimeGuard
from hbtrio.store.records import NewEntry, RoundRecord
from hbtrio.store.store import Store
from hbtrio.wire.vim import (
    AlarmEvent,
    AlarmState,
    GuestResponse,
    HostAnswer,
    InstanceAnswer,
    ServiceEvent,
    Switch,
    VerdictEvent,
    VimRequest,
    host_audit,
    instances_audit,
    parse_host_answer,
    parse_instances_answer,
    patch_instance,
)
from hbtrio.wire.vim_result import (
    Delivered,
    ErrorStatus,
    MissingAnswer,
    NotSent,
    SendResult,
    Unconfirmed,
)
from hbtrio.wire.vocabulary import CorrectiveAction, Event
from support.given_up import GivenUp

U = "4ba21eb5-8257-4ae0-a8bd-b07d1a0c8b59"
H = "6f0e9d8a-0f11-4c2b-9d1e-aa0b7a4b7c11"

ALARM = AlarmEvent(U, "compute-0", AlarmState.FAILED, CorrectiveAction.REBOOT).body()
SERVICE = ServiceEvent(U, "compute-0", Switch.ENABLED, Switch.ENABLED, 300).body()
ACTION = VerdictEvent(U, Event.STOP, GuestResponse.ALLOW, "").body()

#: More than two sockets hold between them, so that it can't be written while nobody reads.
HUGE = VimRequest("PATCH", f"/nfvi-plugins/v1/instances/{U}", b"x" * (64 << 20))

#: Real seconds: for what must run out, and for what must not.
SOON, NEVER = 0.1, 60.0


@pytest.fixture
async def vim() -> AsyncIterator[FakeVim]:
    async with fake_vim() as vim:
        yield vim


@pytest.fixture
def client(vim: FakeVim) -> VimClient:
    return VimClient(vim.url)


async def until(true: Callable[[], bool]) -> None:
    while not true():
        await trio.lowlevel.checkpoint()


@asynccontextmanager
async def served_by(
    serve: Callable[[trio.SocketStream], Awaitable[None]], *, reads: bool = True
) -> AsyncIterator[str]:
    """A server that reads a request and then does as told; its URL."""

    async def handle(stream: trio.SocketStream) -> None:
        async with stream:
            if reads:
                heard = b""
                while ALARM.encode() not in heard:
                    heard += await stream.receive_some(65536)
            await serve(stream)

    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(
            functools.partial(trio.serve_tcp, handle, 0, host="127.0.0.1")
        )
        yield f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


# -- as the deployed VIM ---------------------------------------------------------------------------


async def test_requests_byte_for_byte(vim: FakeVim, client: VimClient) -> None:
    vim.hosts[H] = {"hostname": "compute-0", "state": "enabled"}
    vim.instances[H] = []
    await client.send(patch_instance(U, ACTION))
    await client.send(host_audit(H, "compute-0"))
    await client.send(instances_audit(H))
    host = f"Host: 127.0.0.1:{vim.port}\r\n"
    agent = (
        "User-Agent: guest-agent/1.0\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"
    )
    body = f'{{"hostname":"compute-0","uuid":"{H}"}}'
    assert [one.raw.decode() for one in vim.received] == [
        f"PATCH /nfvi-plugins/v1/instances/{U} HTTP/1.1\r\n{host}"
        f"Content-Length: {len(ACTION)}\r\n{agent}{ACTION}",
        f"GET /nfvi-plugins/v1/hosts/{H} HTTP/1.1\r\n{host}Content-Length: {len(body)}\r\n"
        f"{agent}{body}",
        f"GET /nfvi-plugins/v1/instances/?host_uuid={H} HTTP/1.1\r\n{host}{agent}",
    ]
    assert vim.connections == 3
    assert vim.patches() == vim.patches("action") == [json.loads(ACTION)]
    assert vim.patches("alarm") == []


@pytest.mark.parametrize(
    ("body", "delivery"),
    [
        (ALARM, Delivered(200, b"")),
        (SERVICE, Unconfirmed(MissingAnswer.CLOSED)),
        (ACTION, Unconfirmed(MissingAnswer.CLOSED)),
        ("no json", Unconfirmed(MissingAnswer.CLOSED)),
    ],
)
async def test_events(client: VimClient, body: str, delivery: SendResult) -> None:
    assert await client.send(patch_instance(U, body)) == delivery


async def test_audits(vim: FakeVim, client: VimClient) -> None:
    vim.hosts[H] = {"hostname": "compute-0", "state": "disabled"}
    service = {"service": "heartbeat", "state": "enabled"}
    vim.instances[H] = [
        {"uuid": f"{U[:-4]}{n:04}", "hostname": "compute-0", "services": [service]}
        for n in range(1000)
    ]
    answer = await client.send(host_audit(H, "compute-0"))
    assert isinstance(answer, Delivered)
    assert parse_host_answer(answer.body) == HostAnswer(H, "compute-0", Switch.DISABLED)
    answer = await client.send(instances_audit(H))
    assert isinstance(answer, Delivered)
    assert (answer.status, answer.cut) == (200, "")
    found = parse_instances_answer(answer.body)
    assert len(found) == 1000
    assert found[7] == InstanceAnswer(f"{U[:-4]}0007", "compute-0", Switch.ENABLED)


@pytest.mark.parametrize(
    "request_",
    [
        host_audit(U, "compute-9"),
        VimRequest("GET", f"/nfvi-plugins/v1/hosts/{H}"),
        instances_audit(U),
        VimRequest("GET", "/"),
        VimRequest("PUT", f"/nfvi-plugins/v1/instances/{U}", ALARM.encode()),
    ],
)
async def test_what_the_vim_says_nothing_to(
    vim: FakeVim, client: VimClient, request_: VimRequest
) -> None:
    vim.hosts[H] = {"hostname": "compute-0", "state": "enabled"}
    vim.instances[H] = []
    assert await client.send(request_) == Unconfirmed(MissingAnswer.CLOSED)


# -- as nasty as it gets ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mood", "delivery", "received"),
    [
        (Mood.RESET_HALF, Unconfirmed(MissingAnswer.RESET), 0),
        (Mood.RESET, Unconfirmed(MissingAnswer.RESET), 1),
        (Mood.GARBAGE, Unconfirmed(MissingAnswer.GARBLED), 1),
        (Mood.ERROR_400, ErrorStatus(400), 1),
        (Mood.ERROR_500, ErrorStatus(500), 1),
        (Mood.ERROR_503, ErrorStatus(503), 1),
    ],
)
async def test_moods(
    vim: FakeVim, client: VimClient, mood: Mood, delivery: SendResult, received: int
) -> None:
    vim.next_moods.append(mood)
    assert await client.send(patch_instance(U, ALARM)) == delivery
    assert len(vim.received) == received
    # Only that one: the next finds a VIM as usual.
    assert await client.send(patch_instance(U, ALARM)) == Delivered(200, b"")


@pytest.mark.parametrize(
    ("mood", "delivery"),
    [
        (Mood.STALL_UNREAD, Unconfirmed(MissingAnswer.STALLED)),
        (Mood.STALL, Unconfirmed(MissingAnswer.STALLED)),
        (Mood.STALL_ANSWERING, Delivered(200, b'{"instances":[', "not whole within 0.1 s")),
    ],
)
async def test_stalls(vim: FakeVim, mood: Mood, delivery: SendResult) -> None:
    vim.mood = mood
    client = VimClient(vim.url, answer_s=SOON)
    assert await client.send(patch_instance(U, ACTION)) == delivery


async def test_the_answer_as_a_whole_is_bounded_in_time() -> None:
    """A byte now and then does not keep a request alive."""

    async def drip(stream: trio.SocketStream) -> None:
        try:
            await stream.send_all(b"HTTP/1.0 200 OK\r\n\r\n")
            while True:
                await stream.send_all(b" ")
                await trio.sleep(SOON / 10)
        except trio.BrokenResourceError:
            pass

    async with served_by(drip) as url:
        client = VimClient(url, answer_s=SOON)
        answer = await client.send(patch_instance(U, ALARM))
    assert isinstance(answer, Delivered)
    assert answer.cut == "not whole within 0.1 s"


async def test_the_answer_is_bounded_in_size(vim: FakeVim) -> None:
    vim.mood = Mood.FLOOD
    client = VimClient(vim.url, answer_bytes=100_000)
    answer = await client.send(instances_audit(H))
    assert isinstance(answer, Delivered)
    assert answer.cut == "longer than 100000 bytes"
    assert len(answer.body) <= 100_000


@pytest.mark.parametrize(
    ("answer", "delivery"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Delivered(200, b"ok")),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            Delivered(200, b"ok"),
        ),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 200 OK\r\n\r\n", Delivered(200, b"")),
        (b"HTTP/1.1 204 No Content\r\n\r\n", Delivered(204, b"")),
        (b"HTTP/1.1 301 Moved\r\nLocation: http://127.0.0.1:1/\r\n\r\n", ErrorStatus(301)),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\n", ErrorStatus(404)),
        (b"HTTP/1.0 200 O", Unconfirmed(MissingAnswer.CLOSED)),
        (b"\x00\xff" * 1000, Unconfirmed(MissingAnswer.GARBLED)),
        (b"A" * 200_000, Unconfirmed(MissingAnswer.GARBLED)),
    ],
)
async def test_answers_of_other_generations(answer: bytes, delivery: SendResult) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await stream.send_all(answer)

    async with served_by(serve) as url:
        client = VimClient(url)
        assert await client.send(patch_instance(U, ALARM)) == delivery


async def test_an_answer_cut_short() -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok")

    async with served_by(serve) as url:
        client = VimClient(url)
        assert await client.send(patch_instance(U, ALARM)) == Delivered(200, b"ok", "cut short")


# -- not sent --------------------------------------------------------------------------------------


async def test_down_and_up_again(vim: FakeVim, client: VimClient) -> None:
    vim.go_down()
    await trio.testing.wait_all_tasks_blocked()
    down = NotSent(f"no connection to {vim.url}: connection refused")
    assert await client.send(patch_instance(U, ALARM)) == down
    vim.come_up()
    await trio.testing.wait_all_tasks_blocked()
    assert await client.send(patch_instance(U, ALARM)) == Delivered(200, b"")
    assert len(vim.received) == 1


async def test_killed_while_it_works(vim: FakeVim, client: VimClient) -> None:
    vim.mood = Mood.STALL
    found: list[SendResult] = []

    async def send() -> None:
        found.append(await client.send(patch_instance(U, ACTION)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await vim.wait_for(1)
        vim.go_down()
    assert found == [Unconfirmed(MissingAnswer.RESET)]


async def test_nobody_accepts() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        url = f"http://127.0.0.1:{full.getsockname()[1]}"
        waiting: list[socket.socket] = []
        try:
            for _ in range(8):
                waiting.append(socket.socket())
                waiting[-1].setblocking(False)
                waiting[-1].connect_ex(full.getsockname())
            client = VimClient(url, connect_s=SOON)
            answer = await client.send(patch_instance(U, ACTION), never_called)
            assert answer == NotSent(f"no connection to {url} within 0.1 s")
        finally:
            for sock in waiting:
                sock.close()


async def test_nobody_reads(vim: FakeVim) -> None:
    vim.mood = Mood.STALL_UNREAD
    client = VimClient(vim.url, write_s=SOON)
    assert await client.send(HUGE) == NotSent("could not be written within 0.1 s")


async def test_reset_while_it_is_written(vim: FakeVim, client: VimClient) -> None:
    # It is longer than the fake VIM takes.
    answer = await client.send(HUGE)
    assert isinstance(answer, NotSent)
    assert answer.reason.startswith("the connection broke while the request was being written")
    assert len(vim.received) == 0


async def test_reset_at_once(vim: FakeVim, client: VimClient) -> None:
    """Before or after the last byte: the kernel decides, and what is said has to agree."""
    vim.mood = Mood.RESET_UNREAD
    for _ in range(50):
        answer = await client.send(patch_instance(U, ACTION))
        assert isinstance(answer, NotSent) or answer == Unconfirmed(MissingAnswer.RESET)
    assert len(vim.received) == 0


async def test_a_tls_that_is_none(vim: FakeVim) -> None:
    """Neither a server that waits for more nor one that answers in clear."""
    url = f"https://127.0.0.1:{vim.port}"
    client = VimClient(url, connect_s=SOON)
    answer = await client.send(patch_instance(U, ACTION), never_called)
    assert answer == NotSent(f"no connection to {url} within 0.1 s")
    vim.mood = Mood.RESET_UNREAD
    client = VimClient(url)
    answer = await client.send(patch_instance(U, ACTION), never_called)
    assert isinstance(answer, NotSent)
    assert len(vim.received) == 0


@pytest.mark.parametrize("url", ["127.0.0.1:30002", "ftp://vim", "http://", "http://[::1"])
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(UserError) as caught:
        VimClient(url)
    assert (str(caught.value).startswith(f"{url}: "), caught.value.status) == (
        True,
        ExitStatus.USAGE,
    )


async def test_the_environment_decides_nothing(
    vim: FakeVim, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    client = VimClient(vim.url)
    assert await client.send(patch_instance(U, ALARM)) == Delivered(200, b"")


# -- on_sending ------------------------------------------------------------------------------------


async def never_called() -> None:
    raise AssertionError


async def test_told_before_the_first_byte(vim: FakeVim) -> None:
    told: list[int] = []

    async def on_sending() -> None:
        await vim.wait_until(lambda: vim.connections == 1)
        # Nothing is there to be read, however long it takes: that is nobody's fault but ours.
        await trio.sleep(3 * SOON)
        told.append(len(vim.received))

    client = VimClient(vim.url, connect_s=SOON, write_s=SOON, answer_s=SOON)
    assert await client.send(patch_instance(U, ALARM), on_sending) == Delivered(200, b"")
    assert (told, len(vim.received)) == ([0], 1)


async def test_its_fault_ends_the_request_unsent() -> None:
    heard: list[bytes] = []
    ended = trio.Event()

    async def serve(stream: trio.SocketStream) -> None:
        heard.append(await stream.receive_some(65536))
        ended.set()

    async def on_sending() -> None:
        raise LookupError("replaced")

    async with served_by(serve, reads=False) as url:
        client = VimClient(url)
        with pytest.raises(LookupError, match="replaced"):
            await client.send(patch_instance(U, ACTION), on_sending)
        with trio.fail_after(NEVER):
            await ended.wait()
    assert heard == [b""]


async def test_cancelled(vim: FakeVim, client: VimClient) -> None:
    vim.mood = Mood.STALL
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send, patch_instance(U, ACTION))
            await vim.wait_for(1)
            scope.cancel()
    assert scope.cancelled_caught
    vim.mood = Mood.USUAL
    assert await client.send(patch_instance(U, ALARM)) == Delivered(200, b"")


async def test_side_by_side(vim: FakeVim, client: VimClient) -> None:
    """A request that stalls holds up no other, however many there are."""
    vim.next_moods.extend([Mood.STALL] * 20)
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(client.send, patch_instance(U, ACTION))
        await vim.wait_for(20)
        for _ in range(20):
            assert await client.send(patch_instance(U, ALARM)) == Delivered(200, b"")
        nursery.cancel_scope.cancel()


# -- closed on every path --------------------------------------------------------------------------

HEAD = b"HTTP/1.1 200 OK\r\n"


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def no_collector() -> Iterator[None]:
    """The garbage collector closes nothing that was left open."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@asynccontextmanager
async def leaves_nothing_open() -> AsyncIterator[None]:
    """The block, entered with a running server, leaves as many descriptors as there were.

    The server's ends count too: each closes once it sees that ours is closed.
    """
    before = open_files()
    yield
    with trio.move_on_after(NEVER / 10):
        await until(lambda: open_files() <= before)
    assert open_files() == before


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize(
    ("answer", "delivery"),
    [
        (HEAD + b"Content-Length: 2\r\n\r\nok", Delivered(200, b"ok")),
        (HEAD + b"Content-Length: 0\r\n\r\n", Delivered(200, b"")),
        (
            HEAD + b"Connection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
            Delivered(200, b"ok"),
        ),
        (
            HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            Delivered(200, b"ok"),
        ),
        (b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\nok", Delivered(202, b"ok")),
        (b"HTTP/1.1 204 No Content\r\n\r\n", Delivered(204, b"")),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno", ErrorStatus(404)),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", ErrorStatus(404)),
        (
            HEAD + b"Content-Length: 9\r\n\r\n" + b"x" * 9,
            Delivered(200, b"", "longer than 8 bytes"),
        ),
        (HEAD + b"\r\n" + b"x" * 9, Delivered(200, b"", "longer than 8 bytes")),
        (b"\xff" * 100 + b"\r\n\r\n", Unconfirmed(MissingAnswer.GARBLED)),
    ],
)
async def test_an_answer_leaves_nothing_open(answer: bytes, delivery: SendResult) -> None:
    """The server keeps its end open: only the client can be the one that closed."""

    async def serve(stream: trio.SocketStream) -> None:
        await stream.send_all(answer)
        with suppress(trio.BrokenResourceError):
            await stream.receive_some(1)

    async with served_by(serve) as url:
        client = VimClient(url, answer_bytes=8)
        async with leaves_nothing_open():
            for _ in range(50):
                assert await client.send(patch_instance(U, ALARM)) == delivery


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize(
    ("answer", "delivery"),
    [
        (b"", Unconfirmed(MissingAnswer.CLOSED)),
        (HEAD + b"\r\nok", Delivered(200, b"ok")),
        (HEAD + b"Content-Length: 9\r\n\r\nok", Delivered(200, b"ok", "cut short")),
        (
            HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
            Delivered(200, b"ok", "cut short"),
        ),
    ],
)
async def test_an_end_leaves_nothing_open(answer: bytes, delivery: SendResult) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await stream.send_all(answer)

    async with served_by(serve) as url:
        client = VimClient(url)
        async with leaves_nothing_open():
            for _ in range(50):
                assert await client.send(patch_instance(U, ALARM)) == delivery


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("mood", [Mood.RESET, Mood.RESET_UNREAD, Mood.STALL, Mood.STALL_ANSWERING])
async def test_no_whole_answer_leaves_nothing_open(vim: FakeVim, mood: Mood) -> None:
    vim.mood = mood
    client = VimClient(vim.url, answer_s=0.01)
    async with leaves_nothing_open():
        for _ in range(20):
            await client.send(patch_instance(U, ALARM))


@pytest.mark.usefixtures("no_collector")
async def test_a_request_that_can_t_be_written_leaves_nothing_open(vim: FakeVim) -> None:
    vim.mood = Mood.STALL_UNREAD
    # The fake VIM never reads, so it sees no end either; its ends are left out of the count.
    client = VimClient(vim.url, write_s=0.01)
    before = open_files()
    for n in range(1, 6):
        assert isinstance(await client.send(HUGE), NotSent)
        await until(lambda n=n: vim.connections == n)  # type: ignore[misc]
    assert open_files() == before + 5


@pytest.mark.usefixtures("no_collector")
async def test_a_fault_of_on_sending_leaves_nothing_open(vim: FakeVim, client: VimClient) -> None:
    async def on_sending() -> None:
        raise LookupError

    async with leaves_nothing_open():
        for _ in range(20):
            with pytest.raises(LookupError):
                await client.send(patch_instance(U, ACTION), on_sending)


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("mood", [Mood.STALL, Mood.STALL_ANSWERING])
async def test_cancelled_leaves_nothing_open(vim: FakeVim, client: VimClient, mood: Mood) -> None:
    vim.mood = mood
    async with leaves_nothing_open():
        for n in range(1, 21):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.send, patch_instance(U, ACTION))
                await vim.wait_for(n)
                nursery.cancel_scope.cancel()


@pytest.mark.usefixtures("no_collector")
async def test_cancelled_in_a_tls_handshake_leaves_nothing_open() -> None:
    hello = trio.Event()

    async def serve(stream: trio.SocketStream) -> None:
        nonlocal hello
        while await stream.receive_some(65536):
            hello.set()

    async with served_by(serve, reads=False) as url:
        client = VimClient(url.replace("http:", "https:"))
        async with leaves_nothing_open():
            for _ in range(20):
                hello = trio.Event()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(client.send, patch_instance(U, ACTION))
                    await hello.wait()
                    nursery.cancel_scope.cancel()


# -- the fake VIM under the delivery ---------------------------------------------------------------


async def test_delivery_and_store_and_sockets(tmp_path: Path) -> None:
    """All the real pieces: a VIM that is down, comes up, and gets everything once."""

    def clock() -> datetime:
        return datetime.now(UTC)

    instances = [f"{U[:-4]}{n:04}" for n in range(50)]
    async with (
        fake_vim() as vim,
        Store.open(str(tmp_path / "agent.db"), clock) as store,
        trio.open_nursery() as nursery,
    ):
        vim.go_down()
        outbox = WakeUp()
        delivery = VimDelivery(store, VimClient(vim.url), outbox, OnTimeGuard(math.inf))
        nursery.start_soon(delivery.run, GivenUp())
        for uuid in instances:
            asked = RoundRecord(uuid, uuid, "h", Event.STOP, True, "vim", clock(), 60.0)
            await store.open_round(asked)
            expires = clock() + timedelta(seconds=60)
            body = VerdictEvent(uuid, Event.STOP, GuestResponse.ALLOW, "").body()
            alarm = AlarmEvent(uuid, "h", AlarmState.FAILED, CorrectiveAction.STOP).body()
            await store.queue(
                [
                    NewEntry(OutboxKind.SERVICE, uuid, "replaced"),
                    NewEntry(OutboxKind.ALARM, uuid, alarm),
                    NewEntry(OutboxKind.SERVICE, uuid, SERVICE),
                    NewEntry(OutboxKind.ACTION, uuid, body, uuid, expires),
                ]
            )
        outbox.set()
        with trio.fail_after(NEVER):
            await until(lambda: not delivery.status.reachable)
            vim.come_up()
            delivery.vim_spoke()
            await vim.wait_for(2 * len(instances))
            assert vim.patches("action") == []
            for uuid in instances:
                await store.replied(uuid)
            outbox.set()
            await vim.wait_for(3 * len(instances))
            await until(lambda: not delivery.status.waiting)
        nursery.cancel_scope.cancel()
    for uuid in instances:
        mine = [one.json["event-type"] for one in vim.received if one.target.endswith(uuid)]
        assert mine == ["alarm", "service", "action"]
    status = delivery.status
    assert (status.delivered, status.unconfirmed, status.undelivered) == (50, 100, 0)


async def test_nothing_of_a_body_is_logged(
    vim: FakeVim, client: VimClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    vim.mood = Mood.ERROR_400
    secret = VerdictEvent(U, Event.STOP, GuestResponse.ALLOW, "a tenant's words").body()
    await client.send(patch_instance(U, secret))
    assert "tenant" not in caplog.text
