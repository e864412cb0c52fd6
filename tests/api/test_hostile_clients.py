"""The agent's process and clients that mean it no good: it serves on, and it ends in time."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio

from hbtrio.lab.vim_server import Mood
from hbtrio.wire.vocabulary import CorrectiveAction
from support.agent_world import request_bytes
from support.real_agent import TOKEN, RealAgent, real_agent
from support.real_processes import SOON_S
from support.scripted_host import HOST_UUID, HOSTNAME, INSTANCE, VM, ScriptedHost

pytestmark = pytest.mark.processes

HOST, INST = f"/v1/hosts/{HOST_UUID}", f"/v1/instances/{VM}"
ABOUT_VM = {"uuid": VM, "hostname": HOSTNAME}
VOTE = request_bytes("POST", f"{INST}/vote", ABOUT_VM | {"action": "stop"})

#: As many connections may wait, and as many streams of events may be read.
MOST = 64

#: As many votes and notices may be in progress at one address.
VOTES = 1024


async def connect(port: int, *, deaf: bool = False) -> trio.SocketStream:
    """A connection; a deaf one has hardly a place for what it does not read."""
    sock = trio.socket.socket()
    if deaf:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    with trio.fail_after(SOON_S):
        await sock.connect(("127.0.0.1", port))
    return trio.SocketStream(sock)


async def dribble(
    port: int, head: bytes, then: bytes, *, task_status: trio.TaskStatus[None]
) -> None:
    """Slow-loris: says something all the time and never comes to an end, until it is cut off."""
    async with await connect(port) as stream:
        await stream.send_all(head)
        task_status.started()
        try:
            while True:
                await stream.send_all(then)
                await trio.sleep(0.02)
        except trio.BrokenResourceError:
            return


async def fill(stream: trio.SocketStream, raw: bytes) -> None:
    """Asks the same again and again, and reads no answer, until no more is taken."""
    while True:
        with trio.move_on_after(0.3) as scope:
            await stream.send_all(raw * 50)
        if scope.cancelled_caught:
            return


async def told(agent: RealAgent) -> ScriptedHost:
    """A host and its instance, known to the agent, with a long history of long reasons."""
    host = await agent.host(ScriptedHost(instances=(INSTANCE,)))
    about_host = {"uuid": HOST_UUID, "hostname": HOSTNAME}
    for method, path, body in (
        ("POST", HOST, about_host),
        ("POST", INST, ABOUT_VM | {"services": ["heartbeat"]}),
    ):
        assert (await agent.ask(method, path, body)).status == 200
    for _ in range(1500):
        await host.report("unhealthy", VM, "x" * 2000, corrective_action=CorrectiveAction.LOG)
    with trio.fail_after(SOON_S):
        await host.settle()
    return host


async def serves(agent: RealAgent) -> None:
    """Both APIs and the link are as they should be."""
    assert (await agent.ask("GET", INST)).json["services"][0]["status"] == "enabled"
    status = await agent.operate("GET", "/v1/status")
    assert (status["agent"]["crashes"], status["agent"]["heartbeating"]) == (0, 1)


async def ends_in_time(agent: RealAgent) -> None:
    """SIGTERM ends it with status 0, and nothing went wrong."""
    # Whoever takes longer than GRACE_S is killed, and its status is not 0.
    assert await agent.daemon.stop() == 0
    for word in ("Traceback", "failed", "ERROR"):
        assert word not in agent.log


#: What slow-loris begins with, and what it goes on with.
DRIBBLES = [
    (b"", b"G"),
    (b"GET /v1/status HTTP/1.1\r\n", b"X-A: b\r\n"),
    (b"PATCH /v1/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n\r\n{", b" "),
    (
        b"POST /v1/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"1\r\nx\r\n",
    ),
]


#: A request after which its connection stays, waiting for the next.
WHOLE = request_bytes("GET", INST).replace(b"Connection: close", b"A: b")


async def test_slow_loris(tmp_path: Path) -> None:
    """More of them than there are places: each request of others is answered all the same."""
    async with real_agent(tmp_path) as agent:
        await told(agent)
        async with trio.open_nursery() as nursery:
            for port in (agent.vim_port, agent.operator_port):
                for number in range(MOST + 16):
                    head, then = DRIBBLES[number % len(DRIBBLES)]
                    await nursery.start(dribble, port, head, then)
                    if number % 16 == 15:
                        await serves(agent)
            await ends_in_time(agent)
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def deaf(agent: RealAgent, requests: dict[int, bytes]) -> AsyncIterator[None]:
    """Clients that ask these ports, on and on, and read nothing."""
    async with AsyncExitStack() as stack:
        async with trio.open_nursery() as filling:
            for port, raw in requests.items():
                for _ in range(2):
                    stream = await stack.enter_async_context(await connect(port, deaf=True))
                    filling.start_soon(fill, stream, raw)
        yield


@pytest.mark.parametrize(
    ("asked", "sse"),
    [
        (INST, False),
        ("/v1/history?limit=1000", False),
        ("/v1/events?recent=1000", False),
        ("/v1/events?recent=1000", True),
    ],
)
async def test_a_client_that_never_reads(tmp_path: Path, asked: str, sse: bool) -> None:
    accept = ("Accept: text/event-stream",) if sse else ()
    async with real_agent(tmp_path) as agent:
        host = await told(agent)
        kept = request_bytes("GET", asked, headers=accept).replace(b"Connection: close", b"A: b")
        async with deaf(agent, {agent.operator_port: kept, agent.vim_port: WHOLE}):
            # What comes now it has no place for.
            for _ in range(1100):
                await host.report("unhealthy", VM, "y", corrective_action=CorrectiveAction.LOG)
            with trio.fail_after(SOON_S):
                await host.settle()
            await serves(agent)
            await ends_in_time(agent)


@pytest.mark.parametrize("said", [b"", b"GET /v1/status HTTP/1.1\r\n", WHOLE])
async def test_connections_that_wait_keep_nobody_out(tmp_path: Path, said: bytes) -> None:
    async with real_agent(tmp_path) as agent:
        await told(agent)
        async with AsyncExitStack() as stack:
            for port in (agent.vim_port, agent.operator_port):
                for number in range(3 * MOST):
                    stream = await stack.enter_async_context(await connect(port))
                    await stream.send_all(said)
                    if said == WHOLE:
                        with trio.fail_after(SOON_S):
                            await stream.receive_some(4096)
                    if number % 32 == 31:
                        await serves(agent)
            await serves(agent)
            await ends_in_time(agent)


NEWS = request_bytes("GET", "/v1/events", headers=("Accept: text/event-stream",))


async def read(agent: RealAgent, raw: bytes = NEWS) -> trio.SocketStream:
    """A reader of events, whose stream has begun."""
    stream = await connect(agent.operator_port)
    await stream.send_all(raw)
    with trio.fail_after(SOON_S):
        assert (await stream.receive_some(4096)).startswith(b"HTTP/1.1 200 ")
    return stream


async def test_readers_without_a_token_keep_no_operator_out(tmp_path: Path) -> None:
    """Of the loopback's readers there are as many as there may be, and they stay."""
    async with real_agent(tmp_path) as agent, AsyncExitStack() as stack:
        await told(agent)
        readers = [await read(agent) for _ in range(MOST)]
        for reader in readers:
            stack.push_async_callback(reader.aclose)
        # The next ones are told so, and those that don't listen keep nobody out.
        for _ in range(2 * MOST):
            stream = await stack.enter_async_context(await connect(agent.operator_port))
            await stream.send_all(NEWS)
        refused = await agent.exchange(agent.operator_port, NEWS)
        assert refused.status == 503
        reason = f"too many streams of events in progress, the limit is {MOST}"
        assert refused.json == {"status": "fail", "reason": reason}
        # All else is served to everybody, and the VIM has places of its own.
        status = await agent.exchange(agent.operator_port, request_bytes("GET", "/v1/status"))
        assert status.status == 200
        await serves(agent)
        # A reader with the token takes the place of the oldest without, which is told why.
        token = f"Authorization: Bearer {TOKEN}"
        operator = await read(agent, request_bytes("GET", "/v1/events", headers=(token,)))
        stack.push_async_callback(operator.aclose)
        heard = b""
        with trio.fail_after(SOON_S):
            async for data in readers[0]:
                heard += data
        why = b"closed to make room for an operator who may make changes"
        assert why in heard
        assert b'"lost"' in heard
        with trio.move_on_after(0.1) as undisturbed:
            await readers[1].receive_some(4096)
        assert undisturbed.cancelled_caught
        # Room again, as soon as one has gone.
        await readers.pop().aclose()
        with trio.fail_after(SOON_S):
            while (await begins(agent, NEWS)) != 200:  # noqa: ASYNC110
                await trio.sleep(0.02)
        await ends_in_time(agent)


