"""Runs EVENT_NOTIFICATION_SCRIPT as voters: one script, or all executables of a directory."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping, Sequence
from typing import Final

import attrs
import trio

from hbtrio.nursery.guest.app_requests import VoterRequest
from hbtrio.nursery.guest.scripts import ScriptVerdict, executables, run_script
from hbtrio.nursery.windows import Abstention, Answer, BallotWindow, Handler
from hbtrio.policy.health_merge import HealthStatus
from hbtrio.policy.voter_news import KnownVoter
from hbtrio.system.runner import ProcessRunner
from hbtrio.wire.channel_messages import ActionNotify
from hbtrio.wire.vocabulary import VoteResult

_log = logging.getLogger("hbtrio.scripts")

#: How long looking for the scripts may take, in seconds: the heartbeat waits for it.
_LOOK_S: Final = 0.25


class EventScripts:
    """The event scripts as voters.

    Args:
        path: EVENT_NOTIFICATION_SCRIPT, a file or a directory; None for no script.
        processes: runs the scripts.
    """

    def __init__(self, path: str | None, processes: ProcessRunner) -> None:
        self._path = path
        self._processes = processes
        #: The last vote or notice, by script.
        self._requests: dict[str, VoterRequest] = {}
        #: Looks for the scripts; it has not ended on a file system that hangs.
        self._looking: threading.Thread | None = None

    def handlers(self, notify: ActionNotify) -> Mapping[str, Handler]:
        """Makes one handler per script; see :class:`~hbtrio.nursery.guest.voters.Voters`."""
        if self._path is None:
            return {}
        self._requests = {}
        return {
            os.path.basename(script): _ScriptHandler(
                self._processes, script, notify, self._requests
            )
            for script in self._find(self._path)
        }

    def _find(self, path: str) -> list[str]:
        # A dead file server never answers: the heartbeat would stop, and TERM would go unheard. So
        # the path itself then counts as the script, and its exec hangs until the window ends.
        found: list[str] = []

        def look() -> None:
            found.extend(executables(path))

        if self._looking is None or not self._looking.is_alive():
            looking = threading.Thread(target=look, name="scripts", daemon=True)
            try:
                looking.start()
            except RuntimeError:  # no more threads are allowed
                look()
                return found
            looking.join(_LOOK_S)
            if not looking.is_alive():
                return found
            self._looking = looking
        _log.error("script %s: its file system does not answer", path)
        return [path]

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
