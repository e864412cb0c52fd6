"""The one health that a guest reports, merged from its applications and its health script.

Applications decide first: among the unhealthy ones the strongest corrective action wins. If all of
them are healthy the health script decides, with the configured action. If both are unhealthy, the
stronger action and its message count (PROTOCOL.md, guest health).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import attrs

from hbtrio.wire.vocabulary import CorrectiveAction, Health

#: An illness that lasts asks for its action again after this long; in between it asks for none.
REPEAT_S: Final = 60.0


@attrs.frozen
class HealthStatus:
    """The health of one source: an application or the script.

    ``action`` and ``reason`` matter only while it is unhealthy.
    """

    healthy: bool
    action: CorrectiveAction = CorrectiveAction.NONE
    reason: str = ""


@attrs.frozen
class HealthReport:
    """What goes into the next challenge response."""

    health: Health
    action: CorrectiveAction
    reason: str


class HealthMerge:
    """Merges the sources and applies the 60 s repeat rule.

    Args:
        configured: CORRECTIVE_ACTION of the configuration. Healthy reports carry it as well, as
            the deployed client's do; hosts look at it only when the guest is unhealthy.
    """

    def __init__(self, configured: CorrectiveAction) -> None:
        self.configured = configured
        self._script: HealthStatus = HealthStatus(True)
        self._asked: CorrectiveAction | None = None
        self._asked_at = 0.0

    def script_result(self, *, healthy: bool, reason: str) -> None:
        """Notes the last result of the health script."""
        self._script = HealthStatus(healthy, self.configured, reason)

    def forget_script(self) -> None:
        """Counts the script as healthy: it is no longer configured."""
        self._script = HealthStatus(True)

    def report(self, applications: Iterable[HealthStatus], now: float) -> HealthReport:
        """The report for a challenge answered at ``now``.

        Args:
            applications: the registered applications' states, at this moment.
            now: seconds of the caller's clock.
        """
        ill = [status for status in applications if not status.healthy]
        if not self._script.healthy:
            ill.append(self._script)
        if not ill:
            self._asked = None
            return HealthReport(Health.HEALTHY, self.configured, "")
        # max() keeps the first of equals: an application before the script.
        worst = max(ill, key=lambda status: status.action.strength)
        if worst.action is self._asked and now - self._asked_at < REPEAT_S:
            return HealthReport(Health.UNHEALTHY, CorrectiveAction.NONE, worst.reason)
        self._asked, self._asked_at = worst.action, now
        return HealthReport(Health.UNHEALTHY, worst.action, worst.reason)
