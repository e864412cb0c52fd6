"""Events in real files and pipes: complete, in order, and whoever does not read holds nobody up."""

from __future__ import annotations

import errno
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

import attrs
import pytest
import trio
from hypothesis import example, given
from trio.testing import MockClock

from hbtrio.errors import ExitStatus, UserError
from hbtrio.nursery.host import events_file
from hbtrio.nursery.host.events_file import BATCH, FLUSH_S, QUEUE, EventsFault, EventsFile
from hbtrio.nursery.host.reports import Report, ReportKind, Reports
from support.tenant_texts import HOSTILE, TENANT_TEXTS, hostile_in

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


def patient(target: str) -> EventsFile:
    """One that writes all that is queued at its end, however busy the machine is."""
    return EventsFile(target, flush_s=60)


def numbers(data: bytes) -> list[int]:
    """Which reports stand there; every line must be a whole one."""
    assert data.endswith(b"\n") or not data
    return [int(json.loads(line)["uuid"].removeprefix("uuid-")) for line in data.splitlines()]


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    return [(record.levelno, record.getMessage()) for record in caplog.records]


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
    async with writing(patient(str(path))) as reports:
        reports.publish(report(1, 'disk "a" b\u00fcsy\n\x9b\u202e\u2028\x85'))
        with trio.fail_after(10):
            while not path.read_bytes():
                await trio.lowlevel.checkpoint()
    assert path.read_text() == (
        '{"time": "2026-01-02T03:04:05.000+00:00", "kind": "stopped", "uuid": "uuid-1", '
        '"reason": "disk \\"a\\" b\u00fcsy\\n\\u009b\\u202e\\u2028\\u0085"}\n'
    )


@given(text=TENANT_TEXTS)
@example(text=HOSTILE)
def test_a_line_holds_nothing_hostile_and_means_what_was_said(text: str) -> None:
    line = attrs.evolve(report(1, text), name=text).as_line()
    assert hostile_in(line) == []
    told = json.loads(line)
    # Half a surrogate pair can't be sent.
    assert [told["reason"], told.get("name", "")] == [text.encode(errors="replace").decode()] * 2


async def test_a_file_is_appended_to_and_not_everybodys_to_read(tmp_path: Path) -> None:
    path = tmp_path / "events"
    for number in (1, 2):
        async with writing(patient(str(path))) as reports:
            reports.publish(report(number))
    assert numbers(path.read_bytes()) == [1, 2]
    assert stat.S_IMODE(path.stat().st_mode) & 0o137 == 0


async def test_none_is_lost_and_none_is_out_of_order(tmp_path: Path) -> None:
    path = tmp_path / "events"
    async with writing(patient(str(path))) as reports:
        for number in range(QUEUE):
            reports.publish(report(number))
    assert numbers(path.read_bytes()) == list(range(QUEUE))


async def test_none_is_missed_once_it_has_started(tmp_path: Path) -> None:
    path = tmp_path / "events"
    async with writing(patient(str(path))) as reports:
        # Not one checkpoint later, and with the end right behind.
        reports.publish(report(7))
    assert numbers(path.read_bytes()) == [7]


async def test_standard_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "stdout").open("w+") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        async with writing(patient("-")) as reports:
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
    events = patient("/dev/full")
    async with writing(events) as reports:
        for number in range(3):
            reports.publish(report(number))
            with trio.fail_after(10):
                while events.fault is None or events.fault.lost <= number:
                    await trio.lowlevel.checkpoint()
    assert events.fault == EventsFault(TIME, "no space left on device", 3)
    assert said(caplog) == [
        (logging.ERROR, "events: /dev/full: no space left on device; events are being lost")
    ]


class Disk:
    """In place of ``os.write``: a disk with so many bytes left, and then none."""

    def __init__(self, left: int) -> None:
        self.left = left
        self._write = os.write

    def write(self, fd: int, data: bytes) -> int:
        if data and not self.left:
            raise OSError(errno.ENOSPC, "No space left on device")
        count = self._write(fd, data[: self.left])
        self.left -= count
        return count


