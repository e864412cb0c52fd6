"""What the operator APIs of host and agent have in common: bodies, words, streams, failures.

Streams are JSON lines, or server-sent events for whoever accepts ``text/event-stream``: the same
objects, one in each line or event. Faults are answered with
``{"status": "fail", "reason": ...}``.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Sequence
from contextlib import aclosing
from enum import StrEnum
from typing import Any, Final, TypeVar

import attrs
import trio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from hbtrio.config.settings import command
from hbtrio.config.toml import structure
from hbtrio.errors import ConfigError
from hbtrio.http.server import ClosingStreamingResponse
from hbtrio.nursery.broadcast import Broadcast
from hbtrio.wire.vocabulary import (
    ACTION_TABLE,
    EVENT_TABLE,
    ActionName,
    Event,
    NotificationType,
    VoteResult,
    WindowKind,
)

#: What is said in a stream; None is a sign of life.
Items = AsyncGenerator[dict[str, Any] | None]

_T = TypeVar("_T")
_W = TypeVar("_W", bound=StrEnum)

_NDJSON: Final = "application/x-ndjson"
_SSE: Final = "text/event-stream"

#: A follower's stream says at least this often that it is alive, in seconds.
_QUIET_S: Final = 15.0

#: Digits of a number in a query.
_DIGITS: Final = 15


@attrs.frozen(kw_only=True)
class RoundRequest:
    """The body of a vote or notify request."""

    event: str


@attrs.frozen(kw_only=True)
class ActRequest:
    """The body of an act request."""

    action: str
    #: Checked as one of the configuration is: an unknown placeholder is found before the vote.
    command: tuple[str, ...] = command("uuid")
    force: bool = False


class Alarms(StrEnum):
    """What becomes of a host's alarms that were held back."""

    SEND = "send"
    WITHDRAW = "withdraw"


@attrs.frozen(kw_only=True)
class ReleaseRequest:
    """The body of a request to let a host's alarms go."""

    alarms: str


def application(routes: Sequence[Route]) -> Starlette:
    """An operator API as an ASGI application."""
    return Starlette(routes=routes, exception_handlers={HTTPException: _failed, Exception: _failed})


