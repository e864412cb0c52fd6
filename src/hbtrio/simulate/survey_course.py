"""What operators want to know of many instances at once: whether an event may happen to them.

They ask as ``hbtrio ctl vote --all`` does, of an agent. Nothing is done, whatever is answered.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from random import Random
from typing import Any, Final

import trio

from hbtrio.simulate.operator_course import GONE
from hbtrio.simulate.requests import Questions

#: Seconds between two questions to many, on average.
SURVEY_S: Final = 60.0

_EVENTS: Final = ("stop", "reboot", "pause", "live_migrate_begin")

#: Asks an instance, by its uuid, with this body; yields the lines of the answer.
Ask = Callable[[str, dict[str, Any]], AsyncIterator[dict[str, Any]]]


class SurveyCourse:
    """The operators who ask many instances.

    Args:
        questions: names their votes.
        select: draws whom they ask, by their uuids.
        ask: see :data:`Ask`.
        now: the time of the run, in seconds.
        say: called with what they do.
        quiet_s: from when on nobody asks, in seconds.
    """

    def __init__(
        self,
        questions: Questions,
        *,
        select: Callable[[Random], Sequence[str]],
        ask: Ask,
        now: Callable[[], float],
        say: Callable[[str], None],
        quiet_s: float,
    ) -> None:
        self._questions = questions
        self._select = select
        self._ask = ask
        self._now = now
        self._say = say
        self._quiet_s = quiet_s

    async def run(self, draw: Random) -> None:
        """Asks some instances now and then, until it is quiet."""
        while True:
            await trio.sleep(draw.expovariate(1 / SURVEY_S))
            event, uuids = draw.choice(_EVENTS), self._select(draw)
            if self._now() >= self._quiet_s:
                return
            async with trio.open_nursery() as nursery:
                for uuid in uuids:
                    nursery.start_soon(self._vote, uuid, event)

    async def _vote(self, uuid: str, event: str) -> None:
        question = self._questions.asks(uuid, event)
        self._say(f"{question}: may {event} happen to {self._questions.name_of(uuid)}?")
        try:
            async for line in self._ask(uuid, {"event": event}):
                self._questions.heard(question, uuid, line)
        except GONE as fault:
            self._say(f"{question}: {type(fault).__name__}: {fault}")
