"""What operators want when they drain a host, or an agent its hosts, and how they follow it.

A planned action is followed in the same way: its host keeps it as a drain of one instance.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final, Protocol

import trio

from hbtrio.simulate.observations import ActionBegan, ActionEnded, Observation, Owner
from hbtrio.simulate.operator_course import GONE
from hbtrio.simulate.order_observations import (
    LOST,
    DrainBegan,
    DrainEnded,
    Planned,
    PlanStepped,
)
from hbtrio.simulate.requests import drain_action

#: Seconds between two drains of a host, on average.
DRAIN_S: Final = 120.0

#: The share of drains that are cancelled, and how soon, in seconds.
_CANCELLED: Final = 0.25
_CANCEL_S: Final = (0.05, 15.0)

#: For how long instances may refuse, in seconds.
_RETRY_S: Final = (0.0, 31.0, 60.0)

#: Seconds until one whose connection has gone asks again.
_AGAIN_S: Final = 1.0

#: Seconds after a drain until what it has stopped is started.
_REST_S: Final = (2.0, 15.0)

#: The states of an instance whose guest was told, until its action is over.
_IN_PROGRESS: Final = ("told", "acting")

#: Asks a host: method, path and body; yields the objects that are answered, none if it refuses.
Ask = Callable[[str, str, dict[str, Any] | None], AsyncIterator[dict[str, Any]]]


class Drained(Protocol):
    """See :meth:`~hbtrio.simulate.requests.OperatorRequests.drained`."""

    def __call__(self, uuid: str, drain: str, *, has_turn: bool, acts: bool) -> None:
        """Takes that a drain has an instance in turn, or no longer."""


class DrainCourse:
    """The operators who drain one host, or the hosts of an agent.

    Args:
        host: the name of the host, or the agent.
        names: the instances' names by uuid.
        drained: called with an instance, the drain, and whether the drain has it in turn.
        ask: asks the host, or the agent.
        hosts: the agent's, of which each drain has some; none at a host.
        restore: starts an instance that was stopped.
        now: the time of the run, in seconds.
        observe: called with what is observed.
        say: called with what they do.
        quiet_s: from when on nobody wants anything, in seconds.
        drain_s: seconds between two drains, on average.
    """

    def __init__(
        self,
        host: str,
        names: Mapping[str, str],
        *,
        drained: Drained,
        ask: Ask,
        hosts: tuple[str, ...] = (),
        restore: Callable[[str], Awaitable[None]],
        now: Callable[[], float],
        observe: Callable[[Observation], None],
        say: Callable[[str], None],
        quiet_s: float,
        drain_s: float = DRAIN_S,
    ) -> None:
        self._host = host
        self._names = names
        self._drained = drained
        self._ask = ask
        self._hosts = hosts
        self._restore = restore
        self._now = now
        self._observe = observe
        self._say = say
        self._quiet_s = quiet_s
        self._drain_s = drain_s
        #: The drain that is followed; "" before it is known.
        self._drain = ""
        #: The instance that it is a plan for; "" for a drain of the host.
        self._planned = ""
        self._is_over = self._is_known = False
        #: The instances on which its action is in progress.
        self._acting: set[str] = set()
        self._done: set[str] = set()

    async def run(self, draw: random.Random) -> None:
        """Drains the host now and then, until it is quiet."""
        while self._now() < self._quiet_s:
            await trio.sleep(draw.expovariate(1 / self._drain_s))
            action = draw.choice(("reboot", "stop"))
            wish: dict[str, Any] = {
                "action": action,
                "parallel": draw.choice((1, 1, 2)),
                "order": draw.choice(("name", "group")),
                "retry_for_s": draw.choice(_RETRY_S),
                "on_reject": draw.choice(("wait", "force", "force", "skip", "abort")),
                "ignore_hold": draw.random() < 0.2,
            }
            if self._hosts:
                wish["hosts"] = draw.sample(self._hosts, draw.randint(1, len(self._hosts)))
            cancel_s = draw.uniform(*_CANCEL_S) if draw.random() < _CANCELLED else None
            if self._now() >= self._quiet_s:
                return
            await self.drain(wish, cancel_s)
            await self.rest(action, draw)

    async def rest(self, action: str, draw: random.Random) -> None:
        """Waits some seconds, and starts what the last drain or plan has stopped."""
        await trio.sleep(draw.uniform(*_REST_S))
        if action == "stop":
            for uuid in sorted(self._done):
                await self._restore(uuid)

    async def drain(self, wish: Mapping[str, Any], cancel_s: float | None = None) -> None:
        """Drains the host, and follows the drain to its end, also over restarts of the host.

        Args:
            wish: what is posted.
            cancel_s: after how long it is cancelled, in seconds; None: it is not.
        """
        self._say(f"drains {self._host}: {dict(wish)}")
        await self._follow(partial(self._listen, "POST", "/v1/drains", dict(wish)), "", cancel_s)

    async def plan(
        self,
        uuid: str,
        wish: Mapping[str, Any],
        times: tuple[float, float],
        cancel_s: float | None = None,
    ) -> None:
        """Plans an action on an instance, and follows it as :meth:`drain` does.

        Args:
            uuid: the instance.
            wish: what is posted.
            times: from when on its guest is asked, and when it comes without its vote, in seconds
                of the run.
            cancel_s: after how long it is cancelled, in seconds; None: it is not.
        """
        self._say(f"plans for {self._names[uuid]}: {dict(wish)}")
        await self._follow(partial(self._plan, uuid, dict(wish), times), uuid, cancel_s)

    async def _follow(
        self, begin: Callable[[], Awaitable[None]], planned: str, cancel_s: float | None
    ) -> None:
        self._drain, self._planned = "", planned
        self._is_over = self._is_known = False
        self._done.clear()
        async with trio.open_nursery() as nursery:
            if cancel_s is not None:
                nursery.start_soon(self._cancel, cancel_s)
            await begin()
            while not self._is_over:
                await trio.sleep(_AGAIN_S)
                if self._drain:
                    await self._listen("GET", f"/v1/drains/{self._drain}/progress")
                else:
                    await self._find()
            nursery.cancel_scope.cancel()

    async def _plan(self, uuid: str, wish: dict[str, Any], times: tuple[float, float]) -> None:
        try:
            async for body in self._ask("POST", f"/v1/instances/{uuid}/plan", wish):
                self._drain = body["id"]
                name = self._names[uuid]
                self._observe(Planned(self._now(), self._drain, name, self._host, *times))
        except GONE as fault:
            self._say(f"plan for {self._names[uuid]}: {type(fault).__name__}: {fault}")

    async def _cancel(self, after_s: float) -> None:
        await trio.sleep(after_s)
        if self._drain:
            self._say(f"cancels drain {self._drain}")
            try:
                async for _ in self._ask("POST", f"/v1/drains/{self._drain}/cancel", {}):
                    pass
            except GONE as fault:
                self._say(f"drain {self._drain}: {type(fault).__name__}: {fault}")

    async def _find(self) -> None:
        """Looks for a drain whose first line never came."""
        try:
            async for body in self._ask("GET", "/v1/drains", None):
                open_ = [one["id"] for one in body["drains"] if self._may_be_it(one)]
                self._drain = open_[0] if open_ else ""
                self._is_over = not open_
        except GONE as fault:
            self._say(f"drains of {self._host}: {type(fault).__name__}: {fault}")
            self._is_over = self._now() >= self._quiet_s

    def _may_be_it(self, drain: dict[str, Any]) -> bool:
        """Whether it is the open drain of the host, or the open plan for the instance."""
        is_plan = drain["before"] is not None
        uuids = [one["uuid"] for one in drain["instances"]]
        return drain["ended"] is None and (self._planned in uuids if is_plan else not self._planned)

    async def _listen(self, method: str, path: str, body: dict[str, Any] | None = None) -> None:
        """Takes in the lines of a drain; what is in progress is unknown once they end."""
        heard = gone = False
        try:
            async for line in self._ask(method, path, body):
                heard = True
                self._take(line)
        except GONE as fault:
            gone = True
            self._say(f"drain {self._drain}: {type(fault).__name__}: {fault}")
        for uuid in sorted(self._acting):
            self._action_ended(uuid)
        if self._drain and not (heard or gone):
            self._end(LOST)  # its host knows nothing of it, after a power cut

    def _take(self, line: dict[str, Any]) -> None:
        match line["step"]:
            case "drain" if not self._is_known:
                self._drain, self._is_known = line["id"], True
                self._observe(DrainBegan(self._now(), self._drain, self._host, line["parallel"]))
            case "instance":
                if self._planned:
                    step = PlanStepped(
                        self._now(), self._drain, line["state"], line.get("reason", "")
                    )
                    self._observe(step)
                self._instance(line["uuid"], line["state"], line["hostname"])
            case "end":
                self._end(line["outcome"])

    def _instance(self, uuid: str, state: str, host: str) -> None:
        name = self._names[uuid]
        acts = state in _IN_PROGRESS
        self._drained(uuid, self._drain, has_turn=acts or state == "asked", acts=acts)
        if state == "done":
            self._done.add(uuid)
        if state in _IN_PROGRESS and uuid not in self._acting:
            self._acting.add(uuid)
            action = drain_action(self._drain, name)
            began = ActionBegan(self._now(), action, name, Owner.OPERATOR, host=host)
            self._observe(began)
        elif state not in _IN_PROGRESS and uuid in self._acting:
            self._action_ended(uuid)

    def _action_ended(self, uuid: str) -> None:
        self._acting.discard(uuid)
        self._observe(ActionEnded(self._now(), drain_action(self._drain, self._names[uuid])))

    def _end(self, outcome: str) -> None:
        for uuid in sorted(self._acting):
            self._action_ended(uuid)
        self._is_over = True
        self._observe(DrainEnded(self._now(), self._drain, outcome))
