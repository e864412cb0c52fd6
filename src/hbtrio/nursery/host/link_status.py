"""The state of a host's link to its agent, for operators."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import attrs


@attrs.define
class LinkStatus:
    """Since when the link is up or down, and why.

    Attributes:
        endpoint: where the host connects to; "" if no agent is configured.
        is_up: whether the agent has accepted this host.
        agent: the agent's name, "" before its first welcome.
        since: when the link came up or went down; None before the first attempt has failed.
        reason: why it is down.
    """

    endpoint: str
    _now: Callable[[], datetime]
    is_up: bool = False
    agent: str = ""
    since: datetime | None = None
    reason: str = ""

    def up(self, agent: str) -> None:
        """Notes that the agent of this name has accepted the host."""
        self.is_up, self.agent, self.since, self.reason = True, agent, self._now(), ""

    def down(self, reason: str) -> None:
        """Notes the end of the link, or a further attempt that failed: the newest reason counts."""
        if self.is_up or self.since is None:
            self.since = self._now()
        self.is_up, self.reason = False, reason
