"""Counts the rejects of each instance against ``[veto]``, over restarts of the host.

They are remembered as holds, one for each event, that end when the last of its rejects counts no
longer. A reject is stored before or with the end of its action: of one that a killed host has not
stored, the vote is asked again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import attrs
import trio

from hbtrio.nursery.host.memory import HostMemory
from hbtrio.policy.veto import Veto, VetoRule
from hbtrio.store.host_records import HoldRecord
from hbtrio.wire.vocabulary import Event

#: The kind of the holds is this and the event. In place of a reason such a hold has how long before
#: its end each reject was, in seconds, the oldest first.
_KIND: Final = "rejects of "


class Vetoes:
    """The rejects of all instances.

    Args:
        rule: how many of them stand.
        memory: remembers them.
    """

    def __init__(self, rule: VetoRule, memory: HostMemory) -> None:
        self.rule = rule
        self._memory = memory
        self._vetoes: dict[str, Veto] = {}

    def stands(self, uuid: str, event: Event) -> bool:
        """Takes a guest's reject of an action's vote; returns whether it stands."""
        if self.rule.max_rejects == 0:
            return True
        veto = self._vetoes.setdefault(uuid, Veto(self.rule))
        stands = veto.stands(event, trio.current_time())
        self._remember(uuid, veto, event)
        return stands

    def forget(self, uuid: str) -> None:
        """Forgets an instance that no longer exists."""
        if (veto := self._vetoes.pop(uuid, None)) is not None:
            for event in veto.events:
                self._memory.release(_KIND + event, uuid)

    def recall(self, holds: Iterable[HoldRecord]) -> None:
        """Takes what an earlier run of the host has left; the rule may be another now."""
        now, events = trio.current_time(), {_KIND + event: event for event in Event}
        for hold in holds:
            if (event := events.get(hold.kind)) is not None:
                ends = now + hold.left_s(self._memory.moment)
                veto = self._vetoes.setdefault(hold.uuid, Veto(self.rule))
                veto.restore(event, [ends - before_s for before_s in _numbers(hold.why)], now)
                self._remember(hold.uuid, veto, event)

    def _remember(self, uuid: str, veto: Veto, event: Event) -> None:
        now, moment = trio.current_time(), self._memory.moment
        if not (counted := veto.counted(event, now)):
            self._memory.release(_KIND + event, uuid)
            return
        ends = counted[-1] + self.rule.per_s
        in_s = ends - now
        until = attrs.evolve(moment, boot_s=moment.boot_s + in_s, epoch_s=moment.epoch_s + in_s)
        words = " ".join(f"{ends - at:.3f}" for at in counted)
        self._memory.hold(HoldRecord(_KIND + event, uuid, words, moment.epoch_s, ends=until))


def _numbers(text: str) -> list[float]:
    try:
        return [float(word) for word in text.split()]
    except ValueError:
        return []
