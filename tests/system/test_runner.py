"""The real runner with real processes: waits are for conditions, and bounded."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from hbtrio.system import runner as processes
from hbtrio.system.reaper import COMMAND_VARIABLE, announced_sessions, live_groups
from hbtrio.system.runner import ProcessNotStarted, ProcessResult, SystemProcesses

BOUND_S = 10.0
#: A grace that no test waits for: who is gone before it has gone by TERM.
LONG_S = 20.0


@pytest.fixture
def script(tmp_path: Path) -> Callable[..., str]:
    """Write an executable shell script that runs in tmp_path."""

    def write(body: str, name: str = "script") -> str:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\ncd {tmp_path}\n{body}\n")
        path.chmod(0o755)
        return str(path)

    return write


def done(
    stdout: bytes = b"", stderr: bytes = b"", exit_code: int = 0, truncated: bool = False
) -> ProcessResult:
    return ProcessResult(exit_code, None, stdout, stderr, truncated)


def stat(pid: int) -> tuple[str, str, int]:
    """Name, state and parent of a process; state "gone" if there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return "", "gone", 0
    name, _, rest = text.partition("(")[2].rpartition(")")
    state, parent, *_ = rest.split()
    return name, state, int(parent)


def is_gone(pid: int) -> bool:
    return stat(pid)[1] in ("gone", "Z", "X")


def reaper_of(parent: int) -> int | None:
    for name in os.listdir("/proc"):
        if name.isdigit() and stat(int(name))[::2] == ("hbtrio-reaper", parent):
            return int(name)
    return None


async def until(condition: Callable[[], object]) -> None:
    with trio.fail_after(BOUND_S):
        while not condition():  # noqa: ASYNC110 - other processes set no events
            await trio.sleep(0.01)


async def pid_from(path: Path) -> int:
    """The number that a script writes into a file, once it has."""
    text = ""

    def is_written() -> bool:
        nonlocal text
        text = path.read_text() if path.exists() else ""
        return text.endswith("\n")

    await until(is_written)
    return int(text)


async def cancel_when(runner: SystemProcesses, argv: list[str], *pid_files: Path) -> list[int]:
    """Run a script, cancel it once it has written its pids, and return those."""
    with trio.fail_after(BOUND_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(runner.run, argv)
            pids = [await pid_from(path) for path in pid_files]
            cancelled = trio.current_time()
            nursery.cancel_scope.cancel()
    assert trio.current_time() - cancelled < BOUND_S
    return pids


WAIT_FOR_GO = "until [ -e go ]; do sleep 0.01; done"


def let_go(runner: SystemProcesses, directory: Path) -> int:
    """Let the one script that waits for it go, and return when it has exited.

    The event loop stands still meanwhile: the runner finds all of it done at once.
    """
    (leader,) = runner._reaper._sessions
    (directory / "go").touch()
    deadline = time.monotonic() + BOUND_S
    while stat(leader)[1] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return leader


# The plain life of a command


async def test_result_of_a_command(script: Callable[..., str]) -> None:
    path = script('echo "$1,$2"; echo oops >&2; exit 7')
    async with SystemProcesses() as runner:
        assert await runner.run([path, "a b", "*"]) == done(b"a b,*\n", b"oops\n", exit_code=7)


async def test_command_ended_by_a_signal(script: Callable[..., str]) -> None:
    async with SystemProcesses() as runner:
        result = await runner.run([script("echo so far; kill -USR1 $$")])
    assert result == ProcessResult(None, signal.SIGUSR1, b"so far\n", b"", False)


async def test_standard_input_is_empty_and_there_is_no_terminal(script: Callable[..., str]) -> None:
    path = script("cat; (: </dev/tty) 2>/dev/null || echo no terminal")
    async with SystemProcesses() as runner:
        assert await runner.run([path]) == done(b"no terminal\n")


async def test_environment_is_the_daemons_with_the_given_variables(
    script: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HBTRIO_SEEN", "yes")
    path = script('echo "${HBTRIO_SEEN-unset} ${OTHER-unset}"')
    async with SystemProcesses() as runner:
        assert await runner.run([path]) == done(b"yes unset\n")
        assert await runner.run([path], env={"OTHER": "set"}) == done(b"yes set\n")
        assert await runner.run([path], env={"HBTRIO_SEEN": "no"}) == done(b"no unset\n")


async def test_command_leads_a_session_and_inherits_nothing_else() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1})
    try:
        async with SystemProcesses() as runner:
            result = await runner.run(
                ["/bin/sh", "-c", 'cut -d" " -f1,5,6 /proc/$$/stat; ls /proc/self/fd']
            )
            masks = await runner.run(["/bin/grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"])
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    numbers, *descriptors = result.stdout.decode().splitlines()
    assert len(set(numbers.split())) == 1
    assert descriptors == ["0", "1", "2", "3"]  # 3 is ls reading the directory
    blocked, ignored = (int(line.split()[1], 16) for line in masks.stdout.splitlines())
    assert blocked == 0
    assert not ignored & 1 << signal.SIGPIPE - 1


