"""Merges the health of a guest's applications and its health script into one (PROTOCOL.md).

Among unhealthy applications the strongest corrective action wins. If all applications are healthy,
the health script decides, with the configured action. If both are unhealthy, the stronger action
and its message are reported; applications win a tie.

A script that hangs is ill health too, with an action of its own. It does not replace the script's
last verdict: a script that has reported a fault and then hangs must not weaken its request.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from hbtrio.policy.named_reasons import joined, named
from hbtrio.wire.vocabulary import CorrectiveAction, Health

#: A lasting illness repeats its action after this many seconds and reports "none" in between.
REPEAT_S: Final = 60.0


class HealthStatus(msgspec.Struct, frozen=True):
    """The health of one source: an application or the health script.

    ``action`` and ``reason`` matter only if ``healthy`` is false. ``source`` is the name to put
    before the reason where there is room for it; empty if the reason needs none.
    """

    healthy: bool
    action: CorrectiveAction = CorrectiveAction.NONE
    reason: str = ""
    source: str = ""

    @property
    def named_reason(self) -> str:
        """The reason behind the name of its source."""
        return named(self.source, self.reason) if self.source else self.reason


class HealthReport(msgspec.Struct, frozen=True):
    """The health fields of a challenge response.

    ``reason`` is that of the source that decides; ``named_reason`` has those of all that are ill,
    with their names, the deciding one first.
    """

    health: Health
    action: CorrectiveAction
    reason: str
    named_reason: str = ""


class HealthMerge:
    """Merges the sources and applies the 60 s repeat rule.

    Args:
        configured: the configured CORRECTIVE_ACTION. Healthy reports carry it too, as those of the
            deployed client do; hosts read it only if the guest is unhealthy.
    """

    def __init__(self, configured: CorrectiveAction) -> None:
        self.configured = configured
        self._script: HealthStatus = HealthStatus(True)
        self._hung: HealthStatus = HealthStatus(True)
        self._asked: CorrectiveAction | None = None
        self._asked_at = 0.0

    def script_result(self, *, healthy: bool, reason: str) -> None:
        """Stores the latest result of the health script, which shows that it no longer hangs."""
        self._script = HealthStatus(healthy, self.configured, reason)
        self._hung = HealthStatus(True)

    def script_hung(self, status: HealthStatus) -> None:
        """Stores an ill health that lasts until the script's next result: the script hangs."""
        self._hung = status

    def forget_script(self) -> None:
        """Counts the script as healthy from now on, because it is no longer configured."""
        self._script = HealthStatus(True)
        self._hung = HealthStatus(True)

    def report(self, applications: Iterable[HealthStatus], now: float) -> HealthReport:
        """Returns the report for a challenge that is answered at ``now``.

        Args:
            applications: the current health of the registered applications.
            now: seconds on the caller's clock.
        """
        sources = (*applications, self._script, self._hung)
        ill = [status for status in sources if not status.healthy]
        if not ill:
            self._asked = None
            return HealthReport(Health.HEALTHY, self.configured, "")
        # max() returns the first of equals: an application before the script.
        worst = max(ill, key=lambda status: status.action.strength)
        others = (status for status in ill if status is not worst)
        named_reason = joined(status.named_reason for status in (worst, *others))
        action = worst.action
        if action is self._asked and now - self._asked_at < REPEAT_S:
            action = CorrectiveAction.NONE
        else:
            self._asked, self._asked_at = action, now
        return HealthReport(Health.UNHEALTHY, action, worst.reason, named_reason)
