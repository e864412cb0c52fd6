"""Groups in a host's API and `hbtrio ctl`: groups, --group, vote --all, forget, metrics."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from hbtrio.api.host_metrics import host_metrics
from hbtrio.config.groups import GroupSettings
from hbtrio.errors import ExitStatus
from hbtrio.wire.vocabulary import (
    ActionName,
    Event,
    NotificationType,
    VoterAnswer,
    VoteResult,
    VoterHealth,
)
from support.agent_api_cases import ME
from support.control_socket import call
from support.ctl_cases import asked, fault_of, serving
from support.fake_processes import HANGS
from support.fleet_world import FleetWorld, fleet_world
from support.host_world import Reply, ScriptedGuest, stay_silent
from support.voters import voter_state

pytestmark = pytest.mark.usefixtures("autojump_clock")

GROUPS = {
    "db": GroupSettings(members=("00000001-*", "00000002-*"), max_unavailable=1),
    "all": GroupSettings(members=("*",), min_available="50%"),
}


async def test_groups_are_shown_with_who_is_in_the_way() -> None:
    async with serving(groups=GROUPS, runs={"hang": HANGS}) as (world, api):
        one, *_ = await world.all_heartbeating(3)
        called = await call(api.path, "groups")
        start = "GROUP  MEMBERS  AVAILABLE  MAY GO DOWN NOW  "
        assert called.lines == [
            "",
            f"{start}RULE                               UNAVAILABLE",
            "db           2          2                1  at most 1 of 2 may be unavailable  -",
            "all          3          3                1  at least 2 of 3 must be available  -",
        ]
        await world.act(one, ActionName.STOP, "hang")
        called = await call(api.path, "groups", "db", "--json")
        assert json.loads(called.text) == {
            "groups": [
                {
                    "name": "db",
                    "rule": "at most 1 of 2 may be unavailable",
                    "members": [guest.uuid for guest in world.guests[:2]],
                    "available": 1,
                    "max_unavailable": 1,
                    "allowed_now": 0,
                    "unavailable": [{"uuid": one.uuid, "name": one.uuid, "state": "is stopping"}],
                }
            ]
        }
        called = await call(api.path, "status", "--group", "db")
        notes = [line for line in called.lines if line.startswith("group ")]
        assert notes == [
            f"group db: {one.uuid} is stopping, at most 1 of 2 may be unavailable",
            f"group all: {one.uuid} is stopping, at least 2 of 3 must be available",
        ]
        rows = [line for line in called.lines if line.startswith("0000000")]
        assert len(rows) == 2
        text, status = await fault_of(api.path, "groups", "web")
        assert (text, status) == ("no group web; `hbtrio ctl groups` lists them", ExitStatus.FAILED)


async def test_no_groups_are_said_to_be_none() -> None:
    async with serving() as (_, api):
        called = await call(api.path, "groups")
        assert called.lines == [
            "no groups are configured ([groups.NAME] in host.toml or agent.toml)"
        ]


async def test_events_of_a_group_only() -> None:
    async with serving(groups=GROUPS) as (world, api):
        one, _, three = await world.all_heartbeating(3)
        for guest in (one, three):
            world.vote(guest, Event.STOP)
            await world.settle()
        called = await call(api.path, "events", "--group", "db", "--kind", "vote", "--json")
        assert [json.loads(line)["uuid"] for line in called.lines] == [one.uuid]
        text, status = await fault_of(api.path, "events", "--group", "web")
        assert status is ExitStatus.FAILED
        assert text.startswith("no group web")


async def test_who_would_object() -> None:
    async with serving(groups=GROUPS, runs={"hang": HANGS}) as (world, api):
        one, two, three, four = await world.all_heartbeating(4, vote_secs=3)
        await world.act(one, ActionName.STOP, "hang")
        three.reply = lambda request: Reply(VoteResult.REJECT, "not now")
        four.reply = stay_silent
        called = await call(api.path, "vote", "--all", "stop", "--json")
        rows = [json.loads(line) for line in called.lines]
        busy = f"group db: {one.uuid} is stopping, at most 1 of 2 may be unavailable"
        assert [(row["uuid"], row["answer"], row["voter"]) for row in rows] == [
            (two.uuid, "rejected", "group db"),
            (three.uuid, "rejected", ""),
            (one.uuid, "not asked", ""),
            (four.uuid, "no answer", ""),
        ]
        assert [row["reason"] for row in rows][:2] == [busy, "not now"]
        assert rows[3]["reason"] == "no answer within 3 s"
        assert called.status == ExitStatus.REJECTED
        # Nothing has begun: nobody owns those that were asked, and no place is taken.
        owners = [world.host.owners.words(guest.uuid) for guest in (two, three, four)]
        assert owners == ["", "", ""]
        assert world.host.groups.rule.going_down == {one.uuid}


@pytest.mark.parametrize(
    ("reason", "voter"),
    [
        ("orders: 3 orders are open", "orders"),  # not reported yet, but named
        ("a dump runs", "10-backup"),  # a script is not named, but has said so
        ("something else", ""),
    ],
)
async def test_who_of_the_guest_objects(reason: str, voter: str) -> None:
    async with serving() as (world, api):
        (one,) = await world.all_heartbeating(1)
        last = {"event_type": Event.STOP, "notification_type": NotificationType.REVOCABLE}
        said = {"answer": VoterAnswer.REJECT, "answer_reason": "a dump runs", "ago_s": 99}
        one.report_voters(
            voter_state(1, 2, name="orders"),
            voter_state(2, 2, name="10-backup", health=VoterHealth.NONE, **last, **said),
        )
        one.reply = lambda request: Reply(VoteResult.REJECT, reason)
        called = await call(api.path, "vote", "--all", "stop", "--json")
        assert [json.loads(line)["voter"] for line in called.lines] == [voter]
        called = await call(api.path, "vote", "--all", "stop")
        assert called.lines[2].split()[3] == (voter or "-")


async def test_a_survey_is_a_table_and_its_status_says_whether_anybody_objects() -> None:
    async with serving(groups=GROUPS) as (world, api):
        guests = await world.all_heartbeating(3)
        called = await call(api.path, "vote", "--group", "db", "pause")
        assert called.status == ExitStatus.DONE
        assert called.lines[1].split() == ["UUID", "NAME", "ANSWER", "VOTER", "REASON"]
        assert [line.split()[2] for line in called.lines[2:4]] == ["accepted", "accepted"]
        assert called.lines[-1] == "vote on pause: 2 instances: 2 accepted"
        assert asked(guests[2]) == []


@pytest.mark.parametrize("count", [17, 40])
async def test_a_survey_asks_a_bounded_number_at_once(count: int) -> None:
    async with serving() as (world, api):
        guests = await world.all_heartbeating(count, vote_secs=2)
        open_at_once: list[int] = []

        def note(_: object) -> Reply:
            open_at_once.append(sum(world.channel(one).round is not None for one in guests))
            return Reply(VoteResult.ACCEPT, after_s=1.0)

        for guest in guests:
            guest.reply = note
        called = await call(api.path, "vote", "--all", "stop")
        assert called.lines[-1] == f"vote on stop: {count} instances: {count} accepted"
        assert max(open_at_once) == 16


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (("stop",), "UUID: name an instance, or --all, --host or --group"),
        (("x", "--all", "stop"), "UUID: not together with --all, --host or --group"),
        (("--host", "other", "stop"), "--host: this is compute-0; its agent knows others (--url)"),
    ],
)
async def test_a_survey_of_nobody(words: tuple[str, ...], fault: str) -> None:
    async with serving() as (_, api):
        assert (await fault_of(api.path, "vote", *words))[0] == fault


async def test_a_member_without_a_channel_is_forgotten() -> None:
    async with serving(groups=GROUPS) as (world, api):
        one, two, _ = await world.all_heartbeating(3)
        text, status = await fault_of(api.path, "forget", one.uuid)
        assert status is ExitStatus.FAILED
        assert text.startswith(f"no member {one.uuid} of a group")
        one.send_exit()
        one.vanish()
        await world.sleep(5)
        called = await call(api.path, "forget", one.uuid)
        assert called.lines == [f"{one.uuid}: forgotten, it is no member of groups any more"]
        assert world.host.groups.refusal(two.uuid, Event.STOP) == ""


async def test_ignore_group_of_act() -> None:
    async with serving(groups=GROUPS, runs={"hang": HANGS}) as (world, api):
        one, two, _ = await world.all_heartbeating(3)
        await world.act(one, ActionName.STOP, "hang")
        called = await call(api.path, "act", two.uuid, "stop", "--", "true")
        reason = f"group db: {one.uuid} is stopping, at most 1 of 2 may be unavailable"
        assert called.status == ExitStatus.REJECTED
        assert called.lines == [f"group: rejected ({reason})", f"stop: rejected ({reason})"]
        called = await call(api.path, "act", two.uuid, "stop", "--ignore-group", "--", "true")
        assert called.lines[0].startswith("vote on stop")


async def test_groups_are_counted_in_metrics() -> None:
    async with serving(groups=GROUPS, runs={"hang": HANGS}) as (world, _):
        one, *_ = await world.all_heartbeating(3)
        await world.act(one, ActionName.STOP, "hang")
        lines = (await host_metrics(world.host)).decode().splitlines()
        found = [line for line in lines if line.startswith("hbtrio_host_group_")]
        assert found == [
            'hbtrio_host_group_members{group="db"} 2.0',
            'hbtrio_host_group_members{group="all"} 3.0',
            'hbtrio_host_group_available{group="db"} 1.0',
            'hbtrio_host_group_available{group="all"} 2.0',
            'hbtrio_host_group_max_unavailable{group="db"} 1.0',
            'hbtrio_host_group_max_unavailable{group="all"} 1.0',
        ]


HOLD = ("--for", "1m", "--reason", "disk swap")


async def test_a_group_is_put_on_hold_and_only_those_on_hold_come_off_it() -> None:
    async with serving(groups=GROUPS) as (world, api):
        one, two, three = await world.all_heartbeating(3)
        held = await call(api.path, "hold", "--group", "db", *HOLD, "--json")
        assert [json.loads(line)["uuid"] for line in held.lines] == [one.uuid, two.uuid]
        await call(api.path, "hold", three.uuid, *HOLD)
        await call(api.path, "unhold", one.uuid)
        ended = await call(api.path, "unhold", "--group", "db", "--json")
        assert [json.loads(line)["uuid"] for line in ended.lines] == [two.uuid]
        assert [hold.uuid for hold in world.host.holds] == [three.uuid]
        for words, fault in (
            (("unhold", "--group", "db"), "no instance on hold in db"),
            (("hold", "--group", "web", *HOLD), "no group web; `hbtrio ctl groups` lists them"),
        ):
            assert await fault_of(api.path, *words) == (fault, ExitStatus.FAILED)


async def test_a_group_of_an_agent_is_put_on_hold_across_its_hosts(tmp_path: Path) -> None:
    groups = {"db": GroupSettings(members=("00000001-*", "00000002-*"), max_unavailable=1)}
    async with fleet_world(tmp_path, agent_groups=groups) as world:
        one, two, _ = await world.host.all_heartbeating(3)
        await world.host.settle()
        held = await call(world.api.path, "hold", "--group", "db", *HOLD, "--json")
        assert [json.loads(line)["uuid"] for line in held.lines] == [one.uuid, two.uuid]
        assert [hold.uuid for hold in world.host.host.holds] == [one.uuid, two.uuid]
        ended = await call(world.api.path, "unhold", "--group", "db", "--json")
        assert [json.loads(line)["uuid"] for line in ended.lines] == [one.uuid, two.uuid]
        assert world.agent.holds.count == 0
        fault = ("no instance on hold in db", ExitStatus.FAILED)
        assert await fault_of(world.api.path, "unhold", "--group", "db") == fault


async def test_show_names_the_groups_of_an_instance() -> None:
    async with serving(groups=GROUPS) as (world, api):
        one, _, three = await world.all_heartbeating(3)
        assert "Groups:     db, all" in (await call(api.path, "show", one.uuid)).lines
        shown = json.loads((await call(api.path, "show", three.uuid, "--json")).text)
        assert shown["groups"] == ["all"]


@asynccontextmanager
async def grouped_fleet(folder: Path) -> AsyncIterator[tuple[FleetWorld, list[ScriptedGuest]]]:
    """An agent without a VIM that has a group, and a host that has none."""
    groups = {"db": GroupSettings(members=("00000001-*", "00000002-*"), max_unavailable=1)}
    async with fleet_world(folder, agent_groups=groups) as world:
        guests = await world.host.all_heartbeating(3)
        await world.host.settle()
        yield world, guests


async def test_show_at_an_agent_names_the_groups_of_the_agent(tmp_path: Path) -> None:
    async with grouped_fleet(tmp_path) as (world, (one, _, three)):
        path = world.api.path
        assert "Groups:     db" in (await call(path, "show", one.uuid)).lines
        assert json.loads((await call(path, "show", one.uuid, "--json")).text)["groups"] == ["db"]
        assert json.loads((await call(path, "show", three.uuid, "--json")).text)["groups"] == []


async def test_an_agent_forgets_a_member_that_no_host_has(tmp_path: Path) -> None:
    async with grouped_fleet(tmp_path) as (world, (one, two, _)):
        path, agent = world.api.path, world.agent
        await call(path, "groups")  # all are members now
        one.send_exit()
        one.vanish()
        await world.host.sleep(5)
        busy = f"group db: {one.uuid} is gone, at most 1 of 2 may be unavailable"
        assert agent.groups.refusal(two.uuid, Event.STOP) == busy
        async with world.api.client() as http:
            headers = {"hbtrio-begin-by": "0.5 agent-boot"}
            late = await http.post(f"/v1/instances/{one.uuid}/forget", headers=headers)
            assert (late.status_code, late.json()["reason"][:7]) == (409, "expired")
            exists = await http.post(f"/v1/instances/{two.uuid}/forget")
            assert (exists.status_code, exists.json()["reason"]) == (
                409,
                f"{two.uuid} exists, on compute-0",
            )
        called = await call(path, "forget", one.uuid)
        assert called.lines == [f"{one.uuid}: forgotten, it is no member of groups any more"]
        assert agent.groups.refusal(two.uuid, Event.STOP) == ""
        history = await call(path, "history", "--kind", "action", "--json")
        (entry,) = [json.loads(line) for line in history.lines]
        assert (entry["uuid"], entry["reason"], entry["who"]) == (
            one.uuid,
            "forget: no member of groups any more",
            ME,
        )
        async with world.api.client() as http:
            assert (await http.post(f"/v1/instances/{one.uuid}/forget")).status_code == 404
        text, status = await fault_of(path, "forget", one.uuid)
        assert (text, status) == (f"unknown host {one.uuid}", ExitStatus.FAILED)
