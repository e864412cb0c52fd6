"""The API that the VIM calls, as the deployed agent serves it (PROTOCOL.md, section 3).

Two generations of VIMs are served: those that tell of hosts under ``/v1/hosts`` and those that do
not. Every 404 means "done" to a VIM that deletes or disables; any other error is tried again by its
audit. A vote's reply is written whole before anything else may happen with it: its verdict is held
until then.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any, Final

import attrs
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from hbtrio.config.toml import structure
from hbtrio.errors import ConfigError
from hbtrio.nursery.agent import Agent, Unknown
from hbtrio.nursery.store_records import HostRecord, InstanceRecord
from hbtrio.wire.vocabulary import EVENT_TABLE, Event

_AGENT: Final = "vim/1.0"
_PASS: Final = {"status": "pass"}
_HEARTBEAT: Final = "heartbeat"


@attrs.frozen(kw_only=True)
class HostBody:
    """A host, as every request about one names it."""

    uuid: str
    hostname: str


@attrs.frozen(kw_only=True)
class NewInstance:
    """A new instance and its services."""

    uuid: str
    hostname: str
    services: tuple[str, ...]


@attrs.frozen(kw_only=True)
class ServiceState:
    """A service and whether its losses are to be reported."""

    service: str
    state: str


@attrs.frozen(kw_only=True)
class ChangedInstance:
    """An instance, maybe on another host than before, and its services' states."""

    uuid: str
    hostname: str
    services: tuple[ServiceState, ...]


@attrs.frozen(kw_only=True)
class AskBody:
    """A vote or notice."""

    uuid: str
    hostname: str
    action: str


def vim_api(agent: Agent, *, token: str = "") -> ASGIApp:
    """The VIM's API as an ASGI application.

    Args:
        agent: whose API it is.
        token: with it, requests must bear it; needed where others than this machine can connect.
    """
    api = _VimApi(agent, token)
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
    # Starlette answers a path that it does not know, or with a slash too many, in its own way.
    app.router.redirect_slashes = False
    app.router.default = _wrong_path
    return app


