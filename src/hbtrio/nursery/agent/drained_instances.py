"""Looks whether the instances of an agent's drains are on their hosts, and how they are."""

from __future__ import annotations

from typing import Final, NoReturn

import trio

from hbtrio.fsm.drain_records import DrainRecord
from hbtrio.fsm.heartbeat.table import HeartbeatState
from hbtrio.nursery.agent.fleet import Fleet
from hbtrio.nursery.drain_site import Blocked, Gone, Skipped
from hbtrio.wire.vocabulary import ActionName

#: How long a host that has just started may take to tell how an instance is, in seconds.
SETTLES_S: Final = 10.0

#: Seconds between two looks at that.
_LOOK_S: Final = 0.25

#: The guest is challenged, and has not answered yet.
_UNSETTLED: Final = frozenset(
    state.shown for state in (HeartbeatState.WAITING, HeartbeatState.RETURNING)
)

#: Why an instance that no host has has its turn later once.
NOT_REPORTED: Final = "its host does not report it"


class DrainedInstances:
    """What is known of the instances.

    Args:
        fleet: has what hosts report.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        #: Those that no host had at their turn.
        self._missed: set[str] = set()
        #: Why an instance's action was refused at its last turn, by drain and uuid.
        self._refusals: dict[tuple[str, str], str] = {}

    def refusal(self, drain: str, uuid: str) -> str:
        """Returns why an instance's action was refused at its last turn; "" if it was not."""
        return self._refusals.get((drain, uuid), "")

    def refused(self, drain: str, uuid: str, reason: str) -> None:
        """Takes why an instance's action was refused; "": it was begun."""
        self._refusals[drain, uuid] = reason

    def ended(self, drain: str) -> None:
        """Takes that a drain has ended."""
        for key in [key for key in self._refusals if key[0] == drain]:
            del self._refusals[key]

    async def until_settled(self, uuid: str) -> None:
        """Waits until its host tells how an instance is, 10 s at most.

        After a restart of the host all guests are new to it: before its first answer to the host a
        guest would not be asked. Without a link there is nothing to wait for.
        """
        with trio.move_on_after(SETTLES_S):
            while not self._is_settled(uuid):  # noqa: ASYNC110 - a host's reports set no event
                await trio.sleep(_LOOK_S)

    def _is_settled(self, uuid: str) -> bool:
        session = self._fleet.sessions.get(self._fleet.host_of(uuid) or "")
        if session is None:
            return True
        known = session.instances.get(uuid)
        return known is not None and known.state not in _UNSETTLED

    def check(self, record: DrainRecord, uuid: str, hostname: str) -> None:
        """Returns if an instance is on its host.

        Raises:
            Blocked, Skipped, Gone: it is not.
        """
        match self._fleet.host_of(uuid):
            case None:
                self.missing(record, uuid)
            case elsewhere if elsewhere != hostname:
                _left(record)
            case _:
                self._missed.discard(uuid)

    def missing(self, record: DrainRecord, uuid: str) -> NoReturn:
        """Takes that no host has an instance: it may be there again soon, if its host starts.

        Raises:
            Blocked: for the first time.
            Skipped, Gone: after that.
        """
        if uuid in self._missed:
            _left(record)
        self._missed.add(uuid)
        raise Blocked(NOT_REPORTED)


def _left(record: DrainRecord) -> NoReturn:
    """An instance that left its host is done if the drain was to make it leave."""
    why = "it is no longer on its host"
    if record.rules.planned is not None or record.action in (ActionName.REBOOT, ActionName.RESIZE):
        raise Skipped(why)
    raise Gone(why)
