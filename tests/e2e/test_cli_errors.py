"""Whatever a command is given: one clear line for each fault, an exit status, never a traceback."""

from __future__ import annotations

import os
import pty
import re
import shlex
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from hbtrio.cli import COMMANDS
from hbtrio.lab.daemon import Daemon
from support.real_agent import real_agent
from support.real_processes import POWERLESS, Ran, hbtrio, hbtrio_each, logged

pytestmark = pytest.mark.processes

UUID = "11111111-1111-4111-8111-111111111111"
OTHER = "22222222-2222-4222-8222-222222222222"

#: A command line in the words of a shell, its exit status, and its lines on standard error without
#: the name of the command. {home} is a directory, … stands for any text.
Case = tuple[str, int, list[str]]


async def check(cases: list[Case], home: Path, prefix: tuple[str, ...] = ()) -> None:
    """Runs every command line, and tells of all that ended otherwise than they should."""
    command_lines = [shlex.split(words.format(home=home)) for words, _, _ in cases]
    all_ran = await hbtrio_each(*command_lines, prefix=prefix)
    wrong = {}
    for arguments, (_, status, lines), ran in zip(command_lines, cases, all_ran, strict=True):
        command = arguments[0] if arguments[0] in COMMANDS else ""
        name = f"hbtrio {command}: " if command else "hbtrio: "
        expected = [name + line.format(home=home) for line in lines]
        fits = len(ran.err) == len(expected) and all(map(matches, expected, ran.err))
        if (ran.status, ran.out) != (status, []) or not fits:
            wrong[shlex.join(arguments)] = ran
    assert wrong == {}
    # What one process says of many is what each command says by itself.
    assert await hbtrio(*command_lines[0], prefix=prefix) == all_ran[0]


def matches(pattern: str, line: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, pattern.split("…"))), line) is not None


@pytest.fixture
def files(home: Path) -> Path:
    """Files and sockets for better or worse, in ``home``."""
    (home / "ch").mkdir()
    (home / "file").touch()
    for name, text in {
        "bad.conf": "HB_INTERVAL=100\nVOT=8\nfoo\nVOTE=8s\nCORRECTIVE_ACTION=Reboot\n",
        "bad.toml": "channel_dir = 7\nfoo = 1\n[brake]\nshare = 1.5\n[heartbeats]\n",
        "syntax.toml": "channel_dir = \n",
        "clash.toml": "[heartbeat]\ninterval_min_ms = 5000\ninterval_max_ms = 4000\n",
        "command.toml": '[corrective-commands]\nreboot = ["virsh", "reset", "{name}"]\n',
    }.items():
        (home / name).write_text(text)
    (home / "latin.conf").write_bytes(b"VOTE=8\n# caf\xe9\n")
    (home / "large.toml").write_text("# all is well\n" * 5000)
    os.mkfifo(home / "fifo")
    return home


@asynccontextmanager
async def daemon(home: Path, *arguments: str) -> AsyncIterator[Path]:
    """A daemon that is expected to run; gives its log."""
    log = home / f"{arguments[0]}.log"
    running = await Daemon.start(arguments[0], arguments, log)
    try:
        yield log
        assert running.status is None
    finally:
        status = await running.stop()
    assert status == 0
    assert "Traceback" not in log.read_text()


