"""A loss or an absence that is not reported before libvirt was asked for the state of the VM."""

from __future__ import annotations

from enum import Enum

import attrs


class Ground(Enum):
    """What the suspicion is founded on."""

    SILENT = "too many challenges missed"
    OVERDUE = "not back within RESTART"
    NO_GUEST = "no guest came in time"
    PANICKED = "libvirt says that the guest's kernel has panicked"


@attrs.frozen
class Suspicion:
    """The suspicion that an instance is lost, or that no guest is there.

    An answer, an ``init`` or any change of the instance's state ends it.
    """

    ground: Ground
    reason: str
