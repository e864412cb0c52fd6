"""The facts about the chosen instance, and its voters, one a line."""

from __future__ import annotations

from collections.abc import Iterator

from hbtrio.cli.ctl.board.rows import Row
from hbtrio.cli.ctl.table import HEALTH_COLOURS, STATE_COLOURS
from hbtrio.cli.ctl.times import moment
from hbtrio.cli.ctl.views import hold_words, policy_words
from hbtrio.cli.ctl.voters import (
    NO_VOTERS,
    UNREPORTED,
    VOTER_COLOURS,
    answer_words,
    health_words,
)
from hbtrio.client.client import AnyDetail
from hbtrio.text import printable
from hbtrio.wire.operator import FleetInstanceLine, InstanceLine

#: A fact: what it is, its text, and its colour.
FactLine = tuple[str, str, str]


def detail_lines(row: Row) -> Iterator[FactLine]:
    """What each fact is, the fact as a printable text, and its colour; without those unknown."""
    one = row.instance
    yield "uuid", printable(one.uuid), ""
    yield "name", row.name, "title"
    if one.name and printable(one.name) != row.name:
        yield "in the guest", printable(one.name), ""
    if row.host:
        yield "host", row.host, ""
    yield "state", row.state, STATE_COLOURS.get(row.state, "")
    if one.hold is not None:
        yield "hold", printable(hold_words(one.hold)), "warn"
    yield "why", printable(one.why), ""
    yield "health", row.health, HEALTH_COLOURS.get(row.health, "")
    rest = _of_host(one) if isinstance(one, InstanceLine) else _of_agent(one)
    yield from ((name, printable(text), colour) for name, text, colour in rest if text)


def voter_lines(one: AnyDetail) -> Iterator[FactLine]:
    """The voters of an instance, as :func:`detail_lines` has the facts; the first has a title."""
    if not one.voters:
        if one.voters is not None or one.heartbeating:
            yield "voters", UNREPORTED if one.voters is None else NO_VOTERS, ""
        return
    title = "voters" if one.heartbeating else "last voters"
    for voter in one.voters:
        text, colour = health_words(voter), VOTER_COLOURS.get(voter.health, "")
        yield title, printable(f"{voter.name}: {text}"), colour
        title = ""
        if voter.last is not None:
            yield "", printable(f"  {answer_words(voter.last)}"), ""
    if one.voters_unlisted:
        yield "", f"and {one.voters_unlisted} more", ""


def _of_host(one: InstanceLine) -> Iterator[FactLine]:
    yield "reason", one.health_reason, "bad"
    trip = "" if one.round_trip_ms is None else f", RTT {one.round_trip_ms:.1f} ms"
    every = f" every {one.interval_ms} ms" if one.interval_ms else ""
    yield "beats", f"{one.beats}{every}, {one.missed} missed{trip}", ""
    yield "windows", ", ".join(f"{name} {value:g} s" for name, value in one.windows_s.items()), ""
    yield "when lost", one.corrective_action, ""
    if one.domain is not None:
        since = moment(one.domain.since)
        yield "libvirt", f"{one.domain.name}: {one.domain.state} since {since}", ""
    yield "owner", one.owner, "warn"
    yield "not acted", one.not_acted, "bad"
    yield "policy", policy_words(one.policy), ""
    yield "socket", one.path, ""


def _of_agent(one: FleetInstanceLine) -> Iterator[FactLine]:
    yield "link", one.link, ""
    yield "reported", "yes" if one.reporting else "no", ""
    yield "windows", ", ".join(f"{name} {value:g} s" for name, value in one.windows_s.items()), ""
    yield "when lost", one.corrective_action or "", ""
    yield "libvirt", one.domain_state, ""
