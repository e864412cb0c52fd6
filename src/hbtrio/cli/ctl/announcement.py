"""``hbtrio ctl notify-all``: notifies all instances of an event, side by side and within a bound.

For what happens to a whole host, such as its shutdown. Each notice belongs to the host and goes on
after its request; the daemon's events say how it ended. So a host with a thousand instances needs
no thousand connections.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

import attrs
import trio

from hbtrio.cli.ctl.instances import is_uuid
from hbtrio.cli.ctl.ranking import Selection, shown_name
from hbtrio.cli.ctl.screen import Screen
from hbtrio.cli.ctl.table import counted
from hbtrio.cli.ctl.watch import MARGIN_S
from hbtrio.client.client import CtlClient
from hbtrio.client.stream import SILENCE_S, Lines
from hbtrio.errors import ExitStatus, UserError, os_reason
from hbtrio.text import printable
from hbtrio.wire.operator import (
    FleetInstanceLine,
    FleetStatus,
    InstanceLine,
    NoticeRequest,
    ProgressLine,
    parse_event,
)
from hbtrio.wire.vocabulary import ACTION_TABLE, Event

#: Notices that are being opened at once.
PARALLEL: Final = 16

#: A file of told instances is this long at most, in bytes: 100,000 lines.
TOLD_BYTES: Final = 8 * 1024 * 1024

#: The notice that ends each of these events if it does not come.
ENDS: Final = {
    rule.before: rule.cancelled
    for rule in ACTION_TABLE.values()
    if rule.before is not None and rule.cancelled is not None
}


@attrs.define
class Told:
    """An instance, and how its notice ended.

    ``result``: that of the notice; ``open`` while it is, ``refused`` if there was none.
    """

    uuid: str
    name: str
    event: str
    result: str = "open"
    reason: str = ""


class Announcement:
    """Notices to several instances.

    Args:
        client: of the host or agent.
        record: called with the event and the uuid before an instance is told.
    """

    def __init__(self, client: CtlClient, record: Callable[[str, str], None]) -> None:
        self._client = client
        self._record = record
        self._limit = trio.CapacityLimiter(PARALLEL)
        self._told: dict[str, Told] = {}
        self._changed = trio.Event()

    async def send(self, told: Iterable[Told]) -> None:
        """Sends all notices, and returns once the last of them has ended.

        Raises:
            UserError: the daemon can't be reached, or its events ended early.

        Cancelled, it sends no more of them; those that were sent go on.
        """
        self._told = {one.uuid: one for one in told}
        if not self._told:
            return
        # Before the first notice, so that no end of one is missed.
        async with (
            self._client.lines("GET", "/v1/events?recent=0&follow=yes") as events,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(self._listen, events)
            async with trio.open_nursery() as opening:
                for one in self._told.values():
                    opening.start_soon(self._open, one)
            while any(one.result == "open" for one in self._told.values()):
                self._changed = trio.Event()
                await self._changed.wait()
            nursery.cancel_scope.cancel()

    async def _open(self, one: Told) -> None:
        path, body = f"/v1/instances/{one.uuid}/notify", NoticeRequest(event=one.event)
        async with self._limit:
            self._record(one.event, one.uuid)
            try:
                async with self._client.lines("POST", path, body) as lines:
                    # Its first line: the window is open. The rest comes as an event.
                    line = await lines.next(ProgressLine, MARGIN_S)
            except UserError as fault:
                if fault.status is not ExitStatus.FAILED:
                    raise
                self._end(one, "refused", str(fault))
                return
        if line is not None and line.result:
            self._end(one, line.result, line.reason or "")

    async def _listen(self, events: Lines) -> None:
        while (line := await events.read(parse_event, SILENCE_S)) is not None:
            one = self._told.get(line.uuid)
            if one is not None and (line.kind, line.event) == ("notice", one.event):
                self._end(one, line.result or "complete", line.reason)
        raise events.lost("the daemon ended the stream of its events")

    def _end(self, one: Told, result: str, reason: str) -> None:
        one.result, one.reason = result, reason
        self._changed.set()


class ToldFile:
    """The file that lists who was told of what: lines of an event and a uuid.

    Args:
        path: the file; None to keep no list.
    """

    def __init__(self, path: str | None) -> None:
        self._path = path

    def begin(self) -> None:
        """Makes the file, empty.

        Raises:
            UserError: it can't be made.
        """
        if self._path is not None:
            with self._faults(), open(self._path, "w", encoding="ascii"):
                pass

    def add(self, event: str, uuid: str) -> None:
        """Adds an instance, before it is told: whatever comes then, it gets its end.

        Raises:
            UserError: the file can't be written.
        """
        if self._path is not None:
            with self._faults(), open(self._path, "a", encoding="ascii") as file:
                file.write(f"{event} {uuid}\n")

    def read(self) -> dict[str, str]:
        """Returns the events by uuid; none if there is no file.

        Raises:
            UserError: it can't be read, or is no such file.
        """
        assert self._path is not None
        try:
            with self._faults(), open(self._path, encoding="ascii") as file:
                text = file.read(TOLD_BYTES + 1)
        except FileNotFoundError:
            return {}
        if len(text) > TOLD_BYTES:
            # Rather than to end it for some of them, and to remove the list of the others.
            mib = TOLD_BYTES // 2**20
            raise UserError(f"{self._path}: longer than {mib} MiB: split it, nothing was sent")
        told = {}
        # A last line without its end is of one who was not told any more.
        for place, line in enumerate(text.split("\n")[:-1], 1):
            event, _, uuid = line.partition(" ")
            if event not in ENDS or not is_uuid(uuid):
                raise UserError(f"{self._path}:{place}: not an event and a uuid")
            told[uuid] = event
        return told

    def remove(self) -> None:
        """Removes the file."""
        if self._path is not None:
            with suppress(FileNotFoundError), self._faults():
                os.unlink(self._path)

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            if not os.path.isdir(os.path.dirname(self._path or "") or "."):
                raise UserError(f"{self._path}: its directory does not exist") from None
            raise
        except UnicodeDecodeError:
            raise UserError(f"{self._path}: not a list of told instances") from None
        except OSError as error:
            raise UserError(f"{self._path}: {os_reason(error)}", ExitStatus.FAILED) from None


async def announce(client: CtlClient, screen: Screen, options: argparse.Namespace) -> int:
    """Notifies all instances, or those in a file of the end of what they were told.

    Returns:
        DONE if the notice of each has ended; FAILED if one is open, or one could not be told of an
        event. It need not be told of the end if it has gone meanwhile.

    Raises:
        UserError: the options are faulty, the daemon can't be reached, or the file can't be used.
    """
    began = trio.current_time()
    file = ToldFile(options.told or options.ended)
    told: list[Told] = []
    with trio.move_on_after(options.within):
        if options.ended is not None:
            # One that has gone meanwhile needs no end.
            told = [Told(uuid, "", str(ENDS[Event(event)])) for uuid, event in file.read().items()]
            await Announcement(client, lambda *_: None).send(told)
            file.remove()
        else:
            if options.told is not None and options.event not in ENDS:
                raise UserError(f"--told: nothing ends {options.event}, so nobody has to be listed")
            told = await _heartbeating(client, options)
            file.begin()
            await Announcement(client, file.add).send(told)
    _show(screen, told, trio.current_time() - began, as_json=options.json)
    missing = ("open",) if options.ended is not None else ("open", "refused")
    return ExitStatus.FAILED if any(one.result in missing for one in told) else ExitStatus.DONE


async def _heartbeating(client: CtlClient, options: argparse.Namespace) -> list[Told]:
    status = await client.any_status()
    selection = Selection(host=options.host or "", group=options.group or "").within(status)
    chosen: Sequence[InstanceLine | FleetInstanceLine]
    if isinstance(status, FleetStatus):
        if not (options.host or options.group):
            raise UserError("--host: an agent has to know whose instances, or --group")
        chosen = selection.of_instances(status.instances)
    else:
        chosen = selection.of_instances(status.instances)
    return [Told(one.uuid, shown_name(one), options.event) for one in chosen if one.heartbeating]


def _show(screen: Screen, told: list[Told], seconds: float, *, as_json: bool) -> None:
    if as_json:
        for one in told:
            screen.json(attrs.asdict(one))
        return
    for one in told:
        if one.result != "complete":
            reason = f" ({one.reason})" if one.reason else ""
            screen.line(printable(f"{one.name or one.uuid}: {one.event}: {one.result}{reason}"))
    results = Counter(one.result for one in told)
    words = [f"{count} {result}" for result, count in sorted(results.items())]
    whole = counted(len(told), "instance")
    screen.line(f"{whole} in {seconds:.1f} s{': ' if words else ''}{', '.join(words)}")
