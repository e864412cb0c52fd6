"""What an agent counts, in Prometheus' text format.

Labels have few values, but for the hosts' names: there are as many as links and inventory have
room for. Instances are counted, not named; a fleet has too many and tenants make them up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

import hbtrio
from hbtrio.api.drain_metrics import drain_families
from hbtrio.api.fleet_status import host_names, link_of
from hbtrio.api.groups import group_metrics
from hbtrio.api.metrics import (
    certificate_families,
    exposition,
    notification_families,
    restart_family,
)
from hbtrio.nursery.agent.counted_history import CountedHistory
from hbtrio.nursery.agent.daemon import Agent
from hbtrio.nursery.agent.vim_delivery import DeliveryStatus
from hbtrio.wire.vocabulary import EVENT_TABLE

_LINKS: Final = ("up", "down", "lost", "never")


def agent_metrics(agent: Agent, now: float) -> bytes:
    """All numbers of an agent.

    Args:
        agent: the agent.
        now: trio's time.
    """
    return exposition(_families(agent, now))


def _families(agent: Agent, now: float) -> Iterator[Metric]:
    info = GaugeMetricFamily("hbtrio_agent_info", "The agent's version.", labels=["version"])
    info.add_metric([hbtrio.__version__], 1)
    yield info
    yield from _hosts(agent, now)
    heartbeating = sum(
        (live := agent.fleet.live(uuid)) is not None and live.heartbeating
        for uuid in agent.fleet.instances
    )
    instances = GaugeMetricFamily(
        "hbtrio_agent_instances", "Instances of the inventory.", labels=["heartbeating"]
    )
    instances.add_metric(["yes"], heartbeating)
    instances.add_metric(["no"], len(agent.fleet.instances) - heartbeating)
    yield instances
    yield from group_metrics("hbtrio_agent", agent.groups.rule)
    yield GaugeMetricFamily(
        "hbtrio_agent_rounds_open", "Votes and notices in progress.", value=len(agent.rounds)
    )
    yield from _events(agent.history)
    yield CounterMetricFamily(
        "hbtrio_agent_host_alarms",
        "Hosts whose alarms began to be held back.",
        value=agent.mass_failure_guard.alarms,
    )
    yield CounterMetricFamily(
        "hbtrio_agent_crashes",
        "Tasks that failed and were started again.",
        value=agent.supervisor.crashes,
    )
    yield GaugeMetricFamily(
        "hbtrio_agent_instances_on_hold",
        "Instances that operators have put on hold.",
        value=agent.holds.count,
    )
    next_end = agent.holds.next_of_failed
    yield GaugeMetricFamily(
        "hbtrio_agent_hold_of_failed_ends_timestamp_seconds",
        "When the next hold ends of a failed instance, whose alarm is then sent; 0 without one.",
        value=0.0 if next_end is None else next_end.timestamp(),
    )
    yield restart_family("hbtrio_agent", {"task": agent.supervisor.restarts})
    yield GaugeMetricFamily(
        "hbtrio_agent_store_failing",
        "1: the store can't be written.",
        value=agent.store.fault != "",
    )
    yield GaugeMetricFamily(
        "hbtrio_agent_store_files_lost",
        "1: the store's files were deleted, replaced or made read-only.",
        value=agent.store_watch.fault != "",
    )
    yield CounterMetricFamily(
        "hbtrio_agent_links_refused",
        "Refused connections of hosts.",
        value=agent.links.refused.count,
    )
    yield from drain_families("hbtrio_agent", agent.drains.runs)
    yield from notification_families("hbtrio_agent", agent.notifier)
    yield from certificate_families("hbtrio_agent", agent.files, "a linked host or the VIM")
    if agent.delivery is not None:
        yield from _delivery(agent.delivery.status)


def _hosts(agent: Agent, now: float) -> Iterator[Metric]:
    links: Counter[str] = Counter()
    down = GaugeMetricFamily(
        "hbtrio_agent_link_down_seconds",
        "Seconds since the link was lost; 0 while it is up.",
        labels=["hostname"],
    )
    held = GaugeMetricFamily(
        "hbtrio_agent_alarms_held_back",
        "1: the alarms of this host are held back.",
        labels=["hostname"],
    )
    for name in host_names(agent):
        link, down_s = link_of(agent, name, now)
        links[link] += 1
        if link != "never":
            down.add_metric([name], down_s or 0.0)
        held.add_metric([name], agent.mass_failure_guard.hold(name) is not None)
    hosts = GaugeMetricFamily(
        "hbtrio_agent_hosts",
        "Hosts by link: up, down, lost (down beyond the grace time), or never there.",
        labels=["link"],
    )
    for link in _LINKS:
        hosts.add_metric([link], links[link])
    yield from (hosts, down, held)


def _events(history: CountedHistory) -> Iterator[Metric]:
    extended = CounterMetricFamily(
        "hbtrio_agent_extended_seconds",
        "By how many seconds guests have extended votes and notices, by event.",
        labels=["event"],
    )
    for event in EVENT_TABLE:
        extended.add_metric([event], history.extended_s[event])
    overridden = CounterMetricFamily(
        "hbtrio_agent_overridden_rejects",
        "Rejects of actions that did not stand, by event.",
        labels=["event"],
    )
    for event, rule in EVENT_TABLE.items():
        if rule.voted:
            overridden.add_metric([event], history.overridden[event])
    yield from (extended, overridden)


def _delivery(status: DeliveryStatus) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "hbtrio_agent_vim_reachable",
        "1: the last request got through to the VIM.",
        value=status.reachable,
    )
    yield GaugeMetricFamily(
        "hbtrio_agent_outbox_waiting",
        "What is queued for the VIM, or being sent.",
        value=status.waiting,
    )
    ended = CounterMetricFamily(
        "hbtrio_agent_deliveries",
        "Messages to the VIM, by how their delivery ended.",
        labels=["result"],
    )
    ended.add_metric(["delivered"], status.delivered)
    ended.add_metric(["unconfirmed"], status.unconfirmed)
    ended.add_metric(["undelivered"], status.undelivered)
    yield ended
    yield CounterMetricFamily(
        "hbtrio_agent_delivery_retries",
        "Attempts that failed and were or will be repeated.",
        value=status.retries,
    )
