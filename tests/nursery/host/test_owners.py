"""One owner per instance: actions, votes, notices and corrective commands, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

import pytest

from hbtrio.api.host_status import instance_status
from hbtrio.config.host import BrakeSettings, CorrectiveCommands
from hbtrio.config.windows import VetoSettings
from hbtrio.fsm.ballot import Outcome
from hbtrio.fsm.heartbeat.table import HeartbeatState
from hbtrio.fsm.ownership import Owner
from hbtrio.nursery.host.outside_rounds import InstanceOwned
from hbtrio.nursery.host.round import Round
from hbtrio.wire.channel_codec import encode
from hbtrio.wire.channel_messages import ActionNotify, ActionResponse, ChallengeResponse
from hbtrio.wire.vocabulary import ActionName, Event, Health, VoteResult
from support.fake_processes import FakeRun
from support.host_world import VOTE, HostWorld, Reply, ScriptedGuest, host_world, now, stay_silent

pytestmark = pytest.mark.usefixtures("autojump_clock")


def owner(world: HostWorld, guest: ScriptedGuest) -> Owner:
    return world.host.owners.of(guest.uuid).owner


def commands(argv: Sequence[str]) -> FakeRun:
    return FakeRun(delay_s=20.0) if argv[0] in ("reset", "slow") else FakeRun()


def owned_world() -> AbstractAsyncContextManager[HostWorld]:
    return host_world(
        corrective_commands=CorrectiveCommands(reboot=("reset", "{uuid}")),
        brake=BrakeSettings(share=1.0),
        runs=commands,
    )


async def open_vote(
    world: HostWorld, guest: ScriptedGuest, *, by_vim: bool = True
) -> tuple[Round, ActionNotify]:
    """A vote that the guest has not answered, and what it was asked."""
    asked: list[ActionNotify] = []
    guest.reply = asked.append
    if by_vim:
        vote = await world.vim_vote(guest, Event.STOP)
    else:
        vote = world.vote(guest, Event.STOP)
        await world.settle()
    return vote, asked[-1]


def falls_silent(guest: ScriptedGuest) -> None:
    guest.answers_after_s, guest.sends_init = None, False


async def hanging(world: HostWorld, *votes: Event) -> ScriptedGuest:
    """A guest that hangs from 4.5 s on; at 2 s it has accepted these votes."""
    guest = await world.heartbeating()
    await world.at(2)
    for event in votes:
        await world.vim_vote(guest, event)
    await world.at(4.5)
    falls_silent(guest)
    return guest


def not_acted(world: HostWorld) -> list[tuple[float, str, str]]:
    return [
        ((report.time.timestamp() - 1767225600), report.cause, report.reason)
        for report in world.host.reports.recent
        if report.cause
    ]


def started(world: HostWorld) -> list[tuple[float, str]]:
    return [(round(moment.time_s, 6), moment.argv[0]) for moment in world.processes.started]


async def test_an_accepted_vote_of_the_vim_owns_for_60_s() -> None:
    async with owned_world() as world:
        guest = await world.heartbeating()
        await world.at(2)
        await world.vim_vote(guest, Event.PAUSE)
        assert owner(world, guest) is Owner.ORCHESTRATOR
        await world.at(61.9)
        assert owner(world, guest) is Owner.ORCHESTRATOR
        await world.at(62)
        assert owner(world, guest) is Owner.NOBODY


async def test_a_rejected_vote_owns_nothing() -> None:
    async with owned_world() as world:
        guest = await world.heartbeating()
        guest.reply = lambda _: Reply(VoteResult.REJECT, "busy")
        await world.vim_vote(guest, Event.PAUSE)
        assert owner(world, guest) is Owner.NOBODY


async def test_a_vote_asked_alone_owns_nothing() -> None:
    async with owned_world() as world:
        guest = await world.heartbeating()
        world.vote(guest, Event.PAUSE)
        await world.settle()
        assert owner(world, guest) is Owner.NOBODY


def reports_of_illness(world: HostWorld) -> list[float]:
    return [report[0] for report in world.reports() if report[1] == "unhealthy"]


@pytest.mark.parametrize("asks", ["the VIM", "an action", "an operator", "the VIM, in vain"])
async def test_ill_health_after_an_accepted_vote_is_kept_if_an_action_has_begun(asks: str) -> None:
    async with owned_world() as world:
        guest = await world.heartbeating()
        guest.answers_after_s, guest.reply = None, stay_silent
        match asks:
            case "an operator":
                world.vote(guest, Event.PAUSE)
            case "an action":
                await world.act(guest, ActionName.PAUSE, "slow")
            case _:
                await world.vim_vote(guest, Event.PAUSE)
        await world.at(2.5)
        says = VoteResult.REJECT if asks == "the VIM, in vain" else VoteResult.ACCEPT
        vote, challenge = guest.asked, guest.challenges[-1].heartbeat_challenge
        # Read in one go: nothing else runs between them.
        guest.peer.send_bytes(
            encode(ActionResponse(vote.invocation_id, vote.event_type, VOTE, says, ""), 2)
            + encode(ChallengeResponse(challenge, Health.UNHEALTHY, guest.action, "load"), 3)
        )
        await world.settle()
        assert world.channel(guest).heartbeat.health is Health.UNHEALTHY
        begun = asks in ("the VIM", "an action")
        assert reports_of_illness(world) == ([] if begun else [2.5])


async def test_ill_health_after_a_vote_of_the_vim_is_reported_if_no_notice_follows() -> None:
    async with owned_world() as world:
        guest = await world.heartbeating()
        await world.at(2)
        await world.vim_vote(guest, Event.PAUSE)
        guest.health, guest.log_msg = Health.UNHEALTHY, "load"
        await world.at(61.9)
        assert reports_of_illness(world) == []
        await world.at(64)
        (at,) = reports_of_illness(world)
        assert 62 <= at <= 63


async def test_a_notice_owns_until_the_end_notice() -> None:
    async with owned_world() as world:
        guest = await world.heartbeating()
        world.notice(guest, Event.PAUSE)
        await world.at(200)
        assert owner(world, guest) is Owner.ORCHESTRATOR
        world.notice(guest, Event.UNPAUSE)
        assert owner(world, guest) is Owner.NOBODY


async def test_without_an_end_notice_it_lapses_at_the_call_off_time() -> None:
    async with owned_world() as world:
        guest = await world.heartbeating()
        await world.at(2)
        world.notice(guest, Event.STOP)
        # The notice's window of 10 s, and 300 s.
        await world.at(311.9)
        assert owner(world, guest) is Owner.ORCHESTRATOR
        await world.at(312)
        assert owner(world, guest) is Owner.NOBODY


async def test_under_an_action_a_vote_is_refused_and_a_notice_is_delivered() -> None:
    async with owned_world() as world:
        guest = await world.heartbeating()
        await world.act(guest, ActionName.UNPAUSE, "slow")
        with pytest.raises(InstanceOwned, match=r"an operator's action \(unpause\)"):
            world.vote(guest, Event.STOP)
        world.notice(guest, Event.PAUSE)
        assert owner(world, guest) is Owner.OPERATOR


@pytest.mark.parametrize("answer", [VoteResult.ACCEPT, None], ids=["accepted", "unanswered"])
async def test_a_vote_of_the_vim_in_which_an_action_begins_is_rejected_at_its_end(
    answer: VoteResult | None,
) -> None:
    """The guest handles one vote at a time: the action waits for this one, and owns the VM."""
    async with owned_world() as world:
        guest = await world.heartbeating()
        vote, asked = await open_vote(world, guest)
        await world.act(guest, ActionName.UNPAUSE, "slow")
        assert vote.outcome is None
        if answer is not None:
            guest.answer_vote(asked, Reply(answer))
        await world.sleep(0.1 if answer else vote.window.seconds + 2.0)
        reason = "an operator's action (unpause) is in progress"
        assert vote.outcome == Outcome(VoteResult.REJECT, reason)
        assert owner(world, guest) is Owner.OPERATOR


async def test_a_reject_in_which_an_action_begins_stands_with_its_own_reason() -> None:
    async with host_world(veto=VetoSettings(max_rejects=1), runs=commands) as world:
        guest = await world.heartbeating()
        for number in range(2):  # the second is one too many, and would be overridden
            vote, asked = await open_vote(world, guest)
            if number:
                await world.act(guest, ActionName.UNPAUSE, "slow")
            guest.answer_vote(asked, Reply(VoteResult.REJECT, "busy"))
            await world.sleep(0.1)
            assert vote.outcome == Outcome(VoteResult.REJECT, "busy")


async def test_a_vote_of_the_vim_after_whose_end_an_action_begins_stays_accepted() -> None:
    async with owned_world() as world:
        guest = await world.heartbeating()
        vote = await world.vim_vote(guest, Event.STOP)
        await world.act(guest, ActionName.UNPAUSE, "slow")
        await world.sleep(1.0)
        assert vote.outcome == Outcome(VoteResult.ACCEPT, "")


async def test_what_is_only_a_question_ends_under_an_action_as_the_guest_says() -> None:
    async with owned_world() as world:
        guest = await world.heartbeating()
        vote, asked = await open_vote(world, guest, by_vim=False)
        await world.act(guest, ActionName.UNPAUSE, "slow")
        guest.answer_vote(asked, Reply(VoteResult.ACCEPT))
        await world.sleep(0.1)
        assert vote.outcome == Outcome(VoteResult.ACCEPT, "")


async def test_a_loss_under_a_vote_is_reported_and_decided_anew_once_it_has_lapsed() -> None:
    async with owned_world() as world:
        guest = await hanging(world, Event.REBOOT)
        await world.at(61)
        text = "reboot not run: an announced event (reboot) is in progress"
        assert [(cause, reason) for _, cause, reason in not_acted(world)] == [("owner", text)]
        assert started(world) == []
        status = instance_status(world.host, world.channel(guest), now())
        assert status.owner == "an announced event (reboot)"
        assert status.not_acted == "owner: an announced event (reboot) is in progress"
        await world.at(120)
        # Lapsed at 62; silent under fresh challenges for 7 s, and held for one interval.
        assert started(world) == [(70.0, "reset")]
        assert len(not_acted(world)) == 1


async def test_ill_health_under_an_action_is_reported_and_decided_anew_once_it_has_ended() -> None:
    async with owned_world() as world:
        guest = await world.heartbeating()
        await world.at(2)
        await world.act(guest, ActionName.UNPAUSE, "slow", force=True)
        guest.health, guest.log_msg = Health.UNHEALTHY, "load"
        await world.at(21)
        assert len(reports_of_illness(world)) == 1
        text = "reboot not run: an operator's action (unpause) is in progress"
        assert [(cause, reason) for _, cause, reason in not_acted(world)] == [("owner", text)]
        assert started(world) == [(2.0, "slow")]
        await world.at(60)
        assert [name for _, name in started(world)] == ["slow", "reset"]


async def test_one_that_answers_when_its_owner_has_gone_is_left_alone() -> None:
    async with owned_world() as world:
        guest = await hanging(world, Event.REBOOT)
        await world.at(65)
        guest.answers_after_s = 0.0
        await world.at(300)
        assert started(world) == []
        assert world.channel(guest).heartbeating


async def test_an_action_waits_for_the_corrective_command_that_runs() -> None:
    async with owned_world() as world:
        guest = await hanging(world)
        await world.at(10)
        assert owner(world, guest) is Owner.COMMAND
        acted = await world.act(guest, ActionName.STOP, "stop-it", force=True)
        assert acted.lines[0] == {
            "step": "command",
            "waiting": "a corrective command (reboot) is in progress",
        }
        await world.at(27.9)
        assert started(world) == [(8.0, "reset")]
        await world.at(29)
        assert started(world) == [(8.0, "reset"), (28.0, "stop-it")]
        assert owner(world, guest) is Owner.OPERATOR
        guest.vanish()
        await world.at(31)
        assert owner(world, guest) is Owner.NOBODY


async def test_an_action_that_takes_over_ends_the_command() -> None:
    async with owned_world() as world:
        guest = await hanging(world)
        await world.at(10)
        world.host.begin_action(
            guest.uuid, ActionName.STOP, ("stop-it",), force=True, take_over=True
        )
        await world.at(11)
        assert started(world) == [(8.0, "reset"), (10.0, "stop-it")]
        assert [moment.argv[0] for moment in world.processes.cancelled] == ["reset"]
        outcomes = [one.outcome for one in world.host.reports.recent if one.outcome]
        assert outcomes == ["ended"]


async def test_an_action_cancels_a_command_that_has_not_started() -> None:
    async with owned_world() as world:
        guest = await hanging(world)
        await world.at(7.5)  # lost, and held for one interval
        assert world.channel(guest).heartbeat.state is HeartbeatState.LOST
        await world.act(guest, ActionName.REBOOT, "cmd", force=True)
        await world.at(9)
        assert started(world) == [(7.5, "cmd")]
