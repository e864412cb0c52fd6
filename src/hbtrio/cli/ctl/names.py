"""What instances are called, for events that name them by their uuids alone."""

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

#: The daemon is asked again for a uuid that it did not know, at most this often.
_ASKED_EVERY_S: Final = 60.0

#: Names that can't be taken for the words around them.
_PLAIN: Final = re.compile(r"[\w.-]+")


class Names:
    """Names by uuid, asked of a daemon when one is wanted that is not known.

    Args:
        client: of the daemon.
    """

    def __init__(self, client: CtlClient) -> None:
        self._client = client
        self._known: dict[str, str] = {}
        self._ask_at = 0.0

    def learn(self, instances: Iterable[InstanceLine | FleetInstanceLine]) -> None:
        """Takes over what a status says."""
        self._known = {one.uuid: one.name for one in instances}
        self._ask_at = trio.current_time() + _ASKED_EVERY_S

    async def of(self, event: AnyEventLine) -> str:
        """The name of an event's instance, or ""; never fails, as the event is what matters.

        May wait for an answer of the daemon; after a cancellation it can be asked again.
        """
        if event.name or not event.uuid:
            return event.name
        if event.uuid not in self._known and trio.current_time() >= self._ask_at:
            self._ask_at = trio.current_time() + _ASKED_EVERY_S
            with suppress(UserError):  # whoever has asked for events gets them
                self.learn((await self._client.any_status()).instances)
        return self._known.get(event.uuid, "")


def bracketed(name: str) -> str:
    """A name as it stands in a line: a tenant's word, in quotes if it has more than letters."""
    return f"({name if _PLAIN.fullmatch(name) else shown(name)})"
