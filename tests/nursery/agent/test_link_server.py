"""The agent's end of the links on the fake clock: who is let in, what is told, what is kept."""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from hbtrio.api.fleet_status import fleet_instance, fleet_status
from hbtrio.net.link_session import SILENT_S
from hbtrio.store.records import HostRecord, InstanceRecord
from hbtrio.wire.link_messages import Gone, Goodbye
from hbtrio.wire.vocabulary import CorrectiveAction, Event, Health
from support.agent_world import AgentWorld, agent_world
from support.link_cases import OTHER, alarms, history, kinds, services
from support.scripted_host import (
    HOST_UUID,
    HOSTNAME,
    INSTANCE,
    OTHER_HOST_UUID,
    OTHER_VM,
    VM,
    ScriptedHost,
)

pytestmark = pytest.mark.usefixtures("autojump_clock")


# -- who is let in --------------------------------------------------------------------------------


async def test_a_host_is_welcomed(world: AgentWorld) -> None:
    host = await world.host()
    assert host.welcome is not None
    assert attrs.astuple(host.welcome) == (1, "controller-0", 0, True, True, False)
    [session] = world.agent.fleet.sessions.values()
    assert (session.hostname, session.hello) == (HOSTNAME, host.hello)
    assert session.instances == host.instances
    # It is known from now on; the VIM will say whether it is to report.
    assert world.agent.fleet.hosts == {HOST_UUID: HostRecord(HOST_UUID, HOSTNAME, False)}
    assert world.agent.fleet.down == {}


async def test_a_stranger_that_says_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with agent_world(tmp_path) as world:
        ours, theirs = memory_stream_pair()
        await world.agent.links.serve(theirs)
        assert trio.current_time() == 5.0
        with pytest.raises(trio.BrokenResourceError):
            await ours.send_all(b"x")
        assert world.agent.fleet.sessions == {}
    assert "connection refused: no hello within 5 s" in caplog.text


@pytest.mark.parametrize(
    ("hello", "why"),
    [
        ({"protocol": 2}, "unusable message: protocol 2, this agent speaks 1"),
        ({"hostname": ""}, "unusable message: '' is not a host name"),
        ({"hostname": "a b"}, "unusable message: 'a b' is not a host name"),
        ({"hostname": "a\nb"}, "unusable message: 'a\\nb' is not a host name"),
        ({"hostname": "ü"}, "unusable message: 'ü' is not a host name"),
        ({"hostname": "x" * 254}, f"unusable message: {'x' * 40!r} is not a host name"),
    ],
)
async def test_a_hello_that_is_refused(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    hello: dict[str, Any],
    why: str,
) -> None:
    async with agent_world(tmp_path) as world:
        host = ScriptedHost()
        host.hello = attrs.evolve(host.hello, **hello)
        await host.dial(world.agent.links, world.nursery)
        await wait_all_tasks_blocked()
        assert host.goodbyes == [why]
        assert host.welcome is None
        assert world.agent.fleet.sessions == {}
        assert world.agent.fleet.hosts == {}
    assert f"connection refused: {why}" in caplog.text


async def test_the_first_message_has_to_be_hello(world: AgentWorld) -> None:
    host = ScriptedHost()
    host.hello = INSTANCE  # type: ignore[assignment]
    await host.dial(world.agent.links, world.nursery)
    assert host.goodbyes == ["unusable message: the first message is not hello"]


async def test_hello_is_said_once(world: AgentWorld) -> None:
    host = await world.host()
    await host.send(host.hello)
    await wait_all_tasks_blocked()
    assert host.goodbyes == ["unusable message: duplicate hello"]
    assert world.agent.fleet.sessions == {}
    assert world.agent.fleet.down == {HOSTNAME: 0.0}


