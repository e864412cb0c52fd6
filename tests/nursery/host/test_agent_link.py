"""The host's end of the link on the fake clock: what it tells an agent, keeps for it, and obeys."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
import trio

import hbtrio
from hbtrio.config.host import ActionCommands
from hbtrio.fsm.ownership import Owner
from hbtrio.nursery.host.agent_feed import instance_of
from hbtrio.wire.link_messages import (
    MAX_STATE_REASON,
    STOPPING,
    VIM,
    Ack,
    ActCommand,
    ActionProgress,
    Gone,
    Goodbye,
    Hello,
    Instance,
    LinkReport,
    Reply,
    Reporting,
    RoundCommand,
    SnapshotEnd,
    Welcome,
)
from hbtrio.wire.vocabulary import CorrectiveAction, Event, Health, VoteResult
from support.actions_cases import asked
from support.fake_processes import FakeRun
from support.host_world import Reply as GuestReply
from support.host_world import uuid_of
from support.linked_host import Linked, ScriptedAgent, linked
from support.memory_store import MemoryStore, memory_store

pytestmark = pytest.mark.usefixtures("autojump_clock")

# -- the session ----------------------------------------------------------------------------------


async def test_a_host_that_stops_says_so() -> None:
    async with linked() as on:
        await on.world.settle()
        on.scope.cancel()
        await on.world.settle()
        assert on.agent.received[-1] == Goodbye(STOPPING)


async def test_the_links_state_for_operators() -> None:
    agent = ScriptedAgent()
    async with linked(agent) as on:
        link = on.world.host.link
        assert (link.is_up, link.agent, link.reason) == (True, "controller-0", "")
        came_up = link.since
        await on.world.sleep(5)
        assert link.since == came_up
        agent.away = "unix:/agent: connection refused"
        await agent.cut()
        await on.world.settle()
        went_down = link.since
        assert came_up is not None
        assert went_down is not None
        assert (went_down - came_up).total_seconds() == 5
        assert (link.is_up, link.agent) == (False, "controller-0")
        assert link.reason.startswith("the link ended: ")
        await on.world.sleep(10)
        assert (link.since, link.reason) == (went_down, "unix:/agent: connection refused")
        agent.away = ""
        await on.world.sleep(3)
        assert (link.is_up, link.reason) == (True, "")
        assert link.since is not None
        assert link.since > went_down


async def test_a_session_begins_with_hello_and_a_snapshot() -> None:
    agent = ScriptedAgent()
    agent.welcome = None
    async with linked(agent) as on:
        first, second = await on.world.all_heartbeating(2)
        knows = (True, True, True, True)
        version = hbtrio.__version__
        hello = Hello(1, "compute-0", "h-1", "boot-1", version, 0, 1.0, "any", *knows)
        assert agent.received == [hello]  # and nothing more before it is welcome
        assert not on.link.connected
        await agent.send(Welcome(1, "controller-0", 0))
        assert on.link.connected
        told = [instance_of(on.world.channel(guest)) for guest in (first, second)]
        assert agent.received[1:4] == [*told, SnapshotEnd(2)]
        assert agent.reports == [(1, "heartbeating", ""), (2, "heartbeating", "")]


async def test_an_instance_as_it_is_told() -> None:
    async with linked() as on:
        guest = await on.world.heartbeating(name="db", heartbeat_interval_ms=500)
        assert on.agent.of(Instance)[-1] == Instance(
            uuid=guest.uuid,
            name="db",
            state="heartbeating",
            heartbeating=True,
            health=Health.HEALTHY,
            corrective_action=CorrectiveAction.REBOOT,
            interval_ms=500,
            vote_s=9,
            shutdown_notice_s=10,
            suspend_notice_s=11,
            resume_notice_s=14,
            restart_s=121,
        )


async def test_why_an_instance_is_as_it_is() -> None:
    async with linked() as on:
        guest = on.world.guest()

        def told() -> tuple[str, str]:
            last = on.agent.of(Instance)[-1]
            assert last.uuid == guest.uuid
            return last.state, last.why

        on.world.dialer.refuse(guest.path, "connection refused")
        on.world.directory.replace(guest.name)
        await on.world.settle()
        assert told() == ("waiting", "connection refused; retrying")
        on.world.dialer.refuse(guest.path, "permission denied")
        await on.world.sleep(120)
        assert told() == ("waiting", "permission denied; retrying")
        count = len(on.agent.of(Instance))
        await on.world.sleep(600)
        assert len(on.agent.of(Instance)) == count  # told once, however often it is tried
        guest.appear()
        await on.world.sleep(120)
        assert told() == ("heartbeating", "")
        await on.report(guest)
        guest.health, guest.log_msg = Health.UNHEALTHY, "disk " + "x" * 300
        await on.world.sleep(2)
        assert told() == ("heartbeating", ("disk " + "x" * 300)[:MAX_STATE_REASON])
        guest.health, guest.log_msg = Health.HEALTHY, ""
        await on.world.sleep(2)
        assert told() == ("heartbeating", "")
        guest.answers_after_s = None
        await on.world.sleep(10)
        assert told() == ("lost", "no answer for 3 s")
        guest.peer.close()
        await on.world.settle()
        assert told() == ("waiting", "closed by the peer")


async def test_an_instance_is_told_before_the_reports_about_it() -> None:
    async with linked() as on:
        guest = await on.world.heartbeating()
        await on.report(guest)
        guest.answers_after_s = None
        await on.world.sleep(5)
        about = [one for one in on.agent.received if isinstance(one, Instance | LinkReport)]
        kinds = [
            one.kind if isinstance(one, LinkReport) else f"heartbeating={one.heartbeating}"
            for one in about
        ]
        assert kinds[-4:] == [
            "heartbeating=True",
            "heartbeating",
            "heartbeating=False",
            "loss",
        ]


async def test_instances_are_told_before_their_reports_however_busy_the_link_is() -> None:
    """While the reports of one are being sent, another begins to heartbeat."""
    agent = ScriptedAgent()
    agent.acknowledges = False
    async with linked(agent) as on:
        await on.world.all_heartbeating(40)
        agent.takes_s, agent.received = 0.1, []
        await agent.cut()
        await on.world.sleep(1)  # the reports are told again, one after the other
        late = await on.world.all_heartbeating(10)
        await on.world.sleep(30)
        told: dict[str, bool] = {}
        reports = []
        for message in agent.received:
            if isinstance(message, Instance):
                told[message.uuid] = message.heartbeating
            elif isinstance(message, LinkReport):
                reports.append(message.uuid)
                assert told.get(message.uuid) is True
        assert {guest.uuid for guest in late} <= set(reports)


async def test_health_that_comes_back_is_told() -> None:
    async with linked() as on:
        guest = await on.world.heartbeating()
        for health in (Health.UNHEALTHY, Health.HEALTHY, Health.UNHEALTHY):
            guest.health = health
            await on.world.sleep(3)
            assert on.agent.of(Instance)[-1].health is health


async def test_instances_that_go() -> None:
    async with linked() as on:
        guest = await on.world.heartbeating()
        guest.vanish()
        await on.world.sleep(1)
        assert on.agent.of(Gone) == [Gone(guest.uuid, "its channel was removed")]
        kinds = [kind for _, kind, _ in on.agent.reports]
        assert kinds == ["heartbeating", "stopped", "stopped"]


async def test_of_an_instance_that_was_never_heard_only_its_going_is_told() -> None:
    async with linked() as on:
        guest = on.world.guest().appear()
        on.world.dialer.refuse(guest.path)
        await on.world.sleep(1)
        assert on.agent.of(Instance)[-1].uuid == guest.uuid
        guest.vanish()
        await on.world.sleep(1)
        assert on.agent.of(Gone) == [Gone(guest.uuid, "its channel was removed")]
        assert on.agent.reports == []


async def test_an_instance_that_does_not_come_back_goes_too() -> None:
    async with linked() as on:
        guest = await on.world.heartbeating(restart_secs=20)
        on.world.notice(guest, Event.REBOOT)
        await on.world.settle()
        guest.vanish()
        await on.world.sleep(30)
        assert on.agent.of(Gone) == [Gone(guest.uuid, "its channel was removed")]


async def test_another_protocol() -> None:
    agent = ScriptedAgent()
    agent.welcome = Welcome(2, "controller-0", 0)
    async with linked(agent) as on:
        await on.world.sleep(0.1)
        [goodbye] = [one.reason for one in agent.received[1:]]  # type: ignore[union-attr]
        assert goodbye == "unusable message: protocol 2, this host speaks 1"
        assert not on.link.connected


async def test_an_agent_that_can_t_be_reached(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "hbtrio.link")
    agent = ScriptedAgent()
    agent.away = "unix:/agent: connection refused"
    async with linked(agent) as on:
        await on.world.at(11)
        waits = [b - a for a, b in zip(agent.dialled, agent.dialled[1:], strict=False)]
        assert waits == pytest.approx([0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0])
        agent.away = ""
        await on.world.at(13)
        assert on.link.connected
        # After a link that was up, it is back soon.
        await agent.cut()
        since = trio.current_time()
        await on.world.sleep(1)
        assert agent.dialled[-1] == pytest.approx(since + 0.2)
        assert on.link.connected
    lines = [one.getMessage() for one in caplog.records if one.name == "hbtrio.link"]
    assert lines == [
        "agent: unix:/agent: connection refused; retrying",
        "agent: the link to controller-0 is up",
        "agent: the link ended: closed by the other end; retrying",
        "agent: the link to controller-0 is up",
    ]


async def test_an_agent_that_ends_each_link_soon_is_dialled_ever_less_often() -> None:
    agent = ScriptedAgent()
    async with linked(agent) as on:
        for _ in range(6):
            await on.world.sleep(0.1)
            while not on.link.connected:
                await on.world.sleep(0.1)
            await agent.cut()
            while on.link.connected:
                await on.world.sleep(0.1)
        waits = [b - a for a, b in zip(agent.dialled, agent.dialled[1:], strict=False)]
        assert waits[-1] >= 2.0
        # One that has lasted is dialled again at once.
        while not on.link.connected:
            await on.world.sleep(0.1)
        await on.world.sleep(1)
        await agent.cut()
        since = trio.current_time()
        await on.world.sleep(1)
        assert agent.dialled[-1] == pytest.approx(since + 0.2)


async def test_an_agent_that_sends_it_away_again_and_again_is_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    agent = ScriptedAgent()
    agent.welcome = Goodbye("the certificate is not valid for the name compute-0")
    async with linked(agent) as on:
        await on.world.at(30)
    assert len(agent.dialled) > 10
    [line] = [one.getMessage() for one in caplog.records if one.name == "hbtrio.link"]
    assert line == (
        "agent: the link ended: the other end said goodbye: the certificate is not valid for "
        "the name compute-0; retrying"
    )


# -- reports --------------------------------------------------------------------------------------


async def test_what_is_not_acknowledged_comes_again() -> None:
    agent = ScriptedAgent()
    agent.acknowledges = False
    async with linked(agent) as on:
        guest = await on.world.heartbeating()
        on.world.vote(guest)
        await on.world.settle()
        assert agent.reports == [(1, "heartbeating", ""), (2, "vote", "accept")]
        await agent.cut()
        agent.received.clear()
        agent.welcome = Welcome(1, "controller-0", 1)
        await on.world.sleep(1)
        assert agent.reports == [(2, "vote", "accept")]
        await agent.send(Ack(2))
        assert len(on.link.feed.queue) == 0
        await agent.cut()
        agent.received.clear()
        await on.world.sleep(1)
        assert agent.reports == []


async def test_what_happens_while_there_is_no_link() -> None:
    agent = ScriptedAgent()
    async with linked(agent) as on:
        guest = await on.world.heartbeating()
        await on.report(guest)
        agent.away = "gone"
        await agent.cut()
        guest.reply = lambda asked: GuestReply(VoteResult.REJECT, "busy")
        on.world.vote(guest)
        await on.world.settle()
        for _ in range(3):
            guest.send_init()
            guest.answers_after_s = None
            await on.world.sleep(5)
            guest.answers_after_s = 0.0
            guest.send_init()
            await on.world.sleep(2)
        agent.received.clear()
        agent.away = ""
        await on.world.sleep(3)
        # Of its states the newest; of its losses each, and the verdict.
        kinds = [(kind, result) for _, kind, result in agent.reports]
        assert kinds == [("vote", "reject"), ("loss", "")] + [("loss", "")] * 2 + [
            ("heartbeating", "")
        ]
        assert len(on.link.feed.queue) == 0


async def test_changes_are_not_collected_without_a_link() -> None:
    agent = ScriptedAgent()
    agent.away = "gone"
    async with linked(agent) as on:
        for _ in range(3):
            guest = await on.world.heartbeating()
            guest.vanish()
            await on.world.settle()
        assert on.link.feed._changed == {}


async def test_the_reason_is_cut_to_what_a_line_can_hold() -> None:
    async with linked() as on:
        guest = await on.world.heartbeating()
        on.world.vote(guest)
        report = on.world.host.reports.recent[-1]
        on.world.host.reports.publish(attrs.evolve(report, reason="\0" * 9000))
        await on.world.settle()
        assert "\0" * 2000 in [one.reason for one in on.agent.of(LinkReport)]
        assert on.link.connected


# -- reporting ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("host_on", "vm_on"), [(True, True), (True, False), (False, True)])
async def test_losses_are_reported_while_both_are_on(host_on: bool, vm_on: bool) -> None:
    async with linked() as on:
        guest = await on.world.heartbeating()
        other = await on.world.heartbeating()
        await on.agent.send(
            Reporting("", host_on), Reporting(guest.uuid, vm_on), Reporting("unknown", True)
        )
        guest.answers_after_s = None
        await on.world.sleep(5)
        kind = "loss" if host_on and vm_on else "stopped"
        assert on.agent.reports[-1][1] == kind
        assert not on.world.channel(other).heartbeat.reporting


async def test_reporting_is_off_until_it_is_told_and_outlives_the_link() -> None:
    async with linked() as on:
        guest = await on.world.heartbeating()
        assert not on.world.channel(guest).heartbeat.reporting
        await on.report(guest)
        assert on.world.channel(guest).heartbeat.reporting
        on.agent.away = "gone"
        await on.agent.cut()
        await on.world.sleep(60)
        assert on.world.channel(guest).heartbeat.reporting
        # An instance that comes is reported on if it was told of before.
        late = on.world.guest()
        on.world.host.set_reporting(late.uuid, enabled=True)
        late.appear()
        await on.world.settle()
        assert on.world.channel(late).heartbeat.reporting
        on.world.host.set_reporting(late.uuid, enabled=False)
        assert not on.world.channel(late).heartbeat.reporting
        assert on.world.host.reporting.instances == {guest.uuid: True}  # nothing is left of it


# -- rounds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vote", "event", "seconds"),
    [
        (True, Event.STOP, 9),
        (False, Event.STOP, 10),
        (False, Event.PAUSE, 11),
        (False, Event.RESUME, 14),
        (True, Event.RESIZE_BEGIN, 9),
    ],
)
async def test_a_round_is_opened_and_its_outcome_reported(
    vote: bool, event: Event, seconds: int
) -> None:
    async with linked() as on:
        guest = await on.world.heartbeating()
        await on.agent.send(RoundCommand("c-1", guest.uuid, event, vote, 1.0))
        assert on.agent.of(Reply) == [Reply("c-1", True, seconds=seconds)]
        [report] = [one for one in on.agent.of(LinkReport) if one.command_id]
        kind = "vote" if vote else "notice"
        assert (report.kind, report.event, report.command_id) == (kind, event, "c-1")


@pytest.mark.parametrize(("who", "owns"), [(VIM, True), ("", True), ("operator uid 5", False)])
async def test_only_a_vote_of_the_vim_begins_an_action(who: str, owns: bool) -> None:
    async with linked() as on:
        guest = await on.world.heartbeating()
        await on.agent.send(RoundCommand("c-1", guest.uuid, Event.STOP, True, 1.0, who=who))
        await on.world.settle()
        assert on.agent.of(LinkReport)[-1].result is VoteResult.ACCEPT
        owner = on.world.host.owners.of(guest.uuid).owner
        assert owner is (Owner.ORCHESTRATOR if owns else Owner.NOBODY)


@pytest.mark.parametrize(
    ("uuid", "why"),
    [
        ("nobody", "no instance nobody on this host"),
        ("x" * 255, f"no instance {'x' * 255} on this host"),
    ],
)
async def test_a_round_of_an_unknown_instance(uuid: str, why: str) -> None:
    async with linked() as on:
        await on.agent.send(RoundCommand("c-1", uuid, Event.STOP, True, 1.0))
        assert on.agent.of(Reply) == [Reply("c-1", False, why)]


async def test_a_round_of_an_instance_that_takes_no_part() -> None:
    async with linked() as on:
        guest = on.world.guest()
        guest.sends_init = False
        guest.appear()
        await on.world.settle()
        await on.agent.send(RoundCommand("c-1", guest.uuid, Event.STOP, True, 1.0))
        [reply] = on.agent.of(Reply)
        assert (reply.ok, reply.seconds) == (False, 0)
        assert reply.reason == f"{guest.uuid} is not heartbeating: discovered"


@pytest.mark.parametrize("gone", [False, True])
async def test_a_refusal_does_not_overtake_the_change_that_it_comes_from(gone: bool) -> None:
    """Else the agent would take it for its host's fault. The link is busy with the others."""
    agent = ScriptedAgent()
    async with linked(agent) as on:
        *others, guest = await on.world.all_heartbeating(150)
        agent.takes_s = 0.02
        await agent.cut()
        await on.world.sleep(20)
        for one in others:
            one.send_exit()
        await on.world.sleep(0.1)
        (guest.vanish if gone else guest.send_exit)()
        await on.world.sleep(0.1)
        agent.received = []
        await agent.send(RoundCommand("c-1", guest.uuid, Event.STOP, True, 1.0))
        await on.world.sleep(20)
        told = [
            one
            for one in agent.received
            if isinstance(one, Reply)
            or (isinstance(one, Gone | Instance) and one.uuid == guest.uuid)
        ]
        if gone:
            assert told[0] == Gone(guest.uuid, "its channel was removed")
        else:
            assert isinstance(told[0], Instance)
            assert not told[0].heartbeating
        [reply] = [one for one in told if isinstance(one, Reply)]
        assert not reply.ok