async def test_exit_status_survives_an_ignored_sigchld(script: Callable[..., str]) -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        async with SystemProcesses() as runner:
            assert await runner.run([script("exit 3")]) == done(exit_code=3)
    finally:
        signal.signal(signal.SIGCHLD, before)


async def test_without_pidfd(script: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pidfd_open")
    async with SystemProcesses() as runner:
        assert await runner.run([script("echo old kernel; exit 2")]) == done(
            b"old kernel\n", exit_code=2
        )
        with trio.move_on_after(0.1) as scope, trio.fail_after(BOUND_S):
            await runner.run(["/bin/sleep", "60"])
        assert scope.cancelled_caught


# What cannot be started


@pytest.mark.parametrize(
    ("content", "mode", "reason"),
    [
        (None, 0, "No such file or directory"),
        ("#!/bin/sh\n", 0o644, "Permission denied"),
        ("echo hello\n", 0o755, "not a program, and no #! in its first line"),
        (
            "#!/no/such/shell\n",
            0o755,
            "the interpreter named in its first line does not exist",
        ),
    ],
)
async def test_not_started(content: str | None, mode: int, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "handler"
    if content is not None:
        path.write_text(content)
        path.chmod(mode)
    async with SystemProcesses() as runner:
        with pytest.raises(ProcessNotStarted) as caught:
            await runner.run([str(path)])
    assert (caught.value.path, caught.value.reason) == (str(path), reason)
    assert str(caught.value) == f"{path}: {reason}"
    assert isinstance(caught.value.__cause__, OSError)


async def test_a_directory_is_not_started(tmp_path: Path) -> None:
    async with SystemProcesses() as runner:
        with pytest.raises(ProcessNotStarted) as caught:
            await runner.run([str(tmp_path)])
    assert caught.value.reason == "Permission denied"


async def test_no_descriptors_left(caplog: pytest.LogCaptureFixture) -> None:
    async with SystemProcesses() as runner:
        await runner._reaper.close()  # the thread for blocking calls is started, the reaper is not
        await trio.to_thread.run_sync(lambda: None)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        highest = max(int(name) for name in os.listdir("/proc/self/fd"))
        occupied = [os.open("/dev/null", os.O_RDONLY)]
        while occupied[-1] < highest:
            occupied.append(os.open("/dev/null", os.O_RDONLY))
        resource.setrlimit(resource.RLIMIT_NOFILE, (occupied[-1] + 1, hard))
        try:
            for _ in range(2):
                with pytest.raises(ProcessNotStarted) as caught:
                    await runner.run(["/bin/true"])
                assert caught.value.reason == "Too many open files"
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for fd in occupied:
                os.close(fd)
        assert await runner.run(["/bin/true"]) == done()
    assert [record.getMessage() for record in caplog.records] == [
        "no reaper, so scripts would outlive a killed daemon: [Errno 24] Too many open files"
    ]


# Output


async def test_a_flood_is_cut_and_does_not_block_the_command(script: Callable[..., str]) -> None:
    path = script("yes | head -c 10000000; yes no | head -c 10000000 >&2; echo ran > ended; exit 4")
    async with SystemProcesses() as runner:
        with trio.fail_after(BOUND_S):
            result = await runner.run([path], max_output=1000)
    assert result == done(b"y\n" * 500, (b"no\n" * 334)[:1000], exit_code=4, truncated=True)


@pytest.mark.parametrize(("size", "truncated"), [(99, False), (100, False), (101, True)])
async def test_output_at_the_bound(size: int, truncated: bool) -> None:
    async with SystemProcesses() as runner:
        result = await runner.run(["/bin/sh", "-c", f"printf %{size}d 1"], max_output=100)
    assert result == done((b" " * (size - 1) + b"1")[:100], truncated=truncated)


async def test_output_that_comes_together_with_the_exit() -> None:
    text = b"x" * 3000 + b"\n"
    program = ["/bin/sh", "-c", f"printf %s\\\\n {text[:-1].decode()}; exit 5"]
    async with SystemProcesses() as runner:
        for _ in range(200):
            assert await runner.run(program) == done(text, exit_code=5)


async def test_a_full_pipe_at_the_exit_is_read_to_its_end(
    script: Callable[..., str], tmp_path: Path
) -> None:
    # The loop stands still until all is written and the exit has happened: both are seen at once.
    path = script(f"{WAIT_FOR_GO}; head -c 60000 /dev/zero; exit 1")
    results: list[ProcessResult] = []

    async def run() -> None:
        results.append(await runner.run([path], max_output=100_000))

    async with SystemProcesses() as runner, trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await until(lambda: len(runner._reaper._sessions) == 1)
        let_go(runner, tmp_path)
    assert results == [done(bytes(60000), exit_code=1)]


async def test_a_background_child_that_holds_the_output_is_not_waited_for(
    script: Callable[..., str], tmp_path: Path
) -> None:
    path = script("sleep 60 & echo $! > pid; echo started; exit 1")
    async with SystemProcesses() as runner:
        with trio.fail_after(BOUND_S):
            assert await runner.run([path]) == done(b"started\n", exit_code=1)
        pid = await pid_from(tmp_path / "pid")
    # It was left alone, and it also is when the runner is closed.
    assert not is_gone(pid)
    os.kill(pid, signal.SIGKILL)
    await until(lambda: is_gone(pid))


async def test_a_background_child_that_floods_is_not_waited_for(script: Callable[..., str]) -> None:
    async with SystemProcesses() as runner:
        with trio.fail_after(BOUND_S):
            result = await runner.run([script("yes & exit 1")], max_output=10)
    assert (result.exit_code, len(result.stdout)) in [(1, 0), (1, 10)]


# Cancellation


async def test_cancelled_command_is_gone_with_its_children_before_the_grace(
    script: Callable[..., str], tmp_path: Path
) -> None:
    path = script("echo $$ > leader; sh -c 'echo $$ > child; sleep 60; :' ; :")
    async with SystemProcesses(grace_s=LONG_S) as runner:
        pids = await cancel_when(runner, [path], tmp_path / "leader", tmp_path / "child")
        assert [is_gone(pid) for pid in pids] == [True, True]


async def test_cancelled_command_has_the_grace_to_clean_up(
    script: Callable[..., str], tmp_path: Path
) -> None:
    # No long sleep: one that is just being forked takes a TERM for its shell's, and lives on.
    path = script(
        "trap 'echo cleaned > cleaned; exit' TERM; echo $$ > pid; while :; do sleep 0.05; done"
    )
    async with SystemProcesses(grace_s=BOUND_S) as runner:
        await cancel_when(runner, [path], tmp_path / "pid")
    assert (tmp_path / "cleaned").read_text() == "cleaned\n"


async def test_command_that_ignores_term_is_killed(
    script: Callable[..., str], tmp_path: Path
) -> None:
    path = script("trap '' TERM; sleep 60 & echo $! > child; echo $$ > leader; wait")
    async with SystemProcesses(grace_s=0.1) as runner:
        started = trio.current_time()
        pids = await cancel_when(runner, [path], tmp_path / "leader", tmp_path / "child")
        assert trio.current_time() - started >= 0.1
        assert stat(pids[0])[1] == "gone"
        await until(lambda: is_gone(pids[1]))


async def test_child_that_ignores_term_and_survives_its_leader_is_killed(
    script: Callable[..., str], tmp_path: Path
) -> None:
    path = script(
        "sh -c 'trap \"\" TERM; echo $$ > child; while :; do sleep 0.1; done' &\n"
        "echo $$ > leader; wait"
    )
    async with SystemProcesses(grace_s=0.1) as runner:
        pids = await cancel_when(runner, [path], tmp_path / "leader", tmp_path / "child")
        assert stat(pids[0])[1] == "gone"
        await until(lambda: is_gone(pids[1]))


async def test_children_of_a_leader_that_is_already_dead_are_ended(
    script: Callable[..., str], tmp_path: Path
) -> None:
    path = script(f"{WAIT_FOR_GO}; sleep 60 & echo $! > child")
    async with SystemProcesses(grace_s=LONG_S) as runner:
        with trio.fail_after(BOUND_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(runner.run, [path])
                await until(lambda: len(runner._reaper._sessions) == 1)
                # The exit has happened, but the runner cannot have seen it when it is cancelled.
                leader = let_go(runner, tmp_path)
                cancelled = trio.current_time()
                nursery.cancel_scope.cancel()
        assert trio.current_time() - cancelled < BOUND_S
        assert stat(leader)[1] == "gone"
        assert is_gone(await pid_from(tmp_path / "child"))


async def test_child_that_survives_its_leader_has_the_grace_too(
    script: Callable[..., str], tmp_path: Path
) -> None:
    path = script(
        'sh -c \'trap "sleep 0.2; echo cleaned > cleaned; exit" TERM; echo $$ > child\n'
        "while :; do sleep 0.01; done' &\n"
        "echo $$ > leader; wait"
    )
    async with SystemProcesses(grace_s=LONG_S) as runner:
        pids = await cancel_when(runner, [path], tmp_path / "leader", tmp_path / "child")
        assert [is_gone(pid) for pid in pids] == [True, True]
    assert (tmp_path / "cleaned").read_text() == "cleaned\n"


@pytest.mark.parametrize("command", ["timeout 60 sleep 60", "set -m; sleep 60"])
async def test_other_groups_of_the_session_are_ended_too(
    command: str, script: Callable[..., str], tmp_path: Path
) -> None:
    path = script(f"{command} & echo $! > child; echo $$ > leader; wait")
    async with SystemProcesses(grace_s=LONG_S) as runner:
        pids = await cancel_when(runner, [path], tmp_path / "leader", tmp_path / "child")
        assert [is_gone(pid) for pid in pids] == [True, True]


async def test_command_that_does_not_die_is_remembered_and_reaped_later(
    script: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # No process here can hang in the kernel: so we have no patience with one that does die.
    monkeypatch.setattr(processes, "_KILL_WAIT_S", 0.0)
    monkeypatch.setattr(processes, "_MAX_UNKILLABLE", 1)
    path = script("trap '' TERM; echo $$ > pid; while :; do sleep 0.1; done")
    async with SystemProcesses(grace_s=0.05) as runner:
        (pid,) = await cancel_when(runner, [path], tmp_path / "pid")
        with monkeypatch.context() as context:
            context.setattr(processes.Child, "is_dead", lambda self: False)
            with pytest.raises(ProcessNotStarted) as caught:
                await runner.run(["/bin/true"])
        assert caught.value.reason == "1 earlier commands hang in the kernel"
        await until(lambda: is_gone(pid))
        assert await runner.run(["/bin/true"]) == done()
        assert stat(pid)[1] == "gone"
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: process {pid} does not die after KILL"
    ]


async def test_no_descriptor_leaks(script: Callable[..., str], tmp_path: Path) -> None:
    async def one_round() -> None:
        await runner.run(["/bin/echo", "hello"])
        with pytest.raises(ProcessNotStarted):
            await runner.run([str(tmp_path / "missing")])
        with trio.move_on_after(0.001):
            await runner.run(["/bin/sleep", "60"])

    async with SystemProcesses() as runner:
        await one_round()
        before = sorted(os.listdir("/proc/self/fd"))
        for _ in range(100):
            await one_round()
        assert sorted(os.listdir("/proc/self/fd")) == before


# The reaper

DAEMON = """
import sys, trio
from hbtrio.system.runner import SystemProcesses

async def main():
    async with SystemProcesses() as runner:
        async with trio.open_nursery() as nursery:
            for path in sys.argv[1:]:
                nursery.start_soon(runner.run, [path])

trio.run(main)
"""


def start_daemon(*paths: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", DAEMON, *paths])


async def test_kill_9_of_the_daemon_leaves_no_script_running(
    script: Callable[..., str], tmp_path: Path
) -> None:
    vote = script(
        "(sleep 60; :) & echo $! > child\n"
        "timeout 60 sleep 60 & echo $! > timed\n"
        "echo $$ > leader; wait",
        "vote",
    )
    stubborn = script(
        "trap '' TERM; echo $$ > stubborn-leader; while :; do sleep 0.1; done", "stubborn"
    )
    finished = script("sleep 60 & echo $! > service", "finished")
    daemon = start_daemon(vote, stubborn, finished)
    try:
        names = ["leader", "child", "timed", "stubborn-leader"]
        pids = [await pid_from(tmp_path / name) for name in names]
        service = await pid_from(tmp_path / "service")
        await until(lambda: reaper_of(daemon.pid) is not None)
        reaper = reaper_of(daemon.pid)
        assert reaper is not None
        await until(lambda: not stat_has_child(daemon.pid, "finished"))
        # None of what ends a daemon ends its reaper.
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
            os.kill(reaper, number)
        assert [is_gone(pid) for pid in [*pids, reaper, service]] == [False] * 6
    finally:
        daemon.kill()
        daemon.wait()
    await until(lambda: all(is_gone(pid) for pid in [*pids, reaper]))
    # A script that had ended before had a right to leave something behind.
    assert not is_gone(service)
    os.kill(service, signal.SIGKILL)
    await until(lambda: is_gone(service))


KILLED_EARLY = """
import os
from hbtrio.system.reaper_link import ReaperLink

ReaperLink.add = lambda link, session: os.kill(os.getpid(), 9)
"""


async def test_kill_9_before_a_script_is_registered_leaves_it_not_running(
    script: Callable[..., str], tmp_path: Path
) -> None:
    path = script("echo $$ > leader; sleep 60 & echo $! > child; wait")
    ended = await trio.run_process([sys.executable, "-c", KILLED_EARLY + DAEMON, path], check=False)
    assert ended.returncode == -signal.SIGKILL
    pids = [await pid_from(tmp_path / name) for name in ("leader", "child")]
    await until(lambda: all(map(is_gone, pids)))


async def test_each_script_has_the_name_that_it_was_announced_by(
    script: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(COMMAND_VARIABLE, "that of the script that started this daemon")
    path = script(f"exec printenv {COMMAND_VARIABLE}")
    async with SystemProcesses() as runner:
        said = [(await runner.run([path])).stdout for _ in range(2)]
        said.append((await runner.run([path], env={"OTHER": "set"})).stdout)
        assert runner._reaper._announced == set()
    names = {name.strip() for name in said}
    assert len(names) == 3
    assert announced_sessions(names) == set()


def stat_has_child(parent: int, name: str) -> bool:
    numbers = [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]
    return any(stat(number)[::2] == (name, parent) for number in numbers)


async def test_reaper_starts_with_the_first_command_and_exits_with_the_runner() -> None:
    async with SystemProcesses() as runner:
        assert reaper_of(os.getpid()) is None
        await runner.run(["/bin/true"])
        await until(lambda: reaper_of(os.getpid()) is not None)
        first = reaper_of(os.getpid())
        await runner.run(["/bin/true"])
        assert reaper_of(os.getpid()) == first
    assert reaper_of(os.getpid()) is None


async def test_reaper_that_died_is_replaced_and_told_of_what_runs(
    script: Callable[..., str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    results: list[ProcessResult] = []

    async def run() -> None:
        results.append(await runner.run([script("echo $$ > pid; exec sleep 60")]))

    async with SystemProcesses() as runner:
        with trio.fail_after(BOUND_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run)
                await pid_from(tmp_path / "pid")
                await until(lambda: reaper_of(os.getpid()) is not None)
                first = reaper_of(os.getpid())
                assert first is not None
                os.kill(first, signal.SIGKILL)
                await until(lambda: is_gone(first))
                assert runner.reaper_restarts == 0
                for _ in range(3):
                    assert await runner.run(["/bin/true"]) == done()
                assert runner.reaper_restarts == 1
                await until(lambda: reaper_of(os.getpid()) is not None)
                # The end of its pipe is all that a reaper sees of the end of the daemon.
                await runner._reaper.close()
    assert results == [ProcessResult(None, signal.SIGTERM, b"", b"", False)]
    assert [record.getMessage() for record in caplog.records] == [
        f"the reaper (process {first}) is gone; the next command starts another"
    ]


def fill(pipe: int) -> None:
    for size in (4096, 1):
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(pipe, bytes(size))


async def test_reaper_that_hangs_neither_blocks_the_daemon_nor_ends_its_scripts(
    script: Callable[..., str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with SystemProcesses() as runner, trio.open_nursery() as nursery:
        nursery.start_soon(runner.run, [script("echo $$ > pid; exec sleep 60")])
        pid = await pid_from(tmp_path / "pid")
        await until(lambda: reaper_of(os.getpid()) is not None)
        reaper = reaper_of(os.getpid())
        assert reaper is not None
        os.kill(reaper, signal.SIGSTOP)
        await until(lambda: stat(reaper)[1] == "T")
        assert runner._reaper._pipe is not None
        fill(runner._reaper._pipe)
        with trio.fail_after(BOUND_S):
            assert await runner.run(["/bin/true"]) == done()
            # It has lost its pipe: were it let go on, it would end what it takes for orphans.
            await until(lambda: is_gone(reaper))
            assert await runner.run(["/bin/true"]) == done()
        assert not is_gone(pid)
        nursery.cancel_scope.cancel()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_live_groups_reads_names_that_look_like_fields(tmp_path: Path) -> None:
    program = tmp_path / "a) Z 1 (b"
    program.symlink_to("/bin/sleep")
    sleeping = subprocess.Popen([program, "60"], start_new_session=True)
    other = subprocess.Popen(["/bin/sleep", "60"], process_group=0)
    try:
        assert live_groups({sleeping.pid, 0}) >= {sleeping.pid}
        assert live_groups({sleeping.pid}) == {sleeping.pid}
        assert live_groups({other.pid}) == set()  # a group of its own in our session
        sleeping.kill()
        os.waitid(os.P_PID, sleeping.pid, os.WEXITED | os.WNOWAIT)
        assert live_groups({sleeping.pid}) == set()  # a zombie does not live
    finally:
        for process in (sleeping, other):
            process.kill()
            process.wait()


async def test_output_is_passed_on_as_it_arrives_and_kept_too(
    script: Callable[..., str], tmp_path: Path
) -> None:
    heard: list[bytes] = []
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    path = script(f"echo one; read -r _ < {gate}; echo two")
    results = []

    async def run() -> None:
        results.append(await runner.run([path], on_output=heard.append))

    async with SystemProcesses() as runner, trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await until(lambda: heard)
        assert heard == [b"one\n"]
        gate.write_text("go\n", encoding="ascii")
    assert b"".join(heard) == b"one\ntwo\n"
    assert results[0].stdout == b"one\ntwo\n"
