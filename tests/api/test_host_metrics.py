"""The host's numbers, as Prometheus reads them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families

import hbtrio
from hbtrio.api.host_metrics import host_metrics
from hbtrio.config.host import AgentLinkSettings, CorrectiveCommands
from hbtrio.fsm.corrective import Cause
from hbtrio.fsm.heartbeat.table import HeartbeatState
from hbtrio.nursery.host.correction_command import Outcome
from hbtrio.nursery.host.reports import ReportKind
from hbtrio.wire.vocabulary import EVENT_TABLE, Event, VoteResult, WindowKind
from support.fake_processes import FakeRun
from support.host_world import HostWorld, Reply, host_world, stay_silent

pytestmark = pytest.mark.usefixtures("autojump_clock")


async def numbers(world: HostWorld) -> dict[str, float]:
    """Every sample but those of histograms: its name, with its labels' values, and its number."""
    text = (await host_metrics(world.host)).decode()
    return {
        " ".join([sample.name.removeprefix("hbtrio_host_"), *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(text)
        if family.type != "histogram"
        for sample in family.samples
    }


async def buckets(world: HostWorld, name: str) -> dict[str, float]:
    """The samples of one histogram."""
    text = (await host_metrics(world.host)).decode()
    return {
        sample.labels.get("le", sample.name.rpartition("_")[2]): sample.value
        for family in text_string_to_metric_families(text)
        if family.name == f"hbtrio_host_{name}"
        for sample in family.samples
    }


def quiet(**changes: float) -> dict[str, float]:
    """The numbers of a host without instances, but for some."""
    states = {state.shown for state in HeartbeatState}
    zeros = {
        **{
            f"instances {state}": 0
            for state in (*states, "absent", "unwatched", "gone", "returning")
        },
        **{f"instances_not_acted_upon {cause}": 0 for cause in Cause},
        **{f"not_acted_total {cause}": 0 for cause in Cause},
        **{
            f"corrective_commands_total {action} {outcome.word}": 0
            for action in ("reboot", "stop", "log")
            for outcome in Outcome
        },
        **{f"windows_open {kind}": 0 for kind in WindowKind},
        **{
            f"overridden_rejects_total {event}": 0
            for event, rule in EVENT_TABLE.items()
            if rule.voted
        },
        **{f"extended_seconds_total {kind}": 0 for kind in tuple(WindowKind)[:-1]},
        **{f"events_total {kind}": 0 for kind in ReportKind},
    }
    return {f"info {hbtrio.__version__}": 1, **zeros, **changes}


async def test_a_host_without_instances() -> None:
    async with host_world() as world:
        found = await numbers(world)
        others = {
            "instances_unhealthy": 0,
            "instances_throttled": 0,
            "instances_on_hold": 0,
            "hold_of_failed_ends_timestamp_seconds": 0,
            "beats_total": 0,
            "misses_total": 0,
            "overloaded": 0,
            "brake_closed": 0,
            "actions": 0,
            "crashes_total": 0,
            "child_restarts_total task": 0,
            "child_restarts_total reaper": 0,
            "child_restarts_total virsh": 0,
            "log_lines_dropped_total": 0,
            "renewed_files_failing": 0,
            "planned_actions": 0,
            **{
                f"planned_actions_ended_total {outcome}": 0
                for outcome in ("done", "skipped", "failed", "cancelled")
            },
        }
        assert found == quiet() | others


async def test_beats_and_misses() -> None:
    async with host_world() as world:
        guest = await world.heartbeating()
        await world.at(10.5)
        found = await numbers(world)
        beats = world.channel(guest).heartbeat.beats
        assert (found["instances heartbeating"], found["beats_total"]) == (1, beats)
        assert found["events_total heartbeating"] == 1
        trips = await buckets(world, "round_trip_seconds")
        assert (trips["+Inf"], trips["count"], trips["sum"]) == (beats, beats, 0)
        late = await buckets(world, "lateness_seconds")
        assert late["0.01"] == late["+Inf"] >= beats - 1  # the first answers the init
        guest.answers_after_s = None
        await world.at(13.5)
        found = await numbers(world)
        assert (found["instances lost"], found["misses_total"]) == (1, 2)
        assert found["events_total loss"] == 1


async def test_windows_and_results() -> None:
    async with host_world() as world:
        guest, other = await world.all_heartbeating(2)
        guest.reply = stay_silent
        world.vote(guest)
        found = await numbers(world)
        assert (found["windows_open VOTE"], found["windows_open SHUTDOWN_NOTICE"]) == (1, 0)
        other.reply = lambda _: Reply(VoteResult.REJECT, "not now")
        world.vote(other, Event.PAUSE)
        await world.sleep(30)
        found = await numbers(world)
        assert found["windows_open VOTE"] == 0
        assert found["rounds_total stop vote accept"] == 1
        assert found["rounds_total pause vote reject"] == 1


@pytest.mark.parametrize(
    ("run", "outcome"), [(FakeRun(), "done"), (FakeRun(exit_code=1, stderr=b"no"), "failed")]
)
async def test_corrective_commands(run: FakeRun, outcome: str) -> None:
    commands = CorrectiveCommands(reboot=("reboot", "{uuid}"))
    async with host_world(corrective_commands=commands, runs={"reboot": run}) as world:
        guest = await world.heartbeating()
        guest.answers_after_s = None
        await world.sleep(10)
        found = await numbers(world)
        assert found[f"corrective_commands_total reboot {outcome}"] == 1


async def test_what_was_not_done() -> None:
    commands = CorrectiveCommands(reboot=("reboot", "{uuid}"))
    async with host_world(corrective_commands=commands) as world:
        guests = await world.all_heartbeating(4)
        for guest in guests:
            guest.answers_after_s = None
        await world.sleep(10)
        found = await numbers(world)
        assert (found["brake_closed"], found["instances_not_acted_upon brake"]) == (1, 4)
        assert found["not_acted_total brake"] == 4
        world.host.corrective.brake.release()


async def test_a_flooder() -> None:
    async with host_world() as world:
        guest = await world.heartbeating()
        channel: Any = world.channel(guest)
        channel.link._bad_messages.flood.is_news(6.0, trio.current_time())
        assert (await numbers(world))["instances_throttled"] == 1
        await world.sleep(61)
        assert (await numbers(world))["instances_throttled"] == 0


async def test_a_link() -> None:
    async with host_world(agent=AgentLinkSettings(connect="tcp:127.0.0.1:2412")) as world:
        found = await numbers(world)
        started = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
        assert (found["link_up"], found["link_since_timestamp_seconds"]) == (0, started)
        world.host.link.up("controller-0")
        assert (await numbers(world))["link_up"] == 1
