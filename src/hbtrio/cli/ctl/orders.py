"""The orders of ``hbtrio ctl``: what is changed at once, and answered with what was done."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Final

import msgspec

from hbtrio.cli.ctl.instances import is_uuid
from hbtrio.cli.ctl.ranking import Selection, shown_name
from hbtrio.cli.ctl.screen import Screen
from hbtrio.cli.ctl.table import counted
from hbtrio.cli.ctl.times import moment
from hbtrio.client.client import CtlClient
from hbtrio.client.orders import Orders
from hbtrio.errors import ExitStatus, UserError
from hbtrio.text import printable
from hbtrio.wire.operator import (
    FleetInstanceLine,
    FleetStatus,
    HoldReply,
    InstanceLine,
    Status,
)

#: Instances that a line of a fault names, at most.
_NAMED: Final = 3


async def carry_out_order(client: CtlClient, screen: Screen, options: argparse.Namespace) -> int:
    """Carries out an order and shows what was done.

    Raises:
        UserError: what went wrong.
    """
    order = _Order(client, screen, options)
    match options.command:
        case "hold" | "unhold":
            await order.hold()
        case "alarms":
            await order.alarms()
        case "brake":
            await order.release_brake()
        case _:
            await order.forget()
    return ExitStatus.DONE


class _Order:
    def __init__(self, client: CtlClient, screen: Screen, options: argparse.Namespace) -> None:
        self._client = client
        self._orders = Orders(client)
        self._screen = screen
        self._options = options

    async def hold(self) -> None:
        options = self._options
        status = await self._client.any_status()
        chosen = self._chosen(status)
        faults: dict[str, list[str]] = {}
        for uuid, name in chosen.items():
            try:
                if options.command == "hold":
                    reply = await self._orders.hold(uuid, options.span, options.reason)
                else:
                    reply = await self._orders.unhold(uuid)
            except UserError as error:
                if len(chosen) == 1 or error.status is not ExitStatus.FAILED:
                    raise
                faults.setdefault(str(error), []).append(name or uuid)
            else:
                self._done(_hold_words(name, reply), reply)
        if faults:
            raise UserError(faults_words(faults, len(chosen)), ExitStatus.FAILED)

    def _chosen(self, status: Status | FleetStatus) -> dict[str, str]:
        """The names of the instances that are meant, by uuid.

        Raises:
            UserError: none, or a word that names no instance.
        """
        options = self._options
        if not (options.names or options.host or options.group):
            raise UserError("NAME, --host or --group: say which instances")
        host, group = options.host or "", options.group or ""
        selection = Selection(words=tuple(options.names), host=host, group=group).within(status)
        if isinstance(status, FleetStatus):
            return self._named(selection.of_instances(status.instances))
        return self._named(selection.of_instances(status.instances))

    def _named(self, instances: Iterable[InstanceLine | FleetInstanceLine]) -> dict[str, str]:
        options = self._options
        chosen = [one for one in instances if is_uuid(one.uuid)]
        if options.command == "unhold" and not options.names:
            chosen = [one for one in chosen if one.hold is not None]
        if not chosen:
            what = "on hold " if options.command == "unhold" else ""
            where = f"on {options.host}" if options.host else f"in {options.group}"
            raise UserError(f"no instance {what}{printable(where)}", ExitStatus.FAILED)
        return {one.uuid: shown_name(one) for one in chosen}

    async def alarms(self) -> None:
        options = self._options
        status = await self._client.any_status()
        if not isinstance(status, FleetStatus):
            text = "a host holds no alarms back; its agent does (--url)"
            raise UserError(text, ExitStatus.FAILED)
        reply = await self._orders.alarms(options.host, options.what)
        words = f"{counted(reply.sent, 'alarm')} sent, {reply.withdrawn} withdrawn"
        self._done(f"{options.host}: {words}", reply)

    async def release_brake(self) -> None:
        status = await self._client.any_status()
        if isinstance(status, FleetStatus):
            text = "an agent has no brake; its hosts do (--url), and `hbtrio ctl alarms` is for its"
            raise UserError(f"{text} alarms", ExitStatus.FAILED)
        await self._orders.release_brake()
        hostname = status.host.hostname
        self._done(f"{hostname}: corrective commands run again", {"hostname": hostname})

    async def forget(self) -> None:
        name = self._options.host
        status = await self._client.any_status()
        member = _member(name, status)
        # A name that is a host's, too, means the host: a member has a uuid.
        if isinstance(status, FleetStatus) and (
            not member or any(host.hostname == name for host in status.hosts)
        ):
            forgotten = await self._orders.forget(name)
            instances = counted(forgotten.instances, "instance")
            self._done(f"{name}: forgotten, with {instances}", forgotten)
            return
        if not member:
            text = f"no member {printable(name)} of a group; an agent forgets hosts (--url)"
            raise UserError(text, ExitStatus.FAILED)
        forgotten = await self._orders.forget(member, member=True)
        self._done(f"{name}: forgotten, it is no member of groups any more", forgotten)

    def _done(self, text: str, reply: object) -> None:
        """Writes what was done: the text, or with --json the daemon's reply."""
        if self._options.json:
            self._screen.json(msgspec.to_builtins(reply))
        else:
            self._screen.line(text)


def faults_words(faults: dict[str, list[str]], total: int) -> str:
    """One line for each fault: one of the order itself, as a length that is too long, is all's."""
    if len(faults) == 1 and total in map(len, faults.values()):
        return next(iter(faults))
    lines = []
    for fault, names in faults.items():
        more = [f"{len(names) - _NAMED} more"] if len(names) > _NAMED else []
        lines.append(f"{', '.join([*names[:_NAMED], *more])}: {fault}")
    return "\n".join(lines)


def _member(name: str, status: Status | FleetStatus) -> str:
    """The uuid of the unavailable member of groups that is meant; "" if it is not just one."""
    members = [one for group in status.groups for one in group.unavailable]
    found = {one.uuid for one in members if name in (one.name, one.uuid)}
    return found.pop() if len(found) == 1 else ""


def _hold_words(name: str, reply: HoldReply) -> str:
    if reply.hold is None:
        words = "no longer on hold"
    else:
        words = f"on hold until {moment(reply.hold.until)}: {reply.hold.reason}"
    if reply.running:
        words += f"; {reply.running} runs already and goes on"
    if not reply.stored:
        words += f"; NOT STORED: {reply.why}: a restart of the daemon undoes it"
    return printable(f"{name or reply.uuid}: {words}")
