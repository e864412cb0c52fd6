"""Votes and notices that somebody asked for, each from its opening to its one end.

A round ends in one of these ways, whichever comes first; the store makes sure that it is one:

* its host reports the outcome;
* its host opens none: unreachable, something else is open, or the instance is not heartbeating.
  Whoever asked is told so at once, and there is no verdict;
* its host's process is another one than at its opening: nobody will tell how it ended;
* its window is nearly over, and silence is agreement.

The verdict is sent to the VIM if the VIM has asked, once the reply to its request is written whole:
an ``allow`` that overtakes it would be taken for the next step's. Where the VIM did not wait for
the reply, or nobody can know whether it was written because the agent ended in between, there is
none: the VIM does not wait for it, or its own timer decides.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final

import attrs
import trio

from hbtrio.fsm.delivery import OutboxKind
from hbtrio.nursery.agent.fleet import Fleet
from hbtrio.nursery.agent.host_session import HostSession, HostUnreachable
from hbtrio.nursery.agent.open_rounds import (
    VIM,
    OpenedRound,
    OpenRound,
    OpenRounds,
    history_of,
    kind_of,
    window_s,
)
from hbtrio.nursery.agent.unasked_rounds import UnaskedRounds
from hbtrio.nursery.broadcast import Broadcast
from hbtrio.nursery.wakeup import WakeUp
from hbtrio.nursery.windows import Window
from hbtrio.policy.time_guard import OnTimeGuard
from hbtrio.store.records import (
    HistoryEntry,
    NewEntry,
    RoundRecord,
    RoundResult,
)
from hbtrio.store.retry import retry_forever
from hbtrio.store.store import Store
from hbtrio.store.worker import StoreFault
from hbtrio.wire.link_messages import Instance, LinkReport, RoundCommand
from hbtrio.wire.vim import VerdictEvent, guest_response
from hbtrio.wire.vocabulary import Event, NotificationType, VoteResult, window_of

_log = logging.getLogger("hbtrio.rounds")

#: The VIM's timer is as long as the window. A verdict that comes just after it is taken for the
#: next step's answer, so that a silent guest has agreed this much before.
MARGIN_S: Final = 0.25

#: For how long an agent that was not on time puts off that agreement, in seconds; together with
#: the reading of what has arrived it must leave most of the margin to the verdict's way.
_LATE_S: Final = 0.05

#: A host may wait this long for a round that is open to end: the VIM's timer and ours end together.
PATIENCE_S: Final = 1.0

#: Rounds under way in the whole fleet.
_ROUNDS: Final = 10_000


class Rounds:
    """The rounds under way.

    Args:
        nursery: ends them, each in its time. When it ends, those that are open stay so: the next
            process sees to them.
        fleet: knows which host an instance is on, and its link.
        store: knows them all, open and closed.
        unasked: for those that nobody opens.
        guard: the process's on-time guard.
        outbox: woken when a verdict was queued.
        history: rounds that end otherwise than by their host's report are published there.
        new_command_id: makes ids that are unique for ever.
        wall_clock: the store's.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        fleet: Fleet,
        store: Store,
        unasked: UnaskedRounds,
        guard: OnTimeGuard,
        outbox: WakeUp,
        history: Broadcast[HistoryEntry],
        *,
        new_command_id: Callable[[], str],
        wall_clock: Callable[[], datetime],
    ) -> None:
        self._nursery = nursery
        self._fleet = fleet
        self._store = store
        self._unasked = unasked
        self._guard = guard
        self._outbox = outbox
        self._history = history
        self._new_command_id = new_command_id
        self._wall_clock = wall_clock
        self._open = OpenRounds()

    def __len__(self) -> int:
        return len(self._open)

    async def resume(self) -> None:
        """Takes over, in its nursery, the rounds that a former process left open.

        Raises:
            StoreFault: those can't be read.
        """
        for record in await self._store.open_rounds():
            current = self._open.add(OpenRound(record, taken=True, replied=record.replied))
            age_s = (self._wall_clock() - record.asked_at).total_seconds()
            why = ""
            if not record.replied:
                why = "the agent was restarted before its reply"
            elif age_s < 0:
                # By such a clock a verdict would be in time for as long as that was set back.
                why = "the clock was set back: nobody knows whether the VIM still waits"
            if why:
                self._nursery.start_soon(self._end, current, VoteResult.ERROR, why, False)
            else:
                self._nursery.start_soon(self._agree_in_time, current, record.window_s - age_s)

    async def ask(self, uuid: str, event: Event, *, vote: bool, who: str) -> OpenedRound:
        """Opens a vote or notice on an instance, if it takes part.

        Its verdict goes to the VIM once :meth:`replied` was called. One that counts as not
        heartbeating has nothing to say: the window is then 0 s.

        Args:
            uuid: the instance.
            event: what it is about.
            vote: a vote, else a notice.
            who: who asks.

        Raises:
            Unknown: there is no such instance.
            CantAsk: it may be heartbeating, and was not asked, or nobody knows.
            StoreFault: nobody can be asked, as nothing can be kept; or nothing follows from it, and
                a notice was not sent.
        """
        bound = self._fleet.instance(uuid)
        live = self._fleet.live(uuid)
        session = self._fleet.sessions.get(bound.hostname)
        if session is not None and live is not None:
            return await self._ask_host(session, live, event, vote=vote, who=who)
        if session is None and self._store.fault:
            # It ends links. The VIM reads a window of 0 s as consent, even once the hosts' grace
            # time is over.
            raise StoreFault(self._store.fault)
        why = f"{bound.hostname} does not know {uuid}"
        if session is None:
            why = f"{bound.hostname} has no link to this agent"
        return await self._unasked.refuse(uuid, bound.hostname, event, vote=vote, who=who, why=why)

    async def _ask_host(
        self, session: HostSession, live: Instance, event: Event, *, vote: bool, who: str
    ) -> OpenedRound:
        """Has a host open a vote or notice.

        A vote is sent to the host while it is being stored, which is half of what it costs the
        agent's side. A question that nobody waits for any more does no harm; a notice does.
        """
        kind = NotificationType.REVOCABLE if vote else NotificationType.IRREVOCABLE
        record = RoundRecord(
            command_id=self._new_command_id(),
            uuid=live.uuid,
            hostname=session.hostname,
            event=event,
            vote=vote,
            asked_by=who,
            asked_at=self._wall_clock(),
            window_s=window_s(live, window_of(event, kind)),
            boot_id=session.hello.boot_id,
        )
        fault = self._hindrance(record)
        if fault:
            return await self._unasked.refuse(
                live.uuid, session.hostname, event, vote=vote, who=who, why=fault
            )
        # Known here before the host is told: it may report the outcome before it replies.
        deadline = trio.current_time() + record.window_s
        current = self._open.add(OpenRound(record, deadline=deadline))
        seconds, fault = await self._open_on(session, record)
        if fault:
            self._nursery.start_soon(self._end, current, VoteResult.ERROR, fault, False)
            return self._unasked.answer(record, fault)
        current.taken = True
        if not current.ending.is_over:
            # The window begins where the host has opened it, which may have had to wait.
            current.record = attrs.evolve(record, window_s=seconds)
            current.deadline = trio.current_time() + seconds
            self._nursery.start_soon(self._agree_in_time, current, seconds)
        return OpenedRound(record.command_id, seconds, current.ending)

    def _hindrance(self, record: RoundRecord) -> str:
        """Why its host is not even told of a round; "" if nothing stands in its way."""
        if len(self._open) >= _ROUNDS:
            return f"{len(self._open)} votes and notices are open in this fleet"
        if self._open.is_asked(record):
            # The host would wait for the first one, whose verdict the VIM then takes for the second
            # one's, and the second one's for that of its next step.
            return f"the VIM's {kind_of(record)} on {record.event} is open already"
        return ""

    async def _open_on(self, session: HostSession, record: RoundRecord) -> tuple[int, str]:
        """Stores a round and has its host open it.

        Returns:
            its window in seconds, and why there is none.

        Raises:
            StoreFault: it was not stored, and is forgotten.
        """
        seconds, fault = 0, ""
        stored = False
        lost: StoreFault | None = None

        async def command() -> None:
            nonlocal seconds, fault
            try:
                reply = await session.command(
                    RoundCommand(
                        record.command_id, record.uuid, record.event, record.vote, PATIENCE_S
                    )
                )
            except HostUnreachable as error:
                fault = str(error)
            else:
                seconds = reply.seconds
                fault = "" if reply.ok and seconds else reply.reason or "its host has opened none"

        try:
            async with trio.open_nursery() as nursery:
                if record.vote:
                    nursery.start_soon(command)
                try:
                    # It has its place in the store's queue before the host can hear of it, and so
                    # before its outcome has.
                    await self._store.open_round(record)
                except StoreFault as error:
                    lost = error
                    nursery.cancel_scope.cancel()
                else:
                    stored = True
                    if not record.vote:
                        nursery.start_soon(command)
        finally:
            if not stored:
                self._open.pop(record.command_id)
        if lost is not None:
            what = f"{kind_of(record)} on {record.event} for {record.asked_by}"
            _log.error("%s: no %s: store: %s", record.uuid, what, lost)
            raise lost
        return seconds, fault

    async def replied(self, command_id: str) -> None:
        """The reply to whoever asked is written whole: the verdict may follow."""
        current = self._open.get(command_id)
        if current is not None:
            current.replied = True
        if current is None or current.reported:
            # Before: the sender's look then comes right behind in the store, in one transaction
            # mostly. Without an outcome there would be nothing to see, and a look under way when
            # that comes would hold up the one that sees it.
            self._outbox.set()
        try:
            await self._store.replied(command_id)
        except StoreFault as fault:
            _log.error("store: %s: a verdict can't be sent yet", fault)
            self._nursery.start_soon(self._note_reply, command_id)

    async def _note_reply(self, command_id: str) -> None:
        await retry_forever(lambda: self._store.replied(command_id))
        self._outbox.set()

    def unheard(self, command_id: str) -> None:
        """Whoever asked did not wait for the reply: there will be no verdict."""
        self._nursery.start_soon(self._end_unheard, command_id)

    async def _end_unheard(self, command_id: str) -> None:
        current = self._open.get(command_id)
        why = "nobody waited for the reply"
        if current is not None:
            await self._end(current, VoteResult.ERROR, why, False)
        # The outcome may have been first, or be on its way through the store.
        await retry_forever(lambda: self._store.withdraw(command_id, why))

    def host_restarted(self, hostname: str, boot_id: str) -> None:
        """A host's process is this one now: those before it took their rounds with them."""
        for current in self._open:
            # One that was not taken yet is given up by whoever waits for the host's reply.
            gone = current.taken and current.record.boot_id not in ("", boot_id)
            if current.record.hostname == hostname and gone:
                why = "the host daemon was restarted"
                self._nursery.start_soon(self._end, current, VoteResult.ERROR, why, True)

    async def reported(
        self, hostname: str, report: LinkReport
    ) -> tuple[RoundRecord | None, RoundResult | None, list[NewEntry]]:
        """What a host's report of an outcome means.

        Returns:
            the round, its result and what the VIM is to hear; None, None and nothing if this agent
            never asked that host for it.
        """
        current = self._open.get(report.command_id)
        record = current.record if current else await self._store.find_round(report.command_id)
        if record is None or report.result is None or record.hostname != hostname:
            return None, None, []
        if current is not None:
            current.reported = True
        result = RoundResult(report.command_id, report.result, report.reason)
        return record, result, self._verdict(record, result, current.deadline if current else None)

    def awaits_reply(self, command_id: str) -> bool:
        """Whether it is under way and its verdict can't be sent yet: :meth:`replied` will wake."""
        current = self._open.get(command_id)
        return current is not None and not current.replied

    def settled(self, result: RoundResult) -> None:
        """The report of a round's outcome is in the store."""
        current = self._open.pop(result.command_id)
        if current is not None:
            current.end(result)

    # ----------------------------------------------------------------------------------------------

    async def _agree_in_time(self, current: OpenRound, within_s: float) -> None:
        """A round whose host does not tell its outcome in time ends here, in agreement."""
        if current.ending.is_over:
            return

        def take_in() -> bool:
            # Of the host's link as it is then: it may have dialled in again meanwhile.
            session = self._fleet.sessions.get(current.record.hostname)
            return session is not None and session.take_in()

        current.window = Window(
            max(0.0, within_s - MARGIN_S), self._guard, sources=[take_in], at_most_s=_LATE_S
        )
        with suppress(trio.TooSlowError):
            await current.window.wait()
            return
        agreed = VoteResult.ACCEPT if current.record.vote else VoteResult.COMPLETE
        await self._end(current, agreed, f"no answer within {current.record.window_s:g} s", True)

    async def _end(self, current: OpenRound, outcome: VoteResult, why: str, verdict: bool) -> None:
        record = current.record
        if self._open.pop(record.command_id) is None:
            return
        result = RoundResult(record.command_id, outcome, why)
        history = history_of(record, result, self._wall_clock())
        entries = self._verdict(record, result, current.deadline) if verdict else []
        if await retry_forever(lambda: self._store.close_round(result, history, entries)):
            self._history.publish(history)
        else:
            # Its host's report was first, though the link went before anybody here heard of that.
            kept = await retry_forever(lambda: self._store.find_round(record.command_id))
            if kept is not None and kept.result is not None:
                result = RoundResult(record.command_id, kept.result, kept.reason)
        current.end(result)
        self._outbox.set()

    def _verdict(
        self, record: RoundRecord, result: RoundResult, deadline: float | None
    ) -> list[NewEntry]:
        # Of an instance that has moved the VIM has heard enough from its old host: what comes now
        # it would take for the answer of a later step.
        if not self._fleet.has_vim or record.asked_by != VIM:
            return []
        if self._fleet.host_of(record.uuid) != record.hostname:
            return []
        kind = NotificationType.REVOCABLE if record.vote else NotificationType.IRREVOCABLE
        response = guest_response(kind, result.result)
        body = VerdictEvent(record.uuid, record.event, response, result.reason).body()
        expires_at = record.asked_at + timedelta(seconds=record.window_s)
        if deadline is not None:
            # For a next process, by the wall clock as it is now: it may have been set meanwhile.
            left_s = deadline - trio.current_time()
            expires_at = self._wall_clock() + timedelta(seconds=left_s)
        return [
            NewEntry(OutboxKind.ACTION, record.uuid, body, record.command_id, expires_at, deadline)
        ]