async def test_of_too_many_strangers_the_oldest_goes_and_a_host_gets_in(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with agent_world(tmp_path) as world:
        for number in range(100):
            await world.host(ScriptedHost(f"compute-{number}", "", "b", ()))
        ended = []

        async def stranger(number: int, stream: trio.abc.Stream) -> None:
            await world.agent.links.serve(stream)
            ended.append((trio.current_time(), number))

        streams = []
        for number in range(65):
            ours, theirs = memory_stream_pair()
            streams.append(ours)
            world.nursery.start_soon(stranger, number, theirs)
            await wait_all_tasks_blocked()
        assert ended == [(0.0, 0)]
        await world.host(ScriptedHost("compute-100"))
        assert len(world.agent.fleet.sessions) == 101
        assert ended == [(0.0, 0), (0.0, 1)]
        await trio.sleep(6)
        assert sorted(ended) == [(0.0, 0), (0.0, 1), *((5.0, number) for number in range(2, 65))]
        assert len(world.agent.fleet.sessions) == 101
    others = "a peer: connection refused: displaced by 64 newer connections before its hello"
    assert caplog.text.count(others) == 1  # one line a minute for one address


async def test_dropped_reports_are_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with agent_world(tmp_path) as world:
        host = ScriptedHost()
        host.hello = attrs.evolve(host.hello, dropped=3)
        await world.host(host)
    assert "compute-0: the host has dropped 3 reports" in caplog.text


# -- links that end --------------------------------------------------------------------------------


async def test_a_second_connection_replaces_the_first(world: AgentWorld) -> None:
    host = await world.bound_host()
    first = world.agent.fleet.sessions[HOSTNAME]
    again = ScriptedHost()
    await again.dial(world.agent.links, world.nursery)
    await wait_all_tasks_blocked()
    assert not host.up
    assert world.agent.fleet.sessions[HOSTNAME] is not first
    # The host was never without a link.
    assert world.agent.fleet.down == {}
    assert (await world.ask(Event.STOP, vote=True)).seconds == 9
    assert (len(host.commands), len(again.commands)) == (0, 1)
    await trio.sleep(100)
    assert world.agent.fleet.live(VM) == INSTANCE


async def of_host(world: AgentWorld, hostname: str = HOSTNAME) -> dict[str, Any]:
    """A host in the agent's status."""
    status = json.loads(await fleet_status(world.agent, world.agent.actions))
    (found,) = [one for one in status["hosts"] if one["hostname"] == hostname]
    return found


def of_instance(world: AgentWorld, uuid: str = VM) -> tuple[str, str, str]:
    """An instance in the agent's status: its name, state, and why."""
    bound = world.agent.fleet.instance(uuid)
    found = fleet_instance(world.agent, bound, {}, trio.current_time())
    return found.name, found.state, found.why


async def test_the_replaced_one_is_told_who_took_its_place(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with agent_world(tmp_path) as world:
        host = await world.bound_host()
        twin = await world.host(ScriptedHost(boot_id="boot-2"))
        assert (host.up, twin.up) == (False, True)
        assert host.received[-1] == Goodbye("another host uses the name compute-0, from a peer")
        assert [one for one in twin.received if isinstance(one, Goodbye)] == []
        assert (await of_host(world))["conflict"] == ""  # it may have been started again
    text = "compute-0: a newer connection, from a peer, replaces the old one, from a peer"
    assert text in caplog.messages


async def test_the_same_process_is_not_told_of_another_host(world: AgentWorld) -> None:
    for _ in range(10):
        host = await world.host()
    assert [one for one in host.received if isinstance(one, Goodbye)] == []
    assert (await of_host(world))["conflict"] == ""


async def test_two_hosts_of_one_name_are_told_of_once_and_while_it_lasts(
    caplog: pytest.LogCaptureFixture, world: AgentWorld
) -> None:
    what = "two hosts use this name, from a peer and from a peer"
    twins = [await world.bound_host(), ScriptedHost(boot_id="boot-2")]
    for number in range(1, 20):
        assert (await of_host(world))["conflict"] == (what if number > 3 else "")
        await world.host(twins[number % 2])
        await trio.sleep(1.5)
    assert len([one for one in caplog.records if one.levelno >= logging.ERROR]) == 1
    assert f"compute-0: {what}; their links keep replacing each other" in caplog.messages
    await trio.sleep(58)
    assert (await of_host(world))["conflict"] == what
    await trio.sleep(2)
    assert (await of_host(world))["conflict"] == ""
    # It begins anew.
    caplog.clear()
    for number in range(3):
        await world.host(twins[number % 2])
    assert (await of_host(world))["conflict"] == what
    assert len([one for one in caplog.records if one.levelno >= logging.ERROR]) == 1


async def test_a_host_that_is_started_again_now_and_then_is_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with agent_world(tmp_path) as world:
        for number in range(10):
            await world.host(ScriptedHost(boot_id=f"boot-{number}"))
            await trio.sleep(31)
            assert (await of_host(world))["conflict"] == ""
    assert [one for one in caplog.records if one.levelno >= logging.ERROR] == []


async def test_why_instances_are_as_they_are(world: AgentWorld) -> None:
    host = await world.bound_host()
    assert of_instance(world) == ("vm", "heartbeating", "")
    lost = attrs.evolve(INSTANCE, state="lost", heartbeating=False, why="no answer for 3 s")
    await host.send(lost)
    await wait_all_tasks_blocked()
    assert of_instance(world) == ("vm", "lost", "no answer for 3 s")
    await host.cut()
    await wait_all_tasks_blocked()
    why = "its host has no link; as last reported: no answer for 3 s"
    assert of_instance(world) == ("vm", "lost", why)


async def test_names_outlive_the_link_until_the_next_snapshot(tmp_path: Path) -> None:
    async with agent_world(tmp_path, grace_s=30.0) as world:
        host = await world.bound_host(host=ScriptedHost(instances=(INSTANCE, OTHER)))
        await host.cut()
        await world.at(100)
        lost = ("vm", "unknown", "its host has no link")
        assert of_instance(world) == of_instance(world, OTHER_VM) == lost
        del host.instances[OTHER_VM]
        await host.dial(world.agent.links, world.nursery)
        await wait_all_tasks_blocked()
        assert of_instance(world) == ("vm", "heartbeating", "")
        assert of_instance(world, OTHER_VM) == ("", "unknown", "its host does not know it")
        await host.cut()
        await world.at(200)
        assert of_instance(world) == lost
        assert of_instance(world, OTHER_VM) == ("", "unknown", "its host has no link")


async def test_the_name_of_an_instance_that_is_evacuated(tmp_path: Path) -> None:
    async with agent_world(tmp_path, grace_s=30.0) as world:
        host = await world.bound_host()
        await host.cut()
        await world.at(100)
        new = await world.host(ScriptedHost("compute-1", OTHER_HOST_UUID, "b", ()))
        await world.agent.inventory.put_instance(InstanceRecord(VM, "compute-1", True))
        assert of_instance(world) == ("vm", "unknown", "its host does not know it")
        await new.send(attrs.evolve(INSTANCE, name="new"))
        await wait_all_tasks_blocked()
        assert of_instance(world) == ("new", "heartbeating", "")
        await new.send(Gone(VM, "removed"))
        await wait_all_tasks_blocked()
        assert of_instance(world) == ("new", "unknown", "removed")


@pytest.mark.parametrize("how", ["deleted", "forgotten"])
async def test_names_go_with_their_instances(tmp_path: Path, how: str) -> None:
    async with agent_world(tmp_path, grace_s=30.0) as world:
        host = await world.bound_host()
        await host.cut()
        await world.at(100)
        if how == "deleted":
            await world.agent.inventory.delete_instance(VM)
        else:
            await world.agent.inventory.forget(HOSTNAME, "operator")
        await world.agent.inventory.put_instance(InstanceRecord(VM, HOSTNAME, True))
        assert of_instance(world)[0] == ""


async def test_a_replaced_session_that_is_still_at_work_says_nothing_any_more(
    world: AgentWorld,
) -> None:
    """The old connection of a host hangs in the store; the new one is not called down by it."""
    host = await world.bound_host()
    await host.report("stopped")
    await host.dial(world.agent.links, world.nursery)
    await host.cut()
    await host.dial(world.agent.links, world.nursery)
    await wait_all_tasks_blocked()
    assert list(world.agent.fleet.sessions) == [HOSTNAME]
    assert world.agent.fleet.down == {}


async def test_a_link_that_dies_during_the_welcome_leaves_no_session(world: AgentWorld) -> None:
    ours, theirs = memory_stream_pair()
    hello = b'{"type":"hello","protocol":1,"hostname":"compute-0","host_uuid":"",'
    await ours.send_all(hello + b'"boot_id":"b","version":"1","dropped":0}\n')
    real = world.worker.run

    async def dies(work):  # type: ignore[no-untyped-def]
        world.worker.run = real  # type: ignore[method-assign]
        world.agent.fleet.sessions[HOSTNAME].scope.cancel()
        return await real(work)

    world.worker.run = dies  # type: ignore[method-assign]
    await world.agent.links.serve(theirs)
    assert world.agent.fleet.sessions == {}
    assert world.agent.fleet.down == {HOSTNAME: 0.0}


async def test_a_frozen_host_is_noticed_and_holds_up_nothing(tmp_path: Path) -> None:
    async with agent_world(tmp_path) as world:
        host = ScriptedHost()
        hello, (ours, theirs) = host.hello, memory_stream_pair()
        ours.send_stream.send_all_hook = None  # nothing that it says from now on arrives
        world.nursery.start_soon(world.agent.links.serve, theirs)
        from_host = theirs.receive_stream
        line = (
            f'{{"type":"hello","protocol":1,"hostname":"{HOSTNAME}","host_uuid":"",'
            f'"boot_id":"{hello.boot_id}","version":"1","dropped":0}}\n'
        )
        from_host.put_data(line.encode())  # type: ignore[attr-defined]
        await wait_all_tasks_blocked()
        # It reads nothing: more is to be told than any queue holds.
        blocked = trio.Event()

        async def never() -> None:
            await blocked.wait()

        theirs.send_stream.send_all_hook = never  # type: ignore[attr-defined]
        for number in range(300):
            await world.agent.inventory.put_instance(InstanceRecord(f"vm-{number}", HOSTNAME, True))
        assert trio.current_time() == 0.0
        await trio.sleep(SILENT_S + 11)
        assert world.agent.fleet.sessions == {}


async def test_a_silent_host_is_given_up(world: AgentWorld) -> None:
    host = await world.bound_host()
    await trio.sleep(60)
    assert host.up  # it answers pings

    async def mute(_: Any) -> None:
        return

    host.send = mute  # type: ignore[method-assign]
    await trio.sleep(SILENT_S + 6)
    assert not host.up
    assert world.agent.fleet.sessions == {}


async def test_a_link_that_is_down_for_a_moment_says_nothing_about_vms(tmp_path: Path) -> None:
    async with agent_world(tmp_path, grace_s=30.0) as world:
        host = await world.bound_host()
        before = len(world.vim.got)
        await host.cut()
        await world.at(29)
        assert world.agent.fleet.down == {HOSTNAME: 0.0}
        assert world.agent.fleet.live(VM) == INSTANCE
        await host.dial(world.agent.links, world.nursery)
        await world.at(200)
        assert world.agent.fleet.down == {}
        assert len(world.vim.got) == before
        assert await history(world) == []


async def test_a_link_that_stays_down_is_told_of_and_no_vm_is_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with agent_world(tmp_path, grace_s=30.0) as world:
        host = await world.bound_host()
        await host.cut()
        await world.at(29.9)
        assert world.agent.fleet.live(VM) == INSTANCE
        await world.at(31)
        assert world.agent.fleet.live(VM) is None
        assert world.agent.fleet.down == {HOSTNAME: 0.0}
        assert await history(world) == [("host-unreachable", "", "no link for 30 s")]
        assert alarms(world) == []
        assert services(world) == [
            (0.0, "enabled", "enabled", "121"),
            (30.0, "enabled", "disabled", "0"),
        ]
        await host.dial(world.agent.links, world.nursery)
        await wait_all_tasks_blocked()
        assert world.agent.fleet.live(VM) == INSTANCE
        assert services(world)[2:] == [(31.0, "enabled", "enabled", "121")]
    assert "compute-0: no link for 30 s" in caplog.text


async def test_a_link_that_stays_down_is_told_of_when_the_disk_is_back(tmp_path: Path) -> None:
    async with agent_world(tmp_path, grace_s=30.0) as world:
        host = await world.bound_host()
        await host.cut()
        await world.at(29)
        world.worker.fault = "disk full"
        await world.at(30.5)
        world.worker.fault = ""
        await world.at(60)
        assert await history(world) == [("host-unreachable", "", "no link for 30 s")]
        assert [status for _, _, status, _ in services(world)] == ["enabled", "disabled"]


async def test_each_absence_has_its_own_grace(tmp_path: Path) -> None:
    async with agent_world(tmp_path, grace_s=30.0) as world:
        host = await world.bound_host()
        for _ in range(5):
            await host.cut()
            await trio.sleep(20)
            await host.dial(world.agent.links, world.nursery)
        assert await history(world) == []


# -- what hosts are told ---------------------------------------------------------------------------


async def test_reporting_is_told_on_connect(world: AgentWorld) -> None:
    await world.agent.inventory.put_host(HostRecord(HOST_UUID, HOSTNAME, True))
    await world.agent.inventory.put_instance(InstanceRecord(VM, HOSTNAME, True))
    await world.agent.inventory.put_instance(InstanceRecord(OTHER_VM, HOSTNAME, False))
    await world.agent.inventory.put_instance(InstanceRecord("elsewhere", "compute-1", True))
    host = await world.host()
    assert host.reporting == {"": True, VM: True, OTHER_VM: False}


async def test_reporting_is_told_when_it_changes(world: AgentWorld) -> None:
    host = await world.bound_host(reporting=False)
    assert host.reporting == {"": False, VM: False}
    await world.agent.inventory.put_host(HostRecord(HOST_UUID, HOSTNAME, True))
    await world.agent.inventory.put_instance(InstanceRecord(VM, HOSTNAME, True))
    await wait_all_tasks_blocked()
    assert host.reporting == {"": True, VM: True}
    told = len(host.received)
    await world.agent.inventory.put_host(HostRecord(HOST_UUID, HOSTNAME, True))
    await world.agent.inventory.put_instance(InstanceRecord(VM, HOSTNAME, True))
    await wait_all_tasks_blocked()
    assert len(host.received) == told  # what is known is not told again
    await world.agent.inventory.delete_instance(VM)
    await world.agent.inventory.delete_host(HOST_UUID)
    await wait_all_tasks_blocked()
    assert host.reporting == {"": False, VM: False}


async def test_an_instance_that_moves(world: AgentWorld) -> None:
    old = await world.bound_host()
    new = await world.bound_host(host=ScriptedHost("compute-1", OTHER_HOST_UUID, "b", ()))
    await world.agent.inventory.put_instance(InstanceRecord(VM, "compute-1", True))
    await wait_all_tasks_blocked()
    assert (old.reporting[VM], new.reporting[VM]) == (False, True)
    assert world.agent.fleet.live(VM) is None
    since = len(world.vim.got)
    # The old host's late events are ignored ...
    await old.report_lost()
    await old.report("unhealthy", corrective_action=CorrectiveAction.REBOOT)
    await old.send(Gone(VM, "its socket was removed"))
    await old.settle()
    assert world.vim.got[since:] == []
    # ... but for the history, and the new one's count.
    assert [kind for kind, _, _ in await history(world)] == ["loss", "unhealthy"]
    new.instances[VM] = attrs.evolve(INSTANCE, restart_s=77)
    await new.report_heartbeating()
    await new.settle()
    await wait_all_tasks_blocked()
    assert services(world)[-1] == (0.0, "enabled", "enabled", "77")
    body = world.vim.got[-1][1]
    assert (body["hostname"], body["event-type"]) == ("compute-1", "service")


async def test_an_instance_that_had_come_before_it_was_rebound(world: AgentWorld) -> None:
    await world.bound_host()
    await world.host(ScriptedHost("compute-1", OTHER_HOST_UUID, "b"))
    before = len(services(world))
    await world.agent.inventory.put_instance(InstanceRecord(VM, "compute-1", True))
    await wait_all_tasks_blocked()
    # It is heartbeating there already: the VIM hears so, under the new name.
    [last] = services(world)[before:]
    assert last == (0.0, "enabled", "enabled", "121")
    assert world.vim.got[-1][1]["hostname"] == "compute-1"


# -- what hosts tell -------------------------------------------------------------------------------


async def test_heartbeating_and_its_end_are_told(world: AgentWorld) -> None:
    quiet = attrs.evolve(INSTANCE, heartbeating=False, state="waiting")
    host = await world.bound_host(host=ScriptedHost(instances=(quiet,)))
    assert services(world) == []  # whoever told of it knows of no heartbeat
    await host.report_heartbeating()
    await host.settle()
    await host.report_stopped()
    await host.settle()
    await wait_all_tasks_blocked()
    assert services(world) == [
        (0.0, "enabled", "enabled", "121"),
        (0.0, "enabled", "disabled", "0"),
    ]
    assert world.vim.got[0][1] == {
        "uuid": VM,
        "hostname": HOSTNAME,
        "event-type": "service",
        "event-data": {
            "services": [
                {
                    "service": "heartbeat",
                    "state": "enabled",
                    "status": "enabled",
                    "restart-timeout": "121",
                }
            ]
        },
    }
    assert alarms(world) == []


async def test_a_loss(world: AgentWorld) -> None:
    host = await world.bound_host()
    await host.report_lost(action="stop")
    await host.settle()
    await wait_all_tasks_blocked()
    assert alarms(world) == [("failed", "stop")]
    # The alarm goes before the change that comes with it.
    assert kinds(world) == ["service", "alarm", "service"]
    assert services(world)[-1] == (0.0, "enabled", "disabled", "0")
    assert await history(world) == [("loss", VM, "no answer for 3 s")]


async def test_ill_health(world: AgentWorld) -> None:
    host = await world.bound_host()
    await host.send_instance(health=Health.UNHEALTHY)
    await host.report("unhealthy", reason="disk", corrective_action=CorrectiveAction.REBOOT)
    await host.report("unhealthy", reason="disk", corrective_action=CorrectiveAction.LOG)
    await host.settle()
    await wait_all_tasks_blocked()
    assert alarms(world) == [("unhealthy", "reboot"), ("unhealthy", "log")]
    assert len(services(world)) == 1  # it goes on heartbeating


@pytest.mark.parametrize("which", ["host", "instance"])
async def test_without_reporting_there_is_no_alarm(which: str, world: AgentWorld) -> None:
    """The host does not report then; should it all the same, the VIM does not hear of it."""
    host = await world.bound_host()
    if which == "host":
        await world.agent.inventory.put_host(HostRecord(HOST_UUID, HOSTNAME, False))
    else:
        await world.agent.inventory.put_instance(InstanceRecord(VM, HOSTNAME, False))
    await host.report_lost()
    await host.report("unhealthy", corrective_action=CorrectiveAction.REBOOT)
    await host.settle()
    await wait_all_tasks_blocked()
    assert alarms(world) == []
    # That it has stopped is no alarm.
    assert services(world)[-1][2] == "disabled"


async def test_a_new_restart_timeout_is_told(world: AgentWorld) -> None:
    host = await world.bound_host()
    await host.send_instance(restart_s=300)
    await host.send_instance(interval_ms=2000)
    await host.settle()
    await wait_all_tasks_blocked()
    assert [one[3] for one in services(world)] == ["121", "300"]


async def test_the_vims_own_word_is_no_news_to_it(world: AgentWorld) -> None:
    await world.bound_host()
    told = len(world.vim.got)
    await world.agent.inventory.put_instance(InstanceRecord(VM, HOSTNAME, False))
    await world.agent.inventory.put_instance(InstanceRecord(VM, HOSTNAME, True))
    await wait_all_tasks_blocked()
    assert len(world.vim.got) == told


async def test_what_is_gone_is_not_heartbeating(world: AgentWorld) -> None:
    host = await world.bound_host()
    await host.send(Gone(VM, "its socket was removed"))
    await host.report("stopped", reason="its socket was removed")
    await host.settle()
    await wait_all_tasks_blocked()
    assert world.agent.fleet.live(VM) is None
    assert services(world)[-1] == (0.0, "enabled", "disabled", "0")


async def test_a_snapshot_ends_what_it_does_not_hold(world: AgentWorld) -> None:
    host = await world.bound_host(host=ScriptedHost(instances=(INSTANCE, OTHER)))
    await host.cut()
    del host.instances[VM]
    await host.dial(world.agent.links, world.nursery)
    await wait_all_tasks_blocked()
    assert world.agent.fleet.live(VM) is None
    assert world.agent.fleet.live(OTHER_VM) == OTHER
    last = [body for _, body in world.vim.got if body["uuid"] == VM][-1]
    assert last["event-data"]["services"][0]["status"] == "disabled"


async def test_a_state_of_which_nobody_heard_whether_it_was_kept_is_told_anew(
    world: AgentWorld,
) -> None:
    """The link goes while the store takes the end of a heartbeat, and it is back with the link."""
    host = await world.bound_host()
    session, real = world.agent.fleet.sessions[HOSTNAME], world.worker.run

    async def run_and_cut(work: Callable[[sqlite3.Connection], Any]) -> Any:
        world.worker.run = real  # type: ignore[method-assign]
        session.scope.cancel()
        with trio.CancelScope(shield=True):
            await real(work)
        await trio.lowlevel.checkpoint()  # cancelled: the store has it, nobody hears of it

    await host.send_instance(heartbeating=False, state="waiting")
    await host.settle()
    world.worker.run = run_and_cut  # type: ignore[method-assign]
    await host.report("stopped", reason="guest exited")
    await wait_all_tasks_blocked()
    host.instances[VM] = INSTANCE
    await host.dial(world.agent.links, world.nursery)
    await wait_all_tasks_blocked()
    assert [status for _, _, status, _ in services(world)] == [
        "enabled",
        "disabled",
        "enabled",
    ]


async def test_a_restarted_agent_tells_all_anew(tmp_path: Path) -> None:
    quiet = attrs.evolve(OTHER, heartbeating=False)
    host = ScriptedHost(instances=(INSTANCE, quiet))
    async with agent_world(tmp_path) as world:
        await world.bound_host(host=host)
    async with agent_world(tmp_path, number=1) as world:
        assert set(world.agent.fleet.instances) == {VM, OTHER_VM}
        assert world.agent.fleet.hosts == {HOST_UUID: HostRecord(HOST_UUID, HOSTNAME, True)}
        await world.host(host)
        # What the VIM believes is not known any more.
        assert sorted(one["status"] for _, one in world.vim.received("service")) == [
            "disabled",
            "enabled",
        ]
        assert host.reporting[""] is True
