"""Observes what is so for a while because of a fault."""

from __future__ import annotations

from hbtrio.simulate.observations import Began, Condition, Over
from hbtrio.simulate.places import Stage


def lasts(stage: Stage, condition: Condition, who: str, for_s: float) -> None:
    """Observes that a condition begins, and that it is over after some seconds."""
    timeline = stage.timeline
    stage.observe(Began(timeline.now, condition, who))
    timeline.after(for_s, lambda: stage.observe(Over(timeline.now, condition, who)))
