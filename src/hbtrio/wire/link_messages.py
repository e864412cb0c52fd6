"""What a host and its agent say to each other: JSON lines, each with a ``type``.

A session: the host says ``hello`` and the agent ``welcome``, then the host an ``instance`` for each
of its instances and ``snapshot_end``. From there on the host sends ``instance`` and ``gone`` as
things change, ``report`` with a number that grows for as long as the host process lives, and a
``reply`` to each command. The agent tells the reporting states, sends commands and ``ack``s
reports. A report that was not acknowledged is sent again after a reconnect.

Texts and numbers are bounded: a message that exceeds them is refused by the other end, with the
session. Whoever puts a guest's or an operator's words into a message cuts them first.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Final

import attrs
import msgspec

from hbtrio.wire.vocabulary import CorrectiveAction, Event, Health, VoteResult

#: Both ends say it; another is refused with a ``goodbye`` that names both.
PROTOCOL = 1

#: The most characters of a name, an id or any other single word.
MAX_NAME: Final = 255

#: The most characters of a reason: in UTF-8, and escaped, it fits into one line of the link.
MAX_TEXT: Final = 2000

#: To how many characters a host cuts why an instance is as it is: an agent's status has it of each.
MAX_WHY: Final = 200

#: The largest number that JSON carries exactly everywhere, and well below the store's.
MAX_NUMBER: Final = 2**53

Name = Annotated[str, msgspec.Meta(max_length=MAX_NAME)]
Text = Annotated[str, msgspec.Meta(max_length=MAX_TEXT)]
Number = Annotated[int, msgspec.Meta(ge=0, le=MAX_NUMBER)]
#: Of a window or an interval: what a guest can say at all is below it.
Period = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
Patience = Annotated[float, msgspec.Meta(ge=0, le=86_400)]
Command = Annotated[tuple[str, ...], msgspec.Meta(max_length=64)]


@attrs.frozen
class Hello:
    """Host: who I am. ``boot_id`` is new for each start of the host process.

    ``dropped`` is how many reports had to give way since then, for want of an agent to take them.
    """

    TYPE: ClassVar[str] = "hello"
    protocol: Number
    hostname: Name
    host_uuid: Name
    boot_id: Name
    version: Name
    dropped: Number


@attrs.frozen
class Instance:
    """Host: an instance as it is now, sent in the snapshot and at each change.

    A change that is reported too goes before its report: what follows from a report depends on it.
    The windows are what the guest advertised, in seconds, within the host's limits. ``why`` is why
    it is in its state, or ill; "" if it is well, or of a host that does not know this member.
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


@attrs.frozen
class SnapshotEnd:
    """Host: these were all; instances that the agent knew of and did not hear of are gone."""

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
    """Host: something that must be known once. ``command_id`` names the vote or notice it ends."""

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


@attrs.frozen
class Reply:
    """Host: how a command was taken. ``seconds`` is the window of the round that it opened."""

    TYPE: ClassVar[str] = "reply"
    command_id: Name
    ok: bool
    reason: Text = ""
    seconds: Period = 0


@attrs.frozen
class ActionProgress:
    """Host: a line of progress of an action that was commanded; ``line`` is JSON text."""

    TYPE: ClassVar[str] = "progress"
    command_id: Name
    line: str
    last: bool


@attrs.frozen
class Welcome:
    """Agent: who I am, and the number of the last report of this ``boot_id`` that I hold."""

    TYPE: ClassVar[str] = "welcome"
    protocol: Number
    agent: Name
    acknowledged: Number


@attrs.frozen
class Reporting:
    """Agent: whether losses and ill health are to be reported; ``uuid`` "" means the whole host."""

    TYPE: ClassVar[str] = "reporting"
    uuid: Name
    enabled: bool


@attrs.frozen
class RoundCommand:
    """Agent: open a vote or notice. Past ``deadline_s`` from its arrival it is not begun."""

    TYPE: ClassVar[str] = "round"
    command_id: Name
    uuid: Name
    event: Event
    vote: bool
    deadline_s: Patience


@attrs.frozen
class ActCommand:
    """Agent: perform an action; an empty ``command`` is the host's configured one."""

    TYPE: ClassVar[str] = "act"
    command_id: Name
    uuid: Name
    action: Name
    command: Command
    force: bool
    deadline_s: Patience


@attrs.frozen
class Ack:
    """Agent: every report up to this number is kept safe."""

    TYPE: ClassVar[str] = "ack"
    number: Number


@attrs.frozen
class Ping:
    """Either: are you there? Answered with the same number in ``pong``."""

    TYPE: ClassVar[str] = "ping"
    number: Number


@attrs.frozen
class Pong:
    """Either: I am."""

    TYPE: ClassVar[str] = "pong"
    number: Number


#: The reason of a host daemon that is told to stop: no fault of its machine.
STOPPING: Final = "stopping"


@attrs.frozen
class Goodbye:
    """Either: the session ends here, and why."""

    TYPE: ClassVar[str] = "goodbye"
    reason: Text


FromHost = (
    Hello
    | Instance
    | SnapshotEnd
    | Gone
    | LinkReport
    | Reply
    | ActionProgress
    | Ping
    | Pong
    | Goodbye
)
FromAgent = Welcome | Reporting | RoundCommand | ActCommand | Ack | Ping | Pong | Goodbye
LinkMessage = FromHost | FromAgent

FROM_HOST: tuple[type[FromHost], ...] = (
    Hello,
    Instance,
    SnapshotEnd,
    Gone,
    LinkReport,
    Reply,
    ActionProgress,
    Ping,
    Pong,
    Goodbye,
)
FROM_AGENT: tuple[type[FromAgent], ...] = (
    Welcome,
    Reporting,
    RoundCommand,
    ActCommand,
    Ack,
    Ping,
    Pong,
    Goodbye,
)
