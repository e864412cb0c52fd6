"""Wakes one task that looks for work: an event that resets itself.

A :class:`trio.Event` can be set once. The task that waits for the next piece of work would have to
put a new one in its place each time, and at the right moment: replaced after the look at the work,
a call in between is lost, and the work lies there until the next one.
"""

from __future__ import annotations

import trio


class WakeUp:
    """Says that there may be work; a loop waits, then looks for all of it.

    Calls coalesce: however often :meth:`set` is called before the task waits again, :meth:`wait`
    returns once.
    """

    def __init__(self) -> None:
        self._event = trio.Event()

    def set(self) -> None:
        """Wakes whoever waits, or else the next :meth:`wait`. From trio's thread only."""
        self._event.set()

    async def wait(self) -> None:
        """Waits until :meth:`set` was called since this last returned, and resets.

        A checkpoint. Cancelled, it resets nothing: the next call returns at once if there was a
        :meth:`set`. Several tasks that wait at the same time are all woken.
        """
        event = self._event
        await event.wait()
        if self._event is event:
            self._event = trio.Event()
