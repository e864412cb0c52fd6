"""What a test sees of an application: its answers and its health."""

from __future__ import annotations

import attrs

from hbtrio.wire.vocabulary import Event


@attrs.frozen
class Answer:
    """An application's answer to a vote or notice.

    Attributes:
        kind: ``vote`` or ``notice``.
        event: what it was asked about.
        result: ``accept``, ``reject``, ``complete`` or ``unknown``, as it answered; ``timeout`` if
            the window closed first; ``none`` if it left, or a newer vote or notice ended this one.
        reason: its reason, as an operator would read it.
        took_s: seconds from the question to the answer or the end.
        extended_s: by how many seconds it got its window extended.
    """

    kind: str
    event: Event
    result: str
    reason: str
    took_s: float
    extended_s: int = 0


@attrs.frozen
class Health:
    """How an application is, as the guest daemon would report it.

    Attributes:
        state: ``healthy``, ``ill``, ``silent`` (two intervals without an answer), ``unregistered``,
            or ``gone`` once the connection is closed.
        reason: why it is ill or silent.
        action: the corrective action that it requests then: none, log, reboot or stop.
    """

    state: str
    reason: str
    action: str

    @property
    def healthy(self) -> bool:
        """Whether it is registered and healthy."""
        return self.state == "healthy"
