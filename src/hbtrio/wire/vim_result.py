"""What is known of a request to the VIM once it was tried.

The VIM closes without a byte after most of what it accepts (PROTOCOL.md, section 3), so that no
answer says nothing by itself. What decides is whether the request was written whole: before that
the VIM can't have acted on it, after that it may have.
"""

from __future__ import annotations

from enum import Enum

import attrs


class MissingAnswer(Enum):
    """How a connection ended on which the whole request had been written."""

    #: Closed in order, without a byte: the VIM's usual way.
    CLOSED = "closed without an answer"
    #: Reset: its process was killed, or it did not read to the end.
    RESET = "reset"
    #: Nothing came in time.
    STALLED = "no answer in time"
    #: Something came that is not HTTP.
    GARBLED = "an answer that is not HTTP"


@attrs.frozen
class Delivered:
    """The VIM answered with a 2xx status.

    ``cut`` says why ``body`` is not the whole answer; "" if it is.
    """

    status: int
    body: bytes
    cut: str = ""


@attrs.frozen
class ErrorStatus:
    """The VIM answered with an HTTP status that is not a success."""

    status: int


@attrs.frozen
class Unconfirmed:
    """The whole request was written, and no answer came that could be understood."""

    silence: MissingAnswer


@attrs.frozen
class NotSent:
    """The VIM can't have seen the whole request."""

    reason: str


SendResult = Delivered | ErrorStatus | Unconfirmed | NotSent


def fault_of(result: SendResult) -> str:
    """Why there is no whole answer, in words; "" if there is one."""
    match result:
        case Delivered(cut=cut):
            return cut and f"the answer can't be used: {cut}"
        case ErrorStatus(status):
            return f"the VIM answered with status {status}"
        case Unconfirmed(silence):
            return silence.value
        case NotSent(reason):
            return reason
