"""What handlers return: to a vote, and about the application's health."""

from __future__ import annotations

import attrs

from hbtrio.wire.vocabulary import CorrectiveAction


def corrective_action(word: str) -> CorrectiveAction:
    """The action with this name.

    Raises:
        ValueError: it is none of none, log, reboot and stop.
    """
    # The vocabulary takes any word of a peer for unknown; a slip of the pen is to be told.
    action = CorrectiveAction(word)
    if action is CorrectiveAction.UNKNOWN:
        raise ValueError(f"corrective action {word!r}: not one of none, log, reboot, stop")
    return action


def _optional_action(word: str | None) -> CorrectiveAction | None:
    return None if word is None else corrective_action(word)


@attrs.frozen
class Accept:
    """To a vote: it may happen, as far as this application is concerned."""


@attrs.frozen
class Reject:
    """To a vote: it must not happen now. One reject, of whomever, is the VM's answer at once.

    Args:
        reason: what the operator reads; beyond 191 bytes of UTF-8 it is cut.
    """

    reason: str = attrs.field(validator=attrs.validators.instance_of(str))


@attrs.frozen
class Healthy:
    """About the application's health: all is well."""


@attrs.frozen
class Unhealthy:
    """About the application's health: something is wrong, and the VM with it.

    Args:
        reason: what the operator reads; beyond 191 bytes of UTF-8 it is cut.
        action: what is to be done with the VM, also as a word such as ``"reboot"``; None is what
            the application registered with.

    Raises:
        ValueError: there is no such action.
    """

    reason: str = attrs.field(validator=attrs.validators.instance_of(str))
    action: CorrectiveAction | None = attrs.field(default=None, converter=_optional_action)
