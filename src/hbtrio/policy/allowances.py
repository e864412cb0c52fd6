"""Shares out the time beyond the end of a window among guest, host, agent and VIM.

Guest, host and agent each wait for the same answer. One that was stopped or starved over its
deadline allows some more time in which answers count. These allowances must not overlap: an answer
that the guest still accepts must reach a host that still waits for it, and so on up to the VIM,
whose timer can't be extended. In seconds from the opening of a window of ``W`` seconds, the length
that the guest has advertised:

=================  ================================================================================
``W - 1``          the guest's own window ends (PROTOCOL.md: it leaves 1 s for its answer's way)
``W - 0.2``        a late guest decides
``W``              the host's window ends
``W + 1``          a late host decides
``W + 2``          the host's report has arrived, even at an agent that was late by a second
``W + 2.75``       the agent agrees for a silent guest
``W + 3``          the VIM's timer ends; nothing is sent to the VIM from here on
=================  ================================================================================

The VIM accepts a request by itself after 45 s, so its timer is at most 44 s, and the agent agrees
0.25 s before that, even if the host's window is still open.

Every bound is on the waiting for answers. Reading what has arrived comes on top, at most 0.15 s.
"""

from __future__ import annotations

from typing import Final

#: Milliseconds that the guest leaves for its answer's way to the host (PROTOCOL.md).
PROPAGATION_MS: Final = 1000

#: How long before the end of the host's window a late guest decides, in seconds.
GUEST_MARGIN_S: Final = 0.2

#: How long after the end of its window a late host decides, in seconds.
HOST_ALLOWS_S: Final = 1.0

#: How late the host's report may be beyond that, in seconds, because the agent itself was late.
AGENT_ALLOWS_S: Final = 1.0

#: What is left for the verdict's way to the VIM, in seconds.
VERDICT_S: Final = 1.0

#: How long before the VIM's timer ends a silent guest counts as agreeing, in seconds. The VIM takes
#: a verdict that arrives just after the end of its timer for the answer of its next step.
MARGIN_S: Final = 0.25

#: How long an agent that is late at that moment waits for reports, in seconds; together with the
#: reading, most of the margin must be left for the verdict.
AGENT_LATE_S: Final = 0.05

#: The longest timer that the VIM is given, in seconds.
LONGEST_TOLD_S: Final = 44

_BEYOND_S: Final = HOST_ALLOWS_S + AGENT_ALLOWS_S + VERDICT_S


def guest_window_s(timeout_ms: int) -> float:
    """Returns the length of the guest's own window in seconds, at least 0.

    Args:
        timeout_ms: from the host's message, any int. One up to 1000 ms is used in full.
    """
    timeout_ms = max(0, timeout_ms)
    return (timeout_ms - PROPAGATION_MS if timeout_ms > PROPAGATION_MS else timeout_ms) / 1000


def guest_allows_s(timeout_ms: int) -> float:
    """Returns how long after the end of its own window a late guest decides, in seconds.

    Args:
        timeout_ms: from the host's message, any int. One up to 1000 ms leaves nothing to allow: the
            guest's own window ends together with the host's.
    """
    if timeout_ms <= PROPAGATION_MS:
        return 0.0
    return PROPAGATION_MS / 1000 - GUEST_MARGIN_S


def answer_within_s(window_s: float, *, for_vim: bool) -> float:
    """Returns until when the requester of a vote or notice waits for its result, in seconds.

    Args:
        window_s: the host's window.
        for_vim: whether the VIM is the requester; other requesters wait for long windows, too.
    """
    needed_s = window_s + _BEYOND_S
    return min(needed_s, LONGEST_TOLD_S) if for_vim else needed_s


def told_timeout_s(window_s: int) -> int:
    """Returns the ``timeout`` of the agent's reply to the VIM in seconds, at most 44.

    Args:
        window_s: the host's window, at least 1; 0 if the instance takes no part, which is then the
            timeout, too.
    """
    return int(answer_within_s(window_s, for_vim=True)) if window_s else 0


def agrees_after_s(window_s: float, *, for_vim: bool) -> float:
    """Returns how long after the opening a silent guest counts as agreeing, in seconds.

    Args: as for :func:`answer_within_s`.
    """
    return answer_within_s(window_s, for_vim=for_vim) - MARGIN_S
