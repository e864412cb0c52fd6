"""Runs EVENT_NOTIFICATION_SCRIPT as voters: one script, or all executables of a directory."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence

import attrs
import trio

from hbtrio.nursery.guest.app_requests import VoterRequest
from hbtrio.nursery.guest.script_search import ScriptSearch, Search
from hbtrio.nursery.guest.scripts import ScriptVerdict, run_script
from hbtrio.nursery.windows import Abstention, Answer, BallotWindow, Handler
from hbtrio.policy.health_merge import HealthStatus
from hbtrio.policy.voter_news import KnownVoter
from hbtrio.system.runner import ProcessRunner
from hbtrio.wire.channel_messages import ActionNotify
from hbtrio.wire.vocabulary import VoteResult

_log = logging.getLogger("hbtrio.scripts")


class EventScripts:
    """The event scripts as voters.

    Args:
        path: EVENT_NOTIFICATION_SCRIPT, a file or a directory; None for no script.
        processes: runs the scripts.
        search: makes what looks for the scripts of a path.
    """

    def __init__(
        self, path: str | None, processes: ProcessRunner, search: Search = ScriptSearch
    ) -> None:
        self._path = path
        self._find = None if path is None else search(path)
        self._processes = processes
        #: The last vote or notice, by script.
        self._requests: dict[str, VoterRequest] = {}

    def handlers(self, notify: ActionNotify) -> Mapping[str, Handler]:
        """Makes one handler per script; see :class:`~hbtrio.nursery.guest.voters.Voters`."""
        if self._find is None:
            return {}
        self._requests = {}
        return {
            os.path.basename(script): _ScriptHandler(
                self._processes, script, notify, self._requests
            )
            for script in self._find()
        }

    def health(self) -> list[HealthStatus]:
        """Returns nothing: event scripts have no health."""
        return []

    def known(self) -> Sequence[KnownVoter]:
        """Returns the scripts of the last vote or notice, and before the first one the path."""
        if self._path is None:
            return []
        if not self._requests:
            return [KnownVoter(os.path.basename(self._path.rstrip("/")))]
        return [KnownVoter(name, last=one.last()) for name, one in self._requests.items()]


@attrs.frozen
class _ScriptHandler:
    processes: ProcessRunner
    path: str
    notify: ActionNotify
    requests: dict[str, VoterRequest]

    async def __call__(self, _: BallotWindow) -> Answer | Abstention:
        request = VoterRequest(self.notify, trio.current_time())
        self.requests[os.path.basename(self.path)] = request
        answer = None
        try:
            answer = await self._run()
        finally:
            request.close(answer if isinstance(answer, Answer) else None)
        return answer

    async def _run(self) -> Answer | Abstention:
        notify = self.notify
        argv = (self.path, str(notify.notification_type), str(notify.event_type))
        answer = await run_script(self.processes, argv)
        match answer.verdict:
            case ScriptVerdict.OK:
                return Answer(VoteResult.ACCEPT, answer.reason)
            case ScriptVerdict.REFUSED:
                return Answer(VoteResult.REJECT, answer.reason)
            case ScriptVerdict.NO_ANSWER:
                return Abstention(answer.reason)