async def test_a_round_waits_a_moment_for_the_one_before() -> None:
    async with linked() as on:
        guest = await on.world.heartbeating()
        guest.reply = lambda asked: GuestReply(VoteResult.ACCEPT, after_s=0.8)
        await on.agent.send(RoundCommand("c-1", guest.uuid, Event.STOP, True, 1.0))
        await on.agent.send(
            RoundCommand("c-2", guest.uuid, Event.STOP, False, 1.0),
            RoundCommand("c-3", guest.uuid, Event.STOP, False, 0.5),
        )
        await on.world.sleep(0.6)
        [first, third] = on.agent.of(Reply)
        assert first == Reply("c-1", True, seconds=9)
        assert (third.command_id, third.ok) == ("c-3", False)
        assert third.reason.startswith("a vote on stop is open for another")
        await on.world.sleep(2)
        assert on.agent.of(Reply)[2] == Reply("c-2", True, seconds=10)
        ids = [one.command_id for one in on.agent.of(LinkReport) if one.command_id]
        assert ids == ["c-1", "c-2"]


async def test_a_round_goes_on_without_the_link() -> None:
    async with linked() as on:
        guest = await on.world.heartbeating()
        guest.reply = lambda asked: GuestReply(VoteResult.REJECT, "no", after_s=3)
        await on.agent.send(RoundCommand("c-1", guest.uuid, Event.STOP, True, 1.0))
        on.agent.away = "gone"
        await on.agent.cut()
        await on.world.sleep(5)
        on.agent.away = ""
        on.agent.received.clear()
        await on.world.sleep(3)
        [report] = on.agent.of(LinkReport)
        assert (report.command_id, report.result, report.reason) == ("c-1", "reject", "no")


