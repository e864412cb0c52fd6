"""How long a loss takes to be seen: guests that fall silent among others that do not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import attrs
import trio

from bench.subject import TimedDialer
from hbtrio.nursery.host.daemon import Host
from hbtrio.nursery.host.reports import ReportKind
from support.guest_farm_process import channel_name, uuid_of

#: How long all losses may take, in seconds: a host that gets too little of a CPU excuses many
#: challenges before it misses any.
_LOST_WITHIN_S: Final = 60.0

#: After the last one: what else is lost then, was lost wrongly.
_AFTER_S: Final = 1.0

#: Reports besides the losses that may wait to be read.
_OTHERS: Final = 1000


@attrs.frozen
class Group:
    """Guests that fall silent, all with the same interval."""

    interval_ms: int
    indexes: Sequence[int]


@attrs.frozen
class Losses:
    """What was seen of guests that fell silent.

    Attributes:
        interval_ms: of these guests.
        silent: how many they were.
        excess_ms: of each that was reported, from the sending of its last answered challenge to the
            report, less three intervals.
        wrong: losses of guests that did not fall silent, in the whole host.
    """

    interval_ms: int
    silent: int
    excess_ms: list[float]
    wrong: int


async def see_losses(
    host: Host,
    channel_dir: str,
    dialer: TimedDialer,
    groups: Sequence[Group],
    silence: Callable[[], object],
) -> list[Losses]:
    """Has the guests fall silent and waits for their losses.

    Args:
        host: the host.
        channel_dir: where its channels are.
        dialer: the host's, which times at least the silent guests' channels.
        groups: of the silent guests.
        silence: has them fall silent.
    """
    group_of = {uuid_of(index): group for group in groups for index in group.indexes}
    path_of = {
        uuid_of(index): f"{channel_dir}/{channel_name(index)}"
        for group in groups
        for index in group.indexes
    }
    excess_ms: dict[int, list[float]] = {group.interval_ms: [] for group in groups}
    wrong = 0
    with host.reports.follow(len(host.channels) + _OTHERS) as reports:
        silence()
        with trio.move_on_after(_LOST_WITHIN_S) as patience:
            while True:
                report = await anext(reports)
                reported_at = trio.current_time()
                if report.kind is not ReportKind.LOSS:
                    continue
                group = group_of.pop(report.uuid, None)
                if group is None:
                    wrong += 1
                    continue
                took_s = reported_at - dialer.timed[path_of[report.uuid]].answered_sent_at
                excess_ms[group.interval_ms].append(took_s * 1e3 - 3 * group.interval_ms)
                if not group_of:
                    patience.deadline = reported_at + _AFTER_S
    return [
        Losses(group.interval_ms, len(group.indexes), excess_ms[group.interval_ms], wrong)
        for group in groups
    ]
