"""The host's operator API: HTTP with JSON over the control socket.

    GET  /v1/status                          the host and all its instances
    GET  /v1/clock                           see :mod:`hbtrio.api.expiry`
    GET  /v1/instances/UUID                  one instance
    GET  /v1/history[?before=][&limit=][&FILTER]   the history, the newest first
    GET  /v1/events[?recent=N][&follow=no][&FILTER]   reports, one JSON line each: the last N, then
                                             new ones
    GET  /v1/tree                            the live tasks; not served by :func:`observe_api`
    GET  /metrics                            metrics for Prometheus
    GET  /v1/drains, POST /v1/drains, …      see :mod:`hbtrio.api.drains`
    POST /v1/brake/release                   lets corrective commands run after a mass failure
    POST /v1/instances/UUID/vote             {"event": "stop"}
    POST /v1/instances/UUID/notify           {"event": "stop"}
    POST /v1/instances/UUID/act              {"action": "reboot", "command": [...], "force": false}
    POST /v1/instances/UUID/plan             {"action": "reboot", "not_before": …, "before": …}
    POST /v1/instances/UUID/hold             {"seconds": 3600, "reason": "..."}
    POST /v1/instances/UUID/unhold           ends the hold
    POST /v1/instances/UUID/forget           forgets a member of groups that has no channel

FILTER is that of :class:`~hbtrio.wire.operator.EventFilter`. Vote, notify and act answer with JSON
lines as they happen: the window that was opened, then the outcome. A client that disconnects early
misses lines; the round or action goes on. Refusals and streams are those of
:mod:`hbtrio.api.common`. Whoever may act can run commands as the host daemon's user;
:mod:`hbtrio.api.control` decides who may.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import trio
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from hbtrio.api import common as api_parts
from hbtrio.api.auth import OperatorAdmission, operator_of
from hbtrio.api.control import ControlAccess, ControlAdmission
from hbtrio.api.drains import DrainRoutes, drain_body, in_progress, plan_request
from hbtrio.api.expiry import begin_by, clock_reply
from hbtrio.api.groups import event_filter, group_lines
from hbtrio.api.history import history_page
from hbtrio.api.holds import hold_line
from hbtrio.api.host_detail import instance_detail
from hbtrio.api.host_metrics import host_metrics
from hbtrio.api.host_status import host_status, instance_status, left_out_status
from hbtrio.api.metrics import METRICS_TYPE
from hbtrio.api.page import page_routes
from hbtrio.api.slices import encoded_lines
from hbtrio.api.task_tree import tree_reply
from hbtrio.log.subject import fields
from hbtrio.nursery.drains import DrainPlan, DrainRefused
from hbtrio.nursery.host.action_runs import ActionRefused
from hbtrio.nursery.host.daemon import Host
from hbtrio.nursery.host.memory import NotKept
from hbtrio.nursery.host.refusals import UnknownInstance
from hbtrio.nursery.host.reports import asked_line
from hbtrio.nursery.host.round import NotHeartbeating, Round, RoundOpen
from hbtrio.policy.begin_by import Expired
from hbtrio.policy.instance_hold import HoldRefused
from hbtrio.wire.operator import ActRequest, Forgotten, HoldReply, InstanceLine, Status, encode
from hbtrio.wire.operator.codec import encode_members
from hbtrio.wire.vocabulary import ActionName, NotificationType

_log = logging.getLogger("hbtrio.host")

#: Faults that are no fault of the request itself.
_CONFLICTS: Final = (
    NotHeartbeating,
    RoundOpen,
    ActionRefused,
    DrainRefused,
    HoldRefused,
    Expired,
)


def host_api(host: Host, access: ControlAccess = ControlAccess()) -> ControlAdmission:  # noqa: B008
    """The operator API of ``host`` as an ASGI application, for a unix socket.

    Args:
        host: the host.
        access: who may do what; by default whoever can connect may act.
    """
    api = _HostApi(host)
    app = api_parts.application(
        [
            *_shown(api),
            Route("/v1/instances/{uuid}/vote", api.vote, methods=["POST"]),
            Route("/v1/instances/{uuid}/notify", api.notify, methods=["POST"]),
            Route("/v1/instances/{uuid}/act", api.act, methods=["POST"]),
            Route("/v1/instances/{uuid}/plan", api.plan, methods=["POST"]),
            Route("/v1/instances/{uuid}/hold", api.hold, methods=["POST"]),
            Route("/v1/instances/{uuid}/unhold", api.unhold, methods=["POST"]),
            Route("/v1/instances/{uuid}/forget", api.forget, methods=["POST"]),
            Route("/v1/tree", tree_reply, methods=["GET"]),
            Route("/v1/brake/release", api.release_brake, methods=["POST"]),
            *api.drains.all,
        ]
    )
    return ControlAdmission(app, access, host.remembering.action_refused)


def observe_api(
    host: Host, *, token: Callable[[], str] | None = None, local: bool = True
) -> OperatorAdmission:
    """The read-only part of a host's API, and the status page, as an ASGI application.

    Args:
        host: the host.
        token: returns the token.
        local: whether TCP is served on the loopback only; elsewhere a request needs the token or a
            client certificate.
    """
    api = _HostApi(host)
    routes = [*page_routes(), *_shown(api), *api.drains.shown]
    return OperatorAdmission(api_parts.application(routes), token, local=local)


def _shown(api: _HostApi) -> list[Route]:
    return [
        Route("/v1/status", api.status, methods=["GET"]),
        Route("/v1/history", api.history, methods=["GET"]),
        Route("/v1/events", api.events, methods=["GET"]),
        Route("/v1/clock", api.clock, methods=["GET"]),
        Route("/v1/instances/{uuid}", api.instance, methods=["GET"]),
        Route("/metrics", api.metrics, methods=["GET"]),
    ]


class _HostApi:
    def __init__(self, host: Host) -> None:
        self._host = host
        self.drains = DrainRoutes(host.drains.runs, host.drains.start, self._check_in_time)

    def _check_in_time(self, request: Request) -> None:
        with _faults():
            begin_by(request, self._host.clock).check()

    async def status(self, _: Request) -> Response:
        if wait_s := math.ceil(self._host.overload.status_wait_s()):
            reason = f"overloaded: heartbeats come first; try again in {wait_s} s"
            raise HTTPException(503, reason, {"Retry-After": str(wait_s)})
        uuids = sorted({*self._host.channels, *self._host.watched.left_out})
        instances = await encoded_lines(uuids, self._line)
        status = encode_members(
            Status,
            {
                "host": encode(host_status(self._host, trio.current_time())),
                "instances": instances,
                "groups": encode(group_lines(self._host.groups.rule)),
                "drains": encode(in_progress(self._host.drains.runs)),
            },
        )
        return Response(status, media_type="application/json")

    async def metrics(self, _: Request) -> Response:
        return Response(await host_metrics(self._host), media_type=METRICS_TYPE)

    async def instance(self, request: Request) -> Response:
        uuid = request.path_params["uuid"]
        with _faults():
            detail = instance_detail(self._host, uuid.lower())
            if detail is None:
                raise UnknownInstance(f"no instance {uuid} on this host")
            return api_parts.answer(detail)

    def _line(self, uuid: str) -> InstanceLine | None:
        """One instance; None if there is no such instance, or no longer."""
        host, now = self._host, trio.current_time()
        if (channel := host.channels.get(uuid)) is not None:
            return instance_status(host, channel, now)
        return left_out_status(host, uuid, now) if uuid in host.watched.left_out else None

    async def clock(self, _: Request) -> Response:
        return clock_reply(self._host.clock)

    async def events(self, request: Request) -> Response:
        wanted = event_filter(request, self._host.groups.rule)
        return api_parts.follow(request, self._host.reports, asked_line, wanted)

    async def history(self, request: Request) -> Response:
        memory = self._host.memory
        if not memory.is_kept:
            raise HTTPException(409, f"this host keeps no history: {memory.fault}")
        with _faults():
            wanted = event_filter(request, self._host.groups.rule)
            return await history_page(request, memory.history, wanted)

    async def release_brake(self, request: Request) -> Response:
        who = operator_of(request.scope)
        self._check_in_time(request)
        if not self._host.corrective.brake.release():
            raise HTTPException(409, "the brake is not closed: no corrective command is held back")
        _log.warning("the brake is released for %s", who, extra=fields("brake"))
        self._host.remembering.brake_released(who)
        return Response(status_code=204)

    async def hold(self, request: Request) -> Response:
        body = await api_parts.hold_request(request)
        with _faults():
            uuid = self._host.watched.known(request.path_params["uuid"])
            begin_by(request, self._host.clock).check()
            who = operator_of(request.scope)
            stored = await self._host.holds.hold(uuid, body.seconds, body.reason, who)
        return self._held(uuid, stored=stored)

    async def unhold(self, request: Request) -> Response:
        uuid = request.path_params["uuid"].lower()
        with _faults():
            begin_by(request, self._host.clock).check()
            stored = await self._host.holds.unhold(uuid, operator_of(request.scope))
        return self._held(uuid, stored=stored)

    def _held(self, uuid: str, *, stored: bool) -> Response:
        host = self._host
        why = "" if stored else host.memory.fault or "the disk has not taken it yet"
        return api_parts.answer(
            HoldReply(
                uuid=uuid,
                hold=hold_line(host.holds.of(uuid)),
                stored=stored,
                why=why,
                running=host.owners.command(uuid),
            )
        )

    async def forget(self, request: Request) -> Response:
        uuid, who = request.path_params["uuid"].lower(), operator_of(request.scope)
        with _faults():
            begin_by(request, self._host.clock).check()
        if uuid in self._host.channels:
            raise HTTPException(409, f"{uuid} has a channel: it exists")
        if not self._host.groups.forget(uuid):
            raise HTTPException(404, f"no member {uuid} of a group without a channel")
        _log.warning("%s: forgotten for %s: no member of groups any more", uuid, who)
        self._host.remembering.member_forgotten(uuid, who)
        return api_parts.answer(Forgotten(instances=1))

    async def vote(self, request: Request) -> Response:
        return await self._round(request, NotificationType.REVOCABLE)

    async def notify(self, request: Request) -> Response:
        return await self._round(request, NotificationType.IRREVOCABLE)

    async def _round(self, request: Request, notification: NotificationType) -> Response:
        event = await api_parts.round_request(request, notification)
        uuid, who = request.path_params["uuid"], operator_of(request.scope)
        with _faults():
            by = begin_by(request, self._host.clock)
            opened = self._host.open_round(uuid, event, notification, begin_by=by, who=who)
        return api_parts.stream(request, _watch(opened))

    async def act(self, request: Request) -> Response:
        name, body = await api_parts.act_request(request)
        uuid, who = request.path_params["uuid"], operator_of(request.scope)
        if body.retry_for_s:
            return await self._retry(request, name, body)
        with _faults():
            action = self._host.begin_action(
                uuid,
                name,
                body.command,
                force=body.force,
                take_over=body.take_over,
                ignore_group=body.ignore_group,
                ignore_hold=body.ignore_hold,
                begin_by=begin_by(request, self._host.clock),
                who=who,
            )
        _log.info("%s: action %s for %s", action.uuid, name, who, extra=fields("action"))
        return api_parts.stream(request, action.progress())

    async def _retry(self, request: Request, name: ActionName, body: ActRequest) -> Response:
        """Begins an action that is asked for again; the host goes on without its watcher."""
        plans, who = self._host.drains.plans, operator_of(request.scope)
        plan = DrainPlan(
            action=name,
            command=body.command,
            instance=request.path_params["uuid"].lower(),
            ignore_hold=body.ignore_hold,
        )
        with _faults():
            begin_by(request, self._host.clock).check()
            gives_up = body.then != "force"
            run = await plans.retry(plan, body.retry_for_s, who, gives_up=gives_up)
        return api_parts.stream(request, plans.attempts.progress(run))

    async def plan(self, request: Request) -> Response:
        plan, not_before, before = await plan_request(request)
        who = operator_of(request.scope)
        with _faults():
            begin_by(request, self._host.clock).check()
            run = await self._host.drains.plans.plan(plan, not_before, before, who)
        return api_parts.answer(drain_body(run))


async def _watch(opened: Round) -> api_parts.Items:
    kind, window = opened.kind, opened.window
    yield api_parts.opened_line(kind, opened.event, window.kind, window.seconds)
    number = 0
    while (extension := await opened.next_extension(number)) is not None:
        number += 1
        left_s = window.remaining_s(trio.current_time())
        yield api_parts.extended_line(kind, opened.event, window.kind, extension.words, left_s)
    if opened.outcome is not None:
        outcome = opened.outcome
        yield api_parts.closed_line(kind, opened.event, outcome.result, outcome.reason)


@contextmanager
def _faults() -> Iterator[None]:
    """Turns errors of a request into its answer."""
    try:
        yield
    except UnknownInstance as error:
        raise HTTPException(404, str(error)) from error
    except NotKept as error:
        raise HTTPException(503, f"history: {error}") from error
    except _CONFLICTS as error:
        raise HTTPException(409, str(error)) from error
