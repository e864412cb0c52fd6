"""Keeps the domains of one libvirt as its answers have them, and those that it has forgotten."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import attrs

from hbtrio.fsm.domain import DomainChange, DomainState, changes
from hbtrio.wire.virsh import DomainRow

#: Domains remembered after libvirt has forgotten them.
FORGOTTEN: Final = 10_000

#: A domain that was undefined while it ran, or that libvirt no longer lists.
_UNDEFINED: Final = DomainState(5, 0)


@attrs.frozen
class Domain:
    """What libvirt knows of one domain. It is replaced, never changed.

    Args:
        uuid: in lower case.
        name: libvirt's.
        state: state, reason and id.
        since: when the state was first heard of, on trio's clock.
        listed: whether libvirt still lists it.
        changed_after: when libvirt was asked last whose answer had another state, on trio's clock;
            minus infinity if none had.
    """

    uuid: str
    name: str
    state: DomainState
    since: float
    listed: bool = True
    changed_after: float = -math.inf

    @property
    def run(self) -> int:
        """Which run of the domain this is: libvirt's id; -1 while it is shut off."""
        return self.state.domain_id

    def changes_since(self, before: Domain | None) -> tuple[DomainChange, ...]:
        """Returns what happened to it since ``before``, in the order in which it happened."""
        return changes(None if before is None else before.state, self.state)

    def is_listed_as(self, before: Domain | None) -> bool:
        """Returns whether libvirt listed it before, too, or not, and under the same name."""
        return before is not None and (before.name, before.listed) == (self.name, self.listed)


class KnownDomains:
    """All domains that libvirt has ever listed, up to a bound for those that it has forgotten."""

    def __init__(self) -> None:
        self._rows: Mapping[str, DomainRow] = {}
        self._domains: dict[str, Domain] = {}
        self._uuids: dict[str, str] = {}
        #: When the question was asked whose answer came last.
        self._asked = -math.inf

    @property
    def count(self) -> int:
        """How many domains libvirt lists."""
        return len(self._rows)

    def get(self, uuid: str) -> Domain | None:
        """Returns what libvirt knew last of an instance; None: it never heard of it."""
        return self._domains.get(uuid)

    def uuid_of(self, name: str) -> str | None:
        """Returns the uuid of the domain with this name; None if there was none."""
        return self._uuids.get(name)

    def run_of(self, uuid: str) -> int:
        """Returns which run of a domain this is: libvirt's id; -1 if it is shut off or unknown."""
        domain = self._domains.get(uuid)
        return -1 if domain is None else domain.run

    def running(self) -> list[str]:
        """Returns the uuids of the domains that are not shut off."""
        return [uuid for uuid, domain in self._domains.items() if domain.run >= 0]

    def learn(
        self, rows: Mapping[str, DomainRow], hinted: Mapping[str, float], asked: float
    ) -> list[tuple[Domain | None, Domain]]:
        """Takes an answer; returns each domain that has changed, behind what it was before.

        Args:
            rows: all domains, by uuid; the same object as before if nothing has changed.
            hinted: when an event about a domain came, by its name.
            asked: when the question was asked.
        """
        asked_before, self._asked = self._asked, asked
        if rows is self._rows and not hinted:
            return []
        before, self._rows = self._domains, rows
        self._domains = {
            uuid: _updated(before.get(uuid), row, hinted.get(row.name, asked), asked_before)
            for uuid, row in rows.items()
        }
        self._uuids = {domain.name: uuid for uuid, domain in self._domains.items()}
        self._remember(before, asked)
        return [
            (before.get(uuid), domain)
            for uuid, domain in self._domains.items()
            if domain is not before.get(uuid)
        ]

    def _remember(self, before: Mapping[str, Domain], now: float) -> None:
        """Keeps the domains that libvirt has forgotten: they ended, however that happened."""
        gone = [domain for uuid, domain in before.items() if uuid not in self._domains]
        for domain in gone[-FORGOTTEN:]:
            if domain.listed:
                state = domain.state if domain.run < 0 else _UNDEFINED
                domain = attrs.evolve(domain, state=state, since=now, listed=False)
            self._domains[domain.uuid] = domain


def _updated(old: Domain | None, row: DomainRow, since: float, asked_before: float) -> Domain:
    state = DomainState(row.state, row.reason, row.domain_id)
    if old is not None and old.listed and old.state == state:
        return old if old.name == row.name else attrs.evolve(old, name=row.name)
    changed_after = -math.inf if old is None else asked_before
    return Domain(row.uuid, row.name, state, since, changed_after=changed_after)
