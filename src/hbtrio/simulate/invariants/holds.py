"""Holds: nothing corrective is done meanwhile, and what is still lost afterwards is not left."""

from __future__ import annotations

from functools import partial
from typing import Final

from hbtrio.simulate.invariant import Excuse
from hbtrio.simulate.invariants.acting import Followed
from hbtrio.simulate.invariants.excuses import LOG
from hbtrio.simulate.observations import (
    CommandBegan,
    Condition,
    Observation,
    Purpose,
    Reported,
    Struck,
)
from hbtrio.simulate.order_observations import HoldEnded, HoldSet

_FORGOTTEN: Final = Excuse(
    "forgotten", "the host could not store it, or its disk was full, slow or cut off since"
)


class HoldKept(Followed):
    """Nothing corrective is done to a VM on hold; one still lost when that ends is acted upon."""

    name = "hold-kept"
    excuses = (*Followed.excuses, LOG, _FORGOTTEN)

    def prepare(self) -> None:
        """Creates what is remembered."""
        super().prepare()
        self._holds: dict[str, HoldSet] = {}
        #: Those that were lost and not acted upon, because of a hold.
        self._withheld: set[str] = set()
        #: When each host lost its power last.
        self._cut_s: dict[str, float] = {}

    def see(self, observation: Observation) -> None:
        """Judges commands on instances on hold, and has something follow when that is over."""
        super().see(observation)
        match observation:
            case HoldSet(instance=instance):
                self._holds[instance] = observation
                self.agenda.add(observation.until_s, partial(self._over, observation))
            case HoldEnded(instance=instance, certain=False):
                # From now on it may be over; and if the host does not hear of it, as it was set.
                self._holds.pop(instance, None)
            case HoldEnded(instance=instance):
                self._decide_anew(instance)
            case Struck(kind="cut-power-of-host", who=host):
                self._cut_s[host] = observation.at_s
            case Reported(kind="not-acted", cause="hold", instance=instance):
                self._withheld.add(instance)
            case Reported(
                kind="not-acted" | "heartbeating" | "stopped" | "paused", instance=instance
            ):
                self._withheld.discard(instance)
            case CommandBegan(purpose=Purpose.CORRECTIVE, instance=instance):
                self._command(observation)
                self._withheld.discard(instance)
            case _:
                pass

    def _command(self, began: CommandBegan) -> None:
        hold = self._holds.get(began.instance)
        crossed_s = self.bounds.crossed_s
        if hold is None or not hold.at_s + crossed_s < began.at_s < hold.until_s - crossed_s:
            return
        bad = self.truth.held_since(hold.at_s, hold.host, Condition.DISK_BAD)
        cut = self._cut_s.get(hold.host, -1.0) >= hold.at_s
        self.judge(
            f"{began.name} of {began.instance}, which is on hold until {hold.until_s:.3f} s",
            (LOG, began.name == "log"),
            (_FORGOTTEN, bad or cut or not hold.stored),
        )

    def _over(self, hold: HoldSet) -> None:
        if self._holds.get(hold.instance) is hold:
            del self._holds[hold.instance]
            self._decide_anew(hold.instance)

    def _decide_anew(self, instance: str) -> None:
        if instance in self._withheld and not self.truth.heartbeats(instance):
            self._withheld.discard(instance)
            self._expect(instance, f"the hold on {instance}, which is lost, was over")