async def test_a_disk_that_was_full_costs_what_it_cost_and_is_written_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "events"
    line = len(report(1).as_line()) + 1
    disk = Disk(line + 10)
    monkeypatch.setattr(events_file.os, "write", disk.write)
    events = patient(str(path))
    async with writing(events) as reports:

        async def publish(number: int, lost: int) -> None:
            reports.publish(report(number))
            with trio.fail_after(10):
                while (events.fault.lost if events.fault else 0) != lost:
                    await trio.lowlevel.checkpoint()

        await publish(1, 0)
        # Of the second the disk takes ten bytes, of the third none.
        await publish(2, 1)
        await publish(3, 2)
        disk.left = 10_000
        await publish(4, 0)
    whole, torn, after = path.read_bytes().splitlines()
    assert numbers(whole + b"\n" + after + b"\n") == [1, 4]
    assert torn == report(2).as_line().encode()[:10]
    assert said(caplog) == [
        (logging.ERROR, f"events: {path}: no space left on device; events are being lost"),
        (logging.WARNING, f"events: {path}: writing works again; 2 events lost"),
    ]


async def test_a_fifo_without_a_reader_neither_delays_the_start_nor_loses_events(
    tmp_path: Path,
) -> None:
    os.mkfifo(fifo := tmp_path / "events")
    async with writing(patient(str(fifo))) as reports:
        for number in range(3):
            reports.publish(report(number))
        with trio.fail_after(10):
            reader = await trio.to_thread.run_sync(os.open, fifo, os.O_RDONLY)
            data = b""
            while data.count(b"\n") < 3:
                data += await trio.to_thread.run_sync(os.read, reader, 65536)
        os.close(reader)
    assert numbers(data) == [0, 1, 2]


async def test_a_closed_pipe_stays_a_fault(caplog: pytest.LogCaptureFixture) -> None:
    reading, ours = os.pipe()
    events = patient(f"/proc/self/fd/{ours}")
    os.close(ours)
    os.close(reading)
    async with writing(events) as reports:
        for number in range(3):
            reports.publish(report(number))
            with trio.fail_after(10):
                while events.fault is None or events.fault.lost <= number:
                    await trio.lowlevel.checkpoint()
    assert events.fault == EventsFault(TIME, "broken pipe", 3)
    assert [level for level, _ in said(caplog)] == [logging.ERROR]


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
        assert trio.current_time() - began == FLUSH_S
        # It is let go, so that its thread does not outlive the test.
        stalled.start_reading()


async def test_a_reader_that_is_too_slow_misses_some_and_it_is_said(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events_file, "QUEUE", 50)
    with pipe() as slow:
        events = patient(slow.path)
        async with writing(events) as reports:
            for number in range(300):
                reports.publish(report(number, "x" * 1000))
            slow.start_reading()
            with trio.fail_after(10):
                while not caplog.records:
                    await trio.lowlevel.checkpoint()
            await trio.testing.wait_all_tasks_blocked()
            # From here on it hears everything again.
            reports.publish(report(1000))
            with trio.fail_after(10):
                while events.fault is not None:
                    await trio.lowlevel.checkpoint()
    heard = numbers(slow.data)
    # One went straight to the writer, fifty waited.
    assert heard == [*range(51), 1000]
    assert said(caplog) == [
        (logging.ERROR, f"events: {slow.path}: the reader is too slow; events are being lost"),
        (logging.WARNING, f"events: {slow.path}: writing works again; 249 events lost"),
    ]


async def test_a_reader_that_stays_too_slow_is_one_fault(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events_file, "QUEUE", 50)
    monkeypatch.setattr(events_file, "BATCH", 10)
    write, may_write, begun = os.write, threading.Semaphore(0), list[bytes]()

    def when_it_may(fd: int, data: bytes) -> int:
        begun.append(data)
        may_write.acquire()
        return write(fd, data)

    path = tmp_path / "events"
    events = patient(str(path))
    async with writing(events) as reports:
        monkeypatch.setattr(events_file.os, "write", when_it_may)
        for number in range(100):
            reports.publish(report(number))
        may_write.release()
        assert await written(path, 10) == list(range(10))
        # Its bytes are there before the writer knows; only then does it take the next batch.
        with trio.fail_after(10):
            while len(begun) < 2:
                await trio.lowlevel.checkpoint()
        # Ten are being written, and thirty-one wait.
        for number in range(100, 160):
            reports.publish(report(number))
        may_write.release(100)
        with trio.fail_after(10):
            while events.fault is not None:
                await trio.lowlevel.checkpoint()
    assert numbers(path.read_bytes()) == [*range(51), *range(100, 119)]
    assert said(caplog) == [
        (logging.ERROR, f"events: {path}: the reader is too slow; events are being lost"),
        (logging.WARNING, f"events: {path}: writing works again; 90 events lost"),
    ]


