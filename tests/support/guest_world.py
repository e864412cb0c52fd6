"""A guest on a test bench: memory channel, fake commands, fake clock, and the test as its host."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import count
from pathlib import Path

import attrs
import trio
import trio.testing

from hbtrio.fsm.guest_session import SessionSettings
from hbtrio.nursery.guest.daemon import Guest, GuestSetup
from hbtrio.nursery.guest.event_scripts import EventScripts
from hbtrio.nursery.guest.health_script import HealthScript
from hbtrio.nursery.guest.voters import Voters
from hbtrio.nursery.windows import Handler
from hbtrio.policy.health_merge import HealthStatus
from hbtrio.policy.time_guard import OnTimeGuard
from hbtrio.policy.voter_news import KnownVoter
from hbtrio.wire.channel_messages import ActionNotify, ActionResponse, Init, InitAck
from hbtrio.wire.vocabulary import CorrectiveAction, Event, NotificationType, VoteResult
from support.fake_processes import FakeProcesses, FakeRun, Moment
from support.fake_time import FakeTime
from support.memory_device import MemoryDevice, Received

#: The windows as shipped, but each of another length; a challenge may be away for ten minutes, so
#: that a test of a window has no other timers in it.
SETTINGS = SessionSettings(
    name="vm1",
    hb_min_timeout_ms=600_000,
    vote_s=8,
    shutdown_notice_s=7,
    suspend_notice_s=6,
    resume_notice_s=13,
    restart_s=300,
)

REVOCABLE, IRREVOCABLE = NotificationType.REVOCABLE, NotificationType.IRREVOCABLE
STOP_VOTE = ActionNotify(900, Event.STOP, REVOCABLE, 9000)
STOP_NOTICE = ActionNotify(901, Event.STOP, IRREVOCABLE, 8000)


@attrs.define
class Applications:
    """Voters with a health of their own."""

    states: list[HealthStatus] = attrs.field(factory=list)

    def handlers(self, notify: ActionNotify) -> Mapping[str, Handler]:
        """None: they have no say."""
        return {}

    def health(self) -> list[HealthStatus]:
        """As the test has set it."""
        return self.states

    def known(self) -> Sequence[KnownVoter]:
        """None."""
        return []


class GuestWorld(FakeTime):
    """A guest and everything around it.

    Args:
        settings: what it advertises.
        processes: what its scripts do; nothing is there by default.
        events: EVENT_NOTIFICATION_SCRIPT, a real file or directory.
        voters: instead of ``events``.
        health: HEALTH_CHECK_SCRIPT.
        health_interval_s: HEALTH_CHECK_INTERVAL. The other keys of the health script have their
            defaults.
        device: its channel; a unix socket by default.
        new_id: makes its ids; 101, 102, 103, ... by default.
        guard: its on-time guard, where somebody else has to have it too.
        failure_rejects: the events whose votes a voter that fails rejects.
    """

    def __init__(
        self,
        settings: SessionSettings = SETTINGS,
        *,
        processes: FakeProcesses | None = None,
        events: Path | None = None,
        voters: Voters | None = None,
        health: str | None = None,
        health_interval_s: float = 30.0,
        device: MemoryDevice | None = None,
        new_id: Callable[[], int] | None = None,
        guard: OnTimeGuard | None = None,
        failure_rejects: Collection[Event] = frozenset(),
    ) -> None:
        ids = count(101)
        self._failure_rejects = failure_rejects
        self.device = device or MemoryDevice()
        self.processes = processes or FakeProcesses({})
        self.setup = GuestSetup(
            device=self.device,
            voters=voters or self.scripts(events),
            session=settings,
            health_script=HealthScript(
                health, health_interval_s, self.processes, 2, CorrectiveAction.LOG
            ),
            new_id=new_id or (lambda: next(ids)),
            failure_rejects=failure_rejects,
        )
        self.guard = guard or OnTimeGuard(trio.current_time())
        self.guest = Guest(self.setup, self.guard)
        #: When ``run`` returned.
        self.ended_at: float | None = None

    def scripts(self, path: Path | None) -> EventScripts:
        """Voters for ``path``."""
        given = None if path is None else str(path)
        return EventScripts(given, self.processes, failure_rejects=self._failure_rejects)

    async def run(self) -> None:
        """Runs the guest to its end."""
        await self.guest.run()
        self.ended_at = round(trio.current_time(), 6)

    async def enable(self, nursery: trio.Nursery) -> None:
        """Starts the guest at 0.0 and has it enabled at 1.0; what it says is read up to there."""
        nursery.start_soon(self.run)
        heard = await self.device.next()
        assert isinstance(heard.message, Init)
        self.device.send(InitAck(heard.message.invocation_id))
        await trio.testing.wait_all_tasks_blocked()


def handlers(directory: Path, runs: Mapping[str, FakeRun]) -> FakeProcesses:
    """Executable files of these names in ``directory``, and commands that do what ``runs`` says."""
    for name in runs:
        (directory / name).touch(mode=0o755)
    return FakeProcesses({str(directory / name): run for name, run in runs.items()})


def response(notify: ActionNotify, result: VoteResult, reason: str = "") -> ActionResponse:
    """The answer to ``notify``."""
    return ActionResponse(
        notify.invocation_id, notify.event_type, notify.notification_type, result, reason
    )


def said(heard: list[Received]) -> list[tuple[float, object]]:
    """When and what, for comparing."""
    return [(one.at_s, one.message) for one in heard]


def when(moments: list[Moment]) -> list[tuple[float, str]]:
    """When which script, by name."""
    return [(round(moment.time_s, 6), Path(moment.argv[0]).name) for moment in moments]
