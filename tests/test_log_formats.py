"""The log as JSON, and in systemd's journal: fields that programs search by."""

from __future__ import annotations

import io
import json
import logging
import mmap
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import example, given, settings

from hbtrio.log import LogQueue, Subject, logging_to, output
from hbtrio.log.journal import Journal, encoded, is_standard_error
from hbtrio.log.limits import LineLimits, LineRate
from hbtrio.log.lines import TextLines
from hbtrio.log.queue import QUEUE, note
from hbtrio.log.subject import NOBODY, fields, is_uuid
from hbtrio.log.targets import StandardError
from support.tenant_texts import HOSTILE, TENANT_TEXTS, hostile_in

VM: Final = "00000000-0000-4000-8000-000000000001"
OTHER: Final = "00000000-0000-4000-8000-000000000002"

logger = logging.getLogger("hbtrio.test")


def known(text: str) -> Subject:
    """What a daemon knows: one instance by its name, one without, and one host."""
    if text == "compute-0":
        return Subject(host=text)
    if not is_uuid(text):
        return NOBODY
    return Subject(text, "web-1" if text == VM else "", "compute-0")


@contextmanager
def logging_into(stream: io.StringIO, **options: Any) -> Iterator[LogQueue]:
    with redirect_stderr(stream), logging_to("stderr", ident="hbtrio-host", **options) as records:
        records.find = known
        yield records


@pytest.fixture
def stderr() -> io.StringIO:
    return io.StringIO()


def texts(stream: io.StringIO) -> list[str]:
    """The lines without their times."""
    return [line.split(" ", 2)[2] for line in stream.getvalue().splitlines()]


