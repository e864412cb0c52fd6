"""Asks the agent whether an instance may go down, before the host acts by itself.

The agent's groups have members on other hosts, too. A host that has no link, or gets no answer in
time, acts all the same: the agent may be away for long.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

import attrs
import trio

from hbtrio.net.link_session import LinkSession, SessionEnded
from hbtrio.nursery.windows import Window
from hbtrio.policy.groups import TAKING_DOWN
from hbtrio.policy.time_guard import CALM_S, OnTimeGuard
from hbtrio.wire.link_messages import FromAgent
from hbtrio.wire.link_places import PlaceAnswer, PlaceOver, PlaceRequest
from hbtrio.wire.vocabulary import Event

#: How long the agent has for its answer, in seconds.
ANSWER_S: Final = 2.0


@attrs.frozen
class Answered:
    """What became of a question.

    Args:
        denial: why the instance must not go down; "" if it may.
        fault: why the agent has not decided; "" if it has.
    """

    denial: str = ""
    fault: str = ""


class _Session:
    def __init__(self, link: LinkSession[FromAgent], guard: OnTimeGuard) -> None:
        self.link = link
        self.guard = guard
        self.waiting: dict[int, Window[Answered]] = {}
        #: The instances that were asked about.
        self.asked: set[str] = set()


class AgentPlaces:
    """The places in the agent's groups that this host asks for."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._session: _Session | None = None
        self._listeners: list[Callable[[str], None]] = []
        #: The instances whose actions wait for an answer.
        self._open: set[str] = set()

    def on_answer(self, listener: Callable[[str], None]) -> None:
        """Calls ``listener`` with an instance once it is decided whether its action begins."""
        self._listeners.append(listener)

    def waits(self, uuid: str) -> bool:
        """Returns whether the action on an instance has not begun, as the agent is to be asked."""
        return uuid in self._open

    @contextmanager
    def session(self) -> Iterator[None]:
        """Asks through a session, from :meth:`linked` on, to the end of the context."""
        try:
            yield
        finally:
            session, self._session = self._session, None
            for waiting in () if session is None else session.waiting.values():
                waiting.close(Answered(fault="the link to the agent was lost"))

    def linked(self, link: LinkSession[FromAgent], guard: OnTimeGuard) -> None:
        """Takes that the agent has accepted this host, and has groups."""
        self._session = _Session(link, guard)

    def answered(self, message: PlaceAnswer) -> None:
        """Takes an answer; one that comes too late is ignored."""
        session = self._session
        waiting = None if session is None else session.waiting.get(message.number)
        if waiting is not None:
            waiting.close(Answered(message.denial))

    def opens(self, uuid: str, event: Event | None) -> None:
        """Takes that an action begins once the agent was asked; without groups there, at once."""
        if self._session is not None and event in TAKING_DOWN:
            self._open.add(uuid)

    def settle(self, uuid: str) -> None:
        """Takes that the action on an instance begins or does not: nothing is to be asked."""
        if uuid in self._open:
            self._open.remove(uuid)
            for listener in self._listeners:
                listener(uuid)

    async def ask(self, uuid: str, event: Event) -> Answered:
        """Asks whether an event may happen to an instance; waits :data:`ANSWER_S` at most.

        Cancelled, the place may be taken until :meth:`over`.
        """
        session = self._session
        if session is None:
            return Answered(fault="there is no link to the agent")
        number = next(self._numbers)
        waiting: Window[Answered] = Window(
            ANSWER_S, session.guard, sources=[lambda: session.link.reading], at_most_s=CALM_S
        )
        session.waiting[number] = waiting
        session.asked.add(uuid)
        try:
            async with trio.open_nursery() as nursery:
                request = PlaceRequest(number, uuid, event)
                nursery.start_soon(_send, session.link, request)
                try:
                    answer = await waiting.wait()
                except trio.TooSlowError:
                    answer = Answered(fault=f"the agent did not answer within {ANSWER_S:g} s")
                nursery.cancel_scope.cancel()
        finally:
            del session.waiting[number]
        return answer

    def over(self, uuid: str, nursery: trio.Nursery) -> None:
        """Takes that what was asked about has ended, and tells the agent; does not wait."""
        session = self._session
        if session is not None and uuid in session.asked:
            session.asked.discard(uuid)
            nursery.start_soon(_send, session.link, PlaceOver(uuid))


async def _send(link: LinkSession[FromAgent], message: PlaceRequest | PlaceOver) -> None:
    with suppress(SessionEnded):  # the next session begins with what is in progress
        await link.send(message)
