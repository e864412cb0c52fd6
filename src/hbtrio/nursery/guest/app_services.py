"""What the connections of all applications share."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from hbtrio.nursery.guest.app_log import AppLog
from hbtrio.nursery.pacer import Pacer
from hbtrio.policy.time_guard import OnTimeGuard
from hbtrio.wire.vocabulary import Event


class SharedServices(msgspec.Struct, frozen=True):
    """The objects that all application connections share."""

    pacer: Pacer
    guard: OnTimeGuard
    new_id: Callable[[], int]
    log: AppLog
    #: Takes that an application, by its name, would not reject an event any more.
    withdrew: Callable[[Event, str], None]
