"""What a host counts, in Prometheus' text format.

Labels have few values, all of closed lists. Instances are counted, not named: there may be
thousands, and tenants make them up. :mod:`hbtrio.api.instance_series` names some if it is told to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Final

import trio
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

import hbtrio
from hbtrio.api.drain_metrics import drain_families
from hbtrio.api.groups import group_metrics
from hbtrio.api.instance_series import instance_series
from hbtrio.api.metrics import (
    certificate_families,
    exposition,
    notification_families,
    restart_family,
)
from hbtrio.nursery.host.daemon import Host
from hbtrio.nursery.host.labels import CAUSES, ON_HOLD, OUTCOMES, STATES
from hbtrio.nursery.host.reports import ReportKind
from hbtrio.policy.histogram import Histogram
from hbtrio.wire.vocabulary import EVENT_TABLE, CorrectiveAction, Health, WindowKind

#: Instances that are looked at without a pause, in some hundred microseconds.
_AT_ONCE: Final = 500

#: The windows that a guest may extend.
_EXTENSIBLE: Final = tuple(kind for kind in WindowKind if kind is not WindowKind.RESTART)

#: The events that a guest may reject.
_VOTED: Final = tuple(event for event, rule in EVENT_TABLE.items() if rule.voted)

_RUN: Final = (CorrectiveAction.REBOOT, CorrectiveAction.STOP, CorrectiveAction.LOG)


class _Instances:
    """What the instances are at present."""

    def __init__(self) -> None:
        self.states: Counter[str] = Counter()
        self.unhealthy = 0
        self.throttled = 0
        self.not_acted: Counter[str] = Counter()
        self.windows: Counter[str] = Counter()
        self.on_hold = 0
        #: When the next hold of a failed instance ends, in seconds since the epoch; 0 without one.
        self.held_until = 0.0

    async def count(self, host: Host) -> None:
        """Looks at all instances; other tasks run now and then."""
        for hold in host.holds:
            self.on_hold += 1
            why_not = host.corrective.why_not(hold.uuid)
            if why_not is not None and why_not.cause == ON_HOLD:
                until = hold.until.timestamp()
                self.held_until = min(until, self.held_until or until)
        for number, (uuid, channel) in enumerate(list(host.channels.items())):
            if number % _AT_ONCE == _AT_ONCE - 1:
                await trio.lowlevel.checkpoint()
            beat = channel.heartbeat
            self.states[beat.state.shown] += 1
            self.unhealthy += beat.health is Health.UNHEALTHY
            self.throttled += channel.link.is_held_back(trio.current_time())
            if (why_not := host.corrective.why_not(uuid)) is not None:
                self.not_acted[why_not.cause] += 1
            if channel.round is not None:
                self.windows[channel.round.window.kind] += 1
            if channel.restart.window is not None:
                self.windows[WindowKind.RESTART] += 1


async def host_metrics(host: Host) -> bytes:
    """All numbers of a host. A checkpoint among many instances; cancelled, it changes nothing."""
    instances = _Instances()
    await instances.count(host)
    groups = group_metrics("hbtrio_host", host.groups.rule)
    all_of_it = exposition(
        [*_of_instances(instances), *groups, *_of_events(host), *_of_daemon(host)]
    )
    return all_of_it + await instance_series(host)


def _of_instances(instances: _Instances) -> Iterator[Metric]:
    yield _by_word(
        "hbtrio_host_instances", "Instances by state.", "state", STATES, instances.states
    )
    yield GaugeMetricFamily(
        "hbtrio_host_instances_unhealthy",
        "Heartbeating instances that say they are ill.",
        value=instances.unhealthy,
    )
    yield GaugeMetricFamily(
        "hbtrio_host_instances_throttled",
        "Instances that have sent too much within the last minute and are read more slowly.",
        value=instances.throttled,
    )
    yield _by_word(
        "hbtrio_host_instances_not_acted_upon",
        "Failed instances for which no corrective command runs at present, by cause.",
        "cause",
        CAUSES,
        instances.not_acted,
    )
    yield GaugeMetricFamily(
        "hbtrio_host_instances_on_hold",
        "Instances that operators have put on hold.",
        value=instances.on_hold,
    )
    yield GaugeMetricFamily(
        "hbtrio_host_hold_of_failed_ends_timestamp_seconds",
        "When the next hold ends of a failed instance, which is then acted upon; 0 without one.",
        value=instances.held_until,
    )
    yield _by_word(
        "hbtrio_host_windows_open",
        "Windows that wait for an instance, by kind.",
        "window",
        tuple(WindowKind),
        instances.windows,
    )


def _of_events(host: Host) -> Iterator[Metric]:
    counts = host.counts
    yield _histogram(
        "hbtrio_host_round_trip_seconds", "From a challenge to its answer.", counts.round_trips
    )
    yield CounterMetricFamily(
        "hbtrio_host_beats", "Answered challenges.", value=counts.round_trips.count
    )
    yield CounterMetricFamily(
        "hbtrio_host_misses", "Challenges that were not answered in time.", value=counts.misses
    )
    reports = CounterMetricFamily("hbtrio_host_events", "Events by kind.", labels=["kind"])
    for kind in ReportKind:
        reports.add_metric([kind], counts.reports[kind])
    yield reports
    rounds = CounterMetricFamily(
        "hbtrio_host_rounds",
        "Votes and notices that have ended, by event and result.",
        labels=["kind", "event", "result"],
    )
    for words, number in sorted(counts.rounds.items()):
        rounds.add_metric(words, number)
    yield rounds
    extended = CounterMetricFamily(
        "hbtrio_host_extended_seconds",
        "By how many seconds guests have extended votes and notices, by window.",
        labels=["window"],
    )
    for window in _EXTENSIBLE:
        extended.add_metric([window], counts.extended_s[window])
    yield extended
    overridden = CounterMetricFamily(
        "hbtrio_host_overridden_rejects",
        "Rejects of actions that did not stand, by event.",
        labels=["event"],
    )
    for event in _VOTED:
        overridden.add_metric([event], counts.overridden[event])
    yield overridden
    commands = CounterMetricFamily(
        "hbtrio_host_corrective_commands",
        "Corrective commands that have ended, by action and outcome.",
        labels=["action", "outcome"],
    )
    # All of them from the start: a rate does not see a series begin with 1.
    for action, outcome in product(_RUN, OUTCOMES):
        commands.add_metric([action, outcome], counts.corrective[action, outcome])
    yield commands
    not_acted = CounterMetricFamily(
        "hbtrio_host_not_acted",
        "Corrective commands that were not run, by cause.",
        labels=["cause"],
    )
    for cause in CAUSES:
        not_acted.add_metric([cause], counts.not_acted[cause])
    yield not_acted


def _of_daemon(host: Host) -> Iterator[Metric]:
    info = GaugeMetricFamily("hbtrio_host_info", "The host daemon's version.", labels=["version"])
    info.add_metric([hbtrio.__version__], 1)
    yield info
    yield _histogram(
        "hbtrio_host_lateness_seconds",
        "From the time a wake-up for heartbeats was due to when it happened.",
        host.pacer.lateness,
    )
    yield _flag("hbtrio_host_overloaded", "heartbeats come late", host.overload.since is not None)
    yield _flag(
        "hbtrio_host_brake_closed",
        "corrective commands are kept back, as too many instances failed at once",
        host.corrective.brake.closed,
    )
    yield GaugeMetricFamily(
        "hbtrio_host_actions", "Operators' actions in progress.", value=len(host.actions)
    )
    yield CounterMetricFamily(
        "hbtrio_host_crashes",
        "Tasks that failed and were started again.",
        value=host.supervisor.crashes,
    )
    yield restart_family(
        "hbtrio_host",
        {
            "task": host.supervisor.restarts,
            "reaper": host.counts.processes.reaper_restarts,
            "virsh": host.domains.event_restarts,
        },
    )
    yield CounterMetricFamily(
        "hbtrio_host_log_lines_dropped",
        "Log lines that were not written, as the log is slow or the host overloaded.",
        value=host.log_lines_dropped(),
    )
    if host.link.endpoint:
        since = host.started_at if host.link.since is None else host.link.since
        yield _flag("hbtrio_host_link_up", "the agent has accepted this host", host.link.is_up)
        yield GaugeMetricFamily(
            "hbtrio_host_link_since_timestamp_seconds",
            "Since when the link to the agent is up, or down.",
            value=since.timestamp(),
        )
    watch = host.domains.watch
    if watch is not None and watch.in_use:
        yield _flag("hbtrio_host_libvirt_up", "libvirt answers", watch.answers)
    memory = host.memory
    if memory.is_kept:
        yield _flag("hbtrio_host_store_failing", "host.db can't be written", bool(memory.fault))
        yield CounterMetricFamily(
            "hbtrio_host_store_entries_lost",
            "Entries of the history that were not kept.",
            value=memory.lost,
        )
    if host.events is not None:
        fault = host.events.fault
        yield _flag("hbtrio_host_events_file_failing", "events can't be written", fault is not None)
    yield from drain_families("hbtrio_host", host.drains.runs)
    yield from notification_families("hbtrio_host", host.notifier)
    yield from certificate_families("hbtrio_host", host.files, "the agent")


def _flag(name: str, words: str, value: bool) -> Metric:  # noqa: FBT001 - it is what is shown
    return GaugeMetricFamily(name, f"1: {words}.", value=value)


def _by_word(
    name: str, words: str, label: str, known: tuple[str, ...], counts: Mapping[str, int]
) -> Metric:
    family = GaugeMetricFamily(name, words, labels=[label])
    for word in known:
        family.add_metric([word], counts.get(word, 0))
    return family


def _histogram(name: str, words: str, histogram: Histogram) -> Metric:
    return HistogramMetricFamily(
        name, words, buckets=histogram.buckets(), sum_value=histogram.total_s
    )
