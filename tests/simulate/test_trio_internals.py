from __future__ import annotations

import contextvars
import gc
import inspect
import os
import sys
import warnings
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
from trio._core import _run

from hbtrio.errors import ExitStatus, UserError
from hbtrio.simulate import trio_internals
from hbtrio.simulate.run_owner import Everywhere
from hbtrio.simulate.trio_internals import Main, SteppedRun, Stop, check_source, edited


def stepped(main: Main) -> SteppedRun:
    """A run at a clock that stands at 0, its tasks youngest first."""
    return SteppedRun(
        main,
        now=lambda: 0.0,
        shuffle=lambda batch: None,
        on_wake=lambda: None,
        context=contextvars.Context(),
        owner=Everywhere(),
    )


def stops_of(run: SteppedRun, most: int = 100) -> list[Stop]:
    stops = [run.step()]
    while stops[-1] is not Stop.ENDED and (run.runnable or stops[-1] is Stop.BEFORE_TASK):
        assert len(stops) < most
        stops.append(run.step())
    return stops


# -- which trio ------------------------------------------------------------------------------------


def test_another_version_of_trio_is_refused_in_one_line() -> None:
    with pytest.raises(UserError) as caught:
        check_source("0.36.0", trio_internals.SOURCE)
    assert str(caught.value) == (
        "trio 0.36.0 is installed; the simulator needs trio 0.35.0: pip install 'hbtrio[simulate]'"
    )
    assert caught.value.status is ExitStatus.MISSING_PACKAGE


def test_a_changed_source_of_the_same_version_is_refused_in_one_line() -> None:
    with pytest.raises(UserError) as caught:
        check_source("0.35.0", "0" * 32)
    assert str(caught.value) == (
        "the installed trio 0.35.0 has been changed; "
        "the simulator needs trio 0.35.0: pip install 'hbtrio[simulate]'"
    )


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("task = batch.pop()", "task = batch.popleft()", "task = batch.pop()"),
        ("_r.shuffle(batch)", "shuffle(batch)", "_r.shuffle(batch)"),
        ("batch.sort(", "task = batch.pop()\n                batch.sort(", "task = batch.pop()"),
    ],
)
def test_an_edit_fits_exactly_once(old: str, new: str, line: str) -> None:
    source = inspect.getsource(_run.unrolled_run)
    assert source.count(old) == 1
    edited(source)
    with pytest.raises(UserError, match="the simulator needs trio") as caught:
        edited(source.replace(old, new))
    assert f"has no line {line!r}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_trio_itself_is_unchanged() -> None:
    assert not hasattr(_run, "stepped_run")
    seen = []
    trio.run(trio.sleep, 0)

    async def main() -> None:
        seen.append(trio.current_time())

    trio.run(main)
    assert len(seen) == 1


# -- steps -----------------------------------------------------------------------------------------


def test_each_step_ends_before_a_task_or_after_a_pass() -> None:
    seen = []

    async def main() -> None:
        seen.append("first")
        await trio.lowlevel.checkpoint()
        seen.append("second")

    run = stepped(main)
    assert run.step() is Stop.AFTER_PASS  # where trio looks for I/O
    assert run.step() is Stop.BEFORE_TASK
    assert run.task_name == "<init>"
    while "main" not in run.task_name:
        run.step()
    assert seen == []
    run.step()
    assert seen == ["first"]
    assert stops_of(run)[-1] is Stop.ENDED
    assert seen == ["first", "second"]
    assert run.error is None


def test_the_error_of_the_main_task_is_kept() -> None:
    async def main() -> None:
        raise ValueError("broken")

    run = stepped(main)
    assert stops_of(run)[-1] is Stop.ENDED
    assert repr(run.error) == "ValueError('broken')"


def test_the_deadline_is_that_of_the_next_scope() -> None:
    run = stepped(partial(trio.sleep, 12.5))
    stops_of(run)
    assert run.step() is Stop.AFTER_PASS
    assert run.deadline == 12.5


def test_a_run_starts_outside_of_all_runs() -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match="outside of all runs"):
            stepped(trio.sleep_forever)

    trio.run(main)


def test_steps_leave_nothing_behind_in_the_thread() -> None:
    hooks = sys.get_asyncgen_hooks()
    run = stepped(trio.sleep_forever)
    stops_of(run)
    assert sys.get_asyncgen_hooks() == hooks
    assert not trio.lowlevel.in_trio_run()


