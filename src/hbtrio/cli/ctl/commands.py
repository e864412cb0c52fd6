"""The commands of ``hbtrio ctl``: each makes its requests and shows the answers."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any, Final, NoReturn

import attrs
import trio

from hbtrio.cli.ctl.fleet import show_fleet
from hbtrio.cli.ctl.instances import instance_of
from hbtrio.cli.ctl.names import Names
from hbtrio.cli.ctl.past import show_events, show_history
from hbtrio.cli.ctl.progress import JsonProgress, ProgressView, unwatched
from hbtrio.cli.ctl.ranking import Selection
from hbtrio.cli.ctl.screen import Screen
from hbtrio.cli.ctl.views import show_status
from hbtrio.cli.ctl.watch import Watch
from hbtrio.client.address import Address
from hbtrio.client.client import CtlClient
from hbtrio.errors import ExitStatus, UserError
from hbtrio.net.token_file import checked_token, read_token
from hbtrio.text import printable
from hbtrio.wire.operator import ActRequest, FleetStatus, NoticeRequest, ProgressLine, VoteRequest

#: The exit status of a program that SIGINT ended, as shells report it.
INTERRUPTED: Final = 130

#: How often `watch --json` asks for everything, in seconds.
_EVERY_S: Final = 5.0

_VOTE_STATUS: Final = {
    "accept": ExitStatus.DONE,
    "complete": ExitStatus.DONE,
    # Silence is consent.
    "timeout": ExitStatus.DONE,
    "reject": ExitStatus.REJECTED,
}
_ACT_STATUS: Final = {
    "done": ExitStatus.DONE,
    "rejected": ExitStatus.REJECTED,
    "failed": ExitStatus.COMMAND_FAILED,
}


def carry_out(options: argparse.Namespace, screen: Screen) -> int:
    """Carries a command out and returns the exit status.

    Args:
        options: as :mod:`hbtrio.cli.ctl.arguments` declares them.
        screen: where to show it.

    Raises:
        UserError: what went wrong.
    """
    client = CtlClient(
        Address.chosen(options.url, os.environ),
        _token(options),
        certificate=options.certificate or "",
        key=options.key or "",
        authority=options.ca or "",
    )
    return trio.run(Session(client, screen, options).run)


def _token(options: argparse.Namespace) -> str:
    if options.token_file is not None:
        return read_token(options.token_file, "--token-file")
    given = os.environ.get("HBTRIO_TOKEN", "")
    return checked_token(given, "HBTRIO_TOKEN") if given else ""


class Session:
    """One command.

    Args:
        client: of the host or agent.
        screen: where to show it.
        options: what to do.
    """

    def __init__(self, client: CtlClient, screen: Screen, options: argparse.Namespace) -> None:
        self._client = client
        self._screen = screen
        self._options = options
        self._watch = Watch(client, screen)
        self._names = Names(client)

    async def run(self) -> int:
        """Carries it out until it is done, fails, or SIGINT comes; returns the exit status.

        Raises:
            UserError: what went wrong.
        """
        try:
            status = await self._until_interrupted()
        except BaseExceptionGroup as group:
            # From the nurseries in here, which never fail with more than one error.
            fault: BaseException = group
            while isinstance(fault, BaseExceptionGroup) and len(fault.exceptions) == 1:
                fault = fault.exceptions[0]
            if isinstance(fault, BrokenPipeError) and self._watch.goes_on:
                # As with `| head -1`: the user may believe that this ended the action.
                print(
                    f"hbtrio ctl: the output is no longer read: {printable(self._watch.goes_on)}",
                    file=sys.stderr,
                )
            raise fault from None
        if status == INTERRUPTED and self._watch.goes_on:
            print(f"hbtrio ctl: interrupted: {printable(self._watch.goes_on)}", file=sys.stderr)
        return status

    async def _until_interrupted(self) -> int:
        status = INTERRUPTED
        # Not KeyboardInterrupt, which can be raised anywhere, even in the middle of a line.
        with trio.open_signal_receiver(signal.SIGINT) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_upon, signals, nursery.cancel_scope)
                async with self._client:
                    status = await self._command()
                nursery.cancel_scope.cancel()
        return status

    async def _command(self) -> int:
        match self._options.command:
            case "status":
                return await self._status()
            case "events":
                return await show_events(self._client, self._screen, self._names, self._options)
            case "history":
                return await show_history(self._client, self._screen, self._names, self._options)
            case "show" | "why" | "wait" | "tree" | "groups" | "notify-all":
                return await self._look_closely()
            case "watch":
                return await self._board()
            case "hold" | "unhold" | "alarms" | "brake" | "forget":
                return await self._order()
            case "act":
                return await self._act()
            case "drain":
                return await self._drain()
            case kind:
                return await self._round(kind)

    async def _look_closely(self) -> int:
        # Imported late: a plain status is asked for more often, and at once.
        from hbtrio.cli.ctl.announcement import announce
        from hbtrio.cli.ctl.detail import show_detail
        from hbtrio.cli.ctl.groups import show_groups
        from hbtrio.cli.ctl.tasks import show_tree
        from hbtrio.cli.ctl.waiting import wait_for
        from hbtrio.cli.ctl.why import tell

        commands = {
            "show": show_detail,
            "why": tell,
            "wait": wait_for,
            "tree": show_tree,
            "groups": show_groups,
            "notify-all": announce,
        }
        return await commands[self._options.command](self._client, self._screen, self._options)

    async def _order(self) -> int:
        from hbtrio.cli.ctl.orders import carry_out_order

        return await carry_out_order(self._client, self._screen, self._options)

    async def _status(self) -> int:
        selection = Selection.of(self._options)
        if self._options.watch is not None:
            await self._keep_showing(selection, self._options.watch)
        if self._options.json and selection.is_everything:
            self._screen.json(await self._client.status(dict[str, Any]), indent=2)
            return ExitStatus.DONE
        status = await self._client.any_status()
        selection = selection.within(status)
        if self._options.json:
            whole = await self._client.status(dict[str, Any])
            whole["instances"] = selection.of_members(status, whole["instances"])
            self._screen.json(whole, indent=2)
        elif isinstance(status, FleetStatus):
            show_fleet(self._screen, status, selection)
        else:
            show_status(self._screen, status, selection)
        return ExitStatus.DONE

    async def _keep_showing(self, selection: Selection, every_s: float) -> NoReturn:
        # Imported late, as the board is: a plain status is asked for more often, and at once.
        from hbtrio.cli.ctl.live import LiveStatus

        as_json = self._options.json
        live = LiveStatus(self._client, self._screen, selection, every_s=every_s, as_json=as_json)
        await live.run()

    async def _board(self) -> int:
        group = self._options.group or ""
        if self._options.json:
            await self._keep_showing(Selection(group=group), _EVERY_S)
        from hbtrio.cli.ctl.board.app import watch_board

        return await watch_board(self._client, group)

    def _progress(self, whole: str = "") -> ProgressView:
        view = JsonProgress if self._options.json else ProgressView
        return view(self._screen, whole)

    async def _round(self, kind: str) -> int:
        event = self._options.event
        if kind == "vote" and (many := await self._survey()) is not None:
            return many
        what = f"the vote on {event}" if kind == "vote" else f"the notice of {event}"
        body = VoteRequest(event=event) if kind == "vote" else NoticeRequest(event=event)
        uuid = await instance_of(self._options.uuid, self._client)
        view = self._progress()
        last = await self._watch.run(uuid, kind, body, what, view, lambda one: one.result != "")
        if kind == "vote":
            return _VOTE_STATUS.get(last.result, ExitStatus.FAILED)
        if not self._options.json and (hint := unwatched(event, uuid)):
            self._screen.line((hint, "faint"))
        # A notice can't be refused.
        return ExitStatus.DONE

    async def _survey(self) -> int | None:
        """Asks many instances, if many are selected."""
        options = self._options
        if not (options.all or options.host or options.group):
            if options.uuid is None:
                raise UserError("UUID: name an instance, or --all, --host or --group")
            return None
        if options.uuid is not None:
            raise UserError("UUID: not together with --all, --host or --group")
        from hbtrio.cli.ctl.survey import survey

        return await survey(self._client, self._screen, options)

    async def _drain(self) -> int:
        # Imported late, as what looks closely is.
        from hbtrio.cli.ctl.drain import drain

        given = _command(self._options)
        return await drain(self._client, self._screen, self._options, self._watch, given)

    async def _act(self) -> int:
        name = self._options.action
        # Imported late: a plain status is asked for more often.
        from hbtrio.cli.ctl.plan import carry_out_plan, is_plan
        from hbtrio.cli.ctl.retry import Retry, retried

        if is_plan(self._options):
            given = _command(self._options)
            return await carry_out_plan(self._client, self._screen, self._options, given)
        if name is None:
            raise UserError("ACTION: which action? One of stop, reboot and so on")
        retry = Retry.of(self._options)
        body = ActRequest(
            action=name,
            command=_command(self._options),
            force=self._options.force,
            take_over=self._options.take_over,
            ignore_group=self._options.ignore_group,
            ignore_hold=self._options.ignore_hold,
        )
        view = self._progress(name)
        uuid = await instance_of(self._options.uuid, self._client)
        body, retry = await retry.by_daemon(body, self._client)

        async def ask(force: bool) -> ProgressLine:  # noqa: FBT001 - see retried()
            request = attrs.evolve(body, force=True) if force else body
            return await self._watch.run(
                uuid, "act", request, name, view, lambda one: one.step == "end"
            )

        last = await retried(name, retry, ask, view, self._screen)
        return _ACT_STATUS.get(last.outcome, ExitStatus.FAILED)


async def _cancel_upon(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
    await anext(signals)
    scope.cancel()


def _command(options: argparse.Namespace) -> tuple[str, ...]:
    for place, argument in enumerate(options.behind, 1):
        try:
            argument.encode()
        except UnicodeEncodeError:
            # JSON can't carry it, and a replacement character would change the command.
            raise UserError(f"COMMAND: argument {place} is not UTF-8") from None
    return tuple(options.behind)
