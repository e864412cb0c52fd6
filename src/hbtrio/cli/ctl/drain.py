"""Begins, watches, lists and cancels drains: ``hbtrio ctl drain``.

A drain belongs to its daemon. On a terminal its last line is a bar that is redrawn; elsewhere each
change of an instance is a line.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable
from functools import partial
from typing import Final, TypeVar

import msgspec
import trio

from hbtrio.cli.ctl.drain_notes import counts_words, ended
from hbtrio.cli.ctl.instances import resolved
from hbtrio.cli.ctl.screen import Screen
from hbtrio.cli.ctl.table import column, counted, write_table
from hbtrio.cli.ctl.times import moment
from hbtrio.cli.ctl.watch import Watch
from hbtrio.client.client import CtlClient
from hbtrio.client.stream import SILENCE_S, Lines
from hbtrio.errors import ExitStatus, UserError, os_reason
from hbtrio.text import printable
from hbtrio.wire.operator import DrainBody, DrainLine, DrainList, DrainRequest, parse
from hbtrio.wire.vocabulary import ACTION_TABLE

T = TypeVar("T")

_STATUS: Final = {
    "drained": ExitStatus.DONE,
    "dry-run": ExitStatus.DONE,
    "incomplete": ExitStatus.INCOMPLETE,
    "cancelled": ExitStatus.ABORTED,
    "aborted": ExitStatus.ABORTED,
}

_COLOURS: Final = {
    "done": "good",
    "rejected": "warn",
    "blocked": "warn",
    "skipped": "warn",
    "failed": "bad",
    "cancelled": "warn",
}

_GOES_ON: Final = (
    "a drain goes on without this command, and after a restart of the daemon: `hbtrio ctl drain "
    "--resume` watches it, `--cancel` ends it"
)

#: What an order names, else a file.
_ORDERS: Final = ("name", "group")

#: Cells of the bar, as many as there is room for; with fewer than the least there is none.
_BAR: Final = 24
_LEAST_BAR: Final = 8

#: In which order the line below has the states: what a narrow terminal cuts off matters least.
_SHOWN: Final = (
    *("failed", "skipped", "rejected", "blocked", "done", "acting", "told", "asked"),
    *("cancelled", "waiting"),
)

#: Seconds between two drawings of the bar.
_EVERY_S: Final = 0.2


async def drain(
    client: CtlClient,
    screen: Screen,
    options: argparse.Namespace,
    watch: Watch,
    command: tuple[str, ...],
) -> int:
    """Does what the options ask for, and returns the exit status.

    Args:
        client: of the host or agent.
        screen: where to show it.
        options: as the command line has them.
        watch: is told what goes on when this is interrupted.
        command: what stands after ``--``.

    Raises:
        UserError: what went wrong.
    """
    if options.list:
        return await _list(client, screen, options)
    if options.cancel or options.resume:
        id_ = await _chosen(client, options)
        if options.cancel:
            cancelled = await _ask(client, f"/v1/drains/{id_}/cancel", DrainBody, {})
            if options.json:
                screen.json(msgspec.to_builtins(cancelled))
            else:
                screen.line(f"drain {id_}: cancelled; what has begun comes to its end")
            return ExitStatus.DONE
        return await _follow(client, screen, options, watch, f"/v1/drains/{id_}/progress", None)
    if options.action is None:
        named = ", ".join(name for name, rule in ACTION_TABLE.items() if rule.before is not None)
        raise UserError(f"--action: which action is done on each instance? One of {named}")
    body = DrainRequest(
        action=options.action,
        command=command,
        hosts=tuple(options.hosts),
        parallel=options.parallel,
        order=options.order if options.order in _ORDERS else "name",
        first=() if options.order in _ORDERS else await _in_file(client, options.order),
        retry_for_s=options.retry_for,
        on_reject=options.on_reject,
        ignore_hold=options.ignore_hold,
        dry_run=options.dry_run,
    )
    return await _follow(client, screen, options, watch, "/v1/drains", body)


async def _ask(client: CtlClient, path: str, cls: type[T], body: object = None) -> T:
    return await client.ask(path, "answer", partial(parse, cls=cls), body)


async def _list(client: CtlClient, screen: Screen, options: argparse.Namespace) -> int:
    drains = (await _ask(client, "/v1/drains", DrainList)).drains
    if options.json:
        screen.json(msgspec.to_builtins(DrainList(drains=drains)))
    elif not drains:
        screen.line("no drain was asked for")
    else:
        columns = [
            column("DRAIN", [one.id for one in drains]),
            column("ACTION", [one.action for one in drains]),
            column("HOSTS", [", ".join(one.hosts) for one in drains]),
            column("BEGUN", [moment(one.begun) for one in drains]),
            column("BY", [one.who for one in drains]),
            column("STATE", [one.outcome or one.phase for one in drains]),
            column("INSTANCES", [counts_words(one.counts) for one in drains]),
        ]
        write_table(screen, columns)
    return ExitStatus.DONE


async def _chosen(client: CtlClient, options: argparse.Namespace) -> str:
    """The drain in progress that the hosts on the command line name; else the last one."""
    drains = (await _ask(client, "/v1/drains", DrainList)).drains
    hosts = set(options.hosts)
    drains = tuple(one for one in drains if one.before is None)  # planned ones are act's
    fit = [one for one in drains if not hosts or hosts & set(one.hosts)]
    going_on = [one for one in fit if not one.outcome]
    if len(going_on) > 1:
        named = ", ".join(printable(", ".join(one.hosts)) for one in going_on)
        raise UserError(f"HOST: several drains are in progress: {named}")
    if not going_on and (options.cancel or not fit):
        raise UserError("no drain is in progress", ExitStatus.FAILED)
    return (going_on or fit)[0].id


async def _in_file(client: CtlClient, path: str) -> tuple[str, ...]:
    """The uuids of the instances that a file names, one a line.

    Raises:
        UserError: it can't be read, or names an instance that is not there or is ambiguous.
    """
    try:
        text = await trio.Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"--order: {path}: {os_reason(error)}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"--order: {path}: not UTF-8") from error
    status, uuids = await client.any_status(), []
    for number, line in enumerate(text.splitlines(), 1):
        if word := line.partition("#")[0].strip():
            try:
                uuids.append(resolved(word, status))
            except UserError as fault:
                raise UserError(f"{path}:{number}: {fault}") from fault
    return tuple(uuids)


async def _follow(
    client: CtlClient,
    screen: Screen,
    options: argparse.Namespace,
    watch: Watch,
    path: str,
    body: DrainRequest | None,
) -> int:
    goes_on = (
        "a drain goes on without this command, and after a restart of the daemon: see `hbtrio "
    )
    goes_on += "ctl drain --list`, `--resume` watches it, `--cancel` ends it"
    method = "GET" if body is None else "POST"
    watch.goes_on = f"the outcome is unknown; {_GOES_ON}"
    async with client.lines(method, path, body, unknown=watch.goes_on) as lines:
        watch.goes_on = _GOES_ON
        view = DrainView(screen, is_dry=options.dry_run)
        async with trio.open_nursery() as nursery:
            if screen.terminal and not options.json:
                nursery.start_soon(view.keep_drawing)
            try:
                last = await _show_all(screen, options, lines, view)
            finally:
                screen.settle()
            nursery.cancel_scope.cancel()
    watch.goes_on = ""
    if not options.json:
        view.sum_up(last)
    if last.outcome == "incomplete" and view.states["failed"]:
        return ExitStatus.COMMAND_FAILED
    return _STATUS.get(last.outcome, ExitStatus.FAILED)


async def _show_all(
    screen: Screen, options: argparse.Namespace, lines: Lines, view: DrainView
) -> DrainLine:
    while (line := await lines.next(DrainLine, SILENCE_S)) is not None:
        if options.json:
            screen.json(msgspec.to_builtins(line))
        view.take(line, is_shown=not options.json)
        if line.step == "end":
            return line
    raise lines.lost("the daemon ended the stream")


class DrainView:
    """Shows a drain.

    Args:
        screen: where to show it.
        is_dry: whether it only asks: its instances have no states then.
    """

    def __init__(self, screen: Screen, *, is_dry: bool) -> None:
        self._screen = screen
        self._is_dry = is_dry
        self._last: dict[str, DrainLine] = {}
        self._drain = DrainLine(step="drain")

    @property
    def states(self) -> Counter[str]:
        """How many instances are in each state."""
        return Counter(line.state for line in self._last.values())

    def take(self, line: DrainLine, *, is_shown: bool) -> None:
        """Takes a line, and shows what is new in it."""
        if line.step == "drain":
            self._drain = line
            if is_shown:
                what = f"{line.action} of {counted(line.total, 'instance')}, at most"
                self._screen.line(f"drain {line.id}: {what} {line.parallel} at once")
        elif line.step == "instance":
            before, self._last[line.uuid] = self._last.get(line.uuid), line
            if is_shown:
                self._show(before, line)

    def _show(self, before: DrainLine | None, line: DrainLine) -> None:
        name = line.name or line.uuid
        answered = line.answer and (before is None or not before.answer)
        if answered and line.answer != "accept":
            self._screen.line(f"{name}: asked before: ", (line.answer, "warn"))
        state = "waiting" if before is None else before.state
        # A terminal has a bar that says how many are in progress.
        is_news = line.state != state and not self._is_dry
        if is_news and (line.state in _COLOURS or not self._screen.terminal):
            self._screen.line(*self._words(line))
        if self._screen.terminal:
            self._draw()

    @staticmethod
    def _words(line: DrainLine) -> tuple[tuple[str, str] | str, ...]:
        reason = f" ({line.reason})" if line.reason else ""
        state = (line.state, _COLOURS.get(line.state, ""))
        return (f"{DrainView._called(line)}: ", state, reason)

    @staticmethod
    def _called(line: DrainLine) -> str:
        """An instance and its host."""
        return (line.name or line.uuid) + (f" on {line.hostname}" if line.hostname else "")

    async def keep_drawing(self) -> None:
        """Redraws the bar now and then, until cancelled."""
        while True:
            self._draw()
            await trio.sleep(_EVERY_S)

    def _draw(self) -> None:
        # First each instance has a line that says how it is.
        if (total := self._drain.total) and len(self._last) == total:
            states = self.states
            over = ended(states)
            words = counts_words({state: states[state] for state in _SHOWN if state in states})
            text = f"{over} of {total}: {words}"
            cells = min(_BAR, (self._screen.columns or 0) - len(text) - len("[]  "))
            filled = cells * over // total
            bar = f"[{'#' * filled}{'-' * (cells - filled)}] " if cells >= _LEAST_BAR else ""
            self._screen.redraw(bar + text)

    def sum_up(self, last: DrainLine) -> None:
        """Writes how it has ended, and each instance on which the action was not done."""
        screen = self._screen
        if last.outcome == "dry-run":
            answers = [line.answer for line in self._last.values()]
            rejects = sum(answer.startswith("reject") for answer in answers)
            unasked = sum(answer.startswith("not asked") for answer in answers)
            rest = f", {unasked} not asked" if unasked else ""
            total = self._drain.total
            screen.line(f"dry run: nothing was done; {rejects} of {total} would reject{rest}")
            for place, line in enumerate(self._last.values(), 1):
                screen.line(f"  {place}. {self._called(line)}: {line.answer}")
            return
        why = f": {last.reason}" if last.reason else ""
        colour = "good" if last.outcome == "drained" else "bad"
        screen.line("drain: ", (last.outcome, colour), f"{why}: {counts_words(self.states)}")
        for line in self._left():
            screen.line("  ", *self._words(line))
        if last.appeared:
            screen.line(f"  came meanwhile, and were left alone: {', '.join(last.appeared)}")

    def _left(self) -> Iterable[DrainLine]:
        return (line for line in self._last.values() if line.state != "done")
