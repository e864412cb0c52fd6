"""Merges the health of the guest's script and applications into one answer to a challenge."""

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

#: Requests for a corrective action that are logged per minute: a health that changes with every
#: challenge makes a request with every challenge.
_REQUESTS: Final = 10


class GuestHealth:
    """Runs the health script and answers challenges.

    Args:
        script: HEALTH_CHECK_SCRIPT.
        action: CORRECTIVE_ACTION, requested while the script reports ill health. The action for a
            script that hangs is the script's own.
        guard: the process's on-time guard.
    """

    def __init__(self, script: HealthScript, action: CorrectiveAction, guard: OnTimeGuard) -> None:
        self._script = script
        self._merge = HealthMerge(action)
        self._guard = guard
        self._reloaded = WakeUp()
        self._requests = Quota(_REQUESTS, 60.0)

    @property
    def script_runs(self) -> bool:
        """Whether a run of the script is in progress, which may time out."""
        return self._script.is_running

    async def run(self) -> None:
        """Runs the script at its interval until cancelled."""
        while True:
            script = self._script
            async with trio.open_nursery() as nursery:
                nursery.start_soon(
                    script.run,
                    partial(self._script_ended, script),
                    partial(self._script_hung, script),
                    self._guard,
                )
                await self._reloaded.wait()
                nursery.cancel_scope.cancel()

    def reload(self, script: HealthScript, action: CorrectiveAction) -> None:
        """Replaces script and action; the result of the old script is forgotten."""
        self._merge.configured = action
        self._merge.forget_script()
        self._script = script
        self._reloaded.set()

    def answer(
        self, number: int, applications: list[HealthStatus], now: float, *, named: bool
    ) -> ChallengeResponse:
        """Makes the answer to a challenge.

        Args:
            number: the number of the challenge.
            applications: the present health of the applications.
            now: the time on trio's clock.
            named: whether to report the reasons of all that are ill, with their names.
        """
        report = self._merge.report(applications, now)
        requests = report.health is Health.UNHEALTHY and report.action.is_actionable
        # Logged here, because lines about ill applications may have exceeded their bound.
        if requests and self._requests.take(now):
            _log.warning("asking the host for %s: %s", report.action, report.named_reason)
        reason = report.named_reason if named else report.reason
        return ChallengeResponse(number, report.health, report.action, reason)

    def _script_ended(self, script: HealthScript, answer: ScriptAnswer) -> None:
        # A run may end during a reload, before it is cancelled.
        if script is self._script:
            self._merge.script_result(
                healthy=answer.verdict is ScriptVerdict.OK, reason=answer.reason
            )

    def _script_hung(self, script: HealthScript, status: HealthStatus) -> None:
        if script is self._script:
            self._merge.script_hung(status)
