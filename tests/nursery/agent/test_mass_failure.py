"""The mass failure guard on the fake clock: whose alarms reach the VIM, when, and what is said."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from hbtrio.fsm.alarm_hold import SETTLE_S
from hbtrio.nursery.agent.alarm_holds import Released
from hbtrio.nursery.agent.mass_failure import NotHeld
from hbtrio.store.records import HostRecord, InstanceRecord
from hbtrio.store.worker import StoreFault
from hbtrio.wire.link_messages import STOPPING, Goodbye
from hbtrio.wire.vocabulary import Event, Health
from support.agent_world import MemoryAgent, memory_agent
from support.inline_store import EPOCH
from support.scripted_host import HOSTNAME, INSTANCE, OTHER_HOST_UUID, ScriptedHost

OTHER = "compute-1"


def names(count: int) -> list[str]:
    return [f"{n:08x}-1111-4111-8111-111111111111" for n in range(count)]


class Host(ScriptedHost):
    """A host with so many instances, whose clock goes with trio's."""

    def __init__(self, count: int) -> None:
        uuids = names(count)
        super().__init__(instances=tuple(attrs.evolve(INSTANCE, uuid=uuid) for uuid in uuids))

    async def loses(self, uuid: str = "", action: str = "reboot") -> None:
        self.clock = (EPOCH + timedelta(seconds=trio.current_time())).isoformat()
        await super().loses(uuid, action)

    async def loses_at_once(self, *uuids: str) -> None:
        """As the daemon does it: first what has changed, then the reports."""
        for uuid in uuids:
            await self.tell(uuid, heartbeating=False, state="lost")
        for uuid in uuids:
            await self.loses(uuid)
        await wait_all_tasks_blocked()


def alarmed(on: MemoryAgent) -> list[tuple[float, str]]:
    """When the VIM heard of a loss or an illness, and of whose; several go side by side."""
    return sorted(
        (time, body["uuid"]) for time, body in on.vim.got if body["event-type"] == "alarm"
    )


async def kinds(on: MemoryAgent, *kind: str) -> list[tuple[str, str, str]]:
    """What the history has of these kinds: kind, whose and why; the oldest first."""
    return [
        (one.entry.kind, one.entry.uuid, one.entry.reason)
        for one in reversed(await on.store.history())
        if one.entry.kind in kind
    ]


# -- whether there is one --------------------------------------------------------------------------


