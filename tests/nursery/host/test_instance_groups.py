"""Groups on a host: a voter of their own, and a wait for corrective commands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from hbtrio.config.groups import GroupSettings
from hbtrio.config.host import BrakeSettings, CorrectiveCommands, LibvirtSettings
from hbtrio.fsm.ownership import NEXT_STEP_S
from hbtrio.lab.virsh_output import SHUT_OFF
from hbtrio.nursery.host.memory import HostMemory
from hbtrio.store.host_records import Recollection
from hbtrio.wire.vocabulary import (
    ActionName,
    CorrectiveAction,
    Event,
    Health,
    NotificationType,
    VoteResult,
)
from support.fake_processes import HANGS, FakeRun
from support.host_world import (
    VOTE,
    HostWorld,
    Reply,
    ScriptedGuest,
    agree,
    host_world,
    now,
    uuid_of,
)
from support.memory_store import MemoryStore, memory_store

pytestmark = pytest.mark.usefixtures("autojump_clock")

ON = LibvirtSettings(enabled="on")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[MemoryStore]:
    with memory_store(tmp_path) as made:
        yield made


def group(*members: str, delay_s: float = 300.0, **limit: Any) -> GroupSettings:
    return GroupSettings(members=members or ("*",), max_delay_s=delay_s, **limit)


def commands(argv: Sequence[str]) -> FakeRun:
    return {"slow": FakeRun(delay_s=20.0), "hang": HANGS}.get(argv[0], FakeRun())


def world_of(
    db: GroupSettings | None = None, reboot: str = "reset", **config: Any
) -> AbstractAsyncContextManager[HostWorld]:
    return host_world(
        groups={"db": db or group(max_unavailable=1)},
        corrective_commands=CorrectiveCommands(reboot=(reboot, "{uuid}"), per_hour=3600),
        brake=BrakeSettings(share=1.0),
        runs=commands,
        **config,
    )


def blocked(guest: ScriptedGuest, state: str = "is restarting", *, total: int = 3) -> str:
    return f"group db: {guest.uuid} {state}, at most 1 of {total} may be unavailable"


def votes(world: HostWorld, guest: ScriptedGuest) -> list[tuple[str, str]]:
    """Result and reason of each vote about a guest."""
    return [
        (str(report.result), report.reason)
        for report in world.host.reports.recent
        if report.kind == "vote" and report.uuid == guest.uuid
    ]


def asked(guest: ScriptedGuest) -> int:
    """How many votes and notices a guest was sent."""
    return sum(type(one).__name__ == "ActionNotify" for one in guest.messages)


def falls_silent(*guests: ScriptedGuest) -> None:
    for guest in guests:
        guest.answers_after_s, guest.sends_init = None, False


def comes_back(guest: ScriptedGuest) -> None:
    guest.answers_after_s, guest.sends_init = 0.0, True
    guest.send_init()


def not_acted(world: HostWorld) -> list[tuple[str, str, str]]:
    return [
        (report.uuid, report.cause, report.reason)
        for report in world.host.reports.recent
        if report.cause
    ]


def started(world: HostWorld) -> list[tuple[float, str]]:
    """When which guest's corrective command was started."""
    return [
        (round(moment.time_s, 3), moment.argv[1])
        for moment in world.processes.started
        if moment.argv[0] in ("reset", "slow")
    ]


# -- votes ----------------------------------------------------------------------------------------


async def test_a_vote_that_would_break_the_rule_is_rejected_and_the_guest_is_not_asked() -> None:
    async with world_of() as world:
        one, two, _ = await world.all_heartbeating(3)
        await world.vim_vote(one, Event.REBOOT)
        before = asked(two)
        vote = world.vote(two, Event.STOP)
        assert vote.done.is_set()
        assert vote.outcome is not None
        assert (vote.outcome.result, vote.outcome.reason) == (VoteResult.REJECT, blocked(one))
        assert votes(world, two) == [("reject", blocked(one))]
        assert asked(two) == before
        await world.sleep(20)
        assert world.channel(two).heartbeating


async def test_of_two_votes_of_the_vim_at_one_moment_one_passes() -> None:
    async with world_of() as world:
        one, two, _ = await world.all_heartbeating(3)
        # No checkpoint between the two: neither guest has answered.
        votes = [
            world.host.rounds.open(world.channel(each), Event.PAUSE, VOTE, by_vim=True)
            for each in (one, two)
        ]
        await world.sleep(1)
        outcomes = [vote.outcome for vote in votes]
        assert [outcome and outcome.result for outcome in outcomes] == ["accept", "reject"]


