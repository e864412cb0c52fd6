"""The votes and notices of a lab's VIM: what it asked for, and what came of it."""

from __future__ import annotations

import attrs
import trio


@attrs.frozen
class Verdict:
    """The result of a vote or notice for the VIM.

    ``response`` is allow, reject or proceed; "" if no verdict came in time.
    """

    response: str
    reason: str = ""

    def __str__(self) -> str:
        return ": ".join(word for word in (self.response or "no verdict", self.reason) if word)


@attrs.define(eq=False)
class VimRound:
    """A vote or notice that the VIM requested from the agent."""

    uuid: str
    name: str
    event: str
    vote: bool
    #: When the VIM goes on without a verdict, on trio's clock; 0 before the agent's reply.
    deadline: float = 0.0
    verdict: Verdict | None = None
    _ended: trio.Event = attrs.field(factory=trio.Event)

    def end(self, verdict: Verdict) -> None:
        """Ends the round with a verdict."""
        self.verdict = verdict
        self._ended.set()

    async def wait(self) -> None:
        """Waits for the verdict or the deadline."""
        with trio.move_on_at(self.deadline):
            await self._ended.wait()
