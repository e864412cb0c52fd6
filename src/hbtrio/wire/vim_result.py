"""The possible results of sending a request to the VIM.

The VIM closes the connection without a response after most requests it accepts (PROTOCOL.md,
section 3), so a missing response proves nothing. What counts is whether the whole request was
written: before that the VIM can't have acted on it, afterwards it may have.
"""

from __future__ import annotations

from enum import Enum

import attrs


class MissingAnswer(Enum):
    """How a connection without a response ended after the whole request was written."""

    #: The VIM closed without a byte, as it usually does.
    CLOSED = "closed without an answer"
    #: The VIM's process was killed, or it did not read the whole request.
    RESET = "reset"
    #: No response arrived before the timeout.
    STALLED = "no answer in time"
    #: The VIM sent bytes that are not HTTP.
    GARBLED = "an answer that is not HTTP"


@attrs.frozen
class Delivered:
    """The VIM answered with a 2xx status.

    ``cut`` is the reason why ``body`` is incomplete, or "".
    """

    status: int
    body: bytes
    cut: str = ""


@attrs.frozen
class ErrorStatus:
    """The VIM answered with a status outside 2xx."""

    status: int


@attrs.frozen
class Unconfirmed:
    """The whole request was written, but no valid response came."""

    silence: MissingAnswer


@attrs.frozen
class NotSent:
    """The request was not written completely, so the VIM can't have acted on it."""

    reason: str


SendResult = Delivered | ErrorStatus | Unconfirmed | NotSent


def fault_of(result: SendResult) -> str:
    """Describes why there is no complete response, in words for a log; "" if there is one."""
    match result:
        case Delivered(cut=cut):
            return cut and f"the answer can't be used: {cut}"
        case ErrorStatus(status):
            return f"the VIM answered with status {status}"
        case Unconfirmed(silence):
            return silence.value
        case NotSent(reason):
            return reason
