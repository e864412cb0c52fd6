"""Begins drains, one for each host at a time, and keeps those that ended last.

A planned action is a drain of one instance, which may go on beside those of its host: until its
action begins it owns nothing.
"""

from __future__ import annotations

import logging
import math
import re
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Final

import attrs
import trio

from hbtrio.fsm.action import ActionState
from hbtrio.fsm.drain_records import KEPT, DrainPlace, DrainRecord, StoredDrain
from hbtrio.fsm.drain_rules import DrainRules, OnReject
from hbtrio.fsm.drain_table import ENDED, DrainState
from hbtrio.fsm.planned_time import PlannedTime
from hbtrio.nursery.drain_run import DrainRun
from hbtrio.nursery.drain_site import DrainSite
from hbtrio.nursery.supervisor import Supervisor
from hbtrio.wire.operator import ProgressLine
from hbtrio.wire.vocabulary import ACTION_TABLE, ActionName, Event

_log = logging.getLogger("hbtrio.drain")


#: The longest time until a planned action, in seconds: 30 days.
LONGEST_PLAN_S: Final = 2_592_000.0

#: What a drain may do about an instance whose guest rejects.
ON_REJECT: Final = tuple(str(word) for word in OnReject)


#: How a planned action ends, in the words of an action.
_OUTCOMES: Final = {DrainState.DONE: "done", DrainState.FAILED: "failed"}

#: Yields the lines of an action's progress from the first one.
Lines = Callable[[], AsyncGenerator[ProgressLine | None]]


class DrainRefused(Exception):
    """A drain can't be begun, or there is none to cancel; the text is the reason."""


@attrs.frozen(kw_only=True)
class DrainPlan:
    """What was asked for.

    Args:
        action: what to do to each instance.
        command: what performs it; empty for the configured command of each host.
        rules: how to go about the instances.
        hosts: the names of the hosts; none: this one.
        instance: the uuid of the only one, of a planned action; "": all.
        first: the uuids of those that come first, in their order.
        by_group: whether the others come as far from those of their group as possible; else by
            name.
        ignore_hold: whether instances on hold are not skipped.
        is_dry: whether to ask only.
    """

    action: ActionName
    command: tuple[str, ...] = ()
    rules: DrainRules = attrs.field(factory=DrainRules)
    hosts: tuple[str, ...] = ()
    instance: str = ""
    first: tuple[str, ...] = ()
    by_group: bool = False
    ignore_hold: bool = False
    is_dry: bool = False

    def record(self, who: str, epoch_s: float, boot_id: str) -> DrainRecord:
        """Makes the drain."""
        return DrainRecord(
            id=f"{'d' if self.rules.planned is None else 'p'}{round(epoch_s * 1000):x}"
            + (f"-{self.instance[:8]}" if self.instance else ""),
            action=self.action,
            command=self.command,
            rules=self.rules,
            ignore_hold=self.ignore_hold,
            who=who,
            begun_at=epoch_s,
            boot_id=boot_id,
        )

    def ordered(
        self, places: Iterable[DrainPlace], group_of: Callable[[str], str]
    ) -> tuple[DrainPlace, ...]:
        """Returns the instances in their order.

        Args:
            places: the instances.
            group_of: returns the group of an instance; "" for none.
        """
        by_name = sorted(places, key=lambda place: (natural(place.name), place.item.uuid))
        if self.by_group:
            seen: Counter[str] = Counter()
            rounds: list[int] = []
            for place in by_name:
                group = group_of(place.item.uuid)
                rounds.append(seen[group] if group else 0)
                seen[group] += 1
            at = sorted(range(len(by_name)), key=lambda index: rounds[index])
            by_name = [by_name[index] for index in at]
        rank = {uuid: index for index, uuid in enumerate(self.first)}
        by_name.sort(key=lambda place: rank.get(place.item.uuid, len(rank)))
        return tuple(attrs.evolve(one, position=at) for at, one in enumerate(by_name))


def rules_of(parallel: int, retry_for_s: float, on_reject: str) -> DrainRules:
    """Makes the rules of a drain; ``on_reject`` is one of ``ON_REJECT``."""
    return DrainRules(parallel=parallel, retry_for_s=retry_for_s, on_reject=OnReject(on_reject))


