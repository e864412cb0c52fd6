"""Seam 3 over loopback sockets: what the VIM asks, and literally what it is answered."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from hbtrio.api.vim import vim_api
from hbtrio.http.connection import HttpConnection
from hbtrio.http.limits import Drain, HttpLimits
from hbtrio.http.slots import Slots
from hbtrio.net.connections import ConnectionEnds
from hbtrio.store.worker import StoreFault
from hbtrio.wire.link_messages import RoundCommand
from hbtrio.wire.vocabulary import (
    EVENT_TABLE,
    Event,
    NotificationType,
    VoteResult,
    window_of,
)
from support.agent_world import (
    AgentWorld,
    Answer,
    SocketAgentWorld,
    agent_world,
    request_bytes,
    socket_agent_world,
)
from support.http_cases import quiet
from support.scripted_host import HOST_UUID, HOSTNAME, INSTANCE, OTHER_VM, VM, ScriptedHost

HOST = f"/v1/hosts/{HOST_UUID}"
INST = f"/v1/instances/{VM}"
ABOUT_HOST = {"uuid": HOST_UUID, "hostname": HOSTNAME}
ABOUT_VM = {"uuid": VM, "hostname": HOSTNAME}
NEW_VM = ABOUT_VM | {"services": ["heartbeat"]}


def patch(state: str = "enabled", hostname: str = HOSTNAME) -> dict[str, Any]:
    services = [{"service": "heartbeat", "state": state}]
    return {"uuid": VM, "hostname": hostname, "services": services}


def ask(action: str = "stop") -> dict[str, Any]:
    return ABOUT_VM | {"action": action}


#: Each request that names something, and a body that is right.
NAMING: list[tuple[str, str, Any]] = [
    ("PUT", f"{HOST}/enable", ABOUT_HOST),
    ("PUT", f"{HOST}/disable", ABOUT_HOST),
    ("GET", HOST, b""),
    ("GET", f"{HOST}/disable", ABOUT_HOST),
    ("DELETE", HOST, b""),
    ("PATCH", INST, patch()),
    ("GET", INST, b""),
    ("DELETE", INST, b""),
    ("POST", f"{INST}/vote", ask()),
    ("POST", f"{INST}/notify", ask()),
]

#: Those that add something.
ADDING: list[tuple[str, str, Any]] = [("POST", HOST, ABOUT_HOST), ("POST", INST, NEW_VM)]


def answered(answer: Answer, status_line: str, body: str) -> None:
    """The status line and the body, to the byte."""
    assert answer.status_line == status_line
    assert answer.body.decode() == body


def failed(answer: Answer, status: int, reason: str) -> None:
    """A refusal and its reason."""
    assert (answer.status, answer.json) == (status, {"status": "fail", "reason": reason})


async def told(agent: SocketAgentWorld) -> None:
    """The VIM has told of the host and of the instance; there is no host yet."""
    for method, path, body in ADDING:
        assert (await agent.request(method, path, body)).status == 200


# -- the table -------------------------------------------------------------------------------------


async def test_hosts_literally(tmp_path: Path, agent: SocketAgentWorld) -> None:
    passed = ("HTTP/1.1 200 OK", '{"status":"pass"}')
    state = f'{{"uuid":"{HOST_UUID}","hostname":"compute-0","state":"%s"}}'
    answered(await agent.request("POST", HOST, ABOUT_HOST), *passed)
    answered(await agent.request("GET", HOST), "HTTP/1.1 200 OK", state % "disabled")
    answered(await agent.request("PUT", f"{HOST}/enable", ABOUT_HOST), *passed)
    answered(await agent.request("GET", HOST), "HTTP/1.1 200 OK", state % "enabled")
    # The VIM's query: that path, with a body or none, and nothing changes.
    for body in (ABOUT_HOST, b""):
        answer = await agent.request("GET", f"{HOST}/disable", body)
        answered(answer, "HTTP/1.1 200 OK", state % "enabled")
    # Adding it once more changes nothing.
    answered(await agent.request("POST", HOST, ABOUT_HOST), *passed)
    answered(await agent.request("GET", HOST), "HTTP/1.1 200 OK", state % "enabled")
    answered(await agent.request("PUT", f"{HOST}/disable", ABOUT_HOST), *passed)
    answered(await agent.request("GET", HOST), "HTTP/1.1 200 OK", state % "disabled")
    answered(await agent.request("DELETE", HOST), "HTTP/1.1 204 No Content", "")
    failed(await agent.request("DELETE", HOST), 404, f"unknown host {HOST_UUID}")
    failed(await agent.request("GET", HOST), 404, f"unknown host {HOST_UUID}")


async def test_instances_literally(tmp_path: Path) -> None:
    async with socket_agent_world(tmp_path) as agent:
        ok = "HTTP/1.1 200 OK"
        state = (
            f'{{"uuid":"{VM}","hostname":"compute-0","services":[{{"service":"heartbeat",'
            '"state":"%s","restart-timeout":"%s","status":"%s"}]}'
        )
        answered(await agent.request("POST", INST, NEW_VM), ok, '{"status":"pass"}')
        answered(await agent.request("GET", INST), ok, state % ("disabled", "0", "disabled"))
        answer = await agent.request("PATCH", INST, patch("enabled"))
        answered(answer, ok, state % ("enabled", "0", "disabled"))
        host = await agent.host()
        answered(await agent.request("GET", INST), ok, state % ("enabled", "121", "enabled"))
        answer = await agent.request("PATCH", INST, patch("disabled"))
        answered(answer, ok, state % ("disabled", "121", "enabled"))
        await host.report_lost()
        await host.settle()
        answered(await agent.request("GET", INST), ok, state % ("disabled", "0", "disabled"))
        # Adding it once more changes nothing but maybe its host.
        await agent.request("PATCH", INST, patch("enabled"))
        answered(await agent.request("POST", INST, NEW_VM), ok, '{"status":"pass"}')
        answered(await agent.request("GET", INST), ok, state % ("enabled", "0", "disabled"))
        answered(await agent.request("DELETE", INST), "HTTP/1.1 204 No Content", "")
        failed(await agent.request("DELETE", INST), 404, f"unknown instance {VM}")
        failed(await agent.request("GET", INST), 404, f"unknown instance {VM}")


@pytest.mark.parametrize("event", list(EVENT_TABLE))
@pytest.mark.parametrize("verb", ["vote", "notify"])
async def test_votes_and_notices_literally(tmp_path: Path, verb: str, event: Event) -> None:
    kind = NotificationType.REVOCABLE if verb == "vote" else NotificationType.IRREVOCABLE
    seconds = {
        "VOTE": INSTANCE.vote_s,
        "SHUTDOWN_NOTICE": INSTANCE.shutdown_notice_s,
        "SUSPEND_NOTICE": INSTANCE.suspend_notice_s,
        "RESUME_NOTICE": INSTANCE.resume_notice_s,
    }[window_of(event, kind)]
    async with socket_agent_world(tmp_path) as agent:
        await agent.bound_host()
        told_s = seconds + 3
        body = f'{{"uuid":"{VM}","hostname":"compute-0","action":"{event}","timeout":"{told_s}"}}'
        answered(await agent.ask(verb, event), "HTTP/1.1 200 OK", body)
        [verdict] = await agent.verdicts(1)
        assert verdict == (event, "allow" if verb == "vote" else "proceed", "fine")
        [received] = [one for one in agent.vim.received if b'"action"' in one.body]
        assert received.body.decode() == (
            f'{{"uuid":"{VM}","event-type":"action","event-data":{{"action":"{event}",'
            f'"guest-response":"{verdict[1]}","reason":"fine"}}}}'
        )
        assert received.headers == {
            "host": f"127.0.0.1:{agent.vim.port}",
            "content-length": str(len(received.body)),
            "user-agent": "guest-agent/1.0",
            "content-type": "application/json",
            "connection": "close",
        }


@pytest.mark.parametrize("verb", ["vote", "notify"])
async def test_who_is_not_heartbeating_has_a_timeout_of_0(
    tmp_path: Path, verb: str, agent: SocketAgentWorld
) -> None:
    await told(agent)
    body = f'{{"uuid":"{VM}","hostname":"compute-0","action":"stop","timeout":"0"}}'
    # Its host has no link; then it has, and does not know it; then it has no part in it.
    answered(await agent.ask(verb, "stop"), "HTTP/1.1 200 OK", body)
    host = await agent.host(ScriptedHost(instances=()))
    answered(await agent.ask(verb, "stop"), "HTTP/1.1 200 OK", body)
    assert host.commands == []
    host.instances[VM] = attrs.evolve(INSTANCE, heartbeating=False, state="waiting")
    await host.send_instance()
    await host.settle()
    host.refusing("it is not heartbeating")
    answered(await agent.ask(verb, "stop"), "HTTP/1.1 200 OK", body)
    assert len(host.commands) == 1
    await host.settle()
    assert agent.vim.patches("action") == []


@pytest.mark.parametrize("verb", ["vote", "notify"])
async def test_who_counts_as_heartbeating_and_can_t_be_asked_is_503(
    tmp_path: Path, verb: str, agent: SocketAgentWorld
) -> None:
    """A VIM takes "0" for nobody's objecting, and 503 for a failure of its step."""
    host = await agent.bound_host()
    heartbeating = (await agent.request("GET", INST)).json
    assert heartbeating["services"][0]["status"] == "enabled"
    host.refusing("a notice on pause is open for another 7.0 s")
    failed(await agent.ask(verb, "stop"), 503, "a notice on pause is open for another 7.0 s")
    host.silent()
    assert (await agent.ask(verb, "stop")).status == 200
    kind = "vote" if verb == "vote" else "notice"
    failed(await agent.ask(verb, "stop"), 503, f"the VIM's {kind} on stop is open already")
    await host.cut()
    with trio.fail_after(20):
        while HOSTNAME in agent.agent.fleet.sessions:  # noqa: ASYNC110 - they set no event
            await trio.sleep(0.01)
    failed(await agent.ask(verb, "reboot"), 503, "compute-0 has no link to this agent")
    assert (await agent.request("GET", INST)).json == heartbeating
    assert agent.vim.patches("action") == []


