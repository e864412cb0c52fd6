"""The command line of ``hbtrio ctl``."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

from hbtrio.cli import Parser
from hbtrio.output import writing_out
from hbtrio.wire.vocabulary import ACTION_TABLE, EVENT_TABLE

#: The most entries of a history that an agent gives at once.
_PAGE: Final = 1000

#: How alike a word must be to one that there is, for that one to be proposed.
_ALIKE: Final = 0.7

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
        if options.command == "act":
            if rest and not rest[0].startswith("-"):
                self.error(f"put -- before the command: {' '.join(['--', *rest])}")
        elif options.behind:
            self.error(f"{options.command} takes no command behind --")
        return options, rest


class _Words:
    """Takes one of the words that there are; whoever writes another is told which may be meant.

    Args:
        what: of what they are words.
        known: the words.
    """

    def __init__(self, what: str, known: Sequence[str]) -> None:
        self._what = what
        self._known = known

    def __call__(self, text: str) -> str:
        """The word itself.

        Raises:
            ArgumentTypeError: it is none.
        """
        if text in self._known:
            return text
        meant = self._meant(text)
        if meant:
            hint = f"did you mean {' or '.join(meant)}?"
        else:
            hint = f"there are {', '.join(self._known)}"
        raise argparse.ArgumentTypeError(f"no such {self._what}: {text!r}, {hint}")

    def _meant(self, text: str) -> list[str]:
        """Votes and notices are written with underscores, actions with hyphens."""
        plain = {_plain(word): word for word in self._known}
        beginning = [word for key, word in plain.items() if key.startswith(_plain(text)[:80])]
        if beginning and len(text) > 2:
            return beginning
        close = difflib.get_close_matches(_plain(text)[:80], list(plain), 1, _ALIKE)
        return [plain[key] for key in close]


def _plain(word: str) -> str:
    return word.lower().replace("-", "_")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the commands and their options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    _add_connection(parser)
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True, parser_class=_CommandParser
    )

    def command(name: str, text: str, **more: Any) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = commands.add_parser(
            name, help=text, description=f"{text[0].upper()}{text[1:]}.", **more
        )
        added.set_defaults(command=name)
        _add_connection(added, again=True)
        return added

    status = command("status", "show the host or fleet and its instances")
    status.add_argument("--json", action="store_true", help="all that the host says, as JSON")

    voted = [str(event) for event, rule in EVENT_TABLE.items() if rule.voted]
    vote = command("vote", "ask an instance whether an event may happen")
    notify = command("notify", "tell an instance of an event")
    for added, events in ((vote, voted), (notify, [str(event) for event in EVENT_TABLE])):
        added.add_argument("uuid", metavar="UUID", help=_UUID_HELP)
        added.add_argument(
            "event", metavar="EVENT", type=_Words("event", events), help=", ".join(events)
        )

    events_parser = command("events", "show what happened, and with --follow what happens")
    events_parser.add_argument("--follow", action="store_true", help="go on until interrupted")
    events_parser.add_argument(
        "--recent",
        metavar="N",
        type=_number(0, 99_999),
        help="begin with the last N events, of which a host keeps 1000 "
        "(default: 20, with --follow 0)",
    )
    events_parser.add_argument("--json", action="store_true", help="a JSON object in each line")

    history = command("history", "show what an agent has kept, the newest last")
    history.add_argument("uuid", metavar="UUID", nargs="?", default="", help=_UUID_HELP)
    history.add_argument(
        "--limit",
        metavar="N",
        type=_number(0, _PAGE),
        default=100,
        help=f"how many entries, 0 to {_PAGE} (default %(default)s)",
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

    forget = command("forget", "have an agent forget a host that is no more, and what was on it")
    forget.add_argument("host", metavar="HOST", help="its name")

    act = command(
        "act",
        "do something to an instance, with its vote and its notices",
        usage="%(prog)s [-h] [--force] UUID ACTION [-- COMMAND...]",
        epilog="COMMAND does it, run by the host as the host's user; {uuid} in an argument stands "
        "for the instance's uuid, {{uuid}} for itself. Without one the host's [actions] say how.",
    )
    actions = [str(name) for name in ACTION_TABLE]
    act.add_argument("uuid", metavar="UUID", help=_UUID_HELP)
    act.add_argument(
        "action", metavar="ACTION", type=_Words("action", actions), help=", ".join(actions)
    )
    act.add_argument("--force", action="store_true", help="skip the vote, not the notices")


def _add_connection(parser: argparse.ArgumentParser, *, again: bool = False) -> None:
    """Declares where the daemon is, and who asks.

    Args:
        parser: of all commands, or of one of them.
        again: it is of one: they may stand behind the command too, where they are not explained
            once more, and what is not there must not undo what was before it.
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
        "the host or agent: unix:PATH or http[s]://HOST:PORT (default: HBTRIO_URL is it, else "
        "the host of this machine, else its agent)",
    )
    option(
        "--token-file",
        "FILE",
        "a file with the token that an agent wants over TCP (default: HBTRIO_TOKEN is it)",
    )
    option(
        "--ca",
        "FILE",
        "what has signed an https agent's certificate (default: whom the system trusts)",
    )
    option(
        "--certificate",
        "FILE",
        "what to show an https agent; if it knows who has signed it, no token is needed",
    )
    option("--key", "FILE", "the key of --certificate")


def run(options: argparse.Namespace) -> int:
    """Carries out a command.

    Raises:
        UserError: what the host or the command line is to blame for.
    """
    # Not above: a mistyped command is to be told at once.
    from hbtrio.cli.ctl.commands import carry_out
    from hbtrio.cli.ctl.screen import Screen

    with writing_out():
        screen = Screen.of(sys.stdout)
    return carry_out(options, screen)


def _id(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise argparse.ArgumentTypeError(f"not the id of an entry: {text!r}")
    return int(text)


def _number(least: int, most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        plain = text.isascii() and text.isdigit() and len(text) <= 15
        if not (plain and least <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"not a number from {least} to {most}: {text!r}")
        return int(text)

    return number
