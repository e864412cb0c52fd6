"""What governs every heartbeat of a host: its settings, and the bounds that are fixed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs

from hbtrio.policy.profile import ProfileLimits
from hbtrio.wire.channel_messages import OFFERED, Extension
from hbtrio.wire.vocabulary import WindowKind

#: A returning VM that stays silent this many intervals gets one reconnect: it cures a virtio port
#: that was wedged by a migration with a backlog (PROTOCOL.md, the port itself).
WEDGED_AFTER: Final = 5

#: A late host excuses misses, but not for ever: a host that is always late would lose nobody. It
#: excuses an instance for as long as this many challenges would be listened for, unless one of them
#: is answered. A host that is frozen listens to none meanwhile.
EXCUSED: Final = 10

#: A challenge sent this much late still gets its whole interval, less the grid of the pacer.
SLACK_S: Final = 0.02


@attrs.frozen
class HeartbeatRules:
    """The host's settings for every channel; see ``[heartbeat]`` of host.toml.

    Args:
        failure_threshold: how many challenges in a row may be missed without a loss.
        reconnect_silent_s: after how many seconds a connection without a heartbeat is opened anew.
        limits: the bounds of what a guest may ask for.
        grace_s: for how long ill health is only shown after heartbeating began, in seconds.
        absent_after_s: how long a guest may take to say ``init``, or to come back after its
            ``exit``, in seconds; 0: the RESTART of the instance's profile.
        extension_s: how much a guest may extend a window by in all, in seconds; the windows that
            are left out can't be extended.
    """

    failure_threshold: int = 1
    reconnect_silent_s: float = 120.0
    limits: ProfileLimits = attrs.field(factory=ProfileLimits)
    grace_s: float = 0.0
    absent_after_s: float = 0.0
    extension_s: Mapping[WindowKind, int] = attrs.field(factory=dict)

    @property
    def offered(self) -> int:
        """What each ``init_ack`` offers, the bits of ``Extension``."""
        return OFFERED | (Extension.MORE_TIME if self.extension_s else 0)
