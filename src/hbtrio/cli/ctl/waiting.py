"""Waits until an instance is in some state: ``hbtrio ctl wait``.

The daemon's events say when to look; what is no event, such as the end of an illness or a removed
socket, is looked for every 2 s. A daemon that goes away meanwhile is tried again until the time
is over.
"""

from __future__ import annotations

import argparse
import math
from typing import Final, NoReturn

import trio

from hbtrio.cli.ctl.feed import FIRST_PAUSE_S, LONGEST_PAUSE_S
from hbtrio.cli.ctl.instances import resolved
from hbtrio.cli.ctl.screen import Screen
from hbtrio.client.client import AnyDetail, CtlClient
from hbtrio.client.faults import NotThere
from hbtrio.client.stream import SILENCE_S, Lines
from hbtrio.errors import ExitStatus, UserError
from hbtrio.policy.backoff import Backoff
from hbtrio.text import printable
from hbtrio.wire.operator import parse_event

#: What can be waited for, with the kind of event that proves it; "" if no event does.
GOALS: Final = {"heartbeating": "heartbeating", "healthy": "", "lost": "loss", "gone": ""}

#: How often is looked for what is no event, in seconds.
LOOK_S: Final = 2.0


async def wait_for(client: CtlClient, screen: Screen, options: argparse.Namespace) -> int:
    """Waits for what the options ask for, ``options.timeout`` seconds at most.

    Raises:
        UserError: FAILED: the time is over, or nobody knows the instance that should be gone;
            UNREACHABLE: the daemon can't be reached, at the very first or when the time is over.
    """
    waiting = Waiting(client, options.uuid, options.goal)
    began = trio.current_time()
    with trio.move_on_after(options.timeout) as limit:
        async with trio.open_nursery() as nursery:
            if screen.terminal and not options.json:
                nursery.start_soon(_count_down, screen, waiting, limit)
            await waiting.run()
            nursery.cancel_scope.cancel()
    seconds = trio.current_time() - began
    if not waiting.reached:
        screen.settle()
    if options.json:
        reached = {"uuid": waiting.uuid, "for": options.goal, "reached": waiting.reached}
        screen.json(reached | {"state": waiting.state, "seconds": round(seconds, 3)})
    elif waiting.reached:
        screen.line(f"{options.uuid}: {options.goal} after {seconds:.1f} s")
    if waiting.reached:
        return ExitStatus.DONE
    if waiting.fault is not None:
        raise waiting.fault
    if options.json:
        return ExitStatus.FAILED
    text = f"{options.uuid} is not {options.goal} within {options.timeout} s: {waiting.state}"
    raise UserError(printable(text), ExitStatus.FAILED)


async def _count_down(screen: Screen, waiting: Waiting, limit: trio.CancelScope) -> NoReturn:
    while True:
        left_s = math.ceil(limit.deadline - trio.current_time())
        text = f"waiting until {waiting.word} is {waiting.goal}, {left_s} s left"
        screen.redraw(f"{text}: {waiting.state}")
        await trio.sleep(1)


class Waiting:
    """Waits for one instance.

    Args:
        client: of the host or agent.
        word: names the instance.
        goal: one of ``GOALS``.
    """

    def __init__(self, client: CtlClient, word: str, goal: str) -> None:
        self.word = word
        self.goal = goal
        #: The instance, once it is known.
        self.uuid = ""
        #: Its state when it was looked at last, with the reason.
        self.state = "unknown"
        self.reached = False
        #: Why the daemon can't be asked now; None if it can.
        self.fault: UserError | None = None
        self._client = client
        self._wake = trio.Event()

    async def run(self) -> None:
        """Waits until the goal is reached, or cancelled.

        Raises:
            UserError: the daemon can't be reached, or refuses, at the very first.
        """
        backoff, answered = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S), False
        while not self.reached:
            self.fault = None
            try:
                if not self.uuid:
                    await self._find()
                    answered = True
                if self.uuid:
                    await self._follow()
                    answered = True
            except UserError as fault:
                self.fault = fault
            if self.fault is None:
                backoff.reset()
                await trio.sleep(0 if self.uuid else LOOK_S)
            elif not answered:
                raise self.fault
            else:
                await trio.sleep(backoff.next_delay_s())

    async def _find(self) -> None:
        status = await self._client.any_status()
        try:
            self.uuid = resolved(self.word, status)
        except UserError as fault:
            # It may come yet; but a mistyped name must not count as gone.
            if self.goal == "gone" or fault.status is not ExitStatus.FAILED:
                raise
            self.state = "not there"

    async def _follow(self) -> None:
        """Looks at each event, until the goal is reached or the stream ends."""
        path = f"/v1/events?recent=0&follow=yes&uuid={self.uuid}"
        async with self._client.lines("GET", path) as lines, trio.open_nursery() as nursery:
            nursery.start_soon(self._listen, lines, nursery.cancel_scope)
            try:
                # After the stream is open, so that no change falls between the two.
                while not (self.reached or await self._look()):
                    with trio.move_on_after(math.inf if GOALS[self.goal] else LOOK_S):
                        await self._wake.wait()
                    self._wake = trio.Event()
            except UserError as fault:
                self.fault = fault
            nursery.cancel_scope.cancel()

    async def _listen(self, lines: Lines, following: trio.CancelScope) -> None:
        try:
            while (event := await lines.read(parse_event, SILENCE_S)) is not None:
                # An older daemon sends those of other instances, too.
                if event.uuid == self.uuid:
                    self.reached = self.reached or event.kind == GOALS[self.goal]
                    self._wake.set()
            self.fault = lines.lost("the daemon ended the stream")
        except UserError as fault:
            self.fault = fault
        following.cancel()

    async def _look(self) -> bool:
        """Looks at the instance; returns whether the goal is reached."""
        try:
            one = await self._client.instance(self.uuid)
        except NotThere:
            self.state, reached = "not there", self.goal == "gone"
        else:
            self.state = f"{one.state} ({one.why})" if one.why else one.state
            reached = _is_reached(self.goal, one)
        # An event may have told meanwhile.
        self.reached = self.reached or reached
        return self.reached


def _is_reached(goal: str, one: AnyDetail) -> bool:
    match goal:
        case "heartbeating":
            return one.heartbeating
        case "healthy":
            return one.heartbeating and one.health == "healthy"
        case "lost":
            return one.state == "lost"
        case _:
            return False
