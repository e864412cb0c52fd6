"""Reads the clock by which commands expire."""

from __future__ import annotations

import time
import uuid

from hbtrio.policy.begin_by import ProcessClock


def boot_clock() -> float:
    """Returns CLOCK_BOOTTIME in seconds.

    It is never set, unlike the wall clock, and it does not stop while the machine sleeps, unlike
    trio's clock: a command must not get older by a step of the one, nor stay young by a stop of the
    other.
    """
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def machine_boot_id() -> str:
    """Returns the kernel's id of this boot of the machine; "" if it can't be read.

    With "" two runs of a process can't be told to be of one boot.
    """
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except (OSError, ValueError):
        return ""


def process_clock() -> ProcessClock:
    """Makes this process's clock, with a new id; called once per process."""
    return ProcessClock(boot_clock, str(uuid.uuid4()))
