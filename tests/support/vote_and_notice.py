"""A vote of one VM and a notice of another, side by side: where they are, and how they end.

A moment is a place in their course at which a test strikes: it asks, and returns when both are
there. What was held up at the link, by the VIM or in the guests goes on when the test says so.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress

import attrs
import trio

from hbtrio.lab.vim_server import Mood
from hbtrio.policy.allowances import told_timeout_s
from support.real_fleet import Fleet, Question, Row
from support.real_processes import SOON_S, until

#: A window that is long enough for any restart.
LONG_S = 30
#: The timer that the VIM is told for it.
LONG_TOLD_S = told_timeout_s(LONG_S)

#: How a verdict is delivered: as usual, by an agent that was killed, to a VIM that was.
CLOSED = ("unconfirmed", "closed without an answer")
INTERRUPTED = ("unconfirmed", "the agent ended while it was being sent")
RESET = ("unconfirmed", "reset")


@attrs.frozen
class VoteAndNotice:
    """A vote and a notice that are in progress."""

    fleet: Fleet
    questions: list[Question] = attrs.field(factory=list)

    def ask(self) -> None:
        self.questions[:] = [
            self.fleet.begin(vm, verb)
            for vm, verb in zip(self.fleet.vms, ("vote", "notify"), strict=True)
        ]

    async def replied(self) -> None:
        """Returns once the VIM has the replies."""
        with trio.fail_after(SOON_S):
            for question in self.questions:
                await question.over.wait()

    async def stored(self) -> None:
        """Returns once the store has both. A vote is sent to the host while it is being stored, so
        one that is at the link may still be forgotten by an agent that is killed."""
        await until(lambda: all(len(self.fleet.rows(q.vm)) > q.row for q in self.questions))

    async def in_state(self, *states: str) -> None:
        """Returns once both verdicts are in one of these states."""
        await until(lambda: all(row.state in states for row in self.rows()))

    def rows(self) -> list[Row]:
        """What the store has of them; for each a row that says nothing where there is none."""
        found = [self.fleet.rows(question.vm)[question.row :] for question in self.questions]
        return [(*rows, Row())[0] for rows in found]


async def before_the_host_is_asked(asked: VoteAndNotice) -> None:
    asked.fleet.link.to_host.hold("round")
    asked.ask()
    await asked.fleet.link.to_host.held(2)
    await asked.stored()


async def before_the_reply(asked: VoteAndNotice) -> None:
    asked.fleet.link.to_agent.hold("reply")
    asked.ask()
    await asked.fleet.link.to_agent.held(2)
    await asked.stored()


async def before_the_reply_of_a_guest_that_has_answered(asked: VoteAndNotice) -> None:
    """The outcome may come before the host's reply to the command."""
    asked.fleet.link.to_agent.hold("reply", alone=True)
    asked.ask()
    await asked.in_state("queued")


async def right_after_the_reply(asked: VoteAndNotice) -> None:
    hold(asked)
    asked.ask()
    await asked.replied()


async def while_the_guest_thinks(asked: VoteAndNotice) -> None:
    hold(asked)
    told = asked.fleet.scene.script_lines
    since = told.end
    asked.ask()
    await asked.replied()
    await until(lambda: all(row.replied for row in asked.rows()))
    for vm in asked.fleet.vms:
        begun = ["handler", vm.name]
        await told.wait_for(lambda line, b=begun: line[:2] == b, within_s=SOON_S, since=since)


async def while_the_outcome_is_on_its_way(asked: VoteAndNotice) -> None:
    hold(asked)  # one's outcome must not hold up the other's reply
    asked.ask()
    await asked.replied()
    asked.fleet.link.to_agent.hold("outcome")
    let_go(asked)
    await asked.fleet.link.to_agent.held(2)


async def while_the_vim_is_down(asked: VoteAndNotice) -> None:
    asked.fleet.vim.go_down()
    asked.ask()
    await asked.replied()
    await asked.in_state("queued")
    await until(lambda: any(row.attempts for row in asked.rows()))


async def while_the_vim_reads(asked: VoteAndNotice) -> None:
    asked.fleet.vim.mood = Mood.BUSY
    asked.ask()
    await asked.replied()
    await asked.in_state("sending")


