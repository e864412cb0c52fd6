"""`hbtrio ctl` against a real operator API over a real unix socket, on the fake clock."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from hbtrio.cli import main
from hbtrio.cli.ctl.commands import INTERRUPTED
from hbtrio.client import address as ctl_address
from hbtrio.client.address import AGENT_URL, HOST_URL, Address
from hbtrio.config.agent import AgentConfig
from hbtrio.config.host import ActionCommands, HostConfig
from hbtrio.errors import ExitStatus, UserError
from hbtrio.nursery.broadcast import FOLLOWER_QUEUE
from hbtrio.nursery.host.reports import Report, ReportKind
from hbtrio.wire.channel_messages import ActionNotify
from hbtrio.wire.vocabulary import ActionName, Event, Health, VoteResult
from support.control_socket import Ctl, Served, call, served
from support.fake_processes import HANGS, FakeRun
from support.host_world import (
    NOTICE,
    VOTE,
    HostWorld,
    Reply,
    ScriptedGuest,
    host_world,
    stay_silent,
    uuid_of,
)
from support.time_zone import time_zone

ONE = uuid_of(1)

#: What `notify` says of a VM that was told that it stops.
STOPS = (
    "missed heartbeats are ignored for now; if nothing is done to the instance, run "
    "`hbtrio ctl notify {} {}`, or wait {} minutes while it keeps answering"
)


@pytest.fixture(autouse=True)
def _in_utc() -> Iterator[None]:
    with time_zone("UTC"):
        yield


@asynccontextmanager
async def serving(**world: Any) -> AsyncIterator[tuple[HostWorld, Served]]:
    async with host_world(**world) as host, served(host.host) as api:
        yield host, api


async def fault_of(path: str, *words: str) -> tuple[str, ExitStatus]:
    with pytest.raises(UserError) as caught:
        await call(path, *words)
    assert "\n" not in str(caught.value)
    return str(caught.value), caught.value.status


def asked(guest: ScriptedGuest) -> list[tuple[Any, Event]]:
    return [
        (one.notification_type, one.event_type)
        for one in guest.messages
        if isinstance(one, ActionNotify)
    ]


def answer(**by_type: Reply | None) -> Callable[[ActionNotify], Reply | None]:
    return lambda one: by_type["vote" if one.notification_type is VOTE else "notice"]


# -- vote and notify ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "closing", "status"),
    [
        (Reply(VoteResult.ACCEPT, "fine"), "accepted (fine)", 0),
        (Reply(VoteResult.ACCEPT), "accepted", 0),
        (Reply(VoteResult.COMPLETE), "complete, no objection", 0),
        (Reply(VoteResult.REJECT, "disk 'a' busy"), "rejected (disk 'a' busy)", 3),
        (Reply(VoteResult.REJECT), "rejected", 3),
        (Reply(VoteResult.TIMEOUT, "silent"), "timed out, silence is consent (silent)", 0),
        (Reply(VoteResult.ERROR, "no script"), "error (no script)", 1),
        (None, "accepted (no answer within 9 s)", 0),
    ],
)
async def test_vote(
    autojump_clock: MockClock, reply: Reply | None, closing: str, status: int
) -> None:
    async with serving() as (world, api):
        guest = await world.heartbeating()
        guest.reply = lambda asked: reply
        called = await call(api.path, "vote", guest.uuid, "stop")
        assert called.lines == ["vote on stop: VOTE window of 9 s", f"vote on stop: {closing}"]
        assert called.status == status
        assert asked(guest) == [(VOTE, Event.STOP)]


@pytest.mark.parametrize(
    ("reply", "closing"),
    [
        (Reply(VoteResult.COMPLETE, "ready"), "complete (ready)"),
        (Reply(VoteResult.REJECT, "can't"), "error (can't)"),
        (None, "complete (no answer within 11 s)"),
    ],
)
async def test_notify(autojump_clock: MockClock, reply: Reply | None, closing: str) -> None:
    async with serving() as (world, api):
        guest = await world.heartbeating()
        guest.reply = lambda asked: reply
        called = await call(api.path, "notify", guest.uuid, "suspend")
        opening = "notice of suspend: SUSPEND_NOTICE window of 11 s"
        hint = STOPS.format(guest.uuid, "resume", 5)
        assert called.lines == [opening, f"notice of suspend: {closing}", hint]
        assert called.status == ExitStatus.DONE
        assert asked(guest) == [(NOTICE, Event.SUSPEND)]


@pytest.mark.parametrize(
    ("event", "hint"),
    [
        ("stop", STOPS.format(ONE, "resume", 5)),
        ("pause", STOPS.format(ONE, "unpause", 5)),
        ("live_migrate_begin", STOPS.format(ONE, "live_migrate_end", 60)),
        ("reboot", "its RESTART window is open: missed heartbeats are ignored until it closes"),
    ],
)
async def test_a_notice_by_hand_says_how_the_watch_comes_back(
    autojump_clock: MockClock, event: str, hint: str
) -> None:
    async with serving() as (world, api):
        await world.heartbeating()
        called = await call(api.path, "notify", ONE, event)
        assert called.lines[2:] == [hint]
        status = await call(api.path, "status")
        assert "heartbeating" not in status.lines[-1]


@pytest.mark.parametrize(
    ("event", "back"),
    [("stop", "resume"), ("pause", "unpause"), ("live_migrate_begin", "live_migrate_end")],
)
async def test_that_way_back_is_one(autojump_clock: MockClock, event: str, back: str) -> None:
    async with serving() as (world, api):
        await world.heartbeating()
        await call(api.path, "notify", ONE, event)
        called = await call(api.path, "notify", ONE, back)
        assert len(called.lines) == 2  # nothing is to be said of it
        await world.at(trio.current_time() + 2)
        status = await call(api.path, "status")
        assert " heartbeating " in status.lines[-1]


async def test_a_vm_that_is_suspended_and_answers_still_takes_part(
    autojump_clock: MockClock,
) -> None:
    async with serving(runs={"true": FakeRun()}) as (world, api):
        guest = await world.heartbeating()
        await call(api.path, "notify", ONE, "stop")
        assert " suspended " in (await call(api.path, "status")).lines[-1]
        await call(api.path, "act", ONE, "stop", "--", "true")
        assert asked(guest)[1:] == [(VOTE, Event.STOP), (NOTICE, Event.STOP)]


async def test_reasons_are_harmless(autojump_clock: MockClock) -> None:
    evil = "\x1b[2J\x9b31m\u202egnp\u2066\u200b\u2028x"
    async with serving() as (world, api):
        guest = await world.heartbeating()
        guest.reply = lambda asked: Reply(VoteResult.REJECT, evil)
        called = await call(api.path, "vote", guest.uuid, "stop")
        assert called.status == ExitStatus.REJECTED
        assert called.text.isprintable() is False  # its newlines
        assert all(char.isprintable() for char in called.text.replace("\n", ""))
        assert "\\u202egnp\\u2066\\u200b" in called.text
        followed = await call(api.path, "events", "--recent", "1", "--json")
        assert followed.text.isascii()
        assert all(char.isprintable() for char in followed.text.replace("\n", ""))
        assert json.loads(followed.text)["reason"] == world.host.reports.recent[-1].reason


async def test_a_round_that_is_open_already(autojump_clock: MockClock) -> None:
    async with serving() as (world, api):
        guest = await world.heartbeating()
        guest.reply = stay_silent
        world.vote(guest, Event.PAUSE)
        assert await fault_of(api.path, "vote", guest.uuid, "stop") == (
            "a vote on pause is open for another 9.0 s",
            ExitStatus.FAILED,
        )


async def test_an_instance_that_takes_no_part(autojump_clock: MockClock) -> None:
    async with serving() as (world, api):
        guest = await world.heartbeating()
        guest.exits("bye \x1b[1m")
        await world.at(2.5)
        text, status = await fault_of(api.path, "notify", guest.uuid, "stop")
        assert text.startswith(f"{guest.uuid} is not heartbeating: guest exited: bye")
        assert text.isprintable()
        assert status == ExitStatus.FAILED


# -- which instance -------------------------------------------------------------------------


async def test_instances_by_uuid_abbreviation_and_name(autojump_clock: MockClock) -> None:
    async with serving() as (world, api):
        first = await world.heartbeating(name="web-1")
        await world.heartbeating(name="web-2")
        for word in (first.uuid, first.uuid.upper(), "00000001", "00000001-1111", "web-1"):
            called = await call(api.path, "vote", word, "stop")
            assert called.status == ExitStatus.DONE
        assert asked(first) == [(VOTE, Event.STOP)] * 5


async def test_no_such_instance(autojump_clock: MockClock) -> None:
    async with serving() as (world, api):
        await world.heartbeating(name="web-1")
        for word in ("web", "00000002", "WEB-1", "\x1b[1m"):
            text, status = await fault_of(api.path, "vote", word, "stop")
            shown = word.replace("\x1b", "\\x1b")
            assert (text, status) == (f"no instance {shown} on this host", ExitStatus.FAILED)
        absent = uuid_of(9)
        assert await fault_of(api.path, "act", absent, "stop", "--", "true") == (
            f"no instance {absent} on this host",
            ExitStatus.FAILED,
        )
        assert await fault_of(api.path, "vote", "", "stop") == (
            "UUID: must not be empty",
            ExitStatus.USAGE,
        )


async def test_ambiguous_instances(autojump_clock: MockClock) -> None:
    async with serving() as (world, api):
        for number in range(1, 8):
            await world.heartbeating(name="twin" if number < 3 else "other")
        assert await fault_of(api.path, "vote", "twin", "stop") == (
            f"twin is ambiguous: {uuid_of(1)} (twin), {uuid_of(2)} (twin)",
            ExitStatus.USAGE,
        )
        named = ", ".join(f"{uuid_of(n)} ({'twin' if n < 3 else 'other'})" for n in range(1, 6))
        assert await fault_of(api.path, "vote", "0000", "stop") == (
            f"0000 is ambiguous: {named}, 2 more",
            ExitStatus.USAGE,
        )


async def test_a_name_does_not_capture_the_uuid_of_another(autojump_clock: MockClock) -> None:
    async with serving() as (world, api):
        victim = await world.heartbeating(name="db")
        thief = await world.heartbeating(name=victim.uuid)
        short = await world.heartbeating(name="00000001")
        assert (await call(api.path, "vote", victim.uuid, "stop")).status == ExitStatus.DONE
        assert len(asked(victim)) == 1
        text, status = await fault_of(api.path, "vote", "00000001", "stop")
        assert text == f"00000001 is ambiguous: {victim.uuid} (db), {short.uuid} (00000001)"
        assert status == ExitStatus.USAGE
        assert asked(thief) == asked(short) == []


# -- act ------------------------------------------------------------------------------------


async def test_act_stop(autojump_clock: MockClock) -> None:
    runs = {"virsh": FakeRun(stdout=b"Domain\n \x1b[1mdown\n", delay_s=2)}
    async with serving(runs=runs) as (world, api):
        guest = await world.heartbeating()
        words = ["act", ONE, "stop", "--", "virsh", "--quiet", "shut down", "{uuid}"]
        called = await call(api.path, *words)
        assert called.lines == [
            "vote on stop: VOTE window of 9 s",
            "vote on stop: accepted",
            "notice of stop: SHUTDOWN_NOTICE window of 10 s",
            "notice of stop: complete",
            f"command: virsh --quiet 'shut down' {ONE}, at most 600 s",
            "command: done",
            "  | Domain",
            "  |  \\x1b[1mdown",
            "stop: done",
        ]
        assert called.status == ExitStatus.DONE
        assert asked(guest) == [(VOTE, Event.STOP), (NOTICE, Event.STOP)]


async def test_act_rejected(autojump_clock: MockClock) -> None:
    async with serving() as (world, api):
        guest = await world.heartbeating()
        guest.reply = lambda one: Reply(VoteResult.REJECT, "backup", after_s=3)
        called = await call(api.path, "act", ONE, "reboot", "--", "true")
        assert called.lines == [
            "vote on reboot: VOTE window of 9 s",
            "vote on reboot: rejected (backup)",
            "reboot: rejected (backup)",
        ]
        assert called.status == ExitStatus.REJECTED
        assert world.processes.started == []


async def test_act_whose_command_fails_still_tells_of_the_end(autojump_clock: MockClock) -> None:
    async with serving(runs={"false": FakeRun(exit_code=1)}) as (world, api):
        guest = await world.heartbeating()
        called = await call(api.path, "act", ONE, "live-migrate", "--", "false")
        assert called.lines[4:] == [
            "command: false, at most 600 s",
            "command: failed (exit status 1)",
            "notice of live_migrate_end: RESUME_NOTICE window of 14 s",
            "notice of live_migrate_end: complete",
            "live-migrate: failed (the command failed: exit status 1)",
        ]
        assert called.status == ExitStatus.COMMAND_FAILED
        assert asked(guest)[-1] == (NOTICE, Event.LIVE_MIGRATE_END)


@pytest.mark.parametrize("place", [1, 3])
async def test_act_by_force_skips_the_vote_only(autojump_clock: MockClock, place: int) -> None:
    async with serving(runs={"true": FakeRun()}) as (world, api):
        guest = await world.heartbeating()
        words = ["act", ONE, "pause", "--", "true", "--force", "--", "x"]
        words.insert(place, "--force")
        called = await call(api.path, *words)
        assert called.lines == [
            "notice of pause: SUSPEND_NOTICE window of 11 s",
            "notice of pause: complete",
            "command: true --force -- x, at most 600 s",
            "command: done",
            "pause: done",
        ]
        assert called.status == ExitStatus.DONE
        assert asked(guest) == [(NOTICE, Event.PAUSE)]


async def test_act_waits_for_a_restart(autojump_clock: MockClock) -> None:
    actions = ActionCommands(reboot=("virsh", "reset", "{uuid}"), timeout_s=30)
    async with serving(actions=actions, runs={"virsh": FakeRun(delay_s=1)}) as (world, api):
        guest = await world.heartbeating()
        guest.answers_after_s = None
        world.after(60, lambda: setattr(guest, "answers_after_s", 0.0))
        world.after(60, guest.says_init)
        called = await call(api.path, "act", ONE, "reboot")
        assert called.lines[4:] == [
            f"command: virsh reset {ONE}, at most 30 s",
            "command: done",
            "restart: RESTART window of 120 s",
            "restart: back (answers challenges)",
            "reboot: done",
        ]
        assert called.status == ExitStatus.DONE
        assert trio.current_time() == 61.0


async def test_act_on_an_instance_that_does_not_come_back(autojump_clock: MockClock) -> None:
    async with serving(runs={"true": FakeRun()}) as (world, api):
        guest = await world.heartbeating()
        guest.answers_after_s = None
        guest.greets = False
        called = await call(api.path, "act", ONE, "cold-migrate", "--", "true")
        assert called.lines[6:] == [
            "restart: RESTART window of 121 s",
            "restart: not back in time (not back within 121 s)",
            "notice of cold_migrate_end: RESUME_NOTICE window of 14 s",
            "notice of cold_migrate_end: complete",
            "cold-migrate: done (not back within 121 s)",
        ]
        assert called.status == ExitStatus.DONE


async def test_act_on_an_instance_that_takes_no_part(autojump_clock: MockClock) -> None:
    async with serving(runs={"true": FakeRun()}) as (world, api):
        guest = world.guest()
        guest.greets = False
        guest.appears()
        await world.at(2)
        called = await call(api.path, "act", ONE, "reboot", "--", "true")
        assert called.lines == [
            f"vote on reboot: skipped: {ONE} is not heartbeating: discovered",
            f"notice of reboot: skipped: {ONE} is not heartbeating: discovered",
            "command: true, at most 600 s",
            "command: done",
            "restart: RESTART window of 121 s",
            "restart: back (it never went down: it still answered when RESTART expired)",
            "reboot: done (it never went down: it still answered when RESTART expired)",
        ]
        assert called.status == ExitStatus.DONE


async def test_act_waits_patiently_for_what_others_have_opened(autojump_clock: MockClock) -> None:
    """A window of ten minutes is longer than any silence that means a lost host."""
    async with serving(runs={"true": FakeRun()}) as (world, api):
        guest = await world.heartbeating(vote_secs=600)
        guest.reply = stay_silent
        world.vote(guest, Event.PAUSE)
        called = await call(api.path, "act", ONE, "stop", "--", "true")
        assert called.lines[:3] == [
            "vote on stop: waiting: a vote on pause is open for another 600.0 s",
            "vote on stop: VOTE window of 600 s",
            "vote on stop: accepted (no answer within 600 s)",
        ]
        assert called.status == ExitStatus.DONE


async def test_refused_actions(autojump_clock: MockClock) -> None:
    async with serving(runs={"slow": HANGS}) as (world, api):
        await world.heartbeating()
        assert await fault_of(api.path, "act", ONE, "stop") == (
            "no command for stop: give one after --, or set stop in [actions]",
            ExitStatus.FAILED,
        )
        assert await fault_of(api.path, "act", ONE, "stop", "--", "sh", "-c", "echo ${HOME}") == (
            "command: item 3: unknown placeholder {HOME}, expected {uuid}; "
            "write {{HOME}} for a literal {HOME}",
            ExitStatus.USAGE,
        )
        assert await fault_of(api.path, "act", ONE, "stop", "--", "sh", "x" * 70_000) == (
            "the body is larger than 65536 bytes",
            ExitStatus.USAGE,
        )
        assert await fault_of(api.path, "act", ONE, "stop", "--", "sh", "\udcff") == (
            "COMMAND: argument 2 is not UTF-8",
            ExitStatus.USAGE,
        )
        world.host.begin_action(ONE, ActionName.PAUSE, ("slow",), force=True)
        assert await fault_of(api.path, "act", ONE, "stop", "--", "true") == (
            f"pause is in progress on {ONE}",
            ExitStatus.FAILED,
        )


# -- events ---------------------------------------------------------------------------------


def publish(world: HostWorld, count: int, first: int = 0) -> None:
    for number in range(first, first + count):
        reports = world.host.reports
        reports.publish(Report(reports.now(), ReportKind.STOPPED, ONE, f"number {number}"))


async def test_recent_events(autojump_clock: MockClock) -> None:
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


async def test_events_of_each_kind(autojump_clock: MockClock) -> None:
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


async def test_events_without_a_name_get_it_from_the_status(autojump_clock: MockClock) -> None:
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
    autojump_clock: MockClock, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
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
        assert world.host.reports._followers == set()


async def test_following_shows_no_past_of_its_own_accord(autojump_clock: MockClock) -> None:
    async with serving() as (world, api), trio.open_nursery() as nursery:
        publish(world, 3)
        called = Ctl()
        nursery.start_soon(called.run, api.path, "events", "--follow")
        await world.at(2)
        assert called.text == ""
        nursery.cancel_scope.cancel()


async def test_the_end_of_the_host_ends_following(autojump_clock: MockClock) -> None:
    async with serving() as (world, api):
        world.after(20, api.scope.cancel)
        text, status = await fault_of(api.path, "events", "--follow")
        assert text == f"unix:{api.path}: the daemon went away"
        assert status == ExitStatus.UNREACHABLE


async def test_events_that_were_left_out_are_told(autojump_clock: MockClock) -> None:
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


async def test_status(autojump_clock: MockClock) -> None:
    async with serving() as (world, api):
        await world.heartbeating(name="web-1")
        await world.heartbeating(name="db-1")
        silent = world.guest()
        silent.greets = False
        silent.appears()
        await world.at(11.5)
        called = await call(api.path, "status", terminal=True, columns=80)
        assert called.lines == [
            "compute-0: 2 of 3 heartbeating, hbtrio 0.1.0 since 2026-01-01 00:00:00+00:00",
            "",
            "UUID      NAME   STATE         HEALTH   BEATS  MISSED  RTT ms  LAST",
            "00000003  -      waiting       unknown      0       0       -  discovered",
            "00000002  db-1   heartbeating  healthy     11       0     0.0  heartbeating: in…",
            "00000001  web-1  heartbeating  healthy     11       0     0.0  heartbeating: in…",
        ]
        assert called.status == ExitStatus.DONE


async def test_status_as_json_is_what_the_host_says(autojump_clock: MockClock) -> None:
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


# -- interrupted, or left by the host -------------------------------------------------------


async def test_an_interrupted_act_goes_on(
    autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    async with serving(runs={"slow": FakeRun(delay_s=5)}) as (world, api):
        await world.heartbeating()
        async with trio.open_nursery() as nursery:
            called = Ctl()
            nursery.start_soon(called.run, api.path, "act", ONE, "stop", "--", "slow")
            await world.at(3)
            signal.raise_signal(signal.SIGINT)
        assert called.status == INTERRUPTED
        assert called.lines[-1] == "command: slow, at most 600 s"
        assert capsys.readouterr().err == (
            f"hbtrio ctl: interrupted: stop on {ONE} continues on the host; "
            "see `hbtrio ctl events`\n"
        )
        await world.at(7)
        assert [moment.time_s for moment in world.processes.ended] == [6.0]
        assert world.processes.cancelled == []


@pytest.mark.parametrize("word", ["vote", "notify"])
async def test_an_interrupted_round_goes_on(
    autojump_clock: MockClock, capsys: pytest.CaptureFixture[str], word: str
) -> None:
    async with serving() as (world, api):
        guest = await world.heartbeating()
        guest.reply = lambda one: Reply(VoteResult.REJECT, "no", after_s=5)
        async with trio.open_nursery() as nursery:
            called = Ctl()
            nursery.start_soon(called.run, api.path, word, ONE, "stop")
            await world.at(3)
            signal.raise_signal(signal.SIGINT)
        assert called.status == INTERRUPTED
        assert " on 00000001-" in (said := capsys.readouterr().err)
        assert said.endswith("continues on the host; see `hbtrio ctl events`\n")
        await world.at(7)
        assert world.told(since=3)[0][0] == 6.0


class _Head(io.StringIO):
    """A pipe whose reader goes away after so many lines."""

    def __init__(self, lines: int) -> None:
        super().__init__()
        self._left = lines

    def write(self, text: str) -> int:
        if self._left == 0:
            raise BrokenPipeError
        self._left -= 1
        return super().write(text)


@pytest.mark.parametrize(
    ("words", "lines", "said"),
    [
        (
            ("act", ONE, "stop", "--", "true"),
            1,
            f"stop on {ONE} continues on the host; see {{}}",
        ),
        (
            ("act", ONE, "stop", "--", "true"),
            6,
            f"stop on {ONE} has ended; see {{}} for the outcome",
        ),
        (
            ("vote", ONE, "stop"),
            1,
            f"the vote on stop on {ONE} has ended; see {{}} for the outcome",
        ),
    ],
)
async def test_whoever_reads_no_more_is_told_that_it_goes_on(
    autojump_clock: MockClock,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    lines: int,
    said: str,
) -> None:
    async with serving(runs={"true": FakeRun()}) as (world, api):
        await world.heartbeating()
        called = Ctl(_Head(lines))
        with pytest.raises(BrokenPipeError):
            await called.run(api.path, *words)
        assert len(called.lines) == lines
        text = said.format("`hbtrio ctl events`")
        assert capsys.readouterr().err == f"hbtrio ctl: the output is no longer read: {text}\n"


async def test_whoever_reads_no_more_events_is_told_nothing(
    autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    async with serving() as (world, api):
        publish(world, 3)
        with pytest.raises(BrokenPipeError):
            await Ctl(_Head(1)).run(api.path, "events")
        assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("vote", ONE, "stop"), "the vote on stop"),
        (("notify", ONE, "stop"), "the notice of stop"),
        (("act", ONE, "stop", "--", "slow"), "stop"),
    ],
)
async def test_a_host_that_ends_in_the_middle(
    autojump_clock: MockClock, words: tuple[str, ...], what: str
) -> None:
    async with serving(runs={"slow": HANGS}) as (world, api):
        guest = await world.heartbeating()
        guest.reply = answer(
            vote=None if words[0] == "vote" else Reply(VoteResult.ACCEPT),
            notice=None if words[0] == "notify" else Reply(VoteResult.COMPLETE),
        )
        world.after(2, api.scope.cancel)
        text, status = await fault_of(api.path, *words)
        assert text == (
            f"unix:{api.path}: the daemon went away; the outcome of {what} on {ONE} is unknown; "
            "see `hbtrio ctl status` and `hbtrio ctl events`"
        )
        assert status == ExitStatus.UNREACHABLE
        assert trio.current_time() == 4.0  # it had a second to end in


async def test_an_action_that_crashes_has_no_outcome(autojump_clock: MockClock) -> None:
    async with serving(runs=lambda argv: 1 / 0) as (world, api):
        await world.heartbeating()
        text, status = await fault_of(api.path, "act", ONE, "stop", "--", "true")
        assert text.startswith(f"unix:{api.path}: the daemon ended it without an outcome; ")
        assert status == ExitStatus.UNREACHABLE
        world.crashes = 1


# -- the terminal ---------------------------------------------------------------------------


async def test_windows_count_down_in_place(autojump_clock: MockClock) -> None:
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


async def test_an_action_counts_down_each_of_its_steps(autojump_clock: MockClock) -> None:
    async with serving(runs={"slow": FakeRun(delay_s=1.5)}) as (world, api):
        guest = await world.heartbeating(restart_secs=10)
        guest.answers_after_s = None
        guest.reply = lambda one: Reply(VoteResult.COMPLETE, after_s=0.5)
        world.after(5, lambda: setattr(guest, "answers_after_s", 0.0))
        world.after(5, guest.says_init)
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


async def test_a_line_that_counts_down_is_no_wider_than_the_terminal(
    autojump_clock: MockClock,
) -> None:
    async with serving() as (world, api):
        await world.heartbeating()
        called = await call(
            api.path, "notify", ONE, "cold_migrate_begin", terminal=True, columns=30
        )
        assert called.text.split("\r")[1] == "notice of cold_migrate_begin…\x1b[K"


async def test_an_interrupted_countdown_is_left_on_its_line(
    autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]
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


# -- the command line, and the way to the host ----------------------------------------------


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    status = main(["ctl", *words])
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return status, err.rstrip("\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "the following arguments are required: COMMAND (see hbtrio ctl --help)"),
        (["vote", ONE], "the following arguments are required: EVENT (see hbtrio ctl vote --help)"),
        (["status", "x"], "unrecognized arguments: x (see hbtrio ctl --help)"),
        (["status", "--", "x"], "status takes no command after -- (see hbtrio ctl status --help)"),
        (
            ["events", "--recent", "-1"],
            "argument --recent: not a number from 0 to 99999: '-1' (see hbtrio ctl events --help)",
        ),
        (
            ["events", "--recent", "many"],
            "argument --recent: not a number from 0 to 99999: 'many' "
            "(see hbtrio ctl events --help)",
        ),
        (
            ["--url", "host.sock", "status"],
            "host.sock: neither unix:PATH nor http[s]://HOST[:PORT]",
        ),
        (["--url", "", "status"], ": neither unix:PATH nor http[s]://HOST[:PORT]"),
        (
            ["--url", "https://x/v1", "status"],
            "https://x/v1: neither unix:PATH nor http[s]://HOST[:PORT]",
        ),
        (["--url", "http://", "status"], "http://: neither unix:PATH nor http[s]://HOST[:PORT]"),
        (
            ["--url", "http://x:y", "status"],
            "http://x:y: neither unix:PATH nor http[s]://HOST[:PORT]",
        ),
        (
            ["--url", "http://127.0.0.1:1", "--ca", "/x", "status"],
            "http://127.0.0.1:1: certificates are for https only",
        ),
        (
            ["--certificate", "/c", "--key", "/k", "status"],
            f"{HOST_URL}: certificates are for https only",
        ),
        (
            ["--url", "https://127.0.0.1:1", "--certificate", "/c", "status"],
            "--certificate and --key go together",
        ),
        (
            ["--url", "https://127.0.0.1:1", "--key", "/k", "status"],
            "--certificate and --key go together",
        ),
        (
            ["--url", "https://127.0.0.1:1", "--ca", "/no/ca.pem", "status"],
            "https://127.0.0.1:1: /no/ca.pem: no such file or directory",
        ),
        (
            ["--url", "http://x:99999", "status"],
            "http://x:99999: the port must be 1 to 65535, not 99999",
        ),
        (["--url", "https://x:0", "status"], "https://x:0: the port must be 1 to 65535, not 0"),
        (
            ["--url", f"unix:/{'x' * 120}", "status"],
            f"unix:/{'x' * 120}: a socket's path has at most 107 bytes, this one has 121",
        ),
        (
            ["act", ONE, "reboot", "virsh", "reboot", "-x", "1"],
            "put -- before the command: -- virsh reboot -x 1 (see hbtrio ctl act --help)",
        ),
        (["act", ONE, "reboot", "-x"], "unrecognized arguments: -x (see hbtrio ctl --help)"),
        (
            ["vote", "web-1", "live-migrate"],
            "argument EVENT: no such event: 'live-migrate', did you mean live_migrate_begin? "
            "(see hbtrio ctl vote --help)",
        ),
        (
            ["notify", "web-1", "live_migrate"],
            "argument EVENT: no such event: 'live_migrate', did you mean live_migrate_begin or "
            "live_migrate_end? (see hbtrio ctl notify --help)",
        ),
        (
            ["act", "x", "live_migrate"],
            "argument ACTION: no such action: 'live_migrate', did you mean live-migrate? "
            "(see hbtrio ctl act --help)",
        ),
        (
            ["act", "x", "rebot"],
            "argument ACTION: no such action: 'rebot', did you mean reboot? "
            "(see hbtrio ctl act --help)",
        ),
        (
            ["history", "--limit", "1001"],
            "argument --limit: not a number from 0 to 1000: '1001' (see hbtrio ctl history --help)",
        ),
        (
            ["--url", "http://x/v1", "status"],
            "http://x/v1: neither unix:PATH nor http[s]://HOST[:PORT]",
        ),
        (
            ["--url", "http://a@x", "status"],
            "http://a@x: neither unix:PATH nor http[s]://HOST[:PORT]",
        ),
        (
            ["--url", "\x1b[1m", "status"],
            "\\x1b[1m: neither unix:PATH nor http[s]://HOST[:PORT]",
        ),
        (
            ["--url", "unix:", "status"],
            "unix:: names no socket, such as unix:/run/hbtrio/host.sock",
        ),
        (
            ["--url", "unix:/", "status"],
            "unix:/: names no socket, such as unix:/run/hbtrio/host.sock",
        ),
    ],
)
def test_faulty_command_lines(
    capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert shown(capsys, *words) == (ExitStatus.USAGE, f"hbtrio ctl: {said}")


def test_events_that_are_not_voted_on_and_unknown_words(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for words in (["vote", ONE, "resume"], ["notify", ONE, "unknown"], ["act", ONE, "fly"]):
        status, said = shown(capsys, *words)
        assert status == ExitStatus.USAGE
        assert f": no such {'action' if words[0] == 'act' else 'event'}: '{words[2]}', " in said
        assert "', choose from stop, reboot, pause, " in said


def test_no_such_socket(capsys: pytest.CaptureFixture[str]) -> None:
    url = "unix:/nowhere/host.sock"
    assert shown(capsys, "--url", url, "status") == (
        ExitStatus.UNREACHABLE,
        f"hbtrio ctl: {url}: no such socket; is hbtrio host or agent running?",
    )


def test_the_longest_path(capsys: pytest.CaptureFixture[str]) -> None:
    status, said = shown(capsys, "--url", f"unix:/{'x' * 106}", "status")
    assert status == ExitStatus.UNREACHABLE
    assert "no such socket" in said


@pytest.mark.parametrize("place", ["", "file"])
def test_what_is_no_socket(capsys: pytest.CaptureFixture[str], place: str) -> None:
    with tempfile.TemporaryDirectory(prefix="hbt-") as folder:
        path = os.path.join(folder, place)
        if place:
            with open(path, "w"):
                pass
        assert shown(capsys, "--url", f"unix:{path}", "status") == (
            ExitStatus.USAGE,
            f"hbtrio ctl: unix:{path}: is not a socket",
        )


def test_nobody_listens(capsys: pytest.CaptureFixture[str]) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="hbt-") as folder,
        socket.socket(socket.AF_UNIX) as dead,
    ):
        path = os.path.join(folder, "s")
        dead.bind(path)
        assert shown(capsys, "--url", f"unix:{path}", "status") == (
            ExitStatus.UNREACHABLE,
            f"hbtrio ctl: unix:{path}: connection refused; is hbtrio host or agent running?",
        )


async def test_permission_denied(autojump_clock: MockClock) -> None:
    async with serving() as (world, api):
        await world.heartbeating()
        os.chmod(os.path.dirname(api.path), 0o755)
        os.chmod(api.path, 0o600 if os.geteuid() == 0 else 0)
        user = os.geteuid()
        if user == 0:  # whom no permission keeps out
            os.seteuid(65534)
        try:
            fault = await fault_of(api.path, "status")
        finally:
            os.seteuid(user)
        assert fault == (f"unix:{api.path}: permission denied", ExitStatus.DENIED)


def test_the_defaults_are_where_daemons_listen() -> None:
    assert f"unix:{HostConfig().control_socket}" == HOST_URL
    assert AgentConfig().operator.listen == AGENT_URL


def test_where_nobody_says_where(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(prefix="hbt-") as folder:
        host, agent = (os.path.join(folder, name) for name in ("host", "agent"))
        monkeypatch.setattr(ctl_address, "HOST_URL", f"unix:{host}")
        monkeypatch.setattr(ctl_address, "AGENT_URL", f"unix:{agent}")
        assert Address.chosen(None, {}).socket == host
        os.mkfifo(agent)
        assert Address.chosen(None, {}).socket == agent
        os.mkfifo(host)
        assert Address.chosen(None, {"HBTRIO_URL": ""}).socket == host
        told = {"HBTRIO_URL": "http://127.0.0.1:2412"}
        assert Address.chosen(None, told).base == "http://127.0.0.1:2412"
        assert Address.chosen("unix:/x", told).socket == "/x"


def test_a_faulty_variable_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HBTRIO_URL", "host.sock")
    assert shown(capsys, "status") == (
        ExitStatus.USAGE,
        "hbtrio ctl: HBTRIO_URL: host.sock: neither unix:PATH nor http[s]://HOST[:PORT]",
    )


@pytest.mark.parametrize(
    "words",
    [
        ("status", "--url", "unix:/nowhere/x"),
        ("--url", "unix:/elsewhere", "status", "--url", "unix:/nowhere/x"),
        ("--url", "unix:/nowhere/x", "act", ONE, "stop", "--", "true", "--url", "unix:/elsewhere"),
    ],
)
def test_options_may_be_behind_the_command(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    status, said = shown(capsys, *words)
    assert status == ExitStatus.UNREACHABLE
    assert said.startswith("hbtrio ctl: unix:/nowhere/x: no such socket")


def test_help_tells_the_words(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ("status", "vote", "notify", "events", "act"):
        with pytest.raises(SystemExit) as ended:
            main(["ctl", words, "--help"])
        assert ended.value.code == 0
        assert f"usage: hbtrio ctl {words} " in capsys.readouterr().out


@pytest.mark.processes
def test_what_is_imported() -> None:
    code = (
        "import sys; from hbtrio.cli import main; "
        "main(['ctl', '--url', 'unix:/nowhere', 'status']); print(*sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ended.stderr.count("\n") == 1
    modules = set(ended.stdout.split())
    assert {"starlette", "trio_serial", "cattrs", "inotify_simple", "uvicorn"} & modules == set()
    daemons = tuple(
        f"hbtrio.{package}."
        for package in ("api", "client", "http", "net", "nursery", "store", "system")
    )
    assert {name for name in modules if name.startswith(daemons)} == {
        "hbtrio.client.address",
        "hbtrio.client.client",
        "hbtrio.client.stream",
        "hbtrio.net.tls",
        "hbtrio.net.token_file",
    }


@pytest.mark.processes
def test_a_mistyped_command_needs_no_client() -> None:
    code = "import sys; from hbtrio.cli import main; main(['ctl', 'statsu']); print(*sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert {"trio", "httpx", "rich"} & set(ended.stdout.split()) == set()


@pytest.mark.processes
def test_a_reader_that_has_had_enough(tmp_path: Any) -> None:
    """`hbtrio ctl events | head` is no fault that anybody is told of."""
    code = (
        "import sys; from hbtrio.cli.ctl.screen import Screen; import hbtrio.cli.ctl as ctl; "
        "from hbtrio.cli import main; "
        "ctl.run = lambda options: [Screen.of(sys.stdout).line('x' * 70) for _ in range(10000)]; "
        "sys.exit(main(['ctl', 'status']))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == ExitStatus.FAILED
