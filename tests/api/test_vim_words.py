"""Seam 3 as the VIM's own client writes it, and what has to hold of each answer whatever is asked.

The VIM sends with Python's ``urllib``: these headers in this order, the head and the body apart, a
connection for each request.
"""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import attrs
import httpx
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from hbtrio.api.vim import vim_api
from hbtrio.wire.vim import MAX_REASON
from hbtrio.wire.vim_result import NotSent
from hbtrio.wire.vocabulary import EVENT_TABLE, VoteResult
from support.agent_world import AgentWorld, SocketAgentWorld
from support.scripted_host import HOST_UUID, HOSTNAME, INSTANCE, VM, ScriptedHost

HOST, INST = f"/v1/hosts/{HOST_UUID}", f"/v1/instances/{VM}"
ABOUT_HOST = f'{{"uuid": "{HOST_UUID}", "hostname": "compute-0"}}'
ABOUT_VM = f'{{"uuid": "{VM}", "hostname": "compute-0", '
PASSED = '{"status":"pass"}'
HOST_STATE = f'{{"uuid":"{HOST_UUID}","hostname":"compute-0","state":"%s"}}'
VM_STATE = (
    f'{{"uuid":"{VM}","hostname":"%s","services":[{{"service":"heartbeat",'
    '"state":"%s","restart-timeout":"%s","status":"%s"}]}'
)
ASKED = f'{{"uuid":"{VM}","hostname":"compute-0","action":"%s","timeout":"%s"}}'
FAILED = '{"status":"fail","reason":"%s"}'


def change(state: str, hostname: str = HOSTNAME) -> str:
    services = f'[{{"service": "heartbeat", "state": "{state}"}}]'
    return f'{{"uuid": "{VM}", "hostname": "{hostname}", "services": {services}}}'


def ask(event: str) -> str:
    return ABOUT_VM + f'"action": "{event}"}}'


async def exchange(agent: SocketAgentWorld, method: str, path: str, body: str) -> bytes:
    """A request as the VIM writes it, and every byte that comes back."""
    head = f"{method} {path} HTTP/1.1\r\nAccept-Encoding: identity\r\n"
    if body:
        head += f"Content-Length: {len(body)}\r\n"
    head += f"Host: 127.0.0.1:{agent.port}\r\nUser-Agent: vim/1.0\r\n"
    head += "X-Auth-Token: MIIabc\r\n"
    if body:
        head += "Content-Type: application/json\r\n"
    head += "Connection: close\r\n\r\n"
    with trio.fail_after(20):
        async with await trio.open_tcp_stream("127.0.0.1", agent.port) as stream:
            await stream.send_all(head.encode())
            if body:
                await stream.send_all(body.encode())
            return b"".join([bytes(data) async for data in stream])


def answer(status: str, body: str) -> bytes:
    """Every byte of an answer."""
    if not body:
        return f"HTTP/1.1 {status}\r\nConnection: close\r\n\r\n".encode()
    head = f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n"
    return f"{head}content-type: application/json\r\nConnection: close\r\n\r\n{body}".encode()


async def test_a_life_in_the_vims_words(tmp_path: Path, agent: SocketAgentWorld) -> None:
    """All that there is between an older VIM and the agent, from the first word to the last."""
    ok, gone, done = "200 OK", "404 Not Found", "204 No Content"
    no_host = FAILED % f"unknown host {HOST_UUID}"
    no_vm = FAILED % f"unknown instance {VM}"
    before = [
        ("GET", f"{HOST}/disable", ABOUT_HOST, gone, no_host),
        ("PUT", f"{HOST}/enable", ABOUT_HOST, gone, no_host),
        ("PUT", f"{HOST}/disable", ABOUT_HOST, gone, no_host),
        ("DELETE", HOST, "", gone, no_host),
        ("GET", INST, "", gone, no_vm),
        ("PATCH", INST, change("enabled"), gone, no_vm),
        ("POST", f"{INST}/vote", ask("stop"), gone, no_vm),
        ("POST", f"{INST}/notify", ask("stop"), gone, no_vm),
        ("DELETE", INST, "", gone, no_vm),
        ("POST", HOST, ABOUT_HOST, ok, PASSED),
        ("GET", HOST, "", ok, HOST_STATE % "disabled"),
        ("PUT", f"{HOST}/enable", ABOUT_HOST, ok, PASSED),
        ("GET", f"{HOST}/disable", ABOUT_HOST, ok, HOST_STATE % "enabled"),
        ("POST", INST, ABOUT_VM + '"services": ["heartbeat"]}', ok, PASSED),
        ("GET", INST, "", ok, VM_STATE % (HOSTNAME, "disabled", "0", "disabled")),
        ("POST", f"{INST}/vote", ask("stop"), ok, ASKED % ("stop", "0")),
        ("POST", f"{INST}/notify", ask("stop"), ok, ASKED % ("stop", "0")),
    ]
    windows = [
        ("vote", "resize_begin", 12),
        ("notify", "resize_begin", 14),
        ("vote", "resize_end", 12),
        ("notify", "resize_end", 17),
        ("notify", "stop", 13),
    ]
    heartbeating = [
        (
            "PATCH",
            INST,
            change("enabled"),
            ok,
            VM_STATE % (HOSTNAME, "enabled", "121", "enabled"),
        ),
        ("GET", INST, "", ok, VM_STATE % (HOSTNAME, "enabled", "121", "enabled")),
        *(
            ("POST", f"{INST}/{verb}", ask(event), ok, ASKED % (event, seconds))
            for verb, event, seconds in windows
        ),
        (
            "PATCH",
            INST,
            change("disabled", "compute-9"),
            ok,
            VM_STATE % ("compute-9", "disabled", "0", "disabled"),
        ),
        ("DELETE", INST, "", done, ""),
        ("DELETE", INST, "", gone, no_vm),
        ("PUT", f"{HOST}/disable", ABOUT_HOST, ok, PASSED),
        ("DELETE", HOST, "", done, ""),
        ("DELETE", HOST, "", gone, no_host),
    ]
    for method, path, body, status, said in before:
        got = await exchange(agent, method, path, body)
        assert got == answer(status, said), (method, path)
    await agent.host()
    for count, (method, path, body, status, said) in enumerate(heartbeating):
        got = await exchange(agent, method, path, body)
        assert got == answer(status, said), (method, path)
        # The VIM asks for the next thing once it has the answer to the last.
        await agent.verdicts(min(max(0, count - 1), len(windows)))
    expected = [(event, "allow" if v == "vote" else "proceed", "fine") for v, event, _ in windows]
    assert await agent.verdicts(len(windows)) == expected


