"""How VMs end and why they are paused, in libvirt's numbers and words."""

from __future__ import annotations

from enum import Enum

from hbtrio.simulate.observations import Condition


class Ending(Enum):
    """How a QEMU ends: libvirt's reason of the shut off domain, and what its event says."""

    SHUTDOWN = (1, "Stopped Shutdown")
    DESTROYED = (2, "Stopped Destroyed")
    CRASHED = (3, "Stopped Failed")
    MIGRATED = (4, "Stopped Migrated")
    SAVED = (5, "Stopped Saved")


class Pause(Enum):
    """Why a VM is paused: libvirt's reason, and what is observed of it."""

    USER = (1, Condition.VM_PAUSED)
    MIGRATING = (2, Condition.VM_MIGRATING)
    SAVING = (3, Condition.VM_SAVING)