async def begins(agent: RealAgent, raw: bytes) -> int:
    """The status of an answer; not waiting for its end. 0: closed first, to make room."""
    async with await connect(agent.operator_port) as stream:
        await stream.send_all(raw)
        return int((await stream.receive_some(4096))[9:12] or b"0")


async def test_open_votes_keep_no_operator_out(tmp_path: Path) -> None:
    """As many as there may be, with a window of two minutes."""
    async with real_agent(tmp_path) as agent, AsyncExitStack() as stack:
        host = await told(agent)
        await host.send_instance(VM, vote_s=120)
        host.on_round = host.opens
        headers = (f"Authorization: Bearer {TOKEN}",)
        vote = request_bytes("POST", f"{INST}/vote", {"event": "stop"}, headers=headers)
        for _ in range(VOTES):
            stream = await stack.enter_async_context(await connect(agent.operator_port))
            await stream.send_all(vote)
            with trio.fail_after(SOON_S):
                assert (await stream.receive_some(4096)).startswith(b"HTTP/1.1 200 ")
        refused = await agent.exchange(agent.operator_port, vote)
        assert refused.json["reason"] == (
            f"too many votes and notices in progress, the limit is {VOTES}"
        )
        await serves(agent)
        release = {"alarms": "send"}
        raw = request_bytes("POST", f"/v1/hosts/{HOSTNAME}/alarms", release, headers=headers)
        answer = await agent.exchange(agent.operator_port, raw)
        assert (answer.status, answer.json["reason"]) == (
            409,
            f"no alarms of {HOSTNAME} are held back",
        )
        assert await agent.daemon.stop() == 0  # with all of them open
        assert "Traceback" not in agent.log


