"""Says why a daemon could not be reached, or refused a request, for users of the client."""

from __future__ import annotations

import errno
import os
import socket
import ssl
import stat
from typing import Any, Final

import httpx

from hbtrio.client.address import Address
from hbtrio.client.stream import os_error
from hbtrio.errors import ExitStatus, UserError
from hbtrio.net.tls import connection_reason
from hbtrio.text import printable
from hbtrio.wire.operator import ReplyFault, parse

#: Reasons with which an agent's API for the VIM refuses unknown requests (403).
_OF_THE_VIM: Final = frozenset({"no such path", "unknown User-Agent"})

#: Refusals of a malformed request, or of one that is not permitted; all others concern the
#: instance.
_STATUS: Final = {
    **dict.fromkeys((400, 405, 413, 414, 422), ExitStatus.USAGE),
    **dict.fromkeys((401, 403), ExitStatus.DENIED),
    504: ExitStatus.UNREACHABLE,
}


class NotThere(UserError):
    """The daemon knows no such instance or host (404)."""


def unreachable(address: Address, error: httpx.HTTPError) -> UserError:
    """Returns the error of a request for which there was no connection.

    DENIED if permissions deny the socket, USAGE if the path is not a socket, else UNREACHABLE.
    """
    cause = os_error(error)
    reason = "no connection in time" if cause is None else connection_reason(cause)
    text = f"{address.text}: {reason}"
    if isinstance(cause, ssl.SSLError | socket.gaierror):
        return UserError(text, ExitStatus.UNREACHABLE)
    match cause and cause.errno:
        case errno.EACCES | errno.EPERM:
            return UserError(text, ExitStatus.DENIED)
        case errno.ENOENT:
            text = f"{address.text}: no such socket"
        case errno.ECONNREFUSED if address.socket is not None:
            if _is_no_socket(address.socket):
                return UserError(f"{address.text}: is not a socket")
    return UserError(f"{text}; is hbtrio host or agent running?", ExitStatus.UNREACHABLE)


def _is_no_socket(path: str) -> bool:
    """Whether it is another kind of file; connections to one are refused as by a dead socket."""
    try:
        return not stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False


def refusal(address: Address, code: int, answer: bytes) -> UserError:
    """Returns the error of a request that the daemon refused.

    DENIED or USAGE where the HTTP status says so, UNREACHABLE for 504, else FAILED; a
    :class:`NotThere` for 404.

    Args:
        address: the daemon's.
        code: the HTTP status of its answer.
        answer: the body; empty if it did not come in time.
    """
    try:
        members = parse(answer, dict[str, Any])
    except ReplyFault:
        members = {}
    reason = members.get("reason")
    if not isinstance(reason, str):
        text = f"{address.text}: HTTP status {code} without a reason; is it an hbtrio daemon?"
        return UserError(text, ExitStatus.FAILED)
    if code == 403 and reason in _OF_THE_VIM:
        text = "this is the agent's API for the VIM, not its operator API"
        return UserError(f"{address.text}: {text}")
    # Users of ctl have not written the body.
    reason = reason.removeprefix("body: ")
    status = _STATUS.get(code, ExitStatus.FAILED)
    # Other refusals concern the instance, at whichever address.
    where = f"{address.text}: " if status is ExitStatus.DENIED else ""
    fault = NotThere if code == 404 else UserError
    return fault(where + printable(reason), status)