# -- who may ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("vim/1.0", 200),
        (None, 200),
        ("", 200),
        ("vim/1.1", 403),
        ("VIM/1.0", 403),
        ("guest-agent/1.0", 403),
        ("curl/8.0", 403),
    ],
)
async def test_user_agents(
    tmp_path: Path, name: str | None, status: int, agent: SocketAgentWorld
) -> None:
    await agent.bound_host()
    again = {"DELETE": 204}
    for method, path, body in [*ADDING, *NAMING[:4], *NAMING[5:7], *NAMING[8:]]:
        answer = await agent.request(method, path, body, agent=name)
        assert answer.status == status, (method, path)
        if status == 403:
            failed(answer, 403, "unknown User-Agent")
    for method, path, body in (NAMING[4], NAMING[7]):
        answer = await agent.request(method, path, body, agent=name)
        assert answer.status == (again[method] if status == 200 else 403)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/v1"),
        ("GET", "/v1/"),
        ("GET", "/v1/hosts"),
        ("GET", "/v1/hosts/"),
        ("GET", f"{HOST}/"),
        ("GET", "/v1/instances"),
        ("GET", f"{INST}/"),
        ("GET", f"{INST}/vote/"),
        ("GET", f"/v2/instances/{VM}"),
        ("GET", f"/V1/instances/{VM}"),
        ("GET", f"/v1/vms/{VM}"),
        ("PUT", HOST),
        ("PATCH", HOST),
        ("GET", f"{HOST}/enable"),
        ("POST", f"{HOST}/enable"),
        ("PUT", f"{HOST}/destroy"),
        ("DELETE", f"{HOST}/enable"),
        ("PUT", INST),
        ("HEAD", INST),
        ("OPTIONS", INST),
        ("TRACE", INST),
        ("BREW", INST),
        ("GET", f"{INST}/vote"),
        ("PUT", f"{INST}/notify"),
        ("POST", f"{INST}/act"),
        ("POST", f"{INST}/vote/stop"),
    ],
)
async def test_wrong_paths(tmp_path: Path, method: str, path: str, agent: SocketAgentWorld) -> None:
    await told(agent)
    answer = await agent.request(method, path, ABOUT_VM if method != "GET" else b"")
    assert answer.status == 403
    if method != "HEAD":
        assert answer.json["status"] == "fail"


