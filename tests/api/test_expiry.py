"""Requests of operators, and of the VIM, that are read when their clients have given up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from trio.testing import MockClock

from hbtrio.api.vim import vim_api
from hbtrio.client.address import Address
from hbtrio.client.client import CtlClient
from hbtrio.errors import ExitStatus, UserError
from hbtrio.http.server import serve_http
from hbtrio.net.unix_socket import open_unix_listener
from hbtrio.policy.begin_by import BEGIN_S, DRIFT, Expired
from hbtrio.store.records import InstanceRecord
from hbtrio.wire.channel_messages import ActionNotify
from hbtrio.wire.link_messages import RoundCommand
from hbtrio.wire.operator.requests import BEGIN_BY_HEADER
from support.agent_world import agent_world, operators_api, request_bytes
from support.control_socket import call, served, socket_path
from support.fake_processes import FakeRun
from support.host_world import HostWorld, ScriptedGuest, host_world
from support.run_order import ORDERS, folders, in_every_order
from support.scripted_host import VM

STALL_S = 89.0

REQUESTS = [
    ("vote", {"event": "stop"}),
    ("notify", {"event": "stop"}),
    ("act", {"action": "pause", "command": ["virsh"], "force": True}),
]


def untouched(world: HostWorld, guest: ScriptedGuest) -> bool:
    asked = [one for one in guest.messages if isinstance(one, ActionNotify)]
    return not (asked or world.processes.started or world.host.actions)


async def begin_by(http: httpx.AsyncClient) -> dict[str, str]:
    """The header of a request that is made now."""
    reply = (await http.get("/v1/clock")).json()
    return {BEGIN_BY_HEADER: f"{reply['clock_s'] + BEGIN_S} {reply['boot_id']}"}


# -- a host's control socket ----------------------------------------------------------------------


@pytest.mark.parametrize(("verb", "body"), REQUESTS)
@pytest.mark.parametrize("late", [False, True])
async def test_a_request_to_a_host(
    verb: str, body: dict[str, Any], late: bool, autojump_clock: MockClock
) -> None:
    async with host_world(runs={"virsh": FakeRun()}) as world, served(world.host) as api:
        guest = await world.heartbeating()
        async with api.client() as http:
            headers = await begin_by(http)
            await trio.sleep(BEGIN_S + (0.25 if late else -0.25))
            path = f"/v1/instances/{guest.uuid}/{verb}"
            answer = await http.post(path, json=body, headers=headers)
        if late:
            reason = "expired 0.2 s ago: nothing was done"
            assert (answer.status_code, answer.json()["reason"]) == (409, reason)
            await world.sleep(60)
        else:
            assert answer.status_code == 200
        assert untouched(world, guest) is late


@pytest.mark.parametrize(
    ("header", "status"),
    [("", 400), ("soon boot-1", 400), ("nan boot-1", 400), ("inf boot-1", 400), ("9e9 x", 409)],
)
async def test_moments_that_mean_nothing_here(
    header: str, status: int, autojump_clock: MockClock
) -> None:
    async with host_world() as world, served(world.host) as api, api.client() as http:
        guest = await world.heartbeating()
        headers = {BEGIN_BY_HEADER: header}
        path = f"/v1/instances/{guest.uuid}/vote"
        answer = await http.post(path, json={"event": "stop"}, headers=headers)
        assert answer.status_code == status
        assert untouched(world, guest)


async def test_without_a_moment_it_is_carried_out_though_its_client_has_gone(
    autojump_clock: MockClock,
) -> None:
    async with host_world() as world, served(world.host) as api:
        guest = await world.heartbeating()
        body = json.dumps({"event": "stop"})
        head = f"POST /v1/instances/{guest.uuid}/notify HTTP/1.1\r\nHost: h\r\n"
        stream = await trio.open_unix_socket(api.path)
        await stream.send_all(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        await stream.aclose()
        await world.sleep(5)
        assert not untouched(world, guest)


@pytest.mark.slow
@pytest.mark.parametrize("words", [("vote", "stop"), ("notify", "stop"), ("act", "pause")])
def test_ctl_or_the_host_was_stopped_with_the_request_on_its_way(words: tuple[str, str]) -> None:
    """ctl has given up, or was stopped itself: what it then says is what has happened."""

    async def scenario(clock: MockClock) -> tuple[str, ExitStatus, bool]:
        real = CtlClient._headers

        async def stopped(client: CtlClient) -> dict[str, str]:
            headers = await real(client)
            clock.jump(STALL_S)
            return headers

        async with host_world(runs={"virsh": FakeRun()}) as world, served(world.host) as api:
            guest = await world.heartbeating()
            verb, what = words
            more = ["--", "virsh"] if verb == "act" else []
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(CtlClient, "_headers", stopped)
                with pytest.raises(UserError) as refused:
                    await call(api.path, verb, guest.uuid, what, *more)
            await world.sleep(5)
            return str(refused.value), refused.value.status, untouched(world, guest)

    late_s = STALL_S - BEGIN_S * (1 - DRIFT)
    expected = (f"expired {late_s:.1f} s ago: nothing was done", ExitStatus.FAILED, True)
    assert in_every_order(scenario) == [expected] * ORDERS


# -- an agent -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body"),
    [
        *((f"/v1/instances/{VM}/{verb}", body) for verb, body in REQUESTS),
        ("/v1/hosts/compute-9/alarms", {"alarms": "send"}),
        ("/v1/hosts/compute-9/forget", {}),
    ],
)
async def test_a_request_to_an_agent(
    path: str, body: dict[str, Any], tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with agent_world(tmp_path, vim=False) as world, operators_api(world) as socket:
        host = await world.bound_host()
        uuid = VM.replace("1", "9")
        await world.agent.inventory.take_in(InstanceRecord(uuid, "compute-9", True))
        transport = httpx.AsyncHTTPTransport(uds=socket, verify=False)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://a", timeout=None
        ) as http:
            headers = await begin_by(http)
            await trio.sleep(BEGIN_S + 1.25)
            answer = await http.post(path, json=body, headers=headers)
        assert answer.status_code == 409
        assert answer.json()["reason"] == "expired 1.2 s ago: nothing was done"
        assert host.commands + host.acts == []
        assert "compute-9" in {one.hostname for one in world.agent.fleet.instances.values()}


async def test_a_host_is_not_forgotten_once_the_wait_for_others_was_too_long(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The store takes its time with what somebody else changes of the host."""
    async with agent_world(tmp_path, vim=False) as world, trio.open_nursery() as nursery:
        inventory = world.agent.inventory
        uuid = VM.replace("1", "9")
        await inventory.take_in(InstanceRecord(uuid, "compute-9", True))
        async with inventory._host_locks.of("compute-9"):
            bound = world.agent.clock.begin_by(trio.current_time() + BEGIN_S, "agent-boot")

            async def forget() -> None:
                with pytest.raises(Expired, match=r"^expired 0\.2 s ago: nothing was done$"):
                    await inventory.forget("compute-9", "operator", bound)

            nursery.start_soon(forget)
            await trio.sleep(BEGIN_S + 0.25)
        await trio.sleep(5)
        assert uuid in world.agent.fleet.instances


