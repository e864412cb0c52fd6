"""Seam 3 over loopback sockets: what the agent tells a VIM that does as the deployed one does."""

from __future__ import annotations

import itertools
import json
import socket
from collections import Counter, deque
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from hbtrio.fsm.delivery import OutboxState
from hbtrio.lab.fake_vim import FakeVim, fake_vim
from hbtrio.lab.received import Received
from hbtrio.lab.vim_server import Mood
from hbtrio.wire.vocabulary import CorrectiveAction, VoteResult
from support.agent_world import SocketAgentWorld, request_bytes, socket_agent_world
from support.scripted_host import HOST_UUID, HOSTNAME, INSTANCE, OTHER_HOST_UUID, VM, ScriptedHost

INST = f"/v1/instances/{VM}"


def is_action(request: Received) -> bool:
    return b'"event-type":"action"' in request.body


# -- the reply comes first -------------------------------------------------------------------------


class Watched(deque[Received]):
    """The VIM's memory, which looks at each verdict in the moment it comes."""

    def __init__(self) -> None:
        super().__init__(maxlen=100_000)
        #: The VIM's connections on which a reply is awaited, by instance.
        self.awaited: dict[str, socket.socket] = {}
        self.early: list[str] = []
        self.seen: Counter[str] = Counter()

    def append(self, request: Received) -> None:
        if is_action(request):
            uuid = request.target.rpartition("/")[2]
            self.seen[uuid] += 1
            try:
                waiting = self.awaited[uuid].recv(65536, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            except BlockingIOError:
                waiting = b""
            if b'"timeout":"12"}' not in waiting:
                self.early.append(f"{uuid}: {waiting!r}")
        super().append(request)


async def test_a_vote_is_replied_to_before_its_verdict_leaves(
    tmp_path: Path, agent: SocketAgentWorld
) -> None:
    """A thousand times, with a guest that answers at once."""
    uuids = [f"{n:08x}-1111-4111-8111-111111111111" for n in range(8)]
    agent.vim.received = watched = Watched()
    instances = tuple(attrs.evolve(INSTANCE, uuid=uuid) for uuid in uuids)
    await agent.bound_host(host=ScriptedHost(instances=instances))

    async def vote(uuid: str, times: int) -> None:
        body = {"uuid": uuid, "hostname": HOSTNAME, "action": "stop"}
        raw = request_bytes("POST", f"/v1/instances/{uuid}/vote", body)
        for time in range(times):
            stream = await trio.open_tcp_stream("127.0.0.1", agent.port)
            async with stream:
                watched.awaited[uuid] = socket.socket(fileno=stream.socket.fileno())
                try:
                    await stream.send_all(raw)
                    # Not read before the verdict has come: what is there then was there first.
                    await agent.vim.wait_until(lambda time=time: watched.seen[uuid] > time)  # type: ignore[misc]
                    reply = b"".join([bytes(data) async for data in stream])
                finally:
                    watched.awaited.pop(uuid).detach()
                assert reply.startswith(b"HTTP/1.1 200 OK\r\n")

    with trio.fail_after(120):
        async with trio.open_nursery() as nursery:
            for uuid in uuids:
                nursery.start_soon(vote, uuid, 125)
    assert watched.early == []
    assert watched.seen.total() == 1000


# -- verdicts --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "result", "response"),
    [
        ("vote", VoteResult.ACCEPT, "allow"),
        ("vote", VoteResult.REJECT, "reject"),
        ("vote", VoteResult.COMPLETE, "allow"),
        ("vote", VoteResult.TIMEOUT, "allow"),
        ("vote", VoteResult.ERROR, "allow"),
        ("notify", VoteResult.COMPLETE, "proceed"),
        ("notify", VoteResult.TIMEOUT, "proceed"),
        ("notify", VoteResult.ERROR, "proceed"),
    ],
)
async def test_results_and_responses(
    tmp_path: Path, verb: str, result: VoteResult, response: str, agent: SocketAgentWorld
) -> None:
    host = await agent.bound_host()
    host.answering(result, "it says so")
    await agent.ask(verb, "resize_begin")
    assert await agent.verdicts(1) == [("resize_begin", response, "it says so")]