async def _failed(_: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    reason = error.detail if isinstance(error, HTTPException) else "internal error"
    return JSONResponse({"status": "fail", "reason": reason}, status)


async def _wrong_path(scope: Scope, receive: Receive, send: Send) -> None:
    response = JSONResponse({"status": "fail", "reason": "no such path"}, 403)
    await response(scope, receive, send)


class _VimApi:
    def __init__(self, agent: Agent, token: str) -> None:
        self._agent = agent
        self._token = token

    # -- hosts ------------------------------------------------------------------------------

    async def host(self, request: Request) -> Response:
        uuid = self._admit(request)
        match request.method:
            case "GET":
                return self._host_state(uuid)
            case "POST":
                body = await _body(request, HostBody, uuid)
                known = self._agent.hosts.get(uuid)
                reporting = known is not None and known.reporting
                await self._agent.put_host(HostRecord(uuid, body.hostname, reporting))
                return JSONResponse(_PASS)
            case "DELETE":
                await _known(self._agent.delete_host, uuid)
                return Response(status_code=204)
        raise HTTPException(403, f"{request.method} is not for this path")

    async def host_verb(self, request: Request) -> Response:
        uuid = self._admit(request)
        verb = request.path_params["verb"]
        match request.method, verb:
            case "GET", "disable":
                # Yes: the VIM's query has this path, and changes nothing.
                return self._host_state(uuid)
            case "PUT", "enable" | "disable":
                if uuid not in self._agent.hosts:
                    raise HTTPException(404, f"unknown host {uuid}")
                body = await _body(request, HostBody, uuid)
                await self._agent.put_host(HostRecord(uuid, body.hostname, verb == "enable"))
                return JSONResponse(_PASS)
        raise HTTPException(403, f"{request.method} {verb} is not for this path")

    def _host_state(self, uuid: str) -> Response:
        host = self._agent.hosts.get(uuid)
        if host is None:
            raise HTTPException(404, f"unknown host {uuid}")
        state = _switch(host.reporting)
        return JSONResponse({"uuid": host.uuid, "hostname": host.hostname, "state": state})

    # -- instances --------------------------------------------------------------------------

    async def instance(self, request: Request) -> Response:
        uuid = self._admit(request)
        match request.method:
            case "GET":
                return self._instance_state(uuid)
            case "POST":
                new = await _body(request, NewInstance, uuid)
                for service in new.services:
                    _check_service(service)
                known = self._agent.instances.get(uuid)
                reporting = known is not None and known.reporting
                await self._agent.put_instance(InstanceRecord(uuid, new.hostname, reporting))
                return JSONResponse(_PASS)
            case "PATCH":
                return await self._change(request, uuid)
            case "DELETE":
                await _known(self._agent.delete_instance, uuid)
                return Response(status_code=204)
        raise HTTPException(403, f"{request.method} is not for this path")

    async def _change(self, request: Request, uuid: str) -> Response:
        known = self._agent.instances.get(uuid)
        if known is None:
            raise HTTPException(404, f"unknown instance {uuid}")
        body = await _body(request, ChangedInstance, uuid)
        reporting = known.reporting
        for service in body.services:
            _check_service(service.service)
            if service.state not in ("enabled", "disabled"):
                raise HTTPException(400, f"services: unknown state {service.state[:40]!r}")
            reporting = service.state == "enabled"
        await self._agent.put_instance(InstanceRecord(uuid, body.hostname, reporting))
        return self._instance_state(uuid)

    def _instance_state(self, uuid: str) -> Response:
        known = self._agent.instances.get(uuid)
        if known is None:
            raise HTTPException(404, f"unknown instance {uuid}")
        live = self._agent.live(uuid)
        heartbeating = live is not None and live.heartbeating
        restart_s = live.restart_s if heartbeating and live is not None else 0
        service = {
            "service": _HEARTBEAT,
            "state": _switch(known.reporting),
            "restart-timeout": str(restart_s),
            "status": _switch(heartbeating),
        }
        return JSONResponse({"uuid": uuid, "hostname": known.hostname, "services": [service]})

    # -- votes and notices ------------------------------------------------------------------

    async def ask(self, request: Request) -> Response:
        uuid = self._admit(request)
        verb = request.path_params["verb"]
        if request.method != "POST" or verb not in ("vote", "notify"):
            raise HTTPException(403, f"{request.method} {verb} is not for this path")
        known = self._agent.instances.get(uuid)
        if known is None:
            raise HTTPException(404, f"unknown instance {uuid}")
        body = await _body(request, AskBody, uuid)
        if body.action not in EVENT_TABLE:
            raise HTTPException(400, f"action: unknown action {body.action[:40]!r}")
        asked = await self._agent.ask(uuid, Event(body.action), vote=verb == "vote", who="vim")
        members = {
            "uuid": uuid,
            "hostname": known.hostname,
            "action": body.action,
            "timeout": str(asked.seconds),
        }
        # Run once the reply is written whole; if it can't be, the VIM knows of no vote.
        after = BackgroundTask(self._agent.replied, asked.command_id) if asked.seconds else None
        return JSONResponse(members, background=after)

    # -- who may ----------------------------------------------------------------------------

    def _admit(self, request: Request) -> str:
        """Refuses strangers; returns the uuid of the path in lower case."""
        sender = self._agent.sender
        if request.headers.get("user-agent", _AGENT) not in ("", _AGENT):
            raise HTTPException(403, "unknown User-Agent")
        if self._token and request.headers.get("authorization") != f"Bearer {self._token}":
            raise HTTPException(403, "a bearer token is needed")
        if sender is not None:
            sender.vim_spoke()
        uuid: str = request.path_params["uuid"]
        return uuid.lower()


def _switch(on: bool) -> str:
    return "enabled" if on else "disabled"


def _check_service(service: str) -> None:
    if service != _HEARTBEAT:
        raise HTTPException(400, f"services: unknown service {service[:40]!r}")


async def _known(step: Callable[[str], Awaitable[None]], uuid: str) -> None:
    try:
        await step(uuid)
    except Unknown as error:
        raise HTTPException(404, str(error)) from error


async def _body(request: Request, cls: type[Any], uuid: str) -> Any:
    raw = await request.body()
    if not raw:
        raise HTTPException(411, "a body is needed")
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError):
        raise HTTPException(400, "the body is not JSON") from None
    if not isinstance(data, dict):
        raise HTTPException(400, "the body is not a JSON object")
    # Keys that a later VIM may add are no fault; the ones we need are checked with their path.
    wanted = {name: data[name] for name in (f.name for f in attrs.fields(cls)) if name in data}
    try:
        body = structure(wanted, cls, "body")
    except ConfigError as error:
        raise HTTPException(400, "; ".join(error.faults)) from error
    if body.uuid.lower() != uuid:
        raise HTTPException(400, "body: uuid: differs from the path's")
    return body
