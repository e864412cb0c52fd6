"""What the operators of a host without an agent want to be left alone: they put it on hold."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import trio

from hbtrio.simulate.observations import Observation
from hbtrio.simulate.operator_course import GONE
from hbtrio.simulate.order_observations import HoldEnded, HoldSet

#: Seconds between two holds on an instance, on average.
HOLD_S: Final = 75.0

#: For how long a hold is, in seconds.
_LASTS_S: Final = (5.0, 90.0)

#: The share of holds that their operators end.
_ENDED: Final = 0.4

_REASON: Final = "an operator looks into it"


class HoldCourse:
    """The operators who hold one instance.

    Args:
        uuid: the instance's uuid.
        name: its name.
        host: returns the name of the host that it is on; "" if there is none.
        ask: posts to that host: the last word of the path, and the body; yields the answer, and
            nothing if it refuses.
        now: the time of the run, in seconds.
        observe: called with what is observed.
        say: called with what they do.
        quiet_s: when the last hold is over, in seconds.
    """

    def __init__(
        self,
        uuid: str,
        name: str,
        *,
        host: Callable[[], str],
        ask: Callable[[str, dict[str, Any]], AsyncIterator[dict[str, Any]]],
        now: Callable[[], float],
        observe: Callable[[Observation], None],
        say: Callable[[str], None],
        quiet_s: float,
    ) -> None:
        self._uuid = uuid
        self._name = name
        self._host = host
        self._ask = ask
        self._now = now
        self._observe = observe
        self._say = say
        self._quiet_s = quiet_s

    async def run(self, draw: random.Random) -> None:
        """Holds the instance now and then, until it is quiet."""
        while True:
            await trio.sleep(draw.expovariate(1 / HOLD_S))
            lasts_s = round(draw.uniform(*_LASTS_S), 1)
            share = draw.random()
            ends_s = draw.uniform(0.0, lasts_s) if share < _ENDED else None
            if self._now() + lasts_s >= self._quiet_s:
                return
            if self._host():
                await self._hold(lasts_s)
                await trio.sleep(lasts_s if ends_s is None else ends_s)
                if ends_s is not None:
                    await self._unhold()

    async def _hold(self, lasts_s: float) -> None:
        host, until_s = self._host(), self._now() + lasts_s
        self._say(f"holds {self._name} for {lasts_s:g} s")
        async for body in self._answers("hold", {"seconds": lasts_s, "reason": _REASON}):
            self._observe(HoldSet(self._now(), self._name, host, until_s, body["stored"]))

    async def _unhold(self) -> None:
        self._say(f"ends the hold on {self._name}")
        self._observe(HoldEnded(self._now(), self._name, certain=False))
        async for _ in self._answers("unhold", {}):
            self._observe(HoldEnded(self._now(), self._name))

    async def _answers(self, word: str, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        try:
            async for answer in self._ask(word, body):
                yield answer
        except GONE as fault:
            self._say(f"{word} {self._name}: {type(fault).__name__}: {fault}")
