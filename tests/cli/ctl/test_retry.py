"""``hbtrio ctl act --retry-for``: a guest that rejects is asked again."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from hbtrio.errors import ExitStatus
from hbtrio.wire.channel_messages import ActionNotify
from hbtrio.wire.vocabulary import ActionName, VoteResult
from support.actions_cases import asked
from support.control_socket import Ctl, call
from support.ctl_cases import ONE, fault_of, serving
from support.fake_processes import FakeRun
from support.host_world import VOTE, Reply, ScriptedGuest, agree, now

pytestmark = pytest.mark.usefixtures("autojump_clock")

WORDS = ("act", ONE, "live-migrate", "--retry-for")


def rejects_until(guest: ScriptedGuest, until: float) -> None:
    def reply(request: ActionNotify) -> Reply | None:
        if request.notification_type is VOTE and now() < until:
            return Reply(VoteResult.REJECT, "a backup runs")
        return agree(request)

    guest.reply = reply


def votes(guest: ScriptedGuest) -> list[float]:
    return [round(at) for at, _, kind in asked(guest) if kind == "revocable"]


def world_of() -> Any:
    return serving(runs={"true": FakeRun()})


async def test_not_now_becomes_when() -> None:
    async with world_of() as (world, api):
        guest = await world.heartbeating()
        rejects_until(guest, 50.0)
        called = await call(api.path, *WORDS, "30m", "--", "true")
        assert votes(guest) == [1, 31, 61]
        assert called.status == ExitStatus.DONE
        assert called.lines[:4] == [
            "vote on live_migrate_begin: VOTE window of 9 s",
            "vote on live_migrate_begin: rejected (a backup runs)",
            "vote on live_migrate_begin: waiting at most 30 s: it was rejected: a backup runs",
            "vote on live_migrate_begin: VOTE window of 9 s",
        ]
        assert called.lines[-1] == "live-migrate: done"


async def test_at_the_end_it_stays_rejected() -> None:
    async with world_of() as (world, api):
        guest = await world.heartbeating()
        rejects_until(guest, 1e9)
        called = await call(api.path, *WORDS, "70s", "--then", "give-up", "--", "true")
        assert votes(guest) == [1, 31, 61, 71]
        assert called.status == ExitStatus.REJECTED
        assert called.lines[-1] == "live-migrate: rejected (a backup runs)"
        assert world.processes.started == []


async def test_at_the_end_it_is_forced_with_its_notice() -> None:
    async with world_of() as (world, api):
        guest = await world.heartbeating()
        rejects_until(guest, 1e9)
        called = await call(api.path, *WORDS, "40s", "--then", "force", "--", "true")
        assert votes(guest) == [1, 31]
        assert [kind for _, _, kind in asked(guest)][2:] == ["irrevocable", "irrevocable"]
        assert called.status == ExitStatus.DONE


async def test_between_two_attempts_the_instance_is_nobody_s() -> None:
    async with world_of() as (world, api), trio.open_nursery() as nursery:
        guest = await world.heartbeating()
        rejects_until(guest, 1e9)
        nursery.start_soon(Ctl().run, api.path, *WORDS, "30m", "--", "true")
        await world.at(20)
        assert world.host.owners.words(guest.uuid) == ""
        rejects_until(guest, 0)
        acted = await world.act(guest, ActionName.PAUSE, "true")
        await world.settle()
        assert acted.run.name is ActionName.PAUSE
        nursery.cancel_scope.cancel()


async def test_whoever_ends_ctl_does_not_end_it() -> None:
    async with world_of() as (world, api):
        guest = await world.heartbeating()
        rejects_until(guest, 50.0)
        with trio.move_on_after(20):
            await Ctl().run(api.path, *WORDS, "30m", "--", "true")
        await world.at(100)
        assert votes(guest) == [1, 31, 61]
        assert len(world.processes.started) == 1


async def test_cancelled_as_any_plan_it_says_so_and_nothing_happens() -> None:
    async with world_of() as (world, api), trio.open_nursery() as nursery:
        guest = await world.heartbeating()
        rejects_until(guest, 1e9)
        ctl = Ctl()
        nursery.start_soon(ctl.run, api.path, *WORDS, "30m", "--", "true")
        await world.at(20)
        status = await call(api.path, "status")
        assert "live-migrate planned by operator uid" in status.text
        assert "given up at" in status.text
        await call(api.path, "act", ONE, "--cancel-planned")
        await world.at(22)
        assert ctl.status == ExitStatus.REJECTED
        assert "cancelled by operator uid" in ctl.lines[-1]
        assert votes(guest) == [1]


async def test_one_that_goes_meanwhile_ends_it() -> None:
    async with world_of() as (world, api):
        guest = await world.heartbeating()
        rejects_until(guest, 1e9)

        async def vanish() -> None:
            await world.at(20)
            guest.vanish()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(vanish)
            called = await call(api.path, *WORDS, "30m", "--", "true")
        assert called.status == ExitStatus.REJECTED
        assert called.lines[-1] == "live-migrate: rejected (it is no longer on this host)"
        assert votes(guest) == [1]


@pytest.mark.parametrize("option", ["--take-over", "--ignore-group"])
async def test_what_a_plan_does_not_keep_is_asked_for_by_ctl(option: str) -> None:
    async with world_of() as (world, api):
        guest = await world.heartbeating()
        rejects_until(guest, 20.0)
        with trio.move_on_after(10):
            await Ctl().run(api.path, *WORDS, "30m", option, "--", "true")
        await world.at(60)
        # Whoever ends ctl while it waits has nothing more happen.
        assert votes(guest) == [1]
        called = await call(api.path, *WORDS, "30m", option, "--", "true")
        assert called.status == ExitStatus.DONE


@pytest.mark.parametrize("option", ["force", "take_over", "ignore_group"])
async def test_the_host_says_what_a_plan_does_not_keep(option: str) -> None:
    async with world_of() as (world, api), api.client() as client:
        guest = await world.heartbeating()
        body = {"action": "live-migrate", "command": ["true"], "retry_for_s": 60, option: True}
        answer = await client.post(f"/v1/instances/{guest.uuid}/act", json=body)
        assert answer.status_code == 400
        assert "body.retry_for_s: not with force, take_over or ignore_group" in answer.text


async def test_json_has_a_line_for_each_wait() -> None:
    async with world_of() as (world, api):
        guest = await world.heartbeating()
        rejects_until(guest, 20.0)
        called = await call(api.path, *WORDS, "30m", "--json", "--", "true")
        waits = [line for line in called.lines if "waiting" in line]
        assert len(waits) == 1
        assert '"seconds": 30' in waits[0] or '"seconds":30' in waits[0]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--then", "force"), "--then: says what follows --retry-for, which is missing"),
        (
            ("--retry-for", "5m", "--force"),
            "--retry-for: with --force there is no vote to ask again",
        ),
    ],
)
async def test_options_that_contradict_each_other(words: tuple[str, ...], text: str) -> None:
    async with world_of() as (world, api):
        await world.heartbeating()
        command = ("act", ONE, "live-migrate", *words, "--", "true")
        assert await fault_of(api.path, *command) == (text, ExitStatus.USAGE)


@pytest.mark.parametrize("time", ["", "0s", "8d", "half an hour", "-5s", "NaN"])
async def test_what_is_no_time(time: str) -> None:
    command = ("act", ONE, "stop", f"--retry-for={time}", "--", "true")
    text, status = await fault_of("/nowhere", *command)
    assert text.startswith("argument --retry-for: not ")
    assert status == ExitStatus.USAGE
