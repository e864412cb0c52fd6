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
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from hbtrio.api.fleet_status import fleet_instance, fleet_status
from hbtrio.net.link_session import SILENT_S
from hbtrio.nursery.agent import inventory as agent_inventory
from hbtrio.nursery.agent.unasked_rounds import CantAsk
from hbtrio.store.records import HostRecord, InstanceRecord
from hbtrio.store.worker import StoreFault
from hbtrio.wire.link_messages import Ack, Gone, Goodbye, RoundCommand
from hbtrio.wire.vocabulary import CorrectiveAction, Event, Health
from support.agent_world import MemoryAgent, memory_agent
from support.scripted_host import (
    HOST_UUID,
    HOSTNAME,
    INSTANCE,
    OTHER_HOST_UUID,
    OTHER_VM,
    VM,
    ScriptedHost,
)

OTHER = attrs.evolve(INSTANCE, uuid=OTHER_VM)


async def history(world: MemoryAgent) -> list[tuple[str, str, str]]:
    found = [record.entry for record in reversed(await world.store.history())]
    return [(one.kind, one.uuid, one.reason) for one in found]


def services(world: MemoryAgent) -> list[tuple[float, str, str, str]]:
    """When the VIM was told of heartbeating: the reporting state, the status, the timeout."""
    return [
        (time, one["state"], one["status"], one["restart-timeout"])
        for time, one in world.vim.heard("service")
    ]


def alarms(world: MemoryAgent) -> list[tuple[str, str]]:
    """What the VIM was told of losses and ill health: state and repair action."""
    return [(one["state"], one["repair-action"]) for _, one in world.vim.heard("alarm")]


def kinds(world: MemoryAgent) -> list[str]:
    """What the VIM was told, in order."""
    return [body["event-type"] for _, body in world.vim.got]


# -- who is let in --------------------------------------------------------------------------------


