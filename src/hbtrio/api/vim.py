"""The API that the VIM calls, as the deployed agent serves it (PROTOCOL.md, section 3).

Two generations of VIMs are served: those that register hosts under ``/v1/hosts`` and those that do
not. A VIM that deletes or disables takes a 404 as done; its audit repeats requests that failed
otherwise. The verdict of a vote is held until the reply to its request has been written whole.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

import trio
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from hbtrio.api.auth import VimAdmission
from hbtrio.api.vim_bodies import (
    AskBody,
    BodyFault,
    ChangedInstance,
    HostBody,
    NewInstance,
    parse_body,
)
from hbtrio.http.server import DELIVERED_EXTENSION
from hbtrio.nursery.agent.daemon import Agent
from hbtrio.nursery.agent.fleet import Unknown
from hbtrio.nursery.agent.inventory import TooMany
from hbtrio.nursery.agent.unasked_rounds import CantAsk
from hbtrio.nursery.time_guard import take_in
from hbtrio.policy.allowances import told_timeout_s
from hbtrio.store.records import HostRecord, InstanceRecord
from hbtrio.store.worker import StoreFault
from hbtrio.wire.link_messages import VIM
from hbtrio.wire.vim import Switch

_AGENT: Final = "vim/1.0"
_PASS: Final = {"status": "pass"}
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)

_T = TypeVar("_T", bound=HostBody)
_D = TypeVar("_D")


def vim_api(agent: Agent, *, token: Callable[[], str] | None = None) -> VimAdmission:
    """The VIM's API as an ASGI application.

    Args:
        agent: the agent.
        token: returns the token that every request over TCP must carry. None requires no proof of
            identity, as deployed: then serve it on the loopback only.
    """
    api = _VimApi(agent)
    every = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]
    app = Starlette(
        routes=[
            Route("/v1/hosts/{uuid}", api.host, methods=every),
            Route("/v1/hosts/{uuid}/{verb}", api.host_verb, methods=every),
            Route("/v1/instances/{uuid}", api.instance, methods=every),
            Route("/v1/instances/{uuid}/{verb}", api.ask, methods=every),
        ],
        exception_handlers={HTTPException: _failed},
    )
    # Starlette has answers of its own for unknown paths and trailing slashes.
    app.router.redirect_slashes = False
    app.router.default = _wrong_path
    return VimAdmission(app, token)


def vim_api_away(*, token: Callable[[], str] | None = None) -> VimAdmission:
    """The VIM's API while the agent has no store: 503 for each request, which is no consent."""
    app = Starlette()
    app.router.redirect_slashes = False
    app.router.default = _away
    return VimAdmission(app, token)


async def _away(scope: Scope, receive: Receive, send: Send) -> None:
    response = JSONResponse({"status": "fail", "reason": "the store can't be reached"}, 503)
    await response(scope, receive, send)


