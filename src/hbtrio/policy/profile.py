"""Clamps the values that a guest advertised to the host's limits.

The numbers come from a tenant: an interval of a day would switch the heartbeat off, and a window of
a century would block an operator for ever. Challenging a guest faster than it asked for is always
safe, because a guest waits for at least two of its intervals.
"""

from __future__ import annotations

import msgspec

from hbtrio.wire.channel_codec import MAX_NAME_BYTES, plain_text
from hbtrio.wire.channel_messages import Init
from hbtrio.wire.vocabulary import CorrectiveAction, WindowKind, window_s


class ProfileLimits(msgspec.Struct, frozen=True):
    """The host's limits for advertised values (``[heartbeat]`` and ``[limits]``)."""

    interval_min_ms: int = 400
    interval_max_ms: int = 60_000
    vote_max_s: int = 600
    notice_max_s: int = 600
    restart_max_s: int = 3600


class Profile(msgspec.Struct, frozen=True):
    """One guest's heartbeat interval, windows and corrective action, within the host's limits.

    The defaults are those of a guest without a configuration. They apply while a guest answers
    challenges without having sent ``init`` to this host, as after a live migration.
    """

    name: str = ""
    interval_s: float = 1.0
    vote_s: int = 11
    shutdown_notice_s: int = 11
    suspend_notice_s: int = 11
    resume_notice_s: int = 11
    restart_s: int = 121
    corrective_action: CorrectiveAction = CorrectiveAction.NONE

    @classmethod
    def from_init(cls, init: Init, limits: ProfileLimits) -> Profile:
        """Builds the profile that ``init`` advertises, clamped to ``limits``."""

        def notice_s(seconds: int) -> int:
            return _clamp(seconds, 1, limits.notice_max_s)

        interval_ms = _clamp(
            init.heartbeat_interval_ms, limits.interval_min_ms, limits.interval_max_ms
        )
        return cls(
            name=plain_text(init.name, MAX_NAME_BYTES),
            interval_s=interval_ms / 1000,
            vote_s=_clamp(init.vote_secs, 1, limits.vote_max_s),
            shutdown_notice_s=notice_s(init.shutdown_notice_secs),
            suspend_notice_s=notice_s(init.suspend_notice_secs),
            resume_notice_s=notice_s(init.resume_notice_secs),
            restart_s=_clamp(init.restart_secs, 1, limits.restart_max_s),
            corrective_action=init.corrective_action,
        )

    def window_s(self, kind: WindowKind) -> int:
        """Returns how long the host keeps a window of this kind open, in seconds."""
        return window_s(self, kind)


def _clamp(value: int, low: int, high: int) -> int:
    return max(low, min(value, high))
