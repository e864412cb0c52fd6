"""Which path applications and the guest daemon meet at."""

from __future__ import annotations

import pytest

from hbtrio.wire.app_socket import (
    APP_SOCKET_VARIABLE,
    DEFAULT_APP_SOCKET,
    configured_app_socket,
    status_socket,
)


@pytest.mark.parametrize(
    ("given", "environment", "path"),
    [
        (None, {}, None),
        (None, {"HBTRIO_APP_SOCKET": ""}, None),
        (None, {"HBTRIO_APP_SOCKET": "/run/env"}, "/run/env"),
        ("/run/argument", {"HBTRIO_APP_SOCKET": "/run/env"}, "/run/argument"),
        # An empty argument is a mistake of the caller's to complain about, not one to hide.
        ("", {"HBTRIO_APP_SOCKET": "/run/env"}, ""),
    ],
)
def test_the_argument_comes_before_the_variable(
    given: str | None, environment: dict[str, str], path: str | None
) -> None:
    assert configured_app_socket(given, environment) == path


def test_the_names_are_those_of_the_documentation() -> None:
    assert APP_SOCKET_VARIABLE == "HBTRIO_APP_SOCKET"
    assert DEFAULT_APP_SOCKET == "/var/run/.guest_heartbeat_api"
    assert status_socket(DEFAULT_APP_SOCKET) == "/var/run/.guest_heartbeat_api.status"
