"""`hbtrio ctl show`: everything about one instance, at a host and at an agent."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from rich.cells import cell_len

from hbtrio.cli.ctl.facts import wrapped
from hbtrio.cli.ctl.times import span
from hbtrio.client.client import CtlClient
from hbtrio.config.host import BrakeSettings, CorrectiveCommands, CorrectiveSettings
from hbtrio.errors import ExitStatus
from hbtrio.wire.vocabulary import ActionName, CorrectiveAction, Event, Health, VoteResult
from support.control_socket import Ctl, call, served
from support.ctl_cases import fault_of, serving
from support.fake_processes import FakeRun
from support.fleet_world import fleet_world
from support.host_world import Reply, stay_silent
from support.memory_store import memory_store
from support.time_zone import time_zone
from support.voters import ORDERS, SCRIPT, voter_state

pytestmark = pytest.mark.usefixtures("autojump_clock")

RESET = CorrectiveCommands(reboot=("virsh", "reset", "{uuid}"))


@pytest.fixture(autouse=True)
def _in_utc() -> Iterator[None]:
    with time_zone("UTC"):
        yield


def fact(called: Ctl, term: str) -> str:
    """What stands behind a term, without how long ago that was."""
    [line] = [line for line in called.lines if line.startswith(f"{term}:")]
    return line.partition(":")[2].strip()


def terms(called: Ctl) -> set[str]:
    return {line.partition(":")[0] for line in called.lines if line[:1].isalpha()}


async def test_an_instance_in_depth() -> None:
    runs = {"virsh": FakeRun(), "sleep": FakeRun(delay_s=50)}
    async with serving(runs=runs, corrective_commands=RESET) as (world, api):
        guest = await world.heartbeating(name="web-1")
        guest.reply = lambda _: Reply(VoteResult.REJECT, "a backup is running")
        await call(api.path, "vote", "web-1", "stop")
        guest.reply = stay_silent
        world.vote(guest)
        called = await call(api.path, "show", "web-1")
        assert called.status == ExitStatus.DONE
        assert fact(called, "UUID") == guest.uuid
        assert fact(called, "Host") == "compute-0"
        assert fact(called, "State").startswith("heartbeating since 2026-01-01 00:00:01+00:00 (")
        assert fact(called, "State").endswith("): answers challenges")
        assert fact(called, "Health") == "healthy"
        assert fact(called, "In progress") == "vote on stop: VOTE window, 9 s left"
        assert fact(called, "Windows").startswith("VOTE 9 s, SHUTDOWN_NOTICE 10 s,")
        assert fact(called, "Asks for") == "reboot"
        assert fact(called, "Next loss") == "runs virsh reset {uuid}"
        assert fact(called, "Commands") == "0 of 3 in the last hour"
        assert "Not acted" not in terms(called)
        assert called.lines[-3] == "Last events:"
        assert called.lines[-1].startswith(
            "  2026-01-01 00:00:01.000  vote stop reject by operator uid "
        )
        assert called.lines[-1].endswith(": a backup is running")


async def test_what_was_done_and_what_is_in_progress() -> None:
    runs = {"virsh": FakeRun(), "sleep": FakeRun(delay_s=50)}
    once = attrs.evolve(RESET, per_hour=1)
    async with serving(runs=runs, corrective_commands=once) as (world, api):
        guest = await world.heartbeating()
        await world.at(20)
        guest.answers_after_s, guest.sends_init = None, False
        await world.at(30)
        called = await call(api.path, "show", guest.uuid)
        assert fact(called, "In progress").startswith("RESTART window, ")
        next_one = "1 of 1 in the last hour; the next one at 2026-01-01 01:00:"
        assert fact(called, "Commands").startswith(next_one)
        limit = "nothing is done: limit: limit reached: 1 per hour"
        assert fact(called, "Next loss") == limit
        place = called.lines.index("Corrective history:")
        assert called.lines[place + 1].endswith("  corrective [reboot]: reboot done")
        assert "restarting since 2026-01-01 00:00:2" in fact(called, "State")
        world.host.begin_action(guest.uuid, ActionName.STOP, ("sleep",), force=True)
        await world.settle()
        called = await call(api.path, "show", guest.uuid)
        place = [line.partition(":")[0] for line in called.lines].index("In progress")
        text = " ".join(called.lines[place : place + 3])
        assert "the action stop" in text
        assert "owner: an operator's action" in text


@pytest.mark.parametrize(
    ("world", "action", "expected"),
    [
        ({}, CorrectiveAction.REBOOT, "nothing is done: no command is configured for reboot "),
        (
            {"corrective_commands": RESET},
            CorrectiveAction.NONE,
            "nothing is done: its guest asks for no corrective action",
        ),
        (
            {
                "corrective_commands": RESET,
                "corrective": CorrectiveSettings(confirm=("true",), dry_run=True),
            },
            CorrectiveAction.REBOOT,
            "reports that it would run virsh reset {uuid} (dry_run)",
        ),
    ],
)
async def test_what_the_next_loss_would_bring(
    world: dict[str, Any], action: CorrectiveAction, expected: str
) -> None:
    async with serving(**world) as (host, api):
        guest = await host.heartbeating(corrective_action=action)
        called = await call(api.path, "show", guest.uuid)
        assert fact(called, "Next loss").startswith(expected)
        asks = "unless one of these says otherwise: the command of confirm" in called.text
        assert asks is ("dry_run" in expected)


async def test_a_closed_brake_keeps_the_next_loss_back() -> None:
    world = {"corrective_commands": RESET, "brake": BrakeSettings(share=0.5)}
    async with serving(**world, runs={"virsh": FakeRun()}) as (host, api):
        guests = await host.all_heartbeating(4)
        await host.at(4.5)
        for guest in guests[:3]:
            guest.answers_after_s, guest.sends_init = None, False
        await host.at(30)
        called = await call(api.path, "show", guests[3].uuid)
        brake = "nothing is done: brake: too many instances failed at once"
        assert fact(called, "Next loss") == brake
        called = await call(api.path, "show", guests[0].uuid)
        assert fact(called, "Not acted") == "brake: too many instances failed at once"


async def test_an_instance_of_which_little_is_known() -> None:
    async with serving() as (world, api):
        guest = world.guest().appear()
        guest.sends_init, guest.answers_after_s = False, None
        await world.settle()
        called = await call(api.path, "show", guest.uuid)
        assert fact(called, "Name") == "unknown: its guest has not said it"
        assert fact(called, "State").startswith("waiting since ")
        assert "Last events" not in terms(called)
        assert await fault_of(api.path, "show", "x") == (
            "no instance x on this host",
            ExitStatus.FAILED,
        )


async def test_it_fits_and_json_has_all_of_it(tmp_path: Path) -> None:
    with memory_store(tmp_path) as store:
        async with serving(memory=store.memory()) as (world, api):
            guest = await world.heartbeating()
            guest.reply = lambda _: Reply(VoteResult.REJECT, "no, " * 60)
            await call(api.path, "vote", guest.uuid, "stop")
            await world.sleep(2)  # the history has it a moment later
            for columns in (60, 80, 120):
                called = await call(api.path, "show", guest.uuid, terminal=True, columns=columns)
                assert max(map(cell_len, called.lines)) <= columns
            async with api.client() as http:
                said = (await http.get(f"/v1/instances/{guest.uuid}")).json()
            assert said["next_loss"]["does"] == "nothing"
            shown = json.loads((await call(api.path, "show", guest.uuid, "--json")).text)
            assert [one["kind"] for one in shown.pop("events")] == ["heartbeating", "vote"]
            assert shown.pop("corrective_history") == []
            assert shown == said


async def test_at_an_agent(tmp_path: Path) -> None:
    async with fleet_world(tmp_path, runs={"sleep": FakeRun(delay_s=5)}) as world:
        guest = await world.host.heartbeating(name="web-1")
        guest.health, guest.reply = Health.UNHEALTHY, stay_silent
        await world.host.settle()
        assert await world.agent.rounds.ask(guest.uuid, Event.STOP, vote=True, who="vim")
        called = await call(world.api.path, "show", "web-1")
        assert fact(called, "State").startswith("heartbeating since 2025-01-01 00:00:01+00:00")
        assert fact(called, "Link") == "up (its host's, to this agent)"
        heartbeat = "every 1000 ms; 1 beat, 0 missed, RTT 0.0 ms; losses are reported"
        assert fact(called, "Heartbeat") == heartbeat
        no_vim = "nothing is done: this agent has no VIM: it keeps the loss in its history"
        assert fact(called, "Next loss") == no_vim
        assert fact(called, "In progress") == "vote on stop: VOTE window, 9 s left"
        assert called.lines[-1].endswith("  heartbeating: init answered")
        await world.cut()
        await world.host.settle()
        called = await call(world.api.path, "show", "web-1")
        assert fact(called, "Link") == "down (its host's, to this agent)"
        assert fact(called, "Heartbeat") == "every 1000 ms; losses are reported"


def voters_in(called: Ctl) -> list[str]:
    """The lines about the voters."""
    [first] = [n for n, line in enumerate(called.lines) if line.startswith("Voters")]
    return called.lines[first : called.lines.index("", first)]


async def test_the_voters_by_name_at_a_host_and_at_an_agent(tmp_path: Path) -> None:
    async with fleet_world(tmp_path) as world, served(world.host.host) as host:
        guest = await world.host.heartbeating(name="web-1")
        for api in (host, world.api):
            called = await call(api.path, "show", "web-1")
            assert fact(called, "Voters") == "unknown: its guest does not report them"
        guest.report_voters(ORDERS, SCRIPT)
        await world.host.settle()
        # By this machine's clock all of it was long ago.
        ago = re.compile(r" \(\d+ d[^)]*\)")
        for api in (host, world.api):
            called = await call(api.path, "show", "web-1")
            assert [ago.sub(" (ago)", line) for line in voters_in(called)] == [
                "Voters:",
                "  orders   ill (ago): disk  [31mfull; asks for log, heartbeat every 1 s",
                "           vote stop (ago): reject: 3 orders are open",
                "  handler  an event script",
                "  and 3 more",
            ]
            for columns in (60, 80, 120):
                called = await call(api.path, "show", "web-1", terminal=True, columns=columns)
                assert max(map(cell_len, called.lines)) <= columns
            shown = json.loads((await call(api.path, "show", "web-1", "--json")).text)
            assert [one["name"] for one in shown["voters"]] == ["orders", "handler"]
            assert shown["voters_unlisted"] == 3
        guest.vanish()
        await world.host.settle()


async def test_an_agent_too_old_to_look_shows_what_it_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fleet_world(tmp_path) as world:
        await world.host.heartbeating(name="web-1")
        await world.host.settle()
        whole = CtlClient.line

        async def line(client: CtlClient, uuid: str, cls: Any, part: str = "") -> Any:
            return await whole(client, uuid, cls, part.replace("look", "nowhere"))

        monkeypatch.setattr(CtlClient, "line", line)
        called = await call(world.api.path, "show", "web-1")
        assert called.status == ExitStatus.DONE
        assert fact(called, "Heartbeat") == "every 1000 ms; losses are reported"


async def test_a_host_names_the_agent_that_is_told_of_the_next_loss(tmp_path: Path) -> None:
    async with fleet_world(tmp_path) as world, served(world.host.host) as host:
        guest = await world.host.heartbeating()
        for reporting in (True, False):
            world.host.host.set_reporting(guest.uuid, enabled=reporting)
            told = (await call(host.path, "show", guest.uuid)).text
            assert ("its agent, controller, is told of the loss" in told) is reporting
            told = (await call(host.path, "why", guest.uuid)).text
            assert ("Its agent, controller, would be told of the loss." in told) is reporting


async def test_voters_of_a_guest_that_has_none_or_is_silent() -> None:
    async with serving() as (world, api):
        guest = await world.heartbeating()
        guest.report_voters(voter_state(0, 0))
        await world.settle()
        called = await call(api.path, "show", guest.uuid)
        assert fact(called, "Voters") == "none: no application, and no event script"
        guest.report_voters(voter_state(name="web", corrective_action=CorrectiveAction.STOP))
        guest.answers_after_s = None
        await world.sleep(5)
        called = await call(api.path, "show", guest.uuid)
        title, line = voters_in(called)
        assert title == "Voters, as last reported:"
        assert line.endswith("), heartbeat every 1 s, stop if it hangs")
        guest.send_init()
        await world.settle()
        assert "Voters" not in (await call(api.path, "show", guest.uuid)).text


def test_a_word_longer_than_the_line_is_broken() -> None:
    assert wrapped("x" * 50 + " y", 34, 10) == ["x" * 24, "x" * 24, "xx y"]
    assert wrapped("VOTE 9 s, RESTART 121 s, and so on", 34, 10) == [
        "VOTE 9 s, RESTART 121 s,",
        "and so on",
    ]
    assert wrapped("any length", None, 10) == ["any length"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (3661, "1 h 1 min"),
        (3601, "1 h"),
        (90_000, "1 d 1 h"),
    ],
)
def test_time_spans(seconds: float, text: str) -> None:
    assert span(seconds) == text