async def test_a_round_that_waits_is_not_begun_once_the_link_is_gone() -> None:
    async with linked() as on:
        guest = await on.world.heartbeating()
        guest.reply = lambda asked: GuestReply(VoteResult.ACCEPT, after_s=0.5)
        await on.agent.send(RoundCommand("c-1", guest.uuid, Event.STOP, True, 1.0))
        await on.agent.send(RoundCommand("c-2", guest.uuid, Event.STOP, False, 1.0))
        await on.agent.cut()
        await on.world.sleep(5)
        assert [one.command_id for one in on.agent.of(LinkReport) if one.command_id] == ["c-1"]


async def test_too_many_commands_at_once() -> None:
    async with linked() as on:
        guest = await on.world.heartbeating()
        guest.reply = lambda asked: GuestReply(VoteResult.ACCEPT, after_s=8)
        await on.agent.send(
            *(RoundCommand(f"c-{n}", guest.uuid, Event.STOP, True, 5.0) for n in range(2100))
        )
        refused = {one.reason for one in on.agent.of(Reply) if not one.ok}
        assert refused == {"too many commands in progress, the limit is 2048"}
        assert len(on.agent.of(Reply)) == 2100 - 2048
        await on.world.sleep(20)
        await on.agent.send(RoundCommand("late", guest.uuid, Event.STOP, True, 1.0))
        assert on.agent.of(Reply)[-1] == Reply("late", True, seconds=9)


