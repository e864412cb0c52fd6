"""Logging through a queue and a thread: what a line looks like, and what a stalled reader costs."""

from __future__ import annotations

import errno
import io
import logging
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings

from hbtrio.log import LogOnce, LogQueue, logging_to, output
from hbtrio.log import limits as log_limits
from hbtrio.log.limits import LineLimits, LineRate
from hbtrio.log.queue import QUEUE
from support.tenant_texts import HOSTILE, TENANT_TEXTS, hostile_in

HEAD = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} ")

logger = logging.getLogger("hbtrio.test")


class Stream(io.StringIO):
    """A standard error that can be made to stall: its writes then wait until it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.released = threading.Event()
        self.released.set()
        self.reached = threading.Event()
        #: How many writes fail as on a full disk.
        self.full_for = 0

    def write(self, text: str) -> int:
        self.reached.set()
        assert self.released.wait(60)
        if self.full_for:
            self.full_for -= 1
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(text)

    @property
    def lines(self) -> list[str]:
        """The lines without their time, which each of them has."""
        found = self.getvalue().splitlines()
        assert all(HEAD.match(line) for line in found)
        return [HEAD.sub("", line, count=1) for line in found]


@pytest.fixture
def stderr() -> Iterator[Stream]:
    stream = Stream()
    yield stream
    stream.released.set()


@contextmanager
def logging_into(stream: Stream, target: str = "stderr", **options: Any) -> Iterator[LogQueue]:
    with redirect_stderr(stream), logging_to(target, ident="Guest-Client", **options) as records:
        yield records


def unlimited() -> LineLimits:
    rate = LineRate(burst=1_000_000, per_minute=0)
    return LineLimits(rate, rate)


# -- what a line looks like -----------------------------------------------------------------


def test_a_record_is_a_line(stderr: Stream) -> None:
    with logging_into(stderr):
        logger.info("%s has %d", "it", 3)
        logger.error("faulty")
    assert stderr.lines == ["INFO it has 3", "ERROR faulty"]


def test_the_prefix_stands_before_the_text(stderr: Stream) -> None:
    with logging_into(stderr, prefix="Guest-Client"):
        logger.info("heartbeat state change from enabling to enabled, event=init-ack.")
    assert stderr.lines == [
        "INFO Guest-Client heartbeat state change from enabling to enabled, event=init-ack."
    ]


@pytest.mark.parametrize(
    ("level", "expected"),
    [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)],
)
def test_the_level_is_the_least_that_is_logged(level: str, expected: int, stderr: Stream) -> None:
    with logging_into(stderr, level=level):
        for method in (logger.debug, logger.info, logger.warning, logger.error):
            method("a")
    assert len(stderr.lines) == expected


def test_the_time_is_that_of_the_record(stderr: Stream) -> None:
    with logging_into(stderr):
        logger.handle(
            logging.makeLogRecord({"msg": "a", "levelno": 20, "created": 0.25, "msecs": 250.0})
        )
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(0.25))
    assert stderr.getvalue().startswith(f"{at}.250 ")


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("two\nlines\r\n2026-01-01 ERROR forged", "two lines  2026-01-01 ERROR forged"),
        ("\x1b[31mred\x07\x00", " [31mred  "),
        ("caf\u00e9 \U0001f40d", "caf\u00e9 \U0001f40d"),
        ("\u2028\u202e\x85", "   "),
        ("x" * 5000, "x" * 2000),
    ],
)
def test_a_tenants_words_stay_on_one_line(said: str, shown: str, stderr: Stream) -> None:
    with logging_into(stderr):
        logger.info("%s", said)
    assert stderr.lines == [f"INFO {shown}"]


def test_a_traceback_keeps_its_lines(stderr: Stream) -> None:
    with logging_into(stderr):
        try:
            raise ValueError("brought about")
        except ValueError:
            logger.exception("it failed")
    text = stderr.getvalue()
    assert HEAD.sub("", text).startswith("ERROR it failed\n  Traceback (most recent call last):\n")
    assert text.endswith("  ValueError: brought about\n")


@settings(max_examples=30, deadline=None)
@given(text=TENANT_TEXTS)
@example(text=HOSTILE)
@example(text="\n2026-01-01 00:00:00.000 ERROR forged")
def test_no_text_forges_a_record_or_sends_anything_to_a_terminal(text: str) -> None:
    stream = Stream()
    with logging_into(stream):
        try:
            raise ValueError(text)
        except ValueError:
            logger.exception("%s failed", text)
    first, *traceback, end = stream.getvalue().split("\n")
    assert HEAD.match(first)
    assert end == ""
    assert all(line.startswith("  ") or not line.strip() for line in traceback)
    assert [hostile_in(line) for line in (first, *traceback) if hostile_in(line)] == []


def test_arguments_are_those_of_the_moment(stderr: Stream) -> None:
    changing = ["before"]
    stderr.released.clear()
    with logging_into(stderr):
        logger.info("held back")
        logger.info("%s", changing)
        changing[0] = "after"
        stderr.released.set()
    assert stderr.lines == ["INFO held back", "INFO ['before']"]


def test_what_was_set_up_before_is_back_after(stderr: Stream) -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    with suppress(KeyError), logging_into(stderr, level="error"):
        assert root.level == logging.ERROR
        assert len(root.handlers) == 1
        raise KeyError
    assert (root.handlers, root.level) == before
    logger.error("nobody reads this")
    assert stderr.getvalue() == ""


def test_libraries_are_heard_only_when_something_is_wrong(stderr: Stream) -> None:
    with logging_into(stderr):
        for name in ("httpx", "httpcore"):
            logging.getLogger(name).info("request")
            logging.getLogger(name).warning("odd")
    assert stderr.lines == ["WARNING odd", "WARNING odd"]


# -- a reader that stalls -------------------------------------------------------------------


def test_it_holds_nobody_up(stderr: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "_FLUSH_S", 0.01)
    stderr.released.clear()
    with logging_into(stderr, limits=unlimited()):
        for number in range(QUEUE + 500):
            logger.info("%d", number)
    # The end did not wait for it either.
    assert stderr.getvalue() == ""


def test_what_does_not_fit_is_counted_and_said(stderr: Stream) -> None:
    stderr.released.clear()
    with logging_into(stderr, limits=unlimited()):
        logger.info("first")
        assert stderr.reached.wait(60)
        for number in range(QUEUE + 7):
            logger.info("%d", number)
        stderr.released.set()
        deadline = time.monotonic() + 60
        while stderr.getvalue().count("\n") <= QUEUE:
            assert time.monotonic() < deadline
            time.sleep(0)
        logger.info("with the count before it")
        logger.info("without")
    assert stderr.lines == [
        "INFO first",
        *(f"INFO {number}" for number in range(QUEUE)),
        "WARNING 7 log records were dropped",
        "INFO with the count before it",
        "INFO without",
    ]


def test_at_the_end_what_is_queued_is_written(stderr: Stream) -> None:
    with logging_into(stderr, limits=unlimited()):
        for number in range(5000):
            logger.info("%d", number)
    assert len(stderr.lines) == 5000


# -- floods -----------------------------------------------------------------------------------


def test_lines_beyond_the_bounds_are_counted_and_one_is_shown(stderr: Stream) -> None:
    with logging_into(stderr, limits=LineLimits(LineRate(10, 0), LineRate(3, 0))):
        for number in range(50):
            logger.warning("%s: bad message %d", "vm-1", number)
            logger.info("%s: another place", "vm-1")
    assert sorted(stderr.lines) == sorted(
        [
            *(f"WARNING vm-1: bad message {number}" for number in range(3)),
            *["INFO vm-1: another place"] * 3,
            "WARNING 47 lines like this were not logged, the first: vm-1: bad message 3",
            "INFO 47 lines like this were not logged, the first: vm-1: another place",
        ]
    )


def test_the_count_is_logged_while_nothing_else_is(
    stderr: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_limits, "PERIOD_S", 0.05)
    with logging_into(stderr, limits=LineLimits(LineRate(1, 0), rare=LineRate(0, 0))):
        for _ in range(5):
            logger.info("hello")
        deadline = time.monotonic() + 60
        while "4 lines like this were not logged, the first: hello" not in stderr.getvalue():
            assert time.monotonic() < deadline
            time.sleep(0.001)
        assert stderr.getvalue().count("\n") == 2


def test_what_is_withheld_once_is_logged_late(stderr: Stream) -> None:
    with logging_into(stderr, limits=LineLimits(LineRate(1, 0), rare=LineRate(0, 0))):
        for word in ("one", "two"):
            logger.info("%s", word)
    assert stderr.lines == ["INFO one", "INFO two"]


def test_a_traceback_counts_as_its_line(stderr: Stream) -> None:
    with logging_into(stderr, limits=LineLimits(LineRate(1, 0), rare=LineRate(0, 0))):
        for _ in range(3):
            try:
                raise ValueError("no")
            except ValueError:
                logger.exception("it failed")
    assert stderr.getvalue().count("Traceback") == 1
    assert stderr.getvalue().count("\n") == 6


def test_while_shedding_only_warnings_and_errors_are_logged(stderr: Stream) -> None:
    with logging_into(stderr, level="debug") as records:
        logger.info("before")
        records.shed(True)
        for _ in range(4):
            logger.info("chatter")
            logger.debug("chatter")
        logger.warning("heed")
        records.shed(False)
        logger.info("after")
        records.shed(True)
        records.shed(False)
        records.shed(True)
        logger.info("chatter at the end")
    assert stderr.lines == [
        "INFO before",
        "WARNING heed",
        "WARNING 8 log lines below level warning dropped",
        "INFO after",
        "WARNING 1 log lines below level warning dropped",
    ]


def test_what_could_not_be_written_is_counted_and_said(stderr: Stream) -> None:
    stderr.full_for = 3
    with logging_into(stderr):
        for _ in range(3):
            logger.info("lost")
        logger.info("last")
    assert stderr.lines == [
        "WARNING 3 log records could not be written: no space left on device",
        "INFO last",
    ]


# -- syslog ---------------------------------------------------------------------------------


@pytest.fixture
def dev_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where /dev/log is for the time of a test."""
    path = str(tmp_path / "log")
    monkeypatch.setattr(output, "_DEV_LOG", path)
    return path