async def test_a_vote_that_the_guest_rejects_gives_its_place_back() -> None:
    async with world_of() as world:
        one, two, _ = await world.all_heartbeating(3)
        one.reply = lambda request: Reply(VoteResult.REJECT, "no", after_s=1.0)
        await world.vim_vote(one, Event.STOP)
        assert world.host.groups.refusal(two.uuid, Event.STOP) == blocked(one, "is stopping")
        await world.sleep(2)
        assert world.host.groups.refusal(two.uuid, Event.STOP) == ""


async def test_a_vote_of_an_operator_is_a_question_and_takes_no_place() -> None:
    async with world_of() as world:
        one, two, _ = await world.all_heartbeating(3)
        world.vote(one, Event.STOP)
        await world.settle()
        world.vote(two, Event.STOP)
        await world.settle()
        assert votes(world, one) == votes(world, two) == [("accept", "")]


async def test_an_accepted_vote_of_the_vim_lapses_without_its_notice() -> None:
    async with world_of() as world:
        one, two, _ = await world.all_heartbeating(3)
        await world.vim_vote(one, Event.STOP)
        began = now()
        await world.at(began + 59.9)
        assert world.host.groups.refusal(two.uuid, Event.STOP) == blocked(one, "is stopping")
        await world.at(began + 60.1)
        assert world.host.groups.refusal(two.uuid, Event.STOP) == ""


async def test_a_notice_is_always_sent_and_takes_the_place_until_its_end_notice() -> None:
    async with world_of() as world:
        one, two, _ = await world.all_heartbeating(3)
        for guest in (one, two):
            world.notice(guest, Event.LIVE_MIGRATE_BEGIN)
        await world.sleep(1)
        assert world.host.groups.rule.going_down == {one.uuid, two.uuid}
        for guest in (one, two):
            world.notice(guest, Event.LIVE_MIGRATE_END)
        await world.sleep(1)
        assert world.host.groups.rule.going_down == set()


async def test_a_member_that_is_lost_is_unavailable() -> None:
    async with world_of(reboot="hang") as world:
        one, two, _ = await world.all_heartbeating(3)
        world.host.groups.hold(two.uuid, Event.STOP, "test")  # so no command runs
        falls_silent(one)
        await world.sleep(5)
        world.host.groups.give_back(two.uuid, "test")
        assert world.host.groups.refusal(two.uuid, Event.STOP) == blocked(one, "is lost")
        # One that is unavailable already makes nothing worse.
        assert world.host.groups.refusal(one.uuid, Event.STOP) == ""


async def test_a_member_that_is_ill_is_unavailable() -> None:
    async with world_of() as world:
        one, two, _ = await world.all_heartbeating(3, corrective_action="log")
        one.health, one.action = Health.UNHEALTHY, CorrectiveAction.LOG
        await world.sleep(2)
        assert world.host.groups.refusal(two.uuid, Event.STOP) == blocked(one, "is ill")


async def test_what_must_be_available_has_words_of_the_same_shape() -> None:
    async with world_of(group(min_available="66%")) as world:
        one, two, _ = await world.all_heartbeating(3)
        await world.vim_vote(one, Event.REBOOT)
        expected = f"group db: {one.uuid} is restarting, at least 2 of 3 must be available"
        assert world.host.groups.refusal(two.uuid, Event.STOP) == expected


# -- actions --------------------------------------------------------------------------------------


async def test_an_action_is_rejected_without_a_step() -> None:
    async with world_of() as world:
        one, two, _ = await world.all_heartbeating(3)
        await world.act(one, ActionName.STOP, "slow", "x")
        acted = await world.act(two, ActionName.REBOOT, "reset")
        reason = blocked(one, "is stopping")
        assert acted.lines == [
            {"step": "group", "result": "reject", "reason": reason},
            {"step": "end", "outcome": "rejected", "reason": reason},
        ]
        assert two.uuid not in world.host.actions
        assert started(world) == [(now(), "x")] or started(world) == []
        assert asked(two) == 0


async def test_force_skips_the_vote_and_not_the_group() -> None:
    async with world_of() as world:
        one, two, _ = await world.all_heartbeating(3)
        await world.act(one, ActionName.STOP, "hang")
        acted = await world.act(two, ActionName.STOP, "cmd", force=True)
        assert acted.lines[-1]["outcome"] == "rejected"


