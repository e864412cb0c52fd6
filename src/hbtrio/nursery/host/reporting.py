"""Whether losses and ill health are reported: a switch for the host and one for each instance."""

from __future__ import annotations

from typing import Final

#: Instances whose switch is remembered.
_INSTANCES: Final = 100_000


class ReportingSwitch:
    """What the agent has switched on and off.

    Args:
        default: the state of every switch that nobody has set.
    """

    def __init__(self, *, default: bool) -> None:
        #: The instances whose switch is not as it was at first.
        self.instances: dict[str, bool] = {}
        self._default = default
        self._host = default

    def set(self, uuid: str, *, enabled: bool) -> bool:
        """Sets an instance's switch; ``uuid`` "" is that of the whole host.

        Beyond :data:`_INSTANCES` switches that differ from the default, further ones are ignored.

        Returns:
            Whether an instance's own switch was off and is now on.
        """
        was_enabled = self.instances.get(uuid, self._default)
        if not uuid:
            self._host = enabled
        elif enabled is self._default:
            self.instances.pop(uuid, None)
        elif uuid in self.instances or len(self.instances) < _INSTANCES:
            self.instances[uuid] = enabled
        return bool(uuid) and enabled and not was_enabled

    def is_on(self, uuid: str) -> bool:
        """Whether both the host's and this instance's switch are on."""
        return self._host and self.instances.get(uuid, self._default)
