"""Wakes a task that looks for work, with an event that resets itself.

A :class:`trio.Event` can be set only once. A waiting task would have to replace the event each
time, and at the right moment: if the task replaces the event after it has looked for work, a call
in between is lost, and the work waits until the next call.
"""

from __future__ import annotations

import trio


class WakeUp:
    """Signals that there may be work; the loop that waits then looks for all of it.

    Calls coalesce: however often :meth:`set` is called before the task waits again, :meth:`wait`
    returns once.
    """

    def __init__(self) -> None:
        self._event = trio.Event()

    def set(self) -> None:
        """Wakes the waiting tasks; without one, the next :meth:`wait` returns at once.

        Call it from trio's thread only.
        """
        self._event.set()

    async def wait(self) -> None:
        """Waits until :meth:`set` has been called since the last return, then resets.

        A checkpoint. Cancellation resets nothing: if :meth:`set` was called, the next call returns
        at once. All tasks that wait at the same time are woken.
        """
        event = self._event
        await event.wait()
        if self._event is event:
            self._event = trio.Event()
