"""The events that an application rejects for as long as it is registered."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import attrs

from hbtrio.wire.app_messages import AppInhibit
from hbtrio.wire.vocabulary import EVENT_TABLE, Event


def _events(events: Collection[Event | str]) -> frozenset[Event]:
    if isinstance(events, str):
        raise TypeError(f"events: {events!r} is text, not several events")
    for event in sorted(map(str, events)):
        if not any(event == known and rule.voted for known, rule in EVENT_TABLE.items()):
            raise ValueError(f"events: no event that can be voted on: {event!r}")
    if not events:
        raise ValueError("events: no event")
    return frozenset(map(Event, events))


def _text(_: Any, attribute: attrs.Attribute[str], value: Any) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{attribute.name}: {value!r} is not text")


@attrs.frozen
class Inhibition:
    """Events that an application rejects for as long as it is registered, and why.

    The guest rejects them by itself, without a question: also while the application is stopped or
    hangs. A guest daemon that doesn't know inhibitions asks, and the SDK rejects; the vote handler
    is not called for these events.

    Args:
        events: one or more that can be voted on: stop, reboot, pause, suspend and ``*_begin``.
        reason: the text that the operator reads, cut after 191 bytes of UTF-8.

    Raises:
        TypeError: the events are one text, or the reason is none.
        ValueError: there is no event, or one that can't be voted on.
    """

    events: frozenset[Event] = attrs.field(converter=_events)
    reason: str = attrs.field(validator=_text)

    @property
    def message(self) -> AppInhibit:
        """The message to the guest."""
        return AppInhibit(self.events, self.reason)
