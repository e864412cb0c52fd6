"""Asks the VIM what is to be reported: today's VIMs never call ``/v1/hosts``, older ones do.

At every audit the reporting state of each host that has a link, and of its instances, is fetched
and taken over. A VIM that can't be asked changes nothing, and neither does an answer that the VIM
may have overtaken with a request of its own.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NoReturn

import attrs
import trio

from hbtrio.config.source import shown
from hbtrio.fsm.backoff import Backoff
from hbtrio.nursery.agent import Agent, TooMany
from hbtrio.nursery.store_records import HostRecord, InstanceRecord
from hbtrio.nursery.store_worker import StoreFault
from hbtrio.nursery.vim_client import Delivered, NotSent, VimClient, fault_of
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

#: A host that has just come is asked about within this, in seconds. If that tells nothing it is
#: asked about again after as long, then twice as long, and so on, and in any case at each audit.
_SOON_S: Final = 2.0

#: Faults of one host that are said until its audit has gone well; a VIM may have a new one each
#: time.
_FAULTS: Final = 3


class _Trouble(Exception):
    """The VIM's answer is none or can't be used; the text says why."""


class _NotAsked(Exception):
    """The VIM can't be reached; the text says why."""


@attrs.define
class _Subject:
    """A host with a link.

    Args:
        again_at: when it is asked about again, on trio's clock, if no audit comes before.
        backoff: how long after that.
        faults: what was said since its audit last went well.
    """

    again_at: float = -math.inf
    backoff: Backoff = attrs.field(factory=lambda: Backoff(_SOON_S))
    faults: set[str] = attrs.field(factory=set)


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
        self._subjects: dict[str, _Subject] = {}
        #: Whether it was said that the VIM can't be reached.
        self._unreachable = False

    async def run(self) -> NoReturn:
        """Audits until cancelled."""
        due = 0.0
        while True:
            hosts = {
                session.hello.host_uuid.lower(): session.hostname
                for session in tuple(self._agent.links.sessions.values())
                if session.hello.host_uuid
            }
            self._subjects = {uuid: self._subjects.get(uuid, _Subject()) for uuid in hosts}
            now = trio.current_time()
            everybody = now >= due
            if everybody:
                due = now + self._every_s
            for uuid, hostname in hosts.items():
                if everybody or self._subjects[uuid].again_at <= now:
                    try:
                        await self._audit(uuid, hostname, self._subjects[uuid])
                    except _NotAsked as trouble:
                        # Nor would it be for the others, and each attempt may take its time.
                        self._say_unreachable(trouble)
                        break
            await trio.sleep(min(_SOON_S, self._every_s))

    async def _audit(self, uuid: str, hostname: str, subject: _Subject) -> None:
        """Takes over what the VIM answers.

        Raises:
            _NotAsked: it can't be reached.
        """
        try:
            whole = await self._audit_host(uuid, hostname) and await self._audit_instances(uuid)
        except (_Trouble, StoreFault, TooMany) as fault:
            if subject.again_at < math.inf:
                # Nothing is known of it yet; else what is known stands until the next audit.
                subject.again_at = trio.current_time() + subject.backoff.next_delay_s()
            words = f"store: {fault}" if isinstance(fault, StoreFault) else str(fault)
            if words not in subject.faults and len(subject.faults) < _FAULTS:
                subject.faults.add(words)
                _log.warning("audit: %s: %s", hostname, words)
            return
        if not whole:
            # Overtaken by the VIM, which is up, then.
            subject.again_at = trio.current_time() + _SOON_S
            return
        subject.again_at = math.inf
        subject.backoff.reset()
        if subject.faults:
            subject.faults.clear()
            _log.info("audit: %s: the VIM's answers are taken over again", hostname)

    async def _audit_host(self, uuid: str, hostname: str) -> bool:
        edits = self._agent.edits
        body = await self._fetch(host_audit(uuid, hostname), "its state")
        if self._agent.edits != edits:
            return False
        with _understood("its state"):
            answer = parse_host_answer(body)
        reporting = answer.state is Switch.ENABLED
        await self._agent.put_host(HostRecord(uuid, hostname, reporting))
        if answer.hostname != hostname:
            # Its instances are bound to that name, and what this host says of them counts for
            # nothing: better a word about it than VMs that nobody ever hears of.
            raise _Trouble(f"to the VIM its hostname is {shown(answer.hostname)}")
        return True

    async def _audit_instances(self, host_uuid: str) -> bool:
        edits = self._agent.edits
        body = await self._fetch(instances_audit(host_uuid), "its instances")
        with _understood("its instances"):
            instances = parse_instances_answer(body)
        for told in instances:
            if self._agent.edits != edits:
                return False
            record = InstanceRecord(told.uuid, told.hostname, told.state is Switch.ENABLED)
            if self._agent.instances.get(told.uuid) != record:
                await self._agent.put_instance(record)
                edits += 1
        return True

    async def _fetch(self, request: VimRequest, what: str) -> bytes:
        delivery = await self._client.send(request)
        if isinstance(delivery, NotSent):
            raise _NotAsked(delivery.reason)
        if self._unreachable:
            self._unreachable = False
            _log.info("audit: the VIM can be asked again")
        if isinstance(delivery, Delivered) and not delivery.cut:
            return delivery.body
        raise _Trouble(f"the VIM was asked for {what}: {fault_of(delivery)}")

    def _say_unreachable(self, trouble: _NotAsked) -> None:
        if not self._unreachable:
            self._unreachable = True
            _log.warning("audit: the VIM can't be asked: %s", trouble)


@contextmanager
def _understood(what: str) -> Iterator[None]:
    try:
        yield
    except VimAnswerFault as fault:
        raise _Trouble(f"the VIM was asked for {what}: not understood: {fault}") from fault