async def test_ignore_group_skips_the_group_and_not_the_vote() -> None:
    async with world_of() as world:
        one, two, three = await world.all_heartbeating(3)
        await world.act(one, ActionName.STOP, "hang")
        two.reply = lambda request: Reply(VoteResult.REJECT, "no")
        acted = await world.act(two, ActionName.STOP, "cmd", ignore_group=True)
        await world.sleep(1)
        assert acted.lines[-1] == {"step": "end", "outcome": "rejected", "reason": "no"}
        acted = await world.act(three, ActionName.PAUSE, "hang", ignore_group=True)
        await world.sleep(1)
        assert world.host.groups.rule.going_down == {one.uuid, three.uuid}


async def test_an_action_that_takes_nothing_down_is_never_rejected() -> None:
    async with world_of() as world:
        one, two, _ = await world.all_heartbeating(3)
        await world.act(one, ActionName.STOP, "hang")
        acted = await world.act(two, ActionName.RESUME, "cmd")
        await world.sleep(1)
        assert acted.lines[-1]["outcome"] == "done"


async def test_an_action_gives_its_place_back_at_its_end() -> None:
    async with world_of() as world:
        one, two, _ = await world.all_heartbeating(3)
        one.reply = lambda request: Reply(VoteResult.REJECT, "no")
        await world.act(one, ActionName.STOP, "cmd")
        await world.sleep(1)
        assert world.host.groups.rule.going_down == set()
        assert world.host.groups.refusal(two.uuid, Event.STOP) == ""


async def test_a_denied_action_does_not_end_a_corrective_command() -> None:
    async with world_of(reboot="slow") as world:
        one, two, _ = await world.all_heartbeating(3)
        falls_silent(one)
        await world.sleep(4)
        assert world.host.corrective.running == (one.uuid,)
        world.host.groups.hold(two.uuid, Event.STOP, "test")
        acted = await world.act(one, ActionName.STOP, "cmd", take_over=True)
        assert acted.lines[-1]["outcome"] == "rejected"
        assert world.host.corrective.running == (one.uuid,)


# -- members --------------------------------------------------------------------------------------


async def test_a_member_whose_channel_is_gone_is_remembered_until_it_is_forgotten() -> None:
    async with world_of() as world:
        one, two, _ = await world.all_heartbeating(3)
        one.send_exit()
        one.vanish()
        await world.sleep(5)
        assert one.uuid not in world.host.channels
        assert world.host.groups.refusal(two.uuid, Event.STOP) == blocked(one, "is gone")
        assert not world.host.groups.forget(two.uuid)
        assert world.host.groups.forget(one.uuid)
        assert world.host.groups.refusal(two.uuid, Event.STOP) == ""


async def test_members_are_remembered_over_a_restart(store: MemoryStore) -> None:
    memory = store.memory()
    async with world_of(memory=memory) as world:
        one, two, _ = await world.all_heartbeating(3)
        one.send_exit()
        one.vanish()
        await world.sleep(5)
        memory = store.memory()
        await world.restart_host(memory, away_s=1.0)
        await world.sleep(5)
        assert world.host.groups.refusal(two.uuid, Event.STOP) == blocked(one, "is gone")
        world.host.groups.forget(one.uuid)
        await world.sleep(1)
        await world.restart_host(store.memory(), away_s=1.0)
        await world.sleep(5)
        assert set(world.host.groups.rule.members) == {two.uuid, uuid_of(3)}


async def test_until_the_members_were_read_nothing_may_go_down(store: MemoryStore) -> None:
    memory = store.memory()
    async with world_of(memory=memory) as world:
        guest = await world.heartbeating()
        world.host.groups._is_read = False  # as before the store has answered
        expected = "groups: the host has just started, and has not read its members yet"
        assert world.host.groups.refusal(guest.uuid, Event.STOP) == expected
        world.host.groups.recall(Recollection())
        assert world.host.groups.refusal(guest.uuid, Event.STOP) == ""


