"""What a host has answered to the request to open a vote or notice."""

from __future__ import annotations

import attrs


@attrs.frozen
class OpeningReply:
    """What became of a request to open a vote or notice.

    Args:
        seconds: its window; 0 if it is not known to be open.
        fault: why; "" if it is open.
        is_unknown: whether the host may have opened it all the same.
        is_owned: whether the host refuses it because of an operator's action.
    """

    seconds: int = 0
    fault: str = ""
    is_unknown: bool = False
    is_owned: bool = False
