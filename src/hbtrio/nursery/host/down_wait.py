"""Waits until the VM of an action that stops or freezes it is down."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import trio

from hbtrio.fsm.heartbeat.outage import CALL_OFF_S
from hbtrio.nursery.host.action_tools import ActionTools
from hbtrio.nursery.windows import within
from hbtrio.policy.profile import Profile
from hbtrio.wire.vocabulary import Event, ExpectedEffect

#: How long a VM that was seen going down by an earlier run of the host is looked at, at least.
_AT_LEAST_S: Final = 7.0


class DownWait:
    """The wait of one action for its VM to stop or stand still.

    Args:
        uuid: the instance.
        event: what was announced; None for an action that neither stops nor freezes the VM.
        effect: what the command does to the VM.
        tools: what all actions share.
        progress: adds a progress line with these members.
    """

    def __init__(
        self,
        uuid: str,
        event: Event | None,
        effect: ExpectedEffect,
        tools: ActionTools,
        progress: Callable[..., None],
    ) -> None:
        self._uuid = uuid
        self._event = event or Event.UNKNOWN
        self._effect = effect
        self._tools = tools
        self._progress = progress
        self._limit_s: float | None = None
        self._is_down = trio.Event()

    @property
    def bound_s(self) -> float:
        """How long the VM may take after the command, in seconds.

        A VM to be frozen has RESTART. One that is shut down may take longer; after the call-off
        time its host would expect it to answer again anyway.
        """
        if self._limit_s is not None:
            return self._limit_s
        channel = self._tools.channel_of(self._uuid)
        if self._effect is ExpectedEffect.STOPS:
            return CALL_OFF_S
        return Profile().restart_s if channel is None else channel.heartbeat.profile.restart_s

    def limit(self, left_s: float) -> None:
        """Sets how much of the wait is left, for an action that is resumed."""
        self._limit_s = max(left_s, _AT_LEAST_S)

    @asynccontextmanager
    async def watching(self, *, if_: bool) -> AsyncIterator[None]:
        """Watches the VM within the block: it may be back before the command has ended."""
        async with trio.open_nursery() as nursery:
            if if_:
                nursery.start_soon(self._until_down)
            yield
            nursery.cancel_scope.cancel()

    async def wait(self) -> str:
        """Waits until the VM was seen down or still; returns why it was not in time, or ""."""
        seconds, channel = self.bound_s, self._tools.channel_of(self._uuid)
        self._progress(step="down", event=self._event, seconds=seconds)
        sources = [] if channel is None else [channel.take_in]
        try:
            await within(seconds, self._tools.guard, self._until_down, sources=sources)
        except trio.TooSlowError:
            is_down = await self._tools.sightings.is_down(self._uuid, self._effect)
        else:
            is_down = True
        if is_down:
            self._progress(step="down", event=self._event, result="down", reason="")
            return ""
        stops = self._effect is ExpectedEffect.STOPS
        reason = f"it never {'went down' if stops else 'froze'}: it still ran after {seconds:g} s"
        self._progress(step="down", event=self._event, result="expired", reason=reason)
        return reason

    async def _until_down(self) -> None:
        if not self._is_down.is_set():
            await self._tools.sightings.until_down(self._uuid, self._effect)
            self._is_down.set()