async def test_names_are_libvirts_and_an_undefined_domain_is_no_member() -> None:
    async with world_of(group("db-*", max_unavailable=1), libvirt=ON) as world:
        domains = [world.libvirt.define(uuid_of(n), f"db-{n}") for n in (1, 2, 3)]
        for domain in domains:
            await world.libvirt.start(domain)
        one, two, _ = await world.all_heartbeating(3, name="a tenant's text")
        one.vanish()
        await world.libvirt.destroy(domains[0])
        await world.sleep(10)
        expected = "group db: db-1 is stopped, at most 1 of 3 may be unavailable"
        assert world.host.groups.refusal(two.uuid, Event.STOP) == expected
        world.libvirt.undefine(domains[0])
        await world.sleep(10)
        assert world.host.groups.refusal(two.uuid, Event.STOP) == ""


async def test_one_that_was_migrated_away_is_no_member() -> None:
    async with world_of(group("db-*", max_unavailable=1), libvirt=ON) as world:
        domains = [world.libvirt.define(uuid_of(n), f"db-{n}") for n in (1, 2)]
        for domain in domains:
            await world.libvirt.start(domain)
        one, two = await world.all_heartbeating(2)
        one.vanish()
        await world.libvirt.become(domains[0], SHUT_OFF, 4, "Stopped Migrated")
        await world.sleep(10)
        assert set(world.host.groups.rule.members) == {two.uuid}


async def test_before_libvirt_has_told_a_name_nothing_may_go_down() -> None:
    async with world_of(group("db-*", max_unavailable=1), libvirt=ON) as world:
        world.libvirt.hang()
        await world.restart_host(HostMemory())
        guest = world.guest().appear()
        await world.sleep(5)
        expected = (
            "groups: libvirt ([libvirt] enabled) has not told the name yet, which may be a member's"
        )
        assert world.host.groups.refusal(guest.uuid, Event.STOP) == expected


# -- corrective commands --------------------------------------------------------------------------


async def test_a_corrective_command_waits_for_a_member_that_an_action_takes_down() -> None:
    async with world_of() as world:
        one, two, _ = await world.all_heartbeating(3)
        await world.act(one, ActionName.REBOOT, "slow", "x")
        falls_silent(two)
        await world.sleep(10)
        assert not_acted(world) == [(two.uuid, "group", f"reboot not run: {blocked(one)}")]
        why = world.host.corrective.why_not(two.uuid)
        assert why is not None
        assert why.words == f"group: {blocked(one)}"
        assert two.uuid not in [uuid for _, uuid in started(world)]
        # The action ends with the end of RESTART, as its guest never went down.
        await world.sleep(130)
        assert [uuid for _, uuid in started(world)] == ["x", two.uuid]
        # Once, although it waited for long.
        assert len(not_acted(world)) == 1


async def test_it_waits_no_longer_than_it_may() -> None:
    async with world_of(group(max_unavailable=1, delay_s=30.0)) as world:
        one, two, _ = await world.all_heartbeating(3)
        await world.act(one, ActionName.REBOOT, "hang")
        falls_silent(two)
        began = now()
        await world.sleep(60)
        ((at, uuid),) = started(world)
        assert uuid == two.uuid
        # It is lost after 3 s and held for one more; 7 s of fresh challenges and a hold follow.
        assert began + 30 <= at <= began + 50


async def test_one_that_comes_back_in_the_wait_is_left_alone() -> None:
    async with world_of(group(max_unavailable=1, delay_s=30.0)) as world:
        one, two, _ = await world.all_heartbeating(3)
        await world.act(one, ActionName.REBOOT, "hang")
        falls_silent(two)
        await world.sleep(10)
        comes_back(two)
        await world.sleep(60)
        assert started(world) == []


async def test_it_does_not_wait_for_one_that_is_lost_by_itself() -> None:
    async with world_of() as world:
        one, two, three = await world.all_heartbeating(3)
        one.send_exit()
        one.vanish()
        await world.sleep(5)
        falls_silent(two)
        await world.sleep(10)
        assert [uuid for _, uuid in started(world)] == [two.uuid]
        assert not_acted(world) == []
        assert world.channel(three).heartbeating


async def test_of_several_that_are_lost_the_oldest_goes_first_and_the_others_follow() -> None:
    async with world_of(reboot="slow") as world:
        guests = await world.all_heartbeating(3)
        for guest in reversed(guests):
            falls_silent(guest)
            await world.sleep(1)
        await world.sleep(10)
        assert [uuid for _, uuid in started(world)] == [guests[2].uuid]
        await world.sleep(15)  # the command is over; its VM restarts
        assert [uuid for _, uuid in started(world)] == [guests[2].uuid]
        comes_back(guests[2])
        await world.sleep(15)
        assert [uuid for _, uuid in started(world)] == [guests[2].uuid, guests[1].uuid]
        await world.sleep(15)
        comes_back(guests[1])
        await world.sleep(20)
        assert [uuid for _, uuid in started(world)] == [guest.uuid for guest in reversed(guests)]


