"""A command in the foreground: its status, its signals, its terminal, and what it inherits."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

pytestmark = pytest.mark.processes

SOON_S: Final = 60.0

#: Runs the command of its arguments and exits with the status, as ``hbtrio inhibit`` does.
WRAPPER: Final = """\
import sys, trio
from hbtrio.cli.foreground import holding_signals, start_in_foreground, wait_passing_on
with holding_signals() as blocked:
    async def main():
        return await wait_passing_on(start_in_foreground(sys.argv[1:], blocked))
    status = trio.run(main)
sys.exit(status)
"""

#: Says which signals come, on standard output; ends at USR2.
TRAPS: Final = """\
for name in HUP INT QUIT TERM USR1; do trap "echo $name" "$name"; done
trap 'exit 7' USR2
echo ready
while :; do sleep 0.05; done
"""


def wrapped(*command: str) -> list[str]:
    return [sys.executable, "-c", WRAPPER, *command]


def status_of(*command: str, **options: int) -> int:
    return subprocess.run(wrapped(*command), timeout=SOON_S, check=False, **options).returncode


def test_its_status_is_the_command_s() -> None:
    assert status_of("sh", "-c", "exit 0") == 0
    assert status_of("sh", "-c", "exit 41") == 41
    assert status_of("sh", "-c", "kill -9 $$") == 128 + 9


def test_it_inherits_standard_input_and_other_descriptors(tmp_path: Path) -> None:
    with (tmp_path / "held").open("w") as held:
        held.write("kept")
        held.flush()
        script = f'read -r line; test "$line" = given && test -e /proc/self/fd/{held.fileno()}'
        done = subprocess.run(
            wrapped("sh", "-c", script),
            input=b"given\n",
            pass_fds=[held.fileno()],
            timeout=SOON_S,
            check=False,
        )
    assert done.returncode == 0


def test_it_has_the_signals_as_they_were() -> None:
    mask = "grep -E '^Sig(Blk|Ign):' /proc/self/status"
    plain = subprocess.run(["sh", "-c", mask], capture_output=True, check=True).stdout
    done = subprocess.run(wrapped("sh", "-c", mask), capture_output=True, check=True)
    assert done.stdout == plain


def _as_a_terminal_starts_it() -> None:
    # What is ignored at its start, as HUP is below nohup, a shell can't trap.
    for name in ("HUP", "INT", "QUIT", "TERM", "USR1", "USR2"):
        signal.signal(signal.Signals[f"SIG{name}"], signal.SIG_DFL)


@pytest.fixture
def trapping() -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A wrapped command that says what signals it gets, and where it says so."""
    with subprocess.Popen(
        wrapped("sh", "-c", TRAPS), stdout=subprocess.PIPE, preexec_fn=_as_a_terminal_starts_it
    ) as wrapper:
        assert wrapper.stdout is not None
        said = wrapper.stdout.fileno()
        try:
            assert _read_until(said, "\n") == "ready\n"
            yield wrapper, said
        finally:
            wrapper.kill()


def test_signals_are_passed_on(trapping: tuple[subprocess.Popen[bytes], int]) -> None:
    wrapper, said = trapping
    for name in ("HUP", "INT", "QUIT", "TERM", "USR1"):
        wrapper.send_signal(signal.Signals[f"SIG{name}"])
        assert _read_until(said, "\n") == f"{name}\n"
    wrapper.send_signal(signal.SIGUSR2)
    assert wrapper.wait(SOON_S) == 7
    assert _read_until(said, None) == ""


def test_a_command_whose_wrapper_is_killed_gets_term(
    trapping: tuple[subprocess.Popen[bytes], int],
) -> None:
    wrapper, said = trapping
    wrapper.kill()
    assert _read_until(said, "\n") == "TERM\n"
    holders = {
        int(pid)
        for pid in os.listdir("/proc")
        if pid.isdigit() and _holds(int(pid), os.fstat(said).st_ino)
    }
    # Not what it has forked, and what is about to be another program.
    (child,) = [pid for pid in holders if _parent_of(pid) not in holders]
    os.kill(child, signal.SIGUSR2)
    assert _read_until(said, None) == ""


def _parent_of(pid: int) -> int:
    """The parent of a process; 0 if it has ended."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _holds(pid: int, pipe: int) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return command[0] == b"sh" and os.readlink(f"/proc/{pid}/fd/1") == f"pipe:[{pipe}]"
    except OSError:
        return False


def test_ctrl_c_reaches_the_command_once() -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, wrapped("sh", "-c", TRAPS))
    try:
        assert "ready" in _read_until(terminal, "ready")
        os.write(terminal, b"\x03")
        said = _read_until(terminal, "INT")
        os.kill(pid, signal.SIGUSR1)  # what had come before it would have been said before it
        said += _read_until(terminal, "USR1")
        assert said.count("INT") == 1
        os.kill(pid, signal.SIGUSR2)
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 7
    finally:
        os.close(terminal)


def _read_until(said: int, word: str | None) -> str:
    """What is said up to a word, or to the end; that takes ``SOON_S`` at most.

    A read without a bound would end not the test but, after three minutes, pytest's process.
    """
    text, until = "", time.monotonic() + SOON_S
    while word is None or word not in text:
        left_s = max(0.0, until - time.monotonic())
        assert select.select([said], [], [], left_s)[0], f"not more than {text!r}"
        data = os.read(said, 4096).decode()
        if not data:
            break
        text += data
    return text
