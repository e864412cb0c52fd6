"""Lists the applications that are registered with the guest daemon of this VM.

For each application: its process, its health, its heartbeat interval and windows, and the last
votes and notices with its answers. Run it in the VM, as root or as the guest daemon's user.
"""

from __future__ import annotations

import argparse
import errno
import os
import socket
import time
from typing import Final

from hbtrio.errors import BACKLOG_FULL, ExitStatus, UserError, os_reason
from hbtrio.output import write_out
from hbtrio.text import printable
from hbtrio.wire.app_socket import (
    APP_SOCKET_VARIABLE,
    DEFAULT_APP_SOCKET,
    configured_app_socket,
    status_socket,
)
from hbtrio.wire.app_status import (
    MAX_STATUS_BYTES,
    ApplicationStatus,
    GuestApplications,
    RequestStatus,
    StatusError,
    decode_status,
)

#: How long the guest daemon's answer may take, in seconds.
ANSWER_S: Final = 10.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    add_app_socket(parser, "the list comes from PATH.status")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def add_app_socket(parser: argparse.ArgumentParser, more: str) -> None:
    """Declares ``--app-socket``; ``more`` follows in its help."""
    parser.add_argument(
        "--app-socket",
        metavar="PATH",
        help=f"where the guest daemon serves applications (default: ${APP_SOCKET_VARIABLE}, else "
        f"{DEFAULT_APP_SOCKET}); {more}",
    )


def run(options: argparse.Namespace) -> int:
    """Asks the guest daemon and prints its applications.

    Raises:
        UserError: the guest daemon can't be reached (status UNREACHABLE), the permissions deny
            access (DENIED), or its answer is none (FAILED).
    """
    status, data = read_applications(options.app_socket)
    write_out(data.decode() if options.json else _listed(status))
    return ExitStatus.DONE


def read_applications(app_socket: str | None) -> tuple[GuestApplications, bytes]:
    """Asks the guest daemon for its applications; returns them, and the bytes as they came.

    Args:
        app_socket: the path of the applications' socket; None: of the environment, or the default.

    Raises:
        UserError: as for :func:`run`.
    """
    path = status_socket(configured_app_socket(app_socket, os.environ) or DEFAULT_APP_SOCKET)
    data = _read(path)
    try:
        return decode_status(data), data
    except StatusError as error:
        raise UserError(f"{path}: not a list of applications: {error}", ExitStatus.FAILED) from None


def _read(path: str) -> bytes:
    """Reads what the guest daemon sends to whoever connects."""
    until = time.monotonic() + ANSWER_S
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.settimeout(ANSWER_S)
            connection.connect(path)
            data = bytearray()
            while part := connection.recv(65536):
                data += part
                if len(data) > MAX_STATUS_BYTES:
                    raise UserError(
                        f"{path}: more than {MAX_STATUS_BYTES} bytes", ExitStatus.FAILED
                    )
                connection.settimeout(max(0.001, until - time.monotonic()))
        except TimeoutError:
            raise UserError(
                f"{path}: no answer within {ANSWER_S:g} s", ExitStatus.UNREACHABLE
            ) from None
        except OSError as error:
            raise _fault(path, error) from error
    if not data:
        raise UserError(
            f"{path}: the guest daemon is busy with other requests; try again",
            ExitStatus.UNREACHABLE,
        )
    return bytes(data)


def _fault(path: str, error: OSError) -> UserError:
    match error.errno:
        case errno.EACCES | errno.EPERM:
            text = f"{os_reason(error)}; only root and the guest daemon's user may ask"
            return UserError(f"{path}: {text}", ExitStatus.DENIED)
        case errno.ENOENT | errno.ECONNREFUSED:
            text = "no guest daemon serves applications here"
        case errno.EAGAIN:
            text = BACKLOG_FULL
        case None:  # AF_UNIX path too long
            return UserError(f"{path}: {error}", ExitStatus.USAGE)
        case _:
            text = os_reason(error)
    return UserError(f"{path}: {text}", ExitStatus.UNREACHABLE)


def _listed(status: GuestApplications) -> str:
    lines = [_count(status)]
    for application in status.applications:
        lines += ["", *_lines_of(application)]
    return "".join(f"{printable(line)}\n" for line in lines)


def _count(status: GuestApplications) -> str:
    registered = len(status.applications)
    text = f"{registered} application{'' if registered == 1 else 's'} registered"
    if status.unregistered:
        text += f", {status.unregistered} connected without a registration"
    return text


def _lines_of(one: ApplicationStatus) -> list[str]:
    lines = [
        f"{one.name or '(no name)'}: {one.health} for {span(one.health_s)}",
        f"  pid {one.pid}, uid {one.uid}, gid {one.gid}",
        f"  heartbeat every {one.heartbeat_s:g} s, {one.if_silent} if it hangs",
        f"  vote {one.vote_s} s; notices: shutdown {one.shutdown_notice_s} s, "
        f"suspend {one.suspend_notice_s} s, resume {one.resume_notice_s} s",
    ]
    if one.inhibits is not None:
        events = ", ".join(one.inhibits.events)
        lines.append(f"  inhibits {events} for {span(one.inhibits.for_s)}: {one.inhibits.reason}")
    if one.health != "healthy":
        lines.insert(1, f"  {one.corrective_action}: {one.reason}")
    return lines + [f"  {_request(request)}" for request in one.requests]


def _request(request: RequestStatus) -> str:
    answer = {"none": "no answer", "timeout": "no answer in time"}.get(
        request.result, request.result
    )
    reason = f" ({request.reason})" if request.reason else ""
    return f"{span(request.ago_s)} ago: {request.kind} {request.event}: {answer}{reason}"


def span(seconds: float) -> str:
    """Formats a length of time with one unit: ``12 s``, ``3 min``, ``5 h``, ``2 d``."""
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{int(seconds)} s"
