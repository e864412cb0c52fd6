"""The windows that are open on an agent's instances, as its operator API reports them."""

from __future__ import annotations

from collections.abc import Mapping

from hbtrio.nursery.agent.daemon import Agent
from hbtrio.nursery.agent.open_rounds import OpenRound, kind_of
from hbtrio.wire.link_messages import Instance
from hbtrio.wire.operator import RoundEntry
from hbtrio.wire.vocabulary import EVENT_TABLE, Event, NotificationType, window_of


def own_rounds(agent: Agent) -> Mapping[str, OpenRound]:
    """The votes and notices that the agent has opened, by the instance's uuid."""
    return {current.record.uuid: current for current in agent.rounds.ends.open}


def own_entry(current: OpenRound, now: float) -> RoundEntry:
    """A vote or notice that the agent has opened."""
    record = current.record
    return _entry(kind_of(record), record.event, current.machine.agrees_at - now)


def open_entry(
    live: Instance, passed_s: float, own: OpenRound | None, now: float, *, linked: bool
) -> RoundEntry | None:
    """The vote or notice that is open on an instance; None if there is none, as far as is known.

    Args:
        live: the last report of its host.
        passed_s: how long ago that was.
        own: what the agent has opened itself: an older host does not report it.
        now: trio's time.
        linked: whether the host would have reported its end.
    """
    reported = live.open
    if reported is not None:
        left_s = reported.remaining_s - passed_s
        if linked or left_s > 0:
            kind = "vote" if reported.vote else "notice"
            return _entry(kind, reported.event, left_s, reported.extended)
    return None if own is None else own_entry(own, now)


def restart_left_s(live: Instance, passed_s: float, *, linked: bool) -> float | None:
    """What is left of an instance's RESTART window; None if none is open, as far as is known."""
    if live.restart_remaining_s is None:
        return None
    left_s = round(max(0.0, live.restart_remaining_s - passed_s), 3)
    return left_s if linked or left_s > 0 else None


def _entry(kind: str, event: Event, left_s: float, extended: str = "") -> RoundEntry:
    notification = NotificationType.REVOCABLE if kind == "vote" else NotificationType.IRREVOCABLE
    return RoundEntry(
        kind=kind,
        event=str(event),
        # A newer host may know more events.
        window=str(window_of(event, notification)) if event in EVENT_TABLE else "",
        remaining_s=round(max(0.0, left_s), 3),
        extended=extended,
    )