async def test_a_host_is_welcomed(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with memory_agent(tmp_path) as world:
        host = await world.host()
        assert host.welcome is not None
        assert attrs.astuple(host.welcome) == (1, "controller-0", 0)
        [session] = world.agent.fleet.sessions.values()
        assert (session.hostname, session.hello) == (HOSTNAME, host.hello)
        assert session.instances == host.instances
        # It is known from now on; the VIM will say whether it is to report.
        assert world.agent.fleet.hosts == {HOST_UUID: HostRecord(HOST_UUID, HOSTNAME, False)}
        assert world.agent.fleet.down == {}


async def test_a_stranger_that_says_nothing(
    autojump_clock: MockClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with memory_agent(tmp_path) as world:
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
    autojump_clock: MockClock,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    hello: dict[str, Any],
    why: str,
) -> None:
    async with memory_agent(tmp_path) as world:
        host = ScriptedHost()
        host.hello = attrs.evolve(host.hello, **hello)
        await host.dial(world.agent.links, world.nursery)
        await wait_all_tasks_blocked()
        assert host.goodbyes == [why]
        assert host.welcome is None
        assert world.agent.fleet.sessions == {}
        assert world.agent.fleet.hosts == {}
    assert f"connection refused: {why}" in caplog.text


async def test_the_first_message_has_to_be_hello(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with memory_agent(tmp_path) as world:
        host = ScriptedHost()
        host.hello = INSTANCE  # type: ignore[assignment]
        await host.dial(world.agent.links, world.nursery)
        assert host.goodbyes == ["unusable message: the first message is not hello"]


async def test_hello_is_said_once(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with memory_agent(tmp_path) as world:
        host = await world.host()
        await host.say(host.hello)
        await wait_all_tasks_blocked()
        assert host.goodbyes == ["unusable message: duplicate hello"]
        assert world.agent.fleet.sessions == {}
        assert world.agent.fleet.down == {HOSTNAME: 0.0}


async def test_of_too_many_strangers_the_oldest_goes_and_a_host_gets_in(
    autojump_clock: MockClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with memory_agent(tmp_path) as world:
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
    assert caplog.text.count(others) == 2


async def test_dropped_reports_are_told_of(
    autojump_clock: MockClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with memory_agent(tmp_path) as world:
        host = ScriptedHost()
        host.hello = attrs.evolve(host.hello, dropped=3)
        await world.host(host)
    assert "compute-0: the host has dropped 3 reports" in caplog.text


# -- links that end --------------------------------------------------------------------------------


async def test_a_second_connection_replaces_the_first(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with memory_agent(tmp_path) as world:
        host = await world.known()
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


async def of_host(world: MemoryAgent, hostname: str = HOSTNAME) -> dict[str, Any]:
    """A host in the agent's status."""
    status = json.loads(await fleet_status(world.agent, world.agent.actions))
    (found,) = [one for one in status["hosts"] if one["hostname"] == hostname]
    return found


def of_instance(world: MemoryAgent, uuid: str = VM) -> tuple[str, str, str]:
    """An instance in the agent's status: its name, state, and why."""
    bound = world.agent.fleet.instance(uuid)
    found = fleet_instance(world.agent, bound, trio.current_time())
    return found.name, found.state, found.why


async def test_the_replaced_one_is_told_who_took_its_place(
    autojump_clock: MockClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with memory_agent(tmp_path) as world:
        host = await world.known()
        twin = await world.host(ScriptedHost(boot_id="boot-2"))
        assert (host.up, twin.up) == (False, True)
        assert host.heard[-1] == Goodbye("another host uses the name compute-0, from a peer")
        assert [one for one in twin.heard if isinstance(one, Goodbye)] == []
        assert (await of_host(world))["conflict"] == ""  # it may have been started again
    text = "compute-0: a newer connection, from a peer, replaces the old one, from a peer"
    assert text in caplog.messages


async def test_the_same_process_is_not_told_of_another_host(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with memory_agent(tmp_path) as world:
        for _ in range(10):
            host = await world.host()
        assert [one for one in host.heard if isinstance(one, Goodbye)] == []
        assert (await of_host(world))["conflict"] == ""


async def test_two_hosts_of_one_name_are_told_of_once_and_while_it_lasts(
    autojump_clock: MockClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    what = "two hosts use this name, from a peer and from a peer"
    async with memory_agent(tmp_path) as world:
        twins = [await world.known(), ScriptedHost(boot_id="boot-2")]
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
    autojump_clock: MockClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with memory_agent(tmp_path) as world:
        for number in range(10):
            await world.host(ScriptedHost(boot_id=f"boot-{number}"))
            await trio.sleep(31)
            assert (await of_host(world))["conflict"] == ""
    assert [one for one in caplog.records if one.levelno >= logging.ERROR] == []


async def test_why_instances_are_as_they_are(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with memory_agent(tmp_path) as world:
        host = await world.known()
        assert of_instance(world) == ("vm", "heartbeating", "")
        lost = attrs.evolve(INSTANCE, state="lost", heartbeating=False, why="no answer for 3 s")
        await host.say(lost)
        await wait_all_tasks_blocked()
        assert of_instance(world) == ("vm", "lost", "no answer for 3 s")
        await host.cut()
        await wait_all_tasks_blocked()
        why = "its host has no link; as last reported: no answer for 3 s"
        assert of_instance(world) == ("vm", "lost", why)


async def test_names_outlive_the_link_until_the_next_snapshot(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with memory_agent(tmp_path, grace_s=30.0) as world:
        host = await world.known(host=ScriptedHost(instances=(INSTANCE, OTHER)))
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


async def test_the_name_of_an_instance_that_is_evacuated(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with memory_agent(tmp_path, grace_s=30.0) as world:
        host = await world.known()
        await host.cut()
        await world.at(100)
        new = await world.host(ScriptedHost("compute-1", OTHER_HOST_UUID, "b", ()))
        await world.agent.inventory.put_instance(InstanceRecord(VM, "compute-1", True))
        assert of_instance(world) == ("vm", "unknown", "its host does not know it")
        await new.say(attrs.evolve(INSTANCE, name="new"))
        await wait_all_tasks_blocked()
        assert of_instance(world) == ("new", "heartbeating", "")
        await new.say(Gone(VM, "removed"))
        await wait_all_tasks_blocked()
        assert of_instance(world) == ("", "unknown", "its host does not know it")


@pytest.mark.parametrize("how", ["deleted", "forgotten"])
async def test_names_go_with_their_instances(
    autojump_clock: MockClock, tmp_path: Path, how: str
) -> None:
    async with memory_agent(tmp_path, grace_s=30.0) as world:
        host = await world.known()
        await host.cut()
        await world.at(100)
        if how == "deleted":
            await world.agent.inventory.delete_instance(VM)
        else:
            await world.agent.inventory.forget(HOSTNAME, "operator")
        await world.agent.inventory.put_instance(InstanceRecord(VM, HOSTNAME, True))
        assert of_instance(world)[0] == ""


async def test_a_replaced_session_that_is_still_at_work_says_nothing_any_more(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """The old connection of a host hangs in the store; the new one is not called down by it."""
    async with memory_agent(tmp_path) as world:
        host = await world.known()
        await host.report("stopped")
        await host.dial(world.agent.links, world.nursery)
        await host.cut()
        await host.dial(world.agent.links, world.nursery)
        await wait_all_tasks_blocked()
        assert list(world.agent.fleet.sessions) == [HOSTNAME]
        assert world.agent.fleet.down == {}


async def test_a_link_that_dies_during_the_welcome_leaves_no_session(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with memory_agent(tmp_path) as world:
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


async def test_a_frozen_host_is_noticed_and_holds_up_nothing(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with memory_agent(tmp_path) as world:
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


async def test_a_silent_host_is_given_up(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with memory_agent(tmp_path) as world:
        host = await world.known()
        await trio.sleep(60)
        assert host.up  # it answers pings

        async def mute(_: Any) -> None:
            return

        host.say = mute  # type: ignore[method-assign]
        await trio.sleep(SILENT_S + 6)
        assert not host.up
        assert world.agent.fleet.sessions == {}


async def test_a_link_that_is_down_for_a_moment_says_nothing_about_vms(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with memory_agent(tmp_path, grace_s=30.0) as world:
        host = await world.known()
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
    autojump_clock: MockClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with memory_agent(tmp_path, grace_s=30.0) as world:
        host = await world.known()
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


async def test_a_link_that_stays_down_is_told_of_when_the_disk_is_back(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with memory_agent(tmp_path, grace_s=30.0) as world:
        host = await world.known()
        await host.cut()
        await world.at(29)
        world.worker.fault = "disk full"
        await world.at(30.5)
        world.worker.fault = ""
        await world.at(60)
        assert await history(world) == [("host-unreachable", "", "no link for 30 s")]
        assert [status for _, _, status, _ in services(world)] == ["enabled", "disabled"]


async def test_each_absence_has_its_own_grace(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with memory_agent(tmp_path, grace_s=30.0) as world:
        host = await world.known()
        for _ in range(5):
            await host.cut()
            await trio.sleep(20)
            await host.dial(world.agent.links, world.nursery)
        assert await history(world) == []


# -- what hosts are told ---------------------------------------------------------------------------


async def test_reporting_is_told_on_connect(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with memory_agent(tmp_path) as world:
        await world.agent.inventory.put_host(HostRecord(HOST_UUID, HOSTNAME, True))
        await world.agent.inventory.put_instance(InstanceRecord(VM, HOSTNAME, True))
        await world.agent.inventory.put_instance(InstanceRecord(OTHER_VM, HOSTNAME, False))
        await world.agent.inventory.put_instance(InstanceRecord("elsewhere", "compute-1", True))
        host = await world.host()
        assert host.reporting == {"": True, VM: True, OTHER_VM: False}


async def test_reporting_is_told_when_it_changes(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with memory_agent(tmp_path) as world:
        host = await world.known(reporting=False)
        assert host.reporting == {"": False, VM: False}
        await world.agent.inventory.put_host(HostRecord(HOST_UUID, HOSTNAME, True))
        await world.agent.inventory.put_instance(InstanceRecord(VM, HOSTNAME, True))
        await wait_all_tasks_blocked()
        assert host.reporting == {"": True, VM: True}
        told = len(host.heard)
        await world.agent.inventory.put_host(HostRecord(HOST_UUID, HOSTNAME, True))
        await world.agent.inventory.put_instance(InstanceRecord(VM, HOSTNAME, True))
        await wait_all_tasks_blocked()
        assert len(host.heard) == told  # what is known is not told again
        await world.agent.inventory.delete_instance(VM)
        await world.agent.inventory.delete_host(HOST_UUID)
        await wait_all_tasks_blocked()
        assert host.reporting == {"": False, VM: False}


async def test_an_instance_that_moves(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with memory_agent(tmp_path) as world:
        old = await world.known()
        new = await world.known(host=ScriptedHost("compute-1", OTHER_HOST_UUID, "b", ()))
        await world.agent.inventory.put_instance(InstanceRecord(VM, "compute-1", True))
        await wait_all_tasks_blocked()
        assert (old.reporting[VM], new.reporting[VM]) == (False, True)
        assert world.agent.fleet.live(VM) is None
        since = len(world.vim.got)
        # The old host's late events are ignored ...
        await old.loses()
        await old.report("unhealthy", corrective_action=CorrectiveAction.REBOOT)
        await old.say(Gone(VM, "its socket was removed"))
        await old.settled()
        assert world.vim.got[since:] == []
        # ... but for the history, and the new one's count.
        assert [kind for kind, _, _ in await history(world)] == ["loss", "unhealthy"]
        new.instances[VM] = attrs.evolve(INSTANCE, restart_s=77)
        await new.beats()
        await new.settled()
        await wait_all_tasks_blocked()
        assert services(world)[-1] == (0.0, "enabled", "enabled", "77")
        body = world.vim.got[-1][1]
        assert (body["hostname"], body["event-type"]) == ("compute-1", "service")


async def test_an_instance_that_had_come_before_it_was_rebound(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with memory_agent(tmp_path) as world:
        await world.known()
        await world.host(ScriptedHost("compute-1", OTHER_HOST_UUID, "b"))
        before = len(services(world))
        await world.agent.inventory.put_instance(InstanceRecord(VM, "compute-1", True))
        await wait_all_tasks_blocked()
        # It is heartbeating there already: the VIM hears so, under the new name.
        [last] = services(world)[before:]
        assert last == (0.0, "enabled", "enabled", "121")
        assert world.vim.got[-1][1]["hostname"] == "compute-1"


# -- what hosts tell -------------------------------------------------------------------------------


async def test_heartbeating_and_its_end_are_told(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with memory_agent(tmp_path) as world:
        quiet = attrs.evolve(INSTANCE, heartbeating=False, state="waiting")
        host = await world.known(host=ScriptedHost(instances=(quiet,)))
        assert services(world) == []  # whoever told of it knows of no heartbeat
        await host.beats()
        await host.settled()
        await host.stops()
        await host.settled()
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


async def test_a_loss(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with memory_agent(tmp_path) as world:
        host = await world.known()
        await host.loses(action="stop")
        await host.settled()
        await wait_all_tasks_blocked()
        assert alarms(world) == [("failed", "stop")]
        # The alarm goes before the change that comes with it.
        assert kinds(world) == ["service", "alarm", "service"]
        assert services(world)[-1] == (0.0, "enabled", "disabled", "0")
        assert await history(world) == [("loss", VM, "no answer for 3 s")]


async def test_ill_health(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with memory_agent(tmp_path) as world:
        host = await world.known()
        await host.tell(health=Health.UNHEALTHY)
        await host.report("unhealthy", reason="disk", corrective_action=CorrectiveAction.REBOOT)
        await host.report("unhealthy", reason="disk", corrective_action=CorrectiveAction.LOG)
        await host.settled()
        await wait_all_tasks_blocked()
        assert alarms(world) == [("unhealthy", "reboot"), ("unhealthy", "log")]
        assert len(services(world)) == 1  # it goes on heartbeating


@pytest.mark.parametrize("which", ["host", "instance"])
async def test_without_reporting_there_is_no_alarm(
    autojump_clock: MockClock, tmp_path: Path, which: str
) -> None:
    """The host does not report then; should it all the same, the VIM does not hear of it."""
    async with memory_agent(tmp_path) as world:
        host = await world.known()
        if which == "host":
            await world.agent.inventory.put_host(HostRecord(HOST_UUID, HOSTNAME, False))
        else:
            await world.agent.inventory.put_instance(InstanceRecord(VM, HOSTNAME, False))
        await host.loses()
        await host.report("unhealthy", corrective_action=CorrectiveAction.REBOOT)
        await host.settled()
        await wait_all_tasks_blocked()
        assert alarms(world) == []
        # That it has stopped is no alarm.
        assert services(world)[-1][2] == "disabled"


async def test_a_new_restart_timeout_is_told(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with memory_agent(tmp_path) as world:
        host = await world.known()
        await host.tell(restart_s=300)
        await host.tell(interval_ms=2000)
        await host.settled()
        await wait_all_tasks_blocked()
        assert [one[3] for one in services(world)] == ["121", "300"]


async def test_the_vims_own_word_is_no_news_to_it(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with memory_agent(tmp_path) as world:
        await world.known()
        told = len(world.vim.got)
        await world.agent.inventory.put_instance(InstanceRecord(VM, HOSTNAME, False))
        await world.agent.inventory.put_instance(InstanceRecord(VM, HOSTNAME, True))
        await wait_all_tasks_blocked()
        assert len(world.vim.got) == told


async def test_what_is_gone_is_not_heartbeating(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with memory_agent(tmp_path) as world:
        host = await world.known()
        await host.say(Gone(VM, "its socket was removed"))
        await host.report("stopped", reason="its socket was removed")
        await host.settled()
        await wait_all_tasks_blocked()
        assert world.agent.fleet.live(VM) is None
        assert services(world)[-1] == (0.0, "enabled", "disabled", "0")


async def test_a_snapshot_ends_what_it_does_not_hold(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with memory_agent(tmp_path) as world:
        host = await world.known(host=ScriptedHost(instances=(INSTANCE, OTHER)))
        await host.cut()
        del host.instances[VM]
        await host.dial(world.agent.links, world.nursery)
        await wait_all_tasks_blocked()
        assert world.agent.fleet.live(VM) is None
        assert world.agent.fleet.live(OTHER_VM) == OTHER
        last = [body for _, body in world.vim.got if body["uuid"] == VM][-1]
        assert last["event-data"]["services"][0]["status"] == "disabled"


async def test_a_state_of_which_nobody_heard_whether_it_was_kept_is_told_anew(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """The link goes while the store takes the end of a heartbeat, and it is back with the link."""
    async with memory_agent(tmp_path) as world:
        host = await world.known()
        session, real = world.agent.fleet.sessions[HOSTNAME], world.worker.run

        async def run_and_cut(work: Callable[[sqlite3.Connection], Any]) -> Any:
            world.worker.run = real  # type: ignore[method-assign]
            session.scope.cancel()
            with trio.CancelScope(shield=True):
                await real(work)
            await trio.lowlevel.checkpoint()  # cancelled: the store has it, nobody hears of it

        await host.tell(heartbeating=False, state="waiting")
        await host.settled()
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


async def test_a_restarted_agent_tells_all_anew(autojump_clock: MockClock, tmp_path: Path) -> None:
    quiet = attrs.evolve(OTHER, heartbeating=False)
    host = ScriptedHost(instances=(INSTANCE, quiet))
    async with memory_agent(tmp_path) as world:
        await world.known(host=host)
    async with memory_agent(tmp_path, number=1) as world:
        assert set(world.agent.fleet.instances) == {VM, OTHER_VM}
        assert world.agent.fleet.hosts == {HOST_UUID: HostRecord(HOST_UUID, HOSTNAME, True)}
        await world.host(host)
        # What the VIM believes is not known any more.
        assert sorted(one["status"] for _, one in world.vim.heard("service")) == [
            "disabled",
            "enabled",
        ]
        assert host.reporting[""] is True


# -- reports are kept once -------------------------------------------------------------------------


async def test_reports_are_acknowledged_and_not_taken_twice(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with memory_agent(tmp_path) as world:
        host = await world.known()
        for number in range(5):
            await host.report("unhealthy", reason=f"r{number}", corrective_action=None)
        await host.until(lambda: host.waiting == {})
        assert [one for one in host.heard if isinstance(one, Ack)] == [Ack(5)]  # with one sync
        assert len(alarms(world)) == 5
        await host.cut()
        await host.dial(world.agent.links, world.nursery)
        assert host.welcome is not None
        assert host.welcome.acknowledged == 5
        assert [reason for _, _, reason in await history(world)] == [f"r{n}" for n in range(5)]


async def test_reports_made_while_the_link_was_down_come_once(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with memory_agent(tmp_path) as world:
        host = await world.known()
        await host.cut()
        for number in range(3):
            await host.report("loss", reason=f"r{number}")
        for _ in range(2):
            await host.dial(world.agent.links, world.nursery)
            await host.cut()
        await host.dial(world.agent.links, world.nursery)
        await wait_all_tasks_blocked()
        assert host.waiting == {}
        assert [reason for _, _, reason in await history(world)] == ["r0", "r1", "r2"]
        assert len(alarms(world)) == 3


async def test_a_report_that_is_said_again_changes_nothing(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with memory_agent(tmp_path) as world:
        host = await world.known()
        await host.loses()
        again = host.waiting.copy()
        await host.settled()
        await host.beats()
        await host.settled()
        await wait_all_tasks_blocked()
        told = len(world.vim.got)
        for report in again.values():
            await host.say(report)
        await host.settled()
        await wait_all_tasks_blocked()
        assert len(world.vim.got) == told
        assert [kind for kind, _, _ in await history(world)] == ["loss", "heartbeating"]


async def test_the_numbers_of_another_process_are_its_own(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with memory_agent(tmp_path) as world:
        host = await world.known()
        await host.report("loss", reason="old")
        await host.settled()
        await host.cut()
        fresh = ScriptedHost(boot_id="boot-2")
        await fresh.dial(world.agent.links, world.nursery)
        assert fresh.welcome is not None
        assert fresh.welcome.acknowledged == 0
        await fresh.report("loss", reason="new")
        await fresh.settled()
        assert [reason for _, _, reason in await history(world)] == ["old", "new"]


async def test_an_acknowledgement_comes_after_the_sync(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with memory_agent(tmp_path) as world:
        host = await world.known()
        synced = trio.Event()

        async def slow() -> None:
            await synced.wait()

        world.worker.sync = slow  # type: ignore[method-assign]
        await host.loses()
        await trio.sleep(3)
        # The VIM has it long since; the host keeps it until the disk has it.
        assert alarms(world) == [("failed", "reboot")]
        assert len(host.waiting) == 1
        synced.set()
        await wait_all_tasks_blocked()
        assert host.waiting == {}


async def test_a_disk_that_fails_costs_the_acknowledgements_and_not_the_link(
    autojump_clock: MockClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with memory_agent(tmp_path) as world:
        host = await world.known()

        async def broken() -> None:
            raise StoreFault("input/output error")

        world.worker.sync = broken  # type: ignore[method-assign]
        await host.loses()
        await host.report("unhealthy")
        await trio.sleep(1)
        assert host.up
        assert len(host.waiting) == 2
        assert len(alarms(world)) == 2
    assert "input/output error: reports can't be acknowledged" in caplog.text


async def test_a_store_that_can_t_keep_a_report_ends_the_link_and_it_comes_again(
    autojump_clock: MockClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with memory_agent(tmp_path) as world:
        host = await world.known()
        await wait_all_tasks_blocked()
        world.worker.fault = "disk full"
        await host.loses()
        await wait_all_tasks_blocked()
        assert not host.up
        assert world.agent.fleet.sessions == {}
        world.worker.fault = ""
        await trio.sleep(61)  # the sender has had its share of the trouble
        await host.dial(world.agent.links, world.nursery)
        await host.until(lambda: host.waiting == {})
        assert alarms(world) == [("failed", "reboot")]
    assert "compute-0: link ended: store: disk full" in caplog.text
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(
    ("time", "kept"),
    [
        ("2024-12-31T23:00:00+00:00", "2024-12-31T23:00:00+00:00"),
        ("2025-01-01T02:00:00+02:00", "2025-01-01T00:00:00+00:00"),
        ("2025-01-01T00:00:00", None),
        ("yesterday", None),
        ("", None),
        ("0001-01-01T00:00:00+14:00", None),
        ("9999-12-31T23:59:59-14:00", None),
    ],
)
async def test_the_time_of_a_report(
    autojump_clock: MockClock, tmp_path: Path, time: str, kept: str | None
) -> None:
    async with memory_agent(tmp_path) as world:
        host = await world.known()
        await trio.sleep(1)
        number = await host.report("loss")
        await host.say(attrs.evolve(host.waiting[number], number=number + 1, time=time))
        await host.settled()
        record, _ = await world.store.history()
        assert record.entry.time.isoformat() == (kept or "2025-01-01T00:00:01+00:00")


# -- commands --------------------------------------------------------------------------------------


async def test_who_waits_for_a_reply_is_let_go_with_the_link(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with memory_agent(tmp_path) as world:
        host = await world.known()

        async def cut(_: RoundCommand) -> None:
            await trio.sleep(0.5)
            await host.cut()

        host.on_round = cut
        with pytest.raises(CantAsk, match="the link to compute-0 is gone"):
            await world.ask(Event.STOP, vote=True)
        assert trio.current_time() == 0.5


async def test_replies_that_nobody_waits_for(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with memory_agent(tmp_path) as world:
        host = await world.known()
        command = RoundCommand("nobody", VM, Event.STOP, True, 1.0)
        for _ in range(3):
            await host.opens(command)

        async def twice(command: RoundCommand) -> None:
            for _ in range(3):
                await host.opens(command)

        host.on_round = twice
        assert (await world.ask(Event.STOP, vote=True)).seconds == 9
        await host.settled()
        assert host.up


async def test_a_host_that_is_one_too_many_is_served_all_the_same(
    autojump_clock: MockClock,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(agent_inventory, "_HOSTS", 0)
    async with memory_agent(tmp_path) as world:
        host = await world.host()
        assert (host.up, world.agent.fleet.hosts) == (True, {})
    assert f"compute-0: {HOST_UUID} ignored: 0 hosts are known" in caplog.text


# -- without a VIM ---------------------------------------------------------------------------------


async def test_without_a_vim_the_hosts_word_is_the_inventory(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with memory_agent(tmp_path, vim=False) as world:
        host = await world.host()
        assert world.agent.fleet.instances == {VM: InstanceRecord(VM, HOSTNAME, True)}
        assert world.agent.fleet.hosts == {HOST_UUID: HostRecord(HOST_UUID, HOSTNAME, True)}
        await wait_all_tasks_blocked()
        assert host.reporting == {"": True, VM: True}
        host.instances[OTHER_VM] = OTHER
        await host.say(OTHER)
        await host.loses()
        await host.settled()
        assert set(world.agent.fleet.instances) == {VM, OTHER_VM}
        assert await history(world) == [("loss", VM, "no answer for 3 s")]
        assert await world.store.outbox() == ()
        await host.say(Gone(VM, "removed"))
        await host.settled()
        assert set(world.agent.fleet.instances) == {OTHER_VM}
        await host.cut()
        host.instances.clear()
        await host.dial(world.agent.links, world.nursery)
        assert world.agent.fleet.instances == {}


async def test_without_a_vim_an_instance_is_where_it_is_heartbeating(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with memory_agent(tmp_path, vim=False) as world:
        old = await world.host()
        waiting = attrs.evolve(INSTANCE, heartbeating=False, state="waiting")
        new = await world.host(ScriptedHost("compute-1", "", "b", (waiting,)))
        assert world.agent.fleet.instance(VM).hostname == HOSTNAME
        await new.beats()
        await new.settled()
        await wait_all_tasks_blocked()
        assert world.agent.fleet.instance(VM).hostname == "compute-1"
        assert (old.reporting[VM], new.reporting[VM]) == (False, True)
        # The source goes when the migration is over.
        await old.say(Gone(VM, "removed"))
        await old.settled()
        assert world.agent.fleet.instance(VM).hostname == "compute-1"


async def test_without_a_vim_an_instance_that_is_one_too_many_is_left_out(
    autojump_clock: MockClock,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(agent_inventory, "_INSTANCES", 1)
    async with memory_agent(tmp_path, vim=False) as world:
        host = await world.host(ScriptedHost(instances=(INSTANCE, OTHER)))
        assert (host.up, set(world.agent.fleet.instances)) == (True, {VM})
    assert f"compute-0: {OTHER_VM} ignored: 1 instances are known" in caplog.text
