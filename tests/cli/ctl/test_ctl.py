"""`hbtrio ctl` against a real operator API over a real unix socket, on the fake clock."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import trio

from hbtrio.config.host import ActionCommands
from hbtrio.errors import ExitStatus
from hbtrio.wire.vocabulary import ActionName, Event, VoteResult
from support.control_socket import call
from support.ctl_cases import ONE, STOPS, asked, fault_of, serving
from support.fake_processes import HANGS, FakeRun
from support.host_world import (
    NOTICE,
    VOTE,
    Reply,
    stay_silent,
    uuid_of,
)
from support.time_zone import time_zone

pytestmark = pytest.mark.usefixtures("autojump_clock")


@pytest.fixture(autouse=True)
def _in_utc() -> Iterator[None]:
    with time_zone("UTC"):
        yield


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
async def test_vote(reply: Reply | None, closing: str, status: int) -> None:
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
async def test_notify(reply: Reply | None, closing: str) -> None:
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
async def test_a_notice_by_hand_says_how_the_watch_comes_back(event: str, hint: str) -> None:
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
async def test_that_way_back_is_one(event: str, back: str) -> None:
    async with serving() as (world, api):
        await world.heartbeating()
        await call(api.path, "notify", ONE, event)
        called = await call(api.path, "notify", ONE, back)
        assert len(called.lines) == 2  # nothing is to be said of it
        await world.at(trio.current_time() + 2)
        status = await call(api.path, "status")
        assert " heartbeating " in status.lines[-1]


async def test_a_vm_that_is_suspended_and_answers_still_takes_part() -> None:
    async with serving(runs={"true": FakeRun()}) as (world, api):
        guest = await world.heartbeating()
        await call(api.path, "notify", ONE, "stop")
        assert " suspended " in (await call(api.path, "status")).lines[-1]
        await call(api.path, "act", ONE, "live-migrate", "--", "true")
        begin = Event.LIVE_MIGRATE_BEGIN
        assert asked(guest)[1:-1] == [(VOTE, begin), (NOTICE, begin)]


async def test_reasons_are_harmless() -> None:
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


async def test_a_round_that_is_open_already() -> None:
    async with serving() as (world, api):
        guest = await world.heartbeating()
        guest.reply = stay_silent
        world.vote(guest, Event.PAUSE)
        assert await fault_of(api.path, "vote", guest.uuid, "stop") == (
            "a vote on pause is open for another 9.0 s",
            ExitStatus.FAILED,
        )


async def test_an_instance_that_takes_no_part() -> None:
    async with serving() as (world, api):
        guest = await world.heartbeating()
        guest.send_exit("bye \x1b[1m")
        await world.at(2.5)
        text, status = await fault_of(api.path, "notify", guest.uuid, "stop")
        assert text.startswith(f"{guest.uuid} is not heartbeating: guest exited: bye")
        assert text.isprintable()
        assert status == ExitStatus.FAILED


# -- which instance -------------------------------------------------------------------------


async def test_instances_by_uuid_abbreviation_and_name() -> None:
    async with serving() as (world, api):
        first = await world.heartbeating(name="web-1")
        await world.heartbeating(name="web-2")
        for word in (first.uuid, first.uuid.upper(), "00000001", "00000001-1111", "web-1"):
            called = await call(api.path, "vote", word, "stop")
            assert called.status == ExitStatus.DONE
        assert asked(first) == [(VOTE, Event.STOP)] * 5


async def test_no_such_instance() -> None:
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


async def test_ambiguous_instances() -> None:
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


async def test_a_name_does_not_capture_the_uuid_of_another() -> None:
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


async def test_act_stop() -> None:
    runs = {"virsh": FakeRun(stdout=b"Domain\n \x1b[1mdown\n", delay_s=2)}
    async with serving(runs=runs) as (world, api):
        guest = await world.heartbeating()
        world.after(3, guest.vanish)
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
            "VM down: waiting at most 300 s",
            "VM down: yes",
            "stop: done",
        ]
        assert called.status == ExitStatus.DONE
        assert asked(guest) == [(VOTE, Event.STOP), (NOTICE, Event.STOP)]


async def test_act_rejected() -> None:
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


async def test_act_whose_command_fails_still_tells_of_the_end() -> None:
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
async def test_act_by_force_skips_the_vote_only(place: int) -> None:
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
            "VM frozen: waiting at most 121 s",
            "VM frozen: not in time (it never froze: it still ran after 121 s)",
            "notice of unpause: RESUME_NOTICE window of 14 s",
            "notice of unpause: complete",
            "pause: failed (it never froze: it still ran after 121 s)",
        ]
        assert called.status == ExitStatus.COMMAND_FAILED
        assert asked(guest) == [(NOTICE, Event.PAUSE), (NOTICE, Event.UNPAUSE)]


async def test_act_waits_for_a_restart() -> None:
    actions = ActionCommands(reboot=("virsh", "reset", "{uuid}"), timeout_s=30)
    async with serving(actions=actions, runs={"virsh": FakeRun(delay_s=1)}) as (world, api):
        guest = await world.heartbeating()
        guest.answers_after_s = None
        world.after(60, lambda: setattr(guest, "answers_after_s", 0.0))
        world.after(60, guest.send_init)
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


async def test_act_on_an_instance_that_does_not_come_back() -> None:
    async with serving(runs={"true": FakeRun()}) as (world, api):
        guest = await world.heartbeating()
        guest.answers_after_s = None
        guest.sends_init = False
        called = await call(api.path, "act", ONE, "cold-migrate", "--", "true")
        assert called.lines[6:] == [
            "restart: RESTART window of 121 s",
            "restart: not back in time (not back within 121 s)",
            "notice of cold_migrate_end: RESUME_NOTICE window of 14 s",
            "notice of cold_migrate_end: complete",
            "cold-migrate: done (not back within 121 s)",
        ]
        assert called.status == ExitStatus.DONE


async def test_act_on_an_instance_that_takes_no_part() -> None:
    async with serving(runs={"true": FakeRun()}) as (world, api):
        guest = world.guest()
        guest.sends_init = False
        guest.appear()
        await world.at(2)
        called = await call(api.path, "act", ONE, "reboot", "--", "true")
        assert called.lines == [
            f"vote on reboot: skipped: {ONE} is not heartbeating: discovered",
            f"notice of reboot: skipped: {ONE} is not heartbeating: discovered",
            "command: true, at most 600 s",
            "command: done",
            "restart: RESTART window of 121 s",
            "restart: back (it never went down: it still answered when RESTART expired)",
            "reboot: failed (it never went down: it still answered when RESTART expired)",
        ]
        assert called.status == ExitStatus.COMMAND_FAILED


async def test_act_waits_patiently_for_what_others_have_opened() -> None:
    """A window of ten minutes is longer than any silence that means a lost host."""
    async with serving(runs={"true": FakeRun()}) as (world, api):
        guest = await world.heartbeating(vote_secs=600)
        guest.reply = stay_silent
        world.vote(guest, Event.PAUSE)
        called = await call(api.path, "act", ONE, "live-migrate", "--", "true")
        begin = "vote on live_migrate_begin"
        assert called.lines[:3] == [
            f"{begin}: waiting at most 600 s: a vote on pause is open for another 600.0 s",
            f"{begin}: VOTE window of 600 s",
            f"{begin}: accepted (no answer within 600 s)",
        ]
        assert called.status == ExitStatus.DONE


async def test_refused_actions() -> None:
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
