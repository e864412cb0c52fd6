"""The host's operator API: HTTP with JSON over the control socket.

    GET  /v1/status                          the host and all its instances
    GET  /v1/instances/UUID                  one instance
    GET  /v1/events[?recent=N][&follow=no]   reports, one JSON line each: the last N, then new ones
    POST /v1/instances/UUID/vote             {"event": "stop"}
    POST /v1/instances/UUID/notify           {"event": "stop"}
    POST /v1/instances/UUID/act              {"action": "reboot", "command": [...], "force": false}

The last three answer with JSON lines as things happen: what was opened and for how long, then the
outcome. Whoever hangs up early misses lines; the round or action goes on. Faults are answered with
``{"status": "fail", "reason": ...}``. Whoever may write to the socket may run commands as the host
daemon's user: that is what its mode is for.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterator
from contextlib import aclosing, contextmanager
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
from hbtrio.nursery.channel import NotHeartbeating, Round, RoundOpen
from hbtrio.nursery.host import ActionRefused, Host, UnknownInstance
from hbtrio.nursery.host_status import host_status, instance_status
from hbtrio.nursery.http_edge import ClosingStreamingResponse
from hbtrio.wire.vocabulary import (
    ACTION_TABLE,
    EVENT_TABLE,
    ActionName,
    Event,
    NotificationType,
)

_T = TypeVar("_T")
_W = TypeVar("_W", bound=StrEnum)

_NDJSON: Final = "application/x-ndjson"

#: A follower's stream says at least this often that it is alive, in seconds, with an empty line.
_QUIET_S: Final = 15.0


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


def host_api(host: Host) -> Starlette:
    """The operator API of ``host`` as an ASGI application."""
    api = _HostApi(host)
    return Starlette(
        routes=[
            Route("/v1/status", api.status, methods=["GET"]),
            Route("/v1/events", api.events, methods=["GET"]),
            Route("/v1/instances/{uuid}", api.instance, methods=["GET"]),
            Route("/v1/instances/{uuid}/vote", api.vote, methods=["POST"]),
            Route("/v1/instances/{uuid}/notify", api.notify, methods=["POST"]),
            Route("/v1/instances/{uuid}/act", api.act, methods=["POST"]),
        ],
        exception_handlers={HTTPException: _failed, Exception: _failed},
    )


async def _failed(_: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        return JSONResponse({"status": "fail", "reason": "internal error"}, 500)
    fault = {"status": "fail", "reason": error.detail}
    return JSONResponse(fault, error.status_code, error.headers)


class _HostApi:
    def __init__(self, host: Host) -> None:
        self._host = host

    async def status(self, _: Request) -> Response:
        now = trio.current_time()
        instances = [
            instance_status(channel, now) for _, channel in sorted(self._host.channels.items())
        ]
        return JSONResponse({"host": host_status(self._host, now), "instances": instances})

    async def instance(self, request: Request) -> Response:
        with _faults():
            channel = self._host.channel(request.path_params["uuid"])
            return JSONResponse(instance_status(channel, trio.current_time()))

    async def events(self, request: Request) -> Response:
        recent = request.query_params.get("recent", "0")
        if not (recent.isascii() and recent.isdigit() and len(recent) < 6):
            raise HTTPException(400, f"recent: not a number: {recent[:40]!r}")
        follow = request.query_params.get("follow", "yes")
        if follow not in ("yes", "no"):
            raise HTTPException(400, f"follow: neither yes nor no: {follow[:40]!r}")
        return _lines(self._follow(int(recent), once=follow == "no"))

    async def _follow(self, recent: int, *, once: bool) -> AsyncGenerator[dict[str, Any] | None]:
        reports = self._host.reports
        past = list(reports.recent)[-recent:] if recent else []
        with reports.follow() as queue:
            for report in past:
                yield report.as_dict()
            if once:
                return
            while True:
                line: dict[str, Any] | None = None
                try:
                    with trio.move_on_after(_QUIET_S):
                        line = (await queue.receive()).as_dict()
                except trio.EndOfChannel:
                    yield {"kind": "lost", "reason": "too slow: some events were left out"}
                    return
                yield line

    async def vote(self, request: Request) -> Response:
        return await self._round(request, NotificationType.REVOCABLE)

    async def notify(self, request: Request) -> Response:
        return await self._round(request, NotificationType.IRREVOCABLE)

    async def _round(self, request: Request, notification: NotificationType) -> Response:
        event = _word(Event, (await _body(request, RoundRequest)).event, EVENT_TABLE)
        if notification is NotificationType.REVOCABLE and not EVENT_TABLE[event].voted:
            raise HTTPException(400, f"{event} is not voted on: it has happened already")
        with _faults():
            opened = self._host.open_round(request.path_params["uuid"], event, notification)
        return _lines(_watch(opened))

    async def act(self, request: Request) -> Response:
        body = await _body(request, ActRequest)
        name = _word(ActionName, body.action, ACTION_TABLE)
        with _faults():
            action = self._host.begin_action(
                request.path_params["uuid"], name, body.command, force=body.force
            )
        return _lines(action.progress())


async def _watch(opened: Round) -> AsyncGenerator[dict[str, Any] | None]:
    kind = "vote" if opened.is_vote else "notice"
    window = opened.window
    yield {
        "step": kind,
        "event": str(opened.event),
        "window": str(window.kind),
        "seconds": window.seconds,
    }
    await opened.done.wait()
    if opened.outcome is not None:
        yield {
            "step": kind,
            "event": str(opened.event),
            "result": str(opened.outcome.result),
            "reason": opened.outcome.reason,
        }


@contextmanager
def _faults() -> Iterator[None]:
    """The boundary at which faults of a request become its answer."""
    try:
        yield
    except UnknownInstance as error:
        raise HTTPException(404, str(error)) from error
    except (NotHeartbeating, RoundOpen, ActionRefused) as error:
        raise HTTPException(409, str(error)) from error


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


def _word(kind: type[_W], word: str, known: Collection[_W]) -> _W:
    """The word as one of those known; another is a fault of the request."""
    if word not in known:
        raise HTTPException(400, f"body: no such word, there are {', '.join(known)}")
    return kind(word)


def _lines(items: AsyncGenerator[dict[str, Any] | None]) -> Response:
    async def encoded() -> AsyncIterator[bytes]:
        async with aclosing(items):
            async for item in items:
                text = "" if item is None else json.dumps(item, ensure_ascii=False)
                yield text.encode("utf-8", "replace") + b"\n"

    return ClosingStreamingResponse(encoded(), media_type=_NDJSON)
