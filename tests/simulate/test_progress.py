"""The progress of a campaign: its pace, and the bar on a terminal and elsewhere."""

from __future__ import annotations

import io
import threading

import pytest
from rich.console import Console

from hbtrio.simulate.progress import CampaignProgress, Pace, duration


def test_the_pace_is_that_of_this_run() -> None:
    pace = Pace(total=100, done=40, now=1000.0)
    pace.done += 20
    assert pace.per_second(1010.0) == 2.0
    assert pace.left_s(1010.0) == 20.0
    assert pace.words(1010.0) == "2.0 seeds/s, 0:20 left"


def test_nobody_can_tell_before_the_first_seed() -> None:
    pace = Pace(total=100, done=40, now=1000.0)
    assert pace.left_s(1000.0) is None
    assert pace.left_s(1010.0) is None
    assert pace.words(1010.0) == "0.0 seeds/s"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0:00"), (59.4, "0:59"), (59.6, "1:00"), (3599, "59:59"), (3600, "1:00:00")],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def drawn(*, terminal: bool, step_s: float = 1.0) -> str:
    """What is drawn for four seeds, two of which fail."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=100, legacy_windows=False)
    times = iter(range(1000))
    threads = threading.active_count()
    with CampaignProgress(10, 2, console, now=lambda: step_s * next(times)) as progress:
        for number in range(4):
            progress.advance(failed=number % 2 == 1)
            assert threading.active_count() == threads
    return file.getvalue()


def test_a_terminal_gets_a_bar_with_pace_and_failures() -> None:
    text = drawn(terminal=True)
    assert "2/10" in text
    assert "6/10" in text
    assert "seeds/s" in text
    assert "left, 2 failed" in text


def test_the_last_state_is_drawn_even_if_it_came_quickly() -> None:
    text = drawn(terminal=True, step_s=0.001)
    assert "6/10" in text
    assert "5/10" not in text


def test_a_file_gets_nothing() -> None:
    assert drawn(terminal=False).strip() == ""
