"""Asks the VIM what is to be reported: today's VIMs never call ``/v1/hosts``, older ones do.

At every audit the reporting state of each host that has a link, and of its instances, is fetched and
taken over. A VIM that can't be asked changes nothing.
"""

from __future__ import annotations

import logging
from typing import NoReturn

import trio

from hbtrio.nursery.agent import Agent
from hbtrio.nursery.store_records import HostRecord, InstanceRecord
from hbtrio.nursery.vim_client import Delivered, VimClient
from hbtrio.wire.vim import (
    Switch,
    VimAnswerFault,
    VimRequest,
    host_audit,
    instances_audit,
    parse_host_answer,
    parse_instances_answer,
)

_log = logging.getLogger("hbtrio.audit")

#: A host that has just come is asked about within this, in seconds.
_SOON_S = 2.0


class Audit:
    """The audit's task.

    Args:
        agent: whose knowledge is audited.
        client: asks the VIM.
        every_s: seconds between two audits.
    """

    def __init__(self, agent: Agent, client: VimClient, every_s: float) -> None:
        self._agent = agent
        self._client = client
        self._every_s = every_s
        self._audited: set[str] = set()
        self._said = ""

    async def run(self) -> NoReturn:
        """Audits until cancelled."""
        due = 0.0
        while True:
            hosts = {
                session.hello.host_uuid.lower(): session.hostname
                for session in tuple(self._agent.links.sessions.values())
                if session.hello.host_uuid
            }
            now = trio.current_time()
            everybody = now >= due
            if everybody:
                due = now + self._every_s
            self._audited &= set(hosts)
            for uuid, hostname in hosts.items():
                if everybody or uuid not in self._audited:
                    await self._audit(uuid, hostname)
                    self._audited.add(uuid)
            await trio.sleep(min(_SOON_S, self._every_s))

    async def _audit(self, uuid: str, hostname: str) -> None:
        body = await self._fetch(host_audit(uuid, hostname))
        try:
            if body is not None:
                host = parse_host_answer(body)
                await self._agent.put_host(HostRecord(uuid, hostname, host.state is Switch.ENABLED))
            body = await self._fetch(instances_audit(uuid))
            if body is not None:
                for instance in parse_instances_answer(body):
                    await self._agent.put_instance(
                        InstanceRecord(
                            instance.uuid, instance.hostname, instance.state is Switch.ENABLED
                        )
                    )
        except VimAnswerFault as fault:
            self._say(f"{hostname}: {fault}")

    async def _fetch(self, request: VimRequest) -> bytes | None:
        async def on_sending() -> None:
            pass  # a question may be repeated

        delivery = await self._client.send(request, on_sending)
        if isinstance(delivery, Delivered) and not delivery.cut:
            self._said = ""
            return delivery.body
        self._say(f"{request.method} {request.target}: {delivery}")
        return None

    def _say(self, fault: str) -> None:
        if fault != self._said:
            self._said = fault
            _log.warning("audit: %s", fault)
