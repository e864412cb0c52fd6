"""What the operator APIs of host and agent have in common: requests, answers, streams, refusals.

Streams are JSON lines, or server-sent events for clients that accept ``text/event-stream``: the
same objects, one in each line or event. All bodies are those of :mod:`hbtrio.wire.operator`.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from enum import StrEnum
from itertools import islice
from typing import Final, TypeVar

import attrs
import trio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from hbtrio.config.settings import choice, command
from hbtrio.config.settings import number as number_field
from hbtrio.config.toml import structure
from hbtrio.errors import ConfigError
from hbtrio.http.limits import Drain
from hbtrio.http.server import DISPLACED_EXTENSION, ClosingStreamingResponse
from hbtrio.nursery.broadcast import Broadcast
from hbtrio.nursery.file_watch import FileWatch
from hbtrio.wire.operator import (
    ActRequest,
    Alarms,
    AlarmsRequest,
    AnyEventLine,
    CertificateLine,
    EventFilter,
    EventLine,
    FilesLine,
    FilterFault,
    HoldRequest,
    NoticeRequest,
    ProgressLine,
    Refusal,
    encode,
    encode_line,
)
from hbtrio.wire.operator.words import Body, StreamLine
from hbtrio.wire.vocabulary import (
    ACTION_TABLE,
    EVENT_TABLE,
    ActionName,
    Event,
    NotificationType,
    VoteResult,
    WindowKind,
)

#: The lines of a stream; None keeps it alive.
Items = AsyncGenerator[StreamLine | None]

_T = TypeVar("_T")
_W = TypeVar("_W", bound=StrEnum)

_NDJSON: Final = "application/x-ndjson"
_SSE: Final = "text/event-stream"

#: A stream without an event sends an empty line or comment after this many seconds.
_QUIET_S: Final = 15.0

#: The last line of a stream that lost its place.
_DISPLACED: Final = "closed to make room for an operator who may make changes"

#: Digits of a number in a query.
_DIGITS: Final = 15


@attrs.frozen(kw_only=True)
class _CheckedActRequest(ActRequest):
    #: Checked as one of the configuration is: an unknown placeholder is found before the vote.
    command: tuple[str, ...] = command("uuid")
    retry_for_s: float = number_field(0.0, 0, 604_800, "s")
    then: str = choice("give-up", ("give-up", "force"))


def application(routes: Sequence[Route]) -> Starlette:
    """An operator API as an ASGI application."""
    return Starlette(routes=routes, exception_handlers={HTTPException: _failed, Exception: _failed})


async def _failed(_: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        return failure(500, "internal error")
    return failure(error.status_code, error.detail, error.headers)


def failure(status: int, reason: str, headers: Mapping[str, str] | None = None) -> Response:
    """The answer to a request that is refused."""
    return answer(Refusal(reason=reason), status, headers)


def answer(body: Body, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """An answer with a JSON body."""
    return Response(encode(body), status, headers, media_type="application/json")


# -- requests ------------------------------------------------------------------------------


async def round_request(request: Request, notification: NotificationType) -> Event:
    """The event of a vote or notify request.

    Raises:
        HTTPException: 400, the body is faulty, or the event is not voted on.
    """
    event = word(Event, "event", (await body_of(request, NoticeRequest)).event, EVENT_TABLE)
    if notification is NotificationType.REVOCABLE and not EVENT_TABLE[event].voted:
        raise HTTPException(400, f"{event} is not voted on: it has happened already")
    return event


async def act_request(request: Request) -> tuple[ActionName, ActRequest]:
    """The action of an act request, and its body.

    Raises:
        HTTPException: 400, the body is faulty.
    """
    body = await body_of(request, _CheckedActRequest)
    if body.retry_for_s and (body.force or body.take_over or body.ignore_group):
        raise HTTPException(400, "body.retry_for_s: not with force, take_over or ignore_group")
    return word(ActionName, "action", body.action, ACTION_TABLE), body


async def hold_request(request: Request) -> HoldRequest:
    """The body of a hold request.

    Raises:
        HTTPException: 400, the body is faulty.
    """
    return await body_of(request, HoldRequest)


async def alarms_request(request: Request) -> bool:
    """Whether a host's alarms are to be sent; else they are to be withdrawn.

    Raises:
        HTTPException: 400, the body is faulty.
    """
    alarms = (await body_of(request, AlarmsRequest)).alarms
    return word(Alarms, "alarms", alarms, tuple(Alarms)) is Alarms.SEND


async def body_of(request: Request, cls: type[_T]) -> _T:
    """The body of a request.

    Raises:
        HTTPException: 400, it is faulty.
    """
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


def word(kind: type[_W], key: str, given: str, known: Collection[_W]) -> _W:
    """A word of a body as an enum member.

    Raises:
        HTTPException: 400, it is unknown.
    """
    if given not in known:
        raise HTTPException(400, f"body.{key}: unknown word; expected one of {', '.join(known)}")
    return kind(given)


def number(request: Request, name: str, default: int, most: int = 99_999) -> int:
    """A number in the query, from 0 to ``most``.

    Raises:
        HTTPException: 400, it is not such a number.
    """
    text = request.query_params.get(name, str(default))
    if text.isascii() and text.isdigit() and len(text) <= _DIGITS and int(text) <= most:
        return int(text)
    raise HTTPException(400, f"{name}: not a number from 0 to {most}: {text[:40]!r}")


def event_filter(request: Request) -> EventFilter:
    """Which events the query asks for.

    Raises:
        HTTPException: 400, it is faulty.
    """
    try:
        return EventFilter.of_query(request.query_params)
    except FilterFault as fault:
        raise HTTPException(400, str(fault)) from fault


def is_wanted(line: AnyEventLine, wanted: EventFilter) -> bool:
    """Whether an event is one of those that a filter asks for."""
    return wanted.takes(uuid=line.uuid, kind=line.kind, time=line.time, who=line.who)


def files_line(files: FileWatch) -> FilesLine:
    """The certificates and tokens that a daemon uses."""
    return FilesLine(
        certificates=tuple(
            CertificateLine(
                where=one.where,
                path=one.path,
                owner=one.owner,
                expires=one.expires.isoformat(timespec="seconds"),
            )
            for one in files.certificates
        ),
        warnings=tuple(files.warnings()),
        faults=tuple(files.faults),
    )


# -- answers -------------------------------------------------------------------------------


def stream(request: Request, items: Items) -> Response:
    """An answer of JSON lines, or of server-sent events if the request accepts them.

    Args:
        request: its ``Accept`` decides between the two.
        items: closed when the answer ends in any way.
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
    items: Items, encoded: Callable[[StreamLine | None], bytes]
) -> AsyncIterator[bytes]:
    async with aclosing(items):
        async for item in items:
            yield encoded(item)


