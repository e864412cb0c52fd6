"""Rejects events of this VM while a command runs, as systemd-inhibit does; --list shows who does.

The host's votes on these events are rejected with the reason `TEXT (COMMAND, pid)` until COMMAND
has ended. COMMAND gets the signals that this command gets, and its exit status is that of this
command: 128 and the number of the signal if one ended it.

If no guest daemon takes the inhibition, COMMAND is not started and the exit status is 125; it is
126 if COMMAND can't be executed, and 127 if it is not found. A guest daemon that is started again
while COMMAND runs is given the inhibition again; both are said on standard error.
"""

from __future__ import annotations

import argparse
import errno
import json
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import trio

from hbtrio.app import Application, Inhibition
from hbtrio.cli.apps import add_app_socket, read_applications, span
from hbtrio.cli.foreground import holding_signals, start_in_foreground, wait_passing_on
from hbtrio.errors import ExitStatus, UserError, os_reason
from hbtrio.output import write_out
from hbtrio.text import printable
from hbtrio.wire.app_codec import MAX_APP_LOG_BYTES
from hbtrio.wire.app_status import ApplicationStatus
from hbtrio.wire.channel_codec import clip_utf8
from hbtrio.wire.vocabulary import EVENT_TABLE

#: The events that can be rejected.
EVENTS: Final = tuple(str(event) for event, rule in EVENT_TABLE.items() if rule.voted)

#: The name among the applications; the reason has that of the command.
_NAME: Final = "inhibit"

#: How often it is challenged, in seconds. It has no health that could be lost, and a process that
#: its terminal has stopped must not make its VM ill.
_HEARTBEAT_S: Final = 3600

#: Bytes of the command's name in the reason.
_COMMAND_BYTES: Final = 40


class _Words:
    """The type of ``--what``: events that can be voted on, with commas between them."""

    #: For completion.
    known = EVENTS

    def __call__(self, text: str) -> tuple[str, ...]:
        words = tuple(dict.fromkeys(word.strip() for word in text.split(",")))
        for word in words:
            if word not in EVENTS:
                fault = "can't be rejected" if word in EVENT_TABLE else "no such event"
                raise argparse.ArgumentTypeError(
                    f"{fault}: {word!r}; there are {', '.join(EVENTS)}"
                )
        return words


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.usage = "%(prog)s --list | --why TEXT [OPTION...] [--] COMMAND [ARGUMENT...]"
    parser.add_argument(
        "--what",
        metavar="EVENTS",
        type=_Words(),
        default=EVENTS,
        help=f"the events to reject, with commas between them: {', '.join(EVENTS)} (default: all)",
    )
    parser.add_argument("--why", metavar="TEXT", help="the reason that operators read")
    parser.add_argument(
        "--best-effort",
        action="store_true",
        help="start COMMAND even if no guest daemon takes the inhibition now; the first that "
        "comes while COMMAND runs does",
    )
    parser.add_argument(
        "--list",
        action="store_true",
        help="show who inhibits what, why and since when; as root or the guest daemon's user",
    )
    parser.add_argument("--json", action="store_true", help="with --list: print one JSON object")
    add_app_socket(parser, "--list reads PATH.status")
    parser.add_argument(
        "command",
        metavar="COMMAND",
        nargs=argparse.REMAINDER,
        help="the command and its arguments; what begins with - belongs to it",
    )


def run(options: argparse.Namespace) -> int:
    """Runs the command while its events are rejected, or lists who inhibits.

    Raises:
        UserError: the arguments are faulty (status USAGE), no guest daemon takes the inhibition
            (NOT_INHIBITED), the command can't be started (NOT_EXECUTABLE, NOT_FOUND), or the list
            can't be had (as ``hbtrio apps``).
    """
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if options.list:
        if command or options.why is not None:
            raise UserError("--list takes no command and no --why")
        return _list(options.app_socket, as_json=options.json)
    if options.json:
        raise UserError("--json needs --list")
    if not command:
        raise UserError("no command: hbtrio inhibit --why TEXT -- COMMAND (see --help)")
    if not (options.why or "").strip():
        raise UserError("--why: the reason that operators read is needed")
    return _inhibit(options, command)


