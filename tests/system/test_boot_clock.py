"""The clock by which commands expire."""

from __future__ import annotations

import time

import pytest

from hbtrio.policy.begin_by import Expired
from hbtrio.system.boot_clock import boot_clock, process_clock

#: What each clock shows on a machine that slept, and whose clock was set.
READINGS = {
    time.CLOCK_BOOTTIME: 5000.0,
    time.CLOCK_MONOTONIC: 1000.0,
    time.CLOCK_MONOTONIC_RAW: 1001.0,
    time.CLOCK_REALTIME: 1.8e9,
}


@pytest.fixture(autouse=True)
def machine_that_slept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "clock_gettime", READINGS.__getitem__)
    monkeypatch.setattr(time, "monotonic", lambda: READINGS[time.CLOCK_MONOTONIC])
    monkeypatch.setattr(time, "time", lambda: READINGS[time.CLOCK_REALTIME])


def test_the_clock_counts_the_sleep_of_the_machine() -> None:
    assert boot_clock() == READINGS[time.CLOCK_BOOTTIME]


def test_a_command_gets_older_while_the_machine_sleeps() -> None:
    clock = process_clock()
    assert clock.now() == READINGS[time.CLOCK_BOOTTIME]
    with pytest.raises(Expired):
        clock.begin_by(4000.0, clock.boot_id).check()
