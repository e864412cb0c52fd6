"""Reads what libvirt says of a domain: its state, its meaning for a silent guest, and changes.

libvirt gives a state and a reason as numbers (``virsh domstats --state``).
:attr:`DomainState.words` names them as ``virsh domstate --reason`` does.
:attr:`DomainState.standing` reduces them to what matters here, and :func:`changes` compares two
answers.

Numbers are those of libvirt's ``virDomainState`` and ``virDomain*Reason`` enumerations. A later
libvirt may have more; an unlisted reason has the standing of its state.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

import attrs


class Standing(Enum):
    """What the state of a domain means for its guest.

    ``RUNNING`` is the only standing in which silence is the guest's own.
    """

    __hash__ = object.__hash__

    RUNNING = "running"  # the vCPUs run: silence is the guest's
    PAUSED = "paused"  # the vCPUs stand still; it may go on at any time
    PANICKED = "panicked"  # the guest's kernel has crashed, and the domain is kept for a dump
    ENDING = "ending"  # QEMU is about to end, by a shutdown or a destroy
    STOPPED = "stopped"  # ended on request: shut down, destroyed, saved, migrated away
    FAILED = "failed"  # ended without a request: QEMU crashed or was killed
    UNKNOWN = "unknown"  # libvirt knows the domain, but not its state


class DomainChange(Enum):
    """What happened to a domain between two answers."""

    __hash__ = object.__hash__

    STARTED = "started"  # a new QEMU process: nothing known of the old guest holds
    PAUSED = "paused"  # also: still paused, for another reason
    RESUMED = "resumed"
    PANICKED = "panicked"
    RESTARTED = "restarted"  # libvirt restarted it after a crash
    ENDING = "ending"
    STOPPED = "stopped"
    FAILED = "failed"


#: Standing and words by state, for reasons that are not listed below.
_STATES: Final = {
    0: (Standing.UNKNOWN, "no state"),
    1: (Standing.RUNNING, "running"),
    2: (Standing.RUNNING, "blocked"),
    3: (Standing.PAUSED, "paused"),
    4: (Standing.ENDING, "in shutdown"),
    5: (Standing.STOPPED, "shut off"),
    6: (Standing.PANICKED, "crashed"),
    7: (Standing.PAUSED, "suspended by its guest (pm)"),
}

_RUNNING, _PAUSED, _SHUT_OFF, _CRASHED = 1, 3, 5, 6

#: The reasons' words, by state and reason. 0 is "unknown" in every state and adds nothing.
_REASONS: Final = {
    (_RUNNING, 1): "booted",
    (_RUNNING, 2): "migrated",
    (_RUNNING, 3): "restored",
    (_RUNNING, 4): "from snapshot",
    (_RUNNING, 5): "unpaused",
    (_RUNNING, 6): "migration canceled",
    (_RUNNING, 7): "save canceled",
    (_RUNNING, 8): "event wakeup",
    (_RUNNING, 9): "crashed",
    (_RUNNING, 10): "post-copy",
    (_RUNNING, 11): "post-copy failed",
    (_PAUSED, 1): "user",
    (_PAUSED, 2): "migrating",
    (_PAUSED, 3): "saving",
    (_PAUSED, 4): "dumping",
    (_PAUSED, 5): "I/O error",
    (_PAUSED, 6): "watchdog",
    (_PAUSED, 7): "from snapshot",
    (_PAUSED, 8): "shutting down",
    (_PAUSED, 9): "creating snapshot",
    (_PAUSED, 10): "crashed",
    (_PAUSED, 11): "starting up",
    (_PAUSED, 12): "post-copy",
    (_PAUSED, 13): "post-copy failed",
    (_PAUSED, 14): "api error",
    (_SHUT_OFF, 1): "shutdown",
    (_SHUT_OFF, 2): "destroyed",
    (_SHUT_OFF, 3): "crashed",
    (_SHUT_OFF, 4): "migrated",
    (_SHUT_OFF, 5): "saved",
    (_SHUT_OFF, 6): "failed",
    (_SHUT_OFF, 7): "from snapshot",
    (_SHUT_OFF, 8): "daemon",
    (_CRASHED, 1): "panicked",
}

#: Reasons whose standing is not that of their state.
_STANDINGS: Final = {
    # After a panic and a reset the domain stands until somebody resumes it.
    (_PAUSED, 10): Standing.PANICKED,
    (_SHUT_OFF, 3): Standing.FAILED,
    (_SHUT_OFF, 6): Standing.FAILED,
}

#: Pauses that nobody asked for.
_ALARMING: Final = {(_PAUSED, 5), (_PAUSED, 6), (_PAUSED, 13), (_PAUSED, 14)}

_RESTARTED_AFTER_A_CRASH: Final = (_RUNNING, 9)

#: The words of a domain that runs since its start, which was no restore.
BOOTED: Final = "running: booted"

#: The words of a domain that was moved to another host and is still defined here.
MIGRATED: Final = "shut off: migrated"


@attrs.frozen
class DomainState:
    """An answer of libvirt about one domain.

    Args:
        state: ``state.state`` of ``virsh domstats --state``.
        reason: ``state.reason`` of the same.
        domain_id: libvirt's id of the running domain, another one at each start; -1 when shut off.
    """

    state: int
    reason: int
    domain_id: int = -1

    @property
    def standing(self) -> Standing:
        """What it means for the guest's silence."""
        default = _STATES.get(self.state, _STATES[0])[0]
        return _STANDINGS.get((self.state, self.reason), default)

    @property
    def words(self) -> str:
        """State and reason, such as ``paused: saving``, for status, events and ``{state}``."""
        state = _STATES.get(self.state, _STATES[0])[1]
        reason = _REASONS.get((self.state, self.reason))
        return f"{state}: {reason}" if reason else state

    @property
    def is_alarming(self) -> bool:
        """Whether it is paused because of a fault: an I/O error or a watchdog, for example."""
        return (self.state, self.reason) in _ALARMING


