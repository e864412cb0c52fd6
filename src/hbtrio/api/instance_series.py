"""Series for each instance, if ``[observe] instance_series`` of host.toml asks for some.

Those of all instances would be most of what a Prometheus keeps, and a name is a tenant's text. So
there are none by default, and never more than asked for. The choice, the lowest uuids, depends on
no state: a series doesn't end because another instance has failed. While a host is overloaded there
are none either: they cost 0.1 ms for each instance, and heartbeats come first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import attrs
import trio
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from hbtrio.api.metrics import exposition
from hbtrio.nursery.host.daemon import Host
from hbtrio.text import printable
from hbtrio.wire.vocabulary import Health

#: Samples that are made without a pause, in a few milliseconds.
_AT_ONCE: Final = 100

_LABELS: Final = ("uuid", "name")


@attrs.frozen
class _Instance:
    """What is shown of one."""

    labels: tuple[str, str]
    state: str
    unhealthy: bool
    beats: int
    missed: int
    #: None before the first answer.
    round_trip_s: float | None


async def instance_series(host: Host) -> bytes:
    """The series of as many instances as asked for, and how many others there are; or nothing.

    A checkpoint after every 100 samples; cancelled, it changes nothing.
    """
    limit = host.config.observe.instance_series
    if limit == 0 or host.overload.since is not None:
        return b""
    chosen = sorted(host.channels)[:limit]
    left_out = GaugeMetricFamily(
        "hbtrio_host_instances_without_series",
        "Instances beyond instance_series of host.toml.",
        value=len(host.channels) - len(chosen),
    )
    text = exposition([left_out])
    shown = []
    for begin in range(0, len(chosen), _AT_ONCE):
        shown += list(_look_at(host, chosen[begin : begin + _AT_ONCE]))
        await trio.lowlevel.checkpoint()
    for new_family in (_states, _unhealthy, _beats, _missed, _round_trips):
        text += await _encode(new_family, shown)
    return text


def _look_at(host: Host, uuids: list[str]) -> Iterator[_Instance]:
    for uuid in uuids:
        # Its channel may have ended at a checkpoint.
        if (channel := host.channels.get(uuid)) is None:
            continue
        beat, domain = channel.heartbeat, host.domains.of(uuid)
        trip_ms = channel.round_trip_ms
        yield _Instance(
            labels=(uuid, printable(domain.name if domain else beat.profile.name)),
            state=beat.state.shown,
            unhealthy=beat.health is Health.UNHEALTHY,
            beats=beat.beats,
            missed=beat.missed,
            round_trip_s=None if trip_ms is None else trip_ms / 1000,
        )


async def _encode(new_family: Callable[[list[_Instance]], Metric], shown: list[_Instance]) -> bytes:
    """Encodes one metric; its help and type stand before the first of its samples only."""
    text = exposition([new_family(shown[:_AT_ONCE])])
    for begin in range(_AT_ONCE, len(shown), _AT_ONCE):
        await trio.lowlevel.checkpoint()
        more = exposition([new_family(shown[begin : begin + _AT_ONCE])])
        text += more.split(b"\n", 2)[2]
    return text


def _states(shown: list[_Instance]) -> Metric:
    family = GaugeMetricFamily(
        "hbtrio_host_instance_state",
        "1 for the state that the instance is in.",
        labels=[*_LABELS, "state"],
    )
    for one in shown:
        family.add_metric([*one.labels, one.state], 1)
    return family


def _unhealthy(shown: list[_Instance]) -> Metric:
    family = GaugeMetricFamily(
        "hbtrio_host_instance_unhealthy", "1: the instance says it is ill.", labels=_LABELS
    )
    for one in shown:
        family.add_metric(one.labels, one.unhealthy)
    return family


def _beats(shown: list[_Instance]) -> Metric:
    family = CounterMetricFamily(
        "hbtrio_host_instance_beats", "Challenges that the instance has answered.", labels=_LABELS
    )
    for one in shown:
        family.add_metric(one.labels, one.beats)
    return family


def _missed(shown: list[_Instance]) -> Metric:
    family = GaugeMetricFamily(
        "hbtrio_host_instance_missed", "Challenges in a row without an answer.", labels=_LABELS
    )
    for one in shown:
        family.add_metric(one.labels, one.missed)
    return family


def _round_trips(shown: list[_Instance]) -> Metric:
    family = GaugeMetricFamily(
        "hbtrio_host_instance_round_trip_seconds",
        "From the last challenge to its answer.",
        labels=_LABELS,
    )
    for one in shown:
        if one.round_trip_s is not None:
            family.add_metric(one.labels, one.round_trip_s)
    return family
