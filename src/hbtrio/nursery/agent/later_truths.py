"""Notes in the history what hosts reveal of commands whose requesters were told an outcome before.

The history says what the requester was told: one entry, one outcome. If a host replies when nobody
waits any more, or tells the end of an action whose outcome was given up, that is a note on the
entry.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final

import trio

from hbtrio.nursery.agent.round_ends import RoundEnds
from hbtrio.nursery.broadcast import Broadcast
from hbtrio.store.records import HistoryEntry
from hbtrio.store.store import Store
from hbtrio.store.worker import StoreFault
from hbtrio.wire.link_messages import ActionProgress, Reply
from hbtrio.wire.operator import ProgressLine, ReplyFault, parse

_log = logging.getLogger("hbtrio.agent")

#: Characters of a note.
_NOTE: Final = 1000


class LaterTruths:
    """Notes what comes too late.

    Args:
        nursery: waits for rounds that are being closed.
        store: keeps the history.
        history: publishes entries again with their notes.
        rounds: knows the rounds whose outcome is being stored.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        store: Store,
        history: Broadcast[HistoryEntry],
        rounds: RoundEnds,
    ) -> None:
        self._nursery = nursery
        self._store = store
        self._history = history
        self._rounds = rounds
        #: Actions whose outcome has no entry yet, by their commands: their ends, and the instances.
        self._actions: dict[str, tuple[trio.Event, str]] = {}
        self._postponed: set[str] = set()

    async def replied(self, hostname: str, reply: Reply) -> None:
        """Handles a reply that no command waits for.

        Of a command that was carried out after all, the report or the last progress line tells the
        outcome.
        """
        if reply.ok:
            return
        text = f"{hostname} replied later: {reply.reason}"
        await self._note_once_told(hostname, reply.command_id, text)

    async def progressed(self, hostname: str, progress: ActionProgress) -> None:
        """Handles a progress line of an action that nobody follows; only the outcome counts."""
        try:
            line = parse(progress.line.encode(), ProgressLine)
        except ReplyFault:
            return
        if line.step == "end":
            what = ": ".join(str(word) for word in (line.outcome, line.reason) if word)
            text = f"{hostname} reported later: {what}"
            await self._note_once_told(hostname, progress.command_id, text)

    @contextmanager
    def action(self, command_id: str, uuid: str) -> Iterator[None]:
        """Postpones notes on an action until the block has ended, with the outcome's entry.

        Args:
            command_id: the action's.
            uuid: its instance.
        """
        self._actions[command_id] = trio.Event(), uuid
        try:
            yield
        finally:
            told, _ = self._actions.pop(command_id)
            told.set()

    async def _note_once_told(self, hostname: str, command_id: str, text: str) -> None:
        told: Callable[[], Awaitable[object]]
        if (action := self._actions.get(command_id)) is not None:
            told, uuid = action[0].wait, action[1]
        elif (current := self._rounds.ending(command_id)) is not None:
            told, uuid = current.outcome.wait, current.record.uuid
        else:
            await self._note(hostname, command_id, text)
            return
        if command_id not in self._postponed:  # only the first note counts
            self._postponed.add(command_id)
            self._nursery.start_soon(self._note_after, told, hostname, command_id, text, uuid)

    async def _note_after(
        self,
        told: Callable[[], Awaitable[object]],
        hostname: str,
        command_id: str,
        text: str,
        uuid: str,
    ) -> None:
        try:
            await told()
        finally:
            self._postponed.discard(command_id)
        await self._note(hostname, command_id, text, uuid)

    async def _note(
        self, hostname: str, command_id: str, text: str, uuid: str = "an instance"
    ) -> None:
        # What has been told long ago has its instance in the store alone.
        try:
            noted = await self._store.note(hostname, command_id, text[:_NOTE])
        except StoreFault as fault:
            lost = "%s: note on %s lost: store: %s: %s"
            _log.error(lost, uuid, command_id, fault, text)
            return
        if noted is not None:
            _log.warning("%s: %s", noted.uuid, noted.note)
            self._history.publish(noted)
