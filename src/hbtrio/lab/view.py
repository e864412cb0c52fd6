"""What `hbtrio lab` shows: a live table on a terminal, plain lines everywhere else.

Writing is done in a thread. A terminal that is held up (Ctrl-S, a tmux that is scrolled back) or a
pipe that nobody reads blocks a write for as long as it likes, and this process has to go on being
QEMU meanwhile.
"""

from __future__ import annotations

import os
import sys
from itertools import zip_longest
from textwrap import wrap
from typing import Final, Protocol

import trio

from hbtrio.config.source import printable
from hbtrio.lab.tour import Line, Tour
from hbtrio.output import write_out, writing_out

#: What is longer is folded: two of these columns, and the word behind them, take 80.
_COLUMN: Final = 36


class View(Protocol):
    """Shows a tour."""

    async def run(self, tour: Tour) -> None:
        """Shows what happens until the story has ended.

        Raises:
            UserError, BrokenPipeError: as :func:`hbtrio.output.write_out` says.
        """


def view_of_stdout() -> View:
    """The view that standard output is good for.

    Raises:
        UserError: it is closed.
    """
    draws = os.environ.get("TERM", "dumb") not in ("dumb", "unknown")
    with writing_out():
        terminal = sys.stdout.isatty()
    if terminal and draws and sys.stdout.encoding.lower() == "utf-8":
        # Imported here: nobody else needs rich, which takes longer to load than a guest to start.
        from hbtrio.lab.live import LiveView

        return LiveView()
    return PlainView()


class PlainView:
    """The story, line by line."""

    async def run(self, tour: Tour) -> None:
        """See :class:`View`."""
        async for line in tour.story.follow():
            await write(words_of(line))


async def write(text: str) -> None:
    """Writes lines to standard output; can be cancelled while nobody reads them.

    Raises:
        UserError, BrokenPipeError: as :func:`hbtrio.output.write_out` says.
    """
    await trio.to_thread.run_sync(write_out, f"{text}\n", abandon_on_cancel=True)


def words_of(line: Line) -> str:
    """A line of the story, in columns."""
    return printable(f"{line.at_s:5.1f} s  {line.who:5}  {line.text}")


def summary(tour: Tour) -> str:
    """What was expected and what was seen, step by step, and whether it is the same."""
    facts = [fact for finding in tour.findings for fact in finding.facts]
    longest = max(len(text) for text in ("EXPECTED", *(fact.expected for fact in facts)))
    width = min(_COLUMN, longest)
    lines = ["", f"  {'EXPECTED':{width}}  SEEN"]
    for finding in tour.findings:
        lines.append(finding.title)
        for fact in finding.facts:
            verdict = "ok" if fact.agrees else "DIFFERS"
            folded = zip_longest(
                wrap(fact.expected, _COLUMN), wrap(printable(fact.seen), _COLUMN), fillvalue=""
            )
            rows = [f"  {expected:{width}}  {seen:{width}}" for expected, seen in folded]
            lines += [*(row.rstrip() for row in rows[:-1]), f"{rows[-1]}  {verdict}"]
    differ = sum(not fact.agrees for fact in facts)
    lines.append("")
    if differ:
        lines.append(f"{differ} of {len(facts)} were not seen as expected.")
    else:
        lines.append(f"All {len(facts)} were seen as expected.")
    return "\n".join(lines)
