"""What scripts answer, with commands on the fake clock; and which files are scripts."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from hbtrio.nursery.guest.scripts import (
    MAX_SCRIPTS,
    ScriptAnswer,
    ScriptVerdict,
    executables,
    run_script,
)
from hbtrio.system.runner import ProcessResult, SystemProcesses
from support.fake_processes import HANGS, FakeProcesses, FakeRun, Moment

ARGV = ["/etc/handler", "revocable", "stop"]


def logged(caplog: pytest.LogCaptureFixture) -> list[tuple[str, int, str]]:
    return caplog.record_tuples


@pytest.mark.parametrize(
    ("run", "answer"),
    [
        (FakeRun(), ScriptAnswer(ScriptVerdict.OK, "")),
        (FakeRun(stdout=b"fine\n"), ScriptAnswer(ScriptVerdict.OK, "fine")),
        (FakeRun(1, b"disk busy\nmore\n"), ScriptAnswer(ScriptVerdict.REFUSED, "disk busy")),
        (FakeRun(255, b"no newline"), ScriptAnswer(ScriptVerdict.REFUSED, "no newline")),
        (FakeRun(2, b"\nsecond line\n"), ScriptAnswer(ScriptVerdict.REFUSED, "")),
        (FakeRun(1, b" \t\x1b[31mred\x07\r\n"), ScriptAnswer(ScriptVerdict.REFUSED, "[31mred")),
        (FakeRun(1, b"a\0b\x7fc\xc2\x85d"), ScriptAnswer(ScriptVerdict.REFUSED, "a b c d")),
        (FakeRun(1, b"caf\xe9 \xe2\x82"), ScriptAnswer(ScriptVerdict.REFUSED, "caf\ufffd \ufffd")),
        (
            FakeRun(1, 'disk "ä" busy\\'.encode()),
            ScriptAnswer(ScriptVerdict.REFUSED, 'disk "ä" busy\\'),
        ),
    ],
)
async def test_answers(
    run: FakeRun, answer: ScriptAnswer, caplog: pytest.LogCaptureFixture
) -> None:
    runner = FakeProcesses({"/etc/handler": run})
    assert await run_script(runner, ARGV) == answer
    assert runner.started[0].argv == ("/etc/handler", "revocable", "stop")
    assert logged(caplog) == []


@pytest.mark.parametrize(
    ("run", "reason", "message"),
    [
        (
            FakeRun(signal=9, stdout=b"so far\n"),
            "was killed by signal SIGKILL",
            "was killed by signal SIGKILL",
        ),
        (FakeRun(signal=40), "was killed by signal 40", "was killed by signal 40"),
        (
            FakeRun(fault="Permission denied"),
            "could not be run: Permission denied",
            "cannot be run: Permission denied",
        ),
    ],
)
async def test_no_answer_is_an_error_in_the_log(
    run: FakeRun, reason: str, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await run_script(FakeProcesses({"/etc/handler": run}), ARGV)
    assert answer == ScriptAnswer(ScriptVerdict.NO_ANSWER, reason)
    assert logged(caplog) == [("hbtrio.scripts", logging.ERROR, f"script /etc/handler {message}")]


async def test_first_line_of_standard_error_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    run = FakeRun(1, b"reason\n", b"line 3: foo: not\x1bfound" + b"!" * 500 + b"\nline 4\n")
    answer = await run_script(FakeProcesses({"/etc/handler": run}), ARGV)
    assert answer == ScriptAnswer(ScriptVerdict.REFUSED, "reason")
    assert logged(caplog) == [
        (
            "hbtrio.scripts",
            logging.WARNING,
            "script /etc/handler: stderr: " + ("line 3: foo: not found" + "!" * 500)[:200],
        )
    ]


@given(stdout=st.binary(max_size=200))
def test_a_reason_is_always_one_printable_line(stdout: bytes) -> None:
    async def answer() -> ScriptAnswer:
        return await run_script(FakeProcesses(lambda argv: FakeRun(1, stdout)), ARGV)

    reason = trio.run(answer).reason
    assert reason == reason.strip()
    assert not set(reason) & {chr(code) for code in [*range(32), *range(127, 160)]}
    reason.encode("utf-8")


async def test_cancelled_script_is_ended(autojump_clock: trio.testing.MockClock) -> None:
    runner = FakeProcesses({"/etc/handler": HANGS})
    started = trio.current_time()
    with trio.move_on_after(8.0) as window:
        await run_script(runner, ARGV)
    assert window.cancelled_caught
    assert runner.started == [Moment(started, tuple(ARGV))]
    assert runner.cancelled == [Moment(started + 8.0, tuple(ARGV))]
    assert runner.ended == []


async def test_the_fake_is_like_the_real_one(autojump_clock: trio.testing.MockClock) -> None:
    runner = FakeProcesses({"/slow": FakeRun(3, b"abc", b"de", delay_s=2.5)})
    started = trio.current_time()
    assert await runner.run(["/slow"], max_output=2) == ProcessResult(3, None, b"ab", b"de", True)
    assert runner.ended == [Moment(started + 2.5, ("/slow",))]
    missing = await run_script(runner, ["/missing"])
    assert missing == ScriptAnswer(
        ScriptVerdict.NO_ANSWER, "could not be run: No such file or directory"
    )
    assert len(runner.started) == 1


async def test_a_real_script(tmp_path: Path) -> None:
    path = tmp_path / "handler"
    path.write_text('#!/bin/sh\necho "$1 $2: not now"\necho more\nexit 1\n')
    path.chmod(0o755)
    async with SystemProcesses() as runner:
        answer = await run_script(runner, [str(path), "revocable", "stop"])
    assert answer == ScriptAnswer(ScriptVerdict.REFUSED, "revocable stop: not now")


# Which files are scripts


def add(directory: Path, *names: str, mode: int = 0o755) -> None:
    for name in names:
        (directory / name).write_text("#!/bin/sh\n")
        (directory / name).chmod(mode)


def test_a_file_stands_for_itself(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    add(tmp_path, "handler", mode=0o644)
    assert executables(str(tmp_path / "handler")) == [str(tmp_path / "handler")]
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    assert executables(str(tmp_path / "dangling")) == [str(tmp_path / "dangling")]
    assert logged(caplog) == []


def test_a_missing_file_is_an_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = str(tmp_path / "handler")
    assert executables(path) == []
    assert logged(caplog) == [("hbtrio.scripts", logging.ERROR, f"script {path} does not exist")]


def test_a_directory_stands_for_its_executables(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    add(tmp_path, "20-second", "10-first", "30-third", ".hidden", "10-first~")
    add(tmp_path, "README", mode=0o644)
    (tmp_path / "15-directory").mkdir()
    (tmp_path / "25-link").symlink_to("10-first")
    (tmp_path / "26-dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "27-fifo", 0o755)
    names = ["10-first", "20-second", "25-link", "30-third"]
    assert executables(str(tmp_path)) == [str(tmp_path / name) for name in names]
    # It is read anew each time.
    add(tmp_path, "11-new")
    (tmp_path / "30-third").unlink()
    names = ["10-first", "11-new", "20-second", "25-link"]
    assert executables(str(tmp_path)) == [str(tmp_path / name) for name in names]
    assert logged(caplog) == []


def test_a_directory_without_scripts_is_an_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    add(tmp_path, "README", mode=0o644)
    assert executables(str(tmp_path)) == []
    message = f"script directory {tmp_path} has no executable file"
    assert logged(caplog) == [("hbtrio.scripts", logging.ERROR, message)]


@pytest.mark.parametrize("surplus", [0, 1, 5])
def test_a_directory_is_bounded(
    surplus: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = [f"{number:03}" for number in range(MAX_SCRIPTS + surplus)]
    add(tmp_path, *names)
    assert executables(str(tmp_path)) == [str(tmp_path / name) for name in names[:64]]
    message = f"script directory {tmp_path} has more than 64 scripts: those from 064 on are ignored"
    errors = [("hbtrio.scripts", logging.ERROR, message)]
    assert logged(caplog) == (errors if surplus else [])


def test_a_directory_that_cannot_be_read_is_an_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", refuse)  # modes do not stop root
    assert executables(str(tmp_path)) == []
    message = f"script directory {tmp_path} cannot be read: Permission denied"
    assert logged(caplog) == [("hbtrio.scripts", logging.ERROR, message)]
