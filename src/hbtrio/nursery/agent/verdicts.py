"""Makes the verdicts for the VIM: which rounds have one, its body, and until when it is of use."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import trio

from hbtrio.fsm.delivery import OutboxKind
from hbtrio.nursery.agent.fleet import Fleet
from hbtrio.nursery.agent.vim_steps import VimSteps
from hbtrio.policy.allowances import answer_within_s
from hbtrio.store.records import NewEntry, RoundRecord, RoundResult
from hbtrio.wire.link_messages import VIM
from hbtrio.wire.vim import VerdictEvent, guest_response
from hbtrio.wire.vocabulary import NotificationType


class Verdicts:
    """Makes verdicts of rounds that have a result.

    Args:
        fleet: knows whether there is a VIM, and the host of each instance.
        steps: notes after which verdicts the VIM goes on with its event.
        wall_clock: the wall clock of the store.
    """

    def __init__(self, fleet: Fleet, steps: VimSteps, wall_clock: Callable[[], datetime]) -> None:
        self._fleet = fleet
        self._steps = steps
        self._wall_clock = wall_clock

    def entries(
        self, record: RoundRecord, result: RoundResult, until: float | None
    ) -> list[NewEntry]:
        """Returns the verdict to queue for the VIM, in a list that is empty if there is none.

        Args:
            record: the round.
            result: its result.
            until: when the VIM's timer ends, on trio's clock; None if this process does not have
                the round open.
        """
        # No verdict from the old host of a moved instance: the VIM would take it for the answer of
        # a later step.
        if not self._fleet.has_vim or record.asked_by != VIM:
            return []
        if self._fleet.host_of(record.uuid) != record.hostname:
            return []
        within_s = answer_within_s(record.window_s, for_vim=True)
        expires_at = record.asked_at + timedelta(seconds=within_s)
        if until is not None:
            # For the next process, by the present wall clock, which may have been set meanwhile.
            expires_at = self._wall_clock() + timedelta(seconds=until - trio.current_time())
        verdict = _verdict(record, result)
        if verdict.lets_act:
            self._steps.proceeds(record.uuid)
        return [
            NewEntry(
                OutboxKind.ACTION,
                record.uuid,
                verdict.body(),
                record.command_id,
                expires_at,
                until,
            )
        ]


def _verdict(record: RoundRecord, result: RoundResult) -> VerdictEvent:
    kind = NotificationType.REVOCABLE if record.vote else NotificationType.IRREVOCABLE
    response = guest_response(kind, result.result)
    return VerdictEvent(record.uuid, record.event, response, result.reason)
