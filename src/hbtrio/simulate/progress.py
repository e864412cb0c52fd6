"""Shows how far a campaign is: a bar with seeds per second and the time left."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

#: How long the bar stays as it is, at least, in seconds: drawing costs, and seeds may be quick.
_REDRAW_S: Final = 0.1


class Pace:
    """Measures how fast the seeds of this run of the campaign are.

    Args:
        total: seeds of the campaign.
        done: those that an earlier run has done; they count for nothing but what is left.
        now: seconds on a monotonic clock.
    """

    def __init__(self, total: int, done: int, now: float) -> None:
        self.total = total
        self.done = done
        self._first = done
        self._began = now

    def per_second(self, now: float) -> float:
        """Returns the seeds per second; 0 while there is no time or no seed to tell by."""
        elapsed = now - self._began
        return (self.done - self._first) / elapsed if elapsed > 0 else 0.0

    def left_s(self, now: float) -> float | None:
        """Returns how long the rest takes at this pace, in seconds; None if nobody can tell yet."""
        per_second = self.per_second(now)
        return (self.total - self.done) / per_second if per_second else None

    def words(self, now: float) -> str:
        """Returns ``1.8 seeds/s, 1:31:03 left``."""
        left_s = self.left_s(now)
        left = "" if left_s is None else f", {duration(left_s)} left"
        return f"{self.per_second(now):.1f} seeds/s{left}"


def duration(seconds: float) -> str:
    """Returns ``M:SS``, or ``H:MM:SS`` from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class CampaignProgress:
    """The bar, on standard error if that is a terminal; otherwise nothing is shown.

    It starts no thread: the campaign forks.

    Args:
        total: seeds of the campaign.
        done: those that have results already.
        console: to draw on.
        now: reads a monotonic clock, in seconds.
    """

    def __init__(
        self,
        total: int,
        done: int,
        console: Console | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._now = now
        self._pace = Pace(total, done, now())
        self._failed = 0
        self._drawn = now()
        console = console or Console(stderr=True)
        self._bar = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("seeds  {task.fields[words]}"),
            console=console,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=total, completed=done, words="")

    def __enter__(self) -> Self:
        self._bar.start()
        self._draw()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._draw()
        self._bar.stop()

    def advance(self, *, failed: bool) -> None:
        """Counts a seed."""
        self._pace.done += 1
        self._failed += failed
        if self._now() - self._drawn >= _REDRAW_S:
            self._draw()

    def _draw(self) -> None:
        self._drawn = self._now()
        words = self._pace.words(self._drawn)
        if self._failed:
            words += f", {self._failed} failed"
        self._bar.update(self._task, completed=self._pace.done, words=words)
        self._bar.refresh()
