"""Event scripts as voters: what is run for an event, and what its end means as an answer."""

from __future__ import annotations

import logging
import math
import shutil
from pathlib import Path

import msgspec
import pytest
import trio
from trio.testing import MockClock

from hbtrio.fsm.ballot import Ballot, Outcome
from hbtrio.nursery.guest.event_scripts import EventScripts
from hbtrio.nursery.windows import Abstention, Answer, BallotWindow
from hbtrio.policy.time_guard import OnTimeGuard
from hbtrio.system.runner import SystemProcesses
from hbtrio.wire.channel_messages import ActionNotify
from hbtrio.wire.vocabulary import Event, NotificationType, VoteResult, WindowKind
from support.fake_processes import HANGS, FakeProcesses, FakeRun
from support.guest_world import handlers, when

VOTE = ActionNotify(900, Event.LIVE_MIGRATE_BEGIN, NotificationType.REVOCABLE, 9000)
NOTICE = ActionNotify(901, Event.STOP, NotificationType.IRREVOCABLE, 8000)


def window() -> BallotWindow:
    ballot = Ballot(NotificationType.REVOCABLE, ["handler"])
    return BallotWindow(WindowKind.VOTE, 8, ballot, lambda outcome: None, OnTimeGuard(math.inf))


@pytest.mark.parametrize("notify", [VOTE, NOTICE])
@pytest.mark.parametrize(
    ("run", "answer"),
    [
        (FakeRun(0, b"fine\nmore\n"), Answer(VoteResult.ACCEPT, "fine")),
        (FakeRun(0), Answer(VoteResult.ACCEPT, "")),
        (FakeRun(1, b"busy\n"), Answer(VoteResult.REJECT, "busy")),
        (FakeRun(2, b"busy"), Answer(VoteResult.REJECT, "busy")),
        (FakeRun(255), Answer(VoteResult.REJECT, "")),
        (FakeRun(signal=9, stdout=b"so far"), Abstention("was killed by signal SIGKILL")),
        (
            FakeRun(fault="Permission denied"),
            Abstention("could not be run: Permission denied"),
        ),
    ],
)
async def test_what_the_end_of_a_script_means(
    notify: ActionNotify, run: FakeRun, answer: Answer | Abstention, tmp_path: Path
) -> None:
    processes = handlers(tmp_path, {"handler": run})
    scripts = EventScripts(str(tmp_path / "handler"), processes)
    asked = scripts.handlers(notify)
    assert list(asked) == ["handler"]
    assert await asked["handler"](window()) == answer
    if run.fault is None:
        words = (notify.notification_type.value, notify.event_type.value)
        assert processes.started[0].argv == (str(tmp_path / "handler"), *words)


@pytest.mark.parametrize(("planned_at", "told"), [(0, "none"), (1_790_000_000, "1790000000")])
async def test_a_script_is_told_the_planned_time(
    planned_at: int, told: str, tmp_path: Path
) -> None:
    script = tmp_path / "handler"
    script.write_text('#!/bin/sh\necho "${HBTRIO_PLANNED_AT-none}"\n')
    script.chmod(0o755)
    async with SystemProcesses() as processes:
        scripts = EventScripts(str(script), processes)
        notify = msgspec.structs.replace(VOTE, planned_at=planned_at)
        assert await scripts.handlers(notify)["handler"](window()) == Answer(
            VoteResult.ACCEPT, told
        )


async def test_scripts_that_a_simulation_has_no_file_of() -> None:
    processes = FakeProcesses({"/etc/vote.d/one": FakeRun(), "/etc/vote.d/two": FakeRun()})
    found = ["/etc/vote.d/one"]
    scripts = EventScripts("/etc/vote.d", processes, lambda path: lambda: found)
    assert list(scripts.handlers(VOTE)) == ["one"]
    found.append("/etc/vote.d/two")
    assert list(scripts.handlers(VOTE)) == ["one", "two"]


async def test_nobody_is_asked_without_a_script() -> None:
    scripts = EventScripts(None, FakeProcesses({}))
    assert dict(scripts.handlers(VOTE)) == {}
    assert scripts.health() == []


def test_a_missing_script_is_nobody_and_an_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "nowhere"
    assert dict(EventScripts(str(path), FakeProcesses({})).handlers(VOTE)) == {}
    assert caplog.record_tuples == [
        ("hbtrio.scripts", logging.ERROR, f"script {path} does not exist")
    ]


