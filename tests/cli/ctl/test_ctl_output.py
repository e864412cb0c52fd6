"""What `hbtrio ctl` prints: events, status, and how it treats a terminal."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator

import pytest
import trio

from hbtrio.cli.ctl.commands import INTERRUPTED
from hbtrio.errors import ExitStatus, UserError
from hbtrio.nursery.broadcast import FOLLOWER_QUEUE
from hbtrio.nursery.host.memory import NO_DIRECTORY
from hbtrio.wire.vocabulary import Health, VoteResult
from support.control_socket import Ctl, call
from support.ctl_cases import ONE, fault_of, publish, serving
from support.fake_processes import FakeRun
from support.host_world import (
    Reply,
    stay_silent,
)
from support.time_zone import time_zone

pytestmark = pytest.mark.usefixtures("autojump_clock")


@pytest.fixture(autouse=True)
def _in_utc() -> Iterator[None]:
    with time_zone("UTC"):
        yield


# -- events ---------------------------------------------------------------------------------


async def test_recent_events() -> None:
    async with serving() as (world, api):
        publish(world, 30)
        line = f"2026-01-01 00:00:01.000 {ONE} stopped: number "
        called = await call(api.path, "events")
        assert called.lines == [f"{line}{n}" for n in range(10, 30)]
        assert called.status == ExitStatus.DONE
        called = await call(api.path, "events", "--recent", "2", "--json")
        assert [json.loads(text) for text in called.lines] == [
            {
                "time": "2026-01-01T00:00:01.000+00:00",
                "kind": "stopped",
                "uuid": ONE,
                "reason": f"number {n}",
            }
            for n in (28, 29)
        ]
        assert (await call(api.path, "events", "--recent", "0")).text == ""


async def test_events_of_each_kind() -> None:
    async with serving() as (world, api):
        guest = await world.heartbeating()
        world.vote(guest)
        await world.settle()
        guest.health, guest.log_msg = Health.UNHEALTHY, "disk full"
        await world.at(2.5)
        guest.answers_after_s = None
        await world.at(8)
        called = await call(api.path, "events")
        assert called.lines == [
            f"2026-01-01 00:00:01.000 {ONE} (vm) heartbeating: init answered",
            f"2026-01-01 00:00:01.000 {ONE} (vm) vote stop accept",
            f"2026-01-01 00:00:02.000 {ONE} (vm) unhealthy [reboot]: disk full",
            f"2026-01-01 00:00:05.000 {ONE} (vm) loss [reboot]: no answer for 3 s",
        ]


async def test_events_without_a_name_get_it_from_the_status() -> None:
    async with serving() as (world, api), trio.open_nursery() as nursery:
        publish(world, 1)
        called = Ctl()
        nursery.start_soon(called.run, api.path, "events", "--follow", "--recent", "1")
        await world.settle()
        await world.heartbeating(name="web-1")
        await world.settle()
        publish(world, 1)
        await world.settle()
        # Not asked for at each event of a uuid that nobody knows, but again after a minute.
        await world.at(62)
        publish(world, 1)
        await world.settle()
        nursery.cancel_scope.cancel()
        shown = [line.partition(ONE)[2] for line in called.lines if "number" in line]
    assert shown == [" stopped: number 0", " stopped: number 0", " (web-1) stopped: number 0"]


@pytest.mark.parametrize("words", [(), ("--json",)])
async def test_following_goes_on_until_interrupted(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    async with serving() as (world, api), trio.open_nursery() as nursery:
        publish(world, 3)
        called = Ctl()
        nursery.start_soon(called.run, api.path, "events", "--follow", "--recent", "1", *words)
        await world.at(1000)  # the host says every 15 s that it is there
        publish(world, 2, first=3)
        await world.settle()
        assert [re.findall(r"number (\d)", line) for line in called.lines] == [["2"], ["3"], ["4"]]
        signal.raise_signal(signal.SIGINT)
        await world.settle()
        assert called.status == INTERRUPTED
        assert capsys.readouterr() == ("", "")
        assert not world.host.reports._followers


async def test_following_shows_no_past_of_its_own_accord() -> None:
    async with serving() as (world, api), trio.open_nursery() as nursery:
        publish(world, 3)
        called = Ctl()
        nursery.start_soon(called.run, api.path, "events", "--follow")
        await world.at(2)
        assert called.text == ""
        nursery.cancel_scope.cancel()


async def test_the_end_of_the_host_ends_following() -> None:
    async with serving() as (world, api):
        world.after(20, api.scope.cancel)
        text, status = await fault_of(api.path, "events", "--follow")
        assert text == f"unix:{api.path}: the daemon went away"
        assert status == ExitStatus.UNREACHABLE


async def test_events_that_were_left_out_are_told() -> None:
    async with serving() as (world, api):
        called = Ctl()

        async def follow() -> None:
            with pytest.raises(UserError) as caught:
                await called.run(api.path, "events", "--follow")
            assert caught.value.status == ExitStatus.UNREACHABLE
            assert str(caught.value) == f"unix:{api.path}: the daemon ended the stream"

        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow)
            await world.settle()
            publish(world, FOLLOWER_QUEUE + 2)
        assert len(called.lines) == FOLLOWER_QUEUE + 2
        assert called.lines[-1] == "lost: too slow: some events were left out"


# -- status ---------------------------------------------------------------------------------


async def test_status() -> None:
    async with serving() as (world, api):
        await world.heartbeating(name="web-1")
        await world.heartbeating(name="db-1")
        silent = world.guest()
        silent.sends_init = False
        silent.appear()
        await world.at(11.5)
        called = await call(api.path, "status", terminal=True, columns=80)
        assert called.lines == [
            "compute-0: 2 of 3 heartbeating (1 waiting), hbtrio 0.1.0 since 2026-01-01 00:00…",
            "no agent is configured",
            f"memory: {NO_DIRECTORY}",
            "",
            "UUID      NAME   STATE         HEALTH   BEATS  MISSED  RTT ms  LAST",
            "00000003  -      waiting       unknown      0       0       -  discovered",
            "00000002  db-1   heartbeating  healthy     11       0     0.0  heartbeating: in…",
            "00000001  web-1  heartbeating  healthy     11       0     0.0  heartbeating: in…",
        ]
        assert called.status == ExitStatus.DONE


async def test_status_as_json_is_what_the_host_says() -> None:
    async with serving() as (world, api):
        await world.heartbeating(name="caf\u00e9 \u202e\x7f")
        await world.at(2.5)
        async with api.client() as http:
            said = (await http.get("/v1/status")).json()
        called = await call(api.path, "status", "--json")
        assert json.loads(called.text) == said
        assert all(char.isprintable() for char in called.text.replace("\n", ""))
        assert called.text.isascii()
        assert called.status == ExitStatus.DONE


async def test_status_of_some() -> None:
    async with serving() as (world, api):
        lost = await world.heartbeating(name="web-10")
        await world.heartbeating(name="web-9")
        await world.heartbeating(name="web-2")
        lost.answers_after_s, lost.sends_init = None, False
        await world.at(8)

        async def names(*words: str) -> list[str]:
            called = await call(api.path, "status", "--json", *words)
            assert called.status == ExitStatus.DONE
            return [one["name"] for one in json.loads(called.text)["instances"]]

        head, *_, _, first, second, third = (await call(api.path, "status")).lines
        assert head.startswith("compute-0: 2 of 3 heartbeating (1 lost), ")
        shown = [line.split()[1] for line in (first, second, third)]
        assert shown == ["web-10", "web-2", "web-9"]
        assert await names("web-9", ONE) == ["web-10", "web-9"]
        assert await names("--state", "heartbeating") == ["web-2", "web-9"]
        assert await names("--state", "lost", "--state", "heartbeating") == shown
        assert await names("--unhealthy") == ["web-10"]
        assert await names("--host", "compute-0", "--unhealthy") == ["web-10"]
        assert await names("--state", "paused") == []
        for words, fault in (
            (("nobody",), "no instance nobody here"),
            (("--host", "h"), "--host: this is compute-0; its agent knows others (--url)"),
        ):
            with pytest.raises(UserError, match=re.escape(fault)):
                await call(api.path, "status", *words)


# -- the terminal ---------------------------------------------------------------------------


async def test_windows_count_down_in_place() -> None:
    async with serving() as (world, api):
        guest = await world.heartbeating(vote_secs=3)
        guest.reply = stay_silent
        called = await call(api.path, "vote", ONE, "stop", terminal=True)
        frames = called.text.split("\r")
        assert frames == [
            "",
            "vote on stop: VOTE window, 3 s left\x1b[K",
            "vote on stop: VOTE window, 2 s left\x1b[K",
            "vote on stop: VOTE window, 1 s left\x1b[K",
            "\x1b[Kvote on stop: accepted (no answer within 3 s)\n",
        ]


async def test_an_action_counts_down_each_of_its_steps() -> None:
    async with serving(runs={"slow": FakeRun(delay_s=1.5)}) as (world, api):
        guest = await world.heartbeating(restart_secs=10)
        guest.answers_after_s = None
        guest.reply = lambda one: Reply(VoteResult.COMPLETE, after_s=0.5)
        world.after(5, lambda: setattr(guest, "answers_after_s", 0.0))
        world.after(5, guest.send_init)
        called = await call(api.path, "act", ONE, "reboot", "--", "slow", terminal=True)
        frames = [frame.replace("\x1b[K", "") for frame in called.text.split("\r")]
        assert frames == [
            "",
            "vote on reboot: VOTE window, 9 s left",
            "vote on reboot: complete, no objection\n",
            "notice of reboot: SHUTDOWN_NOTICE window, 10 s left",
            "notice of reboot: complete\ncommand: slow, at most 600 s\n",
            "command: 600 s left",
            "command: 599 s left",
            "command: done\n",
            "restart: RESTART window, 9 s left",
            "restart: RESTART window, 8 s left",
            "restart: RESTART window, 7 s left",
            "restart: back (answers challenges)\nreboot: done\n",
        ]


async def test_a_further_restart_window_says_why_it_is_open() -> None:
    async with serving(runs={"cmd": FakeRun()}) as (world, api):
        guest = await world.heartbeating(restart_secs=10)
        guest.answers_after_s = None
        guest.reply = lambda one: Reply(VoteResult.COMPLETE, after_s=0.5)
        world.after(10.9, lambda: setattr(guest, "answers_after_s", 0.5))
        world.after(10.9, guest.send_init)
        called = await call(api.path, "act", ONE, "reboot", "--", "cmd")
        assert called.lines[-3:] == [
            "restart: RESTART window of 3 s: its guest has said init",
            "restart: back (answers challenges)",
            "reboot: done (RESTART began anew: its guest has said init)",
        ]


async def test_a_line_that_counts_down_is_no_wider_than_the_terminal() -> None:
    async with serving() as (world, api):
        await world.heartbeating()
        called = await call(
            api.path, "notify", ONE, "cold_migrate_begin", terminal=True, columns=30
        )
        assert called.text.split("\r")[1] == "notice of cold_migrate_begin…\x1b[K"


async def test_an_interrupted_countdown_is_left_on_its_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with serving() as (world, api):
        guest = await world.heartbeating()
        guest.reply = stay_silent
        called = Ctl()

        async def run() -> None:
            await called.run(api.path, "vote", ONE, "stop", terminal=True)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await world.at(2.5)
            signal.raise_signal(signal.SIGINT)
        assert called.text.endswith("\rvote on stop: VOTE window, 8 s left\x1b[K\n")
        assert capsys.readouterr().err.startswith("hbtrio ctl: interrupted: ")