def objects(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


# -- whom a line is about --------------------------------------------------------------------------


def test_a_line_about_an_instance_ends_with_its_name(stderr: io.StringIO) -> None:
    with logging_into(stderr):
        logger.info("%s: moved from %s", VM, "compute-0")
        logger.info("%s: moved", OTHER)
        logger.info("%s: link is up", "compute-0")
        logger.info("of %s, %d lines", [VM], 3)
    assert texts(stderr) == [
        f"INFO {VM}: moved from compute-0 (web-1)",
        f"INFO {OTHER}: moved",
        "INFO compute-0: link is up",
        f"INFO of ['{VM}'], 3 lines",
    ]


def test_the_name_stands_behind_a_text_that_is_cut(stderr: io.StringIO) -> None:
    with logging_into(stderr):
        logger.info("%s: %s", VM, "x" * 5000)
    assert texts(stderr)[0].endswith("xxx (web-1)")


def test_a_tenants_text_names_nobody(stderr: io.StringIO) -> None:
    with logging_into(stderr, log_format="json"):
        logger.info("%s: %s", OTHER, f"I am {VM}")
        logger.info("%s", f"{VM} ")
    assert [line.get("uuid", "") for line in objects(stderr)] == [OTHER, ""]


def test_what_who_logs_knows_better_counts(stderr: io.StringIO) -> None:
    with logging_into(stderr):
        logger.info("%s: gone", OTHER, extra=fields("stopped", name="db-1"))
        logger.info("%s: here", VM, extra=fields("stopped", name="old name"))
        logger.info("refused: %s", f"/v1/instances/{VM}", extra=fields("refused", uuid=VM))
    assert texts(stderr) == [
        f"INFO {OTHER}: gone (db-1)",
        f"INFO {VM}: here (web-1)",
        f"INFO refused: /v1/instances/{VM} (web-1)",
    ]


def test_a_line_that_stands_for_others_names_the_first(stderr: io.StringIO) -> None:
    limits = LineLimits(LineRate(1, 0), rare=LineRate(0, 0))
    with logging_into(stderr, limits=limits, log_format="json"):
        for _ in range(3):
            logger.warning("%s: bad message", VM)
    last = objects(stderr)[-1]
    text = f"2 lines like this were not logged, the first: {VM}: bad message (web-1)"
    assert (last["message"], last["uuid"], last["name"]) == (text, VM, "web-1")


# -- JSON ------------------------------------------------------------------------------------------


def test_a_record_is_an_object_on_a_line(stderr: io.StringIO) -> None:
    own = Subject(host="compute-0")
    with logging_into(stderr, log_format="json", own=own, prefix="Guest-Client"):
        logger.warning("%s loss: %s", VM, "3 beats missed", extra=fields("loss"))
        logger.info("stopping")
    first, second = objects(stderr)
    assert abs(datetime.now(UTC) - datetime.fromisoformat(first.pop("time"))).total_seconds() < 60
    assert first == {
        "level": "warning",
        "program": "hbtrio-host",
        "pid": os.getpid(),
        "uuid": VM,
        "name": "web-1",
        "host": "compute-0",
        "event": "loss",
        "message": f"{VM} loss: 3 beats missed (web-1)",
    }
    del second["time"], second["pid"]
    assert second == {
        "level": "info",
        "program": "hbtrio-host",
        "host": "compute-0",
        "message": "stopping",
    }


def test_the_time_has_milliseconds_and_its_zone(stderr: io.StringIO) -> None:
    with logging_into(stderr, log_format="json"):
        logger.handle(logging.makeLogRecord({"msg": "a", "levelno": 20, "created": 1.25}))
    assert datetime.fromisoformat(objects(stderr)[0]["time"]) == datetime.fromtimestamp(1.25, UTC)
    assert ".250" in stderr.getvalue()


def test_a_traceback_is_a_key(stderr: io.StringIO) -> None:
    with logging_into(stderr, log_format="json"):
        try:
            raise ValueError("brought about")
        except ValueError:
            logger.exception("it failed")
    (line,) = objects(stderr)
    assert line["message"] == "it failed"
    assert line["traceback"].splitlines()[-1] == "ValueError: brought about"


@settings(max_examples=30, deadline=None)
@given(text=TENANT_TEXTS)
@example(text=HOSTILE)
@example(text='"}\n{"message": "forged"}\udc80')
def test_no_text_breaks_the_line(text: str) -> None:
    stream = io.StringIO()
    with redirect_stderr(stream), logging_to("stderr", ident="x", log_format="json") as records:
        records.find = lambda word: Subject(VM, text) if is_uuid(word) else NOBODY
        try:
            raise ValueError(text)
        except ValueError:
            logger.exception("%s: %s", VM, text)
    line, end = stream.getvalue().split("\n")
    assert (end, hostile_in(line)) == ("", [])
    assert set(json.loads(line)) == {
        *("time", "level", "program", "pid", "message", "uuid", "traceback"),
        *(["name"] if text else []),
    }


def test_what_is_dropped_is_told_as_json_too(stderr: io.StringIO) -> None:
    with logging_into(stderr, log_format="json") as records:
        records.shed(True)
        logger.info("chatter")
        records.shed(False)
        assert records.lines_dropped == 1
    (line,) = objects(stderr)
    assert (line["level"], line["message"]) == (
        "warning",
        "1 log lines below level warning dropped",
    )


# -- the journal -----------------------------------------------------------------------------------


def entry_of(data: bytes) -> dict[str, str]:
    """Reads an entry as journald does; its two forms of a field are described by systemd."""
    fields_read = {}
    while data:
        head, _, data = data.partition(b"\n")
        name, is_short, value = head.partition(b"=")
        if not is_short:
            size = int.from_bytes(data[:8], "little")
            value, data = data[8 : 8 + size], data[8 + size + 1 :]
        fields_read[name.decode()] = value.decode()
    return fields_read


class JournalDaemon:
    """A real datagram socket that stands in for journald's."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(path)
        self._socket.settimeout(10)

    def entry(self) -> dict[str, str]:
        """Reads the next entry, also one that is sent as a sealed file."""
        data, fds, _, _ = socket.recv_fds(self._socket, 1_000_000, 1)
        if fds:
            assert data == b""
            with open(fds[0], "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as m:
                with pytest.raises(PermissionError):
                    os.truncate(file.fileno(), 0)
                return entry_of(m[:])
        return entry_of(data)

    def close(self) -> None:
        self._socket.close()
        os.unlink(self.path)


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[JournalDaemon]:
    """A journal that standard error is connected to."""
    daemon = JournalDaemon(str(tmp_path / "journal"))
    monkeypatch.setattr(output, "JOURNAL", daemon.path)
    status = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
    yield daemon
    daemon.close()


def test_the_journal_gets_fields(stderr: io.StringIO, journal: JournalDaemon) -> None:
    with logging_into(stderr, own=Subject(host="compute-0"), prefix="Guest-Client"):
        logger.warning("%s loss: %s", VM, "3 beats missed", extra=fields("loss"))
        logger.info("two\nlines")
        assert journal.entry() == {
            "MESSAGE": f"Guest-Client {VM} loss: 3 beats missed (web-1)",
            "PRIORITY": "4",
            "SYSLOG_IDENTIFIER": "hbtrio-host",
            "INSTANCE": VM,
            "NAME": "web-1",
            "HOST": "compute-0",
            "EVENT": "loss",
        }
        assert journal.entry() == {
            "MESSAGE": "Guest-Client two lines",
            "PRIORITY": "6",
            "SYSLOG_IDENTIFIER": "hbtrio-host",
            "HOST": "compute-0",
        }
    assert stderr.getvalue() == ""


@pytest.mark.parametrize(
    ("level", "priority"),
    [("debug", "7"), ("info", "6"), ("warning", "4"), ("error", "3"), ("critical", "2")],
)
def test_priorities_are_those_of_syslog(
    level: str, priority: str, stderr: io.StringIO, journal: JournalDaemon
) -> None:
    with logging_into(stderr, level="debug"):
        getattr(logger, level)("a")
        assert journal.entry()["PRIORITY"] == priority


def test_a_traceback_keeps_its_lines(stderr: io.StringIO, journal: JournalDaemon) -> None:
    with logging_into(stderr):
        try:
            raise ValueError("brought\nabout")
        except ValueError:
            logger.exception("it failed")
        text = journal.entry()["MESSAGE"]
    assert text.startswith("it failed\n  Traceback (most recent call last):\n")
    assert text.endswith("  ValueError: brought\n  about")


def test_what_is_too_large_for_a_datagram_is_sent_as_a_sealed_file(
    journal: JournalDaemon,
) -> None:
    record = note("large")
    record.exc_text = "x" * 1_000_000
    sender = Journal(
        journal.path, "hbtrio-host", TextLines(""), NOBODY, StandardError(TextLines(""))
    )
    sender.write(record)
    sender.close()
    assert len(journal.entry()["MESSAGE"]) == 1_000_000 + len("large\n  ")


def test_text_that_is_asked_for_as_json_is_not_sent_to_the_journal(
    stderr: io.StringIO, journal: JournalDaemon
) -> None:
    with logging_into(stderr, log_format="json"):
        logger.info("a")
    assert objects(stderr)[0]["message"] == "a"


def test_without_a_journal_standard_error_takes_the_lines(
    stderr: io.StringIO, journal: JournalDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "JOURNAL", f"{journal.path}-gone")
    with logging_into(stderr):
        logger.info("on we go")
    assert texts(stderr) == ["INFO on we go"]


def test_a_journal_that_was_started_anew_gets_the_next_line(
    stderr: io.StringIO, journal: JournalDaemon, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = JournalDaemon(str(tmp_path / "first"))
    monkeypatch.setattr(output, "JOURNAL", first.path)
    with logging_into(stderr):
        logger.info("first")
        assert first.entry()["MESSAGE"] == "first"
        first.close()
        second = JournalDaemon(first.path)
        logger.info("second")
        assert second.entry()["MESSAGE"] == "second"
        second.close()
    assert stderr.getvalue() == ""


def test_a_journal_that_is_blocked_holds_nobody_up_and_is_counted(
    stderr: io.StringIO, journal: JournalDaemon
) -> None:
    rate = LineRate(burst=1_000_000, per_minute=0)
    with logging_into(stderr, limits=LineLimits(rate, rate)) as records:
        # Nobody reads: the socket takes a few, the queue what it holds, and the rest is dropped.
        for number in range(2 * QUEUE):
            logger.info("%d", number)
        assert records.lines_dropped >= QUEUE - 1000
        # Whoever starts to read gets what was kept, and the number of what was not.
        read: list[str] = []
        while not read or not read[-1].endswith("log records were dropped"):
            logger.info("again")
            read.append(journal.entry()["MESSAGE"])
        assert read[:2] == ["0", "1"]
        reader = threading.Thread(target=drain, args=(journal, read))
        reader.start()
        logger.info("the end")
        reader.join(10)
    assert read[-1] == "the end"


def drain(journal: JournalDaemon, read: list[str]) -> None:
    while read[-1] != "the end":
        read.append(journal.entry()["MESSAGE"])


def test_lines_that_nothing_takes_are_counted(
    stderr: io.StringIO, journal: JournalDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "JOURNAL", f"{journal.path}-gone")

    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(32, "Broken pipe")

    with logging_into(Closed()) as records:
        for _ in range(3):
            logger.info("lost")
        deadline = time.monotonic() + 60
        while records.lines_dropped < 3:
            assert time.monotonic() < deadline
            time.sleep(0.001)


@pytest.mark.parametrize("stream", ["", "1:2", "1", "a:b", "1:2:3", f"{'9' * 30}:1"])
def test_another_stream_is_not_the_journal(stream: str) -> None:
    assert not is_standard_error({"JOURNAL_STREAM": stream})
    assert not is_standard_error({})


def test_the_stream_is_known_by_its_inode(tmp_path: Path) -> None:
    with open(tmp_path / "stream", "w") as file:
        status = os.fstat(file.fileno())
        environment = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        assert is_standard_error(environment, file.fileno())
        assert not is_standard_error(environment, 0 if os.fstat(0).st_ino != status.st_ino else 1)


def test_fields_are_encoded_in_both_forms() -> None:
    assert encoded({"A": "b", "C": "d\ne"}) == b"A=b\nC\n\x03\0\0\0\0\0\0\0d\ne\n"
    assert encoded({"A": "\udc80"}) == b"A=\\udc80\n"
