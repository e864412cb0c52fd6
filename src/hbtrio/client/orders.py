"""What an operator has a host or agent change at once; each order is answered with what was done.

Each raises ``UserError``: UNREACHABLE, DENIED, or the daemon refuses; the text says why.
"""

from __future__ import annotations

from functools import partial
from urllib.parse import quote

from hbtrio.client.client import NO_ANSWER, CtlClient
from hbtrio.wire.operator import (
    AlarmsReply,
    AlarmsRequest,
    Forgotten,
    HoldReply,
    HoldRequest,
    parse,
)


class Orders:
    """The orders to one host or agent.

    Args:
        client: its client.
    """

    def __init__(self, client: CtlClient) -> None:
        self._client = client

    async def hold(self, uuid: str, seconds: float, reason: str) -> HoldReply:
        """Puts an instance on hold.

        Args:
            uuid: the instance.
            seconds: for how long.
            reason: why.
        """
        return await self._hold(f"{uuid}/hold", HoldRequest(seconds=seconds, reason=reason))

    async def unhold(self, uuid: str) -> HoldReply:
        """Ends the hold on an instance."""
        return await self._hold(f"{uuid}/unhold", {})

    async def _hold(self, path: str, body: object) -> HoldReply:
        read = partial(parse, cls=HoldReply)
        return await self._client.ask(f"/v1/instances/{path}", "answer", read, body)

    async def alarms(self, hostname: str, alarms: str) -> AlarmsReply:
        """Makes an agent send or withdraw the alarms of a host that it holds back.

        Args:
            hostname: the host.
            alarms: "send" or "withdraw".
        """
        path = f"/v1/hosts/{quote(hostname, safe='')}/alarms"
        read = partial(parse, cls=AlarmsReply)
        return await self._client.ask(path, "answer", read, AlarmsRequest(alarms=alarms))

    async def release_brake(self) -> None:
        """Makes a host run corrective commands again after a mass failure."""
        await self._client.ask(NO_ANSWER, "answer", lambda _: None, {})

    async def forget(self, name: str, *, member: bool = False) -> Forgotten:
        """Makes an agent forget a host.

        Args:
            name: the host's name, or a uuid.
            member: forget a member of groups by its uuid instead; a host does that, too.
        """
        path = f"/v1/{'instances' if member else 'hosts'}/{quote(name, safe='')}/forget"
        return await self._client.ask(path, "answer", partial(parse, cls=Forgotten), {})
