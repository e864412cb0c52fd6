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
from hbtrio.nursery.agent.fleet import Fleet
from hbtrio.nursery.agent.instance_states import InstanceStates
from hbtrio.nursery.agent.inventory import AgentInventory, TooMany
from hbtrio.nursery.agent.vim_client import VimClient
from hbtrio.policy.backoff import Backoff
from hbtrio.store.records import HostRecord, InstanceRecord
from hbtrio.store.worker import StoreFault
from hbtrio.wire.vim import (
    Switch,
    VimAnswerFault,
    VimRequest,
    host_audit,
    instances_audit,
    parse_host_answer,
    parse_instances_answer,
)
from hbtrio.wire.vim_result import Delivered, NotSent, fault_of

_log = logging.getLogger("hbtrio.audit")

#: A host that has just come is asked about within this, in seconds. If that tells nothing it is
#: asked about again after as long, then twice as long, and so on, and in any case at each audit.
_SOON_S: Final = 2.0

#: Faults of one host that are said until its audit has gone well; a VIM may have a new one each
#: time.
_FAULTS: Final = 3


class _Trouble(Exception):
    """The VIM's answer is none or can't be used; the text says why."""


class _NotItsOwn(_Trouble):
    """A host says the uuid of another one that has to be heard."""


class _NotAsked(Exception):
    """The VIM can't be reached; the text says why."""


class _Overtaken(Exception):
    """Something was changed since the VIM was asked; its answer may be outdated."""


@attrs.frozen
class HostIdentity:
    """A host with a link, and which of the cloud's it says it is; mutual TLS proves its name."""

    uuid: str
    hostname: str


@attrs.define
class _Subject:
    """What came of asking about an identity.

    Args:
        again_at: when it is asked about again, on trio's clock, if no audit comes before.
        backoff: how long after that.
        faults: what was said since its audit last went well.
        denied: the VIM says that the uuid is another host's.
        unlisted: instances bound to the host that the VIM did not list when its audit last went
            well, if it did the last time.
    """

    again_at: float = -math.inf
    backoff: Backoff = attrs.field(factory=lambda: Backoff(_SOON_S))
    faults: set[str] = attrs.field(factory=set)
    denied: bool = False
    unlisted: frozenset[str] = frozenset()


