"""Groups: a host's own commands never take more members down at once than the group permits."""

from __future__ import annotations

from typing import Final

from hbtrio.simulate.invariant import Excuse, Invariant
from hbtrio.simulate.invariants.excuses import LOG
from hbtrio.simulate.observations import CommandBegan, Grouped, Observation, Purpose, Reported

#: Commands that take nothing down.
HARMLESS: Final = ("log", "resume")

_WAITED: Final = Excuse("waited", "a corrective command has waited for as long as it may")


class GroupKept(Invariant):
    """No host's commands take more members of a group down at once than the group permits."""

    name = "group-kept"
    excuses = (LOG, _WAITED)

    def prepare(self) -> None:
        """Creates what is remembered."""
        #: Of each host, the group of its instances.
        self._groups: dict[str, Grouped] = {}
        #: Since when a corrective command waits for its group, by instance.
        self._waits: dict[str, float] = {}

    def see(self, observation: Observation) -> None:
        """Counts the commands that run on other instances when one begins."""
        match observation:
            case Grouped(host=host):
                self._groups[host] = observation
            case Reported(kind="not-acted", cause="group", instance=instance):
                self._waits.setdefault(instance, observation.at_s)
            case Reported(kind="heartbeating", instance=instance):
                self._waits.pop(instance, None)
            case CommandBegan(host=host) if host in self._groups:
                self._judge(observation, self._groups[host])

    def _judge(self, began: CommandBegan, group: Grouped) -> None:
        since_s = self._waits.pop(began.instance, None)
        others = sorted(
            instance
            for instance, commands in self.truth.commands.items()
            if instance != began.instance
            and any(one.host == began.host and one.name not in HARMLESS for one in commands)
        )
        if len(others) < max(1, group.most):
            return
        waited_s = 0.0 if since_s is None else self.truth.now_s - since_s
        is_corrective = began.purpose is Purpose.CORRECTIVE
        self.judge(
            f"{began.name} of {began.instance} while others are taken down: {', '.join(others)}",
            (LOG, began.name in HARMLESS),
            (_WAITED, is_corrective and waited_s >= group.max_delay_s - self.bounds.late_s),
        )
