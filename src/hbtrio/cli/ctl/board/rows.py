"""What the board knows of an instance, the same for those of a host and of an agent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import attrs

from hbtrio.cli.ctl.fleet import doing
from hbtrio.cli.ctl.ranking import WORST_FIRST, Place, place_of, shown_name
from hbtrio.cli.ctl.views import hold_words, latest_words
from hbtrio.text import printable
from hbtrio.wire.operator import FleetInstanceLine, InstanceLine
from hbtrio.wire.vocabulary import WindowKind

#: What an instance without a round trip sorts as: behind all others.
_NEVER: Final = -1.0


@attrs.frozen
class Window:
    """An open window of an instance.

    Args:
        title: what it is.
        deadline: when it closes, on trio's clock.
        whole_s: how long it was open at first, in seconds.
    """

    title: str
    deadline: float
    whole_s: float


@attrs.frozen
class Row:
    """One instance; all its texts are printable."""

    uuid: str
    name: str
    host: str
    state: str
    health: str
    why: str
    windows: tuple[Window, ...]
    round_trip_ms: float | None
    missed: int | None
    place: Place
    instance: InstanceLine | FleetInstanceLine

    @property
    def needs_somebody(self) -> bool:
        """Whether it is lost, ill, absent or unwatched."""
        return self.place[1] < len(WORST_FIRST)

    def matches(self, text: str) -> bool:
        """Whether a text is part of what it shows, in capitals or not."""
        words = (self.name, self.uuid, self.host, self.state, self.health, self.why)
        return any(text in word.casefold() for word in words)


def row_of(
    instance: InstanceLine | FleetInstanceLine, actions: dict[str, str], received: float
) -> Row:
    """The row of an instance.

    Args:
        instance: as a daemon reports it.
        actions: the actions in progress, by uuid.
        received: when the report was received, on trio's clock.
    """
    windows = tuple(_windows(instance, received))
    if isinstance(instance, InstanceLine):
        why = latest_words(instance, actions.get(instance.uuid))
        host, trip, missed = "", instance.round_trip_ms, instance.missed
    else:
        why, host = doing(instance, actions), instance.hostname
        trip = missed = None
    if windows:
        why = "; ".join(f"{one.title} is open" for one in windows)
    if isinstance(instance, InstanceLine) and instance.not_acted:
        why = f"{why}; not acted: {instance.not_acted}"
    if instance.hold is not None:
        why = "; ".join(filter(None, (hold_words(instance.hold), why)))
    return Row(
        uuid=instance.uuid,
        name=printable(shown_name(instance) or instance.uuid),
        host=printable(host),
        state=printable(instance.state),
        health=printable(instance.health),
        why=printable(why),
        windows=windows,
        round_trip_ms=trip,
        missed=missed,
        place=place_of(instance),
        instance=instance,
    )


def _windows(instance: InstanceLine | FleetInstanceLine, received: float) -> list[Window]:
    found = []
    if (one := instance.open) is not None:
        whole_s = instance.windows_s.get(one.window, 0.0)
        found.append((f"{one.kind} {one.event}", one.remaining_s, whole_s))
    if (left_s := instance.restart_remaining_s) is not None:
        whole_s = instance.windows_s.get(WindowKind.RESTART, 0.0)
        found.append((str(WindowKind.RESTART), left_s, whole_s))
    return [
        Window(printable(title), received + left_s, max(whole_s, left_s, 1.0))
        for title, left_s, whole_s in found
    ]


#: The orders by name, each with its key.
ORDERS: Final[dict[str, Callable[[Row], Any]]] = {
    "worst": lambda row: row.place,
    "name": lambda row: row.place[2:],
    "state": lambda row: (row.state, row.place),
    "host": lambda row: (row.host, row.place),
    "RTT": lambda row: (-(row.round_trip_ms or _NEVER), row.place),
    "missed": lambda row: (-(row.missed or 0), row.place),
}


def in_order(rows: list[Row], order: str) -> list[Row]:
    """The rows in one of ``ORDERS``."""
    return sorted(rows, key=ORDERS[order])
