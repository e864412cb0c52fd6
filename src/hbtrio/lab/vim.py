"""Simulates the VIM of a lab: votes, notices, audits and repairs as in the deployed VIM.

:class:`~hbtrio.lab.vim_server.VimServer` answers requests. This module sends them (PROTOCOL.md,
section 3):

* The VIM registers each instance with the agent and turns its reporting on.
* The VIM requests votes and notices. The timeout in the agent's reply replaces the VIM's own timer,
  after which the VIM goes on without a verdict. A vote takes 45 s at most.
* A verdict that the VIM doesn't wait for would complete its next step; such verdicts are counted.
* The VIM audits all instances every 30 s, one after the other, and registers those again that the
  agent has lost.
* The VIM's order of an action is: vote, notice, heartbeat disabled, the action itself, heartbeat
  enabled, and the end notice once the instance is reported as heartbeating again.
* The VIM carries out the repair action of an instance that is lost or ill, in the same order but
  without asking.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

import attrs
import trio

from hbtrio.errors import UserError
from hbtrio.lab.feed import Feed
from hbtrio.lab.received import Received
from hbtrio.lab.vim_request import VimReply
from hbtrio.lab.vim_round import Verdict, VimRound
from hbtrio.lab.vim_server import VimServer

#: After this many seconds the VIM goes on without the verdict of a vote.
ACCEPT_S: Final = 45.0

#: Seconds between audits of every instance.
AUDIT_S: Final = 30.0

_REPAIRS: Final = {"reboot": "reboots", "stop": "stops"}


@attrs.define
class _Instance:
    """An instance, as the VIM has it."""

    name: str
    hostname: str
    enabled: bool = True

    @property
    def services(self) -> list[dict[str, str]]:
        return [{"service": "heartbeat", "state": "enabled" if self.enabled else "disabled"}]


class Call(Protocol):
    """A request to the agent: :func:`~hbtrio.lab.vim_request.ask_agent` without its port."""

    async def __call__(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        on_reply: Callable[[VimReply], None] | None = None,
    ) -> VimReply:
        """Sends a request and returns the reply."""


class LabVim:
    """A VIM with an agent.

    Args:
        server: gets the agent's requests.
        call: sends a request to the agent.
        say: called with a text about each thing that the VIM does or receives.
        repair: carries out ``reboot`` or ``stop`` on the instance with this uuid.
    """

    def __init__(
        self,
        server: VimServer,
        call: Call,
        say: Callable[[str], None],
        repair: Callable[[str, str], Awaitable[None]],
    ) -> None:
        self.server = server
        server.on_received = self.hear
        #: The bodies of the agent's requests.
        self.received: Feed[dict[str, Any]] = Feed()
        self.is_up = True
        #: The votes and notices whose verdicts are missing.
        self.waiting: list[VimRound] = []
        #: Votes and notices that the agent accepted, and those that it answered.
        self.asked = 0
        self.answered = 0
        #: Verdicts that the VIM did not wait for.
        self.unasked = 0
        self._call = call
        self._say = say
        self._repair = repair
        self._hosts: dict[str, str] = {}
        self._instances: dict[str, _Instance] = {}
        self._wanted, self._repairs = trio.open_memory_channel[tuple[str, str]](math.inf)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serves and audits until cancelled."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.server.run)
            nursery.start_soon(self._start_repairs, nursery)
            task_status.started()
            while True:
                await trio.sleep(AUDIT_S)
                if self.is_up:
                    await self.audit()

    async def _start_repairs(self, nursery: trio.Nursery) -> None:
        async for uuid, repair in self._repairs:
            nursery.start_soon(self._carry_out, uuid, repair)

    async def _carry_out(self, uuid: str, repair: str) -> None:
        name = self._instances[uuid].name
        try:
            await self.disable(uuid)
            self._say(f"{_REPAIRS[repair]} {name}")
            await self._repair(uuid, repair)
            if repair == "reboot":
                await self.enable(uuid)
        except UserError as fault:
            self._say(f"can't repair {name}: {fault}")

    # -- inventory --------------------------------------------------------------------------

    def add_host(self, uuid: str, hostname: str) -> None:
        """Adds a host with reporting enabled; current VIMs do not report it to the agent."""
        self._hosts[hostname] = uuid
        self.server.hosts[uuid] = {"hostname": hostname, "state": "enabled"}
        self.server.instances[uuid] = []

    async def add_instance(self, uuid: str, name: str, hostname: str) -> None:
        """Adds an instance and reports it to the agent.

        Raises:
            UserError: the agent refuses it, or can't be reached.
        """
        self._instances[uuid] = _Instance(name, hostname)
        self._list()
        await self._report(uuid)

    async def disable(self, uuid: str) -> None:
        """Turns an instance's heartbeat off before the VIM acts on it.

        Raises:
            UserError: the agent refuses it, or can't be reached.
        """
        instance = self._instances[uuid]
        self._say(f"disables {instance.name}")
        instance.enabled = False
        await self._patch(uuid)

    async def enable(self, uuid: str, hostname: str = "") -> None:
        """Turns an instance's heartbeat on after the VIM has acted on it.

        Args:
            uuid: the instance.
            hostname: where it is now; "" for where it was.

        Raises:
            UserError: the agent refuses it, or can't be reached.
        """
        instance = self._instances[uuid]
        instance.enabled, instance.hostname = True, hostname or instance.hostname
        self._say(f"enables {instance.name} on {instance.hostname}")
        await self._patch(uuid)

    def _list(self) -> None:
        """Sets the answers to audits."""
        for host, host_uuid in self._hosts.items():
            self.server.instances[host_uuid] = [
                {"uuid": uuid, "hostname": host, "services": one.services}
                for uuid, one in self._instances.items()
                if one.hostname == host
            ]

    async def audit(self) -> None:
        """Audits every instance, and reports those that the agent does not know."""
        for uuid in tuple(self._instances):
            try:
                reply = await self._call("GET", f"/v1/instances/{uuid}")
                if reply.status == 404:
                    await self._report(uuid)
            except UserError as fault:
                self._say(f"can't audit: {fault}")
                return
        self._say("has audited its instances")

    async def _report(self, uuid: str) -> None:
        hostname = self._instances[uuid].hostname
        body = {"uuid": uuid, "hostname": hostname, "services": ["heartbeat"]}
        await self._ask("POST", f"/v1/instances/{uuid}", body)
        await self._patch(uuid)

    async def _patch(self, uuid: str) -> None:
        self._list()
        instance = self._instances[uuid]
        body = {"uuid": uuid, "hostname": instance.hostname, "services": instance.services}
        await self._ask("PATCH", f"/v1/instances/{uuid}", body)

    # -- votes and notices ------------------------------------------------------------------

    async def vote(self, uuid: str, event: str) -> Verdict:
        """Requests a vote on ``event`` and waits for the verdict."""
        return await self.verdict(await self.ask(uuid, event, vote=True))

    async def notify(self, uuid: str, event: str) -> Verdict:
        """Requests a notice of ``event`` and waits for the verdict."""
        return await self.verdict(await self.ask(uuid, event, vote=False))

    async def ask(self, uuid: str, event: str, *, vote: bool) -> VimRound:
        """Requests a vote or notice from the agent; returns once the connection is closed.

        Raises:
            UserError: the agent refuses, or can't be reached.
        """
        name, hostname = self._instances[uuid].name, self._instances[uuid].hostname
        asked = VimRound(uuid, name, event, vote)

        def replied(reply: VimReply) -> None:
            # At once, not when the agent closes the connection: a verdict may come in between.
            timeout_s = int(reply.members["timeout"]) if reply.status == 200 else 0
            if not timeout_s:
                asked.end(Verdict("", "the instance does not take part"))
                return
            self.asked += 1
            bound_s = min(timeout_s, ACCEPT_S) if vote else timeout_s
            asked.deadline = trio.current_time() + bound_s
            self.waiting.append(asked)

        self._say(f"asks {name}: vote {event}" if vote else f"notifies {name}: notice {event}")
        body = {"uuid": uuid, "hostname": hostname, "action": event}
        path = f"/v1/instances/{uuid}/{'vote' if vote else 'notify'}"
        await self._ask("POST", path, body, replied)
        return asked

    async def verdict(self, asked: VimRound) -> Verdict:
        """Waits for the verdict or the end of the timer."""
        await asked.wait()
        if asked.verdict is not None:
            return asked.verdict
        self.waiting.remove(asked)
        self._say(f"continues without the verdict of {asked.name} on {asked.event}")
        return Verdict("", "the timer has ended")

    async def _ask(
        self,
        method: str,
        path: str,
        body: dict[str, Any],
        on_reply: Callable[[VimReply], None] | None = None,
    ) -> None:
        reply = await self._call(method, path, body, on_reply=on_reply)
        if reply.status != 200:
            reason = reply.members.get("reason", "no reason")
            raise UserError(f"the agent: {method} {path}: {reply.status}: {reason}")

    # -- outages ----------------------------------------------------------------------------

    def go_down(self) -> None:
        """Refuses connections and stops audits, until :meth:`come_up`."""
        self.is_up = False
        self.server.go_down()
        self._say("goes down")

    async def come_up(self) -> None:
        """Accepts connections again and audits at once."""
        self.server.come_up()
        self.is_up = True
        self._say("is up again")
        await self.audit()

    # -- requests of the agent---------------------------------------------------------------

    def hear(self, received: Received) -> None:
        """Handles a request of the agent; ignores all but PATCH."""
        body = received.json
        if received.method != "PATCH" or not isinstance(body, dict):
            return
        uuid, data = body.get("uuid", ""), body.get("event-data", {})
        name = self._instances[uuid].name if uuid in self._instances else uuid
        if body.get("event-type") == "action":
            self._take_verdict(uuid, name, data)
        else:
            service = data["services"][0]
            self._say(f"receives {name} on {body['hostname']}: {service_words(service)}")
            repair = service.get("repair-action", "")
            if repair in _REPAIRS:
                self._wanted.send_nowait((uuid, repair))
        self.received.put(body)

    def _take_verdict(self, uuid: str, name: str, data: dict[str, str]) -> None:
        verdict = Verdict(data["guest-response"], data["reason"])
        for asked in self.waiting:
            if (asked.uuid, asked.event) == (uuid, data["action"]):
                self.waiting.remove(asked)
                self.answered += 1
                asked.end(verdict)
                self._say(f"receives {name}: {asked.event}: {verdict}")
                return
        self.unasked += 1
        self._say(f"receives, unrequested: {name}: {data['action']}: {verdict}")


def service_words(service: dict[str, str]) -> str:
    """Describes a service event or an alarm: ``failed, repair-action reboot``."""
    if "repair-action" in service:
        return f"{service['state']}, repair-action {service['repair-action']}"
    if service["status"] == "enabled":
        return f"heartbeating, restart-timeout {service['restart-timeout']} s"
    return "not heartbeating"
