"""What the live view finds room for."""

from __future__ import annotations

import pytest

from hbtrio.lab.live import steps_shown


@pytest.mark.parametrize(
    ("played", "most", "shown"),
    [
        (0, 13, range(13)),
        (13, 20, range(13)),
        (0, 10, range(10)),
        (8, 10, range(10)),
        (9, 10, range(1, 11)),
        (11, 10, range(3, 13)),
        (12, 10, range(3, 13)),
        (13, 10, range(3, 13)),
        (5, 2, range(5, 7)),
    ],
)
def test_the_present_step_and_the_next_are_shown_with_the_last(
    played: int, most: int, shown: range
) -> None:
    assert steps_shown(played, 13, most) == shown


@pytest.mark.parametrize("most", [0, -3])
def test_a_very_low_terminal_shows_the_present_step_and_the_next(most: int) -> None:
    assert steps_shown(5, 13, most) == range(5, 7)
