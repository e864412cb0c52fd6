"""Shows the live view: VMs, agent, VIM, steps and the latest lines, fitted to the terminal."""

from __future__ import annotations

from contextlib import AsyncExitStack, suppress
from typing import Final

import attrs
import trio
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from hbtrio.client.client import CtlClient
from hbtrio.errors import UserError
from hbtrio.lab.cloud import Cloud
from hbtrio.lab.guest import LabGuest
from hbtrio.lab.tour import Line, Tour, event_words
from hbtrio.lab.vim import LabVim
from hbtrio.text import printable
from hbtrio.wire.operator import FleetStatus

#: Seconds between two frames.
_FRAME_S: Final = 0.2

#: Seconds to wait for the status of a host or agent before the last one is shown again.
_ANSWER_S: Final = 1.0

#: Seconds to wait at the end for a terminal that does not accept output.
_FAREWELL_S: Final = 1.0

#: Cells of a window's bar; with the longest name and the seconds it takes 31 cells.
_BAR: Final = 9

#: Lines of the story that are always shown, before steps get room.
_STORY: Final = 4

#: From this many columns on, hosts and counts of beats are shown.
_MEDIUM: Final = 72

#: From this many columns on, round trips and a window's event are shown, too.
_WIDE: Final = 100

_STYLES: Final = {
    "heartbeating": "green",
    "healthy": "green",
    "lost": "bold red",
    "unhealthy": "bold red",
    "unwatched": "bold red",
    "suspended": "yellow",
    "returning": "yellow",
    "restarting": "yellow",
    "paused": "yellow",
    "stopped": "yellow",
    "absent": "yellow",
}


@attrs.frozen(kw_only=True)
class _Open:
    """A vote or notice that is open."""

    event: str
    window: str
    remaining_s: float


@attrs.frozen(kw_only=True)
class _InstanceView:
    """The part of a VM's status that the table shows."""

    uuid: str
    state: str
    health: str
    beats: int
    round_trip_ms: float | None
    windows_s: dict[str, float]
    open: _Open | None
    restart_remaining_s: float | None
    last: dict[str, str] | None


@attrs.frozen(kw_only=True)
class _Status:
    instances: tuple[_InstanceView, ...] = ()


