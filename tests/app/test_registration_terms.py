"""Arguments are checked where they are given."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hbtrio.app import DEFAULT_SOCKET, Accept, Application, Healthy, Reject, Unhealthy, Vote
from hbtrio.app.registration import Registration, socket_path
from hbtrio.wire.vocabulary import CorrectiveAction

TERMS: dict[str, Any] = {
    "name": "db",
    "heartbeat_s": 1,
    "vote_s": 1,
    "shutdown_notice_s": 1,
    "suspend_notice_s": 1,
    "resume_notice_s": 1,
    "corrective_action": "log",
    "health_every_s": None,
}


@pytest.mark.parametrize(
    ("argument", "value", "fault"),
    [
        ("name", "", "name: '' is not one or more printable characters"),
        ("name", "a\nb", "name: 'a\\nb' is not one or more printable characters"),
        ("name", "é" * 20, f"name: '{'é' * 20}' has more than 39 bytes in UTF-8"),
        ("heartbeat_s", 0.399, "heartbeat_s: 0.399 is not within 0.4 to 3600 s"),
        ("heartbeat_s", float("nan"), "heartbeat_s: nan is not within 0.4 to 3600 s"),
        ("heartbeat_s", 1000, None),
        ("heartbeat_s", 3601, "heartbeat_s: 3601 is not within 0.4 to 3600 s"),
        ("vote_s", 0, "vote_s: 0 is not within 1 to 86400 s"),
        ("vote_s", 2.5, "vote_s: 2.5 is not a whole number of seconds"),
        ("vote_s", 2.0, None),
        ("shutdown_notice_s", -1, "shutdown_notice_s: -1 is not within 1 to 86400 s"),
        ("suspend_notice_s", 86_401, "suspend_notice_s: 86401 is not within 1 to 86400 s"),
        ("resume_notice_s", float("inf"), "resume_notice_s: inf is not within 1 to 86400 s"),
        ("health_every_s", 0.01, "health_every_s: 0.01 is not within 0.1 to 3600 s"),
        (
            "corrective_action",
            "explode",
            "corrective_action: 'explode' is not one of none, log, reboot, stop",
        ),
        (
            "corrective_action",
            CorrectiveAction.UNKNOWN,
            "corrective_action: 'unknown' is not one of none, log, reboot, stop",
        ),
        ("socket", "/a\0b", "socket: '/a\\x00b' has a NUL in it"),
        ("socket", "/\ud800", "socket: '/\\ud800' can't be the name of a file"),
        ("socket", "", "socket: '' does not have 1 to 107 bytes"),
        ("socket", "/" + 107 * "x", f"socket: '/{107 * 'x'}' does not have 1 to 107 bytes"),
    ],
)
def test_what_is_out_of_range(argument: str, value: object, fault: str | None) -> None:
    arguments: dict[str, Any] = {"name": "db", argument: value}
    if fault is None:
        Application(**arguments)
        return
    with pytest.raises(ValueError) as raised:
        Application(**arguments)
    assert str(raised.value) == fault


@pytest.mark.parametrize(
    ("argument", "value", "fault"),
    [
        ("name", b"db", "b'db' is not text"),
        ("heartbeat_s", "1", "'1' is not a number"),
        ("heartbeat_s", True, "True is not a number"),
        ("vote_s", None, "None is not a number"),
        ("vote_s", True, "True is not a number"),
        ("health_every_s", "often", "'often' is not a number"),
        ("corrective_action", None, "None is not one of none, log, reboot, stop"),
        ("corrective_action", 2, "2 is not one of none, log, reboot, stop"),
        ("on_vote", "yes", "'yes' is not callable"),
        ("on_notice", 1, "1 is not callable"),
        ("on_health", True, "True is not callable"),
        ("socket", 7, "7 is neither text nor a path of text"),
        ("socket", b"/api", "b'/api' is neither text nor a path of text"),
    ],
)
def test_what_is_of_another_kind(argument: str, value: object, fault: str) -> None:
    with pytest.raises(TypeError, match=f"^{argument}: {re.escape(fault)}$"):
        Application(**{"name": "db", argument: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("heartbeat_s", "interval_ms"), [(0.4, 400), (0.4001, 401), (1, 1000), (1.1, 1100), (2.3, 2300)]
)
def test_the_interval_is_never_rounded_down(heartbeat_s: float, interval_ms: int) -> None:
    registration = Registration(**{**TERMS, "heartbeat_s": heartbeat_s})
    assert registration.init.heartbeat_interval_ms == interval_ms


def test_the_socket_is_the_deployed_guests() -> None:
    assert DEFAULT_SOCKET == "/var/run/.guest_heartbeat_api"


def test_the_socket_is_the_arguments_else_the_environments_else_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("HBTRIO_APP_SOCKET", raising=False)
    assert socket_path(None) == DEFAULT_SOCKET
    monkeypatch.setenv("HBTRIO_APP_SOCKET", "")
    assert socket_path(None) == DEFAULT_SOCKET
    monkeypatch.setenv("HBTRIO_APP_SOCKET", "/run/env")
    assert socket_path(None) == "/run/env"
    assert socket_path("/run/argument") == "/run/argument"
    monkeypatch.setenv("HBTRIO_APP_SOCKET", "/" + 107 * "x")
    with pytest.raises(ValueError, match=r"^HBTRIO_APP_SOCKET: '/x*' does not have 1 to 107 "):
        Application("db")


def test_reasons_are_text() -> None:
    with pytest.raises(TypeError, match=r"^reason: 3 is not text$"):
        Reject(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^reason: None is not text$"):
        Unhealthy(None)  # type: ignore[arg-type]


def test_the_action_is_one_of_the_words() -> None:
    assert Unhealthy("ill").action is None
    assert Unhealthy("ill", "reboot").action is CorrectiveAction.REBOOT
    with pytest.raises(TypeError, match=r"^action: 5 is not one of none, log, reboot, stop$"):
        Unhealthy("ill", 5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^action: 'kill' is not one of none, log, reboot, stop$"):
        Unhealthy("ill", "kill")  # type: ignore[arg-type]


def vote_of_two(vote: Vote, more: int) -> Accept: ...


def vote_by_name(*, vote: Vote) -> Accept: ...


async def vote_of_none() -> Accept: ...


def health_of_one(what: object) -> Healthy: ...


@pytest.mark.parametrize(
    ("argument", "handler", "fault"),
    [
        ("on_vote", vote_of_two, "a Vote: missing a required argument: 'more'"),
        ("on_vote", vote_by_name, "a Vote: too many positional arguments"),
        ("on_vote", vote_of_none, "a Vote: too many positional arguments"),
        ("on_vote", Accept, "a Vote: too many positional arguments"),
        ("on_notice", vote_of_none, "a Notice: too many positional arguments"),
        ("on_health", health_of_one, "nothing: missing a required argument: 'what'"),
    ],
)
def test_a_handler_that_takes_something_else_is_refused_at_once(
    argument: str, handler: Any, fault: str
) -> None:
    message = f"{argument}: {handler!r} must take {fault}"
    with pytest.raises(TypeError) as raised:
        Application("db", **{argument: handler})
    assert str(raised.value) == message
    with pytest.raises(TypeError) as raised:
        getattr(Application("db"), argument)(handler)
    assert str(raised.value) == message


def test_a_handler_that_does_not_say_what_it_takes_may_be_anything() -> None:
    with pytest.raises(ValueError):
        inspect.signature(max)
    app = Application("db", on_vote=max, on_health=Healthy, on_notice=lambda *_: None)
    assert app.name == "db"


#: What an author writes, and what mypy must say about it.
TYPES = [
    ("@app.on_vote\nasync def f(vote: Vote) -> bool: return True", "Accept | Reject"),
    ("@app.on_vote\ndef f(vote: Vote) -> str: return ''", "Accept | Reject"),
    ("@app.on_health\nasync def f() -> bool: return True", "Healthy | Unhealthy"),
    ("@app.on_notice\nasync def f(notice: Notice) -> Accept: return Accept()", "None"),
    ("Application('db', corrective_action='kill')", "Literal['none', 'log', 'reboot', 'stop']"),
    ("Unhealthy('ill', 'kill')", "Literal['none', 'log', 'reboot', 'stop']"),
]
RIGHT = """\
@app.on_vote
async def vote(vote: Vote) -> Accept | Reject: return Accept()
@app.on_health
def health() -> Healthy: return Healthy()
@app.on_notice
async def notice(notice: Notice) -> None: assert isinstance(await vote(asked[0]), Accept)
asked: list[Vote] = []
Application("db", on_vote=lambda vote: Reject("no"), on_health=health, corrective_action="stop")
Application("db", on_vote=vote, on_notice=notice, corrective_action=CorrectiveAction.NONE)
"""


@pytest.mark.processes
def test_a_checker_of_types_says_what_is_wanted(tmp_path: Path) -> None:
    heads = "from hbtrio.app import *\napp = Application('db')\n"
    sources = [heads + wrong + "\n" for wrong, _ in TYPES] + [heads + RIGHT]
    for number, source in enumerate(sources):
        (tmp_path / f"author{number}.py").write_text(source)
    ran = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", f"--cache-dir={tmp_path}/cache", "."],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    said = ran.stdout.splitlines()
    for number, (_, wanted) in enumerate(TYPES):
        (fault,) = [
            line for line in said if line.startswith(f"author{number}.py") and "error" in line
        ]
        _, _, expected = fault.partition("expected")
        assert wanted in expected
    assert not [line for line in said if line.startswith(f"author{len(TYPES)}.py")]
    assert said[-1].startswith(f"Found {len(TYPES)} errors")
