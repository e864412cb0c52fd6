"""Alerts as JSON, and how requests with them are signed."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json

import pytest

from hbtrio.wire.alert import Alert, Severity, Told, signature_headers


def test_the_body_is_that_of_standard_webhooks() -> None:
    alert = Alert(kind="loss", severity=Severity.CRITICAL, hostname="compute-0", uuid="u1")
    told = Told(alert, "a1", "2026-01-01T00:00:00+00:00")
    assert json.loads(told.body) == {
        "type": "hbtrio.loss",
        "timestamp": "2026-01-01T00:00:00+00:00",
        "data": {
            "kind": "loss",
            "severity": "critical",
            "hostname": "compute-0",
            "uuid": "u1",
            "name": "",
            "reason": "",
            "state": "",
            "withheld": {},
        },
    }


def test_what_makes_two_alerts_the_same() -> None:
    def key(kind: str, uuid: str = "", hostname: str = "compute-0") -> tuple[str, str]:
        return Alert(kind=kind, severity=Severity.INFO, hostname=hostname, uuid=uuid).key

    assert key("loss", "u1") == key("loss", "u1", "compute-1")  # it may have migrated
    assert len({key("loss", "u1"), key("loss", "u2"), key("absent", "u1")}) == 3
    assert key("brake") != key("brake", hostname="compute-1")


def test_the_signature_is_that_of_other_implementations() -> None:
    """The values are those by which libraries of Standard Webhooks are tested."""
    headers = signature_headers(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1614265330,
        b'{"test": 2432232314}',
    )
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


@pytest.mark.parametrize("secret", ["0123456789-any-text", "whsec_no/base64!"])
def test_a_secret_of_another_form_is_the_key_itself(secret: str) -> None:
    headers = signature_headers(secret, "m", 5, b"{}")
    digest = hmac.new(secret.encode(), b"m.5.{}", hashlib.sha256).digest()
    assert headers["webhook-signature"] == "v1," + base64.b64encode(digest).decode()


def test_without_a_secret_nothing_is_signed() -> None:
    assert signature_headers("", "m", 5, b"{}") == {"webhook-id": "m", "webhook-timestamp": "5"}