async def test_what_is_queued_at_the_end_stands_behind_what_is_being_written() -> None:
    # The first batch is in the middle of its write when the end comes.
    with pipe() as busy:
        async with writing(patient(busy.path)) as reports:
            for number in range(3 * BATCH):
                reports.publish(report(number, "x" * 100))
            await trio.testing.wait_all_tasks_blocked()
            busy.start_reading()
    assert numbers(busy.data) == list(range(3 * BATCH))


# -- reopened -------------------------------------------------------------------------------


def lines_of(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


async def written(path: Path, count: int) -> list[int]:
    """What stands in a file, once it is so much."""
    with trio.fail_after(10):
        while (lines := lines_of(path)).count(b"\n") < count:
            await trio.lowlevel.checkpoint()
    return numbers(lines)


async def test_after_a_rotation_it_is_the_new_file_that_is_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "hbtrio.events")
    path, old = tmp_path / "events", tmp_path / "events.1"
    events = patient(str(path))
    async with writing(events) as reports:
        reports.publish(report(1))
        assert await written(path, 1) == [1]
        path.rename(old)
        reports.publish(report(2))
        assert await written(old, 2) == [1, 2]
        await events.reopen()
        assert path.read_bytes() == b""
        reports.publish(report(3))
        assert await written(path, 1) == [3]
    assert numbers(old.read_bytes()) == [1, 2]
    assert said(caplog) == [(logging.INFO, f"events: {path} reopened")]


async def test_one_that_can_not_be_opened_anew_goes_on_as_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = tmp_path / "log"
    directory.mkdir()
    path, moved = directory / "events", tmp_path / "moved"
    events = patient(str(path))
    async with writing(events) as reports:
        directory.rename(moved)
        await events.reopen()
        reports.publish(report(1))
        assert await written(moved / "events", 1) == [1]
    assert events.fault is None
    why = "no such file or directory; events go on into the old file"
    assert said(caplog) == [(logging.ERROR, f"events: can't reopen {path}: {why}")]


async def test_opening_anew_mends_a_fault_and_standard_output_is_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "events"
    path.symlink_to("/dev/full")
    events = patient(str(path))
    async with writing(events) as reports:
        reports.publish(report(1))
        with trio.fail_after(10):
            while events.fault is None:
                await trio.lowlevel.checkpoint()
        path.unlink()
        await events.reopen()
        assert events.fault is None
        reports.publish(report(2))
        assert await written(path, 1) == [2]
    assert said(caplog)[1] == (
        logging.WARNING,
        f"events: {path}: reopened; 1 event lost",
    )
    with (tmp_path / "stdout").open("w+") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        events = patient("-")
        async with writing(events) as reports:
            await events.reopen()
            reports.publish(report(3))
        stdout.seek(0)
        assert numbers(stdout.read().encode()) == [3]


@pytest.mark.parametrize("rotated", [False, True])
async def test_a_torn_line_costs_no_other_though_the_file_is_opened_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rotated: bool
) -> None:
    path = tmp_path / "events"
    disk = Disk(10)
    monkeypatch.setattr(events_file.os, "write", disk.write)
    events = patient(str(path))
    async with writing(events) as reports:
        reports.publish(report(1))
        with trio.fail_after(10):
            while events.fault is None:
                await trio.lowlevel.checkpoint()
        disk.left = 10_000
        if rotated:
            path.rename(tmp_path / "events.1")
        await events.reopen()
        reports.publish(report(2))
    torn = [] if rotated else [report(1).as_line().encode()[:10]]
    assert path.read_bytes().split(b"\n") == [*torn, report(2).as_line().encode(), b""]