class Audit:
    """The audit's task.

    Args:
        fleet: what is known.
        inventory: takes over what the VIM answers.
        states: notifies the VIM again of what it did not take.
        client: asks the VIM.
        every_s: seconds between two audits.
    """

    def __init__(
        self,
        fleet: Fleet,
        inventory: AgentInventory,
        states: InstanceStates,
        client: VimClient,
        every_s: float,
    ) -> None:
        self._fleet = fleet
        self._inventory = inventory
        self._states = states
        self._client = client
        self._every_s = every_s
        self._subjects: dict[HostIdentity, _Subject] = {}
        #: Whether it was said that the VIM can't be reached.
        self._unreachable = False

    async def run(self) -> NoReturn:
        """Audits until cancelled."""
        due = 0.0
        while True:
            identities = [
                HostIdentity(session.hello.host_uuid, session.hostname)
                for session in self._fleet.sessions.values()
                if session.hello.host_uuid
            ]
            self._subjects = {
                identity: self._subjects.get(identity, _Subject()) for identity in identities
            }
            now = trio.current_time()
            everybody = now >= due
            if everybody:
                due = now + self._every_s
            await self._audit_all(
                [
                    identity
                    for identity in identities
                    if everybody or self._subjects[identity].again_at <= now
                ]
            )
            await trio.sleep(min(_SOON_S, self._every_s))

    async def _audit_all(self, identities: list[HostIdentity]) -> None:
        # Those first that are believed: when another one says the same uuid, it is known by then
        # whether the VIM agrees.
        identities.sort(key=lambda identity: not self._is_known(identity))
        bound: dict[str, set[str]] = {identity.hostname: set() for identity in identities}
        for instance in self._fleet.instances.values() if identities else ():
            if instance.hostname in bound:
                bound[instance.hostname].add(instance.uuid)
        for identity in identities:
            try:
                await self._audit(identity, self._subjects[identity], bound[identity.hostname])
            except _NotAsked as trouble:
                # Nor would it be for the others, and each attempt may take its time.
                self._say_unreachable(trouble)
                break

    async def _audit(self, identity: HostIdentity, subject: _Subject, bound: set[str]) -> None:
        """Takes over what the VIM answers.

        Args:
            identity: who is asked about.
            subject: what came of it so far.
            bound: instances that were bound to the host before it was asked about.

        Raises:
            _NotAsked: it can't be reached.
        """
        unlisted, subject.unlisted = subject.unlisted, frozenset()
        try:
            contested = await self._audit_host(identity, subject)
            missing = await self._audit_instances(identity, contested, bound)
            await self._remove(identity, missing & unlisted)
        except _Overtaken:
            # By the VIM, which is up, then.
            subject.again_at = trio.current_time() + _SOON_S
            return
        except (_Trouble, StoreFault, TooMany) as fault:
            if subject.again_at < math.inf:
                # Nothing is known of it yet; else what is known stands until the next audit.
                subject.again_at = trio.current_time() + subject.backoff.next_delay_s()
            words = f"store: {fault}" if isinstance(fault, StoreFault) else str(fault)
            if words not in subject.faults and len(subject.faults) < _FAULTS:
                subject.faults.add(words)
                level = logging.ERROR if isinstance(fault, _NotItsOwn) else logging.WARNING
                _log.log(level, "audit: %s: %s", identity.hostname, words)
            return
        subject.unlisted = frozenset(missing - unlisted)
        subject.again_at = math.inf
        subject.backoff.reset()
        if subject.faults:
            subject.faults.clear()
            _log.info("audit: %s: the VIM's answers are taken over again", identity.hostname)

    async def _audit_host(self, identity: HostIdentity, subject: _Subject) -> HostRecord | None:
        """Takes over the host's state, unless another host is known by its uuid.

        Returns:
            that state, if it is not taken over yet.

        Raises:
            _Trouble: the VIM knows the host by another name, or something else is wrong.
        """
        edits = self._inventory.edits
        body = await self._fetch(host_audit(identity.uuid, identity.hostname), "its state")
        self._not_overtaken(edits)
        with _understood("its state"):
            answer = parse_host_answer(body)
        subject.denied = (answer.uuid, answer.hostname) != (identity.uuid, identity.hostname)
        if answer.uuid != identity.uuid:
            raise _Trouble(f"to the VIM its uuid is {shown(answer.uuid)}, not {identity.uuid}")
        if answer.hostname in self._fleet.sessions and subject.denied:
            raise _NotItsOwn(_not_its_own(identity, answer.hostname))
        if subject.denied:
            # Its instances are bound to that name, and what this host says of them counts for
            # nothing: better a word about it than VMs that nobody ever hears of.
            raise _Trouble(f"to the VIM its hostname is {shown(answer.hostname)}")
        record = HostRecord(identity.uuid, identity.hostname, answer.state is Switch.ENABLED)
        if self._rival(identity) is not None:
            return record
        await self._inventory.put_host(record)
        return None

    async def _audit_instances(
        self, identity: HostIdentity, contested: HostRecord | None, bound: set[str]
    ) -> set[str]:
        """Takes over the host's instances, and ``contested`` if they say that the uuid is its own.

        Today's VIM looks a host up by its name alone and repeats whatever uuid it is asked with;
        its instances it looks up by the uuid, and names the host that really has it.

        Returns:
            which of ``bound`` are not among them.
        """
        edits = self._inventory.edits
        body = await self._fetch(instances_audit(identity.uuid), "its instances")
        with _understood("its instances"):
            instances = parse_instances_answer(body)
        names = {told.hostname for told in instances}
        if contested is not None:
            self._not_overtaken(edits)
            rival = self._rival(identity)
            if rival is not None and (identity.hostname not in names or rival in names):
                raise _NotItsOwn(_not_its_own(identity, rival))
            await self._inventory.put_host(contested)
            edits += 1
        for told in instances:
            self._not_overtaken(edits)
            record = InstanceRecord(told.uuid, told.hostname, told.state is Switch.ENABLED)
            if self._fleet.instances.get(told.uuid) != record:
                await self._inventory.put_instance(record)
                edits += 1
            else:
                await self._states.notify_again(record)
        if names and identity.hostname not in names:
            others = ", ".join(shown(name) for name in sorted(names)[:_FAULTS])
            raise _Trouble(f"with its uuid the VIM lists instances of {others} only")
        self._not_overtaken(edits)
        found = bound - {told.uuid for told in instances}
        return {uuid for uuid in found if self._fleet.host_of(uuid) == identity.hostname}

    async def _remove(self, identity: HostIdentity, gone: set[str]) -> None:
        """Removes what the VIM has twice not listed: today's never says that it has dropped it."""
        edits = self._inventory.edits
        for uuid in sorted(gone):
            self._not_overtaken(edits)
            _log.warning(
                "audit: %s: %s is removed: the VIM has dropped it", identity.hostname, uuid
            )
            await self._inventory.delete_instance(uuid, on=identity.hostname)
            edits += 1

    def _not_overtaken(self, edits: int) -> None:
        if self._inventory.edits != edits:
            raise _Overtaken

    def _is_known(self, identity: HostIdentity) -> bool:
        known = self._fleet.hosts.get(identity.uuid)
        return known is not None and known.hostname == identity.hostname

    def _rival(self, identity: HostIdentity) -> str | None:
        """The host that is known by this uuid, if another one and more than an empty name."""
        known = self._fleet.hosts.get(identity.uuid)
        if known is None or known.hostname == identity.hostname:
            return None
        other = self._subjects.get(HostIdentity(identity.uuid, known.hostname))
        if other is not None:
            return None if other.denied else known.hostname
        return known.hostname if self._fleet.bound_to(known.hostname) else None

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


def _not_its_own(identity: HostIdentity, owner: str) -> str:
    text = f"the host_uuid that it says, {identity.uuid}, is that of {shown(owner)}"
    return f"{text}: nothing is taken over for it until it says its own"


@contextmanager
def _understood(what: str) -> Iterator[None]:
    try:
        yield
    except VimAnswerFault as fault:
        raise _Trouble(f"the VIM was asked for {what}: not understood: {fault}") from fault
