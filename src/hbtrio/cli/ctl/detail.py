"""Everything about one instance, as ``kubectl describe`` shows it."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import msgspec

from hbtrio.cli.ctl.facts import Fact, write_facts, write_paragraph
from hbtrio.cli.ctl.instances import instance_of
from hbtrio.cli.ctl.past import happened
from hbtrio.cli.ctl.screen import Screen
from hbtrio.cli.ctl.table import HEALTH_COLOURS, STATE_COLOURS, counted
from hbtrio.cli.ctl.times import moment, span_since, stamp
from hbtrio.cli.ctl.views import hold_words, planned_words, policy_words, what_happened
from hbtrio.cli.ctl.voters import write_voters
from hbtrio.client.client import AnyDetail, CtlClient
from hbtrio.errors import ExitStatus, UserError
from hbtrio.wire.operator import (
    AnyEventLine,
    CorrectiveLine,
    EventFilter,
    InstanceDetail,
    LookLine,
    NextLossLine,
    RoundEntry,
)

#: Events, and entries about corrective commands, that are shown.
_EVENTS: Final = 10
_CORRECTIVE: Final = 5

_PLACEHOLDER: Final = re.compile(r"\{\w+\}")

#: What belongs to the corrective history.
CORRECTIVE_KINDS: Final = frozenset({"corrective", "not-acted"})


async def show_detail(client: CtlClient, screen: Screen, options: argparse.Namespace) -> int:
    """Shows everything about an instance.

    Raises:
        UserError: what went wrong.
    """
    uuid = await instance_of(options.uuid, client)
    detail = await client.instance(uuid)
    events = await happened(client, EventFilter(uuid=uuid), _EVENTS)
    corrective = await happened(client, EventFilter(uuid=uuid, kinds=CORRECTIVE_KINDS), _CORRECTIVE)
    if options.json:
        whole: dict[str, Any] = await client.members(uuid)
        whole["events"] = [msgspec.to_builtins(line) for line in events]
        whole["corrective_history"] = [msgspec.to_builtins(line) for line in corrective]
        screen.json(whole, indent=2)
        return ExitStatus.DONE
    look = None if isinstance(detail, InstanceDetail) else await _look(client, uuid)
    write_facts(screen, facts_of(detail, look))
    write_voters(screen, detail)
    _write_events(screen, "Corrective history", corrective)
    _write_events(screen, "Last events", events)
    return ExitStatus.DONE


async def _look(client: CtlClient, uuid: str) -> LookLine | None:
    """What an agent's host sees of an instance now; None: the agent or the host does not tell."""
    try:
        look = await client.line(uuid, LookLine, "/look")
    except UserError as fault:
        if fault.status is not ExitStatus.FAILED:
            raise
        return None
    return None if look.why else look


def _write_events(screen: Screen, title: str, events: Sequence[AnyEventLine]) -> None:
    if not events:
        return
    screen.line()
    screen.line(f"{title}:")
    for one in events:
        head, colour, outcome = what_happened(one)
        write_paragraph(screen, f"  {stamp(one.time)}  ", f"{head}{outcome}", colour)


def facts_of(one: AnyDetail, look: LookLine | None = None) -> Iterator[Fact]:
    """What is known of an instance, as terms and values.

    Args:
        one: as a host or agent reports it.
        look: of an agent's, what its host sees of it now.
    """
    yield Fact("Name", [one.name or "unknown: its guest has not said it"])
    yield Fact("Hold", [hold_words(one.hold)], "warn")
    yield Fact("UUID", [one.uuid])
    yield Fact("Host", [one.hostname])
    since = "" if one.since is None else f" since {moment(one.since)}{span_since(one.since)}"
    why = f": {one.why}" if one.why else ""
    yield Fact("State", [f"{one.state}{since}{why}"], STATE_COLOURS.get(one.state, ""))
    yield from _health(one)
    yield from _heartbeat(one, look)
    yield Fact("Domain", [_domain(one)])
    yield Fact("Groups", [", ".join(one.groups)])
    yield Fact("In progress", list(in_progress(one)))
    yield Fact("Windows", [", ".join(f"{kind} {s:g} s" for kind, s in one.windows_s.items())])
    yield Fact("Asks for", [one.corrective_action or ""])
    yield Fact("Planned", [planned_words(one.planned)], "warn")
    if isinstance(one, InstanceDetail):
        yield Fact("Policy", [policy_words(one.policy)])
        yield Fact("Socket", [one.path])
    yield Fact("Next loss", [] if one.next_loss is None else list(_next_loss(one.next_loss)))
    seen = one if isinstance(one, InstanceDetail) else look
    yield Fact("Not acted", [] if seen is None else [seen.not_acted], "bad")
    if isinstance(one, InstanceDetail):
        yield Fact("Commands", [] if one.corrective is None else [_commands(one.corrective)])


