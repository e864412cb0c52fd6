"""The agent's operator API as an OpenAPI 3.1 document: its routes, and what they answer.

The schemas are generated from the structs of :mod:`hbtrio.wire.operator`, which make the answers.
"""

from __future__ import annotations

from typing import Any, Final

import hbtrio
from hbtrio.store.daemon_store import PAGE
from hbtrio.wire.operator import (
    ActRequest,
    AlarmsReply,
    AlarmsRequest,
    ClockReply,
    DrainBody,
    DrainLine,
    DrainList,
    DrainRequest,
    FleetEventLine,
    FleetInstanceDetail,
    FleetStatus,
    Forgotten,
    History,
    HoldReply,
    HoldRequest,
    LookLine,
    NoticeRequest,
    PlanRequest,
    ProgressLine,
    Refusal,
    TaskTree,
    VoteRequest,
)
from hbtrio.wire.operator.components import components, reference
from hbtrio.wire.operator.requests import BEGIN_BY_HEADER

_Json = dict[str, Any]

_TEXT: Final[_Json] = {"type": "string"}
_COUNT: Final[_Json] = {"type": "integer", "minimum": 0}

#: Either is enough, over TCP.
_PERMISSION: Final[list[_Json]] = [{"token": []}, {"certificate": []}]

_WHY: Final = {
    "400": "The request is faulty.",
    "401": "Over TCP: the bearer token is missing or wrong, and there is no client certificate.",
    "403": "Over TCP: there is no client certificate, and no token is configured; the Host "
    "header does not name the loopback; or a page of another site made the request.",
    "404": "No such instance or host.",
    "409": "Not possible now: the instance is not heartbeating, its host has no link, or something "
    "else is open on it; no alarms are held back; the host to forget has a link; "
    "the member to forget exists.",
    "413": "The body is larger than 64 KiB.",
    "503": "The history can't be read or written, or too many such requests are in progress.",
    "504": "It is unknown whether the instance was asked: its host did not reply.",
}


def openapi(*, local: bool = True) -> _Json:
    """The document.

    Args:
        local: whether it is served on the loopback only; elsewhere every request needs permission.
    """
    document = _document()
    if not local:
        for operations in document["paths"].values():
            for operation in operations.values():
                operation["security"] = _PERMISSION
                operation["responses"] |= _refused("401")
    return document


def _document() -> _Json:
    return {
        "openapi": "3.1.0",
        "info": {"title": "hbtrio agent, operator API", "version": hbtrio.__version__},
        "paths": {
            "/v1/status": {
                "get": _get("status", "The agent, its hosts, its instances", FleetStatus)
            },
            "/v1/history": {
                "get": _get(
                    "history", "The history, the newest first", History, _history_query(), "400"
                )
            },
            "/v1/events": {"get": _events()},
            "/v1/clock": {"get": _get("clock", "The clock by which requests expire", ClockReply)},
            "/v1/tree": {"get": _get("tree", "The live tasks of the agent", TaskTree)},
            "/v1/instances/{uuid}": {
                "get": _get("instance", "One instance", FleetInstanceDetail, [_uuid()], "404")
            },
            "/v1/instances/{uuid}/look": {
                "get": _get(
                    "look", "What its host sees of an instance now", LookLine, [_uuid()], "404"
                )
            },
            "/v1/instances/{uuid}/vote": {
                "post": _post("vote", "Ask whether an event may happen", VoteRequest)
            },
            "/v1/instances/{uuid}/notify": {
                "post": _post("notify", "Announce an event", NoticeRequest)
            },
            "/v1/instances/{uuid}/act": {
                "post": _post("act", "Perform an action, with its vote and notices", ActRequest)
            },
            "/v1/instances/{uuid}/plan": {"post": _plan()},
            "/v1/instances/{uuid}/hold": {
                "post": _hold("hold", "Put an instance on hold", HoldRequest)
            },
            "/v1/instances/{uuid}/unhold": {"post": _hold("unhold", "End the hold", None)},
            "/v1/instances/{uuid}/forget": {
                "post": _forget("forget_member", "Forget a member of groups that no host has")
            },
            "/v1/hosts/{hostname}/alarms": {"post": _alarms()},
            "/v1/hosts/{hostname}/forget": {"post": _forget_host()},
            "/v1/drains": {
                "get": _get("drains", "Drains in progress, and the last ones", DrainList),
                "post": _drain(),
            },
            "/v1/drains/{id}": {
                "get": _get("drain", "A drain, with its instances", DrainBody, [_id()], "404")
            },
            "/v1/drains/{id}/progress": {"get": _drain_progress()},
            "/v1/drains/{id}/cancel": {"post": _cancel_drain()},
            "/metrics": {"get": _metrics()},
            "/openapi.json": {"get": _itself()},
        },
        "components": {
            "schemas": components(),
            "responses": {
                f"Refused{status}": {
                    "description": why,
                    "content": {"application/json": {"schema": reference(Refusal)}},
                }
                for status, why in _WHY.items()
            },
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "certificate": {"type": "mutualTLS"},
            },
        },
    }


# -- operations -----------------------------------------------------------------------------


def _get(
    name: str, summary: str, body: type[Any], parameters: list[_Json] | None = None, *faults: str
) -> _Json:
    return {
        "operationId": name,
        "summary": summary,
        "parameters": parameters or [],
        "responses": {
            "200": _answered(body),
            **_refused("403", "503", *faults),
        },
    }


