"""Finds the instance that a word of the command line names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from hbtrio.client.client import CtlClient
from hbtrio.errors import ExitStatus, UserError
from hbtrio.text import printable
from hbtrio.wire.operator import (
    FleetInstanceLine,
    FleetStatus,
    InstanceLine,
    Status,
    UnregisteredLine,
)

#: Candidates named for an ambiguous instance.
_NAMED: Final = 5

_UUID: Final = re.compile("-".join(f"[0-9a-f]{{{n}}}" for n in (8, 4, 4, 4, 12)), re.IGNORECASE)


def is_uuid(word: str) -> bool:
    """Whether it is a complete uuid."""
    return _UUID.fullmatch(word) is not None


def resolved(word: str, status: Status | FleetStatus) -> str:
    """The uuid that a word stands for; a complete uuid may be that of a deleted instance.

    Raises:
        UserError: as :func:`pick` does.
    """
    if is_uuid(word):
        return word.lower()
    if isinstance(status, FleetStatus):
        # Also unregistered ones: a name that two instances share must be ambiguous.
        return pick((*status.instances, *status.unregistered), word, "in this fleet")
    return pick(status.instances, word)


async def instance_of(word: str, client: CtlClient) -> str:
    """The uuid that a word stands for; asks the daemon unless it is a complete one.

    Raises:
        UserError: as :func:`pick` does, or the daemon can't be asked.
    """
    return word.lower() if is_uuid(word) else resolved(word, await client.any_status())


def pick(
    instances: Iterable[InstanceLine | FleetInstanceLine | UnregisteredLine],
    word: str,
    where: str = "on this host",
) -> str:
    """The uuid of the one instance that a word stands for.

    Args:
        instances: all candidates.
        word: the beginning of a uuid, or a complete name: libvirt's, or else the guest's. Those are
            tenants' texts: one that looks like another instance's uuid makes the word ambiguous.
        where: where the instances are, for the error.

    Raises:
        UserError: FAILED for none, USAGE for more than one.
    """
    if not word:
        raise UserError("UUID: must not be empty")
    known = [one for one in instances if is_uuid(one.uuid)]
    # The name of a domain is the administrator's word, and goes before those of tenants.
    domains = {one.uuid for one in known if _domain_name(one) == word}
    found = {
        one.uuid: one.name
        for one in known
        if one.uuid in domains
        or (one.name == word and not domains)
        or one.uuid.startswith(word.lower())
    }
    if not found:
        raise UserError(f"no instance {printable(word)} {where}", ExitStatus.FAILED)
    if len(found) > 1:
        named = [f"{uuid} ({name})" if name else uuid for uuid, name in sorted(found.items())]
        more = [f"{len(named) - _NAMED} more"] if len(named) > _NAMED else []
        candidates = printable(", ".join(named[:_NAMED] + more))
        raise UserError(f"{printable(word)} is ambiguous: {candidates}")
    return next(iter(found))


def _domain_name(one: InstanceLine | FleetInstanceLine | UnregisteredLine) -> str:
    if isinstance(one, InstanceLine):
        return "" if one.domain is None else one.domain.name
    return one.domain
