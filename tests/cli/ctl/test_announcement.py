"""`hbtrio ctl notify-all`: who is told, how long it takes at most, and who gets the end of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio

from hbtrio.cli.ctl import announcement
from hbtrio.cli.ctl.announcement import ENDS, PARALLEL
from hbtrio.config.groups import GroupSettings
from hbtrio.errors import ExitStatus, UserError
from hbtrio.wire.vocabulary import ACTION_TABLE, EVENT_TABLE, Event, VoteResult
from support.control_socket import call
from support.ctl_cases import answer, asked, fault_of, serving
from support.fleet_world import fleet_world
from support.host_world import NOTICE, Reply, uuid_of

pytestmark = pytest.mark.usefixtures("autojump_clock")

ONE, TWO = uuid_of(1), uuid_of(2)
STOP, RESUME = (NOTICE, Event.STOP), (NOTICE, Event.RESUME)


def test_each_event_that_can_be_called_off_has_its_end() -> None:
    voted = {event for event, rule in EVENT_TABLE.items() if rule.voted}
    assert set(ENDS) == voted
    for rule in ACTION_TABLE.values():
        if rule.before is not None:
            assert ENDS[rule.before] is rule.cancelled


async def test_all_are_told_side_by_side() -> None:
    count = 3 * PARALLEL
    async with serving() as (world, api):
        guests = await world.all_heartbeating(count, shutdown_notice_secs=20)
        for guest in guests:
            guest.reply = answer(notice=Reply(VoteResult.COMPLETE, after_s=8.0))
        began = trio.current_time()
        called = await call(api.path, "notify-all", "stop")
        assert called.lines == [f"{count} instances in 8.0 s: {count} complete"]
        assert called.status == ExitStatus.DONE
        assert trio.current_time() - began < 9.0
        assert all(asked(guest) == [STOP] for guest in guests)


async def test_a_slow_one_holds_nobody_up_beyond_the_bound(tmp_path: Path) -> None:
    told = tmp_path / "told"
    async with serving() as (world, api):
        quick = await world.heartbeating(name="quick", shutdown_notice_secs=100)
        slow = await world.heartbeating(name="slow", shutdown_notice_secs=100)
        slow.reply = answer(notice=None)
        words = ("notify-all", "stop", "--within", "10", "--told", str(told))
        began = trio.current_time()
        called = await call(api.path, *words)
        assert called.lines == ["slow: stop: open", "2 instances in 10.0 s: 1 complete, 1 open"]
        assert called.status == ExitStatus.FAILED
        assert trio.current_time() - began == pytest.approx(10.0)
        assert set(told.read_text().splitlines()) == {f"stop {quick.uuid}", f"stop {slow.uuid}"}


async def test_one_that_never_answers_ends_with_its_window() -> None:
    async with serving() as (world, api):
        guest = await world.heartbeating(name="web-1", shutdown_notice_secs=4)
        guest.reply = answer(notice=None)
        called = await call(api.path, "notify-all", "stop", "--json")
        (one,) = map(json.loads, called.lines)
        assert (one["uuid"], one["name"], one["event"]) == (guest.uuid, "web-1", "stop")
        assert one["result"] == "complete"
        assert one["reason"].startswith("no answer within ")
        assert called.status == ExitStatus.DONE


async def test_one_that_does_not_heartbeat_is_left_out() -> None:
    async with serving() as (world, api):
        silent = world.guest(name="new")
        silent.sends_init = None
        silent.appear()
        await world.settle()
        called = await call(api.path, "notify-all", "stop")
        assert called.lines == ["0 instances in 0.0 s"]
        assert called.status == ExitStatus.DONE


async def test_one_that_can_t_be_told_now_is_named() -> None:
    async with serving() as (world, api):
        guest = await world.heartbeating(name="web-1", shutdown_notice_secs=50)
        guest.reply = answer(notice=None)
        world.host.open_round(guest.uuid, Event.PAUSE, NOTICE)
        called = await call(api.path, "notify-all", "stop")
        assert called.lines[0].startswith("web-1: stop: refused (")
        assert called.status == ExitStatus.FAILED


async def test_an_event_that_does_not_come_is_ended_for_those_who_were_told(tmp_path: Path) -> None:
    told = tmp_path / "told"
    async with serving() as (world, api):
        one = await world.heartbeating(name="web-1", shutdown_notice_secs=5)
        await call(api.path, "notify-all", "stop", "--told", str(told))
        later = await world.heartbeating(name="web-2", shutdown_notice_secs=5)
        called = await call(api.path, "notify-all", "--ended", str(told))
        assert called.lines[-1].endswith("1 complete")
        assert called.status == ExitStatus.DONE
        assert (asked(one), asked(later)) == ([STOP, RESUME], [])
        assert not told.exists()
        again = await call(api.path, "notify-all", "--ended", str(told))
        assert (again.lines, again.status) == (["0 instances in 0.0 s"], ExitStatus.DONE)


async def test_who_has_gone_meanwhile_needs_no_end(tmp_path: Path) -> None:
    told = tmp_path / "told"
    told.write_text("stop 00000000-0000-4000-8000-000000000009\nstop 00000000-0000-4000-8000-0")
    async with serving() as (_, api):
        called = await call(api.path, "notify-all", "--ended", str(told))
        assert called.lines[-1].endswith("1 refused")
        assert called.status == ExitStatus.DONE
        assert not told.exists()


async def test_a_daemon_that_is_away_leaves_the_list(tmp_path: Path) -> None:
    told, text = tmp_path / "told", "stop 00000000-0000-4000-8000-000000000009\n"
    told.write_text(text)
    fault, status = await fault_of(str(tmp_path / "none"), "notify-all", "--ended", str(told))
    assert "no such socket" in fault
    assert status is ExitStatus.UNREACHABLE
    assert told.read_text() == text


async def test_a_daemon_that_ends_meanwhile_is_a_fault() -> None:
    async with serving() as (world, api), trio.open_nursery() as nursery:
        guest = await world.heartbeating(name="web-1", shutdown_notice_secs=50)
        guest.reply = answer(notice=None)

        async def end() -> None:
            await trio.sleep(3)
            api.scope.cancel()

        nursery.start_soon(end)
        with pytest.raises(UserError) as raised:
            await call(api.path, "notify-all", "stop")
        assert raised.value.status is ExitStatus.UNREACHABLE


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (b"halt 00000000-0000-4000-8000-000000000009\n", ":1: not an event and a uuid"),
        (b"stop 00000000-0000-4000-8000-000000000009\nstop web\n", ":2: not an event and a uuid"),
        (b"\xff\n", ": not a list of told instances"),
    ],
)
async def test_a_file_that_is_no_list(text: bytes, fault: str, tmp_path: Path) -> None:
    told = tmp_path / "told"
    told.write_bytes(text)
    async with serving() as (_, api):
        said, _ = await fault_of(api.path, "notify-all", "--ended", str(told))
    assert said == f"{told}{fault}"


async def test_a_list_that_is_too_long_is_refused_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(announcement, "TOLD_BYTES", 2**20)
    told = tmp_path / "told"
    async with serving() as (world, api):
        guest = await world.heartbeating(shutdown_notice_secs=5)
        line = f"stop {guest.uuid}\n"
        lines = 2**20 // len(line)
        told.write_text(line * lines)
        called = await call(api.path, "notify-all", "--ended", str(told))
        assert (called.status, told.exists(), len(asked(guest))) == (ExitStatus.DONE, False, 1)
        told.write_text(line * (lines + 1))
        said, status = await fault_of(api.path, "notify-all", "--ended", str(told))
        assert said == f"{told}: longer than 1 MiB: split it, nothing was sent"
        assert (status, told.exists(), len(asked(guest))) == (ExitStatus.USAGE, True, 1)


@pytest.mark.parametrize("event", [event for event in EVENT_TABLE if event not in ENDS])
async def test_there_is_no_list_for_what_nothing_ends(event: str, tmp_path: Path) -> None:
    """The list could not be used: `--ended` would refuse it for ever."""
    told = tmp_path / "told"
    async with serving() as (world, api):
        guest = await world.heartbeating(name="web-1")
        said, status = await fault_of(api.path, "notify-all", event, "--told", str(told))
        assert said == f"--told: nothing ends {event}, so nobody has to be listed"
        assert (status, asked(guest), told.exists()) == (ExitStatus.USAGE, [], False)
        called = await call(api.path, "notify-all", event)
        assert called.status == ExitStatus.DONE


async def test_a_list_that_can_t_be_written_tells_nobody(tmp_path: Path) -> None:
    told = tmp_path / "missing" / "told"
    async with serving() as (world, api):
        guest = await world.heartbeating(name="web-1")
        said, _ = await fault_of(api.path, "notify-all", "stop", "--told", str(told))
        assert said == f"{told}: its directory does not exist"
        assert asked(guest) == []


@pytest.mark.parametrize(
    ("words", "who"),
    [(("--group", "db"), {ONE}), (("--host", "compute-0"), {ONE, TWO})],
)
async def test_an_agent_tells_the_instances_of_a_host_or_a_group(
    words: tuple[str, ...], who: set[str], tmp_path: Path
) -> None:
    told = tmp_path / "told"
    groups = {"db": GroupSettings(members=(ONE,), max_unavailable=1)}
    async with fleet_world(tmp_path, agent_groups=groups) as world:
        guests = await world.host.all_heartbeating(2)
        called = await call(world.api.path, "notify-all", "stop", *words, "--told", str(told))
        assert called.lines[-1].endswith(f": {len(who)} complete")
        assert called.status == ExitStatus.DONE
        assert {guest.uuid for guest in guests if asked(guest) == [STOP]} == who
        assert set(told.read_text().splitlines()) == {f"stop {uuid}" for uuid in who}
        called = await call(world.api.path, "notify-all", "--ended", str(told))
        assert called.status == ExitStatus.DONE
        assert {guest.uuid for guest in guests if asked(guest) == [STOP, RESUME]} == who


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        ((), "--host: an agent has to know whose instances, or --group"),
        (("--host", "compute-9"), "compute-9"),
        (("--group", "db"), "db"),
    ],
)
async def test_an_agent_has_to_know_whose(
    words: tuple[str, ...], fault: str, tmp_path: Path
) -> None:
    async with fleet_world(tmp_path) as world:
        guest = await world.host.heartbeating(name="web-1")
        await world.host.settle()
        said, _ = await fault_of(world.api.path, "notify-all", "stop", *words)
        assert fault in said
        assert asked(guest) == []


async def test_an_instance_whose_host_has_no_link_is_refused_at_an_agent(tmp_path: Path) -> None:
    async with fleet_world(tmp_path) as world:
        guest = await world.host.heartbeating(name="web-1")
        await world.host.settle()
        await world.cut()
        called = await call(world.api.path, "notify-all", "stop", "--host", "compute-0")
        refusal = "web-1: stop: refused (compute-0 has no link to this agent)"
        assert called.lines == [refusal, "1 instance in 0.0 s: 1 refused"]
        assert called.status == ExitStatus.FAILED
        assert asked(guest) == []