@pytest.mark.parametrize(("method", "path", "body"), NAMING)
async def test_404_for_every_verb_on_what_is_unknown(
    tmp_path: Path, method: str, path: str, body: Any, agent: SocketAgentWorld
) -> None:
    what = "host" if "/hosts/" in path else "instance"
    uuid = HOST_UUID if what == "host" else VM
    failed(await agent.request(method, path, body), 404, f"unknown {what} {uuid}")
    # As well without a body, and where it is of no use.
    failed(await agent.request(method, path), 404, f"unknown {what} {uuid}")
    failed(await agent.request(method, path, b"?"), 404, f"unknown {what} {uuid}")


async def test_upper_case_uuids_are_the_same(tmp_path: Path, agent: SocketAgentWorld) -> None:
    upper = OTHER_VM.replace("3", "A")
    path = f"/v1/instances/{upper}"
    body = {"uuid": upper, "hostname": HOSTNAME, "services": ["heartbeat"]}
    assert (await agent.request("POST", path, body)).status == 200
    assert (await agent.request("GET", path.lower())).json["uuid"] == upper.lower()
    assert (await agent.request("DELETE", path)).status == 204
    assert (await agent.request("DELETE", path)).status == 404


# -- bodies ----------------------------------------------------------------------------------------

BODIES = [one for one in [*ADDING, *NAMING] if one[2] != b"" and one[0] != "GET"]


