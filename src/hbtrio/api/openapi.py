"""The agent's operator API as an OpenAPI 3.1 document, made from the tables it is served by."""

from __future__ import annotations

from typing import Any, Final

import hbtrio
from hbtrio.api.common import Alarms
from hbtrio.store.store import PAGE
from hbtrio.wire.vocabulary import ACTION_TABLE, EVENT_TABLE, VoteResult, WindowKind

_Json = dict[str, Any]

_TEXT: Final[_Json] = {"type": "string"}
_FLAG: Final[_Json] = {"type": "boolean"}
_COUNT: Final[_Json] = {"type": "integer", "minimum": 0}

#: Over TCP, either of them.
_PERMISSION: Final[list[_Json]] = [{"token": []}, {"certificate": []}]

_WHY: Final = {
    "400": "The request is faulty.",
    "401": "Over TCP: the bearer token is missing or wrong, and there is no client certificate.",
    "403": "Over TCP: there is no client certificate, and no token is configured; the Host is no "
    "name of the loopback; a page of another site asks.",
    "404": "No such instance, or host.",
    "409": "Not now: not heartbeating, its host has no link, something else is open on it, no "
    "alarms are held back; the host that is to be forgotten has a link.",
    "413": "The body is larger than 64 KiB.",
    "503": "The history can't be read or written, or there are too many connections.",
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
            "/v1/status": {"get": _get("status", "The agent, its hosts, its instances", "Status")},
            "/v1/history": {
                "get": _get(
                    "history", "What was kept, the newest first", "History", _history_query(), "400"
                )
            },
            "/v1/events": {"get": _events()},
            "/v1/instances/{uuid}": {
                "get": _get("instance", "One instance", "Instance", [_uuid()], "404")
            },
            "/v1/instances/{uuid}/vote": {
                "post": _post("vote", "Ask whether an event may happen", "Vote")
            },
            "/v1/instances/{uuid}/notify": {"post": _post("notify", "Tell of an event", "Notice")},
            "/v1/instances/{uuid}/act": {
                "post": _post("act", "Do something, with its vote and its notices", "Act")
            },
            "/v1/hosts/{hostname}/release": {"post": _release()},
            "/v1/hosts/{hostname}/forget": {"post": _forget()},
            "/metrics": {"get": _metrics()},
            "/openapi.json": {"get": _itself()},
        },
        "components": {
            "schemas": _schemas(),
            "responses": {
                f"Refused{status}": {
                    "description": why,
                    "content": {"application/json": {"schema": _schema("Refusal")}},
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
    name: str, summary: str, schema: str, parameters: list[_Json] | None = None, *faults: str
) -> _Json:
    return {
        "operationId": name,
        "summary": summary,
        "parameters": parameters or [],
        "responses": {
            "200": _answered(schema),
            **_refused("403", "503", *faults),
        },
    }


def _post(name: str, summary: str, schema: str) -> _Json:
    return {
        "operationId": name,
        "summary": summary,
        "security": _PERMISSION,
        "parameters": [_uuid()],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _schema(schema)}},
        },
        "responses": {
            "200": _stream("Lines of progress, the last one with the outcome.", "Progress"),
            **_refused("400", "401", "403", "404", "409", "413", "503"),
        },
    }


def _release() -> _Json:
    operation = _post("release", "Let the alarms of a host go that are held back", "Release")
    operation["parameters"] = [_in_path("hostname")]
    operation["responses"]["200"] = _answered("Released")
    # Of a host that nobody knows no alarms are held back.
    del operation["responses"]["404"]
    return operation


def _forget() -> _Json:
    operation = _post("forget", "Forget all of a host that is no more, but its history", "Release")
    operation["parameters"] = [_in_path("hostname")]
    operation["responses"]["200"] = _answered("Forgotten")
    # Nobody looks at a body.
    del operation["requestBody"], operation["responses"]["400"]
    return operation


def _events() -> _Json:
    follow = {"type": "string", "enum": ["yes", "no"], "default": "yes"}
    return {
        "operationId": "events",
        "summary": "The last events, then new ones",
        "parameters": [
            _query("recent", _COUNT | {"maximum": 99_999, "default": 0}),
            _query("follow", follow),
        ],
        "responses": {
            "200": _stream("Events; a sign of life every 15 s.", "Event"),
            **_refused("400", "403", "503"),
        },
    }


def _itself() -> _Json:
    operation = _get("openapi", "This document", "Status")
    operation["responses"]["200"]["content"]["application/json"]["schema"] = {"type": "object"}
    return operation


def _metrics() -> _Json:
    operation = _get("metrics", "Numbers for Prometheus", "Status")
    operation["responses"]["200"]["content"] = {"text/plain": {"schema": _TEXT}}
    return operation


def _history_query() -> list[_Json]:
    return [
        _query("uuid", _TEXT),
        _query("before", _COUNT | {"maximum": 10**15 - 1}),
        _query("limit", _COUNT | {"maximum": PAGE, "default": 100}),
    ]


def _query(name: str, schema: _Json) -> _Json:
    return {"name": name, "in": "query", "schema": schema}


def _uuid() -> _Json:
    return _in_path("uuid")


def _in_path(name: str) -> _Json:
    schema = {"type": "string", "minLength": 1}
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _refused(*statuses: str) -> _Json:
    return {
        status: {"$ref": f"#/components/responses/Refused{status}"} for status in sorted(statuses)
    }


