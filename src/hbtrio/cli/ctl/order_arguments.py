"""The command line of the orders of ``hbtrio ctl``, see :mod:`hbtrio.cli.ctl.orders`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Final

from hbtrio.cli.ctl.argument_types import Words, span
from hbtrio.cli.ctl.options import UUID_HELP

#: What can be done with alarms that are held back.
_ALARMS: Final = ("send", "withdraw")


def add_orders(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Declares the orders.

    Args:
        command: adds a command with its name and its help.
    """
    lines = "write JSON, one object for each instance"
    hold = command(
        "hold",
        "put instances on hold: for a time nothing corrective is done to them, while they are "
        "watched as ever",
        lines,
    )
    unhold = command("unhold", "end the hold on instances before its time", lines)
    for parser, all_of in ((hold, "all instances of this host"), (unhold, "all that are on hold")):
        parser.add_argument("names", metavar="NAME", nargs="*", help=UUID_HELP)
        text = f"{all_of} on this host" if parser is unhold else all_of
        parser.add_argument("--host", metavar="HOST", help=text)
        parser.add_argument("--group", metavar="GROUP", help="all members of this group")
    hold.add_argument(
        "--for",
        dest="span",
        metavar="TIME",
        required=True,
        type=span,
        help="for how long, as 90s, 15m, 1h30m or 2d; 7 days at most",
    )
    hold.add_argument("--reason", metavar="TEXT", required=True, help="why, for all who look")

    alarms = command("alarms", "send or withdraw the alarms of a host that an agent holds back")
    alarms.add_argument(
        "what",
        metavar="WHAT",
        type=Words("thing to do with alarms", _ALARMS),
        help="send: to the VIM, those that are still wanted; withdraw: they are never sent",
    )
    alarms.add_argument("host", metavar="HOST", help="its name")

    brake = command("brake", "let a host run corrective commands again after a mass failure")
    brake.add_argument(
        "what",
        metavar="WHAT",
        type=Words("thing to do with the brake", ("release",)),
        help="release",
    )

    forget = command(
        "forget",
        "forget what no longer exists: at an agent a host and its instances, at both a member of "
        "groups that has no channel",
    )
    forget.add_argument(
        "host", metavar="NAME", help="the host's name; of a member its uuid, or libvirt's name"
    )
