"""A missing verdict is accepted only with its reason in the history."""

from __future__ import annotations

import pytest

from hbtrio.store.outbox import TOO_LATE
from soak.missing import Line, why_missing

UUID = "11111111-0000-4000-8000-000000000000"
SILENT = f"{UUID} is not heartbeating: its guest was lost"
LATE = f"action: {TOO_LATE}"


@pytest.mark.parametrize(
    ("told", "line"),
    [
        pytest.param(0, Line("vote", "error", SILENT), id="takes no part"),
        pytest.param(5, Line("undelivered", "reject", LATE), id="too late"),
        pytest.param("no link", Line("vote", "error", "no link"), id="refused"),
    ],
)
def test_a_reason_explains(told: int | str, line: Line) -> None:
    accepted = Line("notice", "complete", "")
    assert why_missing(UUID, "vote", told, [accepted, line]) == line.reason


@pytest.mark.parametrize(
    ("told", "line"),
    [
        pytest.param(0, Line("notice", "error", SILENT), id="of another question"),
        pytest.param(0, Line("vote", "error", "compute-0 has no link"), id="another reason"),
        pytest.param("no link", Line("vote", "error", SILENT), id="refused for another reason"),
        pytest.param(0, Line("undelivered", "reject", LATE), id="late without a timer"),
        pytest.param(5, Line("vote", "error", SILENT), id="no part with a timer"),
        pytest.param(5, Line("vote", "reject", "vm-1 says no"), id="a result without a verdict"),
        pytest.param(5, Line("undelivered", "reject", "action: refused"), id="given up"),
    ],
)
def test_nothing_else_explains(told: int | str, line: Line) -> None:
    assert why_missing(UUID, "vote", told, [line]) is None


def test_no_line_explains_nothing() -> None:
    assert why_missing(UUID, "vote", 5, []) is None
