"""The mass failure guard on the fake clock: whose alarms reach the VIM, when, and what is said."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Collection
from datetime import timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from hbtrio.fsm.alarm_hold import SETTLE_S
from hbtrio.nursery.agent.alarm_holds import Released
from hbtrio.nursery.agent.mass_failure import NotHeld
from hbtrio.store.held_alarms import HeldAlarms
from hbtrio.store.records import HostRecord, InstanceRecord
from hbtrio.store.worker import StoreFault
from hbtrio.wire.link_messages import STOPPING, Goodbye
from hbtrio.wire.vocabulary import Event, Health
from support.agent_world import AgentWorld, agent_world
from support.failing_host import FailingHost, alarmed, names
from support.inline_store import EPOCH
from support.scripted_host import HOSTNAME, INSTANCE, OTHER_HOST_UUID, ScriptedHost

pytestmark = pytest.mark.usefixtures("autojump_clock")

OTHER = "compute-1"


async def kinds(world: AgentWorld, *kind: str) -> list[tuple[str, str, str]]:
    """What the history has of these kinds: kind, whose and why; the oldest first."""
    return [
        (one.entry.kind, one.entry.uuid, one.entry.reason)
        for one in reversed(await world.store.history())
        if one.entry.kind in kind
    ]


# -- whether there is one --------------------------------------------------------------------------


async def test_a_single_loss_is_alarmed_an_interval_later(world: AgentWorld) -> None:
    host = await world.bound_host(host=FailingHost(4))
    first = names(4)[0]
    await world.at(10)
    await host.loses_at_once(first)
    assert alarmed(world) == []
    await world.at(30)
    assert alarmed(world) == [(11.0, first)]
    assert await kinds(world, "host-alarm") == []


async def test_its_state_and_its_verdicts_do_not_wait_for_the_alarm(world: AgentWorld) -> None:
    host = await world.bound_host(host=FailingHost(4))
    world.vim.got.clear()
    await host.loses_at_once(names(4)[0])
    assert [body["event-type"] for _, body in world.vim.got] == ["service"]


@pytest.mark.parametrize("count", [1, 2])
async def test_with_fewer_than_the_minimum_all_are_alarmed_at_once(
    count: int, world: AgentWorld
) -> None:
    host = await world.bound_host(host=FailingHost(count))
    await world.at(10)
    await host.loses_at_once(*names(count))
    assert alarmed(world) == [(10.0, uuid) for uuid in names(count)]
    await host.cut()
    await world.at(20)
    assert await kinds(world, "host-alarm") == []


@pytest.mark.parametrize(("lost", "total"), [(1, 3), (2, 4), (5, 10)])
async def test_up_to_the_share_all_are_alarmed(lost: int, total: int, world: AgentWorld) -> None:
    host = await world.bound_host(host=FailingHost(total))
    await world.at(10)
    await host.loses_at_once(*names(lost))
    await world.at(30)
    assert alarmed(world) == [(11.0, uuid) for uuid in names(lost)]
    assert world.agent.mass_failure_guard.hold(HOSTNAME) is None


@pytest.mark.slow
@pytest.mark.parametrize(("lost", "total"), [(3, 3), (2, 3), (3, 4), (6, 10)])
async def test_beyond_the_share_there_is_one_alarm_and_that_is_the_hosts(
    caplog: pytest.LogCaptureFixture, lost: int, total: int, world: AgentWorld
) -> None:
    host = await world.bound_host(host=FailingHost(total))
    await world.at(10)
    await host.loses_at_once(*names(lost))
    await world.at(3600)
    assert alarmed(world) == []
    why = f"{lost} of {total} instances failed at once"
    assert await kinds(world, "host-alarm", "host-alarm-over") == [("host-alarm", "", why)]
    assert [one.reason for one in world.agent.history.recent if one.kind == "host-alarm"] == [why]
    hold = world.agent.mass_failure_guard.hold(HOSTNAME)
    assert hold is not None
    assert (hold.hostname, hold.since, hold.reason) == (
        HOSTNAME,
        EPOCH + timedelta(seconds=11),
        why,
    )
    assert world.agent.mass_failure_guard.alarms == 1
    [line] = [one for one in caplog.records if one.levelno == logging.CRITICAL]
    assert line.getMessage() == (f"ALARM: {HOSTNAME}: {why}: alarms of its instances are held back")


async def test_losses_further_apart_than_an_interval_are_alarmed(world: AgentWorld) -> None:
    """An outage of three instances in ten seconds is three failures."""
    host = await world.bound_host(host=FailingHost(6))
    for second, uuid in enumerate(names(3)):
        await world.at(10 + 1.5 * second)
        await host.report_lost(uuid)
    await world.at(60)
    expected = [(11.0 + 1.5 * second, uuid) for second, uuid in enumerate(names(3))]
    assert alarmed(world) == expected


async def test_reports_that_come_late_and_all_at_once_count_as_they_happened(
    world: AgentWorld,
) -> None:
    """An agent that was away hears in one moment of what happened in an hour."""
    host = FailingHost(4)
    for minute, uuid in enumerate(names(3)):
        host.instances[uuid] = attrs.evolve(host.instances[uuid], heartbeating=False, state="lost")
        host.clock = (EPOCH + timedelta(minutes=minute)).isoformat()
        await host.report("loss", uuid, "no answer for 3 s")
    await world.at(3600)
    await world.bound_host(host=host)
    await world.at(3700)
    assert sorted(uuid for _, uuid in alarmed(world)) == names(3)
    assert await kinds(world, "host-alarm") == []


async def test_ill_health_counts_as_well(world: AgentWorld) -> None:
    host = await world.bound_host(host=FailingHost(3))
    for uuid in names(3):
        await host.send_instance(uuid, health=Health.UNHEALTHY)
        await host.report("unhealthy", uuid, "disk is full")
    await world.at(60)
    assert alarmed(world) == []
    assert await kinds(world, "host-alarm") == [
        ("host-alarm", "", "3 of 3 instances failed at once")
    ]
    await host.send_instance(names(3)[0], health=Health.HEALTHY)
    await world.at(60 + SETTLE_S)
    assert alarmed(world) == [(60 + SETTLE_S, uuid) for uuid in names(3)[1:]]


async def test_hosts_are_judged_each_for_itself(world: AgentWorld) -> None:
    host = await world.bound_host(host=FailingHost(3))
    other = ScriptedHost(OTHER, OTHER_HOST_UUID, "boot-2")
    vm = attrs.evolve(INSTANCE, uuid="99999999-1111-4111-8111-111111111111")
    other.instances = {vm.uuid: vm}
    await world.bound_host(host=other)
    await host.loses_at_once(*names(3))
    await other.report_lost(vm.uuid)
    await world.at(60)
    assert alarmed(world) == [(0.0, vm.uuid)]


async def test_without_a_vim_the_host_is_alarmed_all_the_same(tmp_path: Path) -> None:
    async with agent_world(tmp_path, vim=False) as world:
        host = await world.host(FailingHost(3))
        await host.loses_at_once(*names(3))
        await world.at(60)
        why = "3 of 3 instances failed at once"
        assert await kinds(world, "host-alarm") == [("host-alarm", "", why)]


async def test_losses_while_no_agent_listened_are_losses_at_once(world: AgentWorld) -> None:
    """All that a host tells a new agent is that nobody beats; then come the reports."""
    host = FailingHost(5)
    for uuid in names(5):
        await host.report_lost(uuid)
    await world.at(60)
    await world.bound_host(host=host)
    await world.at(600)
    assert alarmed(world) == []
    why = "5 of 5 instances failed at once"
    assert await kinds(world, "host-alarm") == [("host-alarm", "", why)]


# -- those that come back --------------------------------------------------------------------------


async def test_one_that_is_back_within_the_interval_is_never_alarmed(world: AgentWorld) -> None:
    host = await world.bound_host(host=FailingHost(4))
    uuid = names(4)[0]
    await world.at(10)
    await host.loses_at_once(uuid)
    await world.at(10.5)
    await host.report_heartbeating(uuid)
    await world.at(60)
    assert alarmed(world) == []
    assert await kinds(world, "loss", "undelivered") == [
        ("loss", uuid, "no answer for 3 s"),
        ("undelivered", uuid, "alarm: instance recovered"),
    ]


async def test_a_host_that_thaws_loses_nobody(world: AgentWorld) -> None:
    """All are back before their interval of reflection is over: not even the host is alarmed."""
    host = await world.bound_host(host=FailingHost(4))
    await host.loses_at_once(*names(4))
    await world.at(0.5)
    for uuid in names(4):
        await host.report_heartbeating(uuid)
    await world.at(60)
    assert (alarmed(world), await kinds(world, "host-alarm")) == ([], [])


async def test_the_next_good_beat_begins_the_release(world: AgentWorld) -> None:
    """Those that are heard of in time take their alarm back; the others are alarmed."""
    host = await world.bound_host(host=FailingHost(6))
    first, second, third, *rest = names(6)
    await host.loses_at_once(first, second, third, rest[0])
    await world.at(100)
    await host.report_heartbeating(first)
    await world.at(100 + SETTLE_S - 1)
    await host.report_heartbeating(second)
    assert alarmed(world) == []
    assert world.agent.mass_failure_guard.hold(HOSTNAME) is not None
    await world.at(200)
    assert alarmed(world) == [(100 + SETTLE_S, third), (100 + SETTLE_S, rest[0])]
    assert world.agent.mass_failure_guard.hold(HOSTNAME) is None
    assert await kinds(world, "undelivered", "host-alarm-over") == [
        ("undelivered", first, "alarm: instance recovered"),
        ("undelivered", second, "alarm: instance recovered"),
        ("host-alarm-over", "", "its instances have recovered"),
    ]
    # From here on it is as before.
    await host.loses_at_once(first)
    await world.at(300)
    assert alarmed(world)[2:] == [(201.0, first)]


async def test_an_instance_that_was_well_all_the_time_proves_nothing(world: AgentWorld) -> None:
    host = await world.bound_host(host=FailingHost(4))
    await host.loses_at_once(*names(3))
    await world.at(50)
    await host.send_instance(names(4)[3], name="renamed")
    await world.at(3600)
    assert alarmed(world) == []
    assert world.agent.mass_failure_guard.hold(HOSTNAME) is not None


async def test_what_fails_while_alarms_are_held_is_held_too(world: AgentWorld) -> None:
    host = await world.bound_host(host=FailingHost(5))
    await host.loses_at_once(*names(4))
    await world.at(50)
    await host.report_lost(names(5)[4])
    await world.at(100)
    assert alarmed(world) == []
    # It belongs to the incident by now: its return is the good beat.
    await host.report_heartbeating(names(5)[4])
    await world.at(200)
    assert alarmed(world) == [(100 + SETTLE_S, uuid) for uuid in names(4)]


async def test_one_that_fails_just_before_the_release_has_its_interval(world: AgentWorld) -> None:
    host = await world.bound_host(host=FailingHost(12))
    await host.loses_at_once(*names(8))
    await world.at(100)
    for uuid in names(7):
        await host.report_heartbeating(uuid)
    await world.at(100 + SETTLE_S - 0.5)
    await host.report_lost(names(12)[8])
    await world.at(200)
    assert alarmed(world) == [
        (100 + SETTLE_S, names(8)[7]),
        (100 + SETTLE_S + 0.5, names(12)[8]),
    ]


async def test_one_that_is_judged_while_the_disk_takes_its_time_to_release(
    world: AgentWorld,
) -> None:
    """It is left to nobody: the hold has looked already for what it lets go."""
    host = await world.bound_host(host=FailingHost(12))
    await host.loses_at_once(*names(8))
    await world.at(100)
    for uuid in names(8):
        await host.report_heartbeating(uuid)
    late = names(12)[8]
    await world.at(100 + SETTLE_S - 0.85)
    await host.report_lost(late)
    await world.at(100 + SETTLE_S - 0.8)
    real = world.worker.run

    async def slow(work: Callable[[sqlite3.Connection], Any]) -> Any:
        result = await real(work)
        await trio.sleep(0.1)
        return result

    world.worker.run = slow  # type: ignore[method-assign]
    await world.at(200)
    assert [uuid for _, uuid in alarmed(world)] == [late]
    assert world.agent.mass_failure_guard.hold(HOSTNAME) is None


async def test_a_host_whose_failed_instances_were_all_taken_elsewhere(world: AgentWorld) -> None:
    """None of them can be well there any more: the hold ends without."""
    host = await world.bound_host(host=FailingHost(4))
    *lost, left = names(4)
    await host.loses_at_once(*lost)
    await world.at(50)
    for uuid in lost[1:]:
        await world.agent.inventory.put_instance(InstanceRecord(uuid, OTHER, True))
    await world.at(100)
    assert world.agent.mass_failure_guard.hold(HOSTNAME) is not None
    await world.agent.inventory.delete_instance(lost[0])
    await world.at(100 + SETTLE_S)
    assert await kinds(world, "host-alarm-over") == [
        ("host-alarm-over", "", "the failed instances were moved or deleted")
    ]
    await host.loses_at_once(left)
    await world.at(200)
    # It is alone, and waits for no others.
    assert alarmed(world) == [(100 + SETTLE_S, left)]


async def test_one_that_had_left_before_its_loss_was_told_is_not_waited_for(
    world: AgentWorld,
) -> None:
    host = await world.bound_host(host=FailingHost(6))
    gone, *lost = names(4)
    await world.at(10)
    await host.cut()
    await world.at(11)
    await world.agent.inventory.put_instance(InstanceRecord(gone, OTHER, True))
    await host.loses_at_once(gone, *lost)
    await world.host(host)
    await world.at(60)
    assert world.agent.mass_failure_guard.hold(HOSTNAME) is not None
    for uuid in lost:
        await world.agent.inventory.put_instance(InstanceRecord(uuid, OTHER, True))
    await world.at(60 + SETTLE_S)
    assert world.agent.mass_failure_guard.hold(HOSTNAME) is None
    await world.at(100)
    late = names(6)[5]
    await host.loses_at_once(late)
    await world.at(200)
    assert alarmed(world) == [(100.0, late)]


async def test_those_of_which_nobody_wants_to_hear_hold_back_no_other(world: AgentWorld) -> None:
    host = await world.bound_host(host=FailingHost(6))
    *silenced, late, _ = names(6)
    for uuid in silenced:
        await world.agent.inventory.put_instance(InstanceRecord(uuid, HOSTNAME, False))
    await world.at(10)
    await host.loses_at_once(*silenced)
    await world.at(50)
    assert world.agent.mass_failure_guard.hold(HOSTNAME) is None
    await host.loses_at_once(late)
    await world.at(200)
    assert alarmed(world) == [(50.0, late)]


async def test_one_of_which_nobody_wants_to_hear_any_more_is_not_waited_for(
    world: AgentWorld,
) -> None:
    host = await world.bound_host(host=FailingHost(6))
    silenced, *lost = names(4)
    await host.loses_at_once(silenced, *lost)
    await world.at(50)
    put = world.agent.inventory.put_instance
    await put(InstanceRecord(silenced, HOSTNAME, False))
    for uuid in lost:
        assert world.agent.mass_failure_guard.hold(HOSTNAME) is not None
        await put(InstanceRecord(uuid, OTHER, True))
    await world.at(50 + SETTLE_S)
    assert world.agent.mass_failure_guard.hold(HOSTNAME) is None
    await world.at(100)
    late = names(6)[5]
    await host.loses_at_once(late)
    await world.at(200)
    assert alarmed(world) == [(100.0, late)]


# -- links -----------------------------------------------------------------------------------------


async def test_a_link_that_drops_alarms_the_host(
    caplog: pytest.LogCaptureFixture, world: AgentWorld
) -> None:
    host = await world.bound_host(host=FailingHost(3))
    await world.at(10)
    await host.cut()
    await world.at(3600)
    why = "its link dropped while 3 instances were heartbeating: closed by the other end"
    assert await kinds(world, "host-alarm", "host-unreachable") == [
        ("host-alarm", "", why),
        ("host-unreachable", "", "no link for 30 s"),
    ]
    assert [one.levelno for one in caplog.records].count(logging.CRITICAL) == 1
    await world.host(host)
    await world.at(3600 + SETTLE_S + 1)
    assert await kinds(world, "host-alarm-over") == [
        ("host-alarm-over", "", "its instances have recovered")
    ]


async def test_a_snapshot_takes_back_its_alarms_at_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, world: AgentWorld
) -> None:
    """In one transaction, however many instances are well again."""
    host = await world.bound_host(host=FailingHost(30))
    lost = names(30)[:20]
    await host.loses_at_once(*lost)
    await world.at(10)
    await host.cut()
    for uuid in lost[:15]:
        host.be_well(uuid)
    asked: list[int] = []
    withdraw = HeldAlarms.withdraw

    async def counted(self: HeldAlarms, hostname: str, uuids: Collection[str], why: str) -> object:
        asked.append(len(uuids))
        return await withdraw(self, hostname, uuids, why)

    monkeypatch.setattr(HeldAlarms, "withdraw", counted)
    caplog.clear()
    await world.host(host)
    assert asked == [25]  # with those that had not failed
    assert caplog.messages.count(f"{HOSTNAME}: recovered") == 1
    await world.at(3600)
    assert {uuid for _, uuid in alarmed(world)} == set(lost[15:])
    assert [uuid for _, uuid, _ in await kinds(world, "undelivered")] == lost[:15]


async def test_alarms_that_wait_are_held_when_the_link_drops(world: AgentWorld) -> None:
    """A host that goes down takes its instances with it, and its link last."""
    host = await world.bound_host(host=FailingHost(8))
    await world.at(10)
    await host.loses_at_once(names(8)[0])
    await world.at(10.5)
    await host.cut()
    await world.at(600)
    assert alarmed(world) == []
    await world.host(host)
    await world.at(700)
    # It was not heard of, and those that were heard of are enough.
    assert alarmed(world) == [(600 + SETTLE_S, names(8)[0])]


async def test_a_link_that_flaps_is_one_alarm(world: AgentWorld) -> None:
    host = await world.bound_host(host=FailingHost(3))
    for second in range(0, 40, 5):
        await world.at(10 + second)
        await host.cut()
        await world.at(12 + second)
        await world.host(host)
    assert len(await kinds(world, "host-alarm")) == 1
    await world.at(47 + SETTLE_S - 0.1)
    assert await kinds(world, "host-alarm-over") == []
    await world.at(47 + SETTLE_S)
    assert len(await kinds(world, "host-alarm-over")) == 1


async def test_a_mass_loss_behind_a_link_that_dropped_needs_one_of_the_lost(
    world: AgentWorld,
) -> None:
    """That some are well was known before the others were told to be lost."""
    host = await world.bound_host(host=FailingHost(4))
    await world.at(10)
    await host.cut()
    await world.at(12)
    for uuid in names(3):
        lost = attrs.evolve(host.instances[uuid], heartbeating=False, state="lost")
        host.instances[uuid] = lost
    await world.host(host)
    await host.loses_at_once(*names(3))
    await world.at(600)
    assert alarmed(world) == []
    await host.report_heartbeating(names(3)[0])
    await world.at(700)
    assert alarmed(world) == [(600 + SETTLE_S, uuid) for uuid in names(3)[1:]]


async def test_instances_that_left_while_the_link_was_down_do_not_count(world: AgentWorld) -> None:
    host = await world.bound_host(host=FailingHost(4))
    await host.cut()
    await world.at(1)
    for uuid in names(4)[2:]:
        del host.instances[uuid]
    await world.host(host)
    await world.at(60)
    # Two are left, which is less than the minimum.
    await host.cut()
    await world.at(61)
    assert world.agent.mass_failure_guard.hold(HOSTNAME) is None
    assert len(await kinds(world, "host-alarm")) == 1


async def test_a_link_that_drops_while_the_disk_is_full_is_waited_for(world: AgentWorld) -> None:
    """The release that had begun has not happened, and begins anew."""
    host = await world.bound_host(host=FailingHost(3))
    await host.loses_at_once(*names(3))
    await world.at(50)
    await host.report_heartbeating(names(3)[0])
    await world.at(50 + SETTLE_S - 0.5)
    world.worker.fault = "database or disk is full"
    await world.at(50 + SETTLE_S + 0.5)
    await host.cut()
    await world.at(50 + SETTLE_S + 0.6)
    world.worker.fault = ""
    await world.at(200)
    assert (alarmed(world), await kinds(world, "host-alarm-over")) == ([], [])
    await world.host(host)
    await world.at(300)
    assert alarmed(world) == [(200 + SETTLE_S, uuid) for uuid in names(3)[1:]]


async def test_a_host_daemon_that_is_told_to_stop_is_no_drop(world: AgentWorld) -> None:
    host = await world.bound_host(host=FailingHost(3))
    await host.send(Goodbye(STOPPING))
    await world.at(60)
    assert await kinds(world, "host-alarm", "host-unreachable") == [
        ("host-unreachable", "", "no link for 30 s")
    ]


async def test_a_link_that_this_end_has_to_end_is_no_drop(world: AgentWorld) -> None:
    """Our full disk says nothing of the host, and nobody has consented by it."""
    host = await world.bound_host(host=FailingHost(3))
    world.worker.fault = "database or disk is full"
    await host.report_lost(names(3)[0])
    await world.at(1)
    assert not host.up
    with pytest.raises(StoreFault, match=r"^database or disk is full$"):
        await world.agent.rounds.ask(names(3)[1], Event.STOP, vote=True, who="vim")
    world.worker.fault = ""
    await world.at(2)
    assert await kinds(world, "host-alarm") == []
    assert world.agent.mass_failure_guard.hold(HOSTNAME) is None


async def test_one_that_takes_offence_is(world: AgentWorld) -> None:
    host = await world.bound_host(host=FailingHost(3))
    await host.send(Goodbye("unusable message"))
    await world.at(1)
    assert len(await kinds(world, "host-alarm")) == 1


async def test_a_newer_connection_is_no_drop(world: AgentWorld) -> None:
    host = await world.bound_host(host=FailingHost(3))
    newer = FailingHost(3)
    await world.host(newer)
    await world.at(60)
    assert not host.up
    assert await kinds(world, "host-alarm") == []


# -- operators and the VIM -------------------------------------------------------------------------


async def test_an_operator_has_them_sent(world: AgentWorld) -> None:
    host = await world.bound_host(host=FailingHost(3))
    await host.loses_at_once(*names(3))
    await world.at(50)
    released = await world.agent.mass_failure_guard.release(HOSTNAME, "operator", send=True)
    await world.at(51)
    assert released == Released(sent=3, withdrawn=0)
    assert alarmed(world) == [(50.0, uuid) for uuid in names(3)]
    [over] = [one for one in await world.store.history() if one.entry.kind == "host-alarm-over"]
    assert (over.entry.who, over.entry.reason) == ("operator", "an operator released them")
    with pytest.raises(NotHeld, match=f"^no alarms of {HOSTNAME} are held back$"):
        await world.agent.mass_failure_guard.release(HOSTNAME, "operator", send=True)


async def test_an_operator_has_them_withdrawn(world: AgentWorld) -> None:
    host = await world.bound_host(host=FailingHost(3))
    await host.loses_at_once(*names(3))
    await world.at(50)
    released = await world.agent.mass_failure_guard.release(HOSTNAME, "operator", send=False)
    assert released == Released(sent=0, withdrawn=3)
    await world.at(3600)
    assert alarmed(world) == []
    assert await kinds(world, "undelivered") == [
        ("undelivered", uuid, "alarm: an operator withdrew them") for uuid in names(3)
    ]
    assert world.agent.mass_failure_guard.hold(HOSTNAME) is None


async def test_nothing_is_released_of_a_host_that_nobody_knows(world: AgentWorld) -> None:
    with pytest.raises(NotHeld, match=r"^no alarms of nobody are held back$"):
        await world.agent.mass_failure_guard.release("nobody", "operator", send=True)


async def test_alarms_that_are_of_no_use_any_more_are_not_sent(world: AgentWorld) -> None:
    """One has moved, one was deleted, of one nobody wants to hear any more; one is left."""
    host = await world.bound_host(host=FailingHost(4))
    moved, deleted, silenced, left = names(4)
    await host.loses_at_once(*names(4))
    await world.at(50)
    await world.agent.inventory.put_instance(InstanceRecord(moved, OTHER, True))
    await world.agent.inventory.delete_instance(deleted)
    await world.agent.inventory.put_instance(InstanceRecord(silenced, HOSTNAME, False))
    released = await world.agent.mass_failure_guard.release(HOSTNAME, "operator", send=True)
    assert released == Released(sent=1, withdrawn=1)
    await world.at(100)
    assert alarmed(world) == [(50.0, left)]
    assert await kinds(world, "undelivered") == [
        ("undelivered", moved, f"alarm: it has moved to {OTHER}"),
        ("undelivered", deleted, "alarm: the VIM has deleted it"),
        ("undelivered", silenced, "alarm: it is of no use any more"),
    ]


async def test_a_host_of_which_nobody_wants_to_hear(world: AgentWorld) -> None:
    host = await world.bound_host(host=FailingHost(4))
    await world.at(10)
    await host.loses_at_once(names(4)[0])
    hello = host.hello
    await world.agent.inventory.put_host(HostRecord(hello.host_uuid, hello.hostname, False))
    await world.at(60)
    assert alarmed(world) == []
    assert await kinds(world, "undelivered") == [
        ("undelivered", names(4)[0], "alarm: it is of no use any more")
    ]


async def test_a_host_that_the_vim_deletes_is_held_no_longer(world: AgentWorld) -> None:
    host = await world.bound_host(host=FailingHost(3))
    await host.loses_at_once(*names(3))
    await world.at(50)
    await world.agent.inventory.delete_host(host.hello.host_uuid)
    await world.at(60)
    assert (world.agent.mass_failure_guard.hold(HOSTNAME), alarmed(world)) == (None, [])
    assert await kinds(world, "host-alarm-over") == [
        ("host-alarm-over", "", "the VIM has deleted it")
    ]
    # One of which nothing is held is no trouble.
    await world.agent.inventory.put_host(HostRecord("h-9", "compute-9", True))
    await world.agent.inventory.delete_host("h-9")


async def test_a_host_without_a_link_is_forgotten_and_begins_anew(world: AgentWorld) -> None:
    host = await world.bound_host(host=FailingHost(2))
    await host.cut()
    await world.at(60)
    host.instances |= FailingHost(3).instances
    await world.bound_host(host=host)
    await host.loses_at_once(*names(3))
    await world.at(100)
    assert await kinds(world, "host-alarm") == [
        ("host-alarm", "", "3 of 3 instances failed at once")
    ]


# -- the disk and the end --------------------------------------------------------------------------


async def test_a_hold_survives_a_restart(tmp_path: Path) -> None:
    host = FailingHost(4)
    async with agent_world(tmp_path) as world:
        await world.bound_host(host=host)
        await host.loses_at_once(*names(3))
        await world.at(50)
        before = world.agent.mass_failure_guard.hold(HOSTNAME)
        assert before is not None
    async with agent_world(tmp_path, number=1) as world:
        assert world.agent.mass_failure_guard.hold(HOSTNAME) == before
        await world.host(host)
        await world.at(600)
        # The one that was well all the time is told anew, and proves nothing.
        assert alarmed(world) == []
        await host.report_heartbeating(names(3)[0])
        await world.at(700)
        assert alarmed(world) == [(600 + SETTLE_S, uuid) for uuid in names(3)[1:]]
        assert len(await kinds(world, "host-alarm")) == 1


@pytest.mark.parametrize(("lost", "alarm"), [(2, False), (3, True)])
async def test_an_end_in_the_interval_of_reflection(tmp_path: Path, lost: int, alarm: bool) -> None:
    async with agent_world(tmp_path) as world:
        host = await world.bound_host(host=FailingHost(4))
        await host.loses_at_once(*names(lost))
        await world.at(0.5)
        assert alarmed(world) == []
    async with agent_world(tmp_path, number=1) as world:
        await world.at(60)
        assert (await kinds(world, "host-alarm") != []) is alarm
        assert (alarmed(world) == []) is alarm


@pytest.mark.parametrize(("lost", "alarm"), [(2, False), (3, True)])
async def test_an_end_in_that_interval_and_a_disk_that_is_full_at_the_start(
    tmp_path: Path, lost: int, alarm: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent starts all the same: what is due of the alarms waits for the disk."""
    async with agent_world(tmp_path) as world:
        host = await world.bound_host(host=FailingHost(4))
        await host.loses_at_once(*names(lost))
        await world.at(0.5)

    async def refuses(*_: object) -> int:
        raise StoreFault("database or disk is full")

    with monkeypatch.context() as full:
        full.setattr(HeldAlarms, "let_go", refuses)
        full.setattr(HeldAlarms, "hold", refuses)
        async with agent_world(tmp_path, number=1) as world:
            await world.at(10)
            assert await kinds(world, "host-alarm") == alarmed(world) == []
            full.undo()
            await world.at(100)
            assert (await kinds(world, "host-alarm") != []) is alarm
            assert (alarmed(world) == []) is alarm


