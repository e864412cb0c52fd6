"""Runs EVENT_NOTIFICATION_SCRIPT as voters: one script, or all executables of a directory."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Collection, Mapping, Sequence
from typing import Final

import msgspec
import trio

from hbtrio.nursery.guest.app_requests import VoterRequest
from hbtrio.nursery.guest.extend_lines import VARIABLE, ExtendLines
from hbtrio.nursery.guest.script_search import ScriptSearch, Search
from hbtrio.nursery.guest.scripts import ScriptVerdict, run_script
from hbtrio.nursery.windows import Abstention, Answer, BallotWindow, Handler
from hbtrio.policy.health_merge import HealthStatus
from hbtrio.policy.more_time import Grant
from hbtrio.policy.voter_news import KnownVoter
from hbtrio.system.runner import ProcessRunner
from hbtrio.system.side_pipe import SidePipe
from hbtrio.wire.channel_messages import ActionNotify
from hbtrio.wire.vocabulary import Event, NotificationType, VoteResult

_log = logging.getLogger("hbtrio.scripts")

#: The variable with the planned time in the environment of a script, in seconds since the epoch;
#: not there if the event is not planned.
PLANNED_AT: Final = "HBTRIO_PLANNED_AT"


class EventScripts:
    """The event scripts as voters.

    Args:
        path: EVENT_NOTIFICATION_SCRIPT, a file or a directory; None for no script.
        processes: runs the scripts.
        search: makes what looks for the scripts of a path.
        failure_rejects: the events whose votes a path without a script rejects; else nobody is
            asked then.
    """

    def __init__(
        self,
        path: str | None,
        processes: ProcessRunner,
        search: Search = ScriptSearch,
        failure_rejects: Collection[Event] = frozenset(),
    ) -> None:
        self._path = path
        self._find = None if path is None else search(path)
        self._processes = processes
        self._failure_rejects = failure_rejects
        #: The last vote or notice, by script.
        self._requests: dict[str, VoterRequest] = {}

    def handlers(self, notify: ActionNotify) -> Mapping[str, Handler]:
        """Makes one handler per script; see :class:`~hbtrio.nursery.guest.voters.Voters`."""
        if self._path is None or self._find is None:
            return {}
        self._requests = {}
        found = self._find()
        is_vote = notify.notification_type is NotificationType.REVOCABLE
        if not found and is_vote and notify.event_type in self._failure_rejects:
            return {_name(self._path): _find_nothing}
        return {
            os.path.basename(script): _ScriptHandler(
                self._processes, script, notify, self._requests
            )
            for script in found
        }

    def health(self) -> list[HealthStatus]:
        """Returns nothing: event scripts have no health."""
        return []

    def known(self) -> Sequence[KnownVoter]:
        """Returns the scripts of the last vote or notice, and before the first one the path."""
        if self._path is None:
            return []
        if not self._requests:
            return [KnownVoter(_name(self._path))]
        return [KnownVoter(name, last=one.last()) for name, one in self._requests.items()]


def _name(path: str) -> str:
    return os.path.basename(path.rstrip("/"))


async def _find_nothing(_: BallotWindow) -> Abstention:
    return Abstention("could not be run: there is no script")


def _ignore(_: Grant) -> None:
    pass


class _ScriptHandler(msgspec.Struct, frozen=True):
    processes: ProcessRunner
    path: str
    notify: ActionNotify
    requests: dict[str, VoterRequest]

    async def __call__(self, window: BallotWindow) -> Answer | Abstention:
        request = VoterRequest(self.notify, trio.current_time())
        self.requests[os.path.basename(self.path)] = request
        answer = None
        try:
            answer = await self._run(window)
        finally:
            request.close(answer if isinstance(answer, Answer) else None)
        return answer

    async def _run(self, window: BallotWindow) -> Answer | Abstention:
        notify = self.notify
        argv = (self.path, str(notify.notification_type), str(notify.event_type))
        name = os.path.basename(self.path)
        # A script is not told what it was granted; it is cancelled at the end of the window.
        lines = ExtendLines(
            self.path, lambda seconds: window.ask_time(name, seconds, math.inf, _ignore)
        )
        side = SidePipe(VARIABLE, lines.feed)
        env = {PLANNED_AT: str(notify.planned_at)} if notify.planned_at else None
        answer = await run_script(self.processes, argv, side, env)
        match answer.verdict:
            case ScriptVerdict.OK:
                return Answer(VoteResult.ACCEPT, answer.reason)
            case ScriptVerdict.REFUSED:
                return Answer(VoteResult.REJECT, answer.reason)
            case ScriptVerdict.NO_ANSWER:
                return Abstention(answer.reason)
