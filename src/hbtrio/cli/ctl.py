"""Asks a host daemon or an agent what it knows, and makes it ask, tell and act.

Exit status: 0 done, 1 the host refuses or nothing came of it, 2 faulty command line, 3 rejected by
the instance, 4 the command failed, 5 the host can't be reached or went away in the middle, 8
permission denied, 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from hbtrio.cli import Parser
from hbtrio.output import writing_out
from hbtrio.wire.vocabulary import ACTION_TABLE, EVENT_TABLE

#: Where a host listens by default, see ``control_socket`` of host.toml.
DEFAULT_URL = "unix:/run/hbtrio/host.sock"

_UUID_HELP = "its uuid, the beginning of it, or its name, if no other has the same"


class _CommandParser(Parser):
    """A parser of one command, that leaves what is behind ``--`` alone.

    argparse itself gives a list of arguments its share before it looks at the options, so that
    ``act UUID stop --force -- true`` would be an error.
    """

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str], namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """Parses what is before ``--``; the rest becomes ``behind``."""
        words = list(args)
        end = words.index("--") if "--" in words else len(words)
        options, rest = super().parse_known_args(words[:end], namespace)
        options.behind = words[end + 1 :]
        if options.behind and options.command != "act":
            self.error(f"{options.command} takes no command behind --")
        return options, rest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the commands and their options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--url",
        default=DEFAULT_URL,
        help="the host or agent: unix:PATH or http[s]://HOST:PORT (default %(default)s)",
    )
    parser.add_argument(
        "--token-file",
        metavar="FILE",
        help="a file with the token that an agent wants over TCP (default: HBTRIO_TOKEN is it)",
    )
    parser.add_argument(
        "--ca",
        metavar="FILE",
        default="",
        help="what has signed an https agent's certificate (default: whom the system trusts)",
    )
    parser.add_argument(
        "--certificate",
        metavar="FILE",
        default="",
        help="what to show an https agent; if it knows who has signed it, no token is needed",
    )
    parser.add_argument("--key", metavar="FILE", default="", help="the key of --certificate")
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True, parser_class=_CommandParser
    )

    def command(name: str, text: str, **more: Any) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = commands.add_parser(
            name, help=text, description=f"{text[0].upper()}{text[1:]}.", **more
        )
        added.set_defaults(command=name)
        return added

    status = command("status", "show the host or fleet and its instances")
    status.add_argument("--json", action="store_true", help="all that the host says, as JSON")

    voted = [str(event) for event, rule in EVENT_TABLE.items() if rule.voted]
    vote = command("vote", "ask an instance whether an event may happen")
    notify = command("notify", "tell an instance of an event")
    for added, events in ((vote, voted), (notify, [str(event) for event in EVENT_TABLE])):
        added.add_argument("uuid", metavar="UUID", help=_UUID_HELP)
        added.add_argument("event", metavar="EVENT", choices=events, help=", ".join(events))

    events_parser = command("events", "show what happened, and with --follow what happens")
    events_parser.add_argument("--follow", action="store_true", help="go on until interrupted")
    events_parser.add_argument(
        "--recent",
        metavar="N",
        type=_number,
        help="begin with the last N events, of which a host keeps 1000 "
        "(default: 20, with --follow 0)",
    )
    events_parser.add_argument("--json", action="store_true", help="a JSON object in each line")

    history = command("history", "show what an agent has kept, the newest last")
    history.add_argument("uuid", metavar="UUID", nargs="?", default="", help=_UUID_HELP)
    history.add_argument(
        "--limit", metavar="N", type=_number, default=100, help="how much (default %(default)s)"
    )
    history.add_argument(
        "--before", metavar="ID", type=_id, help="only what is older than this entry"
    )
    history.add_argument("--json", action="store_true", help="a JSON object in each line")

    release = command("release", "let the alarms of a host go that an agent holds back")
    release.add_argument("host", metavar="HOST", help="its name")
    release.add_argument(
        "--withdraw", action="store_true", help="do not send them: the VIM never hears of them"
    )

    act = command(
        "act",
        "do something to an instance, with its vote and its notices",
        usage="%(prog)s [-h] [--force] UUID ACTION [-- COMMAND...]",
        epilog="COMMAND does it, run by the host as the host's user; {uuid} in an argument stands "
        "for the instance's uuid, {{uuid}} for itself. Without one the host's [actions] say how.",
    )
    actions = [str(name) for name in ACTION_TABLE]
    act.add_argument("uuid", metavar="UUID", help=_UUID_HELP)
    act.add_argument("action", metavar="ACTION", choices=actions, help=", ".join(actions))
    act.add_argument("--force", action="store_true", help="skip the vote, not the notices")


def run(options: argparse.Namespace) -> int:
    """Carries out a command.

    Raises:
        UserError: what the host or the command line is to blame for.
    """
    # Not above: a mistyped command is to be told at once.
    from hbtrio.cli.ctl_commands import carry_out
    from hbtrio.cli.ctl_screen import Screen

    with writing_out():
        screen = Screen.of(sys.stdout)
    return carry_out(options, screen)


def _id(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise argparse.ArgumentTypeError(f"not the id of an entry: {text!r}")
    return int(text)


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5):
        raise argparse.ArgumentTypeError(f"not a number from 0 to 99999: {text!r}")
    return int(text)
