"""Asks a guest that has rejected an action again and again: ``hbtrio ctl act --retry-for``.

Host and agent do that by themselves, as a planned action. With options that a plan does not keep,
since they set aside what the operator sees now, and with a command at an agent, which stores none,
it is done here.
"""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable
from typing import Final

import attrs
import trio

from hbtrio.cli.ctl.argument_types import FORCE, GIVE_UP
from hbtrio.cli.ctl.progress import ProgressView
from hbtrio.cli.ctl.screen import Screen
from hbtrio.client.client import CtlClient
from hbtrio.errors import UserError
from hbtrio.wire.operator import ActRequest, FleetStatus, ProgressLine
from hbtrio.wire.vocabulary import ACTION_TABLE, ActionName

#: How long after a reject the guest is asked again, in seconds.
RETRY_S: Final = 30.0


@attrs.frozen
class Retry:
    """For how long a rejected action is asked for again, in seconds, and what follows then."""

    for_s: float = 0.0
    forces: bool = False

    @classmethod
    def of(cls, options: argparse.Namespace) -> Retry:
        """Returns what the options of ``act`` ask for.

        Raises:
            UserError: they contradict each other.
        """
        if options.retry_for is None:
            if options.then is not None:
                raise UserError("--then: says what follows --retry-for, which is missing")
            return cls()
        if options.force:
            raise UserError("--retry-for: with --force there is no vote to ask again")
        return cls(options.retry_for, options.then == FORCE)

    async def by_daemon(self, body: ActRequest, client: CtlClient) -> tuple[ActRequest, Retry]:
        """Returns the request that has the daemon do it, and what is left to be done here.

        Raises:
            UserError: the daemon does not answer.
        """
        if not self.for_s or body.take_over or body.ignore_group:
            return body, self
        if body.command and isinstance(await client.any_status(), FleetStatus):
            return body, self
        then = FORCE if self.forces else GIVE_UP
        return attrs.evolve(body, retry_for_s=self.for_s, then=then), Retry()


async def retried(
    action: str,
    retry: Retry,
    ask: Callable[[bool], Awaitable[ProgressLine]],
    view: ProgressView,
    screen: Screen,
) -> ProgressLine:
    """Performs an action, again after each reject, and returns its last line.

    Args:
        action: its name.
        retry: for how long it is asked for again, from now on.
        ask: performs the action once, without its vote if the argument is true.
        view: shows what is waited for.
        screen: where to show it.

    Raises:
        UserError: what ``ask`` raises; nothing is asked for again then.

    Cancelled, it asks no more. An action that ``ask`` has begun goes on.
    """
    until = trio.current_time() + retry.for_s
    last = await ask(False)
    while last.outcome == "rejected" and (left_s := until - trio.current_time()) > 0:
        await _wait(action, min(RETRY_S, left_s), last.reason or "", view, screen)
        last = await ask(False)
    if last.outcome == "rejected" and retry.forces:
        last = await ask(True)
    return last


async def _wait(
    action: str, seconds: float, reason: str, view: ProgressView, screen: Screen
) -> None:
    event = ACTION_TABLE[ActionName(action)].before
    why = f"it was rejected: {reason}" if reason else "it was rejected"
    line = ProgressLine(step="vote", event=event or "", waiting=why, seconds=round(seconds, 3))
    async with trio.open_nursery() as nursery:
        view.show(line)
        if screen.terminal:
            nursery.start_soon(view.count_down)
        try:
            await trio.sleep(seconds)
        finally:
            screen.settle()
        nursery.cancel_scope.cancel()
