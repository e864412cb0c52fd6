"""`hbtrio ctl` when it is interrupted, loses its host, or is called with a wrong command line."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest
import trio

from hbtrio.cli import main
from hbtrio.cli.ctl.commands import INTERRUPTED
from hbtrio.client import address as ctl_address
from hbtrio.client.address import AGENT_URL, HOST_URL, Address
from hbtrio.config.agent import AgentConfig
from hbtrio.config.host import HostConfig
from hbtrio.errors import ExitStatus
from hbtrio.wire.vocabulary import EVENT_TABLE, VoteResult
from support.control_socket import Ctl
from support.ctl_cases import ONE, answer, fault_of, publish, serving, shown
from support.fake_processes import HANGS, FakeRun
from support.host_world import (
    Reply,
)
from support.time_zone import time_zone

pytestmark = pytest.mark.usefixtures("autojump_clock")


@pytest.fixture(autouse=True)
def _in_utc() -> Iterator[None]:
    with time_zone("UTC"):
        yield


# -- interrupted, or left by the host -------------------------------------------------------


async def test_an_interrupted_act_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    async with serving(runs={"slow": FakeRun(delay_s=5)}) as (world, api):
        await world.heartbeating()
        async with trio.open_nursery() as nursery:
            called = Ctl()
            nursery.start_soon(called.run, api.path, "act", ONE, "stop", "--", "slow")
            await world.at(3)
            signal.raise_signal(signal.SIGINT)
        assert called.status == INTERRUPTED
        assert called.lines[-1] == "command: slow, at most 600 s"
        assert capsys.readouterr().err == (
            f"hbtrio ctl: interrupted: stop on {ONE} continues on the host; "
            "see `hbtrio ctl events`\n"
        )
        await world.at(7)
        assert [moment.time_s for moment in world.processes.ended] == [6.0]
        assert world.processes.cancelled == []


@pytest.mark.parametrize("word", ["vote", "notify"])
async def test_an_interrupted_round_goes_on(capsys: pytest.CaptureFixture[str], word: str) -> None:
    async with serving() as (world, api):
        guest = await world.heartbeating()
        guest.reply = lambda one: Reply(VoteResult.REJECT, "no", after_s=5)
        async with trio.open_nursery() as nursery:
            called = Ctl()
            nursery.start_soon(called.run, api.path, word, ONE, "stop")
            await world.at(3)
            signal.raise_signal(signal.SIGINT)
        assert called.status == INTERRUPTED
        assert " on 00000001-" in (said := capsys.readouterr().err)
        assert said.endswith("continues on the host; see `hbtrio ctl events`\n")
        await world.at(7)
        assert world.reports(since=3)[0][0] == 6.0


class _Head(io.StringIO):
    """A pipe whose reader goes away after so many lines."""

    def __init__(self, lines: int) -> None:
        super().__init__()
        self._left = lines

    def write(self, text: str) -> int:
        if self._left == 0:
            raise BrokenPipeError
        self._left -= 1
        return super().write(text)


@pytest.mark.parametrize(
    ("words", "lines", "said"),
    [
        (
            ("act", ONE, "stop", "--", "true"),
            1,
            f"stop on {ONE} continues on the host; see {{}}",
        ),
        (
            ("act", ONE, "unpause", "--", "true"),
            4,
            f"unpause on {ONE} has ended; see {{}} for the outcome",
        ),
        (
            ("vote", ONE, "stop"),
            1,
            f"the vote on stop on {ONE} has ended; see {{}} for the outcome",
        ),
    ],
)
async def test_whoever_reads_no_more_is_told_that_it_goes_on(
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    lines: int,
    said: str,
) -> None:
    async with serving(runs={"true": FakeRun()}) as (world, api):
        await world.heartbeating()
        called = Ctl(_Head(lines))
        with pytest.raises(BrokenPipeError):
            await called.run(api.path, *words)
        assert len(called.lines) == lines
        text = said.format("`hbtrio ctl events`")
        assert capsys.readouterr().err == f"hbtrio ctl: the output is no longer read: {text}\n"


async def test_whoever_reads_no_more_events_is_told_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with serving() as (world, api):
        publish(world, 3)
        with pytest.raises(BrokenPipeError):
            await Ctl(_Head(1)).run(api.path, "events")
        assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("vote", ONE, "stop"), "the vote on stop"),
        (("notify", ONE, "stop"), "the notice of stop"),
        (("act", ONE, "stop", "--", "slow"), "stop"),
    ],
)
async def test_a_host_that_ends_in_the_middle(words: tuple[str, ...], what: str) -> None:
    async with serving(runs={"slow": HANGS}) as (world, api):
        guest = await world.heartbeating()
        guest.reply = answer(
            vote=None if words[0] == "vote" else Reply(VoteResult.ACCEPT),
            notice=None if words[0] == "notify" else Reply(VoteResult.COMPLETE),
        )
        world.after(2, api.scope.cancel)
        text, status = await fault_of(api.path, *words)
        assert text == (
            f"unix:{api.path}: the daemon went away; the outcome of {what} on {ONE} is unknown; "
            "see `hbtrio ctl status` and `hbtrio ctl events`"
        )
        assert status == ExitStatus.UNREACHABLE
        assert trio.current_time() == 4.0  # it had a second to end in


async def test_an_action_that_crashes_has_no_outcome() -> None:
    async with serving(runs=lambda argv: 1 / 0) as (world, api):
        await world.heartbeating()
        text, status = await fault_of(api.path, "act", ONE, "stop", "--", "true")
        assert text.startswith(f"unix:{api.path}: the daemon ended it without an outcome; ")
        assert status == ExitStatus.UNREACHABLE
        world.crashes = 1


# -- the command line, and the way to the host ----------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "the following arguments are required: COMMAND (see hbtrio ctl --help)"),
        (["vote"], "the following arguments are required: EVENT (see hbtrio ctl vote --help)"),
        (["forget", "x", "y"], "unrecognized arguments: y (see hbtrio ctl --help)"),
        (
            ["status", "--state", "losst"],
            "argument --state: no such state: 'losst', did you mean lost? "
            "(see hbtrio ctl status --help)",
        ),
        (["status", "--", "x"], "status takes no command after -- (see hbtrio ctl status --help)"),
        (
            ["events", "--recent", "-1"],
            "argument --recent: not a number from 0 to 99999: '-1' (see hbtrio ctl events --help)",
        ),
        (
            ["events", "--recent", "many"],
            "argument --recent: not a number from 0 to 99999: 'many' "
            "(see hbtrio ctl events --help)",
        ),
        (
            ["--url", "host.sock", "status"],
            "host.sock: neither unix:PATH nor http[s]://HOST[:PORT]",
        ),
        (["--url", "", "status"], ": neither unix:PATH nor http[s]://HOST[:PORT]"),
        (
            ["--url", "https://x/v1", "status"],
            "https://x/v1: neither unix:PATH nor http[s]://HOST[:PORT]",
        ),
        (  # no name of a host has this form
            ["--url", "http://xn--a", "status"],
            "http://xn--a: neither unix:PATH nor http[s]://HOST[:PORT]",
        ),
        (["--url", "http://", "status"], "http://: neither unix:PATH nor http[s]://HOST[:PORT]"),
        (
            ["--url", "http://x:y", "status"],
            "http://x:y: neither unix:PATH nor http[s]://HOST[:PORT]",
        ),
        (
            ["--url", "http://127.0.0.1:1", "--ca", "/x", "status"],
            "http://127.0.0.1:1: certificates are for https only",
        ),
        (
            ["--certificate", "/c", "--key", "/k", "status"],
            f"{HOST_URL}: certificates are for https only",
        ),
        (
            ["--url", "https://127.0.0.1:1", "--certificate", "/c", "status"],
            "--certificate and --key go together",
        ),
        (
            ["--url", "https://127.0.0.1:1", "--key", "/k", "status"],
            "--certificate and --key go together",
        ),
        (
            ["--url", "https://127.0.0.1:1", "--ca", "/no/ca.pem", "status"],
            "https://127.0.0.1:1: /no/ca.pem: no such file or directory",
        ),
        (
            ["--url", "http://x:99999", "status"],
            "http://x:99999: the port must be 1 to 65535, not 99999",
        ),
        (["--url", "https://x:0", "status"], "https://x:0: the port must be 1 to 65535, not 0"),
        (
            ["--url", f"unix:/{'x' * 120}", "status"],
            f"unix:/{'x' * 120}: a socket's path has at most 107 bytes, this one has 121",
        ),
        (
            ["act", ONE, "reboot", "virsh", "reboot", "-x", "1"],
            "put -- before the command: -- virsh reboot -x 1 (see hbtrio ctl act --help)",
        ),
        (["act", ONE, "reboot", "-x"], "unrecognized arguments: -x (see hbtrio ctl --help)"),
        (
            ["vote", "web-1", "live-migrate"],
            "argument EVENT: no such event: 'live-migrate', did you mean live_migrate_begin? "
            "(see hbtrio ctl vote --help)",
        ),
        (
            ["notify", "web-1", "live_migrate"],
            "argument EVENT: no such event: 'live_migrate', did you mean live_migrate_begin or "
            "live_migrate_end? (see hbtrio ctl notify --help)",
        ),
        (
            ["act", "x", "live_migrate"],
            "argument ACTION: no such action: 'live_migrate', did you mean live-migrate? "
            "(see hbtrio ctl act --help)",
        ),
        (
            ["act", "x", "rebot"],
            "argument ACTION: no such action: 'rebot', did you mean reboot? "
            "(see hbtrio ctl act --help)",
        ),
        (
            ["history", "--limit", "1001"],
            "argument --limit: not a number from 0 to 1000: '1001' (see hbtrio ctl history --help)",
        ),
        (
            ["--url", "http://x/v1", "status"],
            "http://x/v1: neither unix:PATH nor http[s]://HOST[:PORT]",
        ),
        (
            ["--url", "http://a@x", "status"],
            "http://a@x: neither unix:PATH nor http[s]://HOST[:PORT]",
        ),
        (
            ["--url", "\x1b[1m", "status"],
            "\\x1b[1m: neither unix:PATH nor http[s]://HOST[:PORT]",
        ),
        (
            ["--url", "unix:", "status"],
            "unix:: names no socket, such as unix:/run/hbtrio/host.sock",
        ),
        (
            ["--url", "unix:/", "status"],
            "unix:/: names no socket, such as unix:/run/hbtrio/host.sock",
        ),
    ],
)
def test_faulty_command_lines(
    capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert shown(capsys, *words) == (ExitStatus.USAGE, f"hbtrio ctl: {said}")


def test_events_that_are_not_voted_on(capsys: pytest.CaptureFixture[str]) -> None:
    for event in (event for event, rule in EVENT_TABLE.items() if not rule.voted):
        status, said = shown(capsys, "vote", ONE, str(event))
        assert status == ExitStatus.USAGE
        assert f": argument EVENT: {event}: not voted on, only notified (see " in said


def test_unknown_words(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["vote", ONE, "frob"], ["notify", ONE, "unknown"], ["act", ONE, "fly"]):
        status, said = shown(capsys, *words)
        assert status == ExitStatus.USAGE
        assert f": no such {'action' if words[0] == 'act' else 'event'}: '{words[2]}', " in said
        assert "', choose from stop, reboot, pause, " in said


def test_no_such_socket(capsys: pytest.CaptureFixture[str]) -> None:
    url = "unix:/nowhere/host.sock"
    assert shown(capsys, "--url", url, "status") == (
        ExitStatus.UNREACHABLE,
        f"hbtrio ctl: {url}: no such socket; is hbtrio host or agent running?",
    )


def test_the_longest_path(capsys: pytest.CaptureFixture[str]) -> None:
    status, said = shown(capsys, "--url", f"unix:/{'x' * 106}", "status")
    assert status == ExitStatus.UNREACHABLE
    assert "no such socket" in said


@pytest.mark.parametrize("place", ["", "file"])
def test_what_is_no_socket(capsys: pytest.CaptureFixture[str], place: str) -> None:
    with tempfile.TemporaryDirectory(prefix="hbt-") as folder:
        path = os.path.join(folder, place)
        if place:
            with open(path, "w"):
                pass
        assert shown(capsys, "--url", f"unix:{path}", "status") == (
            ExitStatus.USAGE,
            f"hbtrio ctl: unix:{path}: is not a socket",
        )


def test_nobody_listens(capsys: pytest.CaptureFixture[str]) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="hbt-") as folder,
        socket.socket(socket.AF_UNIX) as dead,
    ):
        path = os.path.join(folder, "s")
        dead.bind(path)
        assert shown(capsys, "--url", f"unix:{path}", "status") == (
            ExitStatus.UNREACHABLE,
            f"hbtrio ctl: unix:{path}: connection refused; is hbtrio host or agent running?",
        )


async def test_permission_denied() -> None:
    async with serving() as (world, api):
        await world.heartbeating()
        os.chmod(os.path.dirname(api.path), 0o755)
        os.chmod(api.path, 0o600 if os.geteuid() == 0 else 0)
        user = os.geteuid()
        if user == 0:  # whom no permission keeps out
            os.seteuid(65534)
        try:
            fault = await fault_of(api.path, "status")
        finally:
            os.seteuid(user)
        assert fault == (f"unix:{api.path}: permission denied", ExitStatus.DENIED)


def test_the_defaults_are_where_daemons_listen() -> None:
    assert f"unix:{HostConfig().control_socket}" == HOST_URL
    assert AgentConfig().operator.listen == AGENT_URL


def test_where_nobody_says_where(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(prefix="hbt-") as folder:
        host, agent = (os.path.join(folder, name) for name in ("host", "agent"))
        monkeypatch.setattr(ctl_address, "HOST_URL", f"unix:{host}")
        monkeypatch.setattr(ctl_address, "AGENT_URL", f"unix:{agent}")
        assert Address.chosen(None, {}).socket == host
        os.mkfifo(agent)
        assert Address.chosen(None, {}).socket == agent
        os.mkfifo(host)
        assert Address.chosen(None, {"HBTRIO_URL": ""}).socket == host
        told = {"HBTRIO_URL": "http://127.0.0.1:2412"}
        assert Address.chosen(None, told).base == "http://127.0.0.1:2412"
        assert Address.chosen("unix:/x", told).socket == "/x"


def test_a_faulty_variable_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HBTRIO_URL", "host.sock")
    assert shown(capsys, "status") == (
        ExitStatus.USAGE,
        "hbtrio ctl: HBTRIO_URL: host.sock: neither unix:PATH nor http[s]://HOST[:PORT]",
    )


@pytest.mark.parametrize(
    "words",
    [
        ("status", "--url", "unix:/nowhere/x"),
        ("--url", "unix:/elsewhere", "status", "--url", "unix:/nowhere/x"),
        ("--url", "unix:/nowhere/x", "act", ONE, "stop", "--", "true", "--url", "unix:/elsewhere"),
    ],
)
def test_options_may_be_behind_the_command(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    status, said = shown(capsys, *words)
    assert status == ExitStatus.UNREACHABLE
    assert said.startswith("hbtrio ctl: unix:/nowhere/x: no such socket")


def test_help_tells_the_words(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ("status", "vote", "notify", "events", "act"):
        with pytest.raises(SystemExit) as ended:
            main(["ctl", words, "--help"])
        assert ended.value.code == 0
        assert f"usage: hbtrio ctl {words} " in capsys.readouterr().out


@pytest.mark.processes
def test_what_is_imported() -> None:
    code = (
        "import sys; from hbtrio.cli import main; "
        "main(['ctl', '--url', 'unix:/nowhere', 'status']); print(*sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ended.stderr.count("\n") == 1
    modules = set(ended.stdout.split())
    assert {"starlette", "trio_serial", "cattrs", "inotify_simple", "uvicorn"} & modules == set()
    daemons = tuple(
        f"hbtrio.{package}."
        for package in ("api", "client", "http", "net", "nursery", "store", "system")
    )
    assert {name for name in modules if name.startswith(daemons)} == {
        "hbtrio.client.address",
        "hbtrio.client.client",
        "hbtrio.client.faults",
        "hbtrio.client.stream",
        "hbtrio.net.begin_by_header",
        "hbtrio.net.tls",
        "hbtrio.net.token_file",
        "hbtrio.net.unix_connect",
        "hbtrio.system.boot_clock",
    }


@pytest.mark.processes
def test_a_mistyped_command_needs_no_client() -> None:
    code = "import sys; from hbtrio.cli import main; main(['ctl', 'statsu']); print(*sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert {"trio", "httpx", "rich"} & set(ended.stdout.split()) == set()


@pytest.mark.processes
def test_a_reader_that_has_had_enough(tmp_path: Any) -> None:
    """`hbtrio ctl events | head` is no fault that anybody is told of."""
    code = (
        "import sys; from hbtrio.cli.ctl.screen import Screen; import hbtrio.cli.ctl as ctl; "
        "from hbtrio.cli import main; "
        "ctl.run = lambda options: [Screen.of(sys.stdout).line('x' * 70) for _ in range(10000)]; "
        "sys.exit(main(['ctl', 'status']))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == ExitStatus.FAILED
