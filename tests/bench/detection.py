"""How long a loss takes to be seen: guests that fall silent among others that do not.

    python -m bench.detection CHANNEL_DIR CHANNELS INTERVAL_MS:INDEX,INDEX... ...

It says ``ready`` when all channels beat; the guests with these indexes then fall silent, group by
group those with this interval. It ends with a list of milliseconds for each group: from the moment
at which the last answered challenge was sent to the loss report, less three intervals.
"""

from __future__ import annotations

import json
import sys
from typing import Final

import attrs
import trio

from bench.sample import allow_descriptors
from bench.subject import TimedDialer, all_heartbeating, open_host
from hbtrio.nursery.host.reports import ReportKind
from support.guest_farm_process import channel_name, uuid_of

#: More than three intervals of any group, and the time until they are all silent, in seconds.
_LOST_WITHIN_S: Final = 10.0


@attrs.frozen
class Group:
    """Guests that fall silent, all with the same interval."""

    interval_ms: int
    indexes: tuple[int, ...]

    @classmethod
    def parse(cls, text: str) -> Group:
        """Reads what :meth:`__str__` wrote."""
        interval_ms, indexes = text.split(":")
        return cls(int(interval_ms), tuple(map(int, indexes.split(","))))

    def __str__(self) -> str:
        return f"{self.interval_ms}:{','.join(map(str, self.indexes))}"


async def _detect(directory: str, count: int, groups: list[Group]) -> list[list[float]]:
    group_of = {uuid_of(index): group for group in groups for index in group.indexes}
    silent = {f"{directory}/{channel_name(index)}" for group in groups for index in group.indexes}
    excess_ms: dict[Group, list[float]] = {group: [] for group in groups}
    dialer = TimedDialer(silent.__contains__)
    async with open_host(directory, dialer) as host:
        await all_heartbeating(host, count)
        with host.reports.follow() as reports:
            print("ready", flush=True)
            with trio.fail_after(_LOST_WITHIN_S):
                for _ in group_of:
                    report = await anext(reports)
                    reported_at = trio.current_time()
                    if report.kind is not ReportKind.LOSS or report.uuid not in group_of:
                        raise RuntimeError(f"not the loss of a guest that is silent: {report}")
                    port = dialer.timed[host.channel(report.uuid).path]
                    group = group_of[report.uuid]
                    took_s = reported_at - port.answered_sent_at
                    excess_ms[group].append(took_s * 1e3 - 3 * group.interval_ms)
    return list(excess_ms.values())


if __name__ == "__main__":
    allow_descriptors()
    _groups = [Group.parse(text) for text in sys.argv[3:]]
    print(json.dumps(trio.run(_detect, sys.argv[1], int(sys.argv[2]), _groups)))