def _as_line(item: StreamLine | None) -> bytes:
    return b"\n" if item is None else encode_line(item) + b"\n"


def _as_event(item: StreamLine | None) -> bytes:
    # JSON text has no line breaks of its own; a line that begins with a colon is a comment.
    return b":\n\n" if item is None else b"data: %b\n\n" % encode_line(item)


def follow(
    request: Request,
    news: Broadcast[_T],
    line_of: Callable[[_T], AnyEventLine],
    wanted: EventFilter,
) -> Response:
    """The answer to an events request: the last ``recent`` ones, then new ones, if ``follow``.

    Only events that its query asks for count.

    Args:
        request: its query says how many, and whether new ones follow.
        news: the events.
        line_of: makes a line of an event.
        wanted: which events its query asks for.

    Raises:
        HTTPException: 400, the query is faulty.
    """
    recent = number(request, "recent", 0)
    on = request.query_params.get("follow", "yes")
    if on not in ("yes", "no"):
        raise HTTPException(400, f"follow: neither yes nor no: {on[:40]!r}")
    displaced: Drain = request.scope["extensions"][DISPLACED_EXTENSION]
    return stream(request, _events(news, line_of, wanted, recent, displaced, once=on == "no"))


async def _events(
    news: Broadcast[_T],
    line_of: Callable[[_T], AnyEventLine],
    wanted: EventFilter,
    recent: int,
    displaced: Drain,
    *,
    once: bool,
) -> Items:
    lines = map(line_of, reversed(news.recent))
    newest = list(islice((line for line in lines if is_wanted(line, wanted)), recent))
    with news.follow() as queue:
        for past in reversed(newest):
            yield past
        if once:
            return
        while True:
            line: AnyEventLine | None = None
            try:
                with displaced.idle(_QUIET_S) as waiting:
                    while line is None:
                        event = line_of(await queue.receive())
                        line = event if is_wanted(event, wanted) else None
            except trio.EndOfChannel:
                yield EventLine(kind="lost", reason="too slow: some events were left out")
                return
            if waiting.cancelled_caught and displaced.begun:
                yield EventLine(kind="lost", reason=_DISPLACED)
                return
            yield line


def opened_line(kind: str, event: Event, window: WindowKind, seconds: float) -> ProgressLine:
    """The line for the opening of a vote's or notice's window of ``seconds``."""
    return ProgressLine(step=kind, event=event, window=window, seconds=seconds)


def extended_line(
    kind: str, event: Event, window: WindowKind, words: str, left_s: float
) -> ProgressLine:
    """The line for an extension of the window of a vote or notice, with what is left of it."""
    return ProgressLine(
        step=kind, event=event, window=window, extended=words, seconds=round(left_s, 3)
    )


def closed_line(kind: str, event: Event, result: VoteResult, reason: str) -> ProgressLine:
    """The line for the end of a vote or notice."""
    return ProgressLine(step=kind, event=event, result=result, reason=reason)
