"""Observes when a guest's reject arrives at a process: it lies in its socket then, read or not.

Whoever decides later must have read it. Which request a reject is about is known by what the host
and the agent have sent before: by the ids that they gave the vote.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from hbtrio.simulate.observations import AGENT, Observation, RejectArrived
from hbtrio.wire.link_messages import VIM

#: Takes in the bytes of one direction of a connection.
Feed = Callable[[bytes], None]


class RejectWatch:
    """Reads along on channels and links.

    Args:
        now: the time of the run, in seconds.
        observe: called with what is observed.
        invoked: finds the request of a vote that reaches an instance, by the instance, the event
            and the host's id of it; "" if there is none.
        commanded: finds that of a vote (True) or notice which the agent has a host open, by the
            instance, the event, which it is, for whom, and the command's id.
    """

    def __init__(
        self,
        now: Callable[[], float],
        observe: Callable[[Observation], None],
        invoked: Callable[[str, str, int], str],
        commanded: Callable[[str, str, bool, str, str], str],
    ) -> None:
        self._now = now
        self._observe = observe
        self._invoked = invoked
        self._commanded = commanded
        #: The requests by the id that the host gave them.
        self._invocations: dict[tuple[str, int], str] = {}
        #: The requests by the id that the agent gave them.
        self.commands: dict[str, str] = {}

    def channel_to_guest(self, uuid: str) -> Feed:
        """Reads what arrives at the VM of an instance."""

        def asked(message: dict[str, Any]) -> None:
            if message.get("notification_type") == "revocable":
                id_ = message.get("invocation_id", 0)
                self._invocations[uuid, id_] = self._invoked(
                    uuid, message.get("event_type", ""), id_
                )

        return read_lines(b'"revocable"', asked)

    def channel_to_host(self, uuid: str, host: str) -> Feed:
        """Reads what arrives at the daemon of a host from an instance."""

        def answered(message: dict[str, Any]) -> None:
            if message.get("vote_result") == "reject":
                self._arrived(host, self._invocations.get((uuid, message.get("invocation_id", 0))))

        return read_lines(b'"reject"', answered)

    def link_to_host(self) -> Feed:
        """Reads what arrives at the daemon of a host from the agent."""

        def asked(message: dict[str, Any]) -> None:
            if "command_id" in message and "event" in message:
                about = message.get("uuid", ""), message["event"], bool(message["vote"])
                id_ = message["command_id"]
                self.commands[id_] = self._commanded(*about, message.get("who", VIM), id_)

        return read_lines(b'"vote":', asked)

    def link_to_agent(self) -> Feed:
        """Reads what arrives at the agent from a host."""

        def answered(message: dict[str, Any]) -> None:
            if message.get("result") == "reject" and message.get("kind") == "vote":
                self._arrived(AGENT, self.commands.get(message.get("command_id", "")))

        return read_lines(b'"reject"', answered)

    def _arrived(self, process: str, request: str | None) -> None:
        if request:
            self._observe(RejectArrived(self._now(), process, request))


def both(first: Feed, second: Feed) -> Feed:
    """Has two read the same bytes."""

    def feed(data: bytes) -> None:
        first(data)
        second(data)

    return feed


def read_lines(marker: bytes, see: Callable[[dict[str, Any]], None]) -> Feed:
    """Cuts bytes into lines, and shows those that are JSON objects and have the marker in them."""
    rest = b""

    def feed(data: bytes) -> None:
        nonlocal rest
        data = rest + data
        if marker not in data:
            rest = data[data.rfind(b"\n") + 1 :]
            return
        *lines, rest = data.split(b"\n")
        for line in lines:
            if marker in line:
                try:
                    message = json.loads(line)
                except ValueError:
                    continue
                if isinstance(message, dict):
                    see(message)

    return feed
