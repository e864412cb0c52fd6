"""Every command line of the documentation is run, or is on a short list that says why not."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Final

import pytest

from support.typed_commands import CHECKOUT, EXEMPT, PAGES, QUICK_START, exemptions, typed

pytestmark = pytest.mark.processes

#: How long something may take on a busy machine, in seconds.
LONG_S: Final = 60.0

#: What a line of the quick start has to print in the end, in order.
SHOWN: Final = [
    ("hbtrio ctl wait web-1 --for heartbeating", r"web-1.* heartbeating"),
    ("hbtrio ctl status", r"web-1 +heartbeating"),
    ("hbtrio apps --app-socket /tmp/hbtrio/apps", r"orders"),
    ("hbtrio ctl vote web-1 stop", r"vote on stop: rejected"),
    ("hbtrio ctl show web-1", r"vote stop.*: reject: 3 orders are open"),
    ("hbtrio ctl wait web-1 --for lost", r"web-1.* lost"),
    ("hbtrio ctl why web-1", r"no answer for 3 s"),
    ("hbtrio ctl wait web-1 --for heartbeating", r"web-1.* heartbeating"),
]

#: What the guides name by its path on a real machine.
PLACES: Final = {
    "/etc/hbtrio/": f"{CHECKOUT}/config/",
    "/etc/guest-client/heartbeat/": f"{CHECKOUT}/config/",
    " config/": f" {CHECKOUT}/config/",
    "--url unix:/run/hbtrio/agent.sock ": "",
    " /run/hbtrio/host.sock": " /tmp/hbtrio/host.sock",
}


class Shell:
    """A shell, as somebody has who follows a page.

    Args:
        home: its directory; it stands for /tmp/hbtrio, too.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        for name in ("HBTRIO_URL", "HBTRIO_TOKEN", "HBTRIO_APP_SOCKET"):
            environment.pop(name, None)
        self._bash = subprocess.Popen(
            ["bash", "-m"],
            cwd=home,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        self._lines: SimpleQueue[str] = SimpleQueue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._bash.stdout
        for line in self._bash.stdout:
            self._lines.put(line)

    def run(self, line: str) -> tuple[int, str]:
        """Types a line and returns its exit status and what was printed meanwhile."""
        assert self._bash.stdin
        for place, here in PLACES.items():
            line = line.replace(place, here)
        # What it prints need not end a line.
        self._bash.stdin.write(f"{self._here(line)}\nprintf '\\n@@ %s\\n' $?\n")
        self._bash.stdin.flush()
        deadline, said = time.monotonic() + LONG_S, []
        while time.monotonic() < deadline:
            try:
                text = self._lines.get(timeout=1)
            except Empty:
                continue
            if text.startswith("@@ "):
                return int(text.split()[1]), "".join(said)
            said.append(text)
        raise AssertionError(f"{line}: did not end; {''.join(said)}")

    def write(self, name: str, text: str) -> None:
        """Writes a file into its directory."""
        (self._home / name).write_text(self._here(text))

    def _here(self, text: str) -> str:
        return text.replace("/tmp/hbtrio", f"{self._home}/d")

    def until(self, line: str, shown: str) -> str:
        """Types a line until it prints what it should, and returns it; others make that true."""
        deadline = time.monotonic() + LONG_S
        while True:
            _, said = self.run(line)
            if re.search(shown, said):
                return said
            assert time.monotonic() < deadline, f"{line}: {said}"
            time.sleep(0.2)

    def end(self) -> None:
        """Ends it and all that it has started."""
        assert self._bash.stdin
        self._bash.stdin.write("kill -CONT $(jobs -p); kill $(jobs -p); wait; exit\n")
        self._bash.stdin.close()
        try:
            self._bash.wait(LONG_S)
        finally:
            self._bash.kill()
            self._bash.wait()
        self._reader.join(LONG_S)
        assert self._bash.stdout
        self._bash.stdout.close()


@pytest.fixture
def shell() -> Iterator[Shell]:
    home = Path(tempfile.mkdtemp(prefix="q."))
    try:
        shell = Shell(home)
        try:
            yield shell
        finally:
            shell.end()
    finally:
        shutil.rmtree(home)


def application(page: str) -> str:
    """The program of the quick start."""
    (text,) = re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S)
    return str(text)


def to_run(page: str) -> list[str]:
    return [line for line in typed(page) if not exemptions(line)]


def test_the_quick_start_and_then_what_the_guides_ask(shell: Shell) -> None:
    page = (CHECKOUT / QUICK_START).read_text()
    shell.write("orders.py", application(page))
    expected = list(SHOWN)
    for line in to_run(QUICK_START):
        if line.startswith("sleep "):
            continue  # a person waits; here it is asked again until it is so
        if expected and line == expected[0][0]:
            said = shell.until(*expected.pop(0))
            if " vote " in line:
                assert all(text in said for text in re.findall(r"^ {4}(vote on .*)$", page, re.M))
        else:
            status, said = shell.run(line)
            assert status == 0, f"{line}: {said}"
    assert expected == []

    # A host, a guest and an application are up: what the other pages say can be asked of them.
    lines = [line for page in PAGES if page != QUICK_START for line in to_run(page)]
    assert len(set(lines)) >= 20
    for line in dict.fromkeys(lines):
        status, said = shell.run(line)
        assert status == (3 if " vote " in line else 0), f"{line}: {said}"
        if " notify " in line:
            # As the page says: else it is not watched for a while, which others wait for.
            status, said = shell.run(f"{line.rpartition(' ')[0]} resume")
            assert status == 0, said


def test_each_exemption_is_needed_and_says_what_is_tried_instead() -> None:
    lines = {line for page in PAGES for line in typed(page)}
    assert len(lines) > 90
    for exempt in EXEMPT:
        assert [line for line in lines if exempt.has(line)], f"no such line: {exempt.pattern}"
        assert (CHECKOUT / exempt.instead).exists(), exempt.instead
    for line in sorted(lines):
        assert len(exemptions(line)) <= 1, line