@pytest.fixture
def channel(home: Path) -> Iterator[socket.socket]:
    """A VM's channel as QEMU makes it; nobody accepts, so that a client waits in its backlog."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(home / f"cgcs.heartbeat.{UUID}.sock"))
        listener.listen(8)
        yield listener


# -- command lines and files ----------------------------------------------------------------


async def test_no_command() -> None:
    ran = await hbtrio()
    assert (ran.status, ran.out) == (2, [])
    assert ran.err[0] == "usage: hbtrio COMMAND [OPTION...]"
    assert [line.split()[0] for line in ran.err[2:-2]] == list(COMMANDS)


async def test_unknown_commands_and_arguments(files: Path) -> None:
    known = ", ".join(COMMANDS)
    await check(
        [
            ("frobnicate", 2, [f"no command 'frobnicate'; there are {known}"]),
            ("status", 2, [f"no command 'status'; there are {known}"]),
            ("--frob", 2, [f"no command '--frob'; there are {known}"]),
            ("''", 2, [f"no command ''; there are {known}"]),
            ("guest --frob", 2, ["unrecognized arguments: --frob (see hbtrio guest --help)"]),
            ("guest x", 2, ["unrecognized arguments: x (see hbtrio guest --help)"]),
            ("guest --config", 2, ["argument --config: …argument (see hbtrio guest --help)"]),
            (
                "guest --log x",
                2,
                ["argument --log: invalid choice: 'x' … (see hbtrio guest --help)"],
            ),
            ("host --keep", 2, ["unrecognized arguments: --keep (see hbtrio host --help)"]),
            ("host --log x", 2, ["argument --log: invalid choice: 'x' … (see hbtrio host --help)"]),
            ("lab --frob", 2, ["unrecognized arguments: --frob (see hbtrio lab --help)"]),
            ("lab x", 2, ["unrecognized arguments: x (see hbtrio lab --help)"]),
            ("check-config", 2, ["…required: FILE (see hbtrio check-config --help)"]),
        ],
        files,
    )


async def test_guest(files: Path) -> None:
    none = "--device {home}/none"
    bad = [
        "{home}/bad.conf:1: HB_INTERVAL: must be 400 to 60000 ms, got 100",
        "{home}/bad.conf:2: VOT: unknown key, did you mean VOTE?",
        '{home}/bad.conf:3: no = in "foo", expected KEY=VALUE',
        '{home}/bad.conf:4: VOTE: must be a whole number, got "8s"',
        '{home}/bad.conf:5: CORRECTIVE_ACTION: must be one of log, reboot, stop, got "Reboot"',
    ]
    missing = "no such device; this VM has no heartbeat channel"
    neither = "neither a character device nor a unix socket"
    await check(
        [
            (f"guest {none}", 6, [f"{{home}}/none: {missing}"]),
            ("guest --device {home}/file", 2, [f"{{home}}/file: {neither}"]),
            ("guest --device {home}/ch", 2, [f"{{home}}/ch: {neither}"]),
            ("guest --device {home}/fifo", 2, [f"{{home}}/fifo: {neither}"]),
            ("guest --device {home}/file/x", 2, ["{home}/file/x: not a directory"]),
            (
                "guest --device /dev/null",
                2,
                ["/dev/null: neither a virtio-serial port nor a terminal"],
            ),
            (f"guest {none} --config {{home}}/none", 2, ["{home}/none: no such file"]),
            (
                f"guest {none} --config {{home}}/ch",
                2,
                ["{home}/ch: cannot be read: Is a directory"],
            ),
            (f"guest {none} --config {{home}}/fifo", 2, ["{home}/fifo: not a regular file"]),
            (
                f"guest {none} --config {{home}}/latin.conf",
                2,
                ["{home}/latin.conf:2: not UTF-8 (byte 0xe9)"],
            ),
            (f"guest {none} --config {{home}}/bad.conf", 2, bad),
            ("check-config {home}/bad.conf", 2, bad),
            ("check-config {home}/none.conf", 2, ["{home}/none.conf: no such file"]),
        ],
        files,
    )


async def test_host(files: Path) -> None:
    host = "host --channel-dir {home}/ch --control-socket {home}/host.sock"
    bad = [
        "{home}/bad.toml:1: channel_dir: must be a string, got 7",
        "{home}/bad.toml:4: brake.share: must be over 0 and at most 1, got 1.5",
        "{home}/bad.toml:2: foo: unknown key",
        "{home}/bad.toml:5: heartbeats: unknown key, did you mean heartbeat?",
    ]
    await check(
        [
            (f"{host} --channel-dir {{home}}/file", 2, ["{home}/file: Not a directory"]),
            (
                f"{host} --channel-dir ''",
                2,
                ['options: channel_dir: must be an absolute path, got ""'],
            ),
            (
                f"{host} --channel-dir /{'d' * 60}",
                2,
                [
                    "options: channel_dir and channel_patterns make a path of 118 bytes, a unix "
                    "socket path has at most 107"
                ],
            ),
            (
                f"{host} --control-socket {{home}}/file",
                2,
                ["{home}/file: exists and is not a socket"],
            ),
            (
                f"{host} --control-socket {{home}}/none/host.sock",
                2,
                ["{home}/none/host.sock: its directory does not exist"],
            ),
            (
                f"{host} --control-socket /{'d' * 120}",
                2,
                ["options: control_socket: must be at most 106 bytes long, got 121"],
            ),
            (f"{host} --events {{home}}/ch", 2, ["events file {home}/ch: is a directory"]),
            (
                f"{host} --events {{home}}/none/x",
                2,
                ["events file {home}/none/x: no such file or directory"],
            ),
            (f"{host} --config {{home}}/none", 2, ["{home}/none: no such file"]),
            (f"{host} --config {{home}}/bad.toml", 2, bad),
            ("check-config {home}/bad.toml", 2, ["{home}/bad.toml: checked as a host's", *bad]),
            (
                f"{host} --config {{home}}/syntax.toml",
                2,
                ["{home}/syntax.toml:1:15: Invalid value"],
            ),
            (
                "check-config {home}/large.toml",
                2,
                ["{home}/large.toml: over 65536 bytes, too large for a configuration"],
            ),
            (
                "check-config {home}/clash.toml",
                2,
                [
                    "{home}/clash.toml: checked as a host's",
                    "{home}/clash.toml:2: heartbeat: interval_min_ms (5000) must be at … (4000)",
                ],
            ),
            (
                "check-config {home}/command.toml",
                2,
                [
                    "{home}/command.toml: checked as a host's",
                    "{home}/command.toml:2: corrective-commands.reboot: …name…",
                ],
            ),
        ],
        files,
    )


async def test_ctl(files: Path) -> None:
    ctl = "ctl --url unix:{home}/none"
    unreachable = "unix:{home}/none: no such socket; is hbtrio host or agent running?"
    await check(
        [
            ("ctl", 2, ["…required: COMMAND (see hbtrio ctl --help)"]),
            ("ctl frob", 2, ["argument COMMAND: invalid choice: 'frob' … (see hbtrio ctl --help)"]),
            ("ctl forget x y", 2, ["unrecognized arguments: y (see hbtrio ctl --help)"]),
            (
                "ctl status -- x",
                2,
                ["status takes no command after -- (see hbtrio ctl status --help)"],
            ),
            ("ctl vote", 2, ["…required: EVENT (see hbtrio ctl vote --help)"]),
            (
                f"ctl vote {UUID} resume",
                2,
                ["argument EVENT: resume: not voted on, only notified (see …)"],
            ),
            (f"ctl act {UUID}", 2, ["ACTION: which action? One of stop, reboot and so on"]),
            (f"ctl act {UUID} x", 2, ["argument ACTION: …'x'… (see hbtrio ctl act --help)"]),
            (
                "ctl events --recent x",
                2,
                ["argument --recent: not a number from 0 to 99999: 'x' (see …events --help)"],
            ),
            ("ctl --url x status", 2, ["x: neither unix:PATH nor http[s]://HOST[:PORT]"]),
            (
                "ctl --url ftp://h status",
                2,
                ["ftp://h: neither unix:PATH nor http[s]://HOST[:PORT]"],
            ),
            (
                "ctl --url unix: status",
                2,
                ["unix:: names no socket, such as unix:/run/hbtrio/host.sock"],
            ),
            (f"{ctl} status", 5, [unreachable]),
            (f"{ctl} events --follow", 5, [unreachable]),
            (f"{ctl} vote {UUID} stop", 5, [unreachable]),
            (f"{ctl} act {UUID} stop -- true", 5, [unreachable]),
            (
                "ctl --url unix:{home}/file status",
                2,
                ["unix:{home}/file: is not a socket"],
            ),
            (
                f"ctl --url unix:/{'d' * 120} status",
                2,
                [f"unix:/{'d' * 120}: a socket's path has at most 107 bytes, this one has 121"],
            ),
        ],
        files,
    )


async def test_what_permissions_forbid(files: Path) -> None:
    for name, mode in {"sealed": 0o000, "readonly": 0o555}.items():
        (files / name).mkdir(mode=mode)
    for name in ("x.conf", "x.toml", "events"):
        (files / name).touch(mode=0o000)
    terminal, device = pty.openpty()
    os.fchmod(device, 0o000)
    with socket.socket(socket.AF_UNIX) as served:
        served.bind(str(files / "x.sock"))
        served.listen()
        os.chmod(files / "x.sock", 0o000)
        unbound = await trio.run_process(
            [*POWERLESS, "/bin/cat", str(files / "x.conf")], check=False, capture_stderr=True
        )
        if unbound.returncode == 0:
            pytest.skip("permissions do not bind this user, and can't be made to")
        host = "host --channel-dir {home}/ch --control-socket {home}/host.sock"
        await check(
            [
                ("guest --device {home}/x.sock", 8, ["{home}/x.sock: permission denied"]),
                ("guest --device {home}/sealed/x", 8, ["{home}/sealed/x: permission denied"]),
                (
                    f"guest --device {os.ttyname(device)}",
                    8,
                    [f"{os.ttyname(device)}: permission denied"],
                ),
                (
                    "guest --config {home}/x.conf",
                    8,
                    ["{home}/x.conf: cannot be read: Permission denied"],
                ),
                (
                    f"{host} --config {{home}}/x.toml",
                    8,
                    ["{home}/x.toml: cannot be read: Permission denied"],
                ),
                (
                    "check-config {home}/x.toml",
                    8,
                    ["{home}/x.toml: cannot be read: Permission denied"],
                ),
                (f"{host} --channel-dir {{home}}/sealed", 8, ["{home}/sealed: Permission denied"]),
                (
                    f"{host} --control-socket {{home}}/readonly/x",
                    8,
                    ["{home}/readonly/x: Permission denied"],
                ),
                (
                    f"{host} --events {{home}}/events",
                    8,
                    ["events file {home}/events: permission denied"],
                ),
                (
                    f"{host} --events {{home}}/readonly/x",
                    8,
                    ["events file {home}/readonly/x: permission denied"],
                ),
                (
                    "ctl --url unix:{home}/x.sock status",
                    8,
                    ["unix:{home}/x.sock: permission denied"],
                ),
            ],
            files,
            prefix=POWERLESS,
        )
    os.close(terminal)
    os.close(device)


async def test_help_fits_100_columns() -> None:
    asked = [
        "",
        *COMMANDS,
        *(f"ctl {command}" for command in ("status", "vote", "notify", "events", "act")),
    ]
    command_lines = [[*words.split(), "--help"] for words in asked]
    all_ran = await hbtrio_each(*command_lines, env={"COLUMNS": "100"})
    for words, ran in zip(asked, all_ran, strict=True):
        assert (ran.status, ran.err) == (0, [])
        assert f"usage: hbtrio {words}".rstrip() in ran.out[0]
        assert max(map(len, ran.out)) <= 100


@pytest.mark.parametrize(
    "words",
    ["--help", "--version", "ctl --help", "lab", "check-config {home}/ok.conf"],
)
async def test_a_standard_output_that_takes_nothing(home: Path, words: str) -> None:
    (home / "ok.conf").touch()
    arguments = words.format(home=home).split()
    name = "hbtrio" if words.startswith("--") else f"hbtrio {arguments[0]}"
    for redirected, fault in ((">/dev/full", "no space left on device"), (">&-", "closed")):
        prefix = ("sh", "-c", f'exec "$@" {redirected}', "sh")
        ran = await hbtrio(*arguments, prefix=prefix)
        assert ran == Ran(1, [], [f"{name}: standard output: {fault}"])


async def test_events_without_a_standard_output(home: Path) -> None:
    places = ("--channel-dir", str(home), "--control-socket", str(home / "host.sock"))
    closed = ("sh", "-c", 'exec "$@" >&-', "sh")
    ran = await hbtrio("host", *places, "--events", "-", prefix=closed)
    assert ran == Ran(2, [], ["hbtrio host: events file -: standard output is closed"])


# -- what others hold -----------------------------------------------------------------------


async def test_beside_a_running_host(files: Path, channel: socket.socket) -> None:
    (files / "also").mkdir()
    places = ("--channel-dir", str(files), "--control-socket", str(files / "host.sock"))
    async with daemon(files, "host", *places) as log:
        await logged(log, "serves")
        ctl = "ctl --url unix:{home}/host.sock"
        await check(
            [
                (
                    "host --channel-dir {home} --control-socket {home}/other.sock",
                    7,
                    ["{home}: another hbtrio host serves these channels"],
                ),
                (
                    "host --channel-dir {home}/also --control-socket {home}/host.sock",
                    7,
                    ["{home}/host.sock: another process serves it"],
                ),
                (f"{ctl} vote {OTHER} stop", 1, [f"no instance {OTHER} on this host"]),
                (f"{ctl} vote 2222 stop", 1, ["no instance 2222 on this host"]),
                (f"{ctl} vote '' stop", 2, ["UUID: must not be empty"]),
                (f"{ctl} vote {UUID} stop", 1, [f"{UUID} is not heartbeating: discovered"]),
                (
                    f"{ctl} act {UUID} stop",
                    1,
                    ["no command for stop: give one after --, or set stop in [actions]"],
                ),
                (f"{ctl} act {UUID} stop -- x {{{{name}}}}", 2, ["command: …{{name}}…"]),
            ],
            files,
        )
        ran = await hbtrio("ctl", "--url", f"unix:{files}/host.sock", "status")
        assert (ran.status, ran.err) == (0, [])
        to_full = ("sh", "-c", 'exec "$@" >/dev/full', "sh")
        ran = await hbtrio("ctl", "--url", f"unix:{files}/host.sock", "status", prefix=to_full)
        assert ran == Ran(1, [], ["hbtrio ctl: standard output: no space left on device"])


async def test_what_an_agent_listens_on_for_others(files: Path) -> None:
    async with real_agent(files) as agent:
        vim = f"http://127.0.0.1:{agent.vim_port}"
        not_ours = f"{vim}: this is the agent's API for the VIM, not its operator API"
        await check(
            [
                (f"ctl --url {vim} status", 2, [not_ours]),
                (f"ctl --url {vim} events", 2, [not_ours]),
                (f"ctl --url {vim} vote {UUID} stop", 2, [not_ours]),
                (f"ctl --url {vim} act {UUID} stop -- true", 2, [not_ours]),
                (
                    "ctl --url unix:{home}/link status",
                    5,
                    ["unix:{home}/link: the daemon went away…; or this is not the operator…"],
                ),
            ],
            files,
        )


async def test_a_channel_directory_that_is_made_later_is_waited_for(home: Path) -> None:
    place = home / "later"
    arguments = ("--channel-dir", str(place), "--control-socket", str(home / "host.sock"))
    async with daemon(home, "host", *arguments) as log:
        await logged(log, f"{place}: No such file or directory, waiting for the directory")
        place.mkdir()
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(place / f"cgcs.heartbeat.{UUID}.sock"))
            listener.listen()
            with trio.fail_after(5.0):
                await trio.lowlevel.wait_readable(listener)
    [line] = [line for line in log.read_text().splitlines() if "waiting for the directory" in line]
    # With its time and level, and so in syslog too, though it is said before all else.
    assert " WARNING " in line


async def test_a_channel_that_another_client_holds(home: Path, channel: socket.socket) -> None:
    path = channel.getsockname()
    (home / "host.toml").write_text("[heartbeat]\nreconnect_silent_s = 1\n")
    with socket.socket(socket.AF_UNIX) as intruder:
        intruder.connect(path)
        held, _ = channel.accept()
        with held:
            arguments = (
                *("--config", str(home / "host.toml"), "--channel-dir", str(home)),
                *("--control-socket", str(home / "host.sock")),
            )
            async with daemon(home, "host", *arguments) as log:
                silent = "reconnecting: connected, but no heartbeat for 1 s (waiting)"
                await logged(log, silent, times=2)
    suspicion = (
        f"{path}: no data received: no guest is running, or another client holds the channel"
    )
    said = [line for line in log.read_text().splitlines() if "no data received" in line]
    assert [line.partition(" WARNING ")[2] for line in said] == [f"{UUID}: {suspicion}"]


async def test_a_unix_socket_device_that_another_client_holds(
    home: Path, channel: socket.socket
) -> None:
    (home / "guest.conf").write_text("HB_INIT_RETRY=100\n")
    arguments = ("--config", str(home / "guest.conf"), "--device", channel.getsockname())
    async with daemon(home, "guest", *arguments, "--app-socket", str(home / "api")) as log:
        await logged(log, "no host has acknowledged")
    said = [line for line in log.read_text().splitlines() if "no host" in line]
    assert [line.partition(" WARNING ")[2] for line in said] == [
        "Guest-Client no host has acknowledged 3 inits: no host is connected, or another process "
        "holds the channel"
    ]


async def test_a_device_that_another_guest_holds(home: Path) -> None:
    terminal, device = pty.openpty()
    path = os.ttyname(device)
    try:
        arguments = ("--device", path, "--app-socket", str(home / "api"))
        async with daemon(home, "guest", *arguments) as log:
            await logged(log, "from initial to enabling")
            await check(
                [(f"guest --device {path}", 7, [f"{path}: another process holds it"])], home
            )
    finally:
        os.close(terminal)
        os.close(device)
