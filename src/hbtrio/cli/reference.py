"""Writes docs/commands.md from the parsers, and the event table of docs/concepts.md: ``make docs``.

``python -m hbtrio.cli.reference DIRECTORY`` writes them into that directory of documentation.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from hbtrio.cli import COMMANDS, Parser, add_command
from hbtrio.cli.manual import commands_of, help_of, shown, synopsis, value_of
from hbtrio.wire.vocabulary import ACTION_TABLE, EVENT_TABLE, Event, ExpectedEffect

_HEAD: Final = """\
# Commands and options

`make docs` generates this page from the texts of `--help`: edit those, not this page. The manual
pages of [deploy/](../deploy/README.md) have the same texts. [exit-statuses.md](exit-statuses.md)
explains what a command ends with.
"""

#: What stands around the event table.
BEGIN: Final = "<!-- events: written by `make docs` -->\n"
END: Final = "<!-- end of events -->\n"

_EFFECTS: Final = {
    ExpectedEffect.STOPS: "the VM stops",
    ExpectedEffect.FREEZES: "the VM stands still, or moves",
    ExpectedEffect.RESTARTS: "the VM goes down and comes back within RESTART",
    ExpectedEffect.RETURNS: "the VM answers again",
}


def commands_page() -> str:
    """Returns docs/commands.md."""
    lines = [_HEAD]
    for name in COMMANDS:
        parser = Parser(prog=f"hbtrio {name}")
        add_command(name, parser)
        lines += _command(parser, f"## hbtrio {name}")
        for inner in commands_of(parser):
            lines += _command(inner, f"### {inner.prog.removeprefix('hbtrio ')}")
    return "\n".join(lines).rstrip("\n") + "\n"


def _command(parser: argparse.ArgumentParser, heading: str) -> Iterator[str]:
    yield f"{heading}\n"
    yield f"    {' '.join([parser.prog, *synopsis(parser)])}\n"
    for paragraph in (parser.description or "").strip().split("\n\n"):
        text = " ".join(paragraph.split())
        yield f"{text[:1].upper()}{text[1:].rstrip('.')}.\n"
    if arguments := shown(parser):
        yield "| argument | meaning |"
        yield "|---|---|"
        for action in arguments:
            names = ", ".join(action.option_strings)
            typed = f"{names} {value_of(action)}".strip()
            yield f"| `{_cell(typed)}` | {_cell(_code(help_of(action, parser)))} |"
        yield ""
    if parser.epilog:
        yield f"{' '.join(parser.epilog.split())}\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _code(text: str) -> str:
    """Puts what Markdown or a browser would take for markup into code."""
    return re.sub(r"(?<![\w`])([{<][\w-]+[}>]|\*)(?![\w`])", r"`\1`", text)


def event_table() -> str:
    """Returns the table of events: who is asked and told when, and what is expected then."""
    lines = [
        "| event | action | vote | window of the notice | expected then |",
        "|---|---|---|---|---|",
    ]
    for event, rule in EVENT_TABLE.items():
        vote = "yes" if rule.voted else "no"
        action = ", ".join(f"`{name}`" for name in _actions(event))
        effect = _EFFECTS[rule.effect]
        lines.append(f"| `{event}` | {action} | {vote} | {rule.notice} | {effect} |")
    return "\n".join(lines) + "\n"


def _actions(event: Event) -> Iterator[str]:
    for name, rule in ACTION_TABLE.items():
        if event in (rule.before, rule.after):
            yield name


def with_event_table(page: str) -> str:
    """Returns the page with the table between its two marks renewed.

    Raises:
        ValueError: the page has not these two marks.
    """
    head, _, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not end:
        raise ValueError(f"no place for the event table: {BEGIN}{END}")
    return f"{head}{BEGIN}\n{event_table()}\n{END}{tail}"


if __name__ == "__main__":
    directory = Path(sys.argv[1])
    (directory / "commands.md").write_text(commands_page(), encoding="utf-8")
    concepts = directory / "concepts.md"
    concepts.write_text(with_event_table(concepts.read_text(encoding="utf-8")), encoding="utf-8")
