"""`kill -9` of the agent or the host at every step of a vote and a notice, and cut links.

The VIM gets one verdict of each vote and notice that it was told a window for, or none where the
window is over; and none where it was not told. Each time a vote is asked of one VM and a notice of
another, side by side; then something is struck, then all is repaired, and at the end both are asked
again: so whatever was left would be seen, as the verdicts of an instance go in order.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest
import trio

from hbtrio.lab.guest import LabGuest
from hbtrio.lab.scene import event
from hbtrio.lab.vim_server import Mood
from hbtrio.policy.allowances import told_timeout_s
from support.real_fleet import Fleet, Question, open_fleet
from support.real_processes import SOON_S, until
from support.vote_and_notice import (
    CLOSED,
    INTERRUPTED,
    LONG_S,
    LONG_TOLD_S,
    RESET,
    End,
    Expected,
    Moment,
    VoteAndNotice,
    agreed,
    answered_in_vain,
    any_of,
    before_the_host_is_asked,
    before_the_host_knows_that_it_is_kept,
    before_the_reply,
    before_the_reply_of_a_guest_that_has_answered,
    ended,
    hold,
    let_go,
    nothing_more,
    own,
    reset_by_the_vim,
    right_after_the_reply,
    unanswered,
    while_the_guest_thinks,
    while_the_outcome_is_on_its_way,
    while_the_vim_hesitates,
    while_the_vim_is_down,
    while_the_vim_reads,
)

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("home")]

#: What the agent says of it.
UNSAID = "the agent was restarted before its reply"
NO_LINK = "the outcome is unknown: the link to compute-0 is gone"
RESTARTED = "the host daemon was restarted"


# -- what is struck -------------------------------------------------------------------------------


async def kill_the_agent(fleet: Fleet) -> None:
    await fleet.kill_agent()
    fleet.calm()
    await fleet.start_agent()


async def kill_the_host(fleet: Fleet) -> None:
    await fleet.kill_host()
    fleet.calm()
    await fleet.scene.start_host()


async def cut_the_link(fleet: Fleet) -> None:
    await fleet.link.cut()
    fleet.calm()


MATRIX: dict[Callable[[Fleet], Awaitable[None]], dict[Moment, Expected]] = {
    kill_the_agent: {
        before_the_host_is_asked: unanswered(UNSAID),
        before_the_reply: unanswered(UNSAID),
        before_the_reply_of_a_guest_that_has_answered: answered_in_vain(),
        right_after_the_reply: any_of(own(), lambda q: [End(LONG_TOLD_S, [], ("error", UNSAID))]),
        while_the_guest_thinks: own(),
        while_the_outcome_is_on_its_way: own(),
        while_the_vim_is_down: own(),
        while_the_vim_reads: any_of(
            own(*INTERRUPTED),
            lambda q: [End(LONG_TOLD_S, [], (q.own_result, q.own[1]), INTERRUPTED)],
        ),
        while_the_vim_hesitates: own(*INTERRUPTED),
        before_the_host_knows_that_it_is_kept: own(),
    },
    kill_the_host: {
        before_the_host_is_asked: unanswered(NO_LINK, NO_LINK),
        before_the_reply: unanswered(NO_LINK, NO_LINK),
        while_the_guest_thinks: agreed(RESTARTED),
        while_the_outcome_is_on_its_way: agreed(RESTARTED),
        while_the_vim_is_down: own(),
        before_the_host_knows_that_it_is_kept: own(),
    },
    cut_the_link: {
        before_the_host_is_asked: unanswered(NO_LINK, NO_LINK),
        before_the_reply: unanswered(NO_LINK, NO_LINK),
        before_the_reply_of_a_guest_that_has_answered: answered_in_vain(NO_LINK),
        while_the_guest_thinks: own(),
        while_the_outcome_is_on_its_way: own(),
        while_the_vim_is_down: own(),
        reset_by_the_vim: own(*RESET),
        before_the_host_knows_that_it_is_kept: own(),
    },
}


@pytest.mark.parametrize("strike", MATRIX)
async def test_one_verdict(strike: Callable[[Fleet], Awaitable[None]]) -> None:
    async with open_fleet("voter", "hearer", window_s=LONG_S) as fleet:
        for moment, expected in MATRIX[strike].items():
            try:
                await one_verdict(VoteAndNotice(fleet), moment, strike, expected)
            except BaseException as error:
                error.add_note(f"{strike.__name__} {moment.__name__}\n{fleet.logs()}")
                raise
        assert await fleet.crashes() == 0


async def one_verdict(
    asked: VoteAndNotice,
    moment: Moment,
    strike: Callable[[Fleet], Awaitable[None]],
    expected: Expected,
) -> None:
    fleet = asked.fleet
    await moment(asked)
    await strike(fleet)
    await fleet.ready()
    let_go(asked)
    await asked.replied()
    await ended(asked, expected)
    await nothing_more(asked)


# -- windows that end meanwhile -------------------------------------------------------------------

SHORT_S = 2
SHORT_TOLD_S = told_timeout_s(SHORT_S)
SILENT = f"no answer within {SHORT_S} s"
TOO_LATE = ("undelivered", "its window was over before it could be sent")


def silent(question: Question) -> list[End]:
    """The agent has taken silence for agreement in time."""
    return [End(SHORT_TOLD_S, [question.verdict(SILENT)], (agreement(question), SILENT), CLOSED)]


def silent_too_late(question: Question) -> list[End]:
    """It has done so when the VIM did not listen any more."""
    return [End(SHORT_TOLD_S, [], (agreement(question), SILENT), TOO_LATE)]


def restarted(question: Question) -> list[End]:
    """It knows that the process which was asked is no more."""
    return [End(SHORT_TOLD_S, [question.verdict(RESTARTED)], ("error", RESTARTED), CLOSED)]


def agreement(question: Question) -> str:
    return "accept" if question.verb == "vote" else "complete"


async def test_windows_that_end_meanwhile() -> None:
    async with open_fleet("voter", "hearer", window_s=SHORT_S) as fleet:
        for part in (
            the_link_is_down,
            the_host_is_dead,
            the_agent_is_dead,
            both_are_killed,
        ):
            try:
                await part(VoteAndNotice(fleet))
            except BaseException as error:
                error.add_note(f"{part.__name__}\n{fleet.logs()}")
                raise
        assert await fleet.crashes() == 0


async def the_link_is_down(asked: VoteAndNotice) -> None:
    """The outcome comes when the VIM has its verdict."""
    await while_the_outcome_is_on_its_way(asked)
    await asked.fleet.link.down()
    await ended(asked, silent)
    await nothing_more(asked)


async def the_host_is_dead(asked: VoteAndNotice) -> None:
    await while_the_guest_thinks(asked)
    await asked.fleet.kill_host()
    await ended(asked, silent)
    await asked.fleet.scene.start_host()
    await nothing_more(asked)


async def the_agent_is_dead(asked: VoteAndNotice) -> None:
    """One has answered, to an agent whose VIM is down, and one has not."""
    fleet = asked.fleet
    hold(asked, 1)
    fleet.vim.go_down()
    asked.ask()
    over_at = trio.current_time() + SHORT_TOLD_S
    await asked.replied()
    await until(
        lambda: asked.rows()[0].state in ("queued", "undelivered") and asked.rows()[1].replied
    )
    await fleet.kill_agent()
    fleet.calm()
    await trio.sleep_until(over_at)
    await fleet.start_agent()

    def expected(question: Question) -> list[End]:
        if question is asked.questions[1]:
            return silent_too_late(question)
        return [End(SHORT_TOLD_S, [], (question.own_result, question.own[1]), TOO_LATE)]

    await ended(asked, expected)
    await nothing_more(asked)
    undelivered = "SELECT reason FROM history WHERE kind = 'undelivered' AND uuid = ?"
    for vm in asked.fleet.vms:
        assert fleet.read(undelivered, vm.uuid) == [(f"action: {TOO_LATE[1]}",)]


async def both_are_killed(asked: VoteAndNotice) -> None:
    """The window ends while the agent starts or after, or the next host is there before that."""
    await while_the_guest_thinks(asked)
    await asked.fleet.kill_host()
    await asked.fleet.kill_agent()
    await asked.fleet.start_agent()
    await asked.fleet.scene.start_host()
    await ended(asked, any_of(silent, silent_too_late, restarted))
    await nothing_more(asked)


# -- alarms ---------------------------------------------------------------------------------------

FAILED = {"service": "heartbeat", "state": "failed", "repair-action": "reboot"}


async def test_alarms_outlive_agents() -> None:
    async with open_fleet("one", "other", window_s=LONG_S) as fleet:
        one, other = fleet.vms
        vim, events = fleet.vim, fleet.scene.events

        def alarms() -> list[tuple[str, str]]:
            return fleet.read("SELECT uuid, state FROM outbox WHERE kind = 'alarm' ORDER BY id")

        # One is read by a VIM that does not answer, and the agent is killed.
        vim.mood = Mood.STALL
        freeze(one)
        await told_of_losses(fleet, [one])
        assert alarms() == [(one.uuid, "sending")]
        await fleet.kill_agent()
        # Another is lost while there is no agent, and while the VIM is down, too.
        vim.go_down()
        vim.mood = Mood.USUAL
        freeze(other)
        await events.wait_for(event("loss", other), within_s=SOON_S)
        await fleet.start_agent()
        waiting = [(one.uuid, "queued"), (other.uuid, "queued")]
        await until(lambda: alarms() == waiting)
        await fleet.kill_agent()
        await fleet.start_agent()
        assert alarms() == waiting
        vim.come_up()
        await fleet.request("GET", f"/v1/instances/{one.uuid}")
        # What nobody has answered for is sent again.
        await told_of_losses(fleet, [one, one, other])
        await until(lambda: alarms() == [(one.uuid, "delivered"), (other.uuid, "delivered")])
        await told_of_losses(fleet, [one, one, other])
        assert await fleet.crashes() == 0
        for vm in (one, other):
            assert vm.daemon is not None
            vm.daemon.thaw()


def freeze(vm: LabGuest) -> None:
    assert vm.daemon is not None
    vm.daemon.freeze()


async def told_of_losses(fleet: Fleet, vms: list[LabGuest]) -> None:
    """The VIM has got an alarm of each, and no other."""
    with trio.fail_after(SOON_S):
        await fleet.vim.wait_until(lambda: len(fleet.vim.patches("alarm")) >= len(vms))
    got = [(body["uuid"], body["event-data"]["services"]) for body in fleet.vim.patches("alarm")]
    assert sorted(got, key=str) == sorted(((vm.uuid, [FAILED]) for vm in vms), key=str)


# -- at any moment --------------------------------------------------------------------------------

STRIKES = 8


async def test_any_moment() -> None:
    """Votes and notices without end, each VM one at a time as the VIM asks, and many a strike."""
    rng = random.Random(20)

    async def kill_the_agent_twice(fleet: Fleet) -> None:
        """The second time while it starts."""
        await fleet.kill_agent()
        await fleet.launch_agent()
        await trio.sleep(rng.uniform(0.1, 0.4))
        await kill_the_agent(fleet)

    strikes = (kill_the_agent_twice, kill_the_host, cut_the_link, kill_the_agent, kill_the_vim)
    async with open_fleet("a", "b", "c", window_s=LONG_S) as fleet:
        for vm in fleet.vms:
            (vm.directory / "think").write_text("0.1")
        asked: list[Question] = []
        try:
            async with trio.open_nursery() as nursery:
                for vm in fleet.vms:
                    nursery.start_soon(ask_on, fleet, vm, asked)
                for number in range(STRIKES):
                    await trio.sleep(rng.uniform(0.0, 0.5))
                    await strikes[number % len(strikes)](fleet)
                    await fleet.ready()
                nursery.cancel_scope.cancel()
            await until(lambda: fleet.read(UNSETTLED) == [])
            for vm in fleet.vms:
                settled(fleet, vm, [one for one in asked if one.vm is vm])
        except BaseException as error:
            error.add_note(fleet.logs())
            raise
        assert await fleet.crashes() == 0


#: Rounds without a result, and verdicts that will still be sent.
UNSETTLED = """\
SELECT 1 FROM rounds LEFT JOIN outbox ON outbox.command_id = rounds.command_id
WHERE rounds.result = ''
   OR rounds.replied AND (outbox.id IS NULL OR outbox.done_at IS NULL)