def test_a_directory_is_read_anew_for_each_event(tmp_path: Path) -> None:
    def touch(name: str, mode: int = 0o755) -> None:
        (tmp_path / name).touch(mode=mode)

    scripts = EventScripts(str(tmp_path), FakeProcesses({}))
    touch("20-b")
    touch("10-a")
    touch("README", 0o644)
    assert list(scripts.handlers(VOTE)) == ["10-a", "20-b"]
    touch("30-c")
    (tmp_path / "10-a").unlink()
    assert list(scripts.handlers(VOTE)) == ["20-b", "30-c"]


def test_a_file_that_is_not_executable_is_asked_so_that_its_fault_is_said(tmp_path: Path) -> None:
    (tmp_path / "handler").touch(mode=0o644)
    scripts = EventScripts(str(tmp_path / "handler"), FakeProcesses({}))
    assert list(scripts.handlers(NOTICE)) == ["handler"]


async def test_cancelled_a_handler_ends_its_script(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    processes = handlers(tmp_path, {"handler": HANGS})
    handler = EventScripts(str(tmp_path), processes).handlers(VOTE)["handler"]
    with trio.move_on_after(3) as scope:
        await handler(window())
    assert scope.cancelled_caught
    assert when(processes.cancelled) == [(3.0, "handler")]


# -- real scripts that can't vote -----------------------------------------------------------------

NO_INTERPRETER = "the interpreter named in its first line does not exist"


def script(path: Path, text: str, mode: int = 0o755) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


async def settled_by(
    scripts: EventScripts, notify: ActionNotify, *, failure_rejects: bool = False
) -> Outcome:
    """What a round of these scripts answers to the host."""
    asked = scripts.handlers(notify)
    ballot = Ballot(notify.notification_type, asked, failure_rejects=failure_rejects)
    guard = OnTimeGuard(math.inf)
    round_ = BallotWindow(WindowKind.VOTE, 60, ballot, lambda outcome: None, guard)
    return await round_.hold(asked)


async def outcome(path: Path, notify: ActionNotify) -> Outcome:
    """What a round of real scripts answers to the host."""
    async with SystemProcesses() as processes:
        return await settled_by(EventScripts(str(path), processes), notify)


@pytest.mark.processes
@pytest.mark.parametrize("notify", [VOTE, NOTICE], ids=["vote", "notice"])
@pytest.mark.parametrize(
    ("text", "mode", "cause"),
    [
        ("#!/bin/sh\nexit 1\n", 0o644, "could not be run: Permission denied"),
        ("#!/nowhere/sh\nexit 1\n", 0o755, f"could not be run: {NO_INTERPRETER}"),
        ("exit 1\n", 0o755, "could not be run: not a program, and no #! in its first line"),
        ("#!/bin/sh\necho so far\nkill -SEGV $$\n", 0o755, "was killed by signal SIGSEGV"),
    ],
    ids=["mode 0644", "no interpreter", "no program", "killed"],
)
async def test_a_script_that_cannot_vote_is_named_and_agrees(
    notify: ActionNotify, text: str, mode: int, cause: str, tmp_path: Path
) -> None:
    path = script(tmp_path / "event_script", text, mode)
    assert await outcome(path, notify) == Outcome(VoteResult.COMPLETE, f"event_script {cause}")


@pytest.mark.processes
async def test_a_program_that_is_being_written_is_named_and_agrees(tmp_path: Path) -> None:
    program = tmp_path / "event_script"
    shutil.copy("/bin/false", program)
    with program.open("r+b"):
        named = "event_script could not be run: Text file busy"
        assert await outcome(program, VOTE) == Outcome(VoteResult.COMPLETE, named)
    assert await outcome(program, VOTE) == Outcome(VoteResult.REJECT, "")


@pytest.mark.processes
async def test_a_script_that_cannot_vote_is_named_after_the_reason_of_one_that_did(
    tmp_path: Path,
) -> None:
    script(tmp_path / "10-broken", "#!/nowhere/sh\n")
    script(tmp_path / "20-fine", "#!/bin/sh\necho ready\n")
    named = f"ready; 10-broken could not be run: {NO_INTERPRETER}"
    assert await outcome(tmp_path, VOTE) == Outcome(VoteResult.ACCEPT, named)
    script(tmp_path / "30-no", "#!/bin/sh\necho busy\nexit 1\n")
    assert await outcome(tmp_path, VOTE) == Outcome(VoteResult.REJECT, "busy")
