"""The command line of ``hbtrio ctl drain``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Final

from hbtrio.cli.ctl.argument_types import Words, number, span
from hbtrio.wire.vocabulary import ACTION_TABLE

#: What is done about an instance whose guest rejects.
_ON_REJECT: Final = ("wait", "skip", "force", "abort")

#: The most actions at once, and the default of ``--retry-for``.
_MOST_AT_ONCE: Final = 100
_RETRY_FOR: Final = "30m"


def add_drain(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Declares the command.

    Args:
        command: adds a command to the parser of ``hbtrio ctl``.
    """
    drain = command(
        "drain",
        "perform an action on all instances of a host, a bounded number at once",
        "write JSON, one object per line; one object for --list and --cancel",
        usage="%(prog)s [-h] [--json] --action ACTION [options] [HOST ...] [-- COMMAND...]",
        epilog="All guests are asked first, for information. Then each has its turn, with its "
        "vote and notices, as with act. One that rejects is asked again every 30 s and keeps "
        "nobody waiting. The drain goes on without this command, and after a restart of the "
        "daemon.",
    )
    drain.add_argument(
        "hosts", metavar="HOST", nargs="*", help="the hosts; at least one at an agent"
    )
    actions = [str(name) for name, rule in ACTION_TABLE.items() if rule.before is not None]
    drain.add_argument(
        "--action", metavar="ACTION", type=Words("action", actions), help=", ".join(actions)
    )
    drain.add_argument(
        "--parallel",
        metavar="N",
        type=number(1, _MOST_AT_ONCE),
        default=1,
        help="at most so many actions at once (default %(default)s)",
    )
    drain.add_argument(
        "--order",
        metavar="FILE",
        default="name",
        help="name; group: each as far from the others of its group as possible; or a file that "
        "names those that come first, one a line (default %(default)s)",
    )
    drain.add_argument(
        "--retry-for",
        metavar="T",
        type=span,
        default=_RETRY_FOR,
        help="skip an instance that rejects, or is blocked by its group or another action, for so "
        "long: 90s, 30m, 1h30m (default %(default)s)",
    )
    drain.add_argument(
        "--on-reject",
        metavar="WHAT",
        type=Words("word", _ON_REJECT),
        default="wait",
        help="what to do about one whose guest rejects: wait, skip, force (without its vote), or "
        "abort the drain (default %(default)s)",
    )
    drain.add_argument(
        "--ignore-hold", action="store_true", help="don't skip instances that are on hold"
    )
    drain.add_argument(
        "--dry-run", action="store_true", help="ask all guests, show the order, and do nothing"
    )
    instead = drain.add_mutually_exclusive_group()
    instead.add_argument(
        "--resume", action="store_true", help="watch the drain in progress, or the last one"
    )
    instead.add_argument(
        "--cancel",
        action="store_true",
        help="take no more turns; an instance that was told is told of the end",
    )
    instead.add_argument(
        "--list", action="store_true", help="show the drains in progress and the last ones"
    )