def _health(one: AnyDetail) -> Iterator[Fact]:
    reason = one.health_reason if isinstance(one, InstanceDetail) else ""
    text = f"{one.health}: {reason}" if reason else one.health
    yield Fact("Health", [text], HEALTH_COLOURS.get(one.health, ""))


def _heartbeat(one: AnyDetail, look: LookLine | None) -> Iterator[Fact]:
    interval = f"every {one.interval_ms} ms" if one.interval_ms else ""
    reporting = "losses are reported" if one.reporting else "losses are not reported"
    if not isinstance(one, InstanceDetail):
        numbers = "" if look is None else _numbers(look)
        yield Fact("Heartbeat", ["; ".join(filter(None, (interval, numbers, reporting)))])
        yield Fact("Link", [f"{one.link} (its host's, to this agent)" if one.link else ""])
        return
    connected = "connected" if one.connected else "not connected"
    texts = (interval, connected, _numbers(one), reporting)
    yield Fact("Heartbeat", ["; ".join(filter(None, texts))])


def _numbers(one: InstanceDetail | LookLine) -> str:
    numbers = [counted(one.beats, "beat"), f"{one.missed} missed"]
    if one.late_answers:
        numbers.append(counted(one.late_answers, "late answer"))
    if isinstance(one, InstanceDetail) and one.faulty_messages:
        numbers.append(counted(one.faulty_messages, "faulty message"))
    if one.round_trip_ms is not None:
        numbers.append(f"RTT {one.round_trip_ms:.1f} ms")
    return ", ".join(numbers)


def _domain(one: AnyDetail) -> str:
    if not isinstance(one, InstanceDetail):
        return ", ".join(filter(None, (one.domain, one.domain_state)))
    if one.domain is None:
        return ""
    return f"{one.domain.name}, {one.domain.state} since {moment(one.domain.since)}"


def in_progress(one: AnyDetail) -> Iterator[str]:
    """What is in progress on an instance, each with the time left."""
    if one.action:
        yield f"the action {one.action}"
    if one.open is not None:
        yield _round(one.open)
    elif not isinstance(one, InstanceDetail):
        yield from map(_round, one.rounds)
    if one.restart_remaining_s is not None:
        yield f"RESTART window, {one.restart_remaining_s:.0f} s left"
    if isinstance(one, InstanceDetail) and one.owner:
        yield f"owner: {one.owner}"


def _round(entry: RoundEntry) -> str:
    window = f"{entry.window} window, " if entry.window else ""
    on = "on" if entry.kind == "vote" else "of"
    extended = f", {entry.extended}" if entry.extended else ""
    return f"{entry.kind} {on} {entry.event}: {window}{entry.remaining_s:.0f} s left{extended}"


def _next_loss(one: NextLossLine) -> Iterator[str]:
    command = command_words(one.argv)
    match one.does:
        case "command":
            yield f"runs {command}"
        case "dry-run":
            yield f"reports that it would run {command} (dry_run)"
        case "alarm":
            yield f"an alarm to the VIM, which asks for {one.action}"
        case _:
            cause = f"{one.cause}: " if one.cause else ""
            yield f"nothing is done: {cause}{one.why}"
    if one.asks:
        yield f"unless one of these says otherwise: {', '.join(one.asks)}"
    if one.agent:
        yield f"its agent, {one.agent}, is told of the loss"


def command_words(argv: Iterable[str]) -> str:
    """A configured command as one would type it; what stands in braces is replaced later."""
    return " ".join(one if _PLACEHOLDER.fullmatch(one) else shlex.quote(one) for one in argv)


def _commands(one: CorrectiveLine) -> str:
    text = f"{one.used} of {one.per_hour} in the last hour"
    return text if one.next_at is None else f"{text}; the next one at {moment(one.next_at)}"