async def test_a_disk_that_fails_delays_and_loses_nothing(world: AgentWorld) -> None:
    host = await world.bound_host(host=FailingHost(3))
    await host.loses_at_once(*names(3))
    await world.at(0.5)
    world.worker.fault = "database or disk is full"
    await world.at(5)
    assert world.agent.mass_failure_guard.hold(HOSTNAME) is not None
    world.worker.fault = ""
    await world.at(60)
    assert alarmed(world) == []
    assert len(await kinds(world, "host-alarm")) == 1


async def test_a_release_that_is_due_is_tried_until_the_disk_takes_it(world: AgentWorld) -> None:
    host = await world.bound_host(host=FailingHost(3))
    await host.loses_at_once(*names(3))
    await world.at(50)
    await host.report_heartbeating(names(3)[0])
    await world.at(51)
    world.worker.fault = "database or disk is full"
    # Tried after 10, 11, 13 and 17 seconds, and then after 25.
    await world.at(50 + SETTLE_S + 8)
    assert world.agent.mass_failure_guard.hold(HOSTNAME) is not None
    world.worker.fault = ""
    await world.at(50 + SETTLE_S + 14.9)
    assert await kinds(world, "host-alarm-over") == []
    await world.at(50 + SETTLE_S + 15)
    assert await kinds(world, "host-alarm-over") == [
        ("host-alarm-over", "", "its instances have recovered")
    ]
    assert (
        world.agent.mass_failure_guard.hold(HOSTNAME),
        (await world.store.held.all()).holds,
    ) == (
        None,
        (),
    )
    await world.at(200)
    assert sorted(uuid for _, uuid in alarmed(world)) == names(3)[1:]