async def while_the_vim_hesitates(asked: VoteAndNotice) -> None:
    """It has read all and says nothing."""
    asked.fleet.vim.mood = Mood.STALL
    asked.ask()
    await heard(asked)


async def before_the_host_knows_that_it_is_kept(asked: VoteAndNotice) -> None:
    """All is over but the acknowledgement."""
    asked.fleet.link.to_host.hold("ack", alone=True)
    asked.ask()
    await heard(asked)
    await asked.in_state("unconfirmed")
    await asked.fleet.link.to_host.held(1)


async def reset_by_the_vim(asked: VoteAndNotice) -> None:
    """A VIM that hesitates is killed."""
    await while_the_vim_hesitates(asked)
    asked.fleet.vim.go_down()
    await asked.in_state("unconfirmed")


Moment = Callable[[VoteAndNotice], Awaitable[None]]


def hold(asked: VoteAndNotice, first: int = 0) -> None:
    for vm in asked.fleet.vms[first:]:
        (vm.directory / "hold").touch()


def let_go(asked: VoteAndNotice) -> None:
    for vm in asked.fleet.vms:
        (vm.directory / "hold").unlink(missing_ok=True)


async def heard(asked: VoteAndNotice) -> None:
    """Returns once the VIM has got a verdict of each since it asked."""
    fleet = asked.fleet
    with trio.fail_after(SOON_S):
        await fleet.vim.wait_until(
            lambda: all(fleet.verdicts(q.vm, q.since) for q in asked.questions)
        )


# -- what has become of each ----------------------------------------------------------------------


@attrs.frozen
class End:
    """How a vote or notice has ended: for the VIM, for the agent's store, and in its outbox."""

    #: The timer that the VIM was told; None: it has got no reply, or a refusal.
    seconds: int | None
    #: What the VIM has got: the response and its reason.
    verdicts: list[tuple[str, str]]
    result: tuple[str, str]
    delivery: tuple[str, str] = ("", "")
    refusal: str = ""


Expected = Callable[[Question], list[End]]


def own(*delivery: str) -> Expected:
    """The guest's own answer, delivered so."""
    state, fault = delivery or CLOSED
    return lambda q: [End(LONG_TOLD_S, [q.own], (q.own_result, q.own[1]), (state, fault))]


def agreed(why: str) -> Expected:
    """The agent has answered in the guest's place."""
    return lambda q: [End(LONG_TOLD_S, [q.verdict(why)], ("error", why), CLOSED)]


def unanswered(why: str, refusal: str = "") -> Expected:
    """The VIM was told of no window, maybe why, and has got no verdict."""
    return lambda _: [End(None, [], ("error", why), refusal=refusal)]


def answered_in_vain(refusal: str = "") -> Expected:
    """The same, though the guest has answered: the verdict waits for a reply that never was."""
    return lambda q: [End(None, [], (q.own_result, q.own[1]), ("queued", ""), refusal)]


def any_of(*expected: Expected) -> Expected:
    """It depends on a moment that nobody chooses."""
    return lambda q: [end for one in expected for end in one(q)]


def end_of(fleet: Fleet, question: Question) -> End:
    """How a vote or notice has ended, so far."""
    row = fleet.rows(question.vm)[question.row]
    return End(
        question.seconds,
        fleet.verdicts(question.vm, question.since),
        (row.result, row.reason),
        (row.state, row.fault),
        question.refusal,
    )


async def ended(asked: VoteAndNotice, expected: Expected) -> None:
    """Returns once both have ended as expected."""
    fleet = asked.fleet
    with suppress(trio.TooSlowError):
        await until(lambda: all(end_of(fleet, q) in expected(q) for q in asked.questions))
    for question in asked.questions:
        assert end_of(fleet, question) in expected(question)


async def nothing_more(asked: VoteAndNotice) -> None:
    """The next vote and notice have their verdicts, and those before have no other."""
    fleet = asked.fleet
    ends = [end_of(fleet, question) for question in asked.questions]
    fleet.calm()
    fleet.link.up()
    await fleet.ready()
    let_go(asked)
    again = VoteAndNotice(fleet)
    again.ask()
    await again.replied()
    await heard(again)
    for before, question, end in zip(asked.questions, again.questions, ends, strict=True):
        assert fleet.verdicts(before.vm, before.since) == [*end.verdicts, question.own]
