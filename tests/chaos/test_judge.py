"""Runs of real processes are judged by bounds that are as late as the machine was, and no later."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import get_args, get_origin, get_type_hints

import attrs
import pytest

from chaos import judge
from chaos.lateness import BEFORE_S, HOPS, LEAST_S, NAP_S, Late, Lateness
from chaos.records import from_line, in_order, to_line
from hbtrio.simulate import observations, order_observations
from hbtrio.simulate.invariant import Bounds
from hbtrio.simulate.observations import (
    Asked,
    Condition,
    Observation,
    Over,
    Recorded,
    Verdict,
)

#: A verdict that comes a second after the end of its window.
LATE_VERDICT = [
    Asked(20.0, "vim-1", "vm0", "stop", "vm0-1", True, 30.0),
    Verdict(31.0, "vim-1", "allow"),
    Recorded(31.0, "vim-1", "allow"),
]


def lateness(*late: Late) -> Lateness:
    measured = Lateness()
    for one in late:
        measured.note(one)
    return measured


@pytest.mark.parametrize(
    ("measured", "excused"),
    [
        ((), False),
        ((Late(25.0, "canary", 0.3),), True),  # four may be that late
        ((Late(25.0, "agent", 0.3),), True),
        ((Late(25.0, "canary", 0.2),), False),
        ((Late(30.0 - BEFORE_S - 1, "canary", 3.0),), False),  # before
        ((Late(33.0, "canary", 3.0),), False),  # after
    ],
)
def test_a_late_verdict_is_excused_by_lateness_about_it(
    measured: tuple[Late, ...], excused: bool
) -> None:
    judgement = judge.judge(LATE_VERDICT, lateness(*measured), 60.0, 1)
    assert bool(judgement.result.violations) is not excused
    assert [one.violation.invariant for one in judgement.late] == ["one-verdict"] * excused


def test_a_violation_that_is_no_matter_of_time_is_never_excused() -> None:
    twice = [LATE_VERDICT[0], *(attrs.evolve(one, at_s=25.0) for one in LATE_VERDICT[1:])]
    twice.append(Verdict(26.0, "vim-1", "allow"))
    judgement = judge.judge(twice, lateness(Late(25.0, "canary", 9.0)), 60.0, 1)
    assert [one.invariant for one in judgement.result.violations] == ["verdict-once"]
    assert judgement.late == ()


def test_what_the_lateness_of_a_time_is() -> None:
    measured = lateness(
        Late(10.0, "canary", LEAST_S / 2), Late(20.0, "canary", 0.1), Late(21.0, "vm0", 0.4)
    )
    assert measured.around(15.0) == 0
    assert measured.around(20.0) == pytest.approx(HOPS * 0.1)
    assert measured.around(21.0 - NAP_S) == pytest.approx(HOPS * 0.4)
    assert measured.around(21.0 + BEFORE_S) == pytest.approx(HOPS * 0.4)
    assert measured.around(21.1 + BEFORE_S) == 0


def test_later_bounds_are_all_later() -> None:
    bounds, later = Bounds(), Bounds().later(0.5)
    for name in attrs.fields_dict(Bounds):
        if name.endswith("_s"):
            assert getattr(later, name) == getattr(bounds, name) + 0.5, name
    assert later.way_s == bounds.way_s + 0.5
    assert later.crossed_s == bounds.crossed_s + 0.5


def value_of(name: str, kind: object) -> object:
    """A value that is none of the defaults, for a field of an observation."""
    if isinstance(kind, type) and issubclass(kind, Enum):
        return list(kind)[-1]
    if get_origin(kind) is tuple:
        return (value_of(name, get_args(kind)[0]),)
    values = {float: 1.5, int: 2, bool: True, str: f"a {name}"}
    return values[kind]  # type: ignore[index]


KINDS = sorted(
    (
        value
        for value in {**vars(observations), **vars(order_observations)}.values()
        if isinstance(value, type) and issubclass(value, Observation) and value is not Observation
    ),
    key=lambda kind: kind.__name__,
)


@pytest.mark.parametrize("kind", KINDS)
def test_each_observation_is_read_as_it_was_written(kind: type[Observation]) -> None:
    hints = get_type_hints(kind)
    fields = {name: value_of(name, hints[name]) for name in attrs.fields_dict(kind)}
    observation = kind(**fields)
    assert from_line(to_line(observation)) == observation


def test_observations_are_put_in_order() -> None:
    seen = [Over(2.0, Condition.DOWN, "b"), Over(1.0, Condition.DOWN, "b")]
    seen += [Over(1.0, Condition.DOWN, "a")]
    assert [(one.at_s, getattr(one, "who")) for one in in_order(seen)] == [  # noqa: B009
        (1.0, "b"),
        (1.0, "a"),
        (2.0, "b"),
    ]


def test_a_kept_run_is_judged_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / judge.OBSERVATIONS).write_bytes(b"".join(map(to_line, LATE_VERDICT)))
    judge.keep(tmp_path, judge.Kept(7, 60.0, 2, 10, (Late(25.0, "canary", 0.1),)))
    assert judge.main(tmp_path) == 1
    printed = capsys.readouterr().out
    assert "VIOLATED" in printed
    assert (tmp_path / "summary.txt").read_text() == printed
    judge.keep(tmp_path, judge.Kept(7, 60.0, 2, 10, (Late(25.0, "canary", 0.4),)))
    assert judge.main(tmp_path) == 0
    printed = capsys.readouterr().out
    assert "excused as late (1.600 s)" in printed
    assert "no invariant was violated" in printed
