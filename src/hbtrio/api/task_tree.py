"""The live tasks of this daemon, for its operators.

The tree is walked in slices, between which other tasks run, so that parts of it may be of different
moments. What is alike is shown a few times, and its number; the rest is not walked through. So a
daemon with tens of thousands of tasks delays nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Final

import attrs
import trio
from starlette.requests import Request
from starlette.responses import Response

from hbtrio.api import common as api_parts
from hbtrio.wire.operator import TaskLine, TaskTree

#: The most lines of a tree.
LINES: Final = 1000

#: Tasks of one name in one nursery that are shown.
ALIKE: Final = 5

#: Lines, and tasks that are only counted, between two pauses: less than a millisecond.
_SLICE: Final = 25
_COUNTED: Final = 1000

#: Frames of a task that are looked at.
_FRAMES: Final = 64

_OURS: Final = "hbtrio."


@attrs.frozen
class _More:
    name: str
    count: int


async def tree_reply(_: Request) -> Response:
    """Answers a request for the tree."""
    return api_parts.answer(await task_tree())


async def task_tree() -> TaskTree:
    """Walks through the tasks of the running event loop. A checkpoint."""
    root = trio.lowlevel.current_root_task()
    left: list[tuple[int, trio.lowlevel.Task | trio.Nursery | _More]] = []
    if root is not None:
        left.append((0, root))
    lines: list[TaskLine] = []
    while left:
        depth, item = left.pop()
        if len(lines) >= LINES:
            lines.append(TaskLine(depth=0, kind="more", count=len(left) + 1))
            break
        if isinstance(item, trio.lowlevel.Task):
            lines.append(_task_line(item, depth))
            left += [(depth + 1, one) for one in reversed(item.child_nurseries)]
        elif isinstance(item, trio.Nursery):
            tasks = item.child_tasks
            if tasks:
                lines.append(TaskLine(depth=depth, kind="nursery", count=len(tasks)))
                left += [(depth + 1, one) for one in reversed(await _some_of(tasks))]
        else:
            lines.append(TaskLine(depth=depth, kind="more", name=item.name, count=item.count))
        if len(lines) % _SLICE == 0:
            await trio.lowlevel.checkpoint()
    await trio.lowlevel.checkpoint()
    return TaskTree(lines=tuple(lines))


async def _some_of(tasks: frozenset[trio.lowlevel.Task]) -> list[trio.lowlevel.Task | _More]:
    """A few tasks of each name, by name, with the number of those that are left out."""
    counts: Counter[str] = Counter()
    shown: dict[str, list[trio.lowlevel.Task | _More]] = {}
    for number, task in enumerate(tasks):
        counts[task.name] += 1
        if counts[task.name] <= ALIKE:
            shown.setdefault(task.name, []).append(task)
        if number % _COUNTED == _COUNTED - 1:
            await trio.lowlevel.checkpoint()
    some: list[trio.lowlevel.Task | _More] = []
    for name, few in sorted(shown.items()):
        some += few
        if counts[name] > ALIKE:
            some.append(_More(name, counts[name] - ALIKE))
    return some


def _task_line(task: trio.lowlevel.Task, depth: int) -> TaskLine:
    deadline = _deadline(task)
    remaining_s = None if math.isinf(deadline) else round(deadline - trio.current_time(), 3)
    return TaskLine(
        depth=depth, kind="task", name=task.name, waits=_waits(task), remaining_s=remaining_s
    )


def _deadline(task: trio.lowlevel.Task) -> float:
    """When the first of a task's own cancel scopes ends; infinity for never.

    trio has no public way to the scopes of another task. Another version of trio may have another
    private one: then no times are shown.
    """
    outer = getattr(task.parent_nursery, "_cancel_status", None)
    status = getattr(task, "_cancel_status", None)
    deadline = math.inf
    while status is not None and status is not outer:
        deadline = min(deadline, getattr(getattr(status, "_scope", None), "deadline", math.inf))
        status = getattr(status, "_parent", None)
    return deadline


def _waits(task: trio.lowlevel.Task) -> str:
    """The innermost place in this program where a task waits; "" if there is none."""
    place = ""
    for number, (frame, line) in enumerate(task.iter_await_frames()):
        module = frame.f_globals.get("__name__", "")
        if module.startswith(_OURS):
            place = f"{module}.{frame.f_code.co_qualname}:{line}"
        if number >= _FRAMES:
            break
    return place
