"""A child that fails is restarted alone: logged, counted, with doubling delays."""

from __future__ import annotations

import logging

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from hbtrio.nursery.supervisor import Supervisor
from support.host_world import now

pytestmark = pytest.mark.usefixtures("autojump_clock")


class Child:
    """Runs for the given times, each life ending with an error, the last one in peace."""

    def __init__(self, *lives_s: float, error: BaseException | None = None) -> None:
        self.starts: list[float] = []
        self._lives = iter(lives_s)
        self._error = error or ValueError("brought about")

    async def __call__(self) -> None:
        self.starts.append(now())
        life_s = next(self._lives, None)
        if life_s is None:
            return
        await trio.sleep(life_s)
        raise self._error


async def test_one_that_ends_in_peace_is_not_restarted(caplog: pytest.LogCaptureFixture) -> None:
    supervisor, child = Supervisor(), Child()
    await supervisor.keep("child", child)
    assert (child.starts, supervisor.crashes, caplog.records) == ([0.0], 0, [])


async def test_one_that_fails_is_logged_counted_and_restarted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    supervisor, child = Supervisor(), Child(5)
    await supervisor.keep("child", child)
    assert (child.starts, supervisor.crashes, supervisor.restarts) == ([0.0, 6.0], 1, 1)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("hbtrio.supervision", logging.ERROR)
    assert record.getMessage() == "child failed and will be restarted"
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ValueError)


async def test_the_delays_double_up_to_a_minute() -> None:
    supervisor, child = Supervisor(), Child(*[0] * 9)
    await supervisor.keep("child", child)
    assert child.starts == [0, 1, 3, 7, 15, 31, 63, 123, 183, 243]
    assert supervisor.crashes == 9


@pytest.mark.parametrize(("lived_s", "delay_s"), [(299, 4.0), (300, 4.0), (300.1, 1.0)])
async def test_after_five_good_minutes_they_start_over(lived_s: float, delay_s: float) -> None:
    child = Child(0, 0, lived_s)
    await Supervisor().keep("child", child)
    assert child.starts[-1] == pytest.approx(3 + lived_s + delay_s)


async def test_each_child_has_delays_of_its_own() -> None:
    supervisor, first, second = Supervisor(), Child(0, 0, 0), Child(2.5)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervisor.keep, "first", first)
        nursery.start_soon(supervisor.keep, "second", second)
    assert (first.starts, second.starts) == ([0, 1, 3, 7], [0, 3.5])
    assert supervisor.crashes == 4


async def test_a_group_of_errors_is_a_failure() -> None:
    child = Child(0, error=ExceptionGroup("several", [ValueError(), KeyError()]))
    await Supervisor().keep("child", child)
    assert child.starts == [0, 1]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1)])
async def test_what_ends_the_process_passes(error: BaseException) -> None:
    supervisor = Supervisor()
    with pytest.raises(type(error)):
        await supervisor.keep("child", Child(1, error=error))
    assert supervisor.crashes == 0


@pytest.mark.parametrize("at", [0.5, 1.5])
async def test_cancellation_passes(at: float) -> None:
    # In its life, and between two of them.
    supervisor, child = Supervisor(), Child(1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervisor.keep, "child", child)
        await trio.sleep(at)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert now() == at
    assert child.starts == [0.0]
