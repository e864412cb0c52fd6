"""Asks the VIM what is to be reported: today's VIMs never call ``/v1/hosts``, older ones do.

At every audit the reporting state of each host that has a link, and of its instances, is fetched
and taken over. A VIM that can't be asked changes nothing, and neither does an answer that the VIM
may have overtaken with a request of its own.
"""

from __future__ import annotations

import logging
from typing import Final, NoReturn

import trio

from hbtrio.nursery.agent import Agent, TooMany
from hbtrio.nursery.store_records import HostRecord, InstanceRecord
from hbtrio.nursery.store_worker import StoreFault
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
_SOON_S: Final = 2.0


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
                    self._audited.discard(uuid)
                    if await self._audit(uuid, hostname):
                        self._audited.add(uuid)
            await trio.sleep(min(_SOON_S, self._every_s))

    async def _audit(self, uuid: str, hostname: str) -> bool:
        """Takes over what the VIM answers; whether it answered to all and all is taken over."""
        try:
            return await self._audit_host(uuid, hostname) and await self._audit_instances(uuid)
        except (VimAnswerFault, StoreFault, TooMany) as fault:
            self._say(f"{hostname}: {fault}")
            return False

    async def _audit_host(self, uuid: str, hostname: str) -> bool:
        edits = self._agent.edits
        body = await self._fetch(host_audit(uuid, hostname))
        if body is None or self._agent.edits != edits:
            return False
        reporting = parse_host_answer(body).state is Switch.ENABLED
        await self._agent.put_host(HostRecord(uuid, hostname, reporting))
        return True

    async def _audit_instances(self, host_uuid: str) -> bool:
        edits = self._agent.edits
        body = await self._fetch(instances_audit(host_uuid))
        if body is None:
            return False
        for told in parse_instances_answer(body):
            if self._agent.edits != edits:
                return False
            record = InstanceRecord(told.uuid, told.hostname, told.state is Switch.ENABLED)
            if self._agent.instances.get(told.uuid) != record:
                await self._agent.put_instance(record)
                edits += 1
        return True

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