"""


async def kill_the_vim(fleet: Fleet) -> None:
    fleet.vim.go_down()
    await trio.lowlevel.checkpoint()
    fleet.calm()


async def ask_on(fleet: Fleet, vm: LabGuest, asked: list[Question]) -> None:
    """A vote, its verdict or a while without one, a notice, and so on."""
    while True:
        for verb in ("vote", "notify"):
            question = Question(vm, verb, len(fleet.verdicts(vm)))
            asked.append(question)
            with trio.CancelScope(shield=True):  # so that none is left half asked
                await fleet.ask(question)
            with trio.move_on_after(0.5 if question.seconds else 0.02):
                await fleet.vim.wait_until(lambda q=question: fleet.verdicts(vm, q.since))


def settled(fleet: Fleet, vm: LabGuest, asked: list[Question]) -> None:
    """Each verdict has reached the VIM once, or it is known that nobody knows."""
    rows = fleet.rows(vm)
    replies = sum(bool(question.seconds) for question in asked)
    assert sum(row.replied for row in rows) <= replies <= len(rows) <= len(asked)
    assert replies > STRIKES
    sent: Counter[tuple[str, str]] = Counter()
    perhaps: Counter[tuple[str, str]] = Counter()
    for row in rows:
        if not row.replied:
            assert row.state in ("", "queued")
            continue
        assert row.verdict is not None
        assert (row.state, row.fault) in (CLOSED, INTERRUPTED, RESET)
        (sent if (row.state, row.fault) == CLOSED else perhaps)[row.verdict] += 1
    got = Counter(fleet.verdicts(vm))
    assert sent <= got <= sent + perhaps
