"""Plans an action, or cancels a planned one: ``hbtrio ctl act --before`` and ``--cancel-planned``.

The daemon owns the plan; this only asks for it and shows what the daemon has stored.
"""

from __future__ import annotations

import argparse
from datetime import datetime
from functools import partial
from typing import Final, TypeVar

import msgspec

from hbtrio.cli.ctl.instances import instance_of
from hbtrio.cli.ctl.screen import Screen
from hbtrio.cli.ctl.times import moment
from hbtrio.client.client import CtlClient
from hbtrio.errors import ExitStatus, UserError
from hbtrio.wire.operator import DrainBody, DrainList, PlanRequest, parse

T = TypeVar("T")

#: What a planned action has no use for, by the name of the option.
_UNFIT: Final = ("force", "take_over", "ignore_group", "retry_for", "then")


def is_plan(options: argparse.Namespace) -> bool:
    """Whether the options of ``act`` are about a planned action."""
    return options.cancel_planned or options.before is not None or options.not_before is not None


async def carry_out_plan(
    client: CtlClient, screen: Screen, options: argparse.Namespace, command: tuple[str, ...]
) -> int:
    """Plans an action, or cancels a planned one, and shows it.

    Args:
        client: of the host or agent.
        screen: where to show it.
        options: those of ``act``.
        command: what stands after ``--``.

    Raises:
        UserError: what went wrong.
    """
    _check(options)
    uuid = await instance_of(options.uuid, client)
    if options.cancel_planned:
        drains = await _ask(client, "/v1/drains", DrainList)
        found = [one.id for one in drains.drains if not one.outcome and _is_of(one, uuid)]
        if not found:
            raise UserError(f"no action is planned for {options.uuid}", ExitStatus.FAILED)
        plan = await _ask(client, f"/v1/drains/{found[0]}/cancel", DrainBody, {})
        text = f"{options.uuid}: the planned {plan.action} is cancelled"
    else:
        body = PlanRequest(
            action=options.action,
            command=command,
            not_before="" if options.not_before is None else _sent(options.not_before),
            before=_sent(options.before),
            ignore_hold=options.ignore_hold,
        )
        plan = await _ask(client, f"/v1/instances/{uuid}/plan", DrainBody, body)
        since, until = moment(plan.not_before or ""), moment(plan.before or "")
        text = f"{options.uuid}: {plan.action} is planned: asked from {since} on, done at {until}"
    if options.json:
        screen.json(msgspec.to_builtins(plan))
    else:
        screen.line(text)
    return ExitStatus.DONE


def _check(options: argparse.Namespace) -> None:
    given = [name for name in _UNFIT if getattr(options, name)]
    if options.cancel_planned:
        if given or options.action or options.before or options.not_before or options.behind:
            raise UserError("--cancel-planned: takes the instance alone")
        return
    if options.action is None:
        raise UserError("ACTION: which action is to be planned? One of stop, reboot and so on")
    if options.before is None:
        raise UserError("--not-before: needs --before, when the vote does not count any more")
    if given:
        option = given[0].replace("_", "-")
        raise UserError(f"--{option}: not with --before, which decides what becomes of the vote")
    if options.not_before is not None and options.not_before >= options.before:
        raise UserError("--before: not after --not-before")


def _is_of(one: DrainBody, uuid: str) -> bool:
    return one.before is not None and any(place.uuid == uuid for place in one.instances)


def _sent(time: datetime) -> str:
    return time.isoformat()


async def _ask(client: CtlClient, path: str, cls: type[T], body: object = None) -> T:
    return await client.ask(path, "answer", partial(parse, cls=cls), body)
