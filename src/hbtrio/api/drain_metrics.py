"""The metrics of drains in progress and planned actions, of a host or an agent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from hbtrio.nursery.drains import Drains


def drain_families(prefix: str, drains: Drains) -> Iterator[Metric]:
    """Makes the metrics; those of drains are there while one is in progress.

    Args:
        prefix: the daemon's: ``hbtrio_host``.
        drains: the daemon's.
    """
    # A planned action waits for its time: it is neither drained nor stuck.
    runs = [run for run in drains.in_progress if run.record.rules.planned is None]
    yield GaugeMetricFamily(
        f"{prefix}_planned_actions",
        "Planned actions that have not ended.",
        value=sum(run.record.rules.planned is not None for run in drains.in_progress),
    )
    ended = CounterMetricFamily(
        f"{prefix}_planned_actions_ended",
        "Planned actions that have ended, by how.",
        labels=["outcome"],
    )
    for outcome, number in drains.plans_ended.items():
        ended.add_metric([outcome], number)
    yield ended
    if not runs:
        return
    instances = GaugeMetricFamily(
        f"{prefix}_drain_instances",
        "Instances of the drains in progress, by state.",
        labels=["state"],
    )
    counts: Counter[str] = Counter()
    for run in runs:
        counts.update(run.counts())
    for state, number in sorted(counts.items()):
        instances.add_metric([state], number)
    yield instances
    yield GaugeMetricFamily(
        f"{prefix}_drain_stuck_seconds",
        "For how long no instance of a drain has changed its state; of several the longest.",
        value=max(run.stuck_s for run in runs),
    )
