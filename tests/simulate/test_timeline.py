from __future__ import annotations

import math

import pytest

from hbtrio.simulate.timeline import Costs, Timeline


def test_actions_run_in_the_order_of_their_times() -> None:
    timeline = Timeline(1)
    seen: list[tuple[str, float]] = []
    for name, time in [("c", 3.0), ("a", 1.0), ("b", 2.0)]:
        timeline.at(time, lambda name=name: seen.append((name, timeline.now)))
    timeline.run(2.5)
    assert seen == [("a", 1.0), ("b", 2.0)]
    assert timeline.now == 2.5
    timeline.run(3.0)  # inclusive
    assert seen[2:] == [("c", 3.0)]


def order_of_ten(seed: int) -> list[int]:
    timeline = Timeline(seed)
    seen: list[int] = []
    for number in range(10):
        timeline.at(1.0, lambda number=number: seen.append(number))
    timeline.run(1.0)
    assert sorted(seen) == list(range(10))
    return seen


def test_the_order_at_one_time_is_the_seeds() -> None:
    assert order_of_ten(1) == order_of_ten(1)
    assert len({tuple(order_of_ten(seed)) for seed in range(20)}) == 20


def test_a_past_time_is_now_and_time_never_goes_back() -> None:
    timeline = Timeline(1)
    seen: list[float] = []
    timeline.at(5.0, lambda: timeline.at(2.0, lambda: seen.append(timeline.now)))
    timeline.run(9.0)
    assert seen == [5.0]
    timeline.run(7.0)
    assert timeline.now == 9.0


def test_what_is_cancelled_does_not_happen() -> None:
    timeline = Timeline(1)
    seen: list[str] = []
    entry = timeline.after(1.0, lambda: seen.append("cancelled"))
    timeline.after(1.0, lambda: seen.append("done"))
    entry.cancel()
    timeline.run(1.0)
    assert seen == ["done"]
    assert timeline.done == 1


def test_what_is_cancelled_takes_no_room_for_long() -> None:
    timeline = Timeline(1)
    seen: list[float] = []
    for number in range(500):
        timeline.at(1000.0 + number, lambda: seen.append(timeline.now))

    def plan_and_cancel() -> None:
        for _ in range(10_000):
            timeline.at(10_000.0, lambda: seen.append(-1.0)).cancel()
        assert timeline.planned <= 1001

    timeline.at(1.0, plan_and_cancel)  # while the timeline runs
    timeline.run(20_000.0)
    assert seen == [1000.0 + number for number in range(500)]
    for _ in range(3000):
        timeline.after(1.0, lambda: None)
    for _ in range(10_000):
        timeline.after(1.0, lambda: None).cancel()
    assert 3000 <= timeline.planned <= 6001


def test_stop_ends_a_run_at_the_time_of_its_last_action() -> None:
    timeline = Timeline(1)
    seen: list[str] = []
    timeline.at(1.0, timeline.stop)
    timeline.at(2.0, lambda: seen.append("later"))
    timeline.run(9.0)
    assert (timeline.now, seen) == (1.0, [])
    timeline.run(9.0)
    assert (timeline.now, seen) == (9.0, ["later"])


def test_after_an_exception_the_rest_can_be_run() -> None:
    timeline = Timeline(1)
    seen: list[float] = []
    timeline.at(1.0, lambda: 1 / 0)
    timeline.at(2.0, lambda: seen.append(timeline.now))
    with pytest.raises(ZeroDivisionError):
        timeline.run(9.0)
    timeline.run(9.0)
    assert seen == [2.0]


def test_a_time_is_a_number() -> None:
    with pytest.raises(ValueError, match="nan"):
        Timeline(1).at(math.nan, lambda: None)


def test_random_streams_depend_on_seed_and_name_alone() -> None:
    first = Timeline(1)
    drawn = first.random("disk").random()
    first.random("pipe").random()
    assert first.random("disk").random() == drawn == Timeline(1).random("disk").random()
    assert len({drawn, first.random("pipe").random(), Timeline(2).random("disk").random()}) == 3


def test_costs_keep_their_bounds() -> None:
    costs = Costs(Timeline(1).random("costs"))
    passes = [costs.pass_s() for _ in range(1000)]
    steps = [costs.task_step_s() for _ in range(1000)]
    wakes = [costs.wake_s() for _ in range(1000)]
    assert 10e-6 <= min(passes) < 12e-6 < 98e-6 < max(passes) <= 100e-6
    assert 5e-6 <= min(steps + wakes) < 6e-6 < 49e-6 < max(steps + wakes) <= 50e-6


@pytest.mark.parametrize(
    ("other_s", "until_s", "advances"),
    [
        (5.0, 9.0, True),
        (3.0, 9.0, False),  # which of the two is first has to be drawn
        (2.0, 9.0, False),
        (5.0, 2.5, False),
    ],
)
def test_an_action_goes_on_to_a_time_if_nothing_happens_until_then(
    other_s: float, until_s: float, advances: bool
) -> None:
    timeline = Timeline(1)
    seen: list[tuple[bool, float]] = []
    timeline.at(1.0, lambda: seen.append((timeline.advance(3.0), timeline.now)))
    timeline.at(other_s, lambda: None)
    timeline.run(until_s)
    assert seen == [(advances, 3.0 if advances else 1.0)]


def test_an_action_that_has_stopped_the_run_does_not_go_on() -> None:
    timeline = Timeline(1)
    seen: list[bool] = []

    def stop() -> None:
        timeline.stop()
        seen.append(timeline.advance(3.0))

    timeline.at(1.0, stop)
    timeline.run(9.0)
    assert seen == [False]
