"""Switches reporting of losses and ill health, for the host and for each instance."""

from __future__ import annotations

from typing import Final

#: Instances with a stored switch, at most.
_INSTANCES: Final = 100_000


class ReportingSwitch:
    """Keeps the switches that the agent has set.

    Args:
        default: the state of a switch that was never set.
    """

    def __init__(self, *, default: bool) -> None:
        #: The switches that differ from the default, by uuid.
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
