"""Runs the guest daemon: channel, session, health script and windows.

    guest
      time            the on-time guard
      session         sleeps until the session's deadline
      channel         opens the device, reads, and reopens it
        writer        sends the queued messages
      health          runs the health script
      action          one per open vote or notice: its window with its handlers

The session machine decides what to send; this module carries it out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

import msgspec
import trio

from hbtrio.fsm.guest_session import GuestSession, SessionSettings
from hbtrio.nursery.guest.channel import GuestChannel
from hbtrio.nursery.guest.device import Device
from hbtrio.nursery.guest.health import GuestHealth
from hbtrio.nursery.guest.health_script import HealthScript
from hbtrio.nursery.guest.outbox import Outbox
from hbtrio.nursery.guest.rounds import GuestRounds
from hbtrio.nursery.guest.session_driver import SessionDriver
from hbtrio.nursery.guest.voters import Voters
from hbtrio.nursery.time_guard import GuardRunner, run_guard, take_in
from hbtrio.policy.time_guard import FAR_S, OnTimeGuard
from hbtrio.wire.vocabulary import Event

#: Seconds that the farewell may take on a channel that the host does not read.
_FAREWELL_S: Final = 1.0


class GuestSetup(msgspec.Struct, frozen=True):
    """What a guest is made of: device, voters, settings and id source.

    ``failure_rejects`` are the events whose votes a voter that fails rejects.
    """

    device: Device
    voters: Voters
    session: SessionSettings
    health_script: HealthScript
    new_id: Callable[[], int]
    failure_rejects: Collection[Event] = frozenset()


class Guest:
    """The guest daemon; its command handles signals and files.

    Args:
        setup: its device, voters and settings.
        guard: the process's on-time guard; :meth:`run` ticks it.
        run_guard: ticks it.
    """

    def __init__(
        self, setup: GuestSetup, guard: OnTimeGuard, run_guard: GuardRunner = run_guard
    ) -> None:
        self._guard = guard
        self._run_guard = run_guard
        self._outbox = Outbox()
        self._health = GuestHealth(setup.health_script, setup.session.corrective_action, guard)
        self._rounds = GuestRounds(setup.voters, setup.failure_rejects, self._outbox, guard)
        session = GuestSession(setup.session, new_id=setup.new_id, now=trio.current_time())
        self._driver = SessionDriver(session, self._outbox, self._health, self._rounds, guard)
        self._channel = GuestChannel(setup.device, self._outbox, self._driver)
        self._stopping = trio.Event()

    @property
    def session(self) -> GuestSession:
        """The session with the host."""
        return self._driver.session

    async def run(self) -> None:
        """Runs until :meth:`stop` or cancellation; cancelled, it sends the host no farewell."""
        async with self._rounds.tasks.running(), trio.open_nursery() as nursery:
            nursery.start_soon(self._run_guard, self._guard, self._resting)
            nursery.start_soon(self._driver.run)
            nursery.start_soon(self._channel.run)
            nursery.start_soon(self._health.run)
            await self._stopping.wait()
            if not self._driver.stopped:
                # A guest that was stopped may find the signal before an application's reject, and
                # a vote that is given up counts as consent. Its handlers read.
                await take_in(())
                self._driver.stop()
            with trio.move_on_after(_FAREWELL_S):
                await self._outbox.flushed()
            nursery.cancel_scope.cancel()

    def stop(self) -> None:
        """Ends the session with a farewell to the host, and :meth:`run`.

        Answers to an open vote or notice that have arrived are read first.
        """
        if not self._stopping.is_set():
            self._stopping.set()
            if not self._rounds.tasks.count:
                self._driver.stop()

    def reload(self, setup: GuestSetup) -> None:
        """Applies a reloaded configuration, except the device, and sends the host a new init."""
        self._rounds.voters = setup.voters
        self._rounds.failure_rejects = setup.failure_rejects
        self._health.reload(setup.health_script, setup.session.corrective_action)
        self._driver.reload(setup.session)

    def reject_withdrawn(self, event: Event, name: str) -> None:
        """Tells the host, if it wants to know, that a voter would not reject an event any more."""
        if not self._driver.stopped:
            self._driver.reject_withdrawn(event, name)

    def _resting(self) -> bool:
        """Returns whether no timeout is near: of the session, a window, a script or an application.

        The session's is put off by each challenge, so a guest that beats rests, too.
        """
        now = trio.current_time()
        is_far = self.session.timeout_from(now) - now >= FAR_S
        at_work = self._rounds.tasks.count or self._health.script_runs
        return is_far and not at_work and not self._rounds.voters.health()
