"""Arguments are checked where they are given."""

from __future__ import annotations

from typing import Any

import pytest

from hbtrio.app import DEFAULT_SOCKET, Application, Reject, Unhealthy
from hbtrio.app.terms import Terms
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
            "corrective action 'explode': not one of none, log, reboot, stop",
        ),
        (
            "corrective_action",
            CorrectiveAction.UNKNOWN,
            "corrective action <CorrectiveAction.UNKNOWN: 'unknown'>: "
            "not one of none, log, reboot, stop",
        ),
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
    ("argument", "value"),
    [
        ("name", b"db"),
        ("heartbeat_s", "1"),
        ("heartbeat_s", True),
        ("vote_s", None),
        ("vote_s", True),
        ("health_every_s", "often"),
        ("on_vote", "yes"),
        ("on_notice", 1),
        ("on_health", True),
        ("socket", 7),
    ],
)
def test_what_is_of_another_kind(argument: str, value: object) -> None:
    with pytest.raises(TypeError):
        Application(**{"name": "db", argument: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("heartbeat_s", "interval_ms"), [(0.4, 400), (0.4001, 401), (1, 1000), (1.1, 1100), (2.3, 2300)]
)
def test_the_interval_is_never_rounded_down(heartbeat_s: float, interval_ms: int) -> None:
    terms = Terms(**{**TERMS, "heartbeat_s": heartbeat_s})
    assert terms.init.heartbeat_interval_ms == interval_ms


def test_the_socket_is_the_deployed_guests() -> None:
    assert DEFAULT_SOCKET == "/var/run/.guest_heartbeat_api"


def test_reasons_are_text() -> None:
    with pytest.raises(TypeError):
        Reject(None)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        Unhealthy(404)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="corrective action 'kill'"):
        Unhealthy("ill", "kill")
