"""Observes when hosts carry out what the agent has commanded, and until when they were to begin.

Which command it is, and its moment, are read on the link; that it is carried out, where the host
writes the vote or notice to the guest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import attrs

from hbtrio.simulate.observations import CarriedOut, Observation
from hbtrio.simulate.order_observations import Refused
from hbtrio.simulate.reject_watch import Feed, both, read_lines
from hbtrio.wire.link_messages import VIM

#: Returns when the clock of a host's process shows a time, in seconds of the run; of a process that
#: is not the host's present one, the moment is long past: 0.
WhenOf = Callable[[str, str, float], float]


@attrs.frozen
class Begun:
    """What a host has written to an instance.

    Args:
        uuid: the instance.
        event: what about.
        is_vote: a notice, if not.
        who: for whom the agent has commanded it; None: it is for an action.
        command_id: of that command, or "".
        invocation_id: the host's id of it.
    """

    uuid: str
    event: str
    is_vote: bool
    who: str | None
    command_id: str = ""
    invocation_id: int = 0


#: How the reason begins of a host that refuses a command which came too late.
_EXPIRED: Final = "expired"

#: A host, an instance, an event, and whether it is a vote.
_Key = tuple[str, str, str, bool]


@attrs.frozen
class _Command:
    command_id: str
    begin_by_s: float
    who: str
    boot_id: str


class BeginWatch:
    """Reads along on links and channels.

    Args:
        now: the time of the run, in seconds.
        observe: called with what is observed.
        when: see :data:`WhenOf`; called with the host's name, the process and its time.
        on_begun: called with what hosts write to instances.
    """

    def __init__(
        self,
        now: Callable[[], float],
        observe: Callable[[Observation], None],
        when: WhenOf,
        on_begun: Callable[[Begun], None] = lambda _: None,
    ) -> None:
        self._now = now
        self._observe = observe
        self._when = when
        self._on_begun = on_begun
        #: The last command about each event of an instance that a host has, and has not begun.
        self._commands: dict[_Key, _Command] = {}

    def link_to_host(self, host: str) -> Feed:
        """Reads what arrives at the daemon of a host from the agent."""

        def commanded(message: dict[str, Any]) -> None:
            if "action" in message:
                # From now on the host asks for that; what it had been asked for is over.
                self._forget(lambda key, _: key[:2] == (host, message["uuid"]))
            begin_by_s = message.get("begin_by_s")
            if "vote" in message and begin_by_s is not None:
                key = host, message["uuid"], message["event"], bool(message["vote"])
                at_s = self._when(host, message["boot_id"], begin_by_s)
                self._commands[key] = _Command(
                    message["command_id"], at_s, message.get("who", VIM), message["boot_id"]
                )

        return read_lines(b'"begin_by_s"', commanded)

    def link_to_agent(self, host: str) -> Feed:
        """Reads what arrives at the agent from the daemon of a host."""

        def greeted(message: dict[str, Any]) -> None:
            # What a process had been asked for and had not begun ends with it.
            boot_id = message["boot_id"]
            self._forget(lambda key, command: key[0] == host and command.boot_id != boot_id)

        def answered(message: dict[str, Any]) -> None:
            if message.get("ok", True):
                return
            refused = message["command_id"]
            self._forget(lambda _, command: command.command_id == refused)
            if message.get("reason", "").startswith(_EXPIRED):
                self._observe(Refused(self._now(), host, refused))

        return both(read_lines(b'"type":"hello"', greeted), read_lines(b'"ok":false', answered))

    def channel_from_host(self, uuid: str, host: str) -> Feed:
        """Reads what the daemon of a host writes to an instance."""

        def begun(message: dict[str, Any]) -> None:
            event = message.get("event_type", "")
            is_vote = message.get("notification_type") == "revocable"
            command = self._commands.pop((host, uuid, event, is_vote), None)
            invocation_id = message.get("invocation_id", 0)
            if command is None:
                self._on_begun(Begun(uuid, event, is_vote, None, "", invocation_id))
            else:
                known = command.who, command.command_id
                self._on_begun(Begun(uuid, event, is_vote, *known, invocation_id))
                self._observe(CarriedOut(self._now(), host, command.command_id, command.begin_by_s))

        return read_lines(b'revocable"', begun)

    def concluded(self, command_id: str) -> None:
        """Takes that a vote or notice has ended: one that a group forbids is never written."""
        self._forget(lambda _, command: command.command_id == command_id)

    def _forget(self, is_over: Callable[[_Key, _Command], bool]) -> None:
        self._commands = {
            key: command for key, command in self._commands.items() if not is_over(key, command)
        }