@pytest.mark.parametrize(("method", "path", "body"), BODIES)
async def test_no_body_and_no_json(
    tmp_path: Path, method: str, path: str, body: Any, agent: SocketAgentWorld
) -> None:
    await told(agent)
    failed(await agent.request(method, path), 411, "a body is needed")
    answer = await agent.request(method, path, headers=("Content-Length: 0",))
    failed(answer, 411, "a body is needed")
    for raw in (b"{", b"\xff", b"'x'", b"[" * 60_000, b"9" * 5000 + b"x"):
        failed(await agent.request(method, path, raw), 400, "the body is not JSON")
    for raw in (b"[]", b"null", b'"x"', b"5"):
        failed(await agent.request(method, path, raw), 400, "the body is not a JSON object")
    for key in body:
        less = {name: value for name, value in body.items() if name != key}
        failed(await agent.request(method, path, less), 400, f"body.{key}: is missing")
    more = body | {"later": {"deep": [1]}}
    assert (await agent.request(method, path, more)).status == 200


@pytest.mark.parametrize(
    ("path", "method", "change", "reason"),
    [
        (INST, "PATCH", {"uuid": 5}, "body.uuid: must be a string, got 5"),
        (INST, "PATCH", {"uuid": None}, "body.uuid: must be a string, got null"),
        (INST, "PATCH", {"uuid": OTHER_VM}, "body.uuid: differs from the path's"),
        (INST, "PATCH", {"hostname": ["x"]}, "body.hostname: must be a string, got a list"),
        (INST, "PATCH", {"hostname": ""}, 'body.hostname: must be a host name, got ""'),
        (
            INST,
            "PATCH",
            {"hostname": "a\nb"},
            'body.hostname: must be a host name, got "a\\nb"',
        ),
        (
            INST,
            "PATCH",
            {"hostname": "\ud800"},
            'body.hostname: must be a host name, got "\\ud800"',
        ),
        (INST, "PATCH", {"services": {}}, "body.services: must be a list, got a JSON object"),
        (
            INST,
            "PATCH",
            {"services": "heartbeat"},
            'body.services: must be a list, got "heartbeat"',
        ),
        (
            INST,
            "PATCH",
            {"services": ["heartbeat"]},
            'body.services[0]: must be a JSON object, got "heartbeat"',
        ),
        (
            INST,
            "PATCH",
            {"services": [{"service": "heartbeat", "state": "on"}]},
            'body.services[0].state: must be one of enabled, disabled, got "on"',
        ),
        (
            INST,
            "PATCH",
            {"services": [{"service": "heartbeat", "state": "enabled"}, {"service": "watchdog"}]},
            'body.services[1].service: must be one of heartbeat, got "watchdog"; '
            "body.services[1].state: is missing",
        ),
        (
            INST,
            "POST",
            {"services": ["watchdog"]},
            'body.services[0]: must be one of heartbeat, got "watchdog"',
        ),
        (
            INST,
            "POST",
            {"services": [None]},
            "body.services[0]: must be one of heartbeat, got null",
        ),
        (
            f"{INST}/vote",
            "POST",
            {"action": "defragment"},
            f'body.action: must be one of {", ".join(EVENT_TABLE)}, got "defragment"',
        ),
        (
            f"{INST}/notify",
            "POST",
            {"action": "unknown"},
            f'body.action: must be one of {", ".join(EVENT_TABLE)}, got "unknown"',
        ),
        (f"{INST}/vote", "POST", {"action": 1, "uuid": 2}, None),
    ],
)
async def test_a_fault_names_its_path(
    tmp_path: Path,
    path: str,
    method: str,
    change: dict[str, Any],
    reason: str | None,
    agent: SocketAgentWorld,
) -> None:
    await told(agent)
    base = patch() if method == "PATCH" else ask() if path != INST else NEW_VM
    answer = await agent.request(method, path, base | change)
    if reason is None:
        assert answer.status == 400
        assert "body.uuid: must be a string, got 2" in answer.json["reason"]
        assert "body.action: must be one of" in answer.json["reason"]
    else:
        failed(answer, 400, reason)
    # Nothing was changed by it.
    now = (await agent.request("GET", INST)).json
    assert (now["hostname"], now["services"][0]["state"]) == (HOSTNAME, "disabled")


