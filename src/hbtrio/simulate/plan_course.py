"""What operators plan for an instance: an action in some seconds."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

import trio

from hbtrio.simulate.drain_course import DrainCourse

#: Seconds between two plans for an instance, on average.
PLAN_S: Final = 150.0

#: In how many seconds the guest is asked first, and how much later the action comes without its
#: vote. One that rejects is asked again every 30 s.
_NOT_BEFORE_S: Final = (0.0, 15.0)
_BEFORE_S: Final = (3.0, 45.0)

#: The share of plans that are cancelled.
_CANCELLED: Final = 0.2


class PlanCourse:
    """The operators who plan actions on one instance.

    Args:
        uuid: the instance's uuid.
        plans: asks its host or the agent for a plan, and follows it.
        utc: reads the clock of who is asked; None: the instance is on no host.
        now: the time of the run, in seconds.
        quiet_s: when the last plan is over, in seconds.
    """

    def __init__(
        self,
        uuid: str,
        plans: DrainCourse,
        *,
        utc: Callable[[], datetime | None],
        now: Callable[[], float],
        quiet_s: float,
    ) -> None:
        self._uuid = uuid
        self._plans = plans
        self._utc = utc
        self._now = now
        self._quiet_s = quiet_s

    async def run(self, draw: random.Random) -> None:
        """Plans something for the instance now and then, until it is quiet."""
        while True:
            await trio.sleep(draw.expovariate(1 / PLAN_S))
            begin_s = draw.uniform(*_NOT_BEFORE_S)
            end_s = begin_s + draw.uniform(*_BEFORE_S)
            action = draw.choice(("reboot", "reboot", "stop"))
            cancel_s = draw.uniform(0.0, end_s) if draw.random() < _CANCELLED else None
            if self._now() + end_s >= self._quiet_s:
                return
            if (utc := self._utc()) is not None:
                wish = {
                    "action": action,
                    "not_before": (utc + timedelta(seconds=begin_s)).isoformat(),
                    "before": (utc + timedelta(seconds=end_s)).isoformat(),
                    "ignore_hold": draw.random() < 0.2,
                }
                times = self._now() + begin_s, self._now() + end_s
                await self._plans.plan(self._uuid, wish, times, cancel_s)
                await self._plans.rest(action, draw)