# -- actions --------------------------------------------------------------------------------------


def started(on: Linked) -> list[tuple[str, ...]]:
    """The commands that the host has run."""
    return [one.argv for one in on.world.processes.started]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[MemoryStore]:
    with memory_store(tmp_path) as made:
        yield made


async def remembered(on: Linked, kind: str) -> list[tuple[str, str, str]]:
    """The host's history of this kind, the oldest first: uuid, reason and who."""
    found = [one.entry for one in await on.world.host.memory.history(100)]
    return [(one.uuid, one.reason, one.who) for one in reversed(found) if one.kind == kind]


OWN = ActionCommands(pause=("virsh", "suspend", "{uuid}"))


@pytest.mark.parametrize("given", [(), OWN.pause])
async def test_a_host_runs_its_own_command(
    given: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    runs = {"virsh": FakeRun()}
    async with linked(runs=runs, commands="configured", actions=OWN) as on:
        guest = await on.world.heartbeating()
        await on.agent.send(
            ActCommand("c-1", guest.uuid, "pause", given, True, 1.0, who="operator CN=alice")
        )
        await on.world.sleep(1)
        assert on.agent.of(Reply) == [Reply("c-1", True)]
        assert f"{guest.uuid}: action pause for operator CN=alice of the agent" in caplog.messages
        assert started(on) == [("virsh", "suspend", guest.uuid)]


@pytest.mark.parametrize(
    ("action", "given", "why"),
    [
        (
            "pause",
            given,
            "this host runs only its own command for pause: give none; its host.toml has "
            'commands = "configured" in [agent]',
        )
        for given in [
            ("rm", "-rf", "/"),
            ("virsh",),
            ("virsh", "suspend", "--", "{uuid}"),
            ("virsh", "suspend", "{{uuid}}"),
            ("virsh", "suspend", "00000001-1111-2222-abcd-0123456789ef"),
            ("",),
        ]
    ]
    + [
        # Another action's command is not this one's.
        (
            "stop",
            OWN.pause,
            "this host runs only its own command for stop: give none; its host.toml has "
            'commands = "configured" in [agent]',
        ),
        ("stop", (), "no command for stop: set stop in [actions] of its host.toml"),
    ],
)
async def test_a_host_runs_no_other(
    action: str,
    given: tuple[str, ...],
    why: str,
    caplog: pytest.LogCaptureFixture,
    store: MemoryStore,
) -> None:
    runs, memory = {"virsh": FakeRun()}, store.memory()
    async with linked(runs=runs, commands="configured", actions=OWN, memory=memory) as on:
        guest = await on.world.heartbeating()
        await on.agent.send(ActCommand("c-1", guest.uuid, action, given, True, 1.0, who="uid 7"))
        await on.world.sleep(5)
        assert on.agent.of(Reply) == [Reply("c-1", False, why)]
        # Neither was the guest told anything.
        assert (started(on), asked(guest)) == ([], [])
        lines = [line for line in caplog.messages if "refused" in line]
        assert lines == [f"{guest.uuid}: action {action} for uid 7 of the agent refused: {why}"]
        assert await remembered(on, "action") == [
            (guest.uuid, f"{action}: refused: {why}", "uid 7 of the agent")
        ]


@pytest.mark.parametrize("uuid", ["", uuid_of(77)])
async def test_whatever_is_refused_is_in_the_history(uuid: str, store: MemoryStore) -> None:
    async with linked(memory=store.memory()) as on:
        guest = await on.world.heartbeating()
        uuid = uuid or guest.uuid
        await on.agent.send(ActCommand("c-1", uuid, "defragment", ("x",), True, 1.0))
        await on.agent.send(ActCommand("c-2", uuid, "stop", ("x",), True, 1.0, 0.0, "boot-0"))
        await on.world.sleep(5)
        bad, late = on.agent.of(Reply)
        assert (bad.ok, late.ok) == (False, False)
        assert await remembered(on, "action") == [
            (uuid, f"defragment: refused: {bad.reason}", "an operator of the agent"),
            (uuid, f"stop: refused: {late.reason}", "an operator of the agent"),
        ]


async def test_a_vote_and_a_notice_that_are_refused_are_in_the_history(store: MemoryStore) -> None:
    async with linked(memory=store.memory()) as on:
        await on.agent.send(RoundCommand("c-1", uuid_of(77), Event.STOP, True, 1.0, who="vim"))
        await on.agent.send(RoundCommand("c-2", uuid_of(77), Event.STOP, False, 1.0))
        await on.world.sleep(5)
        vote, notice = on.agent.of(Reply)
        why = f"no instance {uuid_of(77)} on this host"
        assert (vote, notice) == (Reply("c-1", False, why), Reply("c-2", False, why))
        assert await remembered(on, "vote") == [
            (uuid_of(77), f"refused: {why}", "vim of the agent")
        ]
        assert await remembered(on, "notice") == [(uuid_of(77), f"refused: {why}", "the agent")]


@pytest.mark.parametrize(
    ("who", "shown"),
    [
        ("operator CN=alice", "operator CN=alice of the agent"),
        ("vim", "vim of the agent"),
        ("", "the agent"),
    ],
)
async def test_who_is_behind_a_vote(who: str, shown: str, store: MemoryStore) -> None:
    """An older agent does not say."""
    async with linked(memory=store.memory()) as on:
        guest = await on.world.heartbeating()
        await on.agent.send(RoundCommand("c-1", guest.uuid, Event.STOP, True, 1.0, who=who))
        await on.world.sleep(5)
        assert await remembered(on, "vote") == [(guest.uuid, "", shown)]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (("echo", "{reason}"), "argv: item 2: unknown placeholder {reason}, expected {uuid}; "),
        (("{uuid}",), "argv: item 1: the program must not contain a placeholder, got {uuid}"),
        (("echo", "a\0b"), "argv: item 2: must not contain a NUL"),
        (("", "x"), "argv: item 1: must name a program, got nothing"),
        (("echo", "x" * 5000), "argv: item 2: must be at most 4096 characters long"),
    ],
)
async def test_an_agent_can_t_have_run_what_its_api_would_refuse(
    given: tuple[str, ...], why: str
) -> None:
    """It may be another program that has the agent's certificate."""
    async with linked(runs={"echo": FakeRun()}) as on:
        guest = await on.world.heartbeating()
        await on.agent.send(ActCommand("c-1", guest.uuid, "pause", given, True, 1.0))
        await on.world.sleep(5)
        [reply] = on.agent.of(Reply)
        assert not reply.ok
        assert reply.reason.startswith(why)
        assert on.world.host.supervisor.crashes == 0


