"""Operators: those of a host without an agent act, plan, hold and drain; others drain by an agent.

Each wants what the operators of a simulation want, and asks as ``hbtrio ctl`` does.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import trio

from chaos.host import ChaosHost
from chaos.records import Records
from chaos.vm import ChaosVm
from hbtrio.client.client import CtlClient
from hbtrio.errors import ExitStatus, UserError
from hbtrio.simulate.drain_course import DRAIN_S, DrainCourse, Drained
from hbtrio.simulate.hold_course import HoldCourse
from hbtrio.simulate.observations import AGENT, Owner
from hbtrio.simulate.operator_course import OperatorCourse
from hbtrio.simulate.plan_course import PlanCourse
from hbtrio.simulate.reject_watch import Feed, read_lines
from hbtrio.simulate.requests import OperatorRequests
from hbtrio.simulate.schedule import Schedule
from hbtrio.wire.operator import parse

#: For how long an operator waits for the next line of an answer, in seconds.
_SILENT_S: Final = 60.0

#: How much later than a script speaks this process may read what a host has said before, in
#: seconds: they are read in any order.
LEARNS_S: Final = 0.2

#: How much later than its begin a command may say so, in seconds. One that has begun before a hold
#: is not forbidden by it.
_SAYS_S: Final = 0.5

#: How a request is answered: with lines, or else with one object.
_IN_LINES: Final = ("/act", "/progress", "/drains")


class RealOperators:
    """The operators.

    Args:
        vms: all VMs by uuid; filled later.
        names: their names by uuid; filled later.
        records: takes in what is observed.
        say: called with what they do.
        schedule: has the seed of what they want, and until when they do.
    """

    def __init__(
        self,
        vms: Mapping[str, ChaosVm],
        names: Mapping[str, str],
        records: Records,
        say: Callable[[str], None],
        schedule: Schedule,
    ) -> None:
        self._vms = vms
        self._names = names
        self._observe = records.observe
        self._now = records.clock.now
        self._say = say
        self._seed = schedule.seed
        self._quiet_s = schedule.quiet_s
        #: The votes and notices that they ask for.
        self.requests = OperatorRequests("op", Owner.OPERATOR, names, self._now, records.observe)

    async def run(self, host: ChaosHost) -> None:
        """Wants something of a host and its VMs, until it is quiet."""
        course = OperatorCourse(
            self.requests,
            ask=partial(self._act, host),
            is_there=self._is_there,
            restore=self._restore,
            now=self._now,
            observe=self._observe,
            say=self._say,
            quiet_s=self._quiet_s,
        )
        vms = [vm for vm in self._vms.values() if vm.last is host]
        async with trio.open_nursery() as nursery:
            for vm in vms:
                draw = self._draw(f"operator of {vm.name}")
                nursery.start_soon(course.care_for, vm.uuid, vm.name, draw)
                draw = self._draw(f"holds on {vm.name}")
                nursery.start_soon(self._hold_course(host, vm).run, draw)
                draw = self._draw(f"plans for {vm.name}")
                nursery.start_soon(self._plan_course(host, vm).run, draw)
            draw = self._draw(f"drains of {host.name}")
            nursery.start_soon(self._drain_course(host).run, draw)

    async def drain_by_agent(
        self, client: Callable[[], CtlClient], hosts: Sequence[ChaosHost], drained: Drained
    ) -> None:
        """Has an agent drain one of its hosts now and then, until it is quiet.

        Args:
            client: makes a client of the agent.
            hosts: its hosts.
            drained: called with an instance, the drain, and whether the drain has it in turn.
        """
        draw = self._draw("drains by the agent")
        course = self._course_of(AGENT, client, hosts, drained)
        while True:
            await trio.sleep(draw.expovariate(1 / DRAIN_S))
            # A VM that was stopped would be the VIM's to start.
            wish = {
                "action": "reboot",
                "hosts": [draw.choice(hosts).name],
                "parallel": draw.choice((1, 2)),
                "retry_for_s": draw.choice((0.0, 31.0)),
                "on_reject": draw.choice(("wait", "skip", "abort")),
            }
            if self._now() >= self._quiet_s:
                return
            await course.drain(wish, draw.uniform(0.05, 15.0) if draw.random() < 0.2 else None)

    def asked(self, uuid: str) -> Feed:
        """Reads what the host asks of a VM, before the VM has it."""

        def begun(message: dict[str, Any]) -> None:
            is_vote = message.get("notification_type") == "revocable"
            self.requests.written(uuid, message.get("event_type", ""), is_vote)

        return read_lines(b'revocable"', begun)

    def _draw(self, what: str) -> random.Random:
        return random.Random(f"{self._seed}/{what}")

    def _is_there(self, uuid: str) -> bool:
        return self._vms[uuid].place is not None

    def _hold_course(self, host: ChaosHost, vm: ChaosVm) -> HoldCourse:
        path = f"/v1/instances/{vm.uuid}"

        async def ask(word: str, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
            async for answer in self._ask(host.scene.client, "POST", f"{path}/{word}", body):
                await trio.sleep(_SAYS_S)
                yield answer

        return HoldCourse(
            vm.uuid,
            vm.name,
            host=lambda: host.name if self._is_there(vm.uuid) else "",
            ask=ask,
            now=self._now,
            observe=self._observe,
            say=self._say,
            quiet_s=self._quiet_s,
        )

    def _drain_course(self, host: ChaosHost) -> DrainCourse:
        return self._course_of(host.name, host.scene.client, [host], self.requests.drained)

    def _course_of(
        self,
        name: str,
        client: Callable[[], CtlClient],
        hosts: Sequence[ChaosHost],
        drained: Drained,
    ) -> DrainCourse:
        async def ask(
            method: str, path: str, body: dict[str, Any] | None
        ) -> AsyncIterator[dict[str, Any]]:
            if body and "action" in body:
                for vm in self._vms.values():
                    if vm.last in hosts:
                        self._decide(vm, body["action"])
            async for answer in self._ask(client, method, path, body):
                yield answer

        return DrainCourse(
            name,
            self._names,
            drained=drained,
            ask=ask,
            restore=partial(self._restore, action="stop"),
            now=self._now,
            observe=self._observe,
            say=self._say,
            quiet_s=self._quiet_s,
        )

    def _plan_course(self, host: ChaosHost, vm: ChaosVm) -> PlanCourse:
        return PlanCourse(
            vm.uuid,
            self._drain_course(host),
            utc=lambda: datetime.now(UTC) if self._is_there(vm.uuid) else None,
            now=self._now,
            quiet_s=self._quiet_s,
        )

    def _act(
        self, host: ChaosHost, uuid: str, body: dict[str, Any]
    ) -> AsyncIterator[dict[str, Any]]:
        self._decide(self._vms[uuid], body["action"])
        return self._ask(host.scene.client, "POST", f"/v1/instances/{uuid}/act", body)

    @staticmethod
    def _decide(vm: ChaosVm, action: str) -> None:
        for kind in ("revocable", "irrevocable"):
            vm.answers(kind, action)

    async def _restore(self, uuid: str, action: str) -> None:
        vm = self._vms[uuid]
        if action == "pause":
            vm.resume()
        else:
            await vm.boot(vm.last)

    async def _ask(
        self,
        to: Callable[[], CtlClient],
        method: str,
        path: str,
        body: dict[str, Any] | None,
    ) -> AsyncIterator[dict[str, Any]]:
        """Asks a host or agent, and yields what it answers; nothing if it refuses.

        Raises:
            UserError: UNREACHABLE, it has gone.
        """
        try:
            async with to() as client:
                if (method == "POST" and path.endswith(_IN_LINES)) or path.endswith("/progress"):
                    async with client.lines(method, path, body) as lines:
                        while (line := await lines.next(dict[str, Any], _SILENT_S)) is not None:
                            yield line
                else:
                    read = partial(parse, cls=dict[str, Any])
                    yield await client.ask(path, "answer", read, body)
        except UserError as fault:
            if fault.status is ExitStatus.UNREACHABLE:
                raise
            self._say(f"{method} {path}: {fault}")
