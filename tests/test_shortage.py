"""A line about a shortage at its beginning, once a minute, and at its end."""

from __future__ import annotations

import logging

import pytest

from hbtrio.errors import is_thread_shortage
from hbtrio.log import SHORTAGE_S, ShortageLog

logger = logging.getLogger("hbtrio.test")


def test_a_shortage_is_logged_once_a_minute_and_when_it_is_over(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    shortage = ShortageLog(logger, "channels are not connected")
    shortage.served(0.0)
    for tenth in range(1000):
        shortage.refused("no descriptors", tenth / 10)
    shortage.served(100.0)
    shortage.served(99.9 + SHORTAGE_S)
    shortage.served(200.0)
    shortage.refused("no descriptors", 201.0)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("ERROR", "channels are not connected: no descriptors (1 since the last line)"),
        ("ERROR", "channels are not connected: no descriptors (600 since the last line)"),
        ("WARNING", "no longer: channels are not connected"),
        ("ERROR", "channels are not connected: no descriptors (1 since the last line)"),
    ]


def test_only_a_missing_thread_is_a_shortage_of_threads() -> None:
    assert is_thread_shortage(RuntimeError("can't start new thread"))
    assert not is_thread_shortage(RuntimeError("the machine is in no such state"))