async def test_an_operators_release_that_fails_costs_the_others_no_time(world: AgentWorld) -> None:
    host = await world.bound_host(host=FailingHost(3))
    await host.loses_at_once(*names(3))
    await world.at(50)
    await host.report_heartbeating(names(3)[0])
    world.worker.fault = "database or disk is full"
    with pytest.raises(StoreFault, match=r"^database or disk is full$"):
        await world.agent.mass_failure_guard.release(HOSTNAME, "operator", send=False)
    world.worker.fault = ""
    await world.at(100)
    assert alarmed(world) == [(50 + SETTLE_S, uuid) for uuid in names(3)[1:]]


async def test_a_hold_that_is_released_before_the_disk_had_it_is_over(world: AgentWorld) -> None:
    host = await world.bound_host(host=FailingHost(3))
    await host.loses_at_once(*names(3))
    await world.at(0.5)
    world.worker.fault = "database or disk is full"
    await world.at(1.2)
    world.worker.fault = ""
    await world.agent.mass_failure_guard.release(HOSTNAME, "operator", send=True)
    await world.at(30)
    assert (
        world.agent.mass_failure_guard.hold(HOSTNAME),
        (await world.store.held.all()).holds,
    ) == (
        None,
        (),
    )
    assert [kind for kind, _, _ in await kinds(world, "host-alarm", "host-alarm-over")] == [
        "host-alarm",
        "host-alarm-over",
    ]
    assert alarmed(world) == [(1.2, uuid) for uuid in names(3)]