async def test_the_end_with_all_of_them_hanging_on(tmp_path: Path) -> None:
    """On both listeners at once; with a vote that no host answers, and a VIM that has stalled."""
    async with real_agent(tmp_path, audit_s=1) as agent:
        host = await told(agent)
        commanded = trio.Event()

        async def never(_: object) -> None:
            commanded.set()

        host.on_round = never
        agent.vim.mood = Mood.STALL
        await host.send_instance(VM, restart_s=77)
        with trio.fail_after(SOON_S):
            await agent.vim.wait_until(lambda: b'"77"' in agent.vim.received[-1].body)
        ports = (agent.vim_port, agent.operator_port)
        news = request_bytes(
            "GET", "/v1/events?recent=1000", headers=("Accept: text/event-stream",)
        )
        async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
            for port in ports:
                for _ in range(3 * MOST):
                    await stack.enter_async_context(await connect(port))
                for head, then in DRIBBLES:
                    await nursery.start(dribble, port, head, then)
            stranger = await trio.open_unix_socket(str(agent.directory / "link"))
            await stack.enter_async_context(stranger)
            async with deaf(agent, dict.fromkeys(ports, WHOLE)):
                reader = await stack.enter_async_context(await connect(ports[1], deaf=True))
                await reader.send_all(news)
                asking = await stack.enter_async_context(await connect(ports[0]))
                await asking.send_all(VOTE)
                with trio.fail_after(SOON_S):
                    await commanded.wait()
                await ends_in_time(agent)
            nursery.cancel_scope.cancel()
