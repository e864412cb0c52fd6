"""Votes and notices that could not be asked, in the agent: recorded, and how they are answered.

That nobody was asked must not be taken for nobody's objecting: only an instance that counts as not
heartbeating takes no part. Of any other nobody knows what it would have said.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime

from hbtrio.nursery.agent.open_rounds import OpenedRound, history_of, kind_of, no_part
from hbtrio.store.records import HistoryEntry, RoundRecord, RoundResult
from hbtrio.store.store import Store
from hbtrio.store.worker import StoreFault
from hbtrio.wire.vocabulary import Event, VoteResult

_log = logging.getLogger("hbtrio.rounds")


class CantAsk(Exception):
    """An instance can't be asked though it may be heartbeating; the text says why."""


class UnaskedRounds:
    """What becomes of votes and notices that nobody opens.

    Args:
        store: keeps them in the history.
        may_beat: whether an instance counts as heartbeating, or nobody knows yet.
        publish: told of what is kept in the history.
        wall_clock: the store's.
    """

    def __init__(
        self,
        store: Store,
        may_beat: Callable[[str], bool],
        publish: Callable[[HistoryEntry], None],
        wall_clock: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._may_beat = may_beat
        self._publish = publish
        self._wall_clock = wall_clock

    async def refuse(
        self, uuid: str, hostname: str, event: Event, *, vote: bool, who: str, why: str
    ) -> OpenedRound:
        """Records that nobody was told of a vote or notice; a failing store holds nobody up.

        Args:
            uuid: the instance.
            hostname: its host.
            event: what it was to be about.
            vote: a vote, else a notice.
            who: who has asked.
            why: for people.

        Returns:
            that the instance takes no part.

        Raises:
            CantAsk: it may be heartbeating.
        """
        now = self._wall_clock()
        record = RoundRecord("", uuid, hostname, event, vote, who, now, window_s=0)
        history = history_of(record, RoundResult("", VoteResult.ERROR, why), now)
        self._publish(history)
        try:
            await self._store.record(history)
        except StoreFault as fault:
            _log.error("store: %s: not kept: %s %s", fault, uuid, why)
        return self.answer(record, why)

    def answer(self, record: RoundRecord, why: str) -> OpenedRound:
        """What whoever has asked is told of a round that is recorded; returns, raises as above."""
        may_beat = self._may_beat(record.uuid)
        level = logging.WARNING if may_beat else logging.INFO
        what = f"{kind_of(record)} on {record.event} for {record.asked_by}"
        _log.log(level, "%s: no %s: %s", record.uuid, what, why)
        if may_beat:
            raise CantAsk(why)
        return no_part(why)
