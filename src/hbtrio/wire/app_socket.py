"""Where the guest daemon serves applications, for the daemon, the SDK and the commands alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

#: The path that the deployed library connects to.
DEFAULT_APP_SOCKET: Final = "/var/run/.guest_heartbeat_api"

#: The variable of the environment with another path. The deployed library does not read it.
APP_SOCKET_VARIABLE: Final = "HBTRIO_APP_SOCKET"

#: What the path of the status socket has more than that of the applications' socket.
_STATUS_SUFFIX: Final = ".status"


def configured_app_socket(given: str | None, environment: Mapping[str, str]) -> str | None:
    """Returns the path that was asked for: the argument, else the variable if it is not empty.

    Args:
        given: the argument; None if there is none.
        environment: the variables of the process.

    Returns:
        None if neither is there: :data:`DEFAULT_APP_SOCKET` is meant.
    """
    return given if given is not None else environment.get(APP_SOCKET_VARIABLE) or None


def status_socket(app_socket: str) -> str:
    """Returns the path of the status socket beside an applications' socket."""
    return app_socket + _STATUS_SUFFIX
