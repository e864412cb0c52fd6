"""Records and answers votes and notices that the agent could not open.

The VIM reads "takes no part" as consent. So that is the answer only for an instance that is not
heartbeating; for any other instance the answer is unknown.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime

from hbtrio.log.subject import fields
from hbtrio.nursery.agent.fleet import Fleet
from hbtrio.nursery.agent.open_rounds import OpenedRound, history_of, kind_of, no_part
from hbtrio.nursery.broadcast import Broadcast
from hbtrio.store.records import HistoryEntry, RoundRecord, RoundResult
from hbtrio.store.store import Store
from hbtrio.store.worker import StoreFault
from hbtrio.wire.vocabulary import Event, VoteResult

_log = logging.getLogger("hbtrio.rounds")


class CantAsk(Exception):
    """An instance can't be asked though it may be heartbeating; the text is the reason."""


class OutcomeUnknown(CantAsk):
    """It is unknown whether the instance was asked; if it was not by now, it never will be."""


class UnaskedRounds:
    """Records and answers rounds that were not opened.

    Args:
        fleet: knows whether an instance may be heartbeating.
        store: keeps the history.
        history: publishes the history entries.
        wall_clock: the wall clock of the store.
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
        self, uuid: str, hostname: str, event: Event, *, vote: bool, who: str, reason: str
    ) -> OpenedRound:
        """Records a round that was not opened; a failing store only loses the history entry.

        Args:
            uuid: the instance.
            hostname: its host.
            event: the event.
            vote: whether it is a vote; else a notice.
            who: the requester.
            reason: why it was not opened.

        Returns:
            The answer that the instance takes no part.

        Raises:
            CantAsk: the instance may be heartbeating.
        """
        now = self._wall_clock()
        record = RoundRecord("", uuid, hostname, event, vote, who, now, window_s=0)
        history = history_of(record, RoundResult("", VoteResult.ERROR, reason), now)
        self._history.publish(history)
        try:
            await self._store.record(history)
        except StoreFault as fault:
            _log.error("store: %s: history entry lost: %s %s", fault, uuid, reason)
        return self.answer(record, reason)

    def answer(
        self,
        record: RoundRecord,
        reason: str,
        *,
        is_unknown: bool = False,
        is_owned: bool = False,
    ) -> OpenedRound:
        """Logs and answers a recorded round; returns and raises as :meth:`refuse`.

        Args:
            record: the round.
            reason: why it is not known to be open.
            is_unknown: whether the instance may have been asked: then it raises
                :class:`OutcomeUnknown`.
            is_owned: whether an operator's action is in progress: "takes no part" would be consent
                to a second action.
        """
        may_answer = is_owned or self._fleet.may_be_heartbeating(record.uuid)
        level = logging.WARNING if may_answer else logging.INFO
        what = f"{kind_of(record)} on {record.event} for {record.asked_by}"
        about = fields(kind_of(record))
        _log.log(level, "%s: no %s: %s", record.uuid, what, reason, extra=about)
        if may_answer:
            raise OutcomeUnknown(reason) if is_unknown else CantAsk(reason)
        return no_part(reason)
