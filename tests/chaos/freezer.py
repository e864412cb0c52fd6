"""Stops a process for several reasons at once, and observes each of them."""

from __future__ import annotations

from collections.abc import Callable, Collection

from chaos.records import Records
from hbtrio.lab.daemon import Daemon
from hbtrio.simulate.observations import Began, Condition, Over


class Freezer:
    """Stops (SIGSTOP) the present process of somebody as long as there is a reason.

    Args:
        records: takes in the reasons.
        who: the name of whom.
        daemon: returns the process, or None.
    """

    def __init__(self, records: Records, who: str, daemon: Callable[[], Daemon | None]) -> None:
        self._records = records
        self._who = who
        self._daemon = daemon
        self._reasons: dict[object, Condition] = {}

    def freeze(self, reason: Condition) -> object:
        """Stops it; returns what :meth:`thaw` takes."""
        token = object()
        self._records.observe(Began(self._records.clock.now(), reason, self._who))
        self._reasons[token] = reason
        self.started()
        return token

    def thaw(self, token: object) -> None:
        """Takes a reason back, unless it has gone; without any the process goes on."""
        reason = self._reasons.pop(token, None)
        if reason is None:
            return
        daemon = self._daemon()
        if not self._reasons and daemon is not None and daemon.status is None:
            daemon.thaw()
        self._records.observe(Over(self._records.clock.now(), reason, self._who))

    def started(self) -> None:
        """Stops a new process, too, if there is a reason."""
        daemon = self._daemon()
        if self._reasons and daemon is not None and daemon.status is None:
            daemon.freeze()

    def forget(self, reasons: Collection[Condition]) -> None:
        """Takes all of these reasons back: the process that they were about is gone."""
        for token, reason in list(self._reasons.items()):
            if reason in reasons:
                self.thaw(token)

    def holds(self, *reasons: Condition) -> bool:
        """Whether it is stopped for one of these reasons."""
        return any(reason in reasons for reason in self._reasons.values())