REASONS = [
    "",
    'disk "a" busy',
    "back\\slash \\",
    '\\\\\\"',
    "two\nlines\r\n",
    "tab\tand\x00nul\x1b[31m",
    "Grüße, 東京, \U0001f600",
    '","guest-response":"allow","x":"',
    "'single' {braces} %s ${HOME}",
    "\u2028\u2029\x85",
    "x" * 10_000,
    '"' * 10_000,
    "\\" * 10_000,
    "é" * 10_000,
]


async def test_any_reason_can_be_pasted_into_json(tmp_path: Path, agent: SocketAgentWorld) -> None:
    host = await agent.bound_host()
    for count, reason in enumerate(REASONS, 1):
        # A host cuts what it is told; what a hostile one sends is cut here as well.
        host.answering(VoteResult.REJECT, reason[:2000])
        assert (await agent.ask("vote", "stop")).json["timeout"] == "12"
        told = (await agent.verdicts(count))[-1][2]
        # As the VIM does it.
        pasted = '{"action":"stop","guest-response":"reject","reason":"' + told + '"}'
        assert json.loads(pasted) == {
            "action": "stop",
            "guest-response": "reject",
            "reason": told,
        }
        assert told.isascii()
        assert told.isprintable() or told == ""
        assert len(told) <= 255
    assert (await agent.verdicts(1))[1][2] == "disk 'a' busy"
    # What is kept for people is what was said.
    kept = [one.entry.reason for one in reversed(await agent.store.history())]
    assert kept == [reason[:2000] for reason in REASONS]


async def test_a_reason_beyond_the_links_bound_ends_the_link_and_not_the_agent(
    tmp_path: Path, agent: SocketAgentWorld
) -> None:
    host = await agent.bound_host()
    host.answering(VoteResult.REJECT, "x" * 10_000)
    with trio.fail_after(20):
        assert (await agent.ask("vote", "stop")).json["timeout"] == "12"
        await host.until(lambda: not host.up)
    assert host.goodbyes == ["unusable message: Expected `str` of length <= 2000 - at `$.reason`"]


async def test_a_silent_guest_has_agreed_before_the_vims_timer(
    tmp_path: Path, agent: SocketAgentWorld
) -> None:
    host = await agent.bound_host(host=ScriptedHost(instances=(attrs.evolve(INSTANCE, vote_s=1),)))
    host.silent()
    assert (await agent.ask("vote", "stop")).json["timeout"] == "4"
    replied_at = trio.current_time()
    assert await agent.verdicts(1) == [("stop", "allow", "no answer within 1 s")]
    [request] = [one for one in agent.vim.received if is_action(one)]
    assert 3.5 < request.time - replied_at < 4


async def test_a_silent_close_is_a_delivery(tmp_path: Path, agent: SocketAgentWorld) -> None:
    await agent.bound_host()
    await agent.ask("vote", "stop")
    await agent.verdicts(1)
    status = await ended(agent, "action")
    assert status == [(OutboxState.UNCONFIRMED, "closed without an answer")]
    assert agent.agent.delivery is not None
    assert agent.agent.delivery.status.reachable


async def ended(agent: SocketAgentWorld, kind: str) -> list[tuple[OutboxState, str]]:
    """How the deliveries of a kind have ended, once all have."""
    with trio.fail_after(20):
        while True:
            found = [one for one in await agent.store.outbox() if one.kind == kind]
            if all(one.done_at is not None for one in found):
                return [(one.state, one.fault) for one in found]
            await trio.sleep(0.01)


@pytest.mark.parametrize(
    ("mood", "state", "fault"),
    [
        (Mood.RESET, OutboxState.UNCONFIRMED, "reset"),
        (Mood.STALL, OutboxState.UNCONFIRMED, "no answer in time"),
        (Mood.GARBAGE, OutboxState.UNCONFIRMED, "an answer that is not HTTP"),
        (Mood.ERROR_400, OutboxState.UNDELIVERED, "the VIM answered with status 400"),
        (Mood.ERROR_503, OutboxState.UNDELIVERED, "the VIM answered with status 503"),
    ],
)
async def test_a_verdict_that_was_written_whole_is_never_sent_again(
    tmp_path: Path, mood: Mood, state: OutboxState, fault: str
) -> None:
    async with socket_agent_world(tmp_path, timeouts={"answer_s": 0.3}) as agent:
        await agent.bound_host()
        await agent.received("service", 1)
        await ended(agent, "service")
        agent.vim.next_moods.append(mood)
        await agent.ask("vote", "stop")
        await agent.verdicts(1)
        assert await ended(agent, "action") == [(state, fault)]
        # The next one goes through, and nothing of the first comes behind it.
        await agent.ask("vote", "reboot")
        actions = [action for action, _, _ in await agent.verdicts(2)]
        assert actions == ["stop", "reboot"]


