"""One parser of everything that can be typed after ``hbtrio``, for shtab.

``make docs`` has shtab write deploy/completion/ from it: scripts that the shells read by
themselves. A completer that runs the program, as argcomplete does, would start Python at every
press of the tab key, and be one more package in every VM.
"""

from __future__ import annotations

import argparse

from hbtrio.cli import COMMANDS, Parser, add_command

#: What the shell completes where an argument has one of these names in the help.
_KIND_OF: dict[object, str] = {"DIRECTORY": "directory", "FILE": "file", "PATH": "file"}


def whole_parser() -> argparse.ArgumentParser:
    """Returns the parser of ``hbtrio`` with all commands as subcommands."""
    parser = Parser(prog="hbtrio")
    parser.add_argument("--version", action="store_true", help="say which hbtrio this is")
    commands = parser.add_subparsers(dest="command", parser_class=Parser)
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text)
        add_command(name, command)
        command.description = text  # fish shows it beside the name
    _hint(parser)
    return parser


def _hint(parser: argparse.ArgumentParser) -> None:
    """Says what to complete, which argparse itself need not know."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                _hint(inner)
        elif action.metavar in _KIND_OF:
            action.complete = _KIND_OF[action.metavar]  # type: ignore[attr-defined]
        elif words := getattr(action.type, "known", None):
            action.choices = words
            action.help = str(action.metavar).lower()
