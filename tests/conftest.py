"""What holds for every test."""

from __future__ import annotations

import gc
import inspect

import hypothesis
import pytest

from support.signal_actions import spare_children

#: Fixtures of pytest-trio that replace the real clock.
_FAKE_CLOCKS = frozenset({"autojump_clock", "mock_clock"})

#: Markers of tests whose time passes mostly in waiting.
_WAITING = ("vm", "processes", "real_time")

# The number of examples is the bound: on a busy machine any of them may take long.
hypothesis.settings.register_profile(
    "full", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
# `make test-fast` takes it: a fifth of the examples, except where a test sets their number itself.
hypothesis.settings.register_profile(
    "fast", hypothesis.settings.get_profile("full"), max_examples=20
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
