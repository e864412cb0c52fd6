"""Votes, notices and actions as an operator watches them: each window counts down and is answered.

On a terminal the window that is open is one line, redrawn every second and replaced by its outcome.
Elsewhere it is two lines: one when it opens, one when it closes.
"""

from __future__ import annotations

import math
import shlex
from typing import Final, NoReturn

import attrs
import trio

from hbtrio.cli.ctl.screen import Screen
from hbtrio.fsm.heartbeat.machine import CALL_OFF_MIGRATION_S, CALL_OFF_S
from hbtrio.wire.operator import ProgressLine
from hbtrio.wire.vocabulary import EVENT_TABLE, Event, ExpectedEffect

#: The results of votes and notices, and how an action ends, as words with a colour.
_WORDS: Final = {
    "accept": ("accepted", "good"),
    "reject": ("rejected", "bad"),
    "timeout": ("timed out", "warn"),
    "error": ("error", "warn"),
    "complete": ("complete", "good"),
    "done": ("done", "good"),
    "failed": ("failed", "bad"),
    "back": ("back", "good"),
    "expired": ("not back in time", "bad"),
    "rejected": ("rejected", "bad"),
}

#: What is no refusal of a vote, though the word alone does not say it.
_CONSENT: Final = {
    "timeout": "timed out, silence is consent",
    "complete": "complete, nobody objected",
}

#: The notice that takes back one after which a VM stops or freezes.
_BACK: Final = {
    Event.STOP: Event.RESUME,
    Event.PAUSE: Event.UNPAUSE,
    Event.SUSPEND: Event.RESUME,
    Event.LIVE_MIGRATE_BEGIN: Event.LIVE_MIGRATE_END,
}

#: A deadline further away than this is none; a host's longest window is a day.
_LONGEST_S: Final = 1e6

#: How far behind the second a number is redrawn.
_BEHIND_S: Final = 0.05


@attrs.frozen
class _Window:
    """What is open: its title, what it is, and when it ends at the latest."""

    title: str
    what: str
    deadline: float

    def left_s(self, now: float) -> float:
        return max(0.0, self.deadline - now)


class ProgressView:
    """Shows lines of progress.

    Args:
        screen: where.
        whole: the name of an action, for its end.
    """

    def __init__(self, screen: Screen, whole: str = "") -> None:
        self._screen = screen
        self._whole = whole
        self._open: _Window | None = None
        self._drawn = ""

    def tell(self, said: ProgressLine) -> None:
        """Shows what a host said."""
        title = _title(said)
        if said.step == "end":
            self._close(self._whole, said.outcome, said.reason or "", said.step)
        elif said.skipped:
            self._open = None
            self._screen.line(f"{title}: ", ("skipped", "warn"), f": {said.skipped}")
        elif said.seconds is not None:
            self._begin(title, said, min(max(said.seconds, 0.0), _LONGEST_S))
        elif said.result:
            self._close(title, said.result, said.reason or "", said.step)
            for line in (said.output or "").splitlines():
                self._screen.line((f"  | {line}", "faint"))

    def _begin(self, title: str, said: ProgressLine, seconds: float) -> None:
        if said.argv:
            what = shlex.join(said.argv)
            opening = f"{title}: {what}, at most {seconds:g} s"
        elif said.waiting:
            what = "waiting for another"
            opening = f"{title}: waiting: {said.waiting}"
        else:
            what = f"{said.window} window"
            opening = f"{title}: {what} of {seconds:g} s"
        if self._screen.terminal:
            if said.argv or said.waiting:
                self._screen.line(opening)
            now = trio.current_time()
            self._open = _Window(title, "" if said.argv else what, now + seconds)
            self._drawn = ""
            self._draw()
        else:
            self._screen.line(opening)

    def _close(self, title: str, result: str, reason: str, step: str) -> None:
        self._open = None
        word, colour = _WORDS.get(result, (result, ""))
        if step == "vote":
            word = _CONSENT.get(result, word)
        self._screen.line(f"{title}: ", (word, colour), f" ({reason})" if reason else "")

    async def count_down(self) -> NoReturn:
        """Redraws what is open every second, until cancelled."""
        while True:
            left_s = self._open.left_s(trio.current_time()) if self._open else 0.0
            # To just behind the next whole second: no number is left out, and 0 is not seen if
            # the host closes the window in time.
            await trio.sleep((left_s % 1 or 1.0) + _BEHIND_S)
            self._draw()

    def _draw(self) -> None:
        if self._open is not None:
            left_s = math.ceil(self._open.left_s(trio.current_time()))
            what = f"{self._open.what}, " if self._open.what else ""
            text = f"{self._open.title}: {what}{left_s} s left"
            if text != self._drawn:
                self._drawn = text
                self._screen.redraw(text)


def unwatched(event: str, uuid: str) -> str:
    """What a notice by hand does to the watch over an instance, and the way back; "" for nothing.

    Args:
        event: what the instance was told of.
        uuid: the instance.
    """
    match EVENT_TABLE[Event(event)].effect:
        case ExpectedEffect.RETURNS:
            return ""
        case ExpectedEffect.RESTARTS:
            return "its RESTART window is open: silence is no loss before its end"
        case ExpectedEffect.STOPS | ExpectedEffect.FREEZES:
            moves = event == Event.LIVE_MIGRATE_BEGIN
            minutes = (CALL_OFF_MIGRATION_S if moves else CALL_OFF_S) / 60
            return (
                f"its silence is no loss now; if nothing happens to it, `hbtrio ctl notify {uuid} "
                f"{_BACK[Event(event)]}` ends that, or {minutes:g} minutes in which it answers"
            )


def _title(said: ProgressLine) -> str:
    match said.step:
        case "vote":
            return f"vote on {said.event}"
        case "notice":
            return f"notice of {said.event}"
        case _:
            return said.step
