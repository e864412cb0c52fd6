"""Keeps what was observed in a run: in order for who judges, and as lines of JSON for who asks."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import attrs
import msgspec

from hbtrio.simulate import observations, order_observations
from hbtrio.simulate.observations import Observation

_KINDS: Final = {
    name: value
    for module in (observations, order_observations)
    for name, value in vars(module).items()
    if isinstance(value, type) and issubclass(value, Observation)
}


class RunClock:
    """The time of a run: seconds since its schedule began; what happens before happens at 0.

    It goes by the wall clock, which all daemons share.
    """

    def __init__(self) -> None:
        self._began_s = math.inf
        self._monotonic_s = 0.0

    def begin(self) -> None:
        """Begins the schedule."""
        self._began_s, self._monotonic_s = time.time(), time.monotonic()

    def now(self) -> float:
        """Reads it."""
        return self.at(time.time())

    def at(self, epoch_s: float) -> float:
        """Returns the time of a moment that is given in seconds since 1970."""
        return max(0.0, epoch_s - self._began_s)

    def at_iso(self, text: str) -> float:
        """Returns the time of a moment in the words of an event."""
        return self.at(datetime.fromisoformat(text).timestamp())

    @property
    def stepped_s(self) -> float:
        """By how much the wall clock was set since the beginning."""
        return self.now() - (time.monotonic() - self._monotonic_s)


def to_line(observation: Observation) -> bytes:
    """Returns an observation as a line of JSON."""
    members = {"observed": type(observation).__name__, **attrs.asdict(observation)}
    return msgspec.json.encode(members) + b"\n"


def from_line(line: bytes) -> Observation:
    """Returns the observation on a line.

    Raises:
        KeyError: there is no such observation.
        msgspec.DecodeError: it is none.
    """
    members: dict[str, Any] = msgspec.json.decode(line)
    observation: Observation = msgspec.convert(members, _KINDS[members.pop("observed")])
    return observation


class Records:
    """The observations of a run.

    Args:
        clock: has the time.
        file: gets a line for each, at once.
    """

    def __init__(self, clock: RunClock, file: Path) -> None:
        self.clock = clock
        self._file = file.open("wb", buffering=0)
        self._seen: list[Observation] = []

    def observe(self, observation: Observation) -> None:
        """Takes in an observation; it may be older than others before it."""
        self._seen.append(observation)
        self._file.write(to_line(observation))

    def close(self) -> None:
        """Ends the file."""
        self._file.close()

    def __iter__(self) -> Iterator[Observation]:
        """All observations in the order of their times; those of one time as they came."""
        return iter(in_order(self._seen))


def read(file: Path) -> list[Observation]:
    """Reads the observations of a run again, in the order of their times."""
    return in_order([from_line(line) for line in file.read_bytes().splitlines()])


def in_order(seen: list[Observation]) -> list[Observation]:
    """Returns observations in the order of their times; those of one time as they came."""
    return sorted(seen, key=lambda one: one.at_s)
