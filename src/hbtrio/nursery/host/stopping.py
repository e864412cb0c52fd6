"""Lets actions and corrective commands come to their end before a host stops."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import trio

from hbtrio.nursery.host.action_runs import ActionRuns
from hbtrio.nursery.host.channel import Channel
from hbtrio.nursery.host.corrective import Corrective
from hbtrio.nursery.host.drain_site import HostDrains
from hbtrio.nursery.time_guard import take_in

_log = logging.getLogger("hbtrio.host")

#: Seconds between two looks at what is still running.
_LOOK_S: Final = 0.1

_REFUSAL: Final = "this host is stopping: it begins no new action"


class Stopping:
    """The end of a host's work.

    Args:
        actions: the actions; no new one is begun from :meth:`run` on.
        drains: the drains; they take no more turns from then on.
        corrective: runs the corrective commands.
        channels: of all instances; those with an open vote or notice are read at the end.
    """

    def __init__(
        self,
        actions: ActionRuns,
        drains: HostDrains,
        corrective: Corrective,
        channels: Mapping[str, Channel],
    ) -> None:
        self._actions = actions
        self._drains = drains
        self._corrective = corrective
        self._channels = channels

    async def run(self, grace_s: float, hurry: Callable[[], Awaitable[object]]) -> None:
        """Refuses new actions, and waits until those in progress and corrective commands are over.

        What is left is cancelled by the host's end, and actions are resumed by its next run. Open
        votes are not waited for, but the answers that have arrived are read: a host that was
        stopped may find the signal before a reject, and a vote that it aborts counts as consent.

        Args:
            grace_s: how long to wait at most, in seconds.
            hurry: returns when it is to end at once; cancelled otherwise.
        """
        self._drains.runs.pause()
        self._actions.refusal = _REFUSAL
        await self._finish(grace_s, hurry)
        open_ones = [each for each in self._channels.values() if each.rounds.current is not None]
        await take_in([each.take_in for each in open_ones])

    async def _finish(self, grace_s: float, hurry: Callable[[], Awaitable[object]]) -> None:
        if not (left := self._left):
            return
        text = "stopping: waiting at most %g s for what is in progress; another TERM ends at once"
        _log.warning(text, grace_s)
        for uuid, what in left:
            _log.warning("%s: stopping waits for %s", uuid, what)
        with trio.move_on_after(grace_s):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._hurry, hurry, nursery.cancel_scope)
                while self._left:  # noqa: ASYNC110 - two kinds of work
                    await trio.sleep(_LOOK_S)
                nursery.cancel_scope.cancel()
        for uuid, what in self._left:
            _log.warning("%s: stopping in the middle of %s", uuid, what)

    @staticmethod
    async def _hurry(hurry: Callable[[], Awaitable[object]], scope: trio.CancelScope) -> None:
        await hurry()
        scope.cancel()

    @property
    def _left(self) -> list[tuple[str, str]]:
        actions = self._actions.in_progress.values()
        return [
            *((action.uuid, f"action {action.name}") for action in actions),
            *((uuid, "a corrective command") for uuid in self._corrective.running),
        ]
