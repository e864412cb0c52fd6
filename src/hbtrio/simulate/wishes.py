"""What the users of a VIM want of an instance."""

from __future__ import annotations

from typing import Final

import attrs


@attrs.frozen
class Wish:
    """What a user may want.

    Args:
        event: what is voted on and announced.
        end: the end notice; "" if there is none.
        weight: how often it is wanted, compared with others.
    """

    event: str
    end: str
    weight: int


WISHES: Final = (
    Wish("stop", "", 3),
    Wish("reboot", "", 2),
    Wish("pause", "unpause", 3),
    Wish("suspend", "resume", 2),
    Wish("live_migrate_begin", "live_migrate_end", 3),
    Wish("cold_migrate_begin", "cold_migrate_end", 1),
)
