"""Lines about applications: a process that misbehaves is named however much another one does."""

from __future__ import annotations

import logging

import pytest
import trio

from hbtrio.nursery.guest.app_log import LINES, PERIOD_S, PROCESSES, RARE, VISITS, AppLog, Topic

pytestmark = pytest.mark.usefixtures("autojump_clock")

MOST = LINES[Topic.MISUSE]


def slip(log: AppLog, process: str, times: int = 1) -> None:
    for _ in range(times):
        log.log(Topic.MISUSE, logging.WARNING, "%s slips", process, process=process)


def visit(log: AppLog, process: str, times: int = 1) -> None:
    for _ in range(times):
        log.visited(process)


def too_many(process: str) -> str:
    return f"application ({process}): more than 10 connections without a registration within 60 s"


async def test_each_process_is_named_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    log = AppLog()
    for minute in range(3):
        caplog.clear()
        slip(log, "loud", 1000)
        slip(log, "quiet", 5)
        assert caplog.messages == ["loud slips"] * MOST + ["quiet slips"], minute
        await trio.sleep(PERIOD_S)


async def test_one_that_had_a_line_takes_none_of_those(caplog: pytest.LogCaptureFixture) -> None:
    log = AppLog()
    slip(log, "quiet")
    await trio.sleep(PERIOD_S - 1)
    slip(log, "loud", 1000)
    slip(log, "quiet")
    assert caplog.messages == ["quiet slips"] + ["loud slips"] * (MOST - 1)
    await trio.sleep(1)
    slip(log, "loud", 2)  # the first of them in place of the line that is a minute old
    slip(log, "quiet")
    assert caplog.messages[MOST:] == ["loud slips", "quiet slips"]


async def test_a_topic_takes_nothing_from_another(caplog: pytest.LogCaptureFixture) -> None:
    log = AppLog()
    slip(log, "one", 1000)
    log.log(Topic.ERROR, logging.ERROR, "an error")
    assert caplog.messages[MOST:] == ["an error"]


async def test_so_many_are_named_at_most(caplog: pytest.LogCaptureFixture) -> None:
    log = AppLog()
    for number in range(1000):
        slip(log, f"pid {number}")
    assert len(caplog.messages) == MOST + RARE
    # Lines about nobody have none of it.
    log.log(Topic.MISUSE, logging.WARNING, "all")
    assert len(caplog.messages) == MOST + RARE


async def test_many_connections_without_a_registration(caplog: pytest.LogCaptureFixture) -> None:
    log = AppLog()
    visit(log, "monitor", VISITS)
    visit(log, "storm", 1000)
    assert caplog.messages == [too_many("storm")]
    await trio.sleep(PERIOD_S)
    visit(log, "monitor", VISITS)
    visit(log, "storm", 1000)
    assert caplog.messages == [too_many("storm")] * 2


async def test_one_is_named_after_many_lines_of_another(caplog: pytest.LogCaptureFixture) -> None:
    log = AppLog()
    slip(log, "loud", 1000)
    visit(log, "storm", 1000)
    assert caplog.messages[MOST:] == [too_many("storm")]


async def test_so_many_visitors_are_known(caplog: pytest.LogCaptureFixture) -> None:
    log = AppLog()
    for others in (PROCESSES - 1, PROCESSES):
        caplog.clear()
        visit(log, "forks", VISITS)
        for number in range(others):
            visit(log, f"pid {number}")
        visit(log, "forks")
        assert (caplog.messages == []) == (others == PROCESSES)
        await trio.sleep(2 * PERIOD_S)