async def test_a_verdict_that_was_cut_off_is_sent_again(
    tmp_path: Path, agent: SocketAgentWorld
) -> None:
    """What the VIM has not read whole it can't have acted upon, but only we know how much we sent:
    small requests are always written whole, so that a reset in their middle counts as sent."""
    await agent.bound_host()
    await ended(agent, "service")
    agent.vim.go_down()
    await agent.ask("vote", "stop")
    await trio.sleep(0.3)
    assert agent.vim.patches("action") == []
    agent.vim.come_up()
    assert await agent.verdicts(1) == [("stop", "allow", "fine")]
    [(state, _)] = await ended(agent, "action")
    assert state is OutboxState.UNCONFIRMED


async def test_a_stalled_vim_delays_no_get(tmp_path: Path, agent: SocketAgentWorld) -> None:
    agent.vim.mood = Mood.STALL
    uuids = [f"{n:08x}-1111-4111-8111-111111111111" for n in range(100)]
    host = ScriptedHost(instances=tuple(attrs.evolve(INSTANCE, uuid=u) for u in uuids))
    await agent.bound_host(host=host)
    for uuid in uuids:
        await host.report_lost(uuid)
    await host.settle()
    began = trio.current_time()
    for uuid in uuids:
        answer = await agent.request("GET", f"/v1/instances/{uuid}")
        assert answer.json["services"][0]["status"] == "disabled"
    assert trio.current_time() - began < 5  # while each request to the VIM takes 10


# -- heartbeating, loss and ill health -------------------------------------------------------------


async def test_states_and_alarms_literally(tmp_path: Path) -> None:
    async with socket_agent_world(tmp_path) as agent:
        quiet = attrs.evolve(INSTANCE, heartbeating=False, state="waiting")
        host = await agent.bound_host(host=ScriptedHost(instances=(quiet,)))
        head = f'{{"uuid":"{VM}","hostname":"compute-0","event-type":'
        service = head + (
            '"service","event-data":{"services":[{"service":"heartbeat","state":"enabled",'
            '"status":"%s","restart-timeout":"%s"}]}}'
        )
        alarm = head + (
            '"alarm","event-data":{"services":[{"service":"heartbeat","state":"%s",'
            '"repair-action":"%s"}]}}'
        )
        steps: list[tuple[Any, list[str]]] = [
            (host.report_heartbeating, [service % ("enabled", "121")]),
            (host.report_stopped, [service % ("disabled", "0")]),
            (host.report_heartbeating, [service % ("enabled", "121")]),
            (host.report_lost, [alarm % ("failed", "reboot"), service % ("disabled", "0")]),
            (host.report_heartbeating, [service % ("enabled", "121")]),
        ]
        expected: list[str] = []
        for step, bodies in steps:
            await step()
            expected += bodies
            with trio.fail_after(20):
                await agent.vim.wait_for(len(expected))
        for action in CorrectiveAction:
            await host.report("unhealthy", reason="disk", corrective_action=action)
            expected.append(alarm % ("unhealthy", action))
            with trio.fail_after(20):
                await agent.vim.wait_for(len(expected))
        received = list(agent.vim.received)
        assert [one.body.decode() for one in received] == expected
        assert {(one.method, one.target) for one in received} == {
            ("PATCH", f"/nfvi-plugins/v1/instances/{VM}")
        }
        assert all(one.raw.startswith(b"PATCH /nfvi") for one in received)
        # Alarms are answered, the rest is closed on.
        found = reversed(await agent.store.outbox())
        with trio.fail_after(20):
            while any(one.done_at is None for one in found):
                found = await agent.store.outbox()
        kinds = {(one.kind.value, one.state) for one in await agent.store.outbox()}
        assert kinds == {
            ("service", OutboxState.UNCONFIRMED),
            ("alarm", OutboxState.DELIVERED),
        }


