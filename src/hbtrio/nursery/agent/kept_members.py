"""Remembers over restarts of an agent who is a member of its groups."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager

import trio

from hbtrio.store.group_members import GroupMember, StoredMembers
from hbtrio.store.records import HistoryEntry
from hbtrio.store.worker import StoreFault

_log = logging.getLogger("hbtrio.agent")


class KeptMembers:
    """The members as the store has them, or will have them after the next :meth:`write`.

    Args:
        stored: keeps them.
    """

    def __init__(self, stored: StoredMembers) -> None:
        self._stored = stored
        self._known: dict[str, GroupMember] = {}
        self._unwritten: dict[str, GroupMember | None] = {}
        #: What is older is never written over what is newer.
        self._writing = trio.Lock()

    async def load(self) -> tuple[GroupMember, ...]:
        """Returns the members that an earlier run of the agent had.

        Raises:
            StoreFault: the store can't be read.
        """
        members = await self._stored.all()
        self._known = {member.uuid: member for member in members}
        return members

    def put(self, member: GroupMember) -> None:
        """Takes a member, in place of what was known of it."""
        if self._known.get(member.uuid) != member:
            self._known[member.uuid] = self._unwritten[member.uuid] = member

    def drop(self, uuid: str) -> None:
        """Takes that an instance is no member any more."""
        if self._known.pop(uuid, None) is not None:
            self._unwritten[uuid] = None

    def last_on(self, hostname: str) -> Iterator[str]:
        """Yields the members that this host had last."""
        return (member.uuid for member in self._known.values() if member.hostname == hostname)

    async def write(self) -> None:
        """Stores what has changed; while the store fails, a later call does.

        Cancelled, it may have stored it, and a later call stores it again.
        """
        async with self._writing:
            if not self._unwritten:
                return
            changes, self._unwritten = self._unwritten, {}
            try:
                await self._stored.put(changes)
            except BaseException as error:
                self._unwritten = changes | self._unwritten  # what came meanwhile is newer
                if not isinstance(error, StoreFault):
                    raise
                _log.error("store: %s: members of groups are stored later", error)

    @asynccontextmanager
    async def forgetting(self, uuids: Collection[str]) -> AsyncIterator[None]:
        """Within the block the caller removes these members from the store, or raises.

        What is to be stored of them is dropped with that. Cancelled, a later :meth:`write` may
        store it once more.
        """
        async with self._writing:
            # One of them that comes meanwhile is stored anew.
            known = {uuid: self._known.pop(uuid) for uuid in uuids if uuid in self._known}
            waiting = {uuid: self._unwritten.pop(uuid) for uuid in uuids if uuid in self._unwritten}
            try:
                yield
            except BaseException:
                self._known = known | self._known
                self._unwritten = waiting | self._unwritten
                raise

    async def forget(self, uuid: str, history_entry: HistoryEntry) -> None:
        """Removes a member, with this entry in the history.

        Raises:
            StoreFault: the store failed; nothing was removed.
        """
        async with self.forgetting([uuid]):
            await self._stored.forget(uuid, history_entry)
