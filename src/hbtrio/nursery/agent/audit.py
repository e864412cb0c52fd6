"""Fetches the reporting states from the VIM: current VIMs never call ``/v1/hosts``, older ones do.

Every audit fetches and applies the reporting state of each linked host and of its instances, of
several hosts side by side. An unreachable VIM changes nothing. What an answer says of a host or an
instance is ignored if that was changed since the VIM was asked: by a request of the VIM, or by the
answer about another host, of which nobody knows which is newer.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterable, Iterator
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

#: A host that has just connected is audited within this many seconds. If the audit fails, it is
#: repeated after as long, then twice as long, and so on, and in any case at each regular audit.
_SOON_S: Final = 2.0

#: Faults of one host that are logged until its audit succeeds; a VIM may send a different fault
#: each time.
_FAULTS: Final = 3


#: Hosts that are audited at once. A deployed VIM answers one request after the other, so more would
#: only wait; but one that takes long does so for several at once.
_AT_ONCE: Final = 8


class _Unusable(Exception):
    """The VIM's answer is missing or can't be used; the text is the reason."""


class _ForeignUuid(_Unusable):
    """A host reports the uuid of another host."""


class _Unreachable(Exception):
    """The VIM can't be reached; the text is the reason."""


class _Overtaken(Exception):
    """What the answer is about was changed since the VIM was asked: it may be outdated."""


@attrs.frozen
class HostIdentity:
    """A linked host, and the cloud uuid that it reports; mutual TLS proves its name."""

    uuid: str
    hostname: str


@attrs.define
class _Subject:
    """The state of the audit of one identity.

    Args:
        again_at: when it is audited again, on trio's clock, if no regular audit comes first.
        backoff: delays further attempts.
        faults: the faults logged since its audit last succeeded.
        denied: whether the VIM's answer assigns the uuid to another host.
        unlisted: instances bound to the host that the VIM did not list at the last audit, if that
            succeeded.
    """

    again_at: float = -math.inf
    backoff: Backoff = attrs.field(factory=lambda: Backoff(_SOON_S))
    faults: set[str] = attrs.field(factory=set)
    denied: bool = False
    unlisted: frozenset[str] = frozenset()


