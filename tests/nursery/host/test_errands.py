"""When the errands of a connection run, and how they end."""

from __future__ import annotations

import weakref

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from hbtrio.nursery.host.errands import Errands


class Errand:
    """Runs until it is told to end."""

    def __init__(self, fault: Exception | None = None) -> None:
        self.runs = self.was_cancelled = False
        self.may_end = trio.Event()
        self._fault = fault

    async def __call__(self) -> None:
        self.runs = True
        try:
            await self.may_end.wait()
        except trio.Cancelled:
            self.was_cancelled = True
            raise
        finally:
            self.runs = False
        if self._fault is not None:
            raise self._fault


async def test_there_is_no_nursery_before_the_first_errand() -> None:
    errands, first, second = Errands(), Errand(), Errand()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(errands.run)
        await wait_all_tasks_blocked()
        (runner,) = nursery.child_tasks
        assert runner.child_nurseries == []
        errands.start_soon(first)
        errands.start_soon(second)
        await wait_all_tasks_blocked()
        assert first.runs
        assert second.runs
        first.may_end.set()
        second.may_end.set()
        await wait_all_tasks_blocked()
        again = Errand()
        errands.start_soon(again)
        await wait_all_tasks_blocked()
        assert again.runs
        errands.end()
        await wait_all_tasks_blocked()
        assert again.was_cancelled
        assert nursery.child_tasks == frozenset()


async def test_what_was_started_before_runs_at_the_beginning() -> None:
    errands, errand = Errands(), Errand()
    errands.start_soon(errand)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(errands.run)
        await wait_all_tasks_blocked()
        assert errand.runs
        errands.end()
    assert errand.was_cancelled


@pytest.mark.parametrize("waits", [True, False])
async def test_it_ends_without_errands(waits: bool) -> None:
    errands, errand = Errands(), Errand()
    async with trio.open_nursery() as nursery:
        if waits:
            nursery.start_soon(errands.run)
            await wait_all_tasks_blocked()
        errands.end()
        errands.end()
        assert errands.ended
        errands.start_soon(errand)
        if not waits:
            nursery.start_soon(errands.run)
        await wait_all_tasks_blocked()
        assert nursery.child_tasks == frozenset()
    assert not errand.was_cancelled


async def test_what_never_ran_is_not_kept() -> None:
    errands, errand = Errands(), Errand()
    errands.start_soon(errand)
    known = weakref.ref(errand)
    errands.end()
    del errand
    assert known() is None


async def test_one_that_fails_ends_the_others_and_is_raised() -> None:
    errands, failing, other, later = Errands(), Errand(OSError("broken")), Errand(), Errand()
    for each in (failing, other):
        errands.start_soon(each)
    failing.may_end.set()
    with pytest.RaisesGroup(OSError):
        await errands.run()
    assert other.was_cancelled
    assert errands.ended
    errands.start_soon(later)


@pytest.mark.parametrize("has_errand", [True, False])
async def test_it_can_be_cancelled_and_leaves_nothing(has_errand: bool) -> None:
    errands, errand = Errands(), Errand()
    if has_errand:
        errands.start_soon(errand)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(errands.run)
            await wait_all_tasks_blocked()
            scope.cancel()
            # Before the cancelled task has run:
            errands.end()
            errands.start_soon(Errand())
    assert scope.cancelled_caught
    assert errand.was_cancelled is has_errand
