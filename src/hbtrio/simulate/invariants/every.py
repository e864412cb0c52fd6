"""The list of all invariants."""

from __future__ import annotations

from typing import Final

from hbtrio.simulate.invariant import Invariant
from hbtrio.simulate.invariants.acting import (
    CommandRetried,
    FrozenNotActed,
    LostCorrected,
)
from hbtrio.simulate.invariants.drains import DrainBounded
from hbtrio.simulate.invariants.fleet_groups import FleetGroupKept
from hbtrio.simulate.invariants.groups import GroupKept
from hbtrio.simulate.invariants.holds import HoldKept
from hbtrio.simulate.invariants.losses import HealthyNotLost, HungReported
from hbtrio.simulate.invariants.notices import NoNoticeAfterReject, NoticeEnded
from hbtrio.simulate.invariants.owners import OneOwner
from hbtrio.simulate.invariants.plans import PlanKept
from hbtrio.simulate.invariants.processes import (
    MemoryBounded,
    NoCrash,
    NothingOutlives,
    NothingStale,
    WellInTheEnd,
)
from hbtrio.simulate.invariants.verdicts import (
    DecidedOnce,
    HistoryAgrees,
    OneVerdict,
    RejectKept,
    VerdictOnce,
)

INVARIANTS: Final[tuple[type[Invariant], ...]] = (
    HealthyNotLost,
    FrozenNotActed,
    HungReported,
    OneVerdict,
    VerdictOnce,
    DecidedOnce,
    RejectKept,
    NoNoticeAfterReject,
    NoticeEnded,
    OneOwner,
    CommandRetried,
    LostCorrected,
    GroupKept,
    FleetGroupKept,
    HoldKept,
    DrainBounded,
    PlanKept,
    NothingStale,
    HistoryAgrees,
    NothingOutlives,
    MemoryBounded,
    NoCrash,
    WellInTheEnd,
)
