"""Writes the manual pages from the parsers, the texts of ``--help``: ``make docs``.

``python -m hbtrio.cli.manual DIRECTORY PAGE`` writes one page for ``hbtrio`` and one for each
command; PAGE is docs/exit-statuses.md. The text is independent of the version of Python, whose
``--help`` breaks and words its lines differently.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import hbtrio
from hbtrio.cli import COMMANDS, DAEMONS, Parser, add_command

_ROW: Final = re.compile(r"^\| (?P<status>\d+) \| (?P<meaning>[^|]*) \|", re.MULTILINE)

#: What --help says of itself; nobody needs to read that here.
_LEFT_OUT: Final = (argparse._HelpAction, argparse._SubParsersAction)


def section_of(command: str) -> int:
    """Returns the section of a command's page: 8 for daemons, 1 for what anybody runs."""
    return 8 if command in DAEMONS else 1


def pages(statuses: str) -> dict[str, str]:
    """Returns all pages, by the name of their file.

    Args:
        statuses: docs/exit-statuses.md, whose table the page of ``hbtrio`` repeats.
    """
    made = {"hbtrio.1": _overview(statuses)}
    for name in COMMANDS:
        section = section_of(name)
        parser = Parser(prog=f"hbtrio {name}")
        add_command(name, parser)
        made[f"hbtrio-{name}.{section}"] = _page(name, section, parser)
    return made


def _overview(statuses: str) -> str:
    lines = [
        *_title("hbtrio", 1, hbtrio.__doc__.splitlines()[0].partition(": ")[2].rstrip(".")),
        ".SH SYNOPSIS",
        ".B hbtrio",
        ".I COMMAND",
        ".RI [ OPTION ...]",
        ".SH COMMANDS",
    ]
    for name, text in COMMANDS.items():
        lines += [".TP", f".BR hbtrio\\-{_text(name)} ({section_of(name)})", _text(text)]
    lines.append(".SH EXIT STATUS")
    for row in _ROW.finditer(statuses):
        lines += [".TP", f".B {row['status']}", _text(row["meaning"].replace("`", ""))]
    lines += [".SH FILES", ".B hbtrio files \\-\\-list"]
    lines.append("prints the samples and documents that come with the program.")
    return _joined(lines)


def _page(name: str, section: int, parser: argparse.ArgumentParser) -> str:
    lines = _title(f"hbtrio-{name}", section, COMMANDS[name])
    lines += [".SH SYNOPSIS", *_synopsis(parser)]
    lines += [".SH DESCRIPTION", *_paragraphs(parser.description or "")]
    if options := list(_arguments(parser)):
        lines += [".SH OPTIONS", *options]
    commands = commands_of(parser)
    if commands:
        lines.append(".SH COMMANDS")
    for inner in commands:
        lines += [".SS " + inner.prog.rpartition(" ")[2], *_synopsis(inner), ".PP"]
        lines += [*_paragraphs(inner.description or ""), *_arguments(inner)]
        lines += [".PP", *_paragraphs(inner.epilog)] if inner.epilog else []
    lines += [".SH SEE ALSO", ".BR hbtrio (1)"]
    return _joined(lines)


def _title(name: str, section: int, summary: str) -> list[str]:
    return [
        '.\\" Written by `make docs` from the texts of --help.',
        f'.TH {_text(name.upper())} {section} "" "hbtrio {hbtrio.__version__}"',
        ".SH NAME",
        f"{_text(name)} \\- {_text(summary)}",
    ]


def _synopsis(parser: argparse.ArgumentParser) -> Iterator[str]:
    yield f".B {_text(parser.prog)}"
    yield from (_text(word) for word in synopsis(parser))


def synopsis(parser: argparse.ArgumentParser) -> list[str]:
    """Returns what follows the program's name, word by word."""
    if parser.usage:  # written by hand where argparse's would be wrong
        return [parser.usage.replace("%(prog)s", "").strip()]
    return [*usage_words(shown(parser)), *(["COMMAND ..."] if commands_of(parser) else [])]


def usage_words(actions: Sequence[argparse.Action]) -> Iterator[str]:
    """Yields each argument as a synopsis has it, options last."""
    for action in sorted(actions, key=lambda action: not action.option_strings):
        value = value_of(action)
        if action.option_strings:
            word = f"{action.option_strings[-1]} {value}".rstrip()
            yield word if action.required else f"[{word}]"
        elif action.nargs in ("?", "*"):
            yield f"[{value}{'...' if action.nargs == '*' else ''}]"
        else:
            yield value


def _arguments(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in shown(parser):
        yield ".TP"
        names = [rf"\fB{_text(name)}\fR" for name in action.option_strings]
        value = rf"\fI{_text(value_of(action))}\fR" if value_of(action) else ""
        yield " ".join(filter(None, [", ".join(names), value]))
        yield _text(help_of(action, parser))


def help_of(action: argparse.Action, parser: argparse.ArgumentParser) -> str:
    """Returns the help of an argument, with its default where the help names it."""
    return argparse.HelpFormatter(parser.prog)._expand_help(action)


def shown(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Returns the arguments that a page has, in the order of the help."""
    return [
        action
        for action in parser._actions
        if action.help != argparse.SUPPRESS and not isinstance(action, _LEFT_OUT)
    ]


def value_of(action: argparse.Action) -> str:
    """Returns what stands for the argument's value; nothing for a flag."""
    if action.nargs == 0:
        return ""
    if action.choices is not None:
        return "|".join(map(str, action.choices))
    return str(action.metavar or action.dest.upper())


def commands_of(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """Returns the parsers of the commands below this one."""
    found: list[argparse.ArgumentParser] = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found += action.choices.values()
    return found


def _paragraphs(text: str) -> list[str]:
    """The paragraphs of a docstring, with a break between each two."""
    lines: list[str] = []
    for paragraph in text.strip().split("\n\n"):
        lines += [".PP"] if lines else []
        lines.append(_text(" ".join(paragraph.split())))
    return lines


def _text(text: str) -> str:
    """Escapes a text for roff: hyphens that may be copied, and nothing that begins a request."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


def _joined(lines: Sequence[str]) -> str:
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    directory, page = map(Path, sys.argv[1:])
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in pages(page.read_text(encoding="utf-8")).items():
        (directory / name).write_text(text, encoding="utf-8")