async def test_a_single_loss_is_alarmed_an_interval_later(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with memory_agent(tmp_path) as on:
        host = await on.known(host=Host(4))
        first = names(4)[0]
        await on.at(10)
        await host.loses_at_once(first)
        assert alarmed(on) == []
        await on.at(30)
        assert alarmed(on) == [(11.0, first)]
        assert await kinds(on, "host-alarm") == []


async def test_its_state_and_its_verdicts_do_not_wait_for_the_alarm(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with memory_agent(tmp_path) as on:
        host = await on.known(host=Host(4))
        on.vim.got.clear()
        await host.loses_at_once(names(4)[0])
        assert [body["event-type"] for _, body in on.vim.got] == ["service"]


@pytest.mark.parametrize("count", [1, 2])
async def test_with_fewer_than_the_minimum_all_are_alarmed_at_once(
    tmp_path: Path, autojump_clock: MockClock, count: int
) -> None:
    async with memory_agent(tmp_path) as on:
        host = await on.known(host=Host(count))
        await on.at(10)
        await host.loses_at_once(*names(count))
        assert alarmed(on) == [(10.0, uuid) for uuid in names(count)]
        await host.cut()
        await on.at(20)
        assert await kinds(on, "host-alarm") == []


@pytest.mark.parametrize(("lost", "total"), [(1, 3), (2, 4), (5, 10)])
async def test_up_to_the_share_all_are_alarmed(
    tmp_path: Path, autojump_clock: MockClock, lost: int, total: int
) -> None:
    async with memory_agent(tmp_path) as on:
        host = await on.known(host=Host(total))
        await on.at(10)
        await host.loses_at_once(*names(lost))
        await on.at(30)
        assert alarmed(on) == [(11.0, uuid) for uuid in names(lost)]
        assert on.agent.mass_failure_guard.hold(HOSTNAME) is None


@pytest.mark.parametrize(("lost", "total"), [(3, 3), (2, 3), (3, 4), (6, 10)])
async def test_beyond_the_share_there_is_one_alarm_and_that_is_the_hosts(
    tmp_path: Path,
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
    lost: int,
    total: int,
) -> None:
    async with memory_agent(tmp_path) as on:
        host = await on.known(host=Host(total))
        await on.at(10)
        await host.loses_at_once(*names(lost))
        await on.at(3600)
        assert alarmed(on) == []
        why = f"{lost} of {total} instances failed at once"
        assert await kinds(on, "host-alarm", "host-alarm-over") == [("host-alarm", "", why)]
        assert [one.reason for one in on.agent.history.recent if one.kind == "host-alarm"] == [why]
        hold = on.agent.mass_failure_guard.hold(HOSTNAME)
        assert hold is not None
        assert (hold.hostname, hold.since, hold.reason) == (
            HOSTNAME,
            EPOCH + timedelta(seconds=11),
            why,
        )
        assert on.agent.mass_failure_guard.alarms == 1
        [line] = [one for one in caplog.records if one.levelno == logging.CRITICAL]
        assert line.getMessage() == (
            f"ALARM: {HOSTNAME}: {why}: alarms of its instances are held back"
        )


async def test_losses_further_apart_than_an_interval_are_alarmed(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """An outage of three instances in ten seconds is three failures."""
    async with memory_agent(tmp_path) as on:
        host = await on.known(host=Host(6))
        for second, uuid in enumerate(names(3)):
            await on.at(10 + 1.5 * second)
            await host.loses(uuid)
        await on.at(60)
        expected = [(11.0 + 1.5 * second, uuid) for second, uuid in enumerate(names(3))]
        assert alarmed(on) == expected


async def test_reports_that_come_late_and_all_at_once_count_as_they_happened(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """An agent that was away hears in one moment of what happened in an hour."""
    async with memory_agent(tmp_path) as on:
        host = Host(4)
        for minute, uuid in enumerate(names(3)):
            host.instances[uuid] = attrs.evolve(
                host.instances[uuid], heartbeating=False, state="lost"
            )
            host.clock = (EPOCH + timedelta(minutes=minute)).isoformat()
            await host.report("loss", uuid, "no answer for 3 s")
        await on.at(3600)
        await on.known(host=host)
        await on.at(3700)
        assert sorted(uuid for _, uuid in alarmed(on)) == names(3)
        assert await kinds(on, "host-alarm") == []


async def test_ill_health_counts_as_well(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with memory_agent(tmp_path) as on:
        host = await on.known(host=Host(3))
        for uuid in names(3):
            await host.tell(uuid, health=Health.UNHEALTHY)
            await host.report("unhealthy", uuid, "disk is full")
        await on.at(60)
        assert alarmed(on) == []
        assert await kinds(on, "host-alarm") == [
            ("host-alarm", "", "3 of 3 instances failed at once")
        ]
        await host.tell(names(3)[0], health=Health.HEALTHY)
        await on.at(60 + SETTLE_S)
        assert alarmed(on) == [(60 + SETTLE_S, uuid) for uuid in names(3)[1:]]


async def test_hosts_are_judged_each_for_itself(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with memory_agent(tmp_path) as on:
        host = await on.known(host=Host(3))
        other = ScriptedHost(OTHER, OTHER_HOST_UUID, "boot-2")
        vm = attrs.evolve(INSTANCE, uuid="99999999-1111-4111-8111-111111111111")
        other.instances = {vm.uuid: vm}
        await on.known(host=other)
        await host.loses_at_once(*names(3))
        await other.loses(vm.uuid)
        await on.at(60)
        assert alarmed(on) == [(0.0, vm.uuid)]


async def test_without_a_vim_the_host_is_alarmed_all_the_same(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with memory_agent(tmp_path, vim=False) as on:
        host = await on.host(Host(3))
        await host.loses_at_once(*names(3))
        await on.at(60)
        why = "3 of 3 instances failed at once"
        assert await kinds(on, "host-alarm") == [("host-alarm", "", why)]


async def test_losses_while_no_agent_listened_are_losses_at_once(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """All that a host tells a new agent is that nobody beats; then come the reports."""
    async with memory_agent(tmp_path) as on:
        host = Host(5)
        for uuid in names(5):
            await host.loses(uuid)
        await on.at(60)
        await on.known(host=host)
        await on.at(600)
        assert alarmed(on) == []
        why = "5 of 5 instances failed at once"
        assert await kinds(on, "host-alarm") == [("host-alarm", "", why)]


# -- those that come back --------------------------------------------------------------------------


async def test_one_that_is_back_within_the_interval_is_never_alarmed(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with memory_agent(tmp_path) as on:
        host = await on.known(host=Host(4))
        uuid = names(4)[0]
        await on.at(10)
        await host.loses_at_once(uuid)
        await on.at(10.5)
        await host.beats(uuid)
        await on.at(60)
        assert alarmed(on) == []
        assert await kinds(on, "loss", "undelivered") == [
            ("loss", uuid, "no answer for 3 s"),
            ("undelivered", uuid, "alarm: it is well again"),
        ]


async def test_a_host_that_thaws_loses_nobody(tmp_path: Path, autojump_clock: MockClock) -> None:
    """All are back before their interval of reflection is over: not even the host is alarmed."""
    async with memory_agent(tmp_path) as on:
        host = await on.known(host=Host(4))
        await host.loses_at_once(*names(4))
        await on.at(0.5)
        for uuid in names(4):
            await host.beats(uuid)
        await on.at(60)
        assert (alarmed(on), await kinds(on, "host-alarm")) == ([], [])


async def test_the_next_good_beat_begins_the_release(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Those that are heard of in time take their alarm back; the others are alarmed."""
    async with memory_agent(tmp_path) as on:
        host = await on.known(host=Host(6))
        first, second, third, *rest = names(6)
        await host.loses_at_once(first, second, third, rest[0])
        await on.at(100)
        await host.beats(first)
        await on.at(100 + SETTLE_S - 1)
        await host.beats(second)
        assert alarmed(on) == []
        assert on.agent.mass_failure_guard.hold(HOSTNAME) is not None
        await on.at(200)
        assert alarmed(on) == [(100 + SETTLE_S, third), (100 + SETTLE_S, rest[0])]
        assert on.agent.mass_failure_guard.hold(HOSTNAME) is None
        assert await kinds(on, "undelivered", "host-alarm-over") == [
            ("undelivered", first, "alarm: it is well again"),
            ("undelivered", second, "alarm: it is well again"),
            ("host-alarm-over", "", "its instances are back"),
        ]
        # From here on it is as before.
        await host.loses_at_once(first)
        await on.at(300)
        assert alarmed(on)[2:] == [(201.0, first)]


async def test_an_instance_that_was_well_all_the_time_proves_nothing(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with memory_agent(tmp_path) as on:
        host = await on.known(host=Host(4))
        await host.loses_at_once(*names(3))
        await on.at(50)
        await host.tell(names(4)[3], name="renamed")
        await on.at(3600)
        assert alarmed(on) == []
        assert on.agent.mass_failure_guard.hold(HOSTNAME) is not None


async def test_what_fails_while_alarms_are_held_is_held_too(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with memory_agent(tmp_path) as on:
        host = await on.known(host=Host(5))
        await host.loses_at_once(*names(4))
        await on.at(50)
        await host.loses(names(5)[4])
        await on.at(100)
        assert alarmed(on) == []
        # It belongs to the incident by now: its return is the good beat.
        await host.beats(names(5)[4])
        await on.at(200)
        assert alarmed(on) == [(100 + SETTLE_S, uuid) for uuid in names(4)]


async def test_one_that_fails_just_before_the_release_has_its_interval(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with memory_agent(tmp_path) as on:
        host = await on.known(host=Host(12))
        await host.loses_at_once(*names(8))
        await on.at(100)
        for uuid in names(7):
            await host.beats(uuid)
        await on.at(100 + SETTLE_S - 0.5)
        await host.loses(names(12)[8])
        await on.at(200)
        assert alarmed(on) == [
            (100 + SETTLE_S, names(8)[7]),
            (100 + SETTLE_S + 0.5, names(12)[8]),
        ]


async def test_one_that_is_judged_while_the_disk_takes_its_time_to_release(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """It is left to nobody: the hold has looked already for what it lets go."""
    async with memory_agent(tmp_path) as on:
        host = await on.known(host=Host(12))
        await host.loses_at_once(*names(8))
        await on.at(100)
        for uuid in names(8):
            await host.beats(uuid)
        late = names(12)[8]
        await on.at(100 + SETTLE_S - 0.85)
        await host.loses(late)
        await on.at(100 + SETTLE_S - 0.8)
        real = on.worker.run

        async def slow(work: Callable[[sqlite3.Connection], Any]) -> Any:
            result = await real(work)
            await trio.sleep(0.1)
            return result

        on.worker.run = slow  # type: ignore[method-assign]
        await on.at(200)
        assert [uuid for _, uuid in alarmed(on)] == [late]
        assert on.agent.mass_failure_guard.hold(HOSTNAME) is None


async def test_a_host_whose_failed_instances_were_all_taken_elsewhere(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """None of them can be well there any more: the hold ends without."""
    async with memory_agent(tmp_path) as on:
        host = await on.known(host=Host(4))
        *lost, left = names(4)
        await host.loses_at_once(*lost)
        await on.at(50)
        for uuid in lost[1:]:
            await on.agent.inventory.put_instance(InstanceRecord(uuid, OTHER, True))
        await on.at(100)
        assert on.agent.mass_failure_guard.hold(HOSTNAME) is not None
        await on.agent.inventory.delete_instance(lost[0])
        await on.at(100 + SETTLE_S)
        assert await kinds(on, "host-alarm-over") == [
            ("host-alarm-over", "", "those that failed have left it")
        ]
        await host.loses_at_once(left)
        await on.at(200)
        # It is alone, and waits for no others.
        assert alarmed(on) == [(100 + SETTLE_S, left)]


async def test_one_that_had_left_before_its_loss_was_told_is_not_waited_for(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with memory_agent(tmp_path) as on:
        host = await on.known(host=Host(6))
        gone, *lost = names(4)
        await on.at(10)
        await host.cut()
        await on.at(11)
        await on.agent.inventory.put_instance(InstanceRecord(gone, OTHER, True))
        await host.loses_at_once(gone, *lost)
        await on.host(host)
        await on.at(60)
        assert on.agent.mass_failure_guard.hold(HOSTNAME) is not None
        for uuid in lost:
            await on.agent.inventory.put_instance(InstanceRecord(uuid, OTHER, True))
        await on.at(60 + SETTLE_S)
        assert on.agent.mass_failure_guard.hold(HOSTNAME) is None
        await on.at(100)
        late = names(6)[5]
        await host.loses_at_once(late)
        await on.at(200)
        assert alarmed(on) == [(100.0, late)]


async def test_those_of_which_nobody_wants_to_hear_hold_back_no_other(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with memory_agent(tmp_path) as on:
        host = await on.known(host=Host(6))
        *silenced, late, _ = names(6)
        for uuid in silenced:
            await on.agent.inventory.put_instance(InstanceRecord(uuid, HOSTNAME, False))
        await on.at(10)
        await host.loses_at_once(*silenced)
        await on.at(50)
        assert on.agent.mass_failure_guard.hold(HOSTNAME) is None
        await host.loses_at_once(late)
        await on.at(200)
        assert alarmed(on) == [(50.0, late)]


async def test_one_of_which_nobody_wants_to_hear_any_more_is_not_waited_for(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with memory_agent(tmp_path) as on:
        host = await on.known(host=Host(6))
        silenced, *lost = names(4)
        await host.loses_at_once(silenced, *lost)
        await on.at(50)
        put = on.agent.inventory.put_instance
        await put(InstanceRecord(silenced, HOSTNAME, False))
        for uuid in lost:
            assert on.agent.mass_failure_guard.hold(HOSTNAME) is not None
            await put(InstanceRecord(uuid, OTHER, True))
        await on.at(50 + SETTLE_S)
        assert on.agent.mass_failure_guard.hold(HOSTNAME) is None
        await on.at(100)
        late = names(6)[5]
        await host.loses_at_once(late)
        await on.at(200)
        assert alarmed(on) == [(100.0, late)]


# -- links -----------------------------------------------------------------------------------------


async def test_a_link_that_drops_alarms_the_host(
    tmp_path: Path, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with memory_agent(tmp_path) as on:
        host = await on.known(host=Host(3))
        await on.at(10)
        await host.cut()
        await on.at(3600)
        why = "its link dropped while 3 instances were heartbeating: closed by the other end"
        assert await kinds(on, "host-alarm", "host-unreachable") == [
            ("host-alarm", "", why),
            ("host-unreachable", "", "no link for 30 s"),
        ]
        assert [one.levelno for one in caplog.records].count(logging.CRITICAL) == 1
        await on.host(host)
        await on.at(3600 + SETTLE_S + 1)
        assert await kinds(on, "host-alarm-over") == [
            ("host-alarm-over", "", "its instances are back")
        ]


async def test_alarms_that_wait_are_held_when_the_link_drops(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A host that goes down takes its instances with it, and its link last."""
    async with memory_agent(tmp_path) as on:
        host = await on.known(host=Host(8))
        await on.at(10)
        await host.loses_at_once(names(8)[0])
        await on.at(10.5)
        await host.cut()
        await on.at(600)
        assert alarmed(on) == []
        await on.host(host)
        await on.at(700)
        # It was not heard of, and those that were heard of are enough.
        assert alarmed(on) == [(600 + SETTLE_S, names(8)[0])]


async def test_a_link_that_flaps_is_one_alarm(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with memory_agent(tmp_path) as on:
        host = await on.known(host=Host(3))
        for second in range(0, 40, 5):
            await on.at(10 + second)
            await host.cut()
            await on.at(12 + second)
            await on.host(host)
        assert len(await kinds(on, "host-alarm")) == 1
        await on.at(47 + SETTLE_S - 0.1)
        assert await kinds(on, "host-alarm-over") == []
        await on.at(47 + SETTLE_S)
        assert len(await kinds(on, "host-alarm-over")) == 1


async def test_a_mass_loss_behind_a_link_that_dropped_needs_one_of_the_lost(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """That some are well was known before the others were told to be lost."""
    async with memory_agent(tmp_path) as on:
        host = await on.known(host=Host(4))
        await on.at(10)
        await host.cut()
        await on.at(12)
        for uuid in names(3):
            lost = attrs.evolve(host.instances[uuid], heartbeating=False, state="lost")
            host.instances[uuid] = lost
        await on.host(host)
        await host.loses_at_once(*names(3))
        await on.at(600)
        assert alarmed(on) == []
        await host.beats(names(3)[0])
        await on.at(700)
        assert alarmed(on) == [(600 + SETTLE_S, uuid) for uuid in names(3)[1:]]


async def test_instances_that_left_while_the_link_was_down_do_not_count(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with memory_agent(tmp_path) as on:
        host = await on.known(host=Host(4))
        await host.cut()
        await on.at(1)
        for uuid in names(4)[2:]:
            del host.instances[uuid]
        await on.host(host)
        await on.at(60)
        # Two are left, which is less than the minimum.
        await host.cut()
        await on.at(61)
        assert on.agent.mass_failure_guard.hold(HOSTNAME) is None
        assert len(await kinds(on, "host-alarm")) == 1


async def test_a_link_that_drops_while_the_disk_is_full_is_waited_for(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The release that had begun has not happened, and begins anew."""
    async with memory_agent(tmp_path) as on:
        host = await on.known(host=Host(3))
        await host.loses_at_once(*names(3))
        await on.at(50)
        await host.beats(names(3)[0])
        await on.at(50 + SETTLE_S - 0.5)
        on.worker.fault = "database or disk is full"
        await on.at(50 + SETTLE_S + 0.5)
        await host.cut()
        await on.at(50 + SETTLE_S + 0.6)
        on.worker.fault = ""
        await on.at(200)
        assert (alarmed(on), await kinds(on, "host-alarm-over")) == ([], [])
        await on.host(host)
        await on.at(300)
        assert alarmed(on) == [(200 + SETTLE_S, uuid) for uuid in names(3)[1:]]


async def test_a_host_daemon_that_is_told_to_stop_is_no_drop(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with memory_agent(tmp_path) as on:
        host = await on.known(host=Host(3))
        await host.say(Goodbye(STOPPING))
        await on.at(60)
        assert await kinds(on, "host-alarm", "host-unreachable") == [
            ("host-unreachable", "", "no link for 30 s")
        ]


async def test_a_link_that_this_end_has_to_end_is_no_drop(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Our full disk says nothing of the host, and nobody has consented by it."""
    async with memory_agent(tmp_path) as on:
        host = await on.known(host=Host(3))
        on.worker.fault = "database or disk is full"
        await host.loses(names(3)[0])
        await on.at(1)
        assert not host.up
        with pytest.raises(StoreFault, match=r"^database or disk is full$"):
            await on.agent.rounds.ask(names(3)[1], Event.STOP, vote=True, who="vim")
        on.worker.fault = ""
        await on.at(2)
        assert await kinds(on, "host-alarm") == []
        assert on.agent.mass_failure_guard.hold(HOSTNAME) is None


async def test_one_that_takes_offence_is(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with memory_agent(tmp_path) as on:
        host = await on.known(host=Host(3))
        await host.say(Goodbye("unusable message"))
        await on.at(1)
        assert len(await kinds(on, "host-alarm")) == 1


async def test_a_newer_connection_is_no_drop(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with memory_agent(tmp_path) as on:
        host = await on.known(host=Host(3))
        newer = Host(3)
        await on.host(newer)
        await on.at(60)
        assert not host.up
        assert await kinds(on, "host-alarm") == []


# -- operators and the VIM -------------------------------------------------------------------------


async def test_an_operator_has_them_sent(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with memory_agent(tmp_path) as on:
        host = await on.known(host=Host(3))
        await host.loses_at_once(*names(3))
        await on.at(50)
        released = await on.agent.mass_failure_guard.release(HOSTNAME, "operator", send=True)
        await on.at(51)
        assert released == Released(sent=3, withdrawn=0)
        assert alarmed(on) == [(50.0, uuid) for uuid in names(3)]
        [over] = [one for one in await on.store.history() if one.entry.kind == "host-alarm-over"]
        assert (over.entry.who, over.entry.reason) == ("operator", "an operator released them")
        with pytest.raises(NotHeld, match=f"^no alarms of {HOSTNAME} are held back$"):
            await on.agent.mass_failure_guard.release(HOSTNAME, "operator", send=True)


async def test_an_operator_has_them_withdrawn(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with memory_agent(tmp_path) as on:
        host = await on.known(host=Host(3))
        await host.loses_at_once(*names(3))
        await on.at(50)
        released = await on.agent.mass_failure_guard.release(HOSTNAME, "operator", send=False)
        assert released == Released(sent=0, withdrawn=3)
        await on.at(3600)
        assert alarmed(on) == []
        assert await kinds(on, "undelivered") == [
            ("undelivered", uuid, "alarm: an operator withdrew them") for uuid in names(3)
        ]
        assert on.agent.mass_failure_guard.hold(HOSTNAME) is None


async def test_nothing_is_released_of_a_host_that_nobody_knows(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with memory_agent(tmp_path) as on:
        with pytest.raises(NotHeld, match=r"^no alarms of nobody are held back$"):
            await on.agent.mass_failure_guard.release("nobody", "operator", send=True)


async def test_alarms_that_are_of_no_use_any_more_are_not_sent(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """One has moved, one was deleted, of one nobody wants to hear any more; one is left."""
    async with memory_agent(tmp_path) as on:
        host = await on.known(host=Host(4))
        moved, deleted, silenced, left = names(4)
        await host.loses_at_once(*names(4))
        await on.at(50)
        await on.agent.inventory.put_instance(InstanceRecord(moved, OTHER, True))
        await on.agent.inventory.delete_instance(deleted)
        await on.agent.inventory.put_instance(InstanceRecord(silenced, HOSTNAME, False))
        released = await on.agent.mass_failure_guard.release(HOSTNAME, "operator", send=True)
        assert released == Released(sent=1, withdrawn=1)
        await on.at(100)
        assert alarmed(on) == [(50.0, left)]
        assert await kinds(on, "undelivered") == [
            ("undelivered", moved, f"alarm: it has moved to {OTHER}"),
            ("undelivered", deleted, "alarm: the VIM has deleted it"),
            ("undelivered", silenced, "alarm: it is of no use any more"),
        ]


async def test_a_host_of_which_nobody_wants_to_hear(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with memory_agent(tmp_path) as on:
        host = await on.known(host=Host(4))
        await on.at(10)
        await host.loses_at_once(names(4)[0])
        hello = host.hello
        await on.agent.inventory.put_host(HostRecord(hello.host_uuid, hello.hostname, False))
        await on.at(60)
        assert alarmed(on) == []
        assert await kinds(on, "undelivered") == [
            ("undelivered", names(4)[0], "alarm: it is of no use any more")
        ]


async def test_a_host_that_the_vim_deletes_is_held_no_longer(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with memory_agent(tmp_path) as on:
        host = await on.known(host=Host(3))
        await host.loses_at_once(*names(3))
        await on.at(50)
        await on.agent.inventory.delete_host(host.hello.host_uuid)
        await on.at(60)
        assert (on.agent.mass_failure_guard.hold(HOSTNAME), alarmed(on)) == (None, [])
        assert await kinds(on, "host-alarm-over") == [
            ("host-alarm-over", "", "the VIM has deleted it")
        ]
        # One of which nothing is held is no trouble.
        await on.agent.inventory.put_host(HostRecord("h-9", "compute-9", True))
        await on.agent.inventory.delete_host("h-9")


async def test_a_host_without_a_link_is_forgotten_and_begins_anew(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with memory_agent(tmp_path) as on:
        host = await on.known(host=Host(2))
        await host.cut()
        await on.at(60)
        host.instances |= Host(3).instances
        await on.known(host=host)
        await host.loses_at_once(*names(3))
        await on.at(100)
        assert await kinds(on, "host-alarm") == [
            ("host-alarm", "", "3 of 3 instances failed at once")
        ]


# -- the disk and the end --------------------------------------------------------------------------


async def test_a_hold_survives_a_restart(tmp_path: Path, autojump_clock: MockClock) -> None:
    host = Host(4)
    async with memory_agent(tmp_path) as on:
        await on.known(host=host)
        await host.loses_at_once(*names(3))
        await on.at(50)
        before = on.agent.mass_failure_guard.hold(HOSTNAME)
        assert before is not None
    async with memory_agent(tmp_path, number=1) as on:
        assert on.agent.mass_failure_guard.hold(HOSTNAME) == before
        await on.host(host)
        await on.at(600)
        # The one that was well all the time is told anew, and proves nothing.
        assert alarmed(on) == []
        await host.beats(names(3)[0])
        await on.at(700)
        assert alarmed(on) == [(600 + SETTLE_S, uuid) for uuid in names(3)[1:]]
        assert len(await kinds(on, "host-alarm")) == 1


@pytest.mark.parametrize(("lost", "alarm"), [(2, False), (3, True)])
async def test_an_end_in_the_interval_of_reflection(
    tmp_path: Path, autojump_clock: MockClock, lost: int, alarm: bool
) -> None:
    async with memory_agent(tmp_path) as on:
        host = await on.known(host=Host(4))
        await host.loses_at_once(*names(lost))
        await on.at(0.5)
        assert alarmed(on) == []
    async with memory_agent(tmp_path, number=1) as on:
        await on.at(60)
        assert (await kinds(on, "host-alarm") != []) is alarm
        assert (alarmed(on) == []) is alarm


async def test_a_disk_that_fails_delays_and_loses_nothing(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with memory_agent(tmp_path) as on:
        host = await on.known(host=Host(3))
        await host.loses_at_once(*names(3))
        await on.at(0.5)
        on.worker.fault = "database or disk is full"
        await on.at(5)
        assert on.agent.mass_failure_guard.hold(HOSTNAME) is not None
        on.worker.fault = ""
        await on.at(60)
        assert alarmed(on) == []
        assert len(await kinds(on, "host-alarm")) == 1


async def test_a_release_that_is_due_is_tried_until_the_disk_takes_it(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with memory_agent(tmp_path) as on:
        host = await on.known(host=Host(3))
        await host.loses_at_once(*names(3))
        await on.at(50)
        await host.beats(names(3)[0])
        await on.at(51)
        on.worker.fault = "database or disk is full"
        # Tried after 10, 11, 13 and 17 seconds, and then after 25.
        await on.at(50 + SETTLE_S + 8)
        assert on.agent.mass_failure_guard.hold(HOSTNAME) is not None
        on.worker.fault = ""
        await on.at(50 + SETTLE_S + 14.9)
        assert await kinds(on, "host-alarm-over") == []
        await on.at(50 + SETTLE_S + 15)
        assert await kinds(on, "host-alarm-over") == [
            ("host-alarm-over", "", "its instances are back")
        ]
        assert (on.agent.mass_failure_guard.hold(HOSTNAME), (await on.store.held.all()).holds) == (
            None,
            (),
        )
        await on.at(200)
        assert sorted(uuid for _, uuid in alarmed(on)) == names(3)[1:]


async def test_an_operators_release_that_fails_costs_the_others_no_time(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with memory_agent(tmp_path) as on:
        host = await on.known(host=Host(3))
        await host.loses_at_once(*names(3))
        await on.at(50)
        await host.beats(names(3)[0])
        on.worker.fault = "database or disk is full"
        with pytest.raises(StoreFault, match=r"^database or disk is full$"):
            await on.agent.mass_failure_guard.release(HOSTNAME, "operator", send=False)
        on.worker.fault = ""
        await on.at(100)
        assert alarmed(on) == [(50 + SETTLE_S, uuid) for uuid in names(3)[1:]]


async def test_a_hold_that_is_released_before_the_disk_had_it_is_over(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with memory_agent(tmp_path) as on:
        host = await on.known(host=Host(3))
        await host.loses_at_once(*names(3))
        await on.at(0.5)
        on.worker.fault = "database or disk is full"
        await on.at(1.2)
        on.worker.fault = ""
        await on.agent.mass_failure_guard.release(HOSTNAME, "operator", send=True)
        await on.at(30)
        assert (on.agent.mass_failure_guard.hold(HOSTNAME), (await on.store.held.all()).holds) == (
            None,
            (),
        )
        assert [kind for kind, _, _ in await kinds(on, "host-alarm", "host-alarm-over")] == [
            "host-alarm",
            "host-alarm-over",
        ]
        assert alarmed(on) == [(1.2, uuid) for uuid in names(3)]
