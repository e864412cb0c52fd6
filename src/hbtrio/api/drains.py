"""The routes of drains, at the APIs of host and agent.

    GET  /v1/drains                  those in progress, and the last ones, the newest first
    POST /v1/drains                  begins one; answers with lines of its progress
    GET  /v1/drains/ID               one, with its instances
    GET  /v1/drains/ID/progress      lines of its progress, from its present state on
    POST /v1/drains/ID/cancel        takes no more turns

A client that disconnects misses lines; the drain goes on.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import attrs
import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from hbtrio.api import common as api_parts
from hbtrio.api.auth import operator_of
from hbtrio.config.settings import choice, command, number
from hbtrio.nursery.drain_run import DrainRun
from hbtrio.nursery.drains import ON_REJECT, DrainPlan, DrainRefused, Drains, rules_of
from hbtrio.wire.operator import (
    DrainBody,
    DrainInstanceLine,
    DrainList,
    DrainRequest,
    PlannedLine,
    PlanRequest,
)
from hbtrio.wire.operator.drain import LONGEST_RETRY_S, MOST_AT_ONCE
from hbtrio.wire.vocabulary import ACTION_TABLE, ActionName

_ORDERS: Final = ("name", "group")


@attrs.frozen(kw_only=True)
class _CheckedDrainRequest(DrainRequest):
    command: tuple[str, ...] = command("uuid")
    parallel: int = number(1, 1, MOST_AT_ONCE)
    order: str = choice("name", _ORDERS)
    retry_for_s: float = number(1800.0, 0, LONGEST_RETRY_S, "s")
    on_reject: str = choice("wait", ON_REJECT)


@attrs.frozen(kw_only=True)
class _CheckedPlanRequest(PlanRequest):
    command: tuple[str, ...] = command("uuid")


class DrainRoutes:
    """The routes.

    Args:
        runs: the drains.
        start: begins one, for an operator; raises DrainRefused.
        check: raises HTTPException if the request may not begin any more.
    """

    def __init__(
        self,
        runs: Drains,
        start: Callable[[DrainPlan, str], DrainRun],
        check: Callable[[Request], None],
    ) -> None:
        self._runs = runs
        self._start = start
        self._check = check

    @property
    def shown(self) -> list[Route]:
        """Those that change nothing."""
        return [
            Route("/v1/drains", self._list, methods=["GET"]),
            Route("/v1/drains/{id}", self._one, methods=["GET"]),
            Route("/v1/drains/{id}/progress", self._progress, methods=["GET"]),
        ]

    @property
    def all(self) -> list[Route]:
        """These, and those that change something."""
        return [
            Route("/v1/drains", self._list_or_begin, methods=["GET", "POST"]),
            *self.shown[1:],
            Route("/v1/drains/{id}/cancel", self._cancel, methods=["POST"]),
        ]

    async def _list_or_begin(self, request: Request) -> Response:
        # One route, whose 405 names both methods.
        return await (self._begin if request.method == "POST" else self._list)(request)

    async def _list(self, _: Request) -> Response:
        drains = tuple(drain_body(run) for run in reversed(self._runs.last))
        return api_parts.answer(DrainList(drains=drains))

    async def _one(self, request: Request) -> Response:
        return api_parts.answer(drain_body(self._run(request), whole=True))

    async def _progress(self, request: Request) -> Response:
        return api_parts.stream(request, self._run(request).watch())

    async def _begin(self, request: Request) -> Response:
        plan = await _plan(request)
        self._check(request)
        try:
            run = self._start(plan, operator_of(request.scope))
        except DrainRefused as error:
            raise HTTPException(409, str(error)) from error
        return api_parts.stream(request, run.watch())

    async def _cancel(self, request: Request) -> Response:
        run = self._run(request)
        self._check(request)
        try:
            self._runs.cancel(run.record.id, operator_of(request.scope))
        except DrainRefused as error:
            raise HTTPException(409, str(error)) from error
        return api_parts.answer(drain_body(run, whole=True))

    def _run(self, request: Request) -> DrainRun:
        id_ = request.path_params["id"]
        if (run := self._runs.get(id_)) is None:
            raise HTTPException(404, f"no drain {id_[:40]}")
        return run


async def _plan(request: Request) -> DrainPlan:
    body = await api_parts.body_of(request, _CheckedDrainRequest)
    return DrainPlan(
        action=api_parts.word(ActionName, "action", body.action, ACTION_TABLE),
        command=body.command,
        rules=rules_of(body.parallel, body.retry_for_s, body.on_reject),
        hosts=tuple(body.hosts),
        first=tuple(body.first),
        by_group=body.order == "group",
        ignore_hold=body.ignore_hold,
        is_dry=body.dry_run,
    )


def in_progress(drains: Drains) -> tuple[DrainBody, ...]:
    """The drains in progress, as a status has them; planned actions are at their instances."""
    return tuple(_head(run) for run in drains.in_progress if run.due is None)


def drain_body(run: DrainRun, *, whole: bool = False) -> DrainBody:
    """A drain as the API shows it; ``whole``: with its instances."""
    return msgspec.structs.replace(
        _head(run),
        appeared=() if run.is_over else run.appeared(),
        instances=tuple(_instance(run, uuid) for uuid in run.places) if whole or run.due else (),
    )


def _head(run: DrainRun) -> DrainBody:
    record, due = run.record, run.due
    return DrainBody(
        id=record.id,
        action=record.action,
        who=record.who,
        begun=_time(record.begun_at),
        ended=None if record.ended_at is None else _time(record.ended_at),
        phase=run.machine.phase.value,
        outcome=run.outcome,
        reason=record.reason,
        parallel=record.rules.parallel,
        retry_for_s=record.rules.retry_for_s,
        on_reject=str(record.rules.on_reject),
        hosts=run.hosts,
        counts=run.counts(),
        stuck_s=round(run.stuck_s, 1),
        not_before=None if due is None else _time(due[0]),
        before=None if due is None else _time(due[1]),
    )


def planned_line(run: DrainRun | None) -> PlannedLine | None:
    """The planned action of an instance, as its status shows it; None for none."""
    if run is None or run.due is None:
        return None
    (item,) = run.machine.items.values()
    not_before, before = run.due
    return PlannedLine(
        id=run.record.id,
        action=str(run.record.action),
        not_before=_time(not_before),
        before=_time(before),
        who=run.record.who,
        state=item.state.value,
        reason=item.reason,
        gives_up=run.record.rules.forced_at == math.inf,
    )


async def plan_request(request: Request) -> tuple[DrainPlan, datetime | None, datetime]:
    """What a request wants planned for the instance of its path, and its times; None: now.

    Raises:
        HTTPException: 400, the body is faulty.
    """
    body = await api_parts.body_of(request, _CheckedPlanRequest)
    plan = DrainPlan(
        action=api_parts.word(ActionName, "action", body.action, ACTION_TABLE),
        command=body.command,
        instance=request.path_params["uuid"].lower(),
        ignore_hold=body.ignore_hold,
    )
    not_before = _given("not_before", body.not_before) if body.not_before else None
    return plan, not_before, _given("before", body.before)


def _given(key: str, text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
        if time.tzinfo is not None:
            return time.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise HTTPException(400, f"body.{key}: not a time with its offset: {text[:40]!r}")


def _instance(run: DrainRun, uuid: str) -> DrainInstanceLine:
    place, item, again_s = run.places[uuid], run.machine.items[uuid], run.again_s(uuid)
    return DrainInstanceLine(
        uuid=uuid,
        name=place.name,
        hostname=place.hostname,
        state=item.state.value,
        reason=item.reason,
        answer=place.answer,
        again_s=None if again_s is None else round(again_s, 1),
    )


def _time(epoch_s: float) -> str:
    return datetime.fromtimestamp(epoch_s, UTC).isoformat(timespec="seconds")
