"""Plays the tour's steps in a cloud and compares the seen with the expected facts.

:attr:`Tour.story` has a line for each event, for a view to show. A step that differs does not end
the tour, because each step leaves its VMs heartbeating.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from itertools import zip_longest
from typing import Final

import attrs
import trio

from hbtrio.errors import UserError
from hbtrio.lab.cloud import Cloud
from hbtrio.lab.feed import Feed, NotSeen
from hbtrio.lab.scene import alone
from hbtrio.text import reason_after

#: Time limit of the whole tour, in seconds; it takes 50 s on an idle machine.
TOUR_S: Final = 90.0

#: The path of a channel's socket, too long to show.
_CHANNEL: Final = re.compile(r"/\S+/cgcs\.heartbeat\.\S+\.sock")

_ABSENT: Final = "nothing"


@attrs.frozen
class Fact:
    """An expected fact, and the seen one."""

    expected: str
    seen: str

    @property
    def agrees(self) -> bool:
        """Whether the expected fact was seen."""
        return self.expected == self.seen


@attrs.frozen
class Finding:
    """The result of a step."""

    title: str
    facts: tuple[Fact, ...]

    @property
    def agrees(self) -> bool:
        """Whether all expected facts were seen."""
        return all(fact.agrees for fact in self.facts)


@attrs.frozen
class Line:
    """One line of the story: seconds since the start, the subject, and the text."""

    at_s: float
    who: str
    text: str


#: Called with each fact that a step sees.
See = Callable[[str], None]


@attrs.frozen
class Step:
    """One step of the tour.

    Args:
        title: a short title.
        expected: the expected facts, in order.
        play: plays the step and calls ``see`` with each fact.
    """

    title: str
    expected: tuple[str, ...]
    play: Callable[[Cloud, See], Awaitable[None]]


class Tour:
    """Plays steps in one cloud.

    Args:
        cloud: the cloud.
        steps: the steps, in order.
    """

    def __init__(self, cloud: Cloud, steps: Sequence[Step]) -> None:
        self.cloud = cloud
        self.steps = tuple(steps)
        self.findings: list[Finding] = []
        self.story: Feed[Line] = Feed()
        self._began_at = trio.current_time()

    @property
    def agrees(self) -> bool:
        """Whether all expected facts were seen so far."""
        return all(finding.agrees for finding in self.findings)

    @property
    def is_over(self) -> bool:
        """Whether all steps were played."""
        return len(self.findings) == len(self.steps)

    async def play(self) -> None:
        """Plays all steps, in at most :data:`TOUR_S` seconds, then closes the story."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow_events)
            nursery.start_soon(self._follow_scripts)
            nursery.start_soon(self._follow_others)
            await self._play()
            nursery.cancel_scope.cancel()
        self.story.close()

    async def _play(self) -> None:
        deadline = trio.current_time() + TOUR_S
        for number, step in enumerate(self.steps, 1):
            self._add_line("", f"step {number} of {len(self.steps)}: {step.title}")
            seen: list[str] = []
            with trio.CancelScope(deadline=deadline) as window:
                try:
                    await step.play(self.cloud, seen.append)
                except* (NotSeen, UserError) as faults:
                    seen.append(str(alone(faults)).partition("\n")[0])
            if window.cancelled_caught:
                seen.append("the tour timed out")
            # Let the followers, woken with the step, add their lines first.
            await trio.lowlevel.checkpoint()
            self._find(step, seen)

    def _find(self, step: Step, seen: list[str]) -> None:
        facts = tuple(
            Fact(expected, came)
            for expected, came in zip_longest(step.expected, seen, fillvalue=_ABSENT)
        )
        finding = Finding(step.title, facts)
        self.findings.append(finding)
        for fact in facts:
            if not fact.agrees:
                self._add_line("", f"DIFFERS: expected {fact.expected}, seen {fact.seen}")

    def _add_line(self, who: str, text: str) -> None:
        self.story.put(Line(trio.current_time() - self._began_at, who, text))

    async def _follow_events(self) -> None:
        async for line in self.cloud.events.follow():
            text = _CHANNEL.sub("its channel", event_words(line))
            self._add_line(self.cloud.name_of(line["uuid"]), text)

    async def _follow_scripts(self) -> None:
        async for words in self.cloud.script_lines.follow():
            match words:
                case ["handler", name, notification, event, _]:
                    verb = "asked" if notification == "revocable" else "notified"
                    self._add_line(name, f"its handler is {verb}: {event}")
                case ["application", name, application, "registered", _]:
                    self._add_line(name, f"its application {application} is registered")
                case ["application", name, application, notification, event, _]:
                    verb = "asked" if notification == "revocable" else "notified"
                    self._add_line(name, f"its application {application} is {verb}: {event}")
                case ["note", uuid, *reason] if uuid in self.cloud.guests:
                    host = self.cloud.host_of(uuid).name
                    self._add_line(self.cloud.name_of(uuid), f"{host} logs: {' '.join(reason)}")
                case words:
                    named = [self.cloud.name_of(word) for word in words]
                    on = [self.cloud.host_of(one).name for one in words if one in self.cloud.guests]
                    self._add_line("host", " ".join([*on, "runs", *named]))

    async def _follow_others(self) -> None:
        async for who, text in self.cloud.said.follow():
            self._add_line(who, text)


def event_words(line: dict[str, str]) -> str:
    """Formats an event of the host: ``vote stop: reject: busy``."""
    head = " ".join(line[key] for key in ("kind", "event") if key in line)
    parts = [head, line.get("result", ""), reason_after(head, line["reason"])]
    # What was done or not done names the action in its reason.
    asks = line["kind"] in ("loss", "unhealthy")
    action = line.get("corrective_action") if asks else ""
    return ": ".join(part for part in parts if part) + (f" ({action})" if action else "")