@pytest.mark.parametrize("verb", ["vote", "notify"])
async def test_a_host_that_does_not_reply_leaves_the_outcome_unknown(
    verb: str, tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with agent_world(tmp_path, vim=False) as world, operators_api(world) as socket:
        host = await world.bound_host()

        async def ignore(_: RoundCommand) -> None:
            pass

        host.on_round = ignore
        path, unknown = f"/v1/instances/{VM}/{verb}", "the outcome is unknown"
        transport = httpx.AsyncHTTPTransport(uds=socket, verify=False)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://a", timeout=None
        ) as http:
            answer = await http.post(path, json={"event": "stop"})
        assert answer.status_code == 504
        assert answer.json() == {"status": "fail", "reason": f"{unknown}: compute-0 did not reply"}
        client = CtlClient(Address.parse(f"unix:{socket}"))
        with pytest.raises(UserError, match=unknown) as told:
            async with client, client.lines("POST", path, {"event": "stop"}):
                pass
        assert told.value.status == ExitStatus.UNREACHABLE


# -- the VIM --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("gone", [True, False])
@pytest.mark.parametrize("verb", ["vote", "notify"])
def test_a_vim_that_hung_up_while_the_agent_was_stopped(
    gone: bool, verb: str, tmp_path: Path
) -> None:
    paths = folders(tmp_path)

    async def scenario(clock: MockClock) -> int:
        async with agent_world(next(paths)) as world:
            host = await world.bound_host()
            with socket_path() as path:
                listener = await open_unix_listener(path)
                crashes: list[BaseException] = []
                async with trio.open_nursery() as nursery:

                    async def serve(*, task_status: trio.TaskStatus[None]) -> None:
                        await serve_http(
                            vim_api(world.agent),
                            [listener],
                            on_crash=crashes.append,
                            task_status=task_status,
                        )

                    await nursery.start(serve)
                    body = {"uuid": VM, "hostname": "compute-0", "action": "stop"}
                    stream = await trio.open_unix_socket(path)
                    clock.jump(STALL_S)
                    raw = request_bytes("POST", f"/v1/instances/{VM}/{verb}", body)
                    await stream.send_all(raw)
                    if gone:
                        await stream.aclose()
                    await trio.sleep(3)
                    await stream.aclose()
                    nursery.cancel_scope.cancel()
                assert crashes == []
            return len(host.commands)

    assert in_every_order(scenario) == [0 if gone else 1] * ORDERS