@pytest.mark.parametrize("heartbeating", [True, False])
@pytest.mark.parametrize("seconds", [0, 1, 300, 2**31 - 1])
async def test_timeouts_are_integers_whatever_a_host_says(
    tmp_path: Path, heartbeating: bool, seconds: int, agent: SocketAgentWorld
) -> None:
    """The VIM's state machine raises TypeError where they are none or missing."""
    windows = dict.fromkeys(
        ("vote_s", "shutdown_notice_s", "suspend_notice_s", "resume_notice_s", "restart_s"), seconds
    )
    instance = attrs.evolve(INSTANCE, heartbeating=heartbeating, **windows)
    host = await agent.bound_host(host=ScriptedHost(instances=(instance,)))
    if not heartbeating:
        host.refusing("it is not heartbeating")
    for state in ("enabled", "disabled"):
        patched = (await agent.request("PATCH", INST, change(state).encode())).json
        read = (await agent.request("GET", INST)).json
        assert patched == read
        [service] = read["services"]
        assert service["restart-timeout"] == str(seconds if heartbeating else 0)
    for verb, event in itertools.product(("vote", "notify"), ("stop", "resize_end")):
        asked = (await agent.ask(verb, event)).json
        if heartbeating and not seconds:
            # "0" would be the word of one that takes no part.
            assert asked == {"status": "fail", "reason": "the host opened none"}
        else:
            assert asked["timeout"] == str(min(seconds + 3, 44) if heartbeating else 0)
    # And so it is told.
    for body in await agent.received("service", 1 if heartbeating else 0):
        assert body["event-data"]["services"][0]["restart-timeout"] == str(seconds)


@pytest.mark.slow
async def test_any_reason_reaches_the_vim_digestible(world: AgentWorld) -> None:
    """1,000 of them, of all there is; up to what a link carries, of which a host sends a part."""
    rng = random.Random(3)
    pool = "\"\\\n\r\t\0\x1b\x7f\x85\xa0é東\U0001f600\u2028\ud800'{}[]:,%$`;& abcXYZ019"
    host = await world.bound_host()
    for number in range(1000):
        length = rng.choice((1, 5, 50, 255, 256, 2000))
        reason = "".join(rng.choices(pool, k=length)).encode("utf-8", "replace").decode()
        host.answering(VoteResult.REJECT, reason)
        await world.ask(rng.choice(list(EVENT_TABLE)), vote=bool(number % 2))
        await host.settle()
        await world.at(number + 1)
        [(_, _, response, told)] = world.vim.verdicts[number:]
        # The VIM pastes it between two quotes.
        assert json.loads(f'{{"reason":"{told}"}}') == {"reason": told}
        assert response == ("reject" if number % 2 else "proceed")
        assert len(told) <= MAX_REASON
        assert not set(told) & set('"\\\n\r\t\0')
        # Nothing that is readable is lost.
        words = "".join(char for char in reason if char.isascii() and char.isalnum())
        assert words.startswith("".join(char for char in told if char.isalnum()))


@pytest.mark.parametrize(("name", "sent_at"), [("vim/1.0", 20.0), ("curl/8.0", 31.0)])
async def test_a_vim_that_asks_is_up_and_hears_what_waits(
    name: str, sent_at: float, world: AgentWorld
) -> None:
    """It can be up again for up to a minute before it is tried: its own request says so."""
    host = await world.bound_host()
    await wait_all_tasks_blocked()
    world.vim.next = [NotSent("connection refused")] * 5
    await host.report_lost()
    transport = httpx.ASGITransport(vim_api(world.agent))
    async with httpx.AsyncClient(transport=transport, base_url="http://agent") as http:
        await world.at(20)
        assert world.vim.received("alarm") == []
        await http.get(INST, headers={"user-agent": name})
    await world.at(100)
    assert [time for time, _ in world.vim.received("alarm")] == [sent_at]


async def test_a_vote_is_the_bound_hosts_whatever_the_request_calls_it(
    tmp_path: Path, agent: SocketAgentWorld
) -> None:
    """Only a PATCH, or adding it once more, moves an instance."""
    host = await agent.bound_host()
    for count, verb in enumerate(("vote", "notify"), 1):
        body = {"uuid": VM, "hostname": "compute-9", "action": "stop"}
        asked = (await agent.request("POST", f"{INST}/{verb}", body)).json
        assert asked["hostname"] == HOSTNAME
        await agent.verdicts(count)
    assert len(host.commands) == 2
    assert (await agent.request("GET", INST)).json["hostname"] == HOSTNAME
