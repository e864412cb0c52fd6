"""Starts votes, notices and actions, and follows them to their end.

What was started belongs to the host: an interruption, or an output that is closed, ends the
watching and not the action, and the user is informed of that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from hbtrio.cli.ctl.progress import ProgressView
from hbtrio.cli.ctl.screen import Screen
from hbtrio.client.client import CtlClient
from hbtrio.client.stream import Lines
from hbtrio.wire.operator import ActRequest, NoticeRequest, ProgressLine, VoteRequest

#: How long after its due time a line may arrive, in seconds: a host that is late postpones its
#: deadlines, and a command that exceeds its time limit gets time to end.
MARGIN_S: Final = 15.0


class Watch:
    """Follows one vote, notice or action.

    Args:
        client: of the host or agent.
        screen: where to show it.
    """

    def __init__(self, client: CtlClient, screen: Screen) -> None:
        self._client = client
        self._screen = screen
        #: What an interruption at this moment does not end, as a text for the user; "" for nothing.
        self.goes_on = ""

    async def run(
        self,
        uuid: str,
        kind: str,
        body: VoteRequest | NoticeRequest | ActRequest,
        what: str,
        view: ProgressView,
        is_last: Callable[[ProgressLine], bool],
    ) -> ProgressLine:
        """Starts it, shows its progress, and returns its last line.

        Args:
            uuid: the instance.
            kind: vote, notify or act.
            body: the request.
            what: names it, for messages.
            view: shows its lines.
            is_last: whether a line is its last one.

        Raises:
            UserError: it was refused, or its outcome is unknown.

        Cancelled, it stops watching; what was started goes on.
        """
        self.goes_on = unknown = (
            f"the outcome of {what} on {uuid} is unknown; see `hbtrio ctl status` and "
            "`hbtrio ctl events`"
        )
        path = f"/v1/instances/{uuid}/{kind}"
        async with self._client.lines("POST", path, body, unknown=unknown) as lines:
            self.goes_on = f"{what} on {uuid} continues on the host; see `hbtrio ctl events`"
            async with trio.open_nursery() as nursery:
                if self._screen.terminal:
                    nursery.start_soon(view.count_down)
                try:
                    ended = f"{what} on {uuid} has ended"
                    last = await self._show_all(lines, view, is_last, ended)
                finally:
                    self._screen.settle()
                nursery.cancel_scope.cancel()
        return last

    async def _show_all(
        self, lines: Lines, view: ProgressView, is_last: Callable[[ProgressLine], bool], ended: str
    ) -> ProgressLine:
        within_s = MARGIN_S
        while (line := await lines.next(ProgressLine, within_s)) is not None:
            if line.step == "lost":
                raise lines.lost(line.reason or "")
            if is_last(line):
                self.goes_on = f"{ended}; see `hbtrio ctl events` for the outcome"
            view.show(line)
            if is_last(line):
                return line
            within_s = MARGIN_S + (line.seconds or 0.0)
        raise lines.lost("the daemon ended it without an outcome")
