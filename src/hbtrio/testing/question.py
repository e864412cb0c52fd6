"""A vote or notice that a scripted guest has opened, its window, and the time it is granted."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime

import anyio

from hbtrio.policy.more_time import AnswerVoter, AskHost, Extensions, Lengthen, VoterTime
from hbtrio.wire.app_messages import AppMoreTime, AppTimeGranted
from hbtrio.wire.vocabulary import EVENT_TABLE, Event


class Question:
    """An open vote or notice; its window begins now.

    Who gets how much more time is decided as by a guest daemon and a host: what is left of the
    VM's window needs no permission, and the rest is granted up to ``max_extension_s``.

    Args:
        name: the application's.
        own_s: the window of its registration, in seconds.
        window_s: the window of the VM, in seconds; None: as long as the application's.
        max_extension_s: what the host grants for the VM's window in all, in seconds.
    """

    def __init__(
        self, name: str, own_s: float, window_s: float | None, max_extension_s: int
    ) -> None:
        now = anyio.current_time()
        self.result = "none"
        self.reason = ""
        #: By how many seconds the application has got its window extended.
        self.extended_s = 0
        self._name = name
        self._window_end = now + (own_s if window_s is None else window_s)
        self._end = min(now + own_s, self._window_end)
        self._guest = VoterTime(offered=max_extension_s > 0)
        self._host = Extensions(max_extension_s)
        self._closed = anyio.Event()
        self._scope = anyio.CancelScope()

    def close(self, result: str, reason: str = "") -> None:
        """Ends :meth:`wait`."""
        self.result, self.reason = result, reason
        self._closed.set()

    async def wait(self, read: Callable[[], object]) -> None:
        """Waits until it is closed; at the end of its window it closes itself with ``timeout``.

        Args:
            read: handles what the application has sent. It is called at the end of the window: an
                answer or a request for more time that has arrived by then counts.
        """
        while not self._closed.is_set():
            with anyio.CancelScope(deadline=self._end) as self._scope:
                await self._closed.wait()
            if self._scope.cancelled_caught:
                read()
                if not self._closed.is_set() and self._end <= anyio.current_time():
                    self.close("timeout")

    def more_time(self, request: AppMoreTime) -> AppTimeGranted:
        """Takes the application's request for more time, and returns the answer to send."""
        effects = self._guest.ask(0, self._name, request.seconds, self._end, self._window_end)
        seconds, reason = 0.0, ""
        while effects:
            match effects.pop(0):
                case AskHost(number, missing_s, name):
                    granted = self._host.ask(missing_s, name)
                    effects += self._guest.answered(
                        number, int(granted.seconds), granted.reason, self._window_end
                    )
                case Lengthen(more_s):
                    self._window_end += more_s
                case AnswerVoter(_, grant):
                    seconds, reason = grant.seconds, grant.reason
        self._end += seconds
        self._scope.deadline = self._end
        whole = math.floor(seconds)
        self.extended_s += whole
        return AppTimeGranted(request.invocation_id, request.request, whole, reason)


def known(event: Event | str) -> Event:
    """Returns an event that applications are asked about.

    Raises:
        ValueError: there is none of this name.
    """
    if event not in EVENT_TABLE:
        raise ValueError(f"no event {event!r}; there are {', '.join(map(str, EVENT_TABLE))}")
    return Event(event)


def in_seconds(planned_at: datetime | None) -> int:
    """Returns the time in seconds since the epoch, 0 for none.

    Raises:
        ValueError: it has no time zone.
    """
    if planned_at is None:
        return 0
    if planned_at.tzinfo is None:
        raise ValueError(f"planned_at: {planned_at} has no time zone")
    return int(planned_at.timestamp())
