"""Shows the progress of votes, notices and actions.

On a terminal an open window is one line that counts down and is replaced by its outcome. Elsewhere
it is two lines: one when it opens and one when it closes.
"""

from __future__ import annotations

import math
import shlex
from typing import Final, NoReturn

import attrs
import msgspec
import trio

from hbtrio.cli.ctl.screen import Screen
from hbtrio.fsm.heartbeat.outage import CALL_OFF_MIGRATION_S, CALL_OFF_S
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
    "down": ("yes", "good"),
    "expired": ("not back in time", "bad"),
    "rejected": ("rejected", "bad"),
}

#: Results of a vote that count as consent although the word alone does not show it.
_CONSENT: Final = {
    "timeout": "timed out, silence is consent",
    "complete": "complete, no objection",
}

#: The notice that undoes one after which a VM stops or freezes.
_BACK: Final = {
    Event.STOP: Event.RESUME,
    Event.PAUSE: Event.UNPAUSE,
    Event.SUSPEND: Event.RESUME,
    Event.LIVE_MIGRATE_BEGIN: Event.LIVE_MIGRATE_END,
}

#: Longer windows are cut to this many seconds; a host's longest window is a day.
_LONGEST_S: Final = 1e6

#: How long after a full second the countdown is redrawn, in seconds.
_BEHIND_S: Final = 0.05


@attrs.frozen
class _Window:
    """An open window: its title, what it is, and its deadline."""

    title: str
    what: str
    deadline: float

    def left_s(self, now: float) -> float:
        return max(0.0, self.deadline - now)


class ProgressView:
    """Shows lines of progress.

    Args:
        screen: where to write.
        whole: the name of an action, for its last line.
    """

    def __init__(self, screen: Screen, whole: str = "") -> None:
        self._screen = screen
        self._whole = whole
        self._open: _Window | None = None
        self._drawn = ""

    def show(self, line: ProgressLine) -> None:
        """Shows one line."""
        title = _title(line)
        if line.step == "end":
            self._close(self._whole, line.outcome, line.reason or "", line.step)
        elif line.skipped:
            self._open = None
            self._screen.line(f"{title}: ", ("skipped", "warn"), f": {line.skipped}")
        elif line.seconds is not None:
            self._begin(title, line, min(max(line.seconds, 0.0), _LONGEST_S))
        elif line.result:
            self._close(title, line.result, line.reason or "", line.step)
            for text in (line.output or "").splitlines():
                self._screen.line((f"  | {text}", "faint"))

    def _begin(self, title: str, line: ProgressLine, seconds: float) -> None:
        if line.argv:
            what = shlex.join(line.argv)
            opening = f"{title}: {what}, at most {seconds:g} s"
        elif line.waiting:
            what = "waiting for another"
            opening = f"{title}: waiting at most {math.ceil(seconds)} s: {line.waiting}"
        elif line.step == "down":
            what = "waiting"
            opening = f"{title}: waiting at most {seconds:g} s"
        elif line.extended:
            what = f"{line.window} window {line.extended}"
            opening = f"{title}: {line.extended}, {seconds:g} s left"
        else:
            what = f"{line.window} window"
            opening = f"{title}: {what} of {seconds:g} s"
            opening += f": {line.reason}" if line.reason else ""
        if self._screen.terminal:
            if line.argv or line.waiting or line.extended or line.reason:
                self._screen.line(opening)
            now = trio.current_time()
            self._open = _Window(title, "" if line.argv else what, now + seconds)
            self._drawn = ""
            self._draw()
        else:
            self._screen.line(opening)

    def _close(self, title: str, result: str, reason: str, step: str) -> None:
        self._open = None
        word, colour = _WORDS.get(result, (result, ""))
        if step == "vote":
            word = _CONSENT.get(result, word)
        elif step == "down" and result == "expired":
            word = "not in time"
        self._screen.line(f"{title}: ", (word, colour), f" ({reason})" if reason else "")

    async def count_down(self) -> NoReturn:
        """Redraws the open window every second, until cancelled."""
        while True:
            left_s = self._open.left_s(trio.current_time()) if self._open else 0.0
            # Until just after the next full second: no number is skipped, and 0 is not shown if the
            # host closes the window in time.
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


class JsonProgress(ProgressView):
    """Writes lines of progress as JSON; nothing counts down."""

    def show(self, line: ProgressLine) -> None:
        """Writes one line, with the members that the daemon has sent."""
        self._screen.json(msgspec.to_builtins(line))


def unwatched(event: str, uuid: str) -> str:
    """How a notice by hand affects monitoring, and how to resume it; "" if it does not.

    Args:
        event: the event of the notice.
        uuid: the instance.
    """
    match EVENT_TABLE[Event(event)].effect:
        case ExpectedEffect.RETURNS:
            return ""
        case ExpectedEffect.RESTARTS:
            return "its RESTART window is open: missed heartbeats are ignored until it closes"
        case ExpectedEffect.STOPS | ExpectedEffect.FREEZES:
            moves = event == Event.LIVE_MIGRATE_BEGIN
            minutes = (CALL_OFF_MIGRATION_S if moves else CALL_OFF_S) / 60
            return (
                "missed heartbeats are ignored for now; if nothing is done to the instance, run "
                f"`hbtrio ctl notify {uuid} {_BACK[Event(event)]}`, or wait {minutes:g} minutes "
                "while it keeps answering"
            )


def _title(line: ProgressLine) -> str:
    match line.step:
        case "vote":
            return f"vote on {line.event}"
        case "notice":
            return f"notice of {line.event}"
        case "down":
            return "VM down" if line.event == Event.STOP else "VM frozen"
        case _:
            return line.step
