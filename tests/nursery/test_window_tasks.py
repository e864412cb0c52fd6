"""Windows as tasks: none is lost, each ends with its owner, and one that fails ends the others."""

from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from hbtrio.fsm.ballot import Ballot, Outcome
from hbtrio.nursery.time_guard import run_guard
from hbtrio.nursery.window_tasks import WindowTasks
from hbtrio.nursery.windows import BallotWindow, stay_silent
from hbtrio.policy.time_guard import OnTimeGuard
from hbtrio.wire.vocabulary import NotificationType, VoteResult, WindowKind

pytestmark = pytest.mark.usefixtures("autojump_clock")

SILENT = {"voter": stay_silent}


@pytest.fixture
def guard(nursery: trio.Nursery) -> OnTimeGuard:
    guard = OnTimeGuard(0.0)
    nursery.start_soon(run_guard, guard)
    return guard


class Announced(list[VoteResult]):
    """The results of windows."""

    def __init__(self, guard: OnTimeGuard) -> None:
        super().__init__()
        self.guard = guard

    def window(self, seconds: float = 5.0) -> BallotWindow:
        ballot = Ballot(NotificationType.REVOCABLE, SILENT)
        return BallotWindow(WindowKind.VOTE, seconds, ballot, self.note, self.guard)

    def note(self, outcome: Outcome) -> None:
        self.append(outcome.result)


async def test_one_that_comes_before_waits(guard: OnTimeGuard) -> None:
    tasks, announced = WindowTasks(), Announced(guard)
    tasks.hold(announced.window(), SILENT)
    await trio.sleep(100)
    assert (announced, tasks.count) == ([], 1)
    async with tasks.running():
        await trio.sleep(4.9)
        assert announced == []
        await trio.sleep(0.2)
        assert (announced, tasks.count) == ([VoteResult.TIMEOUT], 0)


async def test_the_end_aborts_them(guard: OnTimeGuard) -> None:
    tasks, announced = WindowTasks(), Announced(guard)
    async with tasks.running():
        tasks.hold(announced.window(), SILENT)
        await wait_all_tasks_blocked()
    assert (announced, tasks.count) == ([VoteResult.ERROR], 0)
    assert trio.current_time() == 0


async def test_one_that_fails_ends_the_run_and_not_the_next(guard: OnTimeGuard) -> None:
    class Broken(Announced):
        def note(self, outcome: Outcome) -> None:
            super().note(outcome)
            raise RuntimeError("broken")

    tasks, broken, announced = WindowTasks(), Broken(guard), Announced(guard)
    with pytest.RaisesGroup(RuntimeError, flatten_subgroups=True):
        async with tasks.running():
            tasks.hold(broken.window(1.0), SILENT)
            tasks.hold(announced.window(), SILENT)
            await trio.sleep_forever()
    assert (broken, announced, tasks.count) == ([VoteResult.TIMEOUT], [VoteResult.ERROR], 0)
    async with tasks.running():
        tasks.hold(announced.window(1.0), SILENT)
        await trio.sleep(2)
    assert announced == [VoteResult.ERROR, VoteResult.TIMEOUT]


async def test_its_end_aborts_the_windows_and_cancels_the_owner(guard: OnTimeGuard) -> None:
    tasks, announced = WindowTasks(), Announced(guard)
    tasks.end()  # nobody runs
    async with tasks.running():
        tasks.hold(announced.window(), SILENT)
        await wait_all_tasks_blocked()
        tasks.end()
        await trio.sleep_forever()
    assert (announced, tasks.count) == ([VoteResult.ERROR], 0)
