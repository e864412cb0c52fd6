"""The command line of ``hbtrio ctl``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import datetime
from typing import Any, Final

from hbtrio.cli import Parser
from hbtrio.cli.ctl.argument_types import (
    FORCE,
    GIVE_UP,
    Words,
    entry_id,
    moment_after,
    number,
    retry_span,
)
from hbtrio.cli.ctl.drain_arguments import add_drain
from hbtrio.cli.ctl.options import UUID_HELP, add_announcement, add_connection, add_filter
from hbtrio.cli.ctl.order_arguments import add_orders
from hbtrio.output import writing_out
from hbtrio.wire.vocabulary import ACTION_TABLE, EVENT_TABLE

#: The most entries of its history that an agent sends in one answer.
_PAGE: Final = 1000

#: The states of instances, as status shows them.
_STATES: Final = (
    "absent",
    "heartbeating",
    "lost",
    "not-watched",
    "paused",
    "restarting",
    "returning",
    "stopped",
    "suspended",
    "unwatched",
    "waiting",
)

#: How often `status --watch` asks for everything, in seconds.
_EVERY_S: Final = 5

#: Commands whose output may be longer than a terminal.
_PAGED: Final = ("status", "events", "history", "show", "why", "tree", "groups")

#: What can be waited for.
_GOALS: Final = ("heartbeating", "healthy", "lost", "gone")

_JSON_OBJECT: Final = "write one JSON object"
_JSON_LINES: Final = "write JSON, one object per line"


class _CommandParser(Parser):
    """A parser of one command that does not touch what follows ``--``.

    argparse itself assigns positional arguments before it looks at the options, so that
    ``act UUID stop --force -- true`` would be an error.
    """

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str], namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """Parses what precedes ``--``; the rest becomes ``behind``."""
        words = list(args)
        end = words.index("--") if "--" in words else len(words)
        before = words[:end]
        if self.get_default("command") == "vote":
            before = self._names_last(before)
        options, rest = super().parse_known_args(before, namespace)
        options.behind = words[end + 1 :]
        if options.command in ("act", "drain"):
            if rest and not rest[0].startswith("-"):
                self.error(f"put -- before the command: {' '.join(['--', *rest])}")
        elif options.behind:
            self.error(f"{options.command} takes no command after --")
        return options, rest

    def _names_last(self, words: list[str]) -> list[str]:
        """Moves what is no option behind the options.

        argparse gives a first name to all arguments that it may be for, so that in
        `vote UUID --json stop` the uuid would be the event.
        """
        options: list[str] = []
        names: list[str] = []
        takes_value = False
        for word in words:
            is_option = word.startswith("-") and word != "-"
            (options if is_option or takes_value else names).append(word)
            action = self._option_string_actions.get(word)
            takes_value = is_option and action is not None and action.nargs is None
        return [*options, *names]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the commands and their options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add_connection(parser)
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True, parser_class=_CommandParser
    )

    def command(
        name: str, text: str, as_json: str = _JSON_OBJECT, **more: Any
    ) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = commands.add_parser(
            name, help=text, description=f"{text[0].upper()}{text[1:]}.", **more
        )
        added.set_defaults(command=name)
        add_connection(added, again=True)
        added.add_argument("--json", action="store_true", help=as_json)
        return added

    status = command(
        "status",
        "show the host or fleet and its instances",
        "all that the daemon reports, as JSON; with --watch one line each time",
    )
    status.add_argument("names", metavar="NAME", nargs="*", help=f"only these: {UUID_HELP}")
    status.add_argument(
        "--state",
        metavar="STATE",
        type=Words("state", _STATES),
        action="append",
        default=[],
        help=f"only instances in this state; may be given several times: {', '.join(_STATES)}",
    )
    status.add_argument(
        "--unhealthy",
        action="store_true",
        help="only instances that are lost, ill, absent or unwatched",
    )
    status.add_argument("--host", metavar="HOST", help="only instances on this host")
    status.add_argument("--group", metavar="GROUP", help="only members of this group")
    status.add_argument(
        "--watch",
        metavar="S",
        type=number(1, 3600),
        nargs="?",
        const=_EVERY_S,
        help="show it again after each event, and every S seconds (default %(const)s), until "
        "interrupted",
    )

    show = command("show", "show everything about an instance, and what its next loss would bring")
    show.add_argument("uuid", metavar="UUID", help=UUID_HELP)

    why = command("why", "tell the story of an instance: what happened, and why nothing is done")
    why.add_argument("uuid", metavar="UUID", help=UUID_HELP)

    groups = command("groups", "show who of each group is available, and how many may go down")
    groups.add_argument("names", metavar="GROUP", nargs="*", help="only these")

    command("tree", "show the live tasks of the daemon, where they wait and how long", _JSON_LINES)

    wait = command("wait", "wait until an instance is in some state")
    wait.add_argument("uuid", metavar="UUID", help=UUID_HELP)
    wait.add_argument(
        "--for",
        dest="goal",
        metavar="STATE",
        required=True,
        type=Words("state to wait for", _GOALS),
        help=f"{', '.join(_GOALS)}; gone: the daemon no longer knows it",
    )
    wait.add_argument(
        "--timeout",
        metavar="S",
        type=number(1, 86_400),
        default=300,
        help="give up after S seconds, with status 1 (default %(default)s)",
    )

    watch = command(
        "watch",
        "show everything live on the whole terminal, until q",
        "as `status --watch --json`, which needs no terminal",
    )
    watch.add_argument("--group", metavar="GROUP", help="only members of this group")

    voted = [str(event) for event, rule in EVENT_TABLE.items() if rule.voted]
    vote = command(
        "vote",
        "ask an instance whether an event may happen, or many who would object",
        _JSON_LINES,
        usage="%(prog)s [-h] [--json] (UUID | --all | --host HOST | --group GROUP) EVENT",
        epilog="Asked of many, it is a question: nothing is done, and nothing follows from the "
        "answers.",
    )
    notify = command("notify", "notify an instance of an event", _JSON_LINES)
    every = [str(event) for event in EVENT_TABLE]
    not_voted = {event: "not voted on, only notified" for event in every if event not in voted}
    vote.add_argument("--all", action="store_true", help="ask all instances")
    vote.add_argument("--host", metavar="HOST", help="ask the instances on this host")
    vote.add_argument("--group", metavar="GROUP", help="ask the members of this group")
    vote.add_argument("uuid", metavar="UUID", nargs="?", help=UUID_HELP)
    notify.add_argument("uuid", metavar="UUID", help=UUID_HELP)
    for added, events, unfit in ((vote, voted, not_voted), (notify, every, {})):
        added.add_argument(
            "event", metavar="EVENT", type=Words("event", events, unfit), help=", ".join(events)
        )

    notify_all = command(
        "notify-all",
        "notify all heartbeating instances of an event, side by side",
        _JSON_LINES,
    )
    add_announcement(notify_all)

    events_parser = command("events", "show past events, and with --follow new ones", _JSON_LINES)
    add_filter(events_parser)
    events_parser.add_argument(
        "--follow", action="store_true", help="keep printing new events until interrupted"
    )
    events_parser.add_argument(
        "--recent",
        metavar="N",
        type=number(0, 99_999),
        help="start with the last N events; a host keeps 1000 (default: 20; with --follow: 0; "
        "with --since: all since then)",
    )

    history = command("history", "show the history, newest last", _JSON_LINES)
    add_filter(history)
    history.add_argument(
        "--limit",
        metavar="N",
        type=number(0, _PAGE),
        default=100,
        help=f"how many entries, 0 to {_PAGE} (default %(default)s)",
    )
    history.add_argument(
        "--before", metavar="ID", type=entry_id, help="only entries older than this one"
    )

    add_orders(command)

    add_drain(command)

    act = command(
        "act",
        "perform an action on an instance, with its vote and notices",
        _JSON_LINES,
        usage="%(prog)s [-h] [--json] [options] UUID [ACTION] [-- COMMAND...]",
        epilog="COMMAND performs the action; the host runs it as the host daemon's user. {uuid} in "
        "an argument stands for the instance's uuid, {{uuid}} for the text {uuid}. Without COMMAND "
        "the host runs the one that its [actions] configure.",
    )
    actions = [str(name) for name in ACTION_TABLE]
    act.add_argument("uuid", metavar="UUID", help=UUID_HELP)
    act.add_argument(
        "action",
        metavar="ACTION",
        nargs="?",
        type=Words("action", actions),
        help=", ".join(actions),
    )
    act.add_argument("--force", action="store_true", help="skip the vote, not the notices")
    act.add_argument(
        "--retry-for",
        metavar="TIME",
        type=retry_span,
        help="if the vote is rejected, ask again every 30 s for so long: 90s, 30m, 2h",
    )
    act.add_argument(
        "--then",
        choices=(GIVE_UP, FORCE),
        help="what follows if it is rejected to the end; give-up is the default, force skips the "
        "vote",
    )
    time = moment_after(datetime.now().astimezone())
    act.add_argument(
        "--not-before",
        metavar="TIME",
        type=time,
        help="plan the action: ask the guest from then on, every 30 s while it rejects; in how "
        "long (90s, 2h, 1d), 12:00, or 2026-01-31 12:00 (default now)",
    )
    act.add_argument(
        "--before",
        metavar="TIME",
        type=time,
        help="plan the action: perform it then without its vote, if the guest has rejected until "
        "then; within 30 days. The host keeps the plan",
    )
    act.add_argument(
        "--cancel-planned", action="store_true", help="cancel the planned action of the instance"
    )
    act.add_argument(
        "--take-over",
        action="store_true",
        help="end a corrective command that runs, instead of waiting for it",
    )
    act.add_argument(
        "--ignore-hold", action="store_true", help="act on an instance that is on hold, too"
    )
    act.add_argument(
        "--ignore-group",
        action="store_true",
        help="act also if more members of a group would be unavailable than it permits",
    )


def run(options: argparse.Namespace) -> int:
    """Carries out a command.

    Raises:
        UserError: the daemon refuses, can't be reached, or an option is faulty.
    """
    # Imported late: a mistyped command must fail at once.
    from hbtrio.cli.ctl.commands import carry_out
    from hbtrio.cli.ctl.pager import paged
    from hbtrio.cli.ctl.screen import Screen

    with writing_out():
        screen = Screen.of(sys.stdout)
    # What ends by itself is shown as a whole; the rest is shown as it comes.
    goes_on = getattr(options, "follow", False) or getattr(options, "watch", None)
    ends = options.command in _PAGED and not goes_on
    environment = {**os.environ, "PAGER": ""} if options.no_pager else os.environ
    with paged(screen, environment) if ends else nullcontext():
        return carry_out(options, screen)
