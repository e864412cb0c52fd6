"""A vote or notice that one application was asked, with the application's own window."""

from __future__ import annotations

import math
from collections.abc import Callable

import trio

from hbtrio.nursery.time_guard import Source
from hbtrio.nursery.windows import Answer, BallotWindow, Window
from hbtrio.policy.more_time import Grant
from hbtrio.policy.profile import Profile
from hbtrio.policy.time_guard import OnTimeGuard
from hbtrio.wire.app_messages import AppMessage, AppMoreTime, AppTimeGranted
from hbtrio.wire.vocabulary import VoteResult


class AppQuestion:
    """Waits for the answer of an application, within its own window.

    Args:
        profile: the application's name, and its own windows.
        window: the window of the whole VM; it cancels :meth:`wait` when it closes.
        guard: the process's on-time guard.
        take_in: reads what the application has sent.
        send: sends the application a message.
    """

    def __init__(
        self,
        profile: Profile,
        window: BallotWindow,
        guard: OnTimeGuard,
        take_in: Source,
        send: Callable[[AppMessage], None],
    ) -> None:
        self._name = profile.name
        self._vm_window = window
        own_s: float = profile.window_s(window.kind)
        if own_s >= window.remaining_s(trio.current_time()):
            own_s = math.inf
        self._window = Window[Answer | None](
            own_s, guard, sources=[take_in], allows_s=window.allows_s
        )
        self._take_in = take_in
        self._send = send

    async def wait(self) -> Answer | None:
        """Returns the answer, ``TIMEOUT`` at the end of the window; None: it takes no part."""
        try:
            with self._vm_window.reading(self._take_in):
                return await self._window.wait()
        except trio.TooSlowError:
            return Answer(VoteResult.TIMEOUT)

    def close(self, answer: Answer | None) -> None:
        """Ends :meth:`wait` with this answer."""
        self._window.close(answer)

    def ask_time(self, request: AppMoreTime) -> None:
        """Passes on a request for more time; the application is answered when the host has been."""

        def answer(grant: Grant) -> None:
            # The end may have passed by a moment; it counts from the end all the same.
            self._window.extend(grant.seconds)
            seconds = math.floor(grant.seconds)
            ids = request.invocation_id, request.request
            self._send(AppTimeGranted(*ids, seconds, grant.reason))

        self._vm_window.ask_time(self._name, request.seconds, self._window.deadline, answer)
