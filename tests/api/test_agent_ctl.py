"""`hbtrio ctl` against an agent's operator API, with a real host behind a link."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from trio.testing import MockClock

import hbtrio
from hbtrio.client.address import Address
from hbtrio.client.client import CtlClient
from hbtrio.config.host import BrakeSettings, CorrectiveCommands, LibvirtSettings
from hbtrio.errors import ExitStatus, UserError
from hbtrio.wire.operator import FleetStatus
from hbtrio.wire.vocabulary import VoteResult
from support.agent_api_cases import (
    ABSENT,
    CHANGES,
    ME,
    NEEDS_TOKEN,
    ONE,
    STOP,
    UNKNOWN,
    heartbeating,
)
from support.control_socket import call, served
from support.ctl_cases import fault_of
from support.fake_processes import HANGS, FakeRun
from support.fleet_world import TOKEN, fleet_api, fleet_world
from support.host_world import Reply as Answer
from support.host_world import host_world
from support.inline_store import wall_clock

# -- hbtrio ctl -----------------------------------------------------------------------------


async def test_ctl_status(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with fleet_world(tmp_path) as world:
        await heartbeating(world, name="web")
        called = await call(world.api.path, "status")
        assert called.status == ExitStatus.DONE
        started = "2025-01-01 00:00:01+00:00"
        assert called.lines == [
            "controller: 1 of 1 instance heartbeating, 1 of 1 host linked, VIM none, "
            f"hbtrio {hbtrio.__version__} since {started}",
            "",
            "HOST       LINK  INSTANCES  HEARTBEATING  VERSION  NOTE",
            f"compute-0  up            1             1  {hbtrio.__version__}    runs any command",
            "",
            f"{'UUID':36}  NAME  HOST       STATE         HEALTH   REPORTED  NOTE",
            f"{ONE}  web   compute-0  heartbeating  healthy  yes",
        ]
        whole = json.loads((await call(world.api.path, "status", "--json")).text)
        assert [one["hostname"] for one in whole["hosts"]] == ["compute-0"]
        await world.cut()
        await world.host.sleep(31)
        lost = await call(world.api.path, "status", columns=80, terminal=True)
        assert "compute-0  lost          1             0  -        for 31 s" in lost.text
        assert all(len(line) <= 80 for line in lost.lines)


async def test_ctl_votes_notifies_and_acts(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with fleet_world(tmp_path, runs={"true": FakeRun()}) as world:
        guest = await heartbeating(world, name="web")
        guest.reply = lambda _: Answer(VoteResult.REJECT, "busy")
        called = await call(world.api.path, "vote", "web", "stop")
        assert called.lines == [
            "vote on stop: VOTE window of 9 s",
            "vote on stop: rejected (busy)",
        ]
        assert called.status == ExitStatus.REJECTED
        called = await call(world.api.path, "notify", ONE[:8], "resume")
        assert called.lines[0] == "notice of resume: RESUME_NOTICE window of 14 s"
        assert called.status == ExitStatus.DONE
        called = await call(world.api.path, "act", ONE, "live-migrate", "--force", "--", "true")
        assert called.lines[2:4] == ["command: true, at most 600 s", "command: done"]
        assert called.lines[-1] == "live-migrate: done"
        assert called.status == ExitStatus.DONE


async def test_ctl_shows_and_takes_what_libvirt_calls_an_instance(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with fleet_world(tmp_path, libvirt=LibvirtSettings(enabled="on")) as world:
        guest, other = world.host.guest(name="web"), world.host.guest(name="instance-1")
        domain = world.host.libvirt.define(guest.uuid, "instance-1", (guest.path,))
        await world.host.libvirt.start(domain)
        guest.appear()
        other.appear()
        await world.host.sleep(3)
        shown = await call(world.api.path, "status")
        assert [line.split()[1:3] for line in shown.lines[-2:]] == [
            ["instance-1", "web"],
            ["-", "instance-1"],
        ]
        # A tenant's name is not taken for that of a domain.
        voted = await call(world.api.path, "vote", "instance-1", "stop")
        assert voted.status == ExitStatus.DONE
        assert guest.asked
        await world.host.libvirt.suspend(domain, 3)
        await world.host.sleep(1)
        shown = await call(world.api.path, "status")
        assert shown.lines[-2].split()[4] == "paused"
        assert shown.lines[-2].endswith("paused: saving")
        async with world.api.client() as http:
            got = (await http.get(f"/v1/instances/{guest.uuid}")).json()
        assert (got["domain"], got["domain_state"]) == ("instance-1", "paused: saving")


async def test_ctl_takes_over_through_an_agent(autojump_clock: MockClock, tmp_path: Path) -> None:
    runs = {"reset": FakeRun(delay_s=20.0), "stop-it": FakeRun()}
    commands = CorrectiveCommands(reboot=("reset", "{uuid}"))
    brake = BrakeSettings(share=1.0)
    async with fleet_world(tmp_path, runs=runs, corrective_commands=commands, brake=brake) as world:
        guest = await heartbeating(world)
        world.host.host.set_reporting("", enabled=True)
        world.host.host.set_reporting(guest.uuid, enabled=True)
        await world.host.at(4.5)
        guest.answers_after_s, guest.sends_init = None, False
        await world.host.at(10)
        assert [one.argv[0] for one in world.host.processes.started] == ["reset"]
        words = ("act", guest.uuid, "stop", "--force", "--take-over", "--", "stop-it")
        world.host.after(5, guest.vanish)
        called = await call(world.api.path, *words)
        assert called.status == ExitStatus.DONE
        assert world.host.host.clock.now() < 20
        assert [one.argv[0] for one in world.host.processes.cancelled] == ["reset"]
        history = (await call(world.api.path, "history", guest.uuid)).text
        assert f"action by {ME}: stop: asked, without its vote, taking over" in history


async def test_ctl_events_and_history(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with fleet_world(tmp_path) as world:
        guest = await heartbeating(world, name="web")
        await call(world.api.path, "vote", "web", "stop")
        vote = f"2025-01-01 00:00:01.000 {guest.uuid} (web) compute-0 vote stop accept by {ME}"
        for words in (["events"], ["history"], ["history", "web"], ["history", ONE, "--limit=9"]):
            called = await call(world.api.path, *words)
            assert called.status == ExitStatus.DONE
            assert len(called.lines) == 2
            assert " heartbeating" in called.lines[0]
            # The time is the host's own.
            assert (
                called.lines[1].partition(" ")[2].partition(" ")[2]
                == (vote.partition(" ")[2].partition(" ")[2])
            )
        # With all that is known, such as when it was asked for by the agent's clock.
        for words in ("events", "history"):
            called = await call(world.api.path, words, "--json")
            began, voted = map(json.loads, called.lines)
            asked_at = datetime.fromisoformat(voted["asked_at"])
            assert timedelta(0) <= wall_clock() - asked_at < timedelta(seconds=1)
            assert "asked_at" not in began
        newest = await call(world.api.path, "history", "--limit", "1")
        assert newest.lines[0] == "... older entries: --before 2"
        older = await call(world.api.path, "history", "--before", "2", "--json")
        assert [json.loads(line)["kind"] for line in older.lines] == ["heartbeating"]
        assert (await call(world.api.path, "history", ABSENT)).lines == []


async def test_ctl_and_an_instance_of_nobody(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with fleet_world(tmp_path) as world:
        assert await fault_of(world.api.path, "vote", "x", "stop") == (
            "no instance x in this fleet",
            ExitStatus.FAILED,
        )
        assert await fault_of(world.api.path, "history", "x") == (
            "no instance x in this fleet",
            ExitStatus.FAILED,
        )
        assert await fault_of(world.api.path, "vote", ABSENT, "stop") == (
            f"unknown instance {ABSENT}",
            ExitStatus.FAILED,
        )


async def test_ctl_over_tcp(tmp_path: Path) -> None:
    async with fleet_api(tmp_path) as api:
        for token, expected in [
            (TOKEN, (UNKNOWN[1], ExitStatus.FAILED)),
            (f"{TOKEN}x", (f"{api.url}: {NEEDS_TOKEN[1]}", ExitStatus.DENIED)),
            ("", (f"{api.url}: {NEEDS_TOKEN[1]}", ExitStatus.DENIED)),
        ]:
            async with CtlClient(Address.parse(api.url), token) as client:
                status = await client.any_status()
                assert isinstance(status, FleetStatus)
                assert status.agent.name == "controller"
                with pytest.raises(UserError) as caught:
                    async with client.lines("POST", CHANGES[0], STOP):
                        pass
                assert (str(caught.value), caught.value.status) == expected


async def test_ctl_and_a_host_without_a_history(autojump_clock: MockClock) -> None:
    async with host_world() as host, served(host.host) as api:
        assert await fault_of(api.path, "history") == (
            "this host keeps no history: it has no state directory; its agent may keep one (--url)",
            ExitStatus.FAILED,
        )


async def test_ctl_and_an_action_whose_host_is_lost(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with fleet_world(tmp_path, runs={"slow": HANGS}) as world:
        guest = await heartbeating(world)
        world.host.after(20, lambda: world._nursery.start_soon(world.cut))
        text, status = await fault_of(
            world.api.path, "act", guest.uuid, "pause", "--force", "--", "slow"
        )
        assert "the link to compute-0 is gone; the outcome of pause" in text
        assert status == ExitStatus.UNREACHABLE