@pytest.mark.parametrize("uuid", ["x", "1" * 300, "..", "%00", "a%2Fb", "%C3%A9", VM[:-1]])
async def test_only_uuids_are_added(tmp_path: Path, uuid: str, agent: SocketAgentWorld) -> None:
    for kind, body in (("hosts", ABOUT_HOST), ("instances", NEW_VM)):
        answer = await agent.request("POST", f"/v1/{kind}/{uuid}", body)
        assert answer.status in (400, 403)
    assert agent.agent.fleet.hosts == {}
    assert agent.agent.fleet.instances == {}


async def test_a_patch_without_services_only_rebinds(
    tmp_path: Path, agent: SocketAgentWorld
) -> None:
    await agent.tell_of(state="enabled")
    answer = await agent.request("PATCH", INST, patch(hostname="compute-9") | {"services": []})
    assert answer.json["hostname"] == "compute-9"
    assert answer.json["services"][0]["state"] == "enabled"


# -- bytes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("close", [True, False])
async def test_http_1_0(tmp_path: Path, close: bool, agent: SocketAgentWorld) -> None:
    await agent.bound_host()
    for method, path, body in NAMING[5:7] + NAMING[8:]:
        raw = request_bytes(method, path, body, version="1.0")
        if not close:
            raw = raw.replace(b"Connection: close\r\n", b"").replace(
                b"Host: 127.0.0.1:2410\r\n", b""
            )
        answer = await agent.exchange(raw)
        assert answer.status == 200
        assert answer.json["uuid"] == VM
    await agent.verdicts(2)


async def test_one_connection_for_several_requests(tmp_path: Path, agent: SocketAgentWorld) -> None:
    await agent.bound_host()
    kept = request_bytes("GET", INST).replace(b"Connection: close", b"X-Keep: alive")
    answer = await agent.exchange(kept * 3 + request_bytes("GET", HOST))
    assert answer.raw.count(b"HTTP/1.1 200 OK") == 4


