"""Runs drains as tasks, of a host or of an agent: one action on many instances.

A drain belongs to its daemon: whoever asked for it may go away. What it decides is in
:mod:`hbtrio.fsm.drain`; each action runs as any other action, at the
:class:`~hbtrio.nursery.drain_site.DrainSite`. What changes is stored before or with the action
itself, so that the next run of the daemon goes on.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from typing import Final

import attrs
import trio

from hbtrio.fsm.action import ActionState
from hbtrio.fsm.drain import Drain, DrainOutcome, DrainPhase, Turn
from hbtrio.fsm.drain_records import StoredDrain
from hbtrio.fsm.drain_table import DrainState
from hbtrio.nursery.drain_site import Blocked, DrainSite, Gone, Skipped
from hbtrio.nursery.supervisor import Supervisor
from hbtrio.nursery.wakeup import WakeUp
from hbtrio.wire.operator import DrainLine

_log = logging.getLogger("hbtrio.drain")

#: Instances that are asked at once before a drain begins.
ASKED_AT_ONCE: Final = 32

#: A watcher without news gets an empty line after so many seconds.
_QUIET_S: Final = 15.0

_BUG: Final = "a programming error, see the daemon's log"

#: The outcome of one that only asks.
DRY_RUN: Final = "dry-run"


class DrainRun:
    """A drain in progress, or one that has ended.

    Args:
        stored: the drain and its instances in their order.
        site: where its actions run.
        is_dry: whether it only asks; nothing of it is stored.
        is_resumed: whether an earlier run of the daemon has begun it.
    """

    def __init__(
        self,
        stored: StoredDrain,
        site: DrainSite,
        *,
        is_dry: bool = False,
        is_resumed: bool = False,
    ) -> None:
        self.record = stored.record
        self.is_dry = is_dry
        self.places = {place.item.uuid: place for place in stored.places}
        # Copies: those of the places are as they were stored.
        items = [attrs.evolve(place.item) for place in stored.places]
        self.machine = Drain(stored.record.rules, items, stored.record.phase)
        #: Whether no more turns are taken, since the daemon ends.
        self.is_paused = False
        #: Set once the disk has it, or is known not to take it now.
        self.stored = trio.Event()
        self._changed_at = trio.current_time()
        self._site = site
        self._is_resumed = is_resumed
        self._asking = trio.CancelScope()
        #: Set once the last turn was taken.
        self._begun = trio.Event()
        self._begun.set()
        self._wake = WakeUp()
        self._watchers: dict[WakeUp, dict[str, None]] = {}

    # -- what is seen of it -------------------------------------------------------------------

    @property
    def hosts(self) -> tuple[str, ...]:
        """The names of its hosts."""
        return tuple(dict.fromkeys(place.hostname for place in self.places.values()))

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self.record.ended_at is not None

    @property
    def outcome(self) -> str:
        """How it has ended; "" while it goes on."""
        if not self.is_over:
            return ""
        if self.is_dry:
            return DRY_RUN
        return (self.machine.outcome or DrainOutcome.ABORTED).value

    def counts(self) -> dict[str, int]:
        """How many instances are in each state."""
        found = Counter(item.state for item in self.machine.items.values())
        return {state.value: found[state] for state in DrainState if state in found}

    @property
    def stuck_s(self) -> float:
        """For how long no instance has changed its state, in seconds."""
        is_moving = not self.is_over and self.record.rules.planned is None
        return trio.current_time() - self._changed_at if is_moving else 0.0

    def again_s(self, uuid: str) -> float | None:
        """In how many seconds an instance that refuses has its turn; None if it does not."""
        item = self.machine.items[uuid]
        if item.state not in (DrainState.REJECTED, DrainState.BLOCKED):
            return None
        return max(0.0, item.ask_at - self._site.now())

    @property
    def due(self) -> tuple[float, float] | None:
        """The times of a planned action, in seconds since the epoch by the present wall clock."""
        planned = self.record.rules.planned
        if planned is None:
            return None
        offset_s = self._site.epoch_s() - self._site.now()
        return offset_s + planned.not_before, offset_s + planned.before

    def appeared(self) -> tuple[str, ...]:
        """The instances on its hosts that came since it began, by name; it leaves them alone."""
        if self.record.rules.planned is not None:
            return ()
        present = [one for host in self.hosts for one in self._site.present(host).items()]
        return tuple(sorted(name or uuid for uuid, name in present if uuid not in self.places))

    async def watch(self) -> AsyncGenerator[DrainLine | None]:
        """Yields the drain, each instance as it is, then each change; ends with the drain.

        Whoever reads too slowly gets the last change of each instance only.
        """
        record, wake = self.record, WakeUp()
        changed = self._watchers[wake] = dict.fromkeys(self.places)
        try:
            yield DrainLine(
                step="drain",
                id=record.id,
                action=record.action,
                who=record.who,
                parallel=record.rules.parallel,
                total=len(self.places),
            )
            while True:
                while changed:
                    uuid = next(iter(changed))
                    del changed[uuid]
                    yield self._line(uuid)
                if self.is_over:
                    break
                with trio.move_on_after(_QUIET_S) as quiet:
                    await wake.wait()
                if quiet.cancelled_caught:
                    yield None
            why, new = self.record.reason, self.appeared()
            yield DrainLine(step="end", outcome=self.outcome, reason=why, appeared=new)
        finally:
            del self._watchers[wake]

    def show_again(self, uuid: str) -> None:
        """Has each watcher told of an instance again, as if it had changed."""
        for wake, changed in self._watchers.items():
            changed[uuid] = None
            wake.set()

    def _line(self, uuid: str) -> DrainLine:
        place, item = self.places[uuid], self.machine.items[uuid]
        return DrainLine(
            step="instance",
            uuid=uuid,
            name=place.name,
            hostname=place.hostname,
            state=item.state.value,
            reason=item.reason,
            answer=place.answer,
        )

    # -- what becomes of its instances --------------------------------------------------------

    def stepped(self, uuid: str, step: ActionState) -> None:
        """Takes the step that the action on an instance begins."""
        before = self.machine.items[uuid].state
        self.machine.step(uuid, step)
        if self.machine.items[uuid].state is not before:
            self._changed(uuid)

    def ended(
        self, uuid: str, outcome: ActionState, reason: str, *, called_off: bool, denied: bool
    ) -> None:
        """Takes the end of the action on an instance; ``denied``: a group forbids it."""
        is_asked = self.machine.items[uuid].state is DrainState.ASKED
        if called_off and outcome is ActionState.FAILED:
            self.machine.called_off(uuid, reason)
        elif outcome is ActionState.REJECTED and denied and is_asked:
            self.machine.blocked(uuid, reason, self._site.now())
        else:
            self.machine.ended(uuid, outcome, reason, self._site.now())
        self._changed(uuid)
        if self.machine.phase is not self.record.phase:  # upon a reject
            self._stopped(f"{self.places[uuid].name or uuid} rejects: {reason}")

    def withdrawn(self, uuid: str) -> None:
        """Takes that the guest of an instance does not reject any more, as it says."""
        self.machine.withdrawn(uuid, self._site.now())
        self._changed(uuid)

    def unbegun(self, uuid: str) -> None:
        """Takes that the action on an instance was never begun."""
        self.machine.unresumed(uuid)
        self._changed(uuid)

    def cancel(self, reason: str) -> None:
        """Takes no more turns, and ends the actions whose commands have not begun."""
        if self.machine.phase is DrainPhase.RUNNING and not self.is_over:
            self.machine.cancel(reason)
            self._stopped(reason)

    def recalled(self, steps: Mapping[str, ActionState]) -> None:
        """Takes, after a restart of the daemon, the actions that go on, by instance."""
        for uuid in self.places:
            if (step := steps.get(uuid)) is not None:
                self.machine.resumed(uuid, step)
            else:
                self.machine.unresumed(uuid)
            self._changed(uuid)
        self._call_off()

    def _stopped(self, reason: str) -> None:
        _log.warning("drain %s: %s: %s", self.record.id, self.machine.phase.value, reason)
        self._asking.cancel()
        self.record = attrs.evolve(self.record, phase=self.machine.phase, reason=reason)
        self._keep()
        for uuid in self.places:
            self._changed(uuid)
        self._call_off()

    def _call_off(self) -> None:
        for uuid in self.machine.call_off:
            self._site.call_off(self.record.id, uuid, self.record.reason)

    def _changed(self, uuid: str, answer: str | None = None) -> None:
        before, item = self.places[uuid], self.machine.items[uuid]
        answer = before.answer if answer is None else answer
        place = attrs.evolve(before, item=attrs.evolve(item), answer=answer)
        if place == before:
            return
        self.places[uuid] = place
        self._changed_at = trio.current_time()
        if not self.is_dry:
            self._site.keep_place(place)
        self.show_again(uuid)
        self._wake.set()

    def _keep(self) -> None:
        if not self.is_dry:
            self._site.keep(self.record)

    # -- its task -----------------------------------------------------------------------------

    async def run(self, supervisor: Supervisor) -> None:
        """Asks all guests, then takes one turn after the other until all instances have ended.

        Cancelled, it has not ended: the next run of the daemon goes on with it.
        """
        try:
            if not self._is_resumed:
                if not self.is_dry:
                    await self._site.put(StoredDrain(self.record, tuple(self.places.values())))
                self.stored.set()
                if self.record.rules.planned is None:
                    await self._ask_all()
            if not self.is_dry:
                async with trio.open_nursery() as nursery:
                    await self._take_turns(nursery)
        except Exception:  # noqa: BLE001 - a drain's programming error must not stop the daemon
            supervisor.count_crash()
            _log.exception("drain %s failed", self.record.id)
            self.cancel(_BUG)
        self.record = attrs.evolve(self.record, ended_at=self._site.epoch_s())
        self._keep()
        _log.info("drain %s: %s", self.record.id, self.outcome)
        for wake in self._watchers:
            wake.set()

    async def _ask_all(self) -> None:
        limit = trio.CapacityLimiter(ASKED_AT_ONCE)

        async def ask(uuid: str) -> None:
            async with limit:
                answer = await self._site.ask(self.record, uuid)
            self._changed(uuid, answer)

        with self._asking:
            async with trio.open_nursery() as nursery:
                for uuid in self.places:
                    nursery.start_soon(ask, uuid)

    async def _take_turns(self, nursery: trio.Nursery) -> None:
        while not self.machine.is_over:
            now = self._site.now()
            for uuid in () if self.is_paused else self.machine.expire(now):
                self._changed(uuid)
            turns = () if self.is_paused else self.machine.turns(now)
            for turn in turns:
                self._changed(turn.uuid)
                before, self._begun = self._begun, trio.Event()
                nursery.start_soon(self._take, turn, before, self._begun)
            left_s = math.inf if self.is_paused else self.machine.wakes_at - self._site.now()
            with trio.move_on_after(max(0.0, left_s)):
                await self._wake.wait()

    def _as_due(self, turn: Turn) -> Turn:
        """Returns a turn as it is to begin: without a vote if its planned time came meanwhile."""
        if turn.force or self._site.now() < self.record.rules.forced_at:
            return turn
        return attrs.evolve(turn, force=True, overrides=self.machine.items[turn.uuid].rejected)

    async def _take(self, turn: Turn, before: trio.Event, begun: trio.Event) -> None:
        """Begins an action, after that of the turn before: of a group the first one goes first."""
        uuid = turn.uuid
        await self._site.ready(self.record.id, uuid)
        await before.wait()
        try:
            if self.machine.phase is DrainPhase.RUNNING:
                await self._site.begin(self.record, self._as_due(turn))
                return
            self.machine.called_off(uuid, self.record.reason)
        except Blocked as reason:
            if self.is_paused:
                return
            self.machine.blocked(uuid, str(reason), self._site.now())
        except Skipped as reason:
            self.machine.skipped(uuid, str(reason))
        except Gone as reason:
            self.machine.gone(uuid, str(reason))
        finally:
            begun.set()
        self._changed(uuid)
