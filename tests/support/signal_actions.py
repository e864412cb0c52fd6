"""The actions of signals with which the children of tests start."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Final

#: ``nohup`` ignores the one and a shell's ``&`` the other.
_IGNORED_BY_SHELLS: Final = (signal.SIGHUP, signal.SIGINT)


def spare_children() -> None:
    """Lets children start with the default action of signals that this process ignores.

    An ignored signal stays ignored across exec, a handled one does not. With a handler that does
    nothing, this process still ignores it and no child inherits that.
    """
    for number in _IGNORED_BY_SHELLS:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, _nothing)


def _nothing(number: int, frame: FrameType | None) -> None:
    pass