async def test_a_request_in_single_bytes(tmp_path: Path, agent: SocketAgentWorld) -> None:
    await agent.bound_host()
    raw = request_bytes("POST", f"{INST}/vote", ask())
    with trio.fail_after(20):
        async with await trio.open_tcp_stream("127.0.0.1", agent.port) as stream:
            stream.setsockopt(6, 1, 1)  # TCP_NODELAY
            for place in range(len(raw)):
                await stream.send_all(raw[place : place + 1])
            answer = Answer(b"".join([bytes(data) async for data in stream]))
    assert answer.json["timeout"] == "12"
    assert await agent.verdicts(1) == [("stop", "allow", "fine")]


# -- votes whose reply is not waited for -----------------------------------------------------------


async def test_a_vim_that_gives_up_waiting_gets_no_verdict(
    tmp_path: Path, agent: SocketAgentWorld
) -> None:
    host = await agent.bound_host()
    commanded, gone = trio.Event(), trio.Event()

    async def slowly(command: RoundCommand) -> None:
        commanded.set()
        await gone.wait()
        await host.opens(command)

    host.on_round = slowly
    with trio.fail_after(20):
        stream = await trio.open_tcp_stream("127.0.0.1", agent.port)
        await stream.send_all(request_bytes("POST", f"{INST}/vote", ask()))
        await commanded.wait()
        await stream.aclose()
        await wait_all_tasks_blocked(0.05)
        gone.set()
        while not await agent.store.history():  # noqa: ASYNC110 - the store sets no event
            await trio.sleep(0.01)
    await host.outcome(host.commands[0], VoteResult.REJECT, "too late")
    await host.settle()
    # The next one is answered as if the first had never been.
    host.on_round = host.agree
    assert (await agent.ask("vote", "reboot")).json["timeout"] == "12"
    assert await agent.verdicts(1) == [("reboot", "allow", "fine")]
    kept = [(one.entry.reason, one.entry.note) for one in reversed(await agent.store.history())]
    assert kept == [
        (
            "the requester did not wait for the reply",
            "compute-0 reported later: reject: too late",
        ),
        ("fine", ""),
    ]


async def ask_in_memory(
    world: AgentWorld, on_send: Callable[[trio.abc.HalfCloseableStream], Awaitable[None]]
) -> None:
    """A vote of the VIM, whose reply ``on_send`` sees, with the VIM's end, before it is written."""
    vim, ours = memory_stream_pair()

    async def strike() -> None:
        await on_send(vim)

    ours.send_stream.send_all_hook = strike
    await vim.send_all(request_bytes("POST", f"{INST}/vote", ask()))
    connection = HttpConnection(
        *(vim_api(world.agent), ours),
        limits=HttpLimits(),
        on_crash=crashed,
        drain=Drain(),
        endpoint=ConnectionEnds(),
    )
    await connection.run(Slots(HttpLimits()).take(quiet))


def crashed(error: BaseException) -> None:
    raise AssertionError from error


async def breaks(_: trio.abc.HalfCloseableStream) -> None:
    raise trio.BrokenResourceError


async def is_not_read(_: trio.abc.HalfCloseableStream) -> None:
    await trio.sleep_forever()


@pytest.mark.parametrize(("on_send", "takes_s"), [(breaks, 0.0), (is_not_read, 10.0)])
@pytest.mark.parametrize("at_once", [True, False])
async def test_a_reply_that_is_not_written_has_no_verdict(
    on_send: Callable[[trio.abc.HalfCloseableStream], Awaitable[None]],
    takes_s: float,
    at_once: bool,
    world: AgentWorld,
) -> None:
    """For the VIM its request has failed, whether the guest has voted by then or votes later."""
    host = await world.bound_host(host=ScriptedHost(instances=(attrs.evolve(INSTANCE, vote_s=20),)))
    host.answering(VoteResult.REJECT, "no") if at_once else host.silent()
    await ask_in_memory(world, on_send)
    assert trio.current_time() == takes_s
    if not at_once:
        await host.outcome(host.commands[0], VoteResult.REJECT, "no")
    await trio.sleep(100)
    assert world.vim.verdicts == []
    assert len(world.agent.rounds) == 0


