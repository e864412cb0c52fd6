"""What handlers return: to a vote, and about the application's health."""

from __future__ import annotations

from typing import Any, Literal

import attrs

from hbtrio.wire.vocabulary import CorrectiveAction

#: The words for a corrective action, for those who check types.
ActionWord = Literal["none", "log", "reboot", "stop"]


def corrective_action(word: Any, argument: str) -> CorrectiveAction:
    """The action with this name.

    Args:
        word: of an author, who may be mistaken.
        argument: what the author calls it.

    Raises:
        TypeError: it is not text.
        ValueError: it is none of none, log, reboot and stop.
    """
    if not isinstance(word, str):
        raise TypeError(f"{argument}: {word!r} is not one of none, log, reboot, stop")
    # The vocabulary takes any word of a peer for unknown; a slip of the pen is to be told.
    action = CorrectiveAction(word)
    if action is CorrectiveAction.UNKNOWN:
        raise ValueError(f"{argument}: {str(word)!r} is not one of none, log, reboot, stop")
    return action


def _action(word: CorrectiveAction | ActionWord | None) -> CorrectiveAction | None:
    return None if word is None else corrective_action(word, "action")


def _text(_: Any, attribute: attrs.Attribute[str], value: Any) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{attribute.name}: {value!r} is not text")


@attrs.frozen
class Accept:
    """To a vote: it may happen, as far as this application is concerned."""


@attrs.frozen
class Reject:
    """To a vote: it must not happen now. One reject, of whomever, is the VM's answer at once.

    Args:
        reason: what the operator reads; beyond 191 bytes of UTF-8 it is cut.

    Raises:
        TypeError: the reason is not text.
    """

    reason: str = attrs.field(validator=_text)


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
        TypeError: the reason or the action is not text.
        ValueError: there is no such action.
    """

    reason: str = attrs.field(validator=_text)
    action: CorrectiveAction | None = attrs.field(default=None, converter=_action)
