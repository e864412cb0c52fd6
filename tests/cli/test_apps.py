"""``hbtrio apps``: how the list reads, and what goes wrong on the way to it."""

from __future__ import annotations

import errno
import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hbtrio import cli
from hbtrio.cli import apps
from hbtrio.errors import ExitStatus
from hbtrio.wire.app_status import (
    MAX_STATUS_BYTES,
    ApplicationStatus,
    GuestApplications,
    InhibitionStatus,
    RequestStatus,
    encode_status,
)


def application(name: str, **values: object) -> ApplicationStatus:
    return ApplicationStatus(
        **{
            "name": name,
            "pid": 812,
            "uid": 33,
            "gid": 33,
            "heartbeat_s": 1.0,
            "vote_s": 8,
            "shutdown_notice_s": 8,
            "suspend_notice_s": 8,
            "resume_notice_s": 13,
            "if_silent": "log",
            "health": "healthy",
            "health_s": 200.0,
            "corrective_action": "none",
            "reason": "",
            "requests": [],
            **values,
        }  # type: ignore[arg-type]
    )


STATUS = GuestApplications(
    [
        application(
            "orders",
            if_silent="reboot",
            requests=[
                RequestStatus("vote", "stop", "reject", "3 orders are open", 12.9),
                RequestStatus("notice", "pause", "none", "", 7300.0),
                RequestStatus("vote", "pause", "timeout", "", 200_000.0),
            ],
        ),
        application(
            "web\x1b[2J",
            pid=90,
            heartbeat_s=0.5,
            health="ill",
            health_s=4.0,
            corrective_action="stop",
            reason="disk full",
            inhibits=InhibitionStatus(["pause", "stop"], "a dump (pg_dump, pid 90)", 3700.0),
        ),
    ],
    unregistered=1,
)

LISTED = """\
2 applications registered, 1 connected without a registration

orders: healthy for 3 min
  pid 812, uid 33, gid 33
  heartbeat every 1 s, reboot if it hangs
  vote 8 s; notices: shutdown 8 s, suspend 8 s, resume 13 s
  12 s ago: vote stop: reject (3 orders are open)
  2 h ago: notice pause: no answer
  2 d ago: vote pause: no answer in time

web\\x1b[2J: ill for 4 s
  stop: disk full
  pid 90, uid 33, gid 33
  heartbeat every 0.5 s, log if it hangs
  vote 8 s; notices: shutdown 8 s, suspend 8 s, resume 13 s
  inhibits pause, stop for 1 h: a dump (pg_dump, pid 90)
"""


@contextmanager
def daemon(path: Path, data: bytes, *, hangs: bool = False) -> Iterator[None]:
    """Sends ``data`` to the first who connects, and closes, unless it ``hangs``."""
    over = threading.Event()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            try:
                connection.sendall(data)
            except BrokenPipeError:
                return
            if hangs:
                over.wait(60)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{path}.status")
        listener.listen()
        listener.settimeout(30)  # a command that does not come must not hang the test
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def run(*words: str) -> int:
    return cli.main(["apps", *words])


def test_the_list_is_narrow_and_shows_no_control_characters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with daemon(tmp_path / "api", encode_status(STATUS)):
        assert run("--app-socket", str(tmp_path / "api")) == ExitStatus.DONE
    assert capsys.readouterr().out == LISTED
    assert max(map(len, LISTED.splitlines())) <= 62


def test_one_and_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for count, text in ((0, "0 applications"), (1, "1 application")):
        status = GuestApplications([application("")] * count, 0)
        with daemon(tmp_path / f"{count}", encode_status(status)):
            assert run("--app-socket", str(tmp_path / f"{count}")) == 0
        out = capsys.readouterr().out
        assert out.splitlines()[0] == f"{text} registered"
        assert ("(no name): healthy" in out) is bool(count)


def test_json_is_what_the_daemon_sent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with daemon(tmp_path / "api", encode_status(STATUS)):
        assert run("--json", "--app-socket", str(tmp_path / "api")) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert "\x1b" not in out
    listed = json.loads(out)
    assert listed["unregistered"] == 1
    assert listed["applications"][0]["requests"][0] == {
        "kind": "vote",
        "event": "stop",
        "result": "reject",
        "reason": "3 orders are open",
        "ago_s": 12.9,
    }


def test_the_environment_names_the_socket_and_the_option_comes_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HBTRIO_APP_SOCKET", str(tmp_path / "env"))
    with daemon(tmp_path / "env", encode_status(STATUS)):
        assert run() == 0
    capsys.readouterr()
    assert run("--app-socket", str(tmp_path / "other")) == ExitStatus.UNREACHABLE
    assert f"{tmp_path / 'other'}.status: no guest daemon" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("data", "status", "text"),
    [
        (b"", ExitStatus.UNREACHABLE, "busy with other requests; try again"),
        (encode_status(STATUS)[:-20], ExitStatus.FAILED, "not a list of applications: "),
        (b"x" * (MAX_STATUS_BYTES + 1), ExitStatus.FAILED, f"more than {MAX_STATUS_BYTES} bytes"),
    ],
)
def test_an_answer_that_is_none(
    data: bytes, status: int, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with daemon(tmp_path / "api", data):
        assert run("--app-socket", str(tmp_path / "api")) == status
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"hbtrio apps: {tmp_path / 'api'}.status: ")
    assert text in line


@pytest.mark.parametrize("data", [b"", encode_status(STATUS)[:-20]])
def test_a_daemon_that_hangs_is_given_up(
    data: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apps, "ANSWER_S", 0.2)
    with daemon(tmp_path / "api", data, hangs=True):
        assert run("--app-socket", str(tmp_path / "api")) == ExitStatus.UNREACHABLE
    assert "no answer within 0.2 s" in capsys.readouterr().err


def test_a_path_that_no_socket_can_have(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--app-socket", "/" + 120 * "x") == ExitStatus.USAGE
    assert "too long" in capsys.readouterr().err


def test_others_than_root_and_the_daemon_are_told_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def deny(*_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(socket.socket, "connect", deny)
    assert run("--app-socket", str(tmp_path / "api")) == ExitStatus.DENIED
    assert capsys.readouterr().err == (
        f"hbtrio apps: {tmp_path / 'api'}.status: permission denied; "
        "only root and the guest daemon's user may ask\n"
    )
