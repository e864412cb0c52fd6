"""``guest_heartbeat.conf``: the guest's configuration, in the format of the deployed C client.

A VM that moves to hbtrio keeps its file, so the format is the client's: ``KEY=VALUE`` lines, ``#``
comments, bare or quoted values, and the same defaults. Where the client silently used a default (an
unknown key, ``8s``, ``Reboot``), this module refuses the file: an operator must not find out in
production that a window was not set. docs/configuration.md lists these differences.

The guest runs in small VMs, so this module imports only the standard library and attrs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from typing import Any, Final

import attrs

from hbtrio.config.settings import choice, key_of, number, path, setting_of, word
from hbtrio.config.source import MAX_FAULTS, config_error, read_source, shown, unknown_key
from hbtrio.text import printable
from hbtrio.wire.vocabulary import EVENT_TABLE, CorrectiveAction, Event

#: The deployed client's path.
DEFAULT_GUEST_CONFIG: Final = "/etc/guest-client/heartbeat/guest_heartbeat.conf"

_ACTIONS = (CorrectiveAction.LOG, CorrectiveAction.REBOOT, CorrectiveAction.STOP)
_POLICIES = ("allow", "reject")
_BLANKS = " \t\r\v\f"
_COMMENT = re.compile(r"(?:^|[ \t])#.*")


def _window(default: int, key: str) -> Any:
    return number(default, 1, 86_400, "s", key=key)


def _policy(event: Event) -> Any:
    span = f"{', '.join(_POLICIES)}, or empty: as FAILURE_POLICY"
    key = f"FAILURE_POLICY_{event.upper()}"
    return word("", f"({'|'.join(_POLICIES)})?", span, key=key)


# ruff: noqa: RUF009 -- the calls in the class body make attrs fields, not shared defaults
@attrs.frozen(kw_only=True)
class GuestConfig:
    """The guest's settings.

    The windows apply to the handlers in the VM. The guest advertises each window plus one second,
    for the messages' way.

    Raises:
        ValueError: a value is out of range, or a health script has an interval of 0.
    """

    hb_interval_ms: int = number(1000, 400, 60_000, "ms", key="HB_INTERVAL")
    hb_init_retry_ms: int = number(5000, 100, 600_000, "ms", key="HB_INIT_RETRY")
    #: The least challenge timeout, which otherwise is twice the interval; 0 is no minimum.
    hb_min_timeout_ms: int = number(5000, 0, 600_000, "ms", key="HB_MIN_TIMEOUT")
    vote_s: int = _window(10, "VOTE")
    shutdown_notice_s: int = _window(10, "SHUTDOWN_NOTICE")
    suspend_notice_s: int = _window(10, "SUSPEND_NOTICE")
    resume_notice_s: int = _window(10, "RESUME_NOTICE")
    restart_s: int = _window(120, "RESTART")
    corrective_action: CorrectiveAction = choice(
        CorrectiveAction.REBOOT, _ACTIONS, key="CORRECTIVE_ACTION"
    )
    #: 0 only without a health script.
    health_check_interval_s: int = number(30, 0, 86_400, "s", key="HEALTH_CHECK_INTERVAL")
    health_check_script: str | None = path(None, key="HEALTH_CHECK_SCRIPT")
    #: Runs in a row that outlive their interval and so count as ill health.
    health_check_timeouts: int = number(2, 1, 1000, "runs", key="HEALTH_CHECK_TIMEOUTS")
    #: Requested for that ill health; a script that reports ill health gets CORRECTIVE_ACTION.
    health_timeout_action: CorrectiveAction = choice(
        CorrectiveAction.LOG, _ACTIONS, key="HEALTH_TIMEOUT_ACTION"
    )
    event_notification_script: str | None = path(None, key="EVENT_NOTIFICATION_SCRIPT")
    #: What a voter does that can't be run or does not answer in time: it agrees, or rejects.
    failure_policy: str = choice("allow", _POLICIES, key="FAILURE_POLICY")
    failure_policy_stop: str = _policy(Event.STOP)
    failure_policy_reboot: str = _policy(Event.REBOOT)
    failure_policy_pause: str = _policy(Event.PAUSE)
    failure_policy_suspend: str = _policy(Event.SUSPEND)
    failure_policy_resize_begin: str = _policy(Event.RESIZE_BEGIN)
    failure_policy_live_migrate_begin: str = _policy(Event.LIVE_MIGRATE_BEGIN)
    failure_policy_cold_migrate_begin: str = _policy(Event.COLD_MIGRATE_BEGIN)
    app_socket_mode: str = word("0660", "0?[0-7]{3}", "three octal digits", key="APP_SOCKET_MODE")
    #: Empty: the daemon's own group.
    app_socket_group: str = word(
        "", r"([A-Za-z_][A-Za-z0-9._-]{0,31})?", "a group's name, or empty", key="APP_SOCKET_GROUP"
    )

    def __attrs_post_init__(self) -> None:
        """Refuse a health script with an interval of 0."""
        if self.health_check_script is not None and self.health_check_interval_s == 0:
            raise ValueError("health_check_interval_s: 0 with a health_check_script")

    @property
    def failure_rejects(self) -> frozenset[Event]:
        """The events whose votes a voter rejects that can't be run or does not answer in time."""
        return frozenset(
            event
            for event, rule in EVENT_TABLE.items()
            if rule.voted
            and (getattr(self, f"failure_policy_{event}") or self.failure_policy) == "reject"
        )

    @property
    def app_socket_bits(self) -> int:
        """``app_socket_mode`` as a number for ``chmod``."""
        return int(self.app_socket_mode, 8)