@contextmanager
def syslog_daemon(path: str, kind: int = socket.SOCK_DGRAM) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, kind) as daemon:
        daemon.bind(path)
        daemon.settimeout(10)
        yield daemon
    os.unlink(path)


def test_syslog_gets_facility_ident_and_text(stderr: Stream, dev_log: str) -> None:
    with (
        syslog_daemon(dev_log) as daemon,
        logging_into(stderr, "syslog", prefix="Guest-Client"),
    ):
        logger.info("heartbeat state change")
        logger.error("odd\nend")
        ident = f"Guest-Client[{os.getpid()}]: Guest-Client"
        # Facility daemon is 3; info is 6, error is 3. The daemon adds time and level itself.
        info, error = 3 * 8 + 6, 3 * 8 + 3
        assert daemon.recv(1000) == f"<{info}>{ident} heartbeat state change\0".encode()
        assert daemon.recv(1000) == f"<{error}>{ident} odd end\0".encode()
    assert stderr.getvalue() == ""


def test_a_syslog_daemon_may_listen_on_a_stream(stderr: Stream, dev_log: str) -> None:
    with syslog_daemon(dev_log, socket.SOCK_STREAM) as daemon:
        daemon.listen()
        with logging_into(stderr, "syslog"):
            logger.info("a")
        probe, _ = daemon.accept()
        probe.close()
        connection, _ = daemon.accept()
        with connection:
            assert connection.recv(1000).endswith(b": a\0")
    assert stderr.getvalue() == ""