async def test_without_reporting_there_is_no_alarm(tmp_path: Path, agent: SocketAgentWorld) -> None:
    host = await agent.bound_host(reporting="disabled")
    await agent.received("service", 1)
    await host.report_lost()
    await host.report("unhealthy", corrective_action=CorrectiveAction.REBOOT)
    await agent.received("service", 2)
    await host.report_heartbeating()
    await agent.received("service", 3)
    assert agent.vim.patches("alarm") == []


@pytest.mark.parametrize("mood", [Mood.RESET, Mood.RESET_UNREAD, Mood.ERROR_500])
async def test_alarms_are_sent_until_they_are_answered(
    tmp_path: Path, mood: Mood, agent: SocketAgentWorld
) -> None:
    host = await agent.bound_host()
    await ended(agent, "service")
    agent.vim.next_moods.append(mood)
    await host.report_lost()
    await agent.received("alarm", 1 if mood is Mood.RESET_UNREAD else 2)
    assert await ended(agent, "alarm") == [(OutboxState.DELIVERED, "")]


async def test_a_vim_that_is_down_at_start_hears_the_newest_state_and_every_alarm(
    tmp_path: Path,
) -> None:
    vim = FakeVim()
    vim.go_down()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(vim.run)
        async with socket_agent_world(tmp_path, vim=vim, audit_s=0.2) as agent:
            host = await agent.bound_host()
            for _ in range(3):
                await host.report_lost()
                await host.report_heartbeating()
            await host.report_stopped()
            await host.settle()
            vim.hosts[HOST_UUID] = {"hostname": HOSTNAME, "state": "enabled"}
            vim.instances[HOST_UUID] = []
            vim.come_up()
            assert len(await agent.received("alarm", 3)) == 3
            states = [
                body["event-data"]["services"][0]["status"]
                for body in await agent.received("service", 1)
            ]
            with trio.fail_after(20):
                await ended(agent, "service")
            states = [
                body["event-data"]["services"][0]["status"] for body in vim.patches("service")
            ]
            # What was superseded while it was down it never hears of.
            assert states == ["disabled"]
        nursery.cancel_scope.cancel()


async def test_an_instance_that_is_moved_by_a_patch(
    tmp_path: Path, agent: SocketAgentWorld
) -> None:
    old = await agent.bound_host()
    new = await agent.host(ScriptedHost("compute-1", OTHER_HOST_UUID, "b", (INSTANCE,)))
    await agent.received("service", 1)
    services = [{"service": "heartbeat", "state": "enabled"}]
    body = {"uuid": VM, "hostname": "compute-1", "services": services}
    answer = await agent.request("PATCH", INST, body)
    assert (answer.status, answer.json["hostname"]) == (200, "compute-1")
    [_, moved] = await agent.received("service", 2)
    assert moved["hostname"] == "compute-1"
    # The old host's late events are ignored, the new one's verdicts are the instance's.
    await old.report_lost()
    await old.send(attrs.evolve(INSTANCE, heartbeating=False))
    await old.settle()
    assert (await agent.ask("notify", "live_migrate_end")).json["timeout"] == "17"
    assert await agent.verdicts(1) == [("live_migrate_end", "proceed", "fine")]
    assert (len(old.commands), len(new.commands)) == (0, 1)
    assert (await agent.request("GET", INST)).json["services"][0]["status"] == "enabled"
    assert agent.vim.patches("alarm") == []
    assert len(agent.vim.patches("service")) == 2


# -- the two generations of VIMs -------------------------------------------------------------------


