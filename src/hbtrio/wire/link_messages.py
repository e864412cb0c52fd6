"""The messages of the link between a host and its agent: JSON lines, each with a ``type``.

The host opens a session with ``hello`` and the agent replies ``welcome``. The host then sends a
snapshot: an ``instance`` for each of its instances, and ``snapshot_end``. Afterwards the host sends
``instance`` and ``gone`` on each change, ``report`` with a number that grows for the lifetime of
the host process, and a ``reply`` to each command. The agent sends reporting states and commands,
and acknowledges reports with ``ack``. After a reconnect the host resends unacknowledged reports.
What changes with every heartbeat is sent only when the agent asks for it with ``look``.

Texts and numbers are bounded. What exceeds a bound ends the session, so senders cut texts first.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, get_args

import attrs
import msgspec

from hbtrio.wire.link_follow import OfAction
from hbtrio.wire.link_holds import HoldWord
from hbtrio.wire.link_looks import Look, Seen
from hbtrio.wire.link_parts import LinkRound, Remaining, Voters
from hbtrio.wire.link_places import OfPlace, PlaceAnswer
from hbtrio.wire.vocabulary import CorrectiveAction, Event, Health, VoteResult

#: Sent by both ends. A peer with another version gets a ``goodbye`` that names both versions.
PROTOCOL = 1

#: The most characters of a name, an id or any other single word.
MAX_NAME: Final = 255

#: The most characters of a reason: escaped and in UTF-8, it fits into one line of the link.
MAX_TEXT: Final = 2000

#: The most characters of ``Instance.why``: the agent's status repeats it for every instance.
MAX_STATE_REASON: Final = 200

#: The largest number that every JSON parser reads exactly; well below the store's limit.
MAX_NUMBER: Final = 2**53

Name = Annotated[str, msgspec.Meta(max_length=MAX_NAME)]
Text = Annotated[str, msgspec.Meta(max_length=MAX_TEXT)]
Number = Annotated[int, msgspec.Meta(ge=0, le=MAX_NUMBER)]
#: A window or an interval; a guest can't advertise more.
Period = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
Patience = Annotated[float, msgspec.Meta(ge=0, le=86_400)]
#: Seconds of CLOCK_BOOTTIME, which neither stops while the machine sleeps nor is ever set.
Clock = Annotated[float, msgspec.Meta(ge=0, le=MAX_NUMBER)]
Command = Annotated[tuple[str, ...], msgspec.Meta(max_length=64)]


@attrs.frozen
class Hello:
    """Host: opens the session. ``boot_id`` is new for each start of the host process.

    ``dropped`` counts the reports dropped since that start because no agent took them. ``clock_s``
    is the host's clock when it sends this; None if the host is too old to observe ``begin_by_s``.
    ``commands`` says what it runs for the agent's actions: ``configured`` or ``any``; "" if the
    host is too old to say, and to refuse any. ``looks``: whether it answers :class:`Look`, and
    ``holds``, ``call_offs`` and ``follows``: whether it takes :class:`HoldWord`, ``call_off`` and
    ``follow``; an older host would end the session.
    """

    TYPE: ClassVar[str] = "hello"
    protocol: Number
    hostname: Name
    host_uuid: Name
    boot_id: Name
    version: Name
    dropped: Number
    clock_s: Clock | None = None
    commands: Name = ""
    looks: bool = False
    holds: bool = False
    call_offs: bool = False
    follows: bool = False


@attrs.frozen
class Instance:
    """Host: an instance's current state, sent in the snapshot and on each change.

    The host sends a change before the report of that change, because the agent's decision about a
    report depends on the state. The windows are those the guest advertised, in seconds, clamped to
    the host's limits. ``why`` is the reason for the state or the illness; "" if the instance is
    well, or if the host is too old to send it. ``domain`` is libvirt's name of the instance, and
    ``domain_state`` its state in words, such as ``paused: saving``; "" if libvirt does not know it
    or is not asked, or if the host is too old to send it. ``voters`` is None if the guest or the
    host does not report them; the guest has ``voters_unlisted`` others. ``open`` and
    ``restart_remaining_s`` are its open windows, and ``acting`` is what an operator's action or a
    corrective command in progress does to it; None for nothing, or if the host is too old to say.
    """

    TYPE: ClassVar[str] = "instance"
    uuid: Name
    name: Name
    state: Name
    heartbeating: bool
    health: Health
    corrective_action: CorrectiveAction
    interval_ms: Period
    vote_s: Period
    shutdown_notice_s: Period
    suspend_notice_s: Period
    resume_notice_s: Period
    restart_s: Period
    why: Text = ""
    domain: Name = ""
    domain_state: Name = ""
    voters: Voters = None
    voters_unlisted: Period = 0
    open: LinkRound | None = None
    restart_remaining_s: Remaining | None = None
    acting: Event | None = None


@attrs.frozen
class SnapshotEnd:
    """Host: the snapshot is complete; the agent drops instances that are not in it."""

    TYPE: ClassVar[str] = "snapshot_end"
    count: Number


@attrs.frozen
class Gone:
    """Host: the instance's channel is no longer on this host."""

    TYPE: ClassVar[str] = "gone"
    uuid: Name
    reason: Text