def test_two_runs_know_their_own_tasks_clocks_and_context() -> None:
    seen = []
    name: contextvars.ContextVar[str] = contextvars.ContextVar("name")

    async def main() -> None:
        await trio.lowlevel.checkpoint()
        seen.append((name.get(), trio.current_time()))

    runs = []
    for number in (1, 2):
        context = contextvars.Context()
        context.run(name.set, f"run {number}")
        runs.append(
            SteppedRun(
                main,
                now=lambda number=number: float(number),
                shuffle=lambda batch: None,
                on_wake=lambda: None,
                context=context,
                owner=Everywhere(),
            )
        )
    over: set[SteppedRun] = set()
    while len(over) < 2:
        over |= {run for run in runs if run not in over and run.step() is Stop.ENDED}
    assert sorted(seen) == [("run 1", 1.0), ("run 2", 2.0)]


# -- inside ----------------------------------------------------------------------------------------


def test_deadlines_tie_in_the_order_of_their_registration() -> None:
    order: list[int] = []

    async def wait(number: int) -> None:
        with trio.move_on_at(5.0):
            await trio.lowlevel.wait_task_rescheduled(lambda _: cancelled(number))

    def cancelled(number: int) -> trio.lowlevel.Abort:
        order.append(number)
        return trio.lowlevel.Abort.SUCCEEDED

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(wait, number)
                await trio.lowlevel.checkpoint()

    now = 0.0
    run = SteppedRun(
        main,
        now=lambda: now,
        shuffle=lambda batch: None,
        on_wake=lambda: None,
        context=contextvars.Context(),
        owner=Everywhere(),
    )
    stops_of(run, 1000)
    now = 5.0
    run.step()
    assert order == list(range(20))


def test_calls_from_outside_run_and_wake_the_run() -> None:
    seen: list[str] = []
    tokens: list[trio.lowlevel.TrioToken] = []
    woken: list[bool] = []

    async def main() -> None:
        tokens.append(trio.lowlevel.current_trio_token())
        tokens[0].run_sync_soon(seen.append, "from inside")
        await trio.sleep_forever()

    run = SteppedRun(
        main,
        now=lambda: 0.0,
        shuffle=lambda batch: None,
        on_wake=lambda: woken.append(True),
        context=contextvars.Context(),
        owner=Everywhere(),
    )
    stops_of(run)
    assert seen == ["from inside"]
    woken.clear()
    tokens[0].run_sync_soon(seen.append, "from outside")
    tokens[0].run_sync_soon(seen.append, "once more")
    assert woken == [True]
    assert run.runnable
    stops_of(run)
    assert seen == ["from inside", "from outside", "once more"]


def test_a_real_descriptor_is_refused() -> None:
    async def main() -> None:
        await trio.lowlevel.wait_readable(0)

    run = stepped(main)
    stops_of(run)
    assert repr(run.error) == (
        "RuntimeError('a simulated process waits for the real descriptor 0')"
    )
    reader, writer = os.pipe()
    os.close(writer)

    async def close() -> None:
        trio.lowlevel.notify_closing(reader)

    run = stepped(close)
    stops_of(run)
    os.close(reader)
    assert "closes the real descriptor" in repr(run.error)


def test_an_abandoned_run_is_never_unwound() -> None:
    seen: list[str] = []

    @asynccontextmanager
    async def entered() -> AsyncIterator[None]:
        try:
            yield
        finally:
            seen.append("generator unwound")

    async def main() -> None:
        try:
            async with entered():
                await trio.sleep_forever()
        finally:
            seen.append("task unwound")

    run = stepped(main)
    stops_of(run)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del run
        gc.collect()
    assert seen == []


def test_an_ended_run_is_collected() -> None:
    finalized: list[str] = []

    class Held:
        def __del__(self) -> None:
            finalized.append("held")

    async def main() -> None:
        held.append(Held())

    held: list[Held] = []
    run = stepped(main)
    stops_of(run)
    loop, whole = weakref.ref(run._loop), weakref.ref(run)
    del run
    held.clear()
    gc.collect()
    assert finalized == ["held"]
    assert loop() is None
    assert whole() is None


def test_an_abandoned_async_generator_is_closed_in_its_own_run() -> None:
    seen: list[str] = []

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            # Without the run's hooks, an await would raise here.
            await trio.lowlevel.cancel_shielded_checkpoint()
            seen.append(f"closed in {trio.lowlevel.current_root_task()!r}")

    async def main() -> None:
        roots.append(repr(trio.lowlevel.current_root_task()))
        # Left to the garbage collector, as a careless program does.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            await anext(numbers())
        await trio.lowlevel.checkpoint()

    roots: list[str] = []
    run = stepped(main)
    assert stops_of(run)[-1] is Stop.ENDED
    assert seen == [f"closed in {roots[0]}"]
