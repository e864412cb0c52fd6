"""What holds for every test."""

from __future__ import annotations

import gc
import inspect
from collections.abc import Awaitable, Callable, Generator, Iterator, Sequence
from functools import partial
from typing import Any

import hypothesis
import pytest
import trio

from hbtrio.lab.scene import Scene
from support.leaks import Held, left_since
from support.signal_actions import spare_children

#: Fixtures of pytest-trio that replace the real clock.
_FAKE_CLOCKS = frozenset({"autojump_clock", "mock_clock"})

#: Markers of tests whose time passes mostly in waiting.
_WAITING = ("vm", "processes", "real_time")

# The number of examples is the bound: on a busy machine any of them may take long. They are the
# same in each run, so that what a run finds is about the change that it is for.
hypothesis.settings.register_profile(
    "full",
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
# `make test-properties` takes it: others in each run.
hypothesis.settings.register_profile(
    "random", hypothesis.settings.get_profile("full"), derandomize=False
)
# `make test-fast` takes it: a tenth of the examples, except where a test sets their number itself.
hypothesis.settings.register_profile(
    "fast", hypothesis.settings.get_profile("full"), max_examples=10
)
hypothesis.settings.load_profile("full")


def pytest_configure() -> None:
    """Makes a run below ``nohup`` like any other."""
    spare_children()


def pytest_itemcollected(item: pytest.Item) -> None:
    """Marks a coroutine without a fake clock as ``real_time``."""
    if (
        isinstance(item, pytest.Function)
        and inspect.iscoroutinefunction(item.function)
        and _FAKE_CLOCKS.isdisjoint(item.fixturenames)
    ):
        item.add_marker("real_time")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Spreads tests that mostly wait evenly over a parallel run.

    Each worker starts with an equal part of the list. All machines in one part, and it would go on
    alone at the end; all of them at once, and they would starve each other.
    """
    if not hasattr(config, "workerinput"):
        return
    kinds: dict[str, list[pytest.Item]] = {}
    for item in items:
        kind = next((name for name in _WAITING if item.get_closest_marker(name)), "")
        kinds.setdefault(kind, []).append(item)
    place = {
        item: (number + 0.5) / len(kind)
        for kind in kinds.values()
        for number, item in enumerate(kind)
    }
    items.sort(key=place.__getitem__)


def pytest_collection_finish() -> None:
    """Keeps the garbage collector off thousands of items, which cost a sixth of all time."""
    gc.freeze()


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """No test may leave descriptors, threads or children behind; its tasks have ended with trio.

    What fixtures of a module or of the session hold was there before.
    """
    before = Held.now()
    yield
    left = left_since(before)
    assert left == {}


@pytest.fixture(autouse=True)
def scenes_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each scene prints its daemons' logs at its end; pytest shows them if the test failed."""
    end = Scene.end

    async def tell(self: Scene) -> None:
        await end(self)
        print(self.logs())

    monkeypatch.setattr(Scene, "end", tell)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Runs a test on the fake clock if one of its fixtures or its module's mark asks for it.

    pytest-trio itself looks for a clock among the test's own arguments alone, so that each test
    would have to name the clock, whether or not it uses it.
    """
    fake = getattr(item, "funcargs", {}).get("autojump_clock")
    if fake is not None and item.get_closest_marker("trio") is not None:
        # In front: pytest-trio's own mark names a runner too, and the first one counts.
        item.add_marker(pytest.mark.trio(run=partial(_run, fake=fake)), append=False)
    return (yield)


def _run(
    test: Callable[[], Awaitable[Any]],
    *,
    fake: trio.abc.Clock,
    clock: trio.abc.Clock | None,
    instruments: Sequence[trio.abc.Instrument],
) -> Any:
    return trio.run(test, clock=clock or fake, instruments=instruments)