def _inhibit(options: argparse.Namespace, command: Sequence[str]) -> int:
    logging.getLogger("hbtrio").addHandler(logging.NullHandler())  # it has lines of its own
    try:
        app = Application(
            _NAME,
            heartbeat_s=_HEARTBEAT_S,
            corrective_action="none",
            inhibition=Inhibition(options.what, reason(options.why, command[0], os.getpid())),
            socket=options.app_socket,
        )
    except ValueError as error:  # the path of the socket
        raise UserError(str(error)) from None
    with holding_signals() as blocked:
        return trio.run(_hold, app, options, command, blocked)


async def _hold(
    app: Application, options: argparse.Namespace, argv: Sequence[str], blocked: set[int]
) -> int:
    events = "all events" if options.what == EVENTS else ", ".join(options.what)
    async with app:
        while not app.registered and not app.fault:
            await app.wait_changed()
        if not app.registered:
            if not options.best_effort:
                text = f"can't inhibit {events}, {argv[0]} is not started: {app.fault}"
                raise UserError(text, ExitStatus.NOT_INHIBITED)
            _say(f"{events} not inhibited until a guest daemon is there: {app.fault}")
        try:
            command = start_in_foreground(argv, blocked)
        except OSError as error:
            found = error.errno not in (errno.ENOENT, errno.ENOTDIR)
            fault = ExitStatus.NOT_EXECUTABLE if found else ExitStatus.NOT_FOUND
            raise UserError(f"{argv[0]}: {os_reason(error)}", fault) from None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_report, app, events)
            status = await wait_passing_on(command)
            nursery.cancel_scope.cancel()
    return status


async def _report(app: Application, events: str) -> None:
    """Says when the guest daemon goes and comes back."""
    was = app.registered
    while True:
        if app.registered != was:
            was = app.registered
            if was:
                _say(f"the guest daemon is back: {events} inhibited again")
            else:
                _say(f"the guest daemon is gone: {events} not inhibited until it is back")
        await app.wait_changed()


def _say(text: str) -> None:
    with suppress(OSError):
        print(f"hbtrio inhibit: {printable(text)}", file=sys.stderr, flush=True)


def reason(why: str, command: str, pid: int) -> str:
    """Returns the reason of a reject; a long ``why`` is cut before the command and the process."""
    name = clip_utf8(os.path.basename(command) or command, _COMMAND_BYTES)
    process = f" ({name}, pid {pid})"
    return clip_utf8(why.strip(), MAX_APP_LOG_BYTES - len(process.encode())) + process


# -- the list ---------------------------------------------------------------------------------


def _list(app_socket: str | None, *, as_json: bool) -> int:
    status, _ = read_applications(app_socket)
    inhibitors = [one for one in status.applications if one.inhibits is not None]
    if as_json:
        write_out(json.dumps({"inhibitors": [_fields(one) for one in inhibitors]}) + "\n")
    else:
        count = len(inhibitors)
        lines = [f"{count} inhibitor{'' if count == 1 else 's'}", *map(_line, inhibitors)]
        write_out("".join(f"{printable(line)}\n" for line in lines))
    return ExitStatus.DONE


def _line(one: ApplicationStatus) -> str:
    held = one.inhibits
    assert held is not None
    process = f"{one.name or '(no name)'} (pid {one.pid}, uid {one.uid})"
    return f"{process}: {', '.join(held.events)} for {span(held.for_s)}: {held.reason}"


def _fields(one: ApplicationStatus) -> dict[str, Any]:
    held = one.inhibits
    assert held is not None
    return {
        "name": one.name,
        "pid": one.pid,
        "uid": one.uid,
        "gid": one.gid,
        "events": held.events,
        "reason": held.reason,
        "for_s": held.for_s,
    }
