"""Keeps quiet about an instance between a notice's ``proceed`` and the VIM's next step.

After the notice, the VIM disables the reporting of the instance, and only then acts on it. The
instance stops heartbeating in between, as it is expected to freeze or to go down. A ``service``
change at that time would cause the VIM an extra action, so it is sent after the VIM's step.
"""

from __future__ import annotations

from functools import partial
from typing import Final

import trio

from hbtrio.nursery.agent.fleet import Fleet
from hbtrio.nursery.agent.instance_states import InstanceStates
from hbtrio.nursery.time_guard import sleep_until_on_time
from hbtrio.policy.time_guard import CALM_S, OnTimeGuard
from hbtrio.store.retry import retry_forever

#: Seconds for which the VIM's step is waited for.
STEP_S: Final = 30.0


class VimSteps:
    """Withholds the states of instances whose VIM is about to disable them.

    Args:
        nursery: runs the waits.
        fleet: the hosts and instances.
        states: notifies the VIM of the instances' states.
        guard: the process's on-time guard.
    """

    def __init__(
        self, nursery: trio.Nursery, fleet: Fleet, states: InstanceStates, guard: OnTimeGuard
    ) -> None:
        self._nursery = nursery
        self._fleet = fleet
        self._states = states
        self._guard = guard
        #: Until when each instance is waited for.
        self._until: dict[str, float] = {}

    @property
    def is_waiting(self) -> bool:
        """Whether the time of a step may end."""
        return bool(self._until)

    def proceeds(self, uuid: str) -> None:
        """Withholds the state of an instance whose notice the VIM is about to get back."""
        bound = self._fleet.instances.get(uuid)
        if bound is None or not bound.reporting:
            return  # the VIM has disabled it before
        is_new = uuid not in self._until
        self._until[uuid] = trio.current_time() + STEP_S
        self._states.withheld.add(uuid)
        if is_new:
            self._nursery.start_soon(self._wait, uuid)

    async def _wait(self, uuid: str) -> None:
        """Waits for the step; whoever disables the instance sends its state."""
        try:
            while (until := self._until[uuid]) > trio.current_time():
                if uuid not in self._states.withheld:
                    return
                await sleep_until_on_time(
                    until,
                    self._guard,
                    at_most_s=CALM_S,
                    sources=[partial(self._take_in, uuid)],
                )
            if uuid in self._states.withheld:
                self._states.withheld.discard(uuid)
                bound = self._fleet.instances.get(uuid)
                if bound is not None:
                    await retry_forever(partial(self._states.notify, [bound]))
        finally:
            del self._until[uuid]

    def _take_in(self, uuid: str) -> bool:
        """Reads what the instance's host has sent; the VIM's requests are read by their server."""
        bound = self._fleet.instances.get(uuid)
        return bound is not None and self._fleet.take_in(bound.hostname)
