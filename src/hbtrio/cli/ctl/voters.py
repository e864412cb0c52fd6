"""The voters of one instance, each with its health and its last answer."""

from __future__ import annotations

from typing import Final

from rich.cells import cell_len

from hbtrio.cli.ctl.facts import Fact, write_facts, write_paragraph
from hbtrio.cli.ctl.screen import Screen, padded
from hbtrio.cli.ctl.times import span_since
from hbtrio.client.client import AnyDetail
from hbtrio.text import printable
from hbtrio.wire.operator import VoterLine, VoterRequestLine

#: Colours of a voter's health.
VOTER_COLOURS: Final = {"healthy": "good", "ill": "bad", "silent": "bad"}

#: The widest that the column of the names is made, in cells; a longer name moves its own text.
_NAMES: Final = 20

#: Corrective actions that ask for nothing.
_NOTHING: Final = ("", "none", "unknown")

#: Answers in words that an operator need not look up.
_ANSWERS: Final = {
    "open": "not answered yet",
    "none": "no answer",
    "timeout": "no answer in time",
}


#: What is said of an instance without voters, and of one that does not report them.
NO_VOTERS: Final = "none: no application, and no event script"
UNREPORTED: Final = "unknown: its guest does not report them"


def write_voters(screen: Screen, one: AnyDetail) -> None:
    """Writes the voters of an instance below each other, or why there are none."""
    if one.voters is None:
        if one.heartbeating:
            write_facts(screen, [Fact("Voters", [UNREPORTED])])
        return
    if not one.voters:
        write_facts(screen, [Fact("Voters", [NO_VOTERS])])
        return
    screen.line()
    screen.line("Voters:" if one.heartbeating else "Voters, as last reported:")
    width = min(_NAMES, max(cell_len(printable(voter.name)) for voter in one.voters))
    for voter in one.voters:
        colour = VOTER_COLOURS.get(voter.health, "")
        start = f"  {padded(printable(voter.name), width)}  "
        write_paragraph(screen, start, health_words(voter), colour)
        if voter.last is not None:
            write_paragraph(screen, " " * (width + 4), answer_words(voter.last))
    if one.voters_unlisted:
        screen.line(f"  and {one.voters_unlisted} more")


def health_words(voter: VoterLine) -> str:
    """How a voter is, and what it asks for."""
    if voter.health == "none":
        return "an event script" if not voter.interval_ms else "no health"
    age = "" if voter.since is None else span_since(voter.since)
    text = f"{voter.health}{age}"
    if voter.reason:
        text += f": {voter.reason}"
    every = f", heartbeat every {voter.interval_ms / 1000:g} s" if voter.interval_ms else ""
    if voter.corrective_action in _NOTHING:
        return f"{text}{every}"
    if voter.health == "healthy":
        return f"{text}{every}, {voter.corrective_action} if it hangs"
    return f"{text}; asks for {voter.corrective_action}{every}"


def answer_words(last: VoterRequestLine) -> str:
    """The last vote or notice of a voter, and its answer."""
    reason = f": {last.reason}" if last.reason else ""
    return f"{last.kind} {last.event}{span_since(last.time)}: " + (
        f"{_ANSWERS.get(last.answer, last.answer)}{reason}"
    )