def _post(name: str, summary: str, body: type[Any]) -> _Json:
    return {
        "operationId": name,
        "summary": summary,
        "security": _PERMISSION,
        "parameters": [_uuid(), _begin_by()],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": reference(body)}},
        },
        "responses": {
            "200": _stream("Lines of progress, the last one with the outcome.", ProgressLine),
            **_refused("400", "401", "403", "404", "409", "413", "503", "504"),
        },
    }


def _plan() -> _Json:
    operation = _post(
        "plan", "Plan an action: from when on it is asked for, and until when", PlanRequest
    )
    operation["responses"]["200"] = _answered(DrainBody)
    del operation["responses"]["504"]
    return operation


def _hold(name: str, summary: str, body: type[Any] | None) -> _Json:
    operation = _post(name, summary, HoldRequest)
    operation["responses"]["200"] = _answered(HoldReply)
    del operation["responses"]["504"]
    if body is None:
        del operation["requestBody"]  # it is ignored
    return operation


def _alarms() -> _Json:
    operation = _post(
        "alarms", "Send or withdraw the alarms of a host that are held back", AlarmsRequest
    )
    operation["parameters"] = [_in_path("hostname"), _begin_by()]
    operation["responses"]["200"] = _answered(AlarmsReply)
    # Of an unknown host no alarms are held back, which is a 409.
    del operation["responses"]["404"], operation["responses"]["504"]
    return operation


def _forget_host() -> _Json:
    operation = _forget("forget", "Forget a host that is no more; its history stays")
    operation["parameters"] = [_in_path("hostname"), _begin_by()]
    return operation


def _forget(name: str, summary: str) -> _Json:
    operation = _post(name, summary, AlarmsRequest)
    operation["responses"]["200"] = _answered(Forgotten)
    # A body is ignored.
    del operation["requestBody"], operation["responses"]["504"]
    return operation


def _drain() -> _Json:
    operation = _post("begin_drain", "Perform an action on all instances of hosts", DrainRequest)
    operation["parameters"] = [_begin_by()]
    operation["responses"]["200"] = _stream("Lines of progress, the last one its end.", DrainLine)
    del operation["responses"]["404"], operation["responses"]["504"]
    return operation


def _drain_progress() -> _Json:
    operation = _get("drain_progress", "The progress of a drain", DrainBody, [_id()], "404")
    operation["responses"]["200"] = _stream("From its present state to its end.", DrainLine)
    return operation


def _cancel_drain() -> _Json:
    operation = _post("cancel_drain", "Take no more turns of a drain", DrainRequest)
    operation["parameters"] = [_id(), _begin_by()]
    operation["responses"]["200"] = _answered(DrainBody)
    # A body is ignored.
    del operation["requestBody"], operation["responses"]["504"]
    return operation


def _id() -> _Json:
    return _in_path("id")


def _events() -> _Json:
    follow = {"type": "string", "enum": ["yes", "no"], "default": "yes"}
    return {
        "operationId": "events",
        "summary": "The last events, then new ones",
        "parameters": [
            _query("recent", _COUNT | {"maximum": 99_999, "default": 0}),
            _query("follow", follow),
            *_filter_query(),
        ],
        "responses": {
            "200": _stream(
                "Events; an empty line or a comment after 15 s without one.", FleetEventLine
            ),
            **_refused("400", "403", "503"),
        },
    }


def _filter_query() -> list[_Json]:
    return [
        _query("uuid", _TEXT),
        _query("kind", _TEXT | {"description": "Kinds, separated by commas."}),
        _query("since", _TEXT | {"format": "date-time"}),
        _query("by", _TEXT | {"description": "Part of the name of who asked."}),
    ]


def _itself() -> _Json:
    operation = _get("openapi", "This document", FleetStatus)
    operation["responses"]["200"]["content"]["application/json"]["schema"] = {"type": "object"}
    return operation


def _metrics() -> _Json:
    operation = _get("metrics", "Metrics for Prometheus", FleetStatus)
    operation["responses"]["200"]["content"] = {"text/plain": {"schema": _TEXT}}
    return operation


def _history_query() -> list[_Json]:
    return [
        *_filter_query(),
        _query("before", _COUNT | {"maximum": 10**15 - 1}),
        _query("limit", _COUNT | {"maximum": PAGE, "default": 100}),
    ]


def _query(name: str, schema: _Json) -> _Json:
    return {"name": name, "in": "query", "schema": schema}


def _uuid() -> _Json:
    return _in_path("uuid")


def _begin_by() -> _Json:
    return {
        "name": BEGIN_BY_HEADER,
        "in": "header",
        "description": "SECONDS BOOT_ID: the last moment at which the request may begin, on the "
        "clock of /v1/clock. Read later, it is refused with 409 and does nothing.",
        "schema": _TEXT,
    }


def _in_path(name: str) -> _Json:
    schema = {"type": "string", "minLength": 1}
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _refused(*statuses: str) -> _Json:
    return {
        status: {"$ref": f"#/components/responses/Refused{status}"} for status in sorted(statuses)
    }


def _answered(body: type[Any]) -> _Json:
    return {
        "description": "Done.",
        "content": {"application/json": {"schema": reference(body)}},
    }


def _stream(description: str, line: type[Any]) -> _Json:
    text = f"One {line.__name__} object in each"
    return {
        "description": description,
        "content": {
            "application/x-ndjson": {"schema": {"type": "string", "description": f"{text} line."}},
            "text/event-stream": {"schema": {"type": "string", "description": f"{text} event."}},
        },
    }