async def _failed(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    # A method that no route has: as deployed, that is a wrong path.
    status = 403 if error.status_code == 405 else error.status_code
    return JSONResponse({"status": "fail", "reason": error.detail}, status)


async def _wrong_path(scope: Scope, receive: Receive, send: Send) -> None:
    response = JSONResponse({"status": "fail", "reason": "no such path"}, 403)
    await response(scope, receive, send)


class _VimApi:
    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._inventory = agent.inventory
        self._fleet = agent.fleet

    # -- hosts ------------------------------------------------------------------------------

    async def host(self, request: Request) -> Response:
        uuid = self._admit(request)
        match request.method:
            case "GET":
                return self._host_state(uuid)
            case "POST":
                body = await _body(request, HostBody, _new(uuid))
                known = self._fleet.hosts.get(uuid)
                reporting = known is not None and known.reporting
                await _done(self._inventory.put_host(HostRecord(uuid, body.hostname, reporting)))
                return JSONResponse(_PASS)
            case "DELETE":
                await _done(self._inventory.delete_host(uuid))
                return Response(status_code=204)
        raise HTTPException(403, f"{request.method} is not for this path")

    async def host_verb(self, request: Request) -> Response:
        uuid = self._admit(request)
        verb = request.path_params["verb"]
        match request.method, verb:
            case "GET", "disable":
                # This is the path of the VIM's query, which changes nothing.
                return self._host_state(uuid)
            case "PUT", "enable" | "disable":
                with _faults():
                    self._fleet.host(uuid)
                body = await _body(request, HostBody, uuid)
                record = HostRecord(uuid, body.hostname, verb == "enable")
                await _done(self._inventory.put_host(record))
                return JSONResponse(_PASS)
        raise HTTPException(403, f"{request.method} is not for this path")

    def _host_state(self, uuid: str) -> Response:
        with _faults():
            host = self._fleet.host(uuid)
        state = Switch.ENABLED if host.reporting else Switch.DISABLED
        return JSONResponse({"uuid": uuid, "hostname": host.hostname, "state": state})

    # -- instances --------------------------------------------------------------------------

    async def instance(self, request: Request) -> Response:
        uuid = self._admit(request)
        match request.method:
            case "GET":
                return self._instance_state(uuid)
            case "POST":
                new = await _body(request, NewInstance, _new(uuid))
                known = self._fleet.instances.get(uuid)
                reporting = known is not None and known.reporting
                record = InstanceRecord(uuid, new.hostname, reporting)
                await _done(self._inventory.put_instance(record))
                return JSONResponse(_PASS)
            case "PATCH":
                return await self._change(request, uuid)
            case "DELETE":
                await _done(self._inventory.delete_instance(uuid))
                return Response(status_code=204)
        raise HTTPException(403, f"{request.method} is not for this path")

    async def _change(self, request: Request, uuid: str) -> Response:
        with _faults():
            reporting = self._fleet.instance(uuid).reporting
        body = await _body(request, ChangedInstance, uuid)
        for service in body.services:
            reporting = service.state is Switch.ENABLED
        await _done(self._inventory.put_instance(InstanceRecord(uuid, body.hostname, reporting)))
        return self._instance_state(uuid)

    def _instance_state(self, uuid: str) -> Response:
        with _faults():
            now = self._agent.states.service(self._fleet.instance(uuid))
        service = {
            "service": "heartbeat",
            "state": now.state,
            "restart-timeout": str(now.restart_timeout_s),
            "status": now.status,
        }
        return JSONResponse({"uuid": uuid, "hostname": now.hostname, "services": [service]})

    # -- votes and notices ------------------------------------------------------------------

    async def ask(self, request: Request) -> Response:
        uuid = self._admit(request)
        verb = request.path_params["verb"]
        if request.method != "POST" or verb not in ("vote", "notify"):
            raise HTTPException(403, f"{request.method} is not for this path")
        with _faults():
            known = self._fleet.instance(uuid)
        body = await _body(request, AskBody, uuid)
        if await self._hung_up(request):
            raise HTTPException(503, "the requester has hung up")
        asked = await _done(self._agent.rounds.ask(uuid, body.action, vote=verb == "vote", who=VIM))
        members = {
            "uuid": uuid,
            "hostname": known.hostname,
            "action": body.action,
            "timeout": str(told_timeout_s(asked.seconds)),
        }
        if not asked.seconds:
            return JSONResponse(members)
        delivered: Callable[[], bool] = request.scope["extensions"][DELIVERED_EXTENSION]

        async def answered() -> None:
            if delivered():
                await self._agent.rounds.ends.replied(asked.command_id, uuid)
            else:
                # The VIM gave up waiting, or never got this answer: for the VIM the request has
                # failed, and a verdict would answer another step.
                self._agent.rounds.ends.unheard(asked.command_id)

        return JSONResponse(members, background=BackgroundTask(answered))

    async def _hung_up(self, request: Request) -> bool:
        """Whether the VIM gave up while this process was stopped, with the request in its socket.

        For the VIM the request has failed then: neither a guest nor a host may hear of it.
        """
        if not self._agent.guard.is_late(trio.current_time()):
            return False
        await take_in(())  # the end of the stream may have arrived, and not been read
        return await request.is_disconnected()

    # -- admission --------------------------------------------------------------------------

    def _admit(self, request: Request) -> str:
        """Refuses strangers; returns the uuid of the path in lower case."""
        if request.headers.get("user-agent", _AGENT) not in ("", _AGENT):
            raise HTTPException(403, "unknown User-Agent")
        if self._agent.delivery is not None:
            self._agent.delivery.vim_spoke()
        uuid: str = request.path_params["uuid"]
        return uuid.lower()


def _new(uuid: str) -> str:
    if not _UUID.fullmatch(uuid):
        raise HTTPException(400, "the path has no valid uuid")
    return uuid


async def _body(request: Request, cls: type[_T], uuid: str) -> _T:
    raw = await request.body()
    if not raw:
        raise HTTPException(411, "a body is needed")
    with _faults():
        return parse_body(raw, cls, uuid)


async def _done(step: Awaitable[_D]) -> _D:
    with _faults():
        return await step


@contextmanager
def _faults() -> Iterator[None]:
    """Turns errors of a request into its answer."""
    try:
        yield
    except BodyFault as error:
        raise HTTPException(400, str(error)) from error
    except Unknown as error:
        raise HTTPException(404, str(error)) from error
    except (TooMany, CantAsk, StoreFault) as error:
        raise HTTPException(503, str(error)) from error