@attrs.frozen
class LinkReport:
    """Host: an event to deliver once. ``command_id`` is the vote or notice that it ends."""

    TYPE: ClassVar[str] = "report"
    number: Number
    time: Name
    kind: Name
    uuid: Name
    reason: Text
    event: Event | None = None
    result: VoteResult | None = None
    corrective_action: CorrectiveAction | None = None
    command_id: Name = ""
    who: Name = ""  # asked for the vote or notice; "" if the host is too old to say


@attrs.frozen
class Reply:
    """Host: accepts or refuses a command. ``seconds`` is the window of the round it opened.

    ``owned``: refused because an operator's action is in progress, which is no consent.
    ``unbegun``: the action that is asked about was never begun, or was refused.
    """

    TYPE: ClassVar[str] = "reply"
    command_id: Name
    ok: bool
    reason: Text = ""
    seconds: Period = 0
    owned: bool = False
    unbegun: bool = False


@attrs.frozen
class ActionProgress:
    """Host: one progress line of an ``act`` command; ``line`` is JSON text."""

    TYPE: ClassVar[str] = "progress"
    command_id: Name
    line: str
    last: bool


@attrs.frozen
class OverloadReport:
    """Host: since when it is overloaded, and whether it has raised its alarm; "": it is on time.

    Sent on each change, and after the snapshot if it is overloaded, to an agent that takes it.
    """

    TYPE: ClassVar[str] = "overload"
    since: Name = ""
    alarm: bool = False


@attrs.frozen
class Welcome:
    """Agent: its name and the number of the last report it has stored for this ``boot_id``.

    ``overloads``: whether it takes :class:`OverloadReport`, ``holds``: :class:`HoldWord`, and
    ``places``: ``place_request``, which it does if it has groups; an older agent would end the
    session.
    """

    TYPE: ClassVar[str] = "welcome"
    protocol: Number
    agent: Name
    acknowledged: Number
    overloads: bool = False
    holds: bool = False
    places: bool = False


@attrs.frozen
class Reporting:
    """Agent: turns reports of losses and ill health on or off; ``uuid`` "" is the whole host."""

    TYPE: ClassVar[str] = "reporting"
    uuid: Name
    enabled: bool


#: The requester of a :class:`RoundCommand` that the VIM has asked for.
VIM: Final = "vim"


@attrs.frozen
class RoundCommand:
    """Agent: open a vote or notice, but not later than ``deadline_s`` after it arrived.

    Nor when the clock of the host process ``boot_id`` is past ``begin_by_s``: the host then answers
    ``expired``. None if the host is too old to send its clock. ``who`` is the requester: an
    operator or :data:`VIM`, whose vote begins an action; "" if the agent is too old to say.
    """

    TYPE: ClassVar[str] = "round"
    command_id: Name
    uuid: Name
    event: Event
    vote: bool
    deadline_s: Patience
    begin_by_s: Clock | None = None
    boot_id: Name = ""
    who: Name = ""


@attrs.frozen
class ActCommand:
    """Agent: perform an action; an empty ``command`` is the host's configured one.

    ``begin_by_s`` and ``boot_id`` are those of :class:`RoundCommand`. ``who`` is the operator, as
    far as the agent knows, for the host's log and history. ``take_over``: end a corrective
    command that runs, instead of waiting for it; a host that is too old to know it starts the
    action at once. ``ignore_group``: act also if the rule of a group forbids it, ``ignore_hold``:
    if the instance is on hold. Of an action that the agent has planned, ``planned_at`` is when it
    is forced, in seconds since the epoch, and ``overrides`` the reject that does not stand.
    """

    TYPE: ClassVar[str] = "act"
    command_id: Name
    uuid: Name
    action: Name
    command: Command
    force: bool
    deadline_s: Patience
    begin_by_s: Clock | None = None
    boot_id: Name = ""
    who: Name = ""
    take_over: bool = False
    ignore_group: bool = False
    ignore_hold: bool = False
    planned_at: Number = 0
    overrides: Text | None = None


@attrs.frozen
class Ack:
    """Agent: every report up to this number is stored durably."""

    TYPE: ClassVar[str] = "ack"
    number: Number


@attrs.frozen
class Ping:
    """Either: asks for a ``pong`` with the same number."""

    TYPE: ClassVar[str] = "ping"
    number: Number


@attrs.frozen
class Pong:
    """Either: the response to a ``ping``; ``clock_s`` is the clock of the end that sends this."""

    TYPE: ClassVar[str] = "pong"
    number: Number
    clock_s: Clock | None = None


#: The reason a host daemon gives when it is stopped in order: its machine has no fault.
STOPPING: Final = "stopping"


@attrs.frozen
class Goodbye:
    """Either: ends the session, with the reason."""

    TYPE: ClassVar[str] = "goodbye"
    reason: Text


FromEither = HoldWord | Ping | Pong | Goodbye
FromHost = (
    Hello
    | Instance
    | SnapshotEnd
    | Gone
    | LinkReport
    | Reply
    | ActionProgress
    | Seen
    | OverloadReport
    | OfPlace
    | FromEither
)
FromAgent = (
    Welcome
    | Reporting
    | RoundCommand
    | ActCommand
    | OfAction
    | Look
    | PlaceAnswer
    | Ack
    | FromEither
)
LinkMessage = FromHost | FromAgent

FROM_HOST: Final[tuple[type[FromHost], ...]] = get_args(FromHost)
FROM_AGENT: Final[tuple[type[FromAgent], ...]] = get_args(FromAgent)