@attrs.frozen
class PlanSpans:
    """In how many seconds a planned action is asked for first, and when that has an end."""

    begin_s: float
    end_s: float

    @classmethod
    def of(cls, not_before: datetime | None, before: datetime, epoch_s: float) -> PlanSpans:
        """Makes them of times; None, or a time that is over: now."""
        begin_s = 0.0 if not_before is None else max(0.0, not_before.timestamp() - epoch_s)
        return cls(begin_s, before.timestamp() - epoch_s)

    def from_(self, now_s: float) -> PlannedTime:
        """Returns them as times of a clock whose time is ``now_s``.

        Raises:
            DrainRefused: they are over, out of order or too long.
        """
        if not self.begin_s < self.end_s <= LONGEST_PLAN_S:
            raise DrainRefused("before: must be to come, after not_before, and within 30 days")
        return PlannedTime(not_before=now_s + self.begin_s, before=now_s + self.end_s)

    def words(self, epoch_s: float, *, gives_up: bool) -> str:
        """Says what is planned, for the history."""
        since, until = (
            datetime.fromtimestamp(epoch_s + span_s, UTC).isoformat(timespec="seconds")
            for span_s in (self.begin_s, self.end_s)
        )
        end = f"given up at {until}" if gives_up else f"without its vote at {until}"
        return f"planned: not before {since}, {end}"


def natural(name: str) -> tuple[tuple[int, str], ...]:
    """Returns what sorts ``vm-9`` before ``vm-10``."""
    parts = re.split(r"([0-9]{1,18})", name)
    return tuple((int(part), "") if at % 2 else (0, part) for at, part in enumerate(parts))


class Drains:
    """The drains of a daemon: at most one for each host, and those that ended last.

    Args:
        nursery: runs them.
        supervisor: counts programming errors.
        site: where their actions run.
    """

    def __init__(self, nursery: trio.Nursery, supervisor: Supervisor, site: DrainSite) -> None:
        self._nursery = nursery
        self._supervisor = supervisor
        self._site = site
        #: The last ones, the oldest first; those in progress among them.
        self.last: deque[DrainRun] = deque()
        #: How the planned actions of this run of the daemon have ended.
        self.plans_ended = {state.value: 0 for state in DrainState if state in ENDED}

    @property
    def in_progress(self) -> Iterable[DrainRun]:
        """Those that have not ended."""
        return [run for run in self.last if not run.is_over]

    def get(self, id_: str) -> DrainRun | None:
        """Returns a drain by its id."""
        return next((run for run in self.last if run.record.id == id_), None)

    def begin(self, stored: StoredDrain, *, is_dry: bool = False) -> DrainRun:
        """Begins a drain, or with ``is_dry`` only asks all guests.

        Raises:
            DrainRefused: one of its hosts is being drained, or there is a planned action for its
                only instance.
        """
        run = DrainRun(stored, self._site, is_dry=is_dry)
        if not is_dry:
            for other in self.in_progress:
                if reason := _conflict(run, other):
                    raise DrainRefused(reason)
            self._add(run)
        self._nursery.start_soon(self._run, run)
        return run

    def planned(self, uuid: str) -> DrainRun | None:
        """Returns the planned action for an instance that has not ended, if there is one."""
        runs = (run for run in self.in_progress if run.record.rules.planned is not None)
        return next((run for run in runs if uuid in run.places), None)

    def cancel(self, id_: str, who: str) -> DrainRun:
        """Cancels a drain.

        Raises:
            DrainRefused: there is no such drain, or it has ended.
        """
        run = self.get(id_)
        if run is None:
            raise DrainRefused(f"no drain {id_}")
        if run.is_over:
            raise DrainRefused(f"drain {id_} has ended: {run.outcome}")
        run.cancel(f"cancelled by {who}")
        return run

    def withdrawn(self, uuid: str, event: Event) -> None:
        """Takes that a guest does not reject an event any more, as it says."""
        for run in self.in_progress:
            if uuid in run.places and ACTION_TABLE[run.record.action].before is event:
                run.withdrawn(uuid)

    def recalled(
        self,
        stored: Iterable[StoredDrain],
        steps: Mapping[tuple[str, str], ActionState],
        boot_id: str,
    ) -> None:
        """Goes on with what earlier runs of the daemon have left.

        Args:
            stored: the drains, the oldest first.
            steps: the steps of the actions that go on, by drain and instance.
            boot_id: the machine's boot; a drain of another one is over.
        """
        for one in stored:
            run = DrainRun(one, self._site, is_resumed=True)
            self._add(run)
            if run.is_over:
                continue
            if run.record.boot_id != boot_id:
                run.cancel("interrupted: the machine was restarted")
            id_ = run.record.id
            _log.warning("drain %s: resumed after a restart", id_)
            run.recalled({uuid: step for (drain, uuid), step in steps.items() if drain == id_})
            self._nursery.start_soon(self._run, run)

    async def _run(self, run: DrainRun) -> None:
        await run.run(self._supervisor)
        if run.record.rules.planned is not None:
            for item in run.machine.items.values():
                self.plans_ended[item.state.value] += 1

    def pause(self) -> None:
        """Takes no more turns: the daemon ends, and its next run goes on."""
        for run in self.in_progress:
            run.is_paused = True

    def _add(self, run: DrainRun) -> None:
        self.last.append(run)
        while len(self.last) > KEPT and (over := [one for one in self.last if one.is_over]):
            self.last.remove(over[0])


