"""What operators want of the instances on hosts without an agent, and how they ask for it."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import h11
import trio

from hbtrio.errors import UserError
from hbtrio.simulate.observations import ActionBegan, ActionEnded, Observation, Owner
from hbtrio.simulate.requests import OperatorRequests

#: Seconds between two wishes of an operator, on average.
WISH_S: Final = 60.0

#: Seconds until a VM that was stopped is started, and a paused one goes on.
_REST_S: Final = (2.0, 15.0)

#: The shares of actions that skip the vote, and that end a corrective command.
_FORCED: Final = 0.2
_TAKING_OVER: Final = 0.3

#: How often an action is wanted, compared with the others.
_ACTIONS: Final = {"reboot": 3, "stop": 2, "pause": 3}

#: The steps of a line after which nothing comes.
_ENDS: Final = ("end", "lost")

#: The host, or the connection to it, has gone before the answer was complete.
GONE: Final = (OSError, trio.BrokenResourceError, h11.RemoteProtocolError, UserError)


class OperatorCourse:
    """The operators of some instances.

    Args:
        requests: names their votes and notices.
        ask: posts an action on the instance with this uuid, and yields the lines of the answer.
        is_there: whether the instance has a host that can be asked.
        restore: starts what an action has stopped, and lets go on what it has paused.
        now: the time of the run, in seconds.
        observe: called with what is observed.
        say: called with what they do.
        quiet_s: from when on nobody wants anything, in seconds.
        wish_s: seconds between two wishes of an operator, on average.
    """

    def __init__(
        self,
        requests: OperatorRequests,
        *,
        ask: Callable[[str, dict[str, Any]], AsyncIterator[dict[str, Any]]],
        is_there: Callable[[str], bool],
        restore: Callable[[str, str], Awaitable[None]],
        now: Callable[[], float],
        observe: Callable[[Observation], None],
        say: Callable[[str], None],
        quiet_s: float,
        wish_s: float = WISH_S,
    ) -> None:
        self._requests = requests
        self._ask = ask
        self._is_there = is_there
        self._restore = restore
        self._now = now
        self._observe = observe
        self._say = say
        self._quiet_s = quiet_s
        self._wish_s = wish_s
        self._numbers = 0

    async def care_for(self, uuid: str, name: str, draw: random.Random) -> None:
        """Wants something of an instance now and then, until it is quiet."""
        while self._now() < self._quiet_s:
            await trio.sleep(draw.expovariate(1 / self._wish_s))
            if not self._is_there(uuid) or self._now() >= self._quiet_s:
                continue
            [action] = draw.choices(list(_ACTIONS), list(_ACTIONS.values()))
            force, take_over = draw.random() < _FORCED, draw.random() < _TAKING_OVER
            await self.act(uuid, name, action, force=force, take_over=take_over)
            await trio.sleep(draw.uniform(*_REST_S))
            if action == "pause":
                await self.act(uuid, name, "unpause", force=True)
            if action != "reboot":
                await self._restore(uuid, action)  # also where the command failed

    async def act(
        self, uuid: str, name: str, action: str, *, force: bool, take_over: bool = False
    ) -> None:
        """Asks for an action, and takes in what is answered.

        Args:
            uuid: the instance.
            name: its name.
            action: what is wanted.
            force: skip the vote.
            take_over: end a corrective command that runs.
        """
        self._numbers += 1
        label = f"act-{self._numbers}"
        self._requests.begin_action(uuid, label)
        how = f"{' by force' if force else ''}{', taking over' if take_over else ''}"
        self._say(f"{label}: {action} {name}{how}")
        began = False
        try:
            wish = {"action": action, "force": force, "take_over": take_over}
            async for line in self._ask(uuid, wish):
                if not began and line.get("step") not in _ENDS:
                    began = True
                    self._observe(ActionBegan(self._now(), label, name, Owner.OPERATOR, not force))
                self._requests.heard(uuid, line)
            if not began:
                self._requests.action_refused(uuid)
        except GONE as fault:
            self._say(f"{label}: {type(fault).__name__}: {fault}")
        if began:
            self._observe(ActionEnded(self._now(), label))
        self._requests.action_ended(uuid)
