"""The guest's health: that of its script and of its applications, as one answer to a challenge."""

from __future__ import annotations

import logging
from functools import partial
from typing import Final

import trio

from hbtrio.nursery.guest.health_script import HealthScript
from hbtrio.nursery.guest.scripts import ScriptAnswer, ScriptVerdict
from hbtrio.nursery.wakeup import WakeUp
from hbtrio.policy.health_merge import HealthMerge, HealthStatus
from hbtrio.policy.quota import Quota
from hbtrio.policy.time_guard import OnTimeGuard
from hbtrio.wire.channel_messages import ChallengeResponse
from hbtrio.wire.vocabulary import CorrectiveAction, Health

_log = logging.getLogger("hbtrio.guest")

#: Corrective actions asked for that have a line in the log in a minute; a health that changes with
#: every beat asks for one with every beat.
_REQUESTS: Final = 10


class GuestHealth:
    """Runs the health script and answers challenges.

    Args:
        script: HEALTH_CHECK_SCRIPT.
        action: CORRECTIVE_ACTION, which the script's ill health asks for.
        guard: the process's on-time guard.
    """

    def __init__(self, script: HealthScript, action: CorrectiveAction, guard: OnTimeGuard) -> None:
        self._script = script
        self._merge = HealthMerge(action)
        self._guard = guard
        self._reloaded = WakeUp()
        self._requests = Quota(_REQUESTS, 60.0)

    async def run(self) -> None:
        """Runs the script, again and again, until cancelled."""
        while True:
            script = self._script
            async with trio.open_nursery() as nursery:
                nursery.start_soon(script.run, partial(self._judged, script), self._guard)
                await self._reloaded.wait()
                nursery.cancel_scope.cancel()

    def reload(self, script: HealthScript, action: CorrectiveAction) -> None:
        """Takes another script and action; what the script before said is forgotten."""
        self._merge.configured = action
        self._merge.forget_script()
        self._script = script
        self._reloaded.set()

    def answer(
        self, number: int, applications: list[HealthStatus], now: float
    ) -> ChallengeResponse:
        """The answer to a challenge.

        Args:
            number: the challenge.
            applications: their health at this moment.
            now: trio's time.
        """
        report = self._merge.report(applications, now)
        asks = report.health is Health.UNHEALTHY and report.action.is_actionable
        # Not left to those who are ill: their lines may have been too many to be shown.
        if asks and self._requests.take(now):
            _log.warning("asking the host for %s: %s", report.action, report.reason)
        return ChallengeResponse(number, report.health, report.action, report.reason)

    def _judged(self, script: HealthScript, answer: ScriptAnswer) -> None:
        # A run may end in the moment of a reload, before it can be cancelled.
        if script is self._script:
            self._merge.script_result(
                healthy=answer.verdict is ScriptVerdict.OK, reason=answer.reason
            )
