"""The schemas of the OpenAPI document, generated from the structs."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from hbtrio.wire.operator.detail import FleetInstanceDetail, LookLine
from hbtrio.wire.operator.drain import DrainLine, DrainList, DrainRequest, PlanRequest
from hbtrio.wire.operator.events import FleetEventLine, History
from hbtrio.wire.operator.fleet import AlarmsReply, ClockReply, FleetStatus, Forgotten, Refusal
from hbtrio.wire.operator.hold import HoldReply
from hbtrio.wire.operator.progress import ProgressLine
from hbtrio.wire.operator.requests import (
    ActRequest,
    AlarmsRequest,
    HoldRequest,
    NoticeRequest,
    VoteRequest,
)
from hbtrio.wire.operator.tree import TaskTree
from hbtrio.wire.operator.words import Body, StreamLine

#: What requests to an agent are answered with; what these refer to comes along.
_ANSWERS: Final = (
    FleetStatus,
    FleetInstanceDetail,
    LookLine,
    History,
    FleetEventLine,
    ProgressLine,
    DrainList,
    DrainLine,
    AlarmsReply,
    Forgotten,
    ClockReply,
    HoldReply,
    TaskTree,
    Refusal,
)
_REQUESTS: Final = (
    DrainRequest,
    PlanRequest,
    VoteRequest,
    NoticeRequest,
    ActRequest,
    AlarmsRequest,
    HoldRequest,
)


def components() -> dict[str, dict[str, Any]]:
    """The schemas of an agent's bodies and lines, by the names of their classes."""
    template = "#/components/schemas/{name}"
    _, schemas = msgspec.json.schema_components((*_REQUESTS, *_ANSWERS), ref_template=template)
    always = {cls.__name__ for cls in _with_heirs(Body)} - {Body.__name__}
    lines = {cls.__name__ for cls in StreamLine.__subclasses__()}
    for name, schema in schemas.items():
        schema["description"] = inspect.cleandoc(schema["description"])
        if name in lines:
            _without_defaults(schema)
        else:
            schema["additionalProperties"] = False
        if name in always:
            # What a reader can do without is sent all the same.
            schema["required"] = list(schema["properties"])
            _without_defaults(schema)
    # These have a default that is sent even so.
    schemas["FleetEventLine"]["required"] = ["kind", "reason"]
    return schemas


def _with_heirs(cls: type[Any]) -> Iterator[type[Any]]:
    yield cls
    for heir in cls.__subclasses__():
        yield from _with_heirs(heir)


def _without_defaults(schema: dict[str, Any]) -> None:
    for member in schema["properties"].values():
        member.pop("default", None)


def reference(cls: type[Any]) -> dict[str, str]:
    """A reference to a class's schema in the document."""
    return {"$ref": f"#/components/schemas/{cls.__name__}"}
