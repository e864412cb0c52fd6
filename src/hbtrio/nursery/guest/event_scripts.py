"""Runs EVENT_NOTIFICATION_SCRIPT as voters: one script, or all executables of a directory."""

from __future__ import annotations

import os
from collections.abc import Mapping

import attrs

from hbtrio.nursery.guest.scripts import ScriptVerdict, executables, run_script
from hbtrio.nursery.windows import Abstention, Answer, BallotWindow, Handler
from hbtrio.policy.health_merge import HealthStatus
from hbtrio.system.runner import ProcessRunner
from hbtrio.wire.channel_messages import ActionNotify
from hbtrio.wire.vocabulary import VoteResult


class EventScripts:
    """The event scripts as voters.

    Args:
        path: EVENT_NOTIFICATION_SCRIPT, a file or a directory; None for no script.
        processes: runs the scripts.
    """

    def __init__(self, path: str | None, processes: ProcessRunner) -> None:
        self._path = path
        self._processes = processes

    def handlers(self, notify: ActionNotify) -> Mapping[str, Handler]:
        """Makes one handler per script; see :class:`~hbtrio.nursery.guest.voters.Voters`."""
        if self._path is None:
            return {}
        argument = (str(notify.notification_type), str(notify.event_type))
        return {
            os.path.basename(script): _ScriptHandler(self._processes, (script, *argument))
            for script in executables(self._path)
        }

    def health(self) -> list[HealthStatus]:
        """Returns nothing: event scripts have no health."""
        return []


@attrs.frozen
class _ScriptHandler:
    processes: ProcessRunner
    argv: tuple[str, ...]

    async def __call__(self, _: BallotWindow) -> Answer | Abstention:
        answer = await run_script(self.processes, self.argv)
        match answer.verdict:
            case ScriptVerdict.OK:
                return Answer(VoteResult.ACCEPT, answer.reason)
            case ScriptVerdict.REFUSED:
                return Answer(VoteResult.REJECT, answer.reason)
            case ScriptVerdict.NO_ANSWER:
                return Abstention(answer.reason)