class Audit:
    """Audits the VIM periodically.

    Args:
        fleet: the hosts and instances.
        inventory: applies the VIM's answers.
        states: notifies the VIM again of states that it did not take.
        client: sends the requests to the VIM.
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
        #: Whether it was logged that the VIM can't be reached.
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
            regular = now >= due
            if regular:
                due = now + self._every_s
            await self._audit_all(
                [
                    identity
                    for identity in identities
                    if regular or self._subjects[identity].again_at <= now
                ]
            )
            await trio.sleep(min(_SOON_S, self._every_s))

    async def _audit_all(self, identities: list[HostIdentity]) -> None:
        # Known identities first: when another host reports the same uuid, the VIM's answer about
        # the known one is there already.
        for known in (True, False):
            of_uuid: dict[str, list[HostIdentity]] = {}
            for identity in identities:
                if self._is_known(identity) is known:
                    of_uuid.setdefault(identity.uuid, []).append(identity)
            if not await self._side_by_side(list(of_uuid.values())):
                return

    async def _side_by_side(self, groups: list[list[HostIdentity]]) -> bool:
        """Audits hosts, those of a group one after the other; returns whether the VIM was reached.

        The first group goes alone: a VIM that can't be reached is tried once for all.
        """
        reached = True

        async def work(waiting: Iterable[list[HostIdentity]]) -> None:
            nonlocal reached
            for identity in itertools.chain.from_iterable(waiting):
                if not reached:
                    return
                try:
                    await self._audit(identity, self._subjects[identity])
                except _Unreachable as fault:
                    self._log_unreachable(fault)
                    reached = False

        await work(groups[:1])
        async with trio.open_nursery() as nursery:
            rest = iter(groups[1:])
            for _ in range(min(_AT_ONCE, len(groups) - 1)):
                nursery.start_soon(work, rest)
        return reached

    async def _audit(self, identity: HostIdentity, subject: _Subject) -> None:
        """Audits one host and applies the VIM's answers.

        Args:
            identity: the host.
            subject: the state of its audit.

        Raises:
            _Unreachable: the VIM can't be reached.
        """
        unlisted, subject.unlisted = subject.unlisted, frozenset()
        bound = {one.uuid for one in self._fleet.bound_to(identity.hostname)}
        try:
            contested = await self._audit_host(identity, subject)
            missing = await self._audit_instances(identity, contested, bound)
            await self._remove(identity, missing & unlisted)
        except _Overtaken:
            # By a request of the VIM or by another of its answers, so it is up.
            subject.again_at = trio.current_time() + _SOON_S
            return
        except (_Unusable, StoreFault, TooMany) as fault:
            if subject.again_at < math.inf:
                # Never audited yet; else the known state stays until the next audit.
                subject.again_at = trio.current_time() + subject.backoff.next_delay_s()
            text = f"store: {fault}" if isinstance(fault, StoreFault) else str(fault)
            if text not in subject.faults and len(subject.faults) < _FAULTS:
                subject.faults.add(text)
                level = logging.ERROR if isinstance(fault, _ForeignUuid) else logging.WARNING
                _log.log(level, "audit: %s: %s", identity.hostname, text)
            return
        subject.unlisted = frozenset(missing - unlisted)
        subject.again_at = math.inf
        subject.backoff.reset()
        if subject.faults:
            subject.faults.clear()
            _log.info("audit: %s: the VIM's answers are accepted again", identity.hostname)

    async def _audit_host(self, identity: HostIdentity, subject: _Subject) -> HostRecord | None:
        """Fetches the host's state, and applies it unless another host is known by its uuid.

        Returns:
            The state, if it was not applied; else None.

        Raises:
            _Unusable: the VIM has another name or uuid for the host, or its answer is unusable.
        """
        edits = self._inventory.edits
        body = await self._fetch(host_audit(identity.uuid, identity.hostname), "its state")
        self._not_overtaken(identity.uuid, edits)
        with _understood("its state"):
            answer = parse_host_answer(body)
        subject.denied = (answer.uuid, answer.hostname) != (identity.uuid, identity.hostname)
        if answer.uuid != identity.uuid:
            raise _Unusable(f"the VIM's uuid for it is {shown(answer.uuid)}, not {identity.uuid}")
        if answer.hostname in self._fleet.sessions and subject.denied:
            raise _ForeignUuid(_foreign_uuid_text(identity, answer.hostname))
        if subject.denied:
            # Its instances are bound to that name, so this host's reports about them are ignored:
            # that has to be logged.
            raise _Unusable(f"the VIM's hostname for it is {shown(answer.hostname)}")
        record = HostRecord(identity.uuid, identity.hostname, answer.state is Switch.ENABLED)
        if self._rival(identity) is not None:
            return record
        await self._inventory.put_host(record)
        return None

    async def _audit_instances(
        self, identity: HostIdentity, contested: HostRecord | None, bound: set[str]
    ) -> set[str]:
        """Applies the host's instances, and ``contested`` if they prove that the uuid is its own.

        A current VIM looks a host up by its name alone and repeats the uuid of the request. It
        looks instances up by the uuid, and names the host that really has it.

        Returns:
            The uuids in ``bound`` that the VIM did not list.
        """
        edits = self._inventory.edits
        body = await self._fetch(instances_audit(identity.uuid), "its instances")
        with _understood("its instances"):
            instances = parse_instances_answer(body)
        names = {listed.hostname for listed in instances}
        self._not_overtaken(identity.uuid, edits)
        if contested is not None:
            rival = self._rival(identity)
            if rival is not None and (identity.hostname not in names or rival in names):
                raise _ForeignUuid(_foreign_uuid_text(identity, rival))
            await self._inventory.put_host(contested)
        for listed in {listed.uuid: listed for listed in instances}.values():
            self._not_overtaken(listed.uuid, edits)
            record = InstanceRecord(listed.uuid, listed.hostname, listed.state is Switch.ENABLED)
            if self._fleet.instances.get(listed.uuid) != record:
                await self._inventory.put_instance(record)
            else:
                await self._states.notify_again(record)
        if names and identity.hostname not in names:
            others = ", ".join(shown(name) for name in sorted(names)[:_FAULTS])
            raise _Unusable(f"for its uuid the VIM lists only instances of {others}")
        missing = bound - {listed.uuid for listed in instances}
        missing = {uuid for uuid in missing if self._fleet.host_of(uuid) == identity.hostname}
        for uuid in sorted(missing):
            self._not_overtaken(uuid, edits)
        return missing

    async def _remove(self, identity: HostIdentity, gone: set[str]) -> None:
        """Removes instances missing from two audits: current VIMs never report a deletion."""
        edits = self._inventory.edits
        for uuid in sorted(gone):
            self._not_overtaken(uuid, edits)
            _log.warning(
                "audit: %s: %s removed: the VIM no longer lists it", identity.hostname, uuid
            )
            await self._inventory.delete_instance(uuid, on=identity.hostname)

    def _not_overtaken(self, uuid: str, edits: int) -> None:
        if self._inventory.was_edited(uuid, since=edits):
            raise _Overtaken

    def _is_known(self, identity: HostIdentity) -> bool:
        known = self._fleet.hosts.get(identity.uuid)
        return known is not None and known.hostname == identity.hostname

    def _rival(self, identity: HostIdentity) -> str | None:
        """Returns the other host that is known by this uuid; None if there is none that matters."""
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
            raise _Unreachable(delivery.reason)
        if self._unreachable:
            self._unreachable = False
            _log.info("audit: the VIM can be reached again")
        if isinstance(delivery, Delivered) and not delivery.cut:
            return delivery.body
        raise _Unusable(f"the VIM was asked for {what}: {fault_of(delivery)}")

    def _log_unreachable(self, fault: _Unreachable) -> None:
        if not self._unreachable:
            self._unreachable = True
            _log.warning("audit: the VIM can't be reached: %s", fault)


def _foreign_uuid_text(identity: HostIdentity, owner: str) -> str:
    text = f"the host_uuid it reports, {identity.uuid}, belongs to {shown(owner)}"
    return f"{text}: the VIM's answers are ignored until it reports its own"


@contextmanager
def _understood(what: str) -> Iterator[None]:
    try:
        yield
    except VimAnswerFault as fault:
        raise _Unusable(f"the VIM was asked for {what}: not understood: {fault}") from fault
