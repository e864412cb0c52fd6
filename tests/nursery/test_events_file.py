"""Events in real files and pipes: complete, in order, and whoever does not read holds nobody up."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import stat
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from hbtrio.errors import ExitStatus, UserError
from hbtrio.nursery import events_file
from hbtrio.nursery.events_file import BATCH, QUEUE, EventsFile
from hbtrio.nursery.reports import Report, ReportKind, Reports

TIME = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def report(number: int, reason: str = "reason") -> Report:
    return Report(TIME, ReportKind.STOPPED, f"uuid-{number}", reason)


@asynccontextmanager
async def writing(events: EventsFile) -> AsyncIterator[Reports]:
    """Reports that are written as they come; the end of the block is the daemon's."""
    reports = Reports(lambda: TIME)

    async def run(*, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        await events.run(reports, task_status=task_status)

    try:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                await nursery.start(run)
                yield reports
                nursery.cancel_scope.cancel()
    finally:
        events.close()


def numbers(data: bytes) -> list[int]:
    """Which reports stand there; every line must be a whole one."""
    assert data.endswith(b"\n") or not data
    return [int(json.loads(line)["uuid"].removeprefix("uuid-")) for line in data.splitlines()]


class Pipe:
    """A pipe that holds no more than a page, and a thread that reads it from a set moment on."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        fcntl.fcntl(self.writing, fcntl.F_SETPIPE_SZ, 4096)
        self.data = b""
        self._thread = threading.Thread(target=self._read)

    @property
    def path(self) -> str:
        return f"/proc/self/fd/{self.writing}"

    def start_reading(self) -> None:
        self._thread.start()

    def _read(self) -> None:
        while piece := os.read(self.reading, 1000):
            self.data += piece

    def close(self) -> None:
        """Ends it on this side; reads what is there, if it was read at all."""
        os.close(self.writing)
        if self._thread.ident is not None:
            self._thread.join(60)
        os.close(self.reading)


@contextmanager
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.close()


# -- files ----------------------------------------------------------------------------------


async def test_every_report_is_a_line_at_once(tmp_path: Path) -> None:
    path = tmp_path / "events"
    async with writing(EventsFile(str(path))) as reports:
        reports.publish(report(1, 'disk "a" b\u00fcsy\n'))
        with trio.fail_after(10):
            while not path.read_bytes():
                await trio.lowlevel.checkpoint()
    assert path.read_text() == (
        '{"time": "2026-01-02T03:04:05.000+00:00", "kind": "stopped", "uuid": "uuid-1", '
        '"reason": "disk \\"a\\" b\u00fcsy\\n"}\n'
    )


async def test_a_file_is_appended_to_and_not_everybodys_to_read(tmp_path: Path) -> None:
    path = tmp_path / "events"
    for number in (1, 2):
        async with writing(EventsFile(str(path))) as reports:
            reports.publish(report(number))
    assert numbers(path.read_bytes()) == [1, 2]
    assert stat.S_IMODE(path.stat().st_mode) & 0o137 == 0


async def test_none_is_lost_and_none_is_out_of_order(tmp_path: Path) -> None:
    path = tmp_path / "events"
    async with writing(EventsFile(str(path))) as reports:
        for number in range(QUEUE):
            reports.publish(report(number))
    assert numbers(path.read_bytes()) == list(range(QUEUE))


async def test_none_is_missed_once_it_has_started(tmp_path: Path) -> None:
    path = tmp_path / "events"
    async with writing(EventsFile(str(path))) as reports:
        # Not one checkpoint later, and with the end right behind.
        reports.publish(report(7))
    assert numbers(path.read_bytes()) == [7]


async def test_standard_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "stdout").open("w+") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        async with writing(EventsFile("-")) as reports:
            reports.publish(report(1))
        assert not stdout.closed
        stdout.seek(0)
        assert numbers(stdout.read().encode()) == [1]


def test_a_file_that_can_not_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError) as missing:
        EventsFile(str(tmp_path / "no" / "events"))
    path = tmp_path / "no" / "events"
    assert str(missing.value) == f"events file {path}: no such file or directory"
    assert missing.value.status is ExitStatus.USAGE

    def deny(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(events_file.os, "open", deny)
    with pytest.raises(UserError) as denied:
        EventsFile("/events")
    assert str(denied.value) == "events file /events: permission denied"
    assert denied.value.status is ExitStatus.DENIED


# -- readers that stall, disks that are full ------------------------------------------------


async def test_a_full_disk_is_said_once_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    events = EventsFile("/dev/full")
    async with writing(events) as reports:
        for number in range(3):
            reports.publish(report(number))
            with trio.fail_after(10):
                while events.failures <= number:
                    await trio.lowlevel.checkpoint()
    assert events.failures == 3
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.ERROR, "events: /dev/full: No space left on device")
    ]


async def test_a_stalled_reader_holds_nobody_up_and_does_not_delay_the_end(
    autojump_clock: MockClock,
) -> None:
    with pipe() as stalled:
        events = EventsFile(stalled.path)
        async with writing(events) as reports:
            for number in range(200):
                reports.publish(report(number, "x" * 100))
                await trio.lowlevel.checkpoint()
            began = trio.current_time()
        assert trio.current_time() - began <= 0.5
        # It is let go, so that its thread does not outlive the test.
        stalled.start_reading()


async def test_a_reader_that_is_too_slow_misses_some_and_it_is_said(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events_file, "QUEUE", 50)
    with pipe() as slow:
        async with writing(EventsFile(slow.path)) as reports:
            for number in range(300):
                reports.publish(report(number, "x" * 1000))
            slow.start_reading()
            with trio.fail_after(10):
                while not caplog.records:
                    await trio.lowlevel.checkpoint()
            await trio.testing.wait_all_tasks_blocked()
            # From here on it hears everything again.
            reports.publish(report(1000))
    heard = numbers(slow.data)
    # One went straight to the writer, fifty waited.
    assert heard == [*range(51), 1000]
    assert [record.getMessage() for record in caplog.records] == [
        f"events: the reader of {slow.path} is too slow, some events are lost"
    ]


async def test_what_is_queued_at_the_end_stands_behind_what_is_being_written() -> None:
    # The first batch is in the middle of its write when the end comes.
    with pipe() as busy:
        async with writing(EventsFile(busy.path)) as reports:
            for number in range(3 * BATCH):
                reports.publish(report(number, "x" * 100))
            await trio.testing.wait_all_tasks_blocked()
            busy.start_reading()
    assert numbers(busy.data) == list(range(3 * BATCH))