async def test_whoever_closes_with_the_last_byte_has_the_reply(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """The agent may hear of that before its own write returns."""

    async def closes(vim: trio.abc.HalfCloseableStream) -> None:
        await vim.send_eof()
        await wait_all_tasks_blocked()

    async with agent_world(tmp_path) as world:
        host = await world.bound_host()
        host.answering(VoteResult.REJECT, "no")
        await ask_in_memory(world, closes)
        await trio.sleep(100)
        assert world.vim.verdicts == [(0.0, "stop", "reject", "no")]


# -- the store, and secrets ------------------------------------------------------------------------


async def test_a_store_that_can_t_be_written_is_503(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with socket_agent_world(tmp_path) as agent:
        await agent.bound_host()
        worker = agent.store._worker
        real = worker.run

        async def full(work: Any) -> Any:
            raise StoreFault("database or disk is full")

        worker.run = full  # type: ignore[method-assign]
        changing = [
            ("PUT", f"{HOST}/disable", ABOUT_HOST),
            ("PATCH", INST, patch("disabled")),
            ("POST", f"{INST}/vote", ask()),
            ("DELETE", INST, b""),
            ("DELETE", HOST, b""),
        ]
        for method, path, body in changing:
            answer = await agent.request(method, path, body)
            failed(answer, 503, "database or disk is full")
        worker.run = real  # type: ignore[method-assign]
        # Nothing was changed, here or there.
        assert (await agent.request("GET", HOST)).json["state"] == "enabled"
        assert (await agent.request("GET", INST)).json["services"][0]["state"] == "enabled"
    assert "Traceback" not in caplog.text


async def test_more_than_is_taken_in_is_503(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, agent: SocketAgentWorld
) -> None:
    monkeypatch.setattr("hbtrio.nursery.agent.inventory._HOSTS", 1)
    monkeypatch.setattr("hbtrio.nursery.agent.inventory._INSTANCES", 1)
    await told(agent)
    for kind, base in (("hosts", ABOUT_HOST), ("instances", NEW_VM)):
        body = base | {"uuid": OTHER_VM, "hostname": "compute-1"}
        answer = await agent.request("POST", f"/v1/{kind}/{OTHER_VM}", body)
        failed(answer, 503, f"1 {kind} are known")
        # What is known can still be changed, and makes room when it goes.
    await told(agent)
    assert (await agent.request("DELETE", INST)).status == 204
    body = NEW_VM | {"uuid": OTHER_VM}
    assert (await agent.request("POST", f"/v1/instances/{OTHER_VM}", body)).status == 200


async def test_the_token_is_never_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "s3cr3t-t0k3n-0f-the-v1m"
    async with socket_agent_world(tmp_path, audit_s=1) as agent:
        host = await agent.bound_host()
        host.on_round = host.agree
        header = (f"X-Auth-Token: {secret}",)
        for method, path, body in [*ADDING, *NAMING]:
            await agent.request(method, path, body, headers=header)
            await agent.request(method, path, b"{", headers=header)
            await agent.request(method, path, body, agent=secret, headers=header)
            await agent.request(method, f"{path}/{secret[:1]}", body, headers=header)
        # Requests that the driver itself refuses.
        for raw in (
            b"GET / HTTP/1.1\r\nX-Auth-Token: %s\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: x\r\nX-Auth-Token : %s\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: x\r\nX-Auth-Token: %s\x00\r\n\r\n",
            b"GET / HTTP/3.0\r\nHost: x\r\nX-Auth-Token: %s\r\n\r\n",
            b"X-Auth-Token: %s\r\n\r\n",
        ):
            answer = await agent.exchange(raw % secret.encode())
            assert answer.status in (400, 403, 505)
            assert secret.encode() not in answer.raw
        await agent.bound_host()
        agent.agent.states.service = None  # type: ignore[method-assign, assignment]
        answer = await agent.request("GET", INST, headers=header)  # a programming error
        assert answer.status == 500
        assert len(agent.crashes) == 1
        logging.getLogger("test").error("crash", exc_info=agent.crashes.pop())
    assert "crash" in caplog.text
    assert secret not in caplog.text
    for record in caplog.records:
        assert secret not in repr(record.__dict__)
