"""Names of instances, for events that carry only uuids."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

import trio

from hbtrio.client.client import CtlClient
from hbtrio.config.source import shown
from hbtrio.errors import UserError
from hbtrio.wire.operator import AnyEventLine, FleetInstanceLine, InstanceLine

#: For a uuid that the daemon did not know it is asked again at most this often, in seconds.
_ASKED_EVERY_S: Final = 60.0

#: Names that can't be mistaken for the words around them.
_PLAIN: Final = re.compile(r"[\w.-]+")


class Names:
    """Names by uuid, fetched from the daemon when an unknown one is needed.

    Args:
        client: of the daemon.
    """

    def __init__(self, client: CtlClient) -> None:
        self._client = client
        self._known: dict[str, str] = {}
        self._ask_at = 0.0

    def learn(self, instances: Iterable[InstanceLine | FleetInstanceLine]) -> None:
        """Takes the names from a status."""
        self._known = {one.uuid: one.name for one in instances}
        self._ask_at = trio.current_time() + _ASKED_EVERY_S

    async def of(self, event: AnyEventLine) -> str:
        """The name of an event's instance, or "". Never fails: the event matters more.

        May wait for an answer of the daemon; it may be called again after a cancellation.
        """
        if event.name or not event.uuid:
            return event.name
        if event.uuid not in self._known and trio.current_time() >= self._ask_at:
            self._ask_at = trio.current_time() + _ASKED_EVERY_S
            with suppress(UserError):  # the event is shown without a name
                self.learn((await self._client.any_status()).instances)
        return self._known.get(event.uuid, "")


def bracketed(name: str) -> str:
    """A name as part of a line, in quotes unless it is plain: it is a tenant's text."""
    return f"({name if _PLAIN.fullmatch(name) else shown(name)})"