async def test_an_action() -> None:
    async with linked(runs={"virsh": FakeRun(stdout=b"done\n")}) as on:
        guest = await on.world.heartbeating()
        await on.agent.send(
            ActCommand("c-1", guest.uuid, "pause", ("virsh", "suspend", "{uuid}"), False, 1.0)
        )
        guest.answers_after_s = None
        await on.world.sleep(4)
        assert on.agent.of(Reply) == [Reply("c-1", True)]
        lines = on.agent.of(ActionProgress)
        assert [one.last for one in lines] == [False] * (len(lines) - 1) + [True]
        steps = [json.loads(one.line) for one in lines[:-1]]
        assert [one["step"] for one in steps] == [
            *["vote"] * 2,
            *["notice"] * 2,
            *["command"] * 2,
            *["down"] * 2,
            "end",
        ]
        assert steps[4]["argv"] == ["virsh", "suspend", guest.uuid]
        assert steps[-1]["outcome"] == "done"


@pytest.mark.parametrize(
    ("action", "command", "why"),
    [
        ("defragment", ("x",), "'defragment' is not a valid ActionName"),
        ("pause", (), "no command for pause: give one after --, or set pause in [actions]"),
    ],
)
async def test_an_action_that_is_refused(action: str, command: tuple[str, ...], why: str) -> None:
    async with linked() as on:
        guest = await on.world.heartbeating()
        await on.agent.send(ActCommand("c-1", guest.uuid, action, command, False, 1.0))
        assert on.agent.of(Reply) == [Reply("c-1", False, why)]


@pytest.mark.parametrize("char", ['"', "\\", "é", "\x01", "\U0001f600"])
async def test_progress_fits_into_lines(char: str) -> None:
    output = (char * 2000).encode()[:2048]
    arguments = ("virsh", *[char * 150] * 14)
    runs = {"virsh": FakeRun(stdout=output, exit_code=1)}
    async with linked(runs=runs) as on:
        guest = await on.world.heartbeating()
        await on.agent.send(ActCommand("c-1", guest.uuid, "pause", arguments, True, 1.0))
        await on.world.sleep(1)
        assert on.link.connected
        lines = [json.loads(one.line) for one in on.agent.of(ActionProgress)[:-1]]
        assert lines[-1]["outcome"]
        [command, ended] = [one for one in lines if one["step"] == "command"]
        assert len(command["argv"]) == 15
        assert ended["result"] == "failed"
