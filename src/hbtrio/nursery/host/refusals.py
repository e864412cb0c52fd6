"""What a host refuses, and that its history has it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from hbtrio.nursery.drains import DrainRefused
from hbtrio.nursery.host.action_runs import ActionRefused
from hbtrio.nursery.host.round import NotHeartbeating, RoundOpen
from hbtrio.policy.begin_by import Expired


class UnknownInstance(Exception):
    """This host has no instance with this uuid."""


#: Why a vote, notice or action was not begun.
_REFUSALS: Final = (
    UnknownInstance,
    NotHeartbeating,
    RoundOpen,
    ActionRefused,
    DrainRefused,
    Expired,
)


@contextmanager
def recorded(record: Callable[[str], None]) -> Iterator[None]:
    """Calls ``record`` with the reason of a refusal that passes through."""
    try:
        yield
    except _REFUSALS as error:
        record(str(error))
        raise