async def test_a_command_that_only_logs_waits_for_nobody() -> None:
    async with host_world(
        groups={"db": group(max_unavailable=1)},
        brake=BrakeSettings(share=1.0),
        corrective_commands=CorrectiveCommands(log=("note", "{uuid}")),
        runs=commands,
    ) as world:
        one, two, _ = await world.all_heartbeating(3, corrective_action="log")
        world.host.groups.hold(one.uuid, Event.STOP, "test")
        falls_silent(two)
        await world.sleep(5)
        assert [moment.argv for moment in world.processes.started] == [("note", two.uuid)]


async def test_what_a_loss_would_bring_says_that_it_would_wait() -> None:
    async with world_of() as world:
        one, two, _ = await world.all_heartbeating(3)
        await world.act(one, ActionName.REBOOT, "hang")
        profile = world.channel(two).heartbeat.profile
        foresight = world.host.corrective.foresee(two.uuid, profile.corrective_action, None)
        assert attrs.asdict(foresight.decision)["cause"] == "group"


# -- restarts -------------------------------------------------------------------------------------


async def test_an_action_that_is_resumed_has_its_place_again(store: MemoryStore) -> None:
    async with world_of(memory=store.memory()) as world:
        one, two, _ = await world.all_heartbeating(3)
        one.reply = lambda request: None
        await world.act(one, ActionName.STOP, "cmd")
        await world.sleep(1)
        await world.stop_host()
        one.reply = agree
        await world.restart_host(store.memory(), away_s=1.0)
        await world.settle()
        assert one.uuid in world.host.actions
        expected = f"group db: {one.uuid} is stopping"
        assert world.host.groups.refusal(two.uuid, Event.STOP).startswith(expected)


async def accepted(world: HostWorld, guest: ScriptedGuest) -> None:
    """The VIM's vote to reboot a guest is accepted; its notice is next, within a minute."""
    vote = world.host.rounds.open(world.channel(guest), Event.REBOOT, VOTE, by_vim=True)
    await vote.done.wait()
    await world.sleep(1)


async def test_an_accepted_vote_has_its_place_over_a_restart_until_it_lapses(
    store: MemoryStore,
) -> None:
    async with world_of(memory=store.memory()) as world:
        one, two, _ = await world.all_heartbeating(3)
        await accepted(world, one)
        began = trio.current_time()
        await world.restart_host(store.memory(), away_s=1.0)
        await world.sleep(5)
        assert world.host.groups.refusal(two.uuid, Event.STOP) == blocked(one)
        await world.at(began + NEXT_STEP_S - 2)
        assert world.host.groups.refusal(two.uuid, Event.STOP) == blocked(one)
        await world.at(began + NEXT_STEP_S + 1)
        assert world.host.groups.refusal(two.uuid, Event.STOP) == ""
        await world.sleep(1)
        assert (await store.recall()).holds == ()


async def test_an_end_notice_after_the_restart_gives_it_back(store: MemoryStore) -> None:
    async with world_of(memory=store.memory()) as world:
        one, two, _ = await world.all_heartbeating(3)
        await accepted(world, one)
        await world.restart_host(store.memory(), away_s=1.0)
        await world.sleep(5)
        world.host.rounds.open(
            world.channel(one), Event.LIVE_MIGRATE_END, NotificationType.IRREVOCABLE, by_vim=True
        )
        assert world.host.groups.refusal(two.uuid, Event.STOP) == ""
        await world.sleep(1)
        assert (await store.recall()).holds == ()


async def test_an_accepted_vote_that_lapsed_while_the_host_was_away(store: MemoryStore) -> None:
    async with world_of(memory=store.memory()) as world:
        one, two, _ = await world.all_heartbeating(3)
        await accepted(world, one)
        await world.restart_host(store.memory(), away_s=NEXT_STEP_S)
        await world.sleep(5)
        assert world.host.groups.refusal(two.uuid, Event.STOP) == ""
        await world.sleep(1)
        assert (await store.recall()).holds == ()