def test_without_a_syslog_daemon_standard_error_says_so_and_goes_on(
    stderr: Stream, dev_log: str
) -> None:
    with logging_into(stderr, "syslog", prefix="Guest-Client"):
        logger.info("on we go")
    assert stderr.lines == [
        "ERROR Guest-Client syslog: no such file or directory; logging to standard error",
        "INFO Guest-Client on we go",
    ]


def test_a_syslog_daemon_that_goes_and_comes(stderr: Stream, dev_log: str) -> None:
    with ExitStack() as first:
        daemon = first.enter_context(syslog_daemon(dev_log))
        with logging_into(stderr, "syslog"):
            logger.info("first")
            assert b": first" in daemon.recv(1000)
            first.close()
            logger.info("in between")
            deadline = time.monotonic() + 60
            while "in between" not in stderr.getvalue():
                assert time.monotonic() < deadline
                time.sleep(0)
            with syslog_daemon(dev_log) as daemon:
                logger.info("last")
                assert b": last" in daemon.recv(1000)
    assert stderr.lines == ["INFO in between"]


def test_a_slip_in_a_log_call_is_written_as_it_is(stderr: Stream) -> None:
    with logging_into(stderr, "stderr"):
        logger.info("%d of them", "three")
        logger.info("on we go")
    assert stderr.lines == ["INFO %d of them ('three',)", "INFO on we go"]


def test_a_fault_is_new_until_its_text_changes_or_it_is_over() -> None:
    fault = LogOnce()
    assert not fault.clear()
    met = ["refused", "refused", "missing", "refused", "refused"]
    assert [fault.is_new(text) for text in met] == [True, False, True, True, False]
    assert fault.clear()
    assert not fault.clear()
    assert fault.is_new("refused")
