"""What keeps a VM from answering: the event or command under way, or the last one there was."""

from __future__ import annotations

import math
from typing import Final

import attrs


@attrs.frozen
class Outage:
    """An event, or a command, that stops the VM from answering.

    Args:
        what: the event or command, for logs and reports.
        freezes: whether the VM only stands still meanwhile, as in a pause, a suspend or a live
            migration; after any other it comes back as a guest that says ``init``.
        call_off_at: from when on an answer shows that it is over, or never happened.
        silent: whether two challenges in a row went unanswered since it began, or since the VM last
            came back: then the answer to a later one is a return.
        returned: whether the VM has come back provisionally.
        carried_out_at: when the command that performs it ended; infinity before that.
    """

    what: str
    freezes: bool
    call_off_at: float
    silent: bool = False
    returned: bool = False
    carried_out_at: float = math.inf

    @property
    def awaits_return(self) -> bool:
        """Whether the answer to a fresh challenge means that the VM runs again."""
        return self.freezes and self.silent

    @property
    def unwatched_at(self) -> float:
        """When silence becomes an alarm; infinity where it is what was announced.

        It is that of a VM that did not come back yet, and of one whose command has ended since: a
        VM may be paused for days. One that came back and fell silent again may also be dead.
        """
        if self.returned and math.isinf(self.carried_out_at):
            return self.call_off_at
        return math.inf

    def is_final(self, sent_at: float, now: float) -> bool:
        """Whether a return is final that is proven by an answer at ``now``.

        Args:
            sent_at: when the challenge was sent. One from before the end of the command may have
                been answered just before the VM froze.
            now: the time.
        """
        return now >= self.call_off_at or sent_at >= self.carried_out_at

    def fell_silent(self) -> Outage:
        """The VM does not answer."""
        return attrs.evolve(self, silent=True)

    def came_back(self) -> Outage:
        """The VM answers again, which may be before it freezes."""
        return attrs.evolve(self, silent=False, returned=True)

    def carried_out(self, now: float) -> Outage:
        """The command that performs it has ended."""
        return attrs.evolve(self, carried_out_at=min(self.carried_out_at, now))


#: Nothing was under way so far.
NO_OUTAGE: Final = Outage("", freezes=False, call_off_at=math.inf)
