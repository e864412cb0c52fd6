"""Options of ``hbtrio ctl`` that several commands have."""

from __future__ import annotations

import argparse
from datetime import datetime
from typing import Final

from hbtrio.cli.ctl.argument_types import Words, moment_before, number
from hbtrio.wire.vocabulary import EVENT_TABLE

#: The kinds of events of host and agent, see docs/events.md.
_KINDS: Final = (
    "absent",
    "action",
    "corrective",
    "extended",
    "heartbeating",
    "hold",
    "hold-over",
    "host-alarm",
    "host-alarm-over",
    "host-forgotten",
    "host-unreachable",
    "loss",
    "not-acted",
    "notice",
    "overridden",
    "paused",
    "restart-expired",
    "stopped",
    "undelivered",
    "unhealthy",
    "unwatched",
    "vote",
    "withdrawn",
)

#: What names an instance.
UUID_HELP: Final = "its uuid, a unique prefix of it, or its name if unique"


def add_filter(parser: argparse.ArgumentParser) -> None:
    """Declares what narrows events or a history down."""
    parser.add_argument("uuid", metavar="UUID", nargs="?", default="", help=UUID_HELP)
    parser.add_argument(
        "--kind",
        metavar="KIND",
        type=Words("kind", _KINDS),
        action="append",
        default=[],
        help=f"only this kind; may be given several times: {', '.join(_KINDS)}",
    )
    parser.add_argument("--group", metavar="GROUP", help="only members of this group")
    parser.add_argument(
        "--since",
        metavar="WHEN",
        type=moment_before(datetime.now().astimezone()),
        help="only since then: so long ago, as 90s, 15m, 1h30m or 2d, or a local time, as 12:00, "
        "2026-01-31 or 2026-01-31T12:00",
    )
    parser.add_argument(
        "--by",
        metavar="WHO",
        help="only what was asked for by WHO, or by a name with WHO in it: vim, operator, 'uid 0'",
    )


def add_connection(parser: argparse.ArgumentParser, *, again: bool = False) -> None:
    """Declares the options of all commands: the daemon, the operator's credentials, the pager.

    Args:
        parser: the main parser, or that of a command.
        again: the parser is that of a command. The options may follow the command too; there they
            have no help text, and an option that is absent must not reset one given earlier.
    """

    def option(name: str, metavar: str, text: str) -> None:
        parser.add_argument(
            name,
            metavar=metavar,
            default=argparse.SUPPRESS if again else None,
            help=argparse.SUPPRESS if again else text,
        )

    option(
        "--url",
        "URL",
        "the host or agent: unix:PATH or http[s]://HOST:PORT (default: $HBTRIO_URL, else the "
        "host on this machine, else the agent on it)",
    )
    option(
        "--token-file",
        "FILE",
        "file with the token that an agent requires over TCP (default: $HBTRIO_TOKEN)",
    )
    option(
        "--ca",
        "FILE",
        "CA certificates to verify an https agent with (default: the system's trust store)",
    )
    option(
        "--certificate",
        "FILE",
        "client certificate for an https agent; if the agent trusts it, no token is needed",
    )
    option("--key", "FILE", "private key of --certificate")
    parser.add_argument(
        "--no-pager",
        action="store_true",
        default=argparse.SUPPRESS if again else False,
        help=argparse.SUPPRESS if again else "write long output directly, not through $PAGER",
    )


def add_announcement(parser: argparse.ArgumentParser) -> None:
    """Declares the options of ``notify-all``."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "event",
        metavar="EVENT",
        nargs="?",
        type=Words("event", [str(event) for event in EVENT_TABLE]),
        help=", ".join(EVENT_TABLE),
    )
    what.add_argument(
        "--ended",
        metavar="FILE",
        help="notify those in FILE that what they were told of does not come, and remove FILE; "
        "nothing is done if there is none",
    )
    parser.add_argument(
        "--within",
        metavar="S",
        type=number(1, 86_400),
        default=60,
        help="go on after S seconds, with status 1 if a notice is still open then "
        "(default %(default)s)",
    )
    parser.add_argument(
        "--host", metavar="HOST", help="those on this host; an agent needs it, or --group"
    )
    parser.add_argument("--group", metavar="GROUP", help="the members of this group")
    parser.add_argument(
        "--told", metavar="FILE", help="write who is told of what into FILE, for --ended"
    )