def _answered(schema: str) -> _Json:
    return {
        "description": "What was asked for.",
        "content": {"application/json": {"schema": _schema(schema)}},
    }


def _stream(description: str, schema: str) -> _Json:
    text = f"One {schema} object in each"
    return {
        "description": description,
        "content": {
            "application/x-ndjson": {"schema": {"type": "string", "description": f"{text} line."}},
            "text/event-stream": {"schema": {"type": "string", "description": f"{text} event."}},
        },
    }


# -- schemas --------------------------------------------------------------------------------


def _schema(name: str) -> _Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _schemas() -> _Json:
    seconds = {"type": ["number", "null"], "minimum": 0}
    event = {
        "time": {"type": "string", "format": "date-time"},
        "kind": _TEXT,
        "uuid": _TEXT,
        "hostname": _TEXT,
        "event": _words(EVENT_TABLE),
        "result": _words(VoteResult),
        "corrective_action": _TEXT,
        "who": _TEXT,
        "asked_at": {"type": "string", "format": "date-time"},
        "reason": _TEXT,
    }
    return {
        "Vote": _object(event=_words(name for name, rule in EVENT_TABLE.items() if rule.voted)),
        "Notice": _object(event=_words(EVENT_TABLE)),
        "Act": {
            "type": "object",
            "additionalProperties": False,
            "required": ["action"],
            "properties": {
                "action": _words(ACTION_TABLE),
                "command": {
                    "type": "array",
                    "maxItems": 64,
                    "prefixItems": [{"type": "string", "minLength": 1, "maxLength": 4096}],
                    "items": {
                        "type": "string",
                        "maxLength": 4096,
                        "description": "{uuid} stands for the instance, {{uuid}} for itself. "
                        "Other words in braces are refused, and all of them in the first item, "
                        "the program.",
                    },
                },
                "force": _FLAG | {"description": "Skip the vote, not the notices."},
            },
        },
        "Release": _object(alarms=_words(Alarms)),
        "Released": _object(hostname=_TEXT, sent=_COUNT, withdrawn=_COUNT),
        "Forgotten": _object(hostname=_TEXT, instances=_COUNT),
        "Refusal": _object(status={"const": "fail"}, reason=_TEXT),
        "Event": {"type": "object", "required": ["kind", "reason"], "properties": event},
        "Progress": {
            "type": "object",
            "required": ["step"],
            "properties": {
                "step": _words(("vote", "notice", "command", "restart", "end", "lost")),
                "event": _words(EVENT_TABLE),
                "window": _words(WindowKind),
                "seconds": seconds,
                "argv": {"type": "array", "items": _TEXT},
                **dict.fromkeys(("waiting", "skipped", "result", "reason"), _TEXT),
                **dict.fromkeys(("output", "outcome"), _TEXT),
            },
        },
        "Instance": _object(
            uuid=_TEXT,
            hostname=_TEXT,
            link=_link(),
            reporting=_FLAG,
            name=_TEXT,
            state=_TEXT,
            why=_TEXT,
            heartbeating=_FLAG,
            health=_TEXT,
            interval_ms={"type": ["integer", "null"]},
            windows_s={"type": "object", "additionalProperties": _COUNT},
            corrective_action={"type": ["string", "null"]},
        ),
        "Host": _object(
            hostname=_TEXT,
            uuid=_TEXT,
            link=_link(),
            down_s=seconds,
            version=_TEXT,
            reports_dropped=_COUNT,
            reporting=_FLAG,
            instances=_COUNT,
            heartbeating=_COUNT,
            unregistered=_COUNT,
            held_since={"type": ["string", "null"], "format": "date-time"},
            held_why=_TEXT,
            conflict=_TEXT,
        ),
        "Agent": _object(
            name=_TEXT,
            version=_TEXT,
            started={"type": "string", "format": "date-time"},
            vim={"type": ["string", "null"]},
            store_fault=_TEXT,
            delivery={
                "oneOf": [
                    {"type": "null"},
                    _object(
                        reachable=_FLAG,
                        fault=_TEXT,
                        waiting=_COUNT,
                        in_flight=_COUNT,
                        delivered=_COUNT,
                        unconfirmed=_COUNT,
                        undelivered=_COUNT,
                        retries=_COUNT,
                    ),
                ]
            },
            crashes=_COUNT,
            links=_COUNT,
            host_alarms=_COUNT,
            heartbeating=_COUNT,
            actions={"type": "object", "additionalProperties": _TEXT},
        ),
        "Status": _object(
            agent=_schema("Agent"),
            hosts={"type": "array", "items": _schema("Host")},
            instances={"type": "array", "items": _schema("Instance")},
            unregistered={
                "type": "array",
                "items": _object(uuid=_TEXT, name=_TEXT, hostname=_TEXT),
            },
        ),
        "History": _object(
            history={
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["id", "kind", "reason"],
                    "properties": event | {"id": _COUNT},
                },
            },
            before={"type": ["integer", "null"]},
        ),
    }


def _link() -> _Json:
    return _words(("up", "down", "lost", "never"))


def _words(words: Any) -> _Json:
    return {"type": "string", "enum": [str(word) for word in words]}


def _object(**properties: _Json) -> _Json:
    return {
        "type": "object",
        "required": list(properties),
        "properties": properties,
        "additionalProperties": False,
    }
