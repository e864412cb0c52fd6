"""Shows the tour of `hbtrio lab`: a live table on a terminal, otherwise plain lines.

Writing is done in a thread, because a paused terminal (Ctrl-S, a tmux that is scrolled back) or a
pipe without a reader blocks, while this process has to go on simulating QEMU.
"""

from __future__ import annotations

import os
import sys
from itertools import zip_longest
from textwrap import wrap
from typing import Final, Protocol

import trio

from hbtrio.lab.tour import Line, Tour
from hbtrio.output import write_out, writing_out
from hbtrio.text import printable

#: Longer texts are folded: two of these columns and the verdict fit into 80 characters.
_COLUMN: Final = 36


class View(Protocol):
    """Shows a tour."""

    async def run(self, tour: Tour) -> None:
        """Shows the story until its end.

        Raises:
            UserError, BrokenPipeError: as for :func:`hbtrio.output.write_out`.
        """


def view_of_stdout() -> View:
    """Returns the view that standard output supports.

    Raises:
        UserError: standard output is closed.
    """
    draws = os.environ.get("TERM", "dumb") not in ("dumb", "unknown")
    with writing_out():
        terminal = sys.stdout.isatty()
    if terminal and draws and sys.stdout.encoding.lower() == "utf-8":
        # Imported here, because rich takes longer to load than a guest to start.
        from hbtrio.lab.live import LiveView

        return LiveView()
    return PlainView()


class PlainView:
    """Shows the story line by line."""

    async def run(self, tour: Tour) -> None:
        """See :class:`View`."""
        async for line in tour.story.follow():
            await write(words_of(line))


async def write(text: str) -> None:
    """Writes lines to standard output; can be cancelled while the write blocks.

    Raises:
        UserError, BrokenPipeError: as for :func:`hbtrio.output.write_out`.
    """
    await trio.to_thread.run_sync(write_out, f"{text}\n", abandon_on_cancel=True)


def words_of(line: Line) -> str:
    """Formats a line of the story in columns."""
    return printable(f"{line.at_s:5.1f} s  {line.who:5}  {line.text}")


def summary(tour: Tour) -> str:
    """Compares the expected with the seen facts, step by step."""
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
