"""Asks a host for what of an instance changes too often to be reported: an operator looks at it.

However many clients look at an instance, its host is asked at most once a second; and for at most
:data:`MOST` instances at a time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import attrs
import trio

from hbtrio.net.link_session import SessionEnded
from hbtrio.wire.link_looks import Look, Seen

#: How long an answer is shown without a new question, in seconds.
FRESH_S: Final = 1.0

#: How long an answer is waited for, in seconds.
LOOK_S: Final = 2.0

#: Instances of one host that are looked at, at a time.
MOST: Final = 64


class NotSeen(Exception):
    """The host has not answered; the text is the reason."""


@attrs.define(eq=False)
class _Question:
    """A question to the host: when it was asked, and what was answered."""

    asked_at: float
    answered: trio.Event = attrs.field(factory=trio.Event)
    seen: Seen | None = None

    def lasts_until(self) -> float:
        """Until when no other question about the instance is needed."""
        return self.asked_at + (FRESH_S if self.answered.is_set() else LOOK_S)


class Looks:
    """The looks at one host's instances through one session.

    Args:
        hostname: the host's name, for the reasons.
        send: sends a look; raises ``SessionEnded`` if the session is over.
        supported: whether the host answers looks.
    """

    def __init__(
        self, hostname: str, send: Callable[[Look], Awaitable[None]], *, supported: bool
    ) -> None:
        self._hostname = hostname
        self._send = send
        self._supported = supported
        self._questions: dict[str, _Question] = {}

    async def look(self, uuid: str) -> Seen:
        """Returns what the host sees of an instance: now, or :data:`FRESH_S` ago at most.

        Waits up to :data:`LOOK_S`. Cancelled, the question stays: its answer is the next client's.

        Raises:
            NotSeen: the host is too old, does not answer, has lost its link, or is asked about too
                many instances.
        """
        if not self._supported:
            raise NotSeen(f"{self._hostname} runs an older version, which does not tell")
        question = self._current(uuid)
        with trio.move_on_after(LOOK_S):
            if question is None:
                question = self._new(uuid)
                await self._ask(uuid)
            await question.answered.wait()
            if question.seen is not None:
                return question.seen
            raise NotSeen(self._gone)
        raise NotSeen(f"{self._hostname} did not answer within {LOOK_S:g} s")

    def answered(self, seen: Seen) -> None:
        """Takes an answer; one that was not asked for is ignored."""
        question = self._questions.get(seen.uuid)
        if question is not None:
            question.seen = seen
            question.answered.set()

    def end(self) -> None:
        """Ends all waits: the session is over."""
        for question in self._questions.values():
            question.answered.set()

    async def _ask(self, uuid: str) -> None:
        try:
            await self._send(Look(uuid))
        except SessionEnded:
            raise NotSeen(self._gone) from None

    @property
    def _gone(self) -> str:
        return f"the link to {self._hostname} is gone"

    def _current(self, uuid: str) -> _Question | None:
        question = self._questions.get(uuid)
        return question if question and trio.current_time() < question.lasts_until() else None

    def _new(self, uuid: str) -> _Question:
        now = trio.current_time()
        for old in [one for one, asked in self._questions.items() if now >= asked.lasts_until()]:
            del self._questions[old]
        if len(self._questions) == MOST:
            raise NotSeen(f"{MOST} instances of {self._hostname} are looked at already")
        question = self._questions[uuid] = _Question(now)
        return question
