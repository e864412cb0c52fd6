"""The tasks of a daemon as a tree: ``hbtrio ctl tree``."""

from __future__ import annotations

import argparse
import re
from typing import Final

from hbtrio.cli.ctl.screen import Screen
from hbtrio.cli.ctl.table import counted, write_clipped
from hbtrio.client.client import CtlClient
from hbtrio.errors import ExitStatus
from hbtrio.wire.operator import TaskLine

#: The packages before a module's own name, which is followed by classes and functions.
_PACKAGES: Final = re.compile(
    r"^hbtrio(?:\.[a-z_0-9]+)*?\.(?=[a-z_0-9]+\.(?:[A-Z_]|[^.]+(?:$|\.<)))"
)


async def show_tree(client: CtlClient, screen: Screen, options: argparse.Namespace) -> int:
    """Shows the tasks of the daemon.

    Raises:
        UserError: what went wrong.
    """
    tree = await client.tree()
    for line in tree.lines:
        if options.json:
            screen.json({name: getattr(line, name) for name in line.__struct_fields__})
        elif not (line.kind == "nursery" and line.count == 1):
            write_clipped(screen, "  " * _indent(line) + words_of(line), _colour(line))
    return ExitStatus.DONE


def _indent(line: TaskLine) -> int:
    # Tasks and nurseries take turns on the way down; a nursery stands above its tasks.
    return (line.depth + 1) // 2


def words_of(line: TaskLine) -> str:
    """A line of the tree."""
    name = _PACKAGES.sub("", line.name)
    match line.kind:
        case "nursery":
            return f"{counted(line.count, 'task')} in one nursery:"
        case "more":
            return f"… {line.count} more of {name}" if name else f"… {line.count} more and theirs"
    left = "" if line.remaining_s is None else f", {max(0.0, line.remaining_s):.1f} s left"
    place = _PACKAGES.sub("", line.waits)
    waits = f", waits in {place}" if place else ""
    return f"{name}{left}{waits}"


def _colour(line: TaskLine) -> str:
    return "" if line.kind == "task" else "faint"
