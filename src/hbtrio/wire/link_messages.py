"""What a host and its agent say to each other: JSON lines, each with a ``type``.

A session: the host says ``hello``, then an ``instance`` for each of its instances, then
``snapshot_end``. From there on the host sends ``instance`` and ``gone`` as things change, ``report``
with a number that grows for as long as the host process lives, and a ``reply`` to each command. The
agent says ``welcome``, tells the reporting states, sends commands and ``ack``s reports. A report that
was not acknowledged is sent again after a reconnect.
"""

from __future__ import annotations

from typing import ClassVar

import attrs

from hbtrio.wire.vocabulary import CorrectiveAction, Event, Health, VoteResult

#: Both ends say it; another is refused with a ``goodbye`` that names both.
PROTOCOL = 1


@attrs.frozen
class Hello:
    """Host: who I am. ``boot_id`` is new for each start of the host process.

    ``first_report`` is the number of the oldest report it still holds, or of the next one.
    """

    TYPE: ClassVar[str] = "hello"
    protocol: int
    hostname: str
    host_uuid: str
    boot_id: str
    version: str
    first_report: int


@attrs.frozen
class Instance:
    """Host: an instance as it is now, sent in the snapshot and at each change.

    The windows are what the guest advertised, in seconds, within the host's limits.
    """

    TYPE: ClassVar[str] = "instance"
    uuid: str
    name: str
    state: str
    heartbeating: bool
    health: Health
    corrective_action: CorrectiveAction
    interval_ms: int
    vote_s: int
    shutdown_notice_s: int
    suspend_notice_s: int
    resume_notice_s: int
    restart_s: int


@attrs.frozen
class SnapshotEnd:
    """Host: these were all; instances that the agent knew of and did not hear of are gone."""

    TYPE: ClassVar[str] = "snapshot_end"
    count: int


@attrs.frozen
class Gone:
    """Host: the instance's channel is no longer on this host."""

    TYPE: ClassVar[str] = "gone"
    uuid: str
    reason: str


@attrs.frozen
class LinkReport:
    """Host: something that must be known once. ``command_id`` names the vote or notice it ends."""

    TYPE: ClassVar[str] = "report"
    number: int
    time: str
    kind: str
    uuid: str
    reason: str
    event: Event | None = None
    result: VoteResult | None = None
    corrective_action: CorrectiveAction | None = None
    command_id: str = ""


@attrs.frozen
class Reply:
    """Host: how a command was taken. For a round ``seconds`` is its window, 0 if none was opened."""

    TYPE: ClassVar[str] = "reply"
    command_id: str
    ok: bool
    reason: str = ""
    seconds: int = 0


@attrs.frozen
class Progress:
    """Host: a line of progress of an action that was commanded; ``line`` is JSON text."""

    TYPE: ClassVar[str] = "progress"
    command_id: str
    line: str
    last: bool


@attrs.frozen
class Welcome:
    """Agent: who I am, and the number of the last report of this ``boot_id`` that I hold."""

    TYPE: ClassVar[str] = "welcome"
    protocol: int
    agent: str
    acknowledged: int


@attrs.frozen
class Reporting:
    """Agent: whether losses and ill health are to be reported; ``uuid`` "" means the whole host."""

    TYPE: ClassVar[str] = "reporting"
    uuid: str
    enabled: bool


@attrs.frozen
class RoundCommand:
    """Agent: open a vote or notice. Past ``deadline_s`` from its arrival it is not begun."""

    TYPE: ClassVar[str] = "round"
    command_id: str
    uuid: str
    event: Event
    vote: bool
    deadline_s: float


@attrs.frozen
class ActCommand:
    """Agent: perform an action; an empty ``command`` is the host's configured one."""

    TYPE: ClassVar[str] = "act"
    command_id: str
    uuid: str
    action: str
    command: tuple[str, ...]
    force: bool
    deadline_s: float


@attrs.frozen
class Ack:
    """Agent: every report up to this number is kept safe."""

    TYPE: ClassVar[str] = "ack"
    number: int


@attrs.frozen
class Ping:
    """Either: are you there? Answered with the same number in ``pong``."""

    TYPE: ClassVar[str] = "ping"
    number: int


@attrs.frozen
class Pong:
    """Either: I am."""

    TYPE: ClassVar[str] = "pong"
    number: int


@attrs.frozen
class Goodbye:
    """Either: the session ends here, and why."""

    TYPE: ClassVar[str] = "goodbye"
    reason: str


FromHost = (
    Hello | Instance | SnapshotEnd | Gone | LinkReport | Reply | Progress | Ping | Pong | Goodbye
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
    Progress,
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
