"""What holds of each process: it carries out nothing stale, leaks nothing, and does not crash."""

from __future__ import annotations

from typing import Final

from hbtrio.simulate.invariant import Excuse, Invariant
from hbtrio.simulate.invariants.excuses import AWAY, STOPPED_BETWEEN
from hbtrio.simulate.observations import (
    DISTURBANCES,
    CarriedOut,
    Condition,
    Crashed,
    Leftover,
    Measured,
    Observation,
    Resource,
    Status,
)

#: Within how long the children of a scope, or of a killed process, are reaped, in seconds.
REAPED_S: Final = 5.0


class NothingStale(Invariant):
    """No command is carried out after the moment by which it was to begin."""

    name = "nothing-stale"
    excuses = (STOPPED_BETWEEN,)

    def see(self, observation: Observation) -> None:
        """Judges what is carried out."""
        match observation:
            case CarriedOut(process=process, at_s=at_s, begin_by_s=begin_by_s):
                if at_s > begin_by_s + self.bounds.way_s:
                    self.judge(
                        f"{process} carries out {observation.request}, which was to begin by "
                        f"{begin_by_s:.3f} s",
                        (
                            STOPPED_BETWEEN,
                            self.truth.held_since(
                                at_s - self.bounds.crossed_s, process, Condition.STOPPED
                            ),
                        ),
                    )


_REAPED: Final = Excuse("being-reaped", "a child has some time to end after TERM, and then KILL")


class NothingOutlives(Invariant):
    """No task, descriptor or child process outlives its scope."""

    name = "nothing-outlives"
    excuses = (_REAPED,)

    def see(self, observation: Observation) -> None:
        """Judges what is left."""
        match observation:
            case Leftover(process=process, what=what, name=name, over_s=over_s):
                age_s = self.truth.now_s - over_s
                self.judge(
                    f"{what.value} {name} of {process} is there {age_s:.3f} s after its scope",
                    (_REAPED, what is Resource.CHILD and age_s <= REAPED_S + self.bounds.late_s),
                )


class MemoryBounded(Invariant):
    """No process holds more of anything than its bound."""

    name = "memory-bounded"

    def see(self, observation: Observation) -> None:
        """Judges measurements."""
        match observation:
            case Measured(process=process, what=what, value=value, bound=bound):
                if value > bound:
                    self.judge(f"{process} holds {value:g} {what}, at most {bound:g} are allowed")


class NoCrash(Invariant):
    """No programming error reaches a supervisor or ends a process."""

    name = "no-crash"

    def see(self, observation: Observation) -> None:
        """Judges crashes."""
        if isinstance(observation, Crashed):
            self.judge(f"{observation.process}: {observation.error}")


_RECENT: Final = Excuse("recent", "it was disturbed too shortly before the end")


class WellInTheEnd(Invariant):
    """After the last fault all that lives heartbeats and is linked."""

    name = "well-in-the-end"
    excuses = (_RECENT,)

    def see(self, observation: Observation) -> None:
        """Judges the state in the end."""
        match observation:
            case Status(well=False, who=who, detail=detail):
                since_s = self.truth.now_s - self.bounds.settle_s
                conditions = (*DISTURBANCES, *AWAY, Condition.LINK_DOWN)
                self.judge(
                    f"{who} is not well: {detail}",
                    (_RECENT, self.truth.held_since(since_s, who, *conditions)),
                )