class LiveView:
    """See :class:`hbtrio.lab.view.View`."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        self._hosts: dict[str, _Status] = {}
        self._fleet: FleetStatus | None = None

    async def run(self, tour: Tour) -> None:
        """See :class:`hbtrio.lab.view.View`."""
        live = Live(
            console=self._console,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
            vertical_overflow="crop",
        )
        async with AsyncExitStack() as stack:
            cloud = tour.cloud
            agent = await stack.enter_async_context(cloud.agent.client())
            hosts = {
                name: await stack.enter_async_context(host.client())
                for name, host in cloud.hosts.items()
            }
            try:
                await trio.to_thread.run_sync(live.start, abandon_on_cancel=True)
                while not tour.story.closed:
                    await self._ask(agent, hosts)
                    await self._draw(live, tour)
                    with trio.move_on_after(_FRAME_S):
                        await tour.story.wait_closed()
                await self._ask(agent, hosts)
                await self._draw(live, tour)
            finally:
                with trio.move_on_after(_FAREWELL_S, shield=True):
                    await trio.to_thread.run_sync(live.stop, abandon_on_cancel=True)

    async def _ask(self, agent: CtlClient, hosts: dict[str, CtlClient]) -> None:
        """Fetches the statuses; a silent host keeps its last one, a silent agent does not."""
        fleet = None
        for name, client in hosts.items():
            with trio.move_on_after(_ANSWER_S), suppress(UserError):
                self._hosts[name] = await client.status(_Status)
        with trio.move_on_after(_ANSWER_S), suppress(UserError):
            fleet = await agent.status(FleetStatus)
        self._fleet = fleet

    async def _draw(self, live: Live, tour: Tour) -> None:
        frame = self._frame(tour)
        await trio.to_thread.run_sync(_refresh, live, frame, abandon_on_cancel=True)

    def _frame(self, tour: Tour) -> RenderableType:
        table = self._table(tour.cloud)
        # Minus the table's head, agent and VIM, the blank lines and the last line.
        room = self._console.height - len(tour.cloud.guests) - 7
        steps = _steps(tour, room - _STORY)
        room -= len(steps)
        lines = tour.story.since(max(0, tour.story.end - room)) if room > 0 else []
        parties = [_agent_line(self._fleet), _vim_line(tour.cloud.vim)]
        return Group(table, Text(), *parties, Text(), *steps, Text(), *map(_story_line, lines))

    def _table(self, cloud: Cloud) -> Table:
        width = self._console.width
        table = Table(
            box=None, padding=(0, 2, 0, 0), pad_edge=False, expand=True, header_style="bold"
        )
        # Wide enough for the longest word, so that columns never move.
        table.add_column("VM", min_width=5, no_wrap=True)
        if width >= _MEDIUM:
            table.add_column("HOST", min_width=9, no_wrap=True)
        table.add_column("STATE", min_width=12, no_wrap=True)
        table.add_column("HEALTH", min_width=9, no_wrap=True)
        if width >= _MEDIUM:
            table.add_column("BEATS", justify="right", no_wrap=True)
        if width >= _WIDE:
            table.add_column("RTT", justify="right", min_width=8, no_wrap=True)
        table.add_column("LAST EVENT, OR OPEN WINDOW", ratio=1, no_wrap=True, overflow="ellipsis")
        for guest in cloud.guests.values():
            hostname = cloud.host_of(guest.uuid).name
            status = self._hosts.get(hostname, _Status())
            known = {instance.uuid: instance for instance in status.instances}
            table.add_row(*_row(guest, hostname, known.get(guest.uuid), width))
        return table


def _refresh(live: Live, frame: RenderableType) -> None:
    live.update(frame, refresh=True)


def _row(guest: LabGuest, hostname: str, instance: _InstanceView | None, width: int) -> list[Text]:
    host = [Text(hostname)] if width >= _MEDIUM else []
    if instance is None:
        return [Text(guest.name), *host, Text("starting", "dim")]
    trip_ms = instance.round_trip_ms
    trip = Text("" if trip_ms is None else f"{trip_ms:.1f} ms")
    return [
        Text(guest.name),
        *host,
        Text(instance.state, _STYLES.get(instance.state, "")),
        Text(instance.health, _STYLES.get(instance.health, "dim")),
        *([Text(str(instance.beats))] if width >= _MEDIUM else []),
        *([trip] if width >= _WIDE else []),
        _latest(instance, with_event=width >= _WIDE),
    ]


def _latest(instance: _InstanceView, *, with_event: bool) -> Text:
    """Formats the open window, counting down; else the last report."""
    if instance.open is not None:
        window, left_s = instance.open.window, instance.open.remaining_s
        event = f" {instance.open.event}" if with_event else ""
    elif instance.restart_remaining_s is not None:
        window, left_s, event = "RESTART", instance.restart_remaining_s, ""
    else:
        return Text("" if instance.last is None else printable(event_words(instance.last)))
    filled = round(_BAR * min(1.0, left_s / instance.windows_s[window]))
    text = Text(f"{window} {left_s:4.1f} s ", "bold yellow")
    text.append("█" * filled, "yellow")
    text.append("░" * (_BAR - filled), "dim")
    return text.append(event)


def _agent_line(fleet: FleetStatus | None) -> Text:
    if fleet is None:
        return _party("agent", "does not answer", "bold red")
    up = sum(host.link == "up" for host in fleet.hosts)
    heartbeating = sum(one.heartbeating for one in fleet.instances)
    return _party(
        "agent",
        f"{up} of {len(fleet.hosts)} hosts linked, "
        f"{heartbeating} of {len(fleet.instances)} instances heartbeating",
    )


def _vim_line(vim: LabVim) -> Text:
    if not vim.is_up:
        return _party("VIM", "is down", "bold red")
    now = trio.current_time()
    waits = ", ".join(f"{one.name} {max(0.0, one.deadline - now):.0f} s" for one in vim.waiting)
    return _party(
        "VIM",
        f"{vim.answered} of {vim.asked} votes and notices answered"
        + (f", waits for {waits}" if waits else ""),
    )


def _party(name: str, text: str, style: str = "") -> Text:
    line = Text(no_wrap=True, overflow="ellipsis")
    return line.append(f"{name:5}  ", "bold").append(text, style)


def _steps(tour: Tour, most: int) -> list[Text]:
    lines = []
    for number in steps_shown(len(tour.findings), len(tour.steps), most):
        step = tour.steps[number]
        if number < len(tour.findings):
            agrees = tour.findings[number].agrees
            mark = Text("ok      ", "green") if agrees else Text("DIFFERS ", "bold red")
        elif number == len(tour.findings):
            mark = Text("now     ", "bold yellow")
        else:
            mark = Text("        ")
        lines.append(mark.append(step.title, "" if number <= len(tour.findings) else "dim"))
    return lines


def steps_shown(played: int, count: int, most: int) -> range:
    """Selects the steps to show: the present one, the next one, and the last played ones.

    Args:
        played: number of played steps.
        count: number of all steps.
        most: number of steps to show at most; at least two are shown.
    """
    shown = min(max(2, most), count)
    first = min(max(0, played + 2 - shown), count - shown)
    return range(first, first + shown)


def _story_line(line: Line) -> Text:
    text = Text(f"{line.at_s:5.1f} s  ", "dim", no_wrap=True, overflow="ellipsis")
    text.append(f"{line.who:6} ", "bold")
    return text.append(printable(line.text), "" if line.who else "cyan")