_FIELDS = {
    key_of(field): (field.name, field.default, setting)
    for field in attrs.fields(GuestConfig)
    if (setting := setting_of(field))
}


def load_guest_config(
    path: str | os.PathLike[str] = DEFAULT_GUEST_CONFIG, *, missing_ok: bool = False
) -> GuestConfig:
    """Read the guest's configuration from a file.

    Args:
        path: the file.
        missing_ok: return all defaults if the file doesn't exist. Use this for the default path,
            not for a path that a user gave.

    Raises:
        ConfigError: the file can't be read or is not UTF-8, or the faults of
            :func:`parse_guest_config`.
    """
    return parse_guest_config(read_source(path, missing_ok=missing_ok), os.fspath(path))


def parse_guest_config(text: str, name: str) -> GuestConfig:
    """Parse the text of a guest configuration.

    The last of several lines with one key counts, as for the C client and for a shell that sources
    the file, because images are customised by appending lines. Every line must be valid.
    ``HEALTH_CHECK_INTERVAL=0`` turns the health script off, as for the C client.

    Args:
        text: the file's content.
        name: the file's name, for the faults.

    Raises:
        ConfigError: up to 50 faults, each as ``NAME:LINE: KEY: fault``, and the number of others.
    """
    name = printable(name)
    values: dict[str, Any] = {}
    faults: list[str] = []
    # Not splitlines(), which also ends a line at a form feed or at U+2028 within a value.
    for place, line in enumerate(text.split("\n"), 1):
        line = line.strip(_BLANKS)
        if not line or line.startswith("#"):
            continue
        # A suggestion costs half a millisecond; there may be thousands of unknown keys.
        known = _FIELDS if len(faults) < MAX_FAULTS else ()
        faults.extend(f"{name}:{place}: {fault}" for fault in _take(line, values, known))
    if faults:
        raise config_error(name, faults)
    if values.get("health_check_interval_s") == 0:
        values["health_check_script"] = None
    return GuestConfig(**values)


def _take(line: str, values: dict[str, Any], known: Collection[str]) -> Iterator[str]:
    """Add the value of one line to ``values``; yield the line's faults.

    Of the ``known`` keys, the one most like an unknown key is suggested.
    """
    key, equals, raw = line.partition("=")
    key = key.rstrip(_BLANKS)
    if not equals:
        yield f"no = in {shown(line)}, expected KEY=VALUE"
        return
    if key not in _FIELDS:
        yield f"{shown(key)[1:-1]}: {unknown_key(key, known)}"
        return
    name, default, setting = _FIELDS[key]
    try:
        values[name] = _value_of(_unquoted(raw.strip(_BLANKS)), default)
    except ValueError as error:
        yield f"{key}: {error}"
        return
    for fault in setting.check(values[name]):
        yield f"{key}: {fault}"


def _unquoted(raw: str) -> str:
    """Return a value without its quotes and a trailing comment.

    Raises:
        ValueError: a quote is not closed, or text follows the closing quote.
    """
    quote = raw[:1]
    if quote and quote in "'\"":
        text, closed, rest = raw[1:].partition(quote)
        if not closed:
            raise ValueError(f"no closing {quote} in {shown(raw)}")
        rest = rest.strip(_BLANKS)
        if rest and not rest.startswith("#"):
            raise ValueError(f"text after the closing {quote}, {shown(rest)}")
        return text.strip(_BLANKS)
    # As in a shell, # starts a comment only after a blank: /opt/check#2 is a path.
    return _COMMENT.sub("", raw).rstrip(_BLANKS)


def _value_of(text: str, default: object) -> Any:
    """Convert a value to the type of its default; a default of None stands for an optional path."""
    match default:
        case int():
            if not text:
                raise ValueError(f"empty; leave the line out for the default, {default}")
            # int() alone also takes "1_000", " 8 " and Arabic digits. Eighteen digits exceed every
            # maximum.
            if not re.fullmatch(r"-?[0-9]{1,18}", text):
                raise ValueError(f"must be a whole number, got {shown(text)}")
            return int(text)
        case CorrectiveAction():
            # Not CorrectiveAction(text), which maps any other word to UNKNOWN. The check refuses
            # other words and lists the valid ones.
            return next((action for action in CorrectiveAction if action == text), text)
        case str():
            return text
        case _:
            return text or None
