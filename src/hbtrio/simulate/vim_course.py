"""What the users of a VIM want, and how the VIM takes each action from its vote to its end.

The order is that of the deployed VIM (:mod:`hbtrio.lab.vim`): vote, notice, heartbeat off, the
action, heartbeat on, end notice. It goes on without a verdict that does not come, gives up an
action whose vote the agent refuses, and repeats what has to be told.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

import trio

from hbtrio.errors import UserError
from hbtrio.lab.vim import Call, LabVim
from hbtrio.lab.vim_request import VimReply
from hbtrio.simulate.observations import ActionBegan, ActionEnded, Observation, Owner
from hbtrio.simulate.requests import Requests
from hbtrio.simulate.wishes import WISHES, Wish

#: Seconds between two wishes of an instance's users, on average.
WISH_S: Final = 27.0

#: Seconds from a verdict to the VIM's next step.
_STEP_S: Final = (0.05, 1.0)

#: Seconds for which an instance is paused, suspended or stopped.
REST_S: Final = (1.0, 20.0)

#: Seconds between attempts to tell the agent something, and between looks at an instance.
_AGAIN_S: Final = 5.0
_LOOK_S: Final = 2.0

#: Seconds for which the VIM waits until an instance is heartbeating again.
_RETURN_S: Final = 320.0


class VimCourse:
    """The courses of all instances of a VIM.

    Args:
        vim: asks and tells the agent.
        call: sends a request to the agent.
        requests: names the VIM's votes and notices.
        perform: performs an action on the instance with this uuid; returns the name of the host
            on which it is then.
        lives: whether the guest of an instance runs; of one that doesn't nobody wants anything.
        now: the time of the run, in seconds.
        observe: called with what is observed.
        say: called with what went wrong.
        quiet_s: from when on nobody wishes anything, in seconds.
    """

    def __init__(
        self,
        vim: LabVim,
        call: Call,
        requests: Requests,
        *,
        perform: Callable[[str, Wish, random.Random], Awaitable[str]],
        lives: Callable[[str], bool],
        now: Callable[[], float],
        observe: Callable[[Observation], None],
        say: Callable[[str], None],
        quiet_s: float,
    ) -> None:
        self._vim = vim
        self._call = call
        self._requests = requests
        self._perform = perform
        self._lives = lives
        self._now = now
        self._observe = observe
        self._say = say
        self._quiet_s = quiet_s
        #: One action on an instance at a time; repairs wait for it, too.
        self.busy: defaultdict[str, trio.Lock] = defaultdict(trio.Lock)

    async def introduce(self, uuid: str, name: str, hostname: str) -> None:
        """Adds an instance."""
        try:
            await self._vim.add_instance(uuid, name, hostname)
        except UserError as fault:
            self._say(str(fault))  # the next audit tells the agent

    async def care_for(self, uuid: str, name: str, draw: random.Random) -> None:
        """Has the users of an instance wish something until it is quiet."""
        number = 0
        while self._now() < self._quiet_s:
            await trio.sleep(draw.expovariate(1 / WISH_S))
            async with self.busy[uuid]:
                if self._lives(uuid) and self._now() < self._quiet_s:
                    number += 1
                    [wish] = draw.choices(WISHES, [wish.weight for wish in WISHES])
                    await self.fulfil(uuid, name, wish, f"{name}-{number}", draw)

    async def fulfil(
        self, uuid: str, name: str, wish: Wish, action: str, draw: random.Random
    ) -> None:
        """Takes an action from its vote to its end."""
        self._requests.begin_action(uuid, action)
        try:
            verdict = await self._vim.vote(uuid, wish.event)
        except UserError as fault:
            self._say(str(fault))
            return
        if verdict.response == "reject":
            return
        self._observe(ActionBegan(self._now(), action, name, Owner.VIM))
        try:
            await trio.sleep(draw.uniform(*_STEP_S))
            await self._notify(uuid, wish.event)
            await trio.sleep(draw.uniform(*_STEP_S))
            await self._insist(partial(self._vim.disable, uuid))
            await trio.sleep(draw.uniform(*_STEP_S))
            hostname = await self._perform(uuid, wish, draw)
            await trio.sleep(draw.uniform(*_STEP_S))
            await self._insist(partial(self._vim.enable, uuid, hostname))
            if wish.end and await self._returns(uuid):
                await self._notify(uuid, wish.end)
        finally:
            self._observe(ActionEnded(self._now(), action))

    async def _notify(self, uuid: str, event: str) -> None:
        try:
            await self._vim.notify(uuid, event)
        except UserError as fault:
            self._say(str(fault))

    async def _insist(self, tell: Callable[[], Awaitable[None]]) -> None:
        """Tells the agent something, again and again until it takes it."""
        while True:
            try:
                return await tell()
            except UserError as fault:
                self._say(str(fault))
            await trio.sleep(_AGAIN_S)

    async def _returns(self, uuid: str) -> bool:
        """Waits until an instance is heartbeating; returns whether it is."""
        with trio.move_on_after(_RETURN_S):
            while True:
                try:
                    reply = await self._call("GET", f"/v1/instances/{uuid}")
                except UserError:
                    pass
                else:
                    services = reply.members.get("services") or [{}]
                    if services[0].get("status") == "enabled":
                        return True
                await trio.sleep(_LOOK_S)
        return False


class VimRequests(Requests):
    """The VIM's requests, read along on its connections."""

    def named(
        self, path: str, body: dict[str, Any] | None, on_reply: Callable[[VimReply], None] | None
    ) -> Callable[[VimReply], None] | None:
        """Takes in that a request is sent to the agent.

        Its name is there before it is sent: the outcome may be stored before the reply.

        Returns:
            What to call with the reply, which observes a vote or notice that was accepted.
        """
        if on_reply is None:
            return None
        if not body or "action" not in body:
            return on_reply
        uuid, event, is_vote = body["uuid"], body["action"], path.endswith("/vote")
        request = self.name(uuid, event, is_vote)

        def replied(reply: VimReply) -> None:
            seconds = int(reply.members["timeout"]) if reply.status == 200 else 0
            if seconds:
                self.accepted(request, uuid, event, vote=is_vote, seconds=seconds)
            on_reply(reply)

        return replied

    def heard(self, body: object) -> None:
        """Takes in a request of the agent: a verdict is observed."""
        if isinstance(body, dict) and body.get("event-type") == "action":
            data = body["event-data"]
            is_vote = data["guest-response"] != "proceed"
            request = self.request_of(body["uuid"], data["action"], is_vote) or "unasked"
            self.answered(request, data["guest-response"])