#: The change to a standing, whatever the domain was before, unless the rules below say otherwise.
_ARRIVALS: Final = {
    Standing.PAUSED: DomainChange.PAUSED,
    Standing.PANICKED: DomainChange.PANICKED,
    Standing.ENDING: DomainChange.ENDING,
    Standing.STOPPED: DomainChange.STOPPED,
    Standing.FAILED: DomainChange.FAILED,
}

_OFF: Final = frozenset({Standing.STOPPED, Standing.FAILED})


def changes(before: DomainState | None, after: DomainState) -> tuple[DomainChange, ...]:
    """Returns what happened between two answers, in the order in which it happened.

    Args:
        before: the answer before; None at the first, which shows no start and no return.
        after: the answer now.
    """
    if after == before or after.standing is Standing.UNKNOWN:
        return ()
    new_process = (
        before is not None
        and after.standing not in _OFF
        and (before.standing in _OFF or _other_process(before, after))
    )
    started = (DomainChange.STARTED,) if new_process else ()
    if after.standing is not Standing.RUNNING:
        # What ended and was seen ended before has not ended again.
        if before is not None and {before.standing, after.standing} <= _OFF:
            return ()
        return (*started, _ARRIVALS[after.standing])
    if started or before is None:
        return started
    if before.standing is Standing.PANICKED or _restarted(before, after):
        return (DomainChange.RESTARTED,)
    return (DomainChange.RESUMED,) if before.standing is Standing.PAUSED else ()


def _other_process(before: DomainState, after: DomainState) -> bool:
    return before.domain_id >= 0 <= after.domain_id != before.domain_id


def _restarted(before: DomainState, after: DomainState) -> bool:
    states = ((before.state, before.reason), (after.state, after.reason))
    return states[1] == _RESTARTED_AFTER_A_CRASH != states[0]