async def test_a_vim_that_is_only_asked(tmp_path: Path) -> None:
    """Today's: it never calls /v1/hosts."""
    async with fake_vim() as vim:
        vim.hosts[HOST_UUID] = {"hostname": HOSTNAME, "state": "enabled"}
        vim.instances[HOST_UUID] = [
            {
                "uuid": VM.upper(),
                "hostname": HOSTNAME,
                "services": [
                    {"service": "watchdog", "state": "odd"},
                    {"service": "heartbeat", "state": "enabled"},
                ],
            }
        ]
        async with socket_agent_world(tmp_path, vim=vim, audit_s=0.1) as agent:
            host = await agent.host()
            with trio.fail_after(20):
                await host.until(lambda: host.reporting == {"": True, VM: True})
            first, second = itertools.islice(vim.received, 2)
            assert (first.method, first.target) == ("GET", f"/nfvi-plugins/v1/hosts/{HOST_UUID}")
            assert first.body.decode() == f'{{"hostname":"compute-0","uuid":"{HOST_UUID}"}}'
            assert (second.method, second.target, second.body) == (
                "GET",
                f"/nfvi-plugins/v1/instances/?host_uuid={HOST_UUID}",
                b"",
            )
            assert second.headers["user-agent"] == "guest-agent/1.0"
            assert (await agent.request("GET", INST)).json["services"][0]["state"] == "enabled"
            # It changes its mind, and is asked again.
            vim.hosts[HOST_UUID]["state"] = "disabled"
            with trio.fail_after(20):
                await host.until(lambda: host.reporting == {"": False, VM: True})
            # A VIM that can't answer changes nothing.
            vim.hosts.clear()
            vim.instances.clear()
            seen = len(vim.received)
            with trio.fail_after(20):
                await vim.wait_for(seen + 4)
            assert host.reporting == {"": False, VM: True}
            assert set(agent.agent.fleet.instances) == {VM}


async def test_a_vim_that_calls(tmp_path: Path) -> None:
    """An older one: it calls /v1/hosts, and answers no audit."""
    async with socket_agent_world(tmp_path, audit_s=0.1) as agent:
        host = await agent.bound_host()
        with trio.fail_after(20):
            await host.until(lambda: host.reporting == {"": True, VM: True})
        about = {"uuid": HOST_UUID, "hostname": HOSTNAME}
        await agent.request("PUT", f"/v1/hosts/{HOST_UUID}/disable", about)
        with trio.fail_after(20):
            await host.until(lambda: host.reporting[""] is False)
            await agent.vim.wait_for(4)
        await agent.request("PUT", f"/v1/hosts/{HOST_UUID}/enable", about)
        await agent.request("DELETE", INST)
        with trio.fail_after(20):
            await host.until(lambda: host.reporting == {"": True, VM: False})


@pytest.mark.parametrize(
    "mood",
    [Mood.STALL_ANSWERING, Mood.FLOOD, Mood.GARBAGE, Mood.RESET, Mood.ERROR_500, Mood.RESET_HALF],
)
async def test_audits_of_a_vim_in_trouble_change_nothing(
    tmp_path: Path, mood: Mood, caplog: pytest.LogCaptureFixture
) -> None:
    timeouts = {"answer_s": 0.2}
    async with socket_agent_world(tmp_path, audit_s=0.1, timeouts=timeouts) as agent:
        agent.vim.mood = mood
        host = await agent.bound_host()
        with trio.fail_after(20):
            await agent.vim.wait_until(lambda: agent.vim.connections >= 6)
        assert host.reporting == {"": True, VM: True}
        assert (await agent.request("GET", INST)).json["services"][0]["state"] == "enabled"
    said = [one.getMessage() for one in caplog.records if one.name == "hbtrio.audit"]
    assert said
    assert len(said) <= 4  # not one line for each attempt


@pytest.mark.parametrize(
    "instances",
    [
        "no list",
        [{"uuid": VM}],
        [{"uuid": VM, "hostname": HOSTNAME, "services": [{"service": "heartbeat", "state": "on"}]}],
        [{"uuid": 5, "hostname": HOSTNAME, "services": []}],
    ],
)
async def test_an_audits_answer_that_is_faulty(
    tmp_path: Path, instances: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with fake_vim() as vim:
        vim.hosts[HOST_UUID] = {"hostname": HOSTNAME, "state": "enabled"}
        vim.instances[HOST_UUID] = instances
        async with socket_agent_world(tmp_path, vim=vim, audit_s=0.1) as agent:
            host = await agent.host()
            with trio.fail_after(20):
                await vim.wait_for(6)
            assert host.reporting == {"": True, VM: False}
            assert agent.agent.fleet.instances == {}
    said = [one.getMessage() for one in caplog.records if one.name == "hbtrio.audit"]
    assert any(line.startswith(f"audit: {HOSTNAME}: ") for line in said)
