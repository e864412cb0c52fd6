"""The brake of a host without an orchestrator: closed by a mass failure, until it is released."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Final

import trio

from hbtrio.log.subject import fields
from hbtrio.nursery.host.memory import HostMemory
from hbtrio.policy.mass_failure import MassFailures
from hbtrio.store.host_records import HoldRecord

_log = logging.getLogger("hbtrio.corrective")

#: The kind of the holds that remember it: one of the host, and one of each that failed.
KIND: Final = "brake"


class Brake:
    """Keeps corrective commands back after a mass failure.

    As long as it is closed, an instance that fails alone is kept back, too: the host is suspected.

    It is released by an operator, or once at most the configured share of the instances that
    failed is still silent: then it was not the host. A restart of the host releases nothing.

    Args:
        mass_failures: recognises mass failures, and knows whom the last one involves.
        is_silent: whether an instance that has failed is not back, and may come back.
        memory: remembers that it is closed, and who has failed.
    """

    def __init__(
        self,
        mass_failures: MassFailures,
        is_silent: Callable[[str], bool],
        memory: HostMemory,
    ) -> None:
        self._mass_failures = mass_failures
        self._is_silent = is_silent
        self._released = trio.Event()
        self._released.set()
        #: Whether an operator has released it last.
        self.by_operator = False
        #: The instances that failed together since it was closed, or alone.
        self._failed: set[str] = set()
        self._memory = memory

    @property
    def closed(self) -> bool:
        """Whether commands are kept back."""
        return not self._released.is_set()

    def close(self) -> None:
        """Handles a mass failure; another one while it is closed changes nothing for who waits."""
        if not self.closed:
            self._released, self.by_operator, self._failed = trio.Event(), False, set()
            self._remember("")

    def keeps_back(self, uuid: str) -> None:
        """Handles a failure that is kept back, which counts for the release."""
        if self.closed:
            news = {uuid, *self._mass_failures.involved} - self._failed
            self._failed |= news
            for one in sorted(news):
                self._remember(one)

    def recall(self, holds: Iterable[HoldRecord]) -> frozenset[str]:
        """Takes what an earlier run has left; returns who failed while the brake was closed."""
        kept = {hold.uuid for hold in holds if hold.kind == KIND}
        if kept and not self.closed:
            text = "the brake is closed, as it was before the host's restart"
            _log.warning(text, extra=fields("brake"))
            self._released = trio.Event()
        kept -= {""}
        self._failed |= kept
        return frozenset(kept)

    def _remember(self, uuid: str) -> None:
        self._memory.hold(HoldRecord(KIND, uuid, "a mass failure", self._memory.moment.epoch_s))

    def release(self) -> bool:
        """Handles an operator's word that the host is sound; returns whether it was closed."""
        was_closed, self.by_operator = self.closed, True
        self._open()
        return was_closed

    def changed(self, uuid: str) -> None:
        """Handles a change of an instance, which may be back or gone."""
        if not self.closed or uuid not in self._failed:
            return
        silent = sum(map(self._is_silent, self._failed))
        if silent <= self._mass_failures.share * len(self._failed):
            text = "the brake is released: of %d instances that failed together %d are silent"
            _log.warning(text, len(self._failed), silent, extra=fields("brake"))
            self._open()

    def _open(self) -> None:
        if self.closed:
            for uuid in ("", *sorted(self._failed)):
                self._memory.release(KIND, uuid)
        self._released.set()

    async def until_released(self) -> None:
        """Waits until commands are no longer kept back. A checkpoint."""
        await self._released.wait()
