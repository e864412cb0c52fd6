"""The brake of a host without an orchestrator: closed by a mass failure, until it is released."""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from hbtrio.policy.mass_failure import MassFailures

_log = logging.getLogger("hbtrio.corrective")


class Brake:
    """Keeps corrective commands back after a mass failure.

    As long as it is closed, an instance that fails alone is kept back, too: the host is suspected.

    It is released by an operator, or once at most the configured share of the instances that
    failed is still silent: then it was not the host.

    Args:
        mass_failures: recognises mass failures, and knows whom the last one involves.
        is_silent: whether an instance has failed and is not back.
    """

    def __init__(self, mass_failures: MassFailures, is_silent: Callable[[str], bool]) -> None:
        self._mass_failures = mass_failures
        self._is_silent = is_silent
        self._released = trio.Event()
        self._released.set()
        #: Whether an operator has released it last.
        self.by_operator = False
        #: The instances that failed together since it was closed, or alone.
        self._failed: set[str] = set()

    @property
    def closed(self) -> bool:
        """Whether commands are kept back."""
        return not self._released.is_set()

    def close(self) -> None:
        """Handles a mass failure; another one while it is closed changes nothing for who waits."""
        if not self.closed:
            self._released, self.by_operator, self._failed = trio.Event(), False, set()

    def keeps_back(self, uuid: str) -> None:
        """Handles a failure that is kept back, which counts for the release."""
        if self.closed:
            self._failed |= {uuid, *self._mass_failures.involved}

    def release(self) -> bool:
        """Handles an operator's word that the host is sound; returns whether it was closed."""
        was_closed, self.by_operator = self.closed, True
        self._released.set()
        return was_closed

    def changed(self, uuid: str) -> None:
        """Handles a change of an instance, which may be back."""
        if not self.closed or uuid not in self._failed:
            return
        silent = sum(map(self._is_silent, self._failed))
        if silent <= self._mass_failures.share * len(self._failed):
            text = "the brake is released: of %d instances that failed together %d are silent"
            _log.warning(text, len(self._failed), silent)
            self._released.set()

    async def until_released(self) -> None:
        """Waits until commands are no longer kept back. A checkpoint."""
        await self._released.wait()
