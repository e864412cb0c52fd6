"""Follows the actions of an agent's drains to their ends.

The end of an action and what its drain makes of it are stored at once: a restart between them would
ask the host again, and record the end a second time.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing
from typing import Final

import trio

from hbtrio.fsm.action import ActionState
from hbtrio.fsm.drain import DrainPhase
from hbtrio.nursery.agent.fleet import Fleet
from hbtrio.nursery.agent.fleet_actions import AgentActions
from hbtrio.nursery.agent.followed_actions import FleetAction
from hbtrio.nursery.agent.kept_drains import KeptDrains
from hbtrio.nursery.drain_run import DrainRun
from hbtrio.wire.link_call_off import MAX_REASON
from hbtrio.wire.operator import ProgressLine

#: The steps of an action, by the lines of its progress.
_STEPS: Final = {
    "command": ActionState.PERFORMING,
    "restart": ActionState.AWAITING,
    "down": ActionState.GOING_DOWN,
}

_ENDS: Final[Mapping[object, ActionState]] = {
    "done": ActionState.DONE,
    "rejected": ActionState.REJECTED,
    "failed": ActionState.FAILED,
}


#: How the reason of a group begins.
_OF_GROUPS: Final = ("group ", "groups: ")


class DrainedActions:
    """The actions of drains that hosts have begun.

    Args:
        nursery: follows them.
        fleet: has the links of the hosts.
        actions: runs them.
        kept: stores what becomes of them.
    """

    def __init__(
        self, nursery: trio.Nursery, fleet: Fleet, actions: AgentActions, kept: KeptDrains
    ) -> None:
        self._nursery = nursery
        self._fleet = fleet
        self._actions = actions
        self._kept = kept
        #: Those in progress, by drain and instance: one drain may still ask what became of its
        #: action when another one acts on the instance, which has moved.
        self._begun: dict[tuple[str, str], FleetAction] = {}

    def begins(self, run: DrainRun, action: FleetAction) -> None:
        """Follows an action of a drain from now on."""
        self._begun[run.record.id, action.uuid] = action
        self._nursery.start_soon(self._follow, run, action)
        if run.machine.phase is not DrainPhase.RUNNING:
            self.call_off(run.record.id, action.uuid, run.record.reason)

    def call_off(self, drain: str, uuid: str, reason: str) -> None:
        """Has the host end a drain's action on an instance if its command has not begun.

        One that is being begun is called off once the host has begun it.
        """
        if (action := self._begun.get((drain, uuid))) is not None:
            self._actions.call_off(action, reason[:MAX_REASON])

    async def _follow(self, run: DrainRun, action: FleetAction) -> None:
        try:
            last, denied = await self._last_line(run, action)
        finally:
            del self._begun[run.record.id, action.uuid]
        # Without a checkpoint between: both are in one transaction.
        _ended(run, action, last, denied=denied)
        if action.outcome is not None:
            self._kept.entry(action.outcome)

    async def _last_line(self, run: DrainRun, action: FleetAction) -> tuple[ProgressLine, bool]:
        """Returns the line with the outcome once the action is over and its outcome recorded.

        And whether a group forbids it. Of an action that was followed again after its end only the
        reason is known.
        """
        uuid, is_performed = action.uuid, False
        step = ""
        last = ProgressLine(step="lost", reason="it ended without an outcome")
        session = self._fleet.sessions.get(action.hostname)
        async with aclosing(action.lines.watch()) as lines:
            async for line in lines:
                if line is None:
                    continue
                before, session = session, self._fleet.sessions.get(action.hostname)
                if session is not before and run.machine.phase is not DrainPhase.RUNNING:
                    # What the last session may have lost.
                    self.call_off(run.record.id, uuid, run.record.reason)
                if line.step in ("end", "lost"):
                    last = line
                    continue
                step = line.step
                if line.step == "notice" and not is_performed:
                    run.stepped(uuid, ActionState.PREPARING)
                elif line.step in _STEPS and not line.waiting:
                    is_performed = True
                    run.stepped(uuid, _STEPS[line.step])
        return last, step == "group" or (not step and str(last.reason).startswith(_OF_GROUPS))


def _ended(run: DrainRun, action: FleetAction, last: ProgressLine, *, denied: bool) -> None:
    if last.step == "end":
        outcome = _ENDS.get(last.outcome, ActionState.FAILED)
        reason = str(last.reason or "")
        is_stopped = run.machine.phase is not DrainPhase.RUNNING
        called_off = is_stopped and reason == run.record.reason[:MAX_REASON]
        run.ended(action.uuid, outcome, reason, called_off=called_off, denied=denied)
    elif action.is_unbegun:
        run.unbegun(action.uuid)
    else:
        reason = f"the outcome is unknown: {last.reason}"
        run.ended(action.uuid, ActionState.FAILED, reason, called_off=False, denied=False)
