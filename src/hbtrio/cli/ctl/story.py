"""The story of one instance in sentences: what is, what has happened, what comes next, and why."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import attrs

from hbtrio.cli.ctl.detail import command_words, in_progress
from hbtrio.cli.ctl.sentences import CAUSES, KINDS, NEXT, NOTICES, OUTCOMES, STATES, VOTES
from hbtrio.cli.ctl.times import moment, span_since
from hbtrio.cli.ctl.views import hold_words
from hbtrio.client.client import AnyDetail
from hbtrio.text import reason_after
from hbtrio.wire.operator import AnyEventLine, EventLine, InstanceDetail, NextLossLine


@attrs.frozen
class Story:
    """Sentences.

    Args:
        now: what is the case.
        past: what has happened, each with the daemon's time, the oldest first.
        next: what comes next, and why nothing is done.
    """

    now: tuple[str, ...]
    past: tuple[tuple[str, str], ...]
    next: tuple[str, ...]


def story_of(one: AnyDetail, events: Iterable[AnyEventLine]) -> Story:
    """The story of an instance.

    Args:
        one: what is known of it.
        events: what has happened to it, the oldest first.
    """
    return Story(
        now=tuple(_now(one)),
        past=tuple((event.time, event_sentence(event)) for event in events),
        next=tuple(_next(one)),
    )


def _now(one: AnyDetail) -> Iterator[str]:
    if one.hold is not None:
        yield f"It is {hold_words(one.hold).rstrip('.')}. It is watched, and nothing is done to it."
    since = "" if one.since is None else f" since {moment(one.since)}{span_since(one.since)}"
    why = f": {one.why}" if one.why else ""
    yield f"{one.name or one.uuid} on {one.hostname} is {one.state}{since}{why}."
    if (meaning := STATES.get(one.state)) is not None:
        yield meaning
    if one.heartbeating and one.health == "unhealthy":
        reason = one.health_reason if isinstance(one, InstanceDetail) else ""
        yield f"The guest says that it is ill{_behind(reason)}."
    for what in in_progress(one):
        yield f"In progress: {what}."
    if not one.reporting and one.state != "not watched":
        yield "The VIM has turned off the reports about the instance: its silence is no loss."
    if not isinstance(one, InstanceDetail) and one.link not in ("", "up"):
        yield f"The link of its host to this agent is {one.link}: what is known may be out of date."


def event_sentence(event: AnyEventLine) -> str:
    """What has happened, as a sentence."""
    who = "the VIM" if event.who == "vim" else event.who
    results = NOTICES if event.kind == "notice" else VOTES
    words = {
        "reason": _behind(reason_after(f"{event.kind} {event.event}".strip(), event.reason)),
        "action": event.corrective_action or "no corrective action",
        "event": event.event,
        "result": results.get(event.result, event.result),
        "by": f", asked for by {who}" if who else "",
    }
    template = KINDS.get(event.kind)
    text = f"{event.kind}{words['reason']}." if template is None else template.format(**words)
    if isinstance(event, EventLine) and event.outcome in OUTCOMES:
        text = f"{text} {OUTCOMES[event.outcome]}"
    return f"{text} {event.note}." if event.note else text


def _next(one: AnyDetail) -> Iterator[str]:
    if (planned := one.planned) is not None:
        yield f"By order of {planned.who}, {planned.action} is planned."
        yield f"Its guest is asked from {moment(planned.not_before)} on{_behind(planned.reason)}."
        end = "given up" if planned.gives_up else "done without its vote"
        yield f"At {moment(planned.before)} it is {end}."
    if isinstance(one, InstanceDetail) and one.not_acted:
        yield from not_acted_sentences(one)
        return
    if one.next_loss is not None:
        yield next_loss_sentence(one.next_loss)
        if one.next_loss.agent:
            yield f"Its agent, {one.next_loss.agent}, would be told of the loss."
        if (cause := CAUSES.get(one.next_loss.cause)) is not None:
            yield cause.until.format(next_at=_next_at(one))


def not_acted_sentences(one: InstanceDetail) -> Iterator[str]:
    """Why nothing is done about an instance that has failed, and what ends that."""
    word, _, text = one.not_acted.partition(": ")
    cause = CAUSES.get(word)
    if cause is None:
        yield f"Nothing is done: {one.not_acted}."
        return
    owner = f" ({one.owner})" if one.owner else ""
    yield f"Nothing is done now{_behind(text)}."
    yield cause.because.format(owner=owner)
    yield cause.until.format(next_at=_next_at(one))


def next_loss_sentence(one: NextLossLine) -> str:
    """What would follow from a loss of this moment."""
    asks = f", unless {' or '.join(one.asks)} says otherwise" if one.asks else ""
    template = NEXT.get(one.does, NEXT["nothing"])
    words = {"command": command_words(one.argv), "asks": asks, "action": one.action}
    return template.format(**words, why=one.why or one.cause or one.does)


def _next_at(one: AnyDetail) -> str:
    if not isinstance(one, InstanceDetail) or one.corrective is None:
        return ""
    return "" if one.corrective.next_at is None else f", at {moment(one.corrective.next_at)}"


def _behind(reason: str) -> str:
    return f": {reason.rstrip('.')}" if reason else ""