async def _failed(_: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        return failure(500, "internal error")
    return failure(error.status_code, error.detail, error.headers)


def failure(status: int, reason: str, headers: Any = None) -> Response:
    """The answer to a request that is refused."""
    return JSONResponse({"status": "fail", "reason": reason}, status, headers)


# -- what is asked --------------------------------------------------------------------------


async def round_request(request: Request, notification: NotificationType) -> Event:
    """The event that a vote or notify request is about.

    Raises:
        HTTPException: 400, the body is faulty, or the event is not voted on.
    """
    event = _word(Event, "event", (await _body(request, RoundRequest)).event, EVENT_TABLE)
    if notification is NotificationType.REVOCABLE and not EVENT_TABLE[event].voted:
        raise HTTPException(400, f"{event} is not voted on: it has happened already")
    return event


async def act_request(request: Request) -> tuple[ActionName, ActRequest]:
    """The action that an act request is about, and its body.

    Raises:
        HTTPException: 400, the body is faulty.
    """
    body = await _body(request, ActRequest)
    return _word(ActionName, "action", body.action, ACTION_TABLE), body


async def release_request(request: Request) -> bool:
    """Whether a host's alarms are to be sent; else they are to be withdrawn.

    Raises:
        HTTPException: 400, the body is faulty.
    """
    word = (await _body(request, ReleaseRequest)).alarms
    return _word(Alarms, "alarms", word, tuple(Alarms)) is Alarms.SEND


async def _body(request: Request, cls: type[_T]) -> _T:
    try:
        data = json.loads(await request.body())
    except (ValueError, RecursionError):
        raise HTTPException(400, "the body is not JSON") from None
    if not isinstance(data, dict):
        raise HTTPException(400, "the body is not a JSON object")
    try:
        return structure(data, cls, "body")
    except ConfigError as error:
        raise HTTPException(400, "; ".join(error.faults)) from error


def _word(kind: type[_W], key: str, word: str, known: Collection[_W]) -> _W:
    """The word as one of those known; another is a fault of the request."""
    if word not in known:
        raise HTTPException(400, f"body.{key}: no such word, there are {', '.join(known)}")
    return kind(word)


def number(request: Request, name: str, default: int, most: int = 99_999) -> int:
    """A number in the query, from 0 to ``most``.

    Raises:
        HTTPException: 400, it is none.
    """
    text = request.query_params.get(name, str(default))
    if text.isascii() and text.isdigit() and len(text) <= _DIGITS and int(text) <= most:
        return int(text)
    raise HTTPException(400, f"{name}: not a number from 0 to {most}: {text[:40]!r}")


# -- what is answered -----------------------------------------------------------------------


def stream(request: Request, items: Items) -> Response:
    """An answer of JSON lines, or of server-sent events if the request accepts them.

    Args:
        request: whose ``Accept`` says which.
        items: closed however the answer ends.
    """
    if _accepts_events(request):
        headers = {"cache-control": "no-store"}
        return ClosingStreamingResponse(
            _encoded(items, _as_event), headers=headers, media_type=_SSE
        )
    return ClosingStreamingResponse(_encoded(items, _as_line), media_type=_NDJSON)


def _accepts_events(request: Request) -> bool:
    accepted = ",".join(request.headers.getlist("accept"))
    return any(one.partition(";")[0].strip().lower() == _SSE for one in accepted.split(","))


async def _encoded(
    items: Items, encode: Callable[[dict[str, Any] | None], str]
) -> AsyncIterator[bytes]:
    async with aclosing(items):
        async for item in items:
            yield encode(item).encode("utf-8", "replace")


def _as_line(item: dict[str, Any] | None) -> str:
    return "\n" if item is None else json.dumps(item, ensure_ascii=False) + "\n"


def _as_event(item: dict[str, Any] | None) -> str:
    # JSON text has no line breaks of its own; a line that begins with a colon is a comment.
    return ":\n\n" if item is None else f"data: {json.dumps(item, ensure_ascii=False)}\n\n"


def follow(request: Request, news: Broadcast[_T], told: Callable[[_T], dict[str, Any]]) -> Response:
    """The answer to an events request: the last ``recent`` ones, then new ones, if ``follow``.

    Args:
        request: its query says what is wanted.
        news: what there is.
        told: one piece of it as JSON members.

    Raises:
        HTTPException: 400, the query is faulty.
    """
    recent = number(request, "recent", 0)
    on = request.query_params.get("follow", "yes")
    if on not in ("yes", "no"):
        raise HTTPException(400, f"follow: neither yes nor no: {on[:40]!r}")
    return stream(request, _news(news, told, recent, once=on == "no"))


async def _news(
    news: Broadcast[_T], told: Callable[[_T], dict[str, Any]], recent: int, *, once: bool
) -> Items:
    past = list(news.recent)[-recent:] if recent else []
    with news.follow() as queue:
        for one in past:
            yield told(one)
        if once:
            return
        while True:
            line: dict[str, Any] | None = None
            try:
                with trio.move_on_after(_QUIET_S):
                    line = told(await queue.receive())
            except trio.EndOfChannel:
                yield {"kind": "lost", "reason": "too slow: some events were left out"}
                return
            yield line


def opened_line(kind: str, event: Event, window: WindowKind, seconds: float) -> dict[str, Any]:
    """The line that says that a vote's or notice's window was opened, and for how long."""
    return {"step": kind, "event": str(event), "window": str(window), "seconds": seconds}


def closed_line(kind: str, event: Event, result: VoteResult, reason: str) -> dict[str, Any]:
    """The line that says how a vote or notice ended."""
    return {"step": kind, "event": str(event), "result": str(result), "reason": reason}
