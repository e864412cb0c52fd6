"""The one schema of the operator API of host and agent: every body, line and error.

The daemons build these structs and encode them, ``hbtrio ctl`` decodes them, and the agent's
OpenAPI document is generated from them. One noun each:

* :mod:`~hbtrio.wire.operator.words`: the types of members, with their units, ranges and words;
* :mod:`~hbtrio.wire.operator.requests`: what clients send;
* :mod:`~hbtrio.wire.operator.host`: a host's status;
* :mod:`~hbtrio.wire.operator.groups`: groups, in both statuses;
* :mod:`~hbtrio.wire.operator.hold`: holds on instances;
* :mod:`~hbtrio.wire.operator.files`: certificates and tokens, in both statuses;
* :mod:`~hbtrio.wire.operator.fleet`: an agent's status, and its answers to changes;
* :mod:`~hbtrio.wire.operator.detail`: all about one instance;
* :mod:`~hbtrio.wire.operator.events`: lines about events, and the history;
* :mod:`~hbtrio.wire.operator.filter`: which of them a client asks for;
* :mod:`~hbtrio.wire.operator.progress`: lines about votes, notices and actions;
* :mod:`~hbtrio.wire.operator.drain`: drains, their instances and their progress;
* :mod:`~hbtrio.wire.operator.tree`: the tasks of a daemon;
* :mod:`~hbtrio.wire.operator.codec`: bytes from structs, and structs from bytes;
* :mod:`~hbtrio.wire.operator.components`: the schemas of the OpenAPI document.
"""

from hbtrio.wire.operator.codec import (
    ReplyFault,
    encode,
    encode_line,
    parse,
    parse_detail,
    parse_event,
    parse_status,
)
from hbtrio.wire.operator.detail import (
    CorrectiveLine,
    FleetInstanceDetail,
    InstanceDetail,
    LookLine,
    NextLossLine,
    VoterLine,
    VoterRequestLine,
)
from hbtrio.wire.operator.drain import (
    DrainBody,
    DrainInstanceLine,
    DrainLine,
    DrainList,
    DrainRequest,
    PlanRequest,
)
from hbtrio.wire.operator.events import (
    AnyEventLine,
    EventLine,
    FleetEventLine,
    History,
    WholeHistory,
)
from hbtrio.wire.operator.files import CertificateLine, FilesLine
from hbtrio.wire.operator.filter import EventFilter, FilterFault
from hbtrio.wire.operator.fleet import (
    AgentLine,
    AlarmsReply,
    ClockReply,
    DeliveryLine,
    FleetHostLine,
    FleetInstanceLine,
    FleetStatus,
    Forgotten,
    Refusal,
    UnregisteredLine,
)
from hbtrio.wire.operator.groups import GroupLine, MemberLine
from hbtrio.wire.operator.hold import HoldLine, HoldReply
from hbtrio.wire.operator.host import (
    DomainLine,
    EventsFaultLine,
    HostLine,
    HostLinkLine,
    InstanceLine,
    LibvirtLine,
    MemoryLine,
    OverloadLine,
    PlannedLine,
    PolicyLine,
    RoundEntry,
    Status,
)
from hbtrio.wire.operator.progress import ProgressLine
from hbtrio.wire.operator.requests import (
    ActRequest,
    Alarms,
    AlarmsRequest,
    HoldRequest,
    NoticeRequest,
    VoteRequest,
)
from hbtrio.wire.operator.tree import TaskLine, TaskTree

__all__ = [
    "ActRequest",
    "AgentLine",
    "Alarms",
    "AlarmsReply",
    "AlarmsRequest",
    "AnyEventLine",
    "CertificateLine",
    "ClockReply",
    "CorrectiveLine",
    "DeliveryLine",
    "DomainLine",
    "DrainBody",
    "DrainInstanceLine",
    "DrainLine",
    "DrainList",
    "DrainRequest",
    "EventFilter",
    "EventLine",
    "EventsFaultLine",
    "FilesLine",
    "FilterFault",
    "FleetEventLine",
    "FleetHostLine",
    "FleetInstanceDetail",
    "FleetInstanceLine",
    "FleetStatus",
    "Forgotten",
    "GroupLine",
    "History",
    "HoldLine",
    "HoldReply",
    "HoldRequest",
    "HostLine",
    "HostLinkLine",
    "InstanceDetail",
    "InstanceLine",
    "LibvirtLine",
    "LookLine",
    "MemberLine",
    "MemoryLine",
    "NextLossLine",
    "NoticeRequest",
    "OverloadLine",
    "PlanRequest",
    "PlannedLine",
    "PolicyLine",
    "ProgressLine",
    "Refusal",
    "ReplyFault",
    "RoundEntry",
    "Status",
    "TaskLine",
    "TaskTree",
    "UnregisteredLine",
    "VoteRequest",
    "VoterLine",
    "VoterRequestLine",
    "WholeHistory",
    "encode",
    "encode_line",
    "parse",
    "parse_detail",
    "parse_event",
    "parse_status",
]
