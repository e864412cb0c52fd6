"""Declares the three handlers of an application and their types."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Self

import attrs

from hbtrio.app.handlers import Handler
from hbtrio.app.requests import Notice, Vote
from hbtrio.app.responses import Accept, Healthy, Reject, Unhealthy

HealthHandler = Callable[[], Healthy | Unhealthy | Awaitable[Healthy | Unhealthy]]
VoteHandler = Callable[[Vote], Accept | Reject | Awaitable[Accept | Reject]]
NoticeHandler = Callable[[Notice], Awaitable[None] | None]

# Separate types for the decorators, so that a type checker still knows whether a decorated function
# has to be awaited.
AsyncHealth = Callable[[], Coroutine[Any, Any, Healthy | Unhealthy]]
PlainHealth = Callable[[], Healthy | Unhealthy]
AsyncVote = Callable[[Vote], Coroutine[Any, Any, Accept | Reject]]
PlainVote = Callable[[Vote], Accept | Reject]
AsyncNotice = Callable[[Notice], Coroutine[Any, Any, None]]
PlainNotice = Callable[[Notice], None]


@attrs.frozen
class Handlers:
    """An application's handlers; a missing one responds healthy, accept or complete.

    Args:
        application: the application's name in the log.
    """

    application: str
    health: Handler[Healthy | Unhealthy] | None = None
    vote: Handler[Accept | Reject] | None = None
    notice: Handler[None] | None = None

    def with_health(self, function: HealthHandler) -> Self:
        """Returns a copy with a health handler.

        Raises:
            RuntimeError: the handler is set already.
            TypeError: the function is not callable, or not with these arguments.
        """
        _must_be_first(self.health, "health")
        handler = Handler[Healthy | Unhealthy](
            function,
            "health",
            application=self.application,
            takes=(),
            returns=(Healthy, Unhealthy),
            every_failure=False,
        )
        return attrs.evolve(self, health=handler)

    def with_vote(self, function: VoteHandler) -> Self:
        """Returns a copy with a vote handler; raises what :meth:`with_health` does."""
        _must_be_first(self.vote, "vote")
        handler = Handler[Accept | Reject](
            function,
            "vote",
            application=self.application,
            takes=(Vote,),
            returns=(Accept, Reject),
            every_failure=True,
        )
        return attrs.evolve(self, vote=handler)

    def with_notice(self, function: NoticeHandler) -> Self:
        """Returns a copy with a notice handler; raises what :meth:`with_health` does."""
        _must_be_first(self.notice, "notice")
        handler = Handler[None](
            function,
            "notice",
            application=self.application,
            takes=(Notice,),
            returns=(type(None),),
            every_failure=True,
        )
        return attrs.evolve(self, notice=handler)


def _must_be_first(current: object, what: str) -> None:
    if current is not None:
        raise RuntimeError(f"the {what} handler is set already")
