"""Checks the values that an application registers with: name, interval and windows."""

from __future__ import annotations

import math
import os
from typing import Any, Final

import attrs

from hbtrio.app.inhibition import Inhibition
from hbtrio.app.responses import ActionWord, corrective_action
from hbtrio.wire.app_codec import MAX_APP_NAME_BYTES
from hbtrio.wire.app_messages import AppInit
from hbtrio.wire.app_socket import (
    APP_SOCKET_VARIABLE,
    DEFAULT_APP_SOCKET,
    configured_app_socket,
)
from hbtrio.wire.vocabulary import (
    CorrectiveAction,
    Event,
    NotificationType,
    WindowKind,
    window_of,
)

#: The guest refuses a shorter interval (PROTOCOL.md, section 4).
_MIN_HEARTBEAT_S: Final = 0.4

#: An hour between heartbeats and a day per window: larger values are mistaken units.
_MAX_HEARTBEAT_S: Final = 3600
_MAX_WINDOW_S: Final = 86_400

#: The least silence, in seconds, for a guest daemon to count as hung: its machine may be busy.
_MIN_PATIENCE_S: Final = 10.0

#: The size of a unix socket's address without the NUL.
_MAX_PATH_BYTES: Final = 107


class Refused(Exception):
    """The guest daemon refused the registration; the text names the application and interval."""


def _number(value: Any, what: str, least: float, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{what}: {value!r} is not a number")
    # Written so that NaN is refused too.
    if not least <= value <= most:
        raise ValueError(f"{what}: {value!r} is not within {least:g} to {most:g} s")
    return float(value)


def _heartbeat(_: Any, attribute: attrs.Attribute[float], value: Any) -> None:
    _number(value, attribute.name, _MIN_HEARTBEAT_S, _MAX_HEARTBEAT_S)


def _window(_: Any, attribute: attrs.Attribute[int], value: Any) -> None:
    if not _number(value, attribute.name, 1, _MAX_WINDOW_S).is_integer():
        raise ValueError(f"{attribute.name}: {value!r} is not a whole number of seconds")


def _action(word: CorrectiveAction | ActionWord) -> CorrectiveAction:
    return corrective_action(word, "corrective_action")


def _name(_: Any, attribute: attrs.Attribute[str], value: Any) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{attribute.name}: {value!r} is not text")
    if not value or not value.isprintable():
        raise ValueError(f"{attribute.name}: {value!r} is not one or more printable characters")
    if len(value.encode()) > MAX_APP_NAME_BYTES:
        raise ValueError(
            f"{attribute.name}: {value!r} has more than {MAX_APP_NAME_BYTES} bytes in UTF-8"
        )


@attrs.frozen(kw_only=True)
class Registration:
    """The checked values of a registration.

    Args:
        name: the name that operators read: 1 to 39 bytes of UTF-8, printable.
        heartbeat_s: how often the guest sends a challenge: 0.4 to 3600 s, in whole ms.
        vote_s: the window of votes: whole seconds, 1 to 86400, as for all windows.
        shutdown_notice_s: the window of the notices of stop and reboot.
        suspend_notice_s: the window of the notices of pause, suspend and ``*_begin``.
        resume_notice_s: the window of the notices of unpause, resume and ``*_end``.
        corrective_action: the action on the VM if the application is silent or ill.
        health_every_s: how often the health handler is called: 0.1 to 3600 s; None is
            ``heartbeat_s``.
        inhibition: the events that the application rejects while it is registered; None for none.

    Raises:
        TypeError: a value has the wrong type.
        ValueError: a value is out of range; the text names the value.
    """

    name: str = attrs.field(validator=_name)
    heartbeat_s: float = attrs.field(validator=_heartbeat)
    vote_s: int = attrs.field(validator=_window)
    shutdown_notice_s: int = attrs.field(validator=_window)
    suspend_notice_s: int = attrs.field(validator=_window)
    resume_notice_s: int = attrs.field(validator=_window)
    corrective_action: CorrectiveAction = attrs.field(converter=_action)
    health_every_s: float | None = attrs.field()
    inhibition: Inhibition | None = attrs.field(
        default=None, validator=attrs.validators.optional(attrs.validators.instance_of(Inhibition))
    )

    @health_every_s.validator
    def _health_every(self, _: attrs.Attribute[float | None], value: Any) -> None:
        if value is not None:
            _number(value, "health_every_s", 0.1, _MAX_HEARTBEAT_S)

    @property
    def health_interval_s(self) -> float:
        """Seconds between calls of the health handler, and the limit of one call."""
        return self.heartbeat_s if self.health_every_s is None else self.health_every_s

    @property
    def patience_s(self) -> float:
        """Seconds without a challenge after which the guest counts as hung.

        The guest sends a challenge every interval unless it waits for the response to the last one
        (PROTOCOL.md, section 4).
        """
        return max(5 * self.heartbeat_s, _MIN_PATIENCE_S)

    @property
    def init(self) -> AppInit:
        """The message of the registration."""
        return AppInit(
            name=self.name,
            # Round up: 0.4001 must not become an interval that is refused.
            heartbeat_interval_ms=math.ceil(round(1000 * self.heartbeat_s, 6)),
            vote_secs=int(self.vote_s),
            shutdown_notice_secs=int(self.shutdown_notice_s),
            suspend_notice_secs=int(self.suspend_notice_s),
            resume_notice_secs=int(self.resume_notice_s),
            corrective_action=self.corrective_action,
        )

    def window_s(self, event: Event, notification: NotificationType) -> int:
        """Returns how long the guest waits for the response, in seconds.

        For the notice of an unknown event, this is the shortest notice window.
        """
        if notification is NotificationType.REVOCABLE:
            return self.vote_s
        notices = {
            WindowKind.SHUTDOWN_NOTICE: self.shutdown_notice_s,
            WindowKind.SUSPEND_NOTICE: self.suspend_notice_s,
            WindowKind.RESUME_NOTICE: self.resume_notice_s,
        }
        if event is Event.UNKNOWN:
            return min(notices.values())
        return notices[window_of(event, notification)]


def socket_path(path: str | os.PathLike[str] | None) -> str:
    """Returns the path of the guest daemon's socket as a string.

    Args:
        path: None: that of ``HBTRIO_APP_SOCKET`` in the environment, else the default.

    Raises:
        TypeError: the path is neither a string nor a path of strings.
        ValueError: the path is empty, longer than 107 bytes, or contains a NUL.
    """
    if path is None:
        given = configured_app_socket(None, os.environ)
        return DEFAULT_APP_SOCKET if given is None else _checked_path(given, APP_SOCKET_VARIABLE)
    return _checked_path(path, "socket")


def _checked_path(path: str | os.PathLike[str], what: str) -> str:
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(text, str):
        raise TypeError(f"{what}: {path!r} is neither text nor a path of text")
    try:
        length = len(os.fsencode(text))
    except UnicodeEncodeError:
        raise ValueError(f"{what}: {text!r} can't be the name of a file") from None
    if not 0 < length <= _MAX_PATH_BYTES:
        raise ValueError(f"{what}: {text!r} does not have 1 to {_MAX_PATH_BYTES} bytes")
    if "\0" in text:
        raise ValueError(f"{what}: {text!r} has a NUL in it")
    return text
