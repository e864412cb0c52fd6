"""What a host or an agent answers to its operator, as ``hbtrio ctl`` reads it.

Strict in type, so that a server that is neither is found out at once; lenient towards what
is new: members that are not in here are ignored, words are taken as they are. The texts may be a
tenant's and are as the host sent them; making them fit for a terminal is for whoever prints them.
"""

from __future__ import annotations

from typing import Any, TypeVar

import attrs
import msgspec

T = TypeVar("T")


class ReplyFault(Exception):
    """What came is not what a host answers; the text says why, without any of its words."""


@attrs.frozen(kw_only=True)
class ProgressLine:
    """A line about a vote, a notice or an action: a window opened, something ended.

    ``seconds`` says how long what was begun may take at most.
    """

    step: str
    event: str = ""
    window: str = ""
    seconds: float | None = None
    waiting: str = ""
    skipped: str = ""
    argv: tuple[str, ...] = ()
    result: str = ""
    reason: str = ""
    output: str = ""
    outcome: str = ""


@attrs.frozen(kw_only=True)
class EventLine:
    """A report of a host, or an entry of an agent's history; ``time`` is RFC 3339.

    Only an agent's has ``hostname``, ``who`` asked for it and, in the history, an ``id``; ``name``
    is the instance's, if whoever tells of it says that too.
    """

    kind: str
    time: str = ""
    uuid: str = ""
    name: str = ""
    reason: str = ""
    event: str = ""
    result: str = ""
    corrective_action: str = ""
    hostname: str = ""
    who: str = ""
    id: int | None = None


@attrs.frozen(kw_only=True)
class RoundEntry:
    """A vote or notice that is open on an instance."""

    kind: str
    event: str
    remaining_s: float


@attrs.frozen(kw_only=True)
class InstanceLine:
    """An instance in the host's status."""

    uuid: str
    name: str
    state: str
    why: str
    health: str
    health_reason: str = ""
    beats: int
    missed: int
    round_trip_ms: float | None = None
    open: RoundEntry | None = None
    restart_remaining_s: float | None = None
    last: EventLine | None = None


@attrs.frozen(kw_only=True)
class EventsFaultLine:
    """A host can't write its events; ``since`` is RFC 3339."""

    since: str
    why: str
    lost: int


@attrs.frozen(kw_only=True)
class HostLine:
    """The host itself in its status."""

    hostname: str
    version: str
    started: str
    heartbeating: int
    late: bool = False
    crashes: int = 0
    alarms: int = 0
    corrective_commands_run: int = 0
    corrective_commands_failed: int = 0
    corrective_commands_held_back: int = 0
    events_fault: EventsFaultLine | None = None
    actions: dict[str, str] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class Status:
    """The host and all its instances."""

    host: HostLine
    instances: tuple[InstanceLine, ...]


@attrs.frozen(kw_only=True)
class FleetInstanceLine:
    """An instance in an agent's status: the host it is bound to, and what that last told of it."""

    uuid: str
    hostname: str
    name: str
    state: str
    why: str
    health: str
    heartbeating: bool
    reporting: bool


@attrs.frozen(kw_only=True)
class FleetHostLine:
    """A host in an agent's status; ``link`` is up, down, lost or never."""

    hostname: str
    link: str
    down_s: float | None = None
    version: str = ""
    instances: int
    heartbeating: int
    unregistered: int = 0
    reports_dropped: int = 0
    held_since: str | None = None
    held_why: str = ""
    conflict: str = ""


@attrs.frozen(kw_only=True)
class DeliveryLine:
    """How an agent's news get to the VIM; ``fault`` is why the last attempt failed."""

    reachable: bool = True
    fault: str = ""
    waiting: int = 0


@attrs.frozen(kw_only=True)
class AgentLine:
    """The agent itself in its status."""

    name: str
    version: str
    started: str
    vim: str | None = None
    store_fault: str = ""
    delivery: DeliveryLine | None = None
    crashes: int = 0
    actions: dict[str, str] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class UnregisteredLine:
    """An instance that a host tells its agent of, and the VIM does not."""

    uuid: str
    name: str
    hostname: str


@attrs.frozen(kw_only=True)
class FleetStatus:
    """The agent, its hosts and their instances, and those on them that the VIM does not know."""

    agent: AgentLine
    hosts: tuple[FleetHostLine, ...]
    instances: tuple[FleetInstanceLine, ...]
    unregistered: tuple[UnregisteredLine, ...] = ()


@attrs.frozen(kw_only=True)
class ReleaseReply:
    """What became of a host's alarms that were held back: how many were sent or withdrawn."""

    sent: int
    withdrawn: int


@attrs.frozen(kw_only=True)
class Forgotten:
    """What an agent knew of a host: how many instances were bound to it."""

    instances: int


@attrs.frozen(kw_only=True)
class History:
    """A page of an agent's history, the newest first; ``before`` is where the next one begins."""

    history: tuple[EventLine, ...]
    before: int | None = None


@attrs.frozen(kw_only=True)
class WholeHistory:
    """The same with all that the agent says."""

    history: tuple[dict[str, Any], ...]


@attrs.frozen
class _Whose:
    """Tells an agent's status from a host's."""

    agent: Any = None


def parse_status(data: bytes) -> Status | FleetStatus:
    """Reads the status of a host or of an agent.

    Raises:
        ReplyFault: it is neither.
    """
    if parse(data, _Whose).agent is None:
        return parse(data, Status)
    return parse(data, FleetStatus)


def parse(data: bytes, cls: type[T]) -> T:
    """Reads one reply.

    Args:
        data: a JSON text.
        cls: one of the classes above, or ``dict`` for whatever object it is.

    Raises:
        ReplyFault: it is not JSON, is nested too deeply, or is of another shape.
    """
    try:
        return msgspec.json.decode(data, type=cls)
    except msgspec.ValidationError as error:
        # The text names types and the path, the keys of which may be anybody's words.
        raise ReplyFault(str(error).partition(" - at ")[0]) from error
    except (ValueError, RecursionError) as error:
        raise ReplyFault("not JSON") from error
