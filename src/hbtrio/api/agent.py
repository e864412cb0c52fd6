"""The agent's operator API: HTTP with JSON, for the whole fleet.

    GET  /v1/status                             the agent, its hosts and their instances
    GET  /v1/instances/UUID                     one instance
    GET  /v1/instances/UUID/look                what its host sees of it now
    GET  /v1/events[?recent=N][&follow=no][&FILTER]   new entries of the history, as lines
    GET  /v1/clock                              see :mod:`hbtrio.api.expiry`
    GET  /v1/history[?before=][&limit=][&FILTER] the history, the newest first
    POST /v1/instances/UUID/vote                {"event": "stop"}
    POST /v1/instances/UUID/notify              {"event": "stop"}
    POST /v1/instances/UUID/act                 {"action": "reboot", "command": [], "force": false}
    POST /v1/instances/UUID/plan                {"action": "reboot", "before": "2026-01-31T…+00:00"}
    POST /v1/instances/UUID/hold                {"seconds": 3600, "reason": "..."}
    POST /v1/instances/UUID/unhold
    POST /v1/instances/UUID/forget              a member of groups that no host has
    POST /v1/hosts/NAME/alarms                  {"alarms": "send"}, or "withdraw"
    POST /v1/hosts/NAME/forget                  a host that no longer exists; its history stays
    GET  /v1/drains, POST /v1/drains, …         see :mod:`hbtrio.api.drains`
    GET  /v1/tree                               the live tasks
    GET  /metrics                               metrics for Prometheus
    GET  /openapi.json                          this API as an OpenAPI document
    GET  / and /page/NAME                       the status page: :mod:`hbtrio.api.page`

The instance's host carries out votes, notices and actions, and they are answered with the same
lines as there. FILTER is that of :class:`~hbtrio.wire.operator.EventFilter`. Streams and refusals
are those of :mod:`hbtrio.api.common`; :mod:`hbtrio.api.auth` authorises requests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import trio
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from hbtrio.api import common as api_parts
from hbtrio.api.auth import OperatorAdmission, operator_of
from hbtrio.api.drains import DrainRoutes, drain_body, plan_request
from hbtrio.api.expiry import begin_by, clock_reply
from hbtrio.api.fleet_detail import fleet_detail, fleet_look
from hbtrio.api.fleet_metrics import agent_metrics
from hbtrio.api.fleet_status import fleet_status, unregistered_on
from hbtrio.api.groups import event_filter
from hbtrio.api.history import history_line, history_page
from hbtrio.api.holds import hold_line
from hbtrio.api.metrics import METRICS_TYPE
from hbtrio.api.openapi import openapi
from hbtrio.api.page import page_routes
from hbtrio.api.task_tree import tree_reply
from hbtrio.nursery.agent.daemon import Agent
from hbtrio.nursery.agent.fleet import Unknown
from hbtrio.nursery.agent.fleet_actions import AgentActions, FleetActionRefused
from hbtrio.nursery.agent.inventory import Linked
from hbtrio.nursery.agent.mass_failure import NotHeld
from hbtrio.nursery.agent.open_rounds import OpenedRound
from hbtrio.nursery.agent.unasked_rounds import CantAsk, OutcomeUnknown
from hbtrio.nursery.drains import DrainPlan, DrainRefused
from hbtrio.policy.begin_by import BeginBy, Expired
from hbtrio.policy.instance_hold import HoldRefused
from hbtrio.store.worker import StoreFault
from hbtrio.wire.operator import ActRequest, AlarmsReply, Forgotten, HoldReply
from hbtrio.wire.vocabulary import ActionName, Event, NotificationType, window_of

#: Faults that are no fault of the request itself.
_CONFLICTS: Final = (
    FleetActionRefused,
    CantAsk,
    Linked,
    NotHeld,
    HoldRefused,
    DrainRefused,
    Expired,
)


def agent_api(
    agent: Agent,
    actions: AgentActions,
    *,
    token: Callable[[], str] | None = None,
    local: bool = True,
) -> OperatorAdmission:
    """The operator API of ``agent`` as an ASGI application.

    Args:
        agent: the agent.
        actions: starts operators' actions.
        token: returns the token; over TCP, changes need it or a client certificate.
        local: whether TCP is served on the loopback only; elsewhere reading needs it as well.
    """
    api = _AgentApi(agent, actions, local=local)
    routes = [
        *page_routes(),
        Route("/v1/status", api.status, methods=["GET"]),
        Route("/v1/events", api.events, methods=["GET"]),
        Route("/v1/clock", api.clock, methods=["GET"]),
        Route("/v1/history", api.history, methods=["GET"]),
        Route("/v1/instances/{uuid}", api.instance, methods=["GET"]),
        Route("/v1/instances/{uuid}/look", api.look, methods=["GET"]),
        Route("/v1/instances/{uuid}/vote", api.vote, methods=["POST"]),
        Route("/v1/instances/{uuid}/notify", api.notify, methods=["POST"]),
        Route("/v1/instances/{uuid}/act", api.act, methods=["POST"]),
        Route("/v1/instances/{uuid}/plan", api.plan, methods=["POST"]),
        Route("/v1/instances/{uuid}/hold", api.hold, methods=["POST"]),
        Route("/v1/instances/{uuid}/unhold", api.unhold, methods=["POST"]),
        Route("/v1/instances/{uuid}/forget", api.forget_member, methods=["POST"]),
        Route("/v1/hosts/{hostname}/alarms", api.alarms, methods=["POST"]),
        Route("/v1/hosts/{hostname}/forget", api.forget, methods=["POST"]),
        *api.drains.all,
        Route("/v1/tree", tree_reply, methods=["GET"]),
        Route("/metrics", api.metrics, methods=["GET"]),
        Route("/openapi.json", api.openapi, methods=["GET"]),
    ]
    return OperatorAdmission(api_parts.application(routes), token, local=local)


def agent_api_away(
    agent: Agent, *, token: Callable[[], str] | None = None, local: bool = True
) -> OperatorAdmission:
    """The operator API while the agent has no store: its status from memory, else 503.

    Args:
        agent: the agent as it was; it has ended.
        token: see :func:`agent_api`.
        local: see :func:`agent_api`.
    """
    api = _AgentApi(agent, agent.actions, local=local)
    routes = [
        *page_routes(),
        Route("/v1/status", api.status, methods=["GET"]),
        Route("/v1/clock", api.clock, methods=["GET"]),
        Route("/v1/tree", tree_reply, methods=["GET"]),
        Route("/metrics", api.metrics, methods=["GET"]),
        Route("/openapi.json", api.openapi, methods=["GET"]),
    ]
    app = api_parts.application(routes)
    app.router.redirect_slashes = False
    app.router.default = api_parts.failure(503, f"the store can't be reached: {agent.store.fault}")
    return OperatorAdmission(app, token, local=local)


class _AgentApi:
    def __init__(self, agent: Agent, actions: AgentActions, *, local: bool) -> None:
        self._agent = agent
        self._actions = actions
        self._local = local
        self.drains = DrainRoutes(agent.drains.runs, agent.drains.start, self._check_in_time)

    def _check_in_time(self, request: Request) -> None:
        with _faults():
            self._begin_by(request).check()

    def _uuid(self, request: Request) -> str:
        given: str = request.path_params["uuid"]
        uuid = given.lower()
        hostname = unregistered_on(self._agent, uuid)
        if hostname is not None:
            text = f"{uuid} is not registered by the VIM; {hostname} reports it"
            raise HTTPException(404, text)
        return uuid

    def _begin_by(self, request: Request) -> BeginBy:
        return begin_by(request, self._agent.clock)

    async def clock(self, _: Request) -> Response:
        return clock_reply(self._agent.clock)

    async def openapi(self, _: Request) -> Response:
        return JSONResponse(openapi(local=self._local))

    async def metrics(self, _: Request) -> Response:
        text = agent_metrics(self._agent, trio.current_time())
        return Response(text, media_type=METRICS_TYPE)

    async def status(self, _: Request) -> Response:
        data = await fleet_status(self._agent, self._actions)
        return Response(data, media_type="application/json")

    async def instance(self, request: Request) -> Response:
        with _faults():
            bound = self._agent.fleet.instance(self._uuid(request))
        return api_parts.answer(fleet_detail(self._agent, bound))

    async def look(self, request: Request) -> Response:
        with _faults():
            bound = self._agent.fleet.instance(self._uuid(request))
        return api_parts.answer(await fleet_look(self._agent, bound))

    async def events(self, request: Request) -> Response:
        wanted = event_filter(request, self._agent.groups.rule)
        return api_parts.follow(request, self._agent.history, history_line, wanted)

    async def history(self, request: Request) -> Response:
        store = self._agent.store
        with _faults():
            wanted = event_filter(request, self._agent.groups.rule)
            return await history_page(request, store.history, wanted)

    async def vote(self, request: Request) -> Response:
        return await self._round(request, NotificationType.REVOCABLE)

    async def notify(self, request: Request) -> Response:
        return await self._round(request, NotificationType.IRREVOCABLE)

    async def _round(self, request: Request, notification: NotificationType) -> Response:
        event = await api_parts.round_request(request, notification)
        vote = notification is NotificationType.REVOCABLE
        who = operator_of(request.scope)
        with _faults():
            self._begin_by(request).check()
            asked = await self._agent.rounds.ask(self._uuid(request), event, vote=vote, who=who)
        if asked.outcome is None:
            raise HTTPException(409, asked.fault)
        return api_parts.stream(request, _watch(asked, event, notification))

    async def act(self, request: Request) -> Response:
        name, body = await api_parts.act_request(request)
        if body.retry_for_s:
            return await self._retry(request, name, body)
        who = operator_of(request.scope)
        with _faults():
            self._begin_by(request).check()
            action = await self._actions.begin(
                self._uuid(request),
                name,
                body.command,
                force=body.force,
                who=who,
                take_over=body.take_over,
                ignore_group=body.ignore_group,
                ignore_hold=body.ignore_hold,
            )
        return api_parts.stream(request, action.lines.watch())

    async def _retry(self, request: Request, name: ActionName, body: ActRequest) -> Response:
        """Begins an action that is asked for again; the agent goes on without its watcher."""
        drains, who = self._agent.drains, operator_of(request.scope)
        plan = DrainPlan(
            action=name,
            command=body.command,
            instance=self._uuid(request),
            ignore_hold=body.ignore_hold,
        )
        with _faults():
            self._begin_by(request).check()
            gives_up = body.then != "force"
            run = await drains.retry(plan, body.retry_for_s, who, gives_up=gives_up)
        return api_parts.stream(request, drains.attempts.progress(run))

    async def plan(self, request: Request) -> Response:
        plan, not_before, before = await plan_request(request)
        who = operator_of(request.scope)
        with _faults():
            self._begin_by(request).check()
            run = await self._agent.drains.plan(plan, not_before, before, who)
        return api_parts.answer(drain_body(run))

    async def hold(self, request: Request) -> Response:
        body = await api_parts.hold_request(request)
        who = operator_of(request.scope)
        with _faults():
            self._begin_by(request).check()
            uuid = self._agent.fleet.instance(self._uuid(request)).uuid
            await self._agent.holds.hold(uuid, body.seconds, body.reason, who)
        return api_parts.answer(HoldReply(uuid=uuid, hold=hold_line(self._agent.holds.of(uuid))))

    async def unhold(self, request: Request) -> Response:
        uuid = request.path_params["uuid"].lower()
        with _faults():
            self._begin_by(request).check()
            await self._agent.holds.unhold(uuid, operator_of(request.scope))
        return api_parts.answer(HoldReply(uuid=uuid))

    async def forget_member(self, request: Request) -> Response:
        uuid = request.path_params["uuid"].lower()
        self._check_in_time(request)
        if (bound := self._agent.fleet.instances.get(uuid)) is not None:
            raise HTTPException(409, f"{uuid} exists, on {bound.hostname}")
        with _faults():
            is_forgotten = await self._actions.forget_member(uuid, operator_of(request.scope))
        if not is_forgotten:
            raise HTTPException(404, f"no member {uuid} of a group that no host has")
        return api_parts.answer(Forgotten(instances=1))

    async def alarms(self, request: Request) -> Response:
        hostname: str = request.path_params["hostname"]
        send = await api_parts.alarms_request(request)
        who = operator_of(request.scope)
        with _faults():
            released = await self._agent.mass_failure_guard.release(
                hostname, who, send=send, begin_by=self._begin_by(request)
            )
        return api_parts.answer(
            AlarmsReply(hostname=hostname, sent=released.sent, withdrawn=released.withdrawn)
        )

    async def forget(self, request: Request) -> Response:
        hostname: str = request.path_params["hostname"]
        with _faults():
            instances = await self._agent.inventory.forget(
                hostname, operator_of(request.scope), self._begin_by(request)
            )
        return api_parts.answer(Forgotten(hostname=hostname, instances=instances))


async def _watch(
    asked: OpenedRound, event: Event, notification: NotificationType
) -> api_parts.Items:
    kind = "vote" if notification is NotificationType.REVOCABLE else "notice"
    yield api_parts.opened_line(kind, event, window_of(event, notification), asked.seconds)
    if asked.outcome is not None:
        ended = await asked.outcome.wait()
        yield api_parts.closed_line(kind, event, ended.result, ended.reason)


@contextmanager
def _faults() -> Iterator[None]:
    """Turns errors of a request into its answer."""
    try:
        yield
    except Unknown as error:
        raise HTTPException(404, str(error)) from error
    except OutcomeUnknown as error:
        raise HTTPException(504, str(error)) from error
    except _CONFLICTS as error:
        raise HTTPException(409, str(error)) from error
    except StoreFault as error:
        raise HTTPException(503, f"store: {error}") from error
