"""Votes and notices that could not be asked, in the agent: recorded, and how they are answered.

The VIM reads "takes no part" as consent. So only an instance that counts as not heartbeating takes
no part; of any other nobody knows what it would have said.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime

from hbtrio.nursery.agent.fleet import Fleet
from hbtrio.nursery.agent.open_rounds import OpenedRound, history_of, kind_of, no_part
from hbtrio.nursery.broadcast import Broadcast
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
        fleet: knows whether an instance may be heartbeating.
        store: keeps them in the history.
        history: what is kept in the history is published there.
        wall_clock: the store's.
    """

    def __init__(
        self,
        fleet: Fleet,
        store: Store,
        history: Broadcast[HistoryEntry],
        wall_clock: Callable[[], datetime],
    ) -> None:
        self._fleet = fleet
        self._store = store
        self._history = history
        self._wall_clock = wall_clock

    async def refuse(
        self, uuid: str, hostname: str, event: Event, *, vote: bool, who: str, why: str
    ) -> OpenedRound:
        """Records that nobody was asked; a failing store holds nobody up.

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
        self._history.publish(history)
        try:
            await self._store.record(history)
        except StoreFault as fault:
            _log.error("store: %s: not kept: %s %s", fault, uuid, why)
        return self.answer(record, why)

    def answer(self, record: RoundRecord, why: str) -> OpenedRound:
        """The answer for whoever asked, of a round that is recorded; returns, raises as above."""
        may_answer = self._fleet.may_be_heartbeating(record.uuid)
        level = logging.WARNING if may_answer else logging.INFO
        what = f"{kind_of(record)} on {record.event} for {record.asked_by}"
        _log.log(level, "%s: no %s: %s", record.uuid, what, why)
        if may_answer:
            raise CantAsk(why)
        return no_part(why)