class Attempts:
    """The last action of each planned action that is kept, for those who follow it.

    Args:
        runs: the drains.
    """

    def __init__(self, runs: Drains) -> None:
        self._runs = runs
        self._last: dict[str, Lines] = {}

    def began(self, id_: str, uuid: str, lines: Lines) -> None:
        """Takes that the action of a drain has begun, and what yields its lines from the first."""
        run = self._runs.get(id_)
        if run is not None and run.due is not None and not run.is_over:
            known = {one: of for one, of in self._last.items() if self._runs.get(one)}
            self._last = known | {id_: lines}
            run.show_again(uuid)

    async def progress(self, run: DrainRun) -> AsyncGenerator[ProgressLine | None]:
        """Yields the lines of each attempt, what is waited for in between, and the outcome."""
        shown: Lines | None = None
        waits_until, end = -math.inf, ""
        event = ACTION_TABLE[run.record.action].before
        (item,) = run.machine.items.values()
        async with aclosing(run.watch()) as changes:
            async for change in changes:
                if change is None:
                    yield None
                    continue
                attempt = self._last.get(run.record.id)
                if attempt is not None and attempt is not shown:
                    shown = attempt
                    async with aclosing(attempt()) as lines:
                        async for line in lines:
                            if line is None or line.step not in ("end", "lost"):
                                yield line
                            else:
                                end = str(line.reason or "")
                again_s = run.again_s(item.uuid)
                if again_s is not None and item.ask_at != waits_until:
                    waits_until = item.ask_at
                    why = f"it was {item.state.value}: {item.reason}"
                    yield ProgressLine(
                        step="vote", event=event or "", waiting=why, seconds=round(again_s, 3)
                    )
        # The outcome says it already.
        reason = (item.reason or run.record.reason).removeprefix("rejected: ")
        if item.state is DrainState.DONE:
            reason = end  # such as that it was not back in time
        outcome = _OUTCOMES.get(item.state, "rejected")
        yield ProgressLine(step="end", outcome=outcome, reason=reason)


def _conflict(run: DrainRun, other: DrainRun) -> str:
    """Why a drain must not begin beside another one; "" if it may."""
    record = other.record
    since = datetime.fromtimestamp(record.begun_at, UTC).isoformat(" ", "seconds")
    is_planned = [one.record.rules.planned is not None for one in (run, other)]
    if all(is_planned) and (common := set(run.places) & set(other.places)):
        planned = f"{min(common)} has a planned {record.action} since {since} by {record.who}"
        return f"{planned}; --cancel-planned ends it"
    if not any(is_planned) and (shared := set(run.hosts) & set(other.hosts)):
        by = f"by {record.who} (drain {record.id})"
        return f"{min(shared)} is being drained since {since} {by}"
    return ""
