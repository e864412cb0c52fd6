"""The results of handlers: responses to a vote, and the application's health."""

from __future__ import annotations

from typing import Any, Literal

import attrs

from hbtrio.wire.vocabulary import CorrectiveAction

#: The names of corrective actions, for type checkers.
ActionWord = Literal["none", "log", "reboot", "stop"]


def corrective_action(word: Any, argument: str) -> CorrectiveAction:
    """Converts a name to a corrective action.

    Args:
        word: the name, unchecked.
        argument: the name of the argument, for errors.

    Raises:
        TypeError: ``word`` is not a string.
        ValueError: ``word`` is not none, log, reboot or stop.
    """
    if not isinstance(word, str):
        raise TypeError(f"{argument}: {word!r} is not one of none, log, reboot, stop")
    # The enum maps any other word to UNKNOWN; a typo has to be an error.
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
    """Response to a vote: the application accepts the event."""


@attrs.frozen
class Reject:
    """Response to a vote: the event must not happen now. One reject rejects for the whole VM.

    Args:
        reason: the text that the operator reads, cut after 191 bytes of UTF-8.

    Raises:
        TypeError: the reason is not a string.
    """

    reason: str = attrs.field(validator=_text)


@attrs.frozen
class Healthy:
    """Result of the health handler: the application is healthy."""


@attrs.frozen
class Unhealthy:
    """Result of the health handler: the application is ill, and so is the VM.

    Args:
        reason: the text that the operator reads, cut after 191 bytes of UTF-8.
        action: the action on the VM, also as a name such as ``"reboot"``; None is the registered
            action.

    Raises:
        TypeError: the reason or the action is not a string.
        ValueError: there is no such action.
    """

    reason: str = attrs.field(validator=_text)
    action: CorrectiveAction | None = attrs.field(default=None, converter=_action)
