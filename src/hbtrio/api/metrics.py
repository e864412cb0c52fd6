"""What the metrics of host and agent have in common: Prometheus' text format, and certificates."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from hbtrio.nursery.file_watch import FileWatch
from hbtrio.nursery.notifier import RESULTS, Notifier

METRICS_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4


def exposition(families: Iterable[Metric]) -> bytes:
    """Encodes metrics.

    Args:
        families: each metric with all its samples.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Given(families))
    return generate_latest(registry)


class _Given(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        """What was given."""
        return self._families


def notification_families(prefix: str, notifier: Notifier | None) -> Iterator[Metric]:
    """What has become of alerts; nothing without a command or a webhook.

    Args:
        prefix: what the name begins with.
        notifier: sends them.
    """
    if notifier is None or not notifier.channels:
        return
    ended = CounterMetricFamily(
        f"{prefix}_notifications",
        "Alerts by channel and how their delivery ended.",
        labels=["channel", "result"],
    )
    for channel, result in product(notifier.channels, RESULTS):
        ended.add_metric([channel, result], notifier.counts[channel, result])
    yield ended


def restart_family(prefix: str, restarts: Mapping[str, int]) -> Metric:
    """How often children of a daemon were started again.

    Args:
        prefix: what the name begins with.
        restarts: the numbers by kind of child.
    """
    family = CounterMetricFamily(
        f"{prefix}_child_restarts",
        "Tasks and helper processes that failed or ended, and were started again.",
        labels=["child"],
    )
    for child, number in restarts.items():
        family.add_metric([child], number)
    return family


def certificate_families(prefix: str, files: FileWatch, peers: str) -> Iterator[Metric]:
    """The certificates of a daemon and of its peers.

    Args:
        prefix: what the names begin with.
        files: the certificates.
        peers: who the peers are, in words.
    """
    expires = GaugeMetricFamily(
        f"{prefix}_certificate_expires_timestamp_seconds",
        "When a certificate of the configuration expires, by the key that names its file.",
        labels=["key"],
    )
    for own in files.certificates:
        expires.add_metric([own.where], own.expires.timestamp())
    shown = GaugeMetricFamily(
        f"{prefix}_peer_certificate_expires_timestamp_seconds",
        f"When the certificate expires that {peers} has shown.",
        labels=["peer"],
    )
    for peer, moment in sorted(files.peers.items()):
        shown.add_metric([peer], moment.timestamp())
    yield from (expires, shown)
    yield GaugeMetricFamily(
        f"{prefix}_renewed_files_failing",
        "Renewed certificates and tokens that can't be used.",
        value=len(files.faults),
    )
