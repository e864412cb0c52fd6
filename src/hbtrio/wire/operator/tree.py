"""The tasks of a daemon, as they are at one moment."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from hbtrio.wire.operator.words import Body, Count


class TaskLine(Body, frozen=True, kw_only=True):
    """A task, a nursery of tasks, or those that are left out."""

    depth: Annotated[Count, Meta(description="The lines below it, up to its own depth, are in it.")]
    kind: Annotated[
        str,
        Meta(
            description="more: left out are count tasks of this name; without a name, all that "
            "would follow.",
            extra_json_schema={"enum": ["task", "nursery", "more"]},
        ),
    ]
    name: Annotated[str, Meta(description="The function that a task runs.")] = ""
    waits: Annotated[str, Meta(description="Where in this program a task waits.")] = ""
    remaining_s: Annotated[
        float | None,
        Meta(description="Seconds until the first of its own cancel scopes ends; null: never."),
    ] = None
    count: Annotated[Count, Meta(description="Tasks of a nursery, or those left out.")] = 0


class TaskTree(Body, frozen=True, kw_only=True):
    """The tasks, from the root down."""

    lines: tuple[TaskLine, ...]
