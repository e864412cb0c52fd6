"""``hbtrio inhibit``: its arguments, the reason that it gives, and the list."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cli.test_apps import application, daemon
from hbtrio import cli
from hbtrio.cli.inhibit import EVENTS, reason
from hbtrio.errors import ExitStatus
from hbtrio.wire.app_status import GuestApplications, InhibitionStatus, encode_status

LISTED = GuestApplications(
    [
        application("orders"),
        application(
            "inhibit",
            pid=90,
            inhibits=InhibitionStatus(["pause", "stop"], "a dump\x1b (pg_dump, pid 90)", 200.0),
        ),
        application("inhibit", pid=91, inhibits=InhibitionStatus(["stop"], "b", 0.5)),
    ],
    unregistered=0,
)


def run(*words: str) -> int:
    return cli.main(["inhibit", *words])


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        ("--why x", "no command: hbtrio inhibit --why TEXT -- COMMAND (see --help)"),
        ("--why x --", "no command: hbtrio inhibit --why TEXT -- COMMAND (see --help)"),
        ("true", "--why: the reason that operators read is needed"),
        ("--why= -- true", "--why: the reason that operators read is needed"),
        ("--list --why x", "--list takes no command and no --why"),
        ("--list true", "--list takes no command and no --why"),
        ("--json --why x true", "--json needs --list"),
    ],
)
def test_faulty_arguments(words: str, fault: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(*words.split()) == ExitStatus.USAGE
    assert capfd.readouterr() == ("", f"hbtrio inhibit: {fault}\n")


@pytest.mark.parametrize(
    ("what", "fault"),
    [
        ("stopp", "no such event: 'stopp'"),
        ("stop,", "no such event: ''"),
        ("stop,unpause", "can't be rejected: 'unpause'"),
        ("unknown", "no such event: 'unknown'"),
    ],
)
def test_events_that_can_t_be_rejected(
    what: str, fault: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run("--what", what, "--why", "x", "true") == ExitStatus.USAGE
    text = f"argument --what: {fault}; there are {', '.join(EVENTS)}"
    assert capfd.readouterr().err == f"hbtrio inhibit: {text} (see hbtrio inhibit --help)\n"


def test_without_a_guest_daemon_the_command_is_not_started(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    socket, made = tmp_path / "api", tmp_path / "made"
    words = ("--app-socket", str(socket), "--why", "x", "--", "touch", str(made))
    assert run(*words) == ExitStatus.NOT_INHIBITED == 125
    assert capfd.readouterr().err == (
        f"hbtrio inhibit: can't inhibit all events, touch is not started: "
        f"{socket}: no such file or directory\n"
    )
    assert not made.exists()


def test_a_path_that_is_no_socket_s_is_a_fault(capfd: pytest.CaptureFixture[str]) -> None:
    assert run("--app-socket", "x" * 108, "--why", "x", "true") == ExitStatus.USAGE
    (line,) = capfd.readouterr().err.splitlines()
    assert line.endswith("does not have 1 to 107 bytes")


def test_the_reason_has_the_command_and_the_process() -> None:
    assert reason(" a dump ", "/usr/bin/pg_dump", 812) == "a dump (pg_dump, pid 812)"
    assert reason("x", "a/", 1) == "x (a/, pid 1)"


def test_a_long_reason_is_cut_before_the_command() -> None:
    text = reason("é" * 300, "c" * 100, 4194304)
    assert text.endswith(f"é ({'c' * 40}, pid 4194304)")
    assert 190 <= len(text.encode()) <= 191


def test_the_list(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with daemon(tmp_path / "api", encode_status(LISTED)):
        assert run("--list", "--app-socket", str(tmp_path / "api")) == ExitStatus.DONE
    assert capfd.readouterr().out.splitlines() == [
        "2 inhibitors",
        "inhibit (pid 90, uid 33): pause, stop for 3 min: a dump\\x1b (pg_dump, pid 90)",
        "inhibit (pid 91, uid 33): stop for 0 s: b",
    ]


def test_the_list_as_json(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with daemon(tmp_path / "api", encode_status(LISTED)):
        assert run("--list", "--json", "--app-socket", str(tmp_path / "api")) == ExitStatus.DONE
    one = json.loads(capfd.readouterr().out)["inhibitors"][1]
    assert one == {
        "name": "inhibit",
        "pid": 91,
        "uid": 33,
        "gid": 33,
        "events": ["stop"],
        "reason": "b",
        "for_s": 0.5,
    }


def test_the_list_of_an_older_daemon_is_empty(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    older = json.loads(encode_status(GuestApplications([application("orders")], 0)))
    del older["applications"][0]["inhibits"]
    with daemon(tmp_path / "api", json.dumps(older).encode()):
        assert run("--list", "--app-socket", str(tmp_path / "api")) == ExitStatus.DONE
    assert capfd.readouterr().out == "0 inhibitors\n"


def test_nobody_to_list(tmp_path: Path) -> None:
    assert run("--list", "--app-socket", str(tmp_path / "api")) == ExitStatus.UNREACHABLE
    assert os.listdir(tmp_path) == []
