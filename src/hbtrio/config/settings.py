"""Declares settings as attrs fields, with default, unit, range and check in one place.

Each function returns a field with a :class:`Setting` in its metadata. The reader of a file runs the
setting's check before it builds the class, so that it can report every fault with its place. The
field's validator runs the same check when code builds the class. Tests compare the default files
and docs/configuration.md with the same metadata.

The guest uses this module too, so it imports only the standard library, attrs and msgspec.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from typing import Any, Final, get_args

import attrs
import msgspec

from hbtrio.config.source import Fault, shown

#: Yields the faults of a value of the right type.
Check = Callable[[Any], Iterator[str]]

#: ``{name}`` is a placeholder and ``{{name}}`` a literal ``{name}``. Other braces are left alone,
#: so JSON and awk programs work, but ``${HOME}`` has to be ``${{HOME}}``. If only known names were
#: placeholders, a mistake such as ``{UUID}`` would reach the command unnoticed.
PLACEHOLDER = re.compile(r"\{\{([A-Za-z_][\w-]*)\}\}|\{([A-Za-z_][\w-]*)\}", re.ASCII)

_UNFIT = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
# Linux' limit: PATH_MAX less the NUL.
_PATH_BYTES = 4095
#: Linux' limit for the path of a unix socket: sun_path less the NUL.
SOCKET_PATH_BYTES: Final = 107
#: One less for a socket to listen at: :mod:`hbtrio.net.unix_socket` binds it as ``PATH~``.
LISTENED_PATH_BYTES: Final = 106
# Linux allows 128 KiB per argument; longer programs belong in a file.
_ARGUMENT_CHARS = 4096
_ARGUMENTS = 64
_GROUPS = 16
# Not only those that groupadd accepts: a directory service has others.
_GROUP = re.compile(r"[^\W-][^\s:,\x00-\x1f\x7f\ud800-\udfff]{0,63}")


class Setting(msgspec.Struct, frozen=True):
    """The unit, range and check of a field.

    Args:
        unit: ``ms``, ``s``, ``bytes`` and so on, or empty.
        span: the permitted values, as the documentation describes them.
        check: yields the faults of a value.
    """

    unit: str
    span: str
    check: Check


def setting_of(field: attrs.Attribute[Any]) -> Setting | None:
    """Return the setting of a field; None for a table."""
    return field.metadata.get("setting")


def key_of(field: attrs.Attribute[Any]) -> str:
    """Return a field's key in the file."""
    key: str = field.metadata.get("key") or field.name
    return key


def number(
    default: float | None,
    low: float,
    high: float,
    unit: str = "",
    *,
    over: bool = False,
    key: str = "",
) -> Any:
    """Declare a number from ``low`` (without it if ``over``) to ``high``, both in ``unit``.

    A default of None, here and for a choice or switch, stands for a key that is not set.
    """
    span = f"over {low:.12g}, at most {high:.12g}" if over else f"{low:.12g} to {high:.12g}"
    words = f"over {low:.12g} and at most {high:.12g}" if over else span

    def check(value: float) -> Iterator[str]:
        # Written to refuse TOML's nan too, for which every comparison is false.
        if not (low < value <= high if over else low <= value <= high):
            yield f"must be {words}{' ' if unit else ''}{unit}, got {shown(value)}"

    return checked_field(default, check, span, unit, key)


def choice(default: str | None, permitted: Any, *, key: str = "") -> Any:
    """Declare a choice among the words of a ``Literal`` type or a collection."""
    words = get_args(permitted) or tuple(permitted)
    span = ", ".join(words)

    def check(value: str) -> Iterator[str]:
        if value not in words:
            yield f"must be one of {span}, got {shown(value)}"

    return checked_field(default, check, span, key=key)


def flag(default: bool | None, *, key: str = "") -> Any:  # noqa: FBT001
    """Declare a switch."""

    def check(_: bool) -> Iterator[str]:  # noqa: FBT001
        yield from ()

    return checked_field(default, check, "true or false", key=key)


#: A number of things, or a share of all of them in percent: ``"33%"``.
NumberOrShare = int | str | None

_SHARE: Final = re.compile(r"(100|[1-9]?[0-9])%", re.ASCII)


def number_or_share(high: int, unit: str) -> Any:
    """Declare a whole number from 0 to ``high``, or a share such as "33%"; none is set."""
    span = f'0 to {high}, or "0%" to "100%"'

    def check(value: int | str) -> Iterator[str]:
        fits = 0 <= value <= high if isinstance(value, int) else _SHARE.fullmatch(value)
        if not fits:
            yield f"must be {span}, got {shown(value)}"

    return checked_field(None, check, span, unit)


def path(
    default: str | None, *, instead: Collection[str] = (), socket: bool = False, key: str = ""
) -> Any:
    """Declare an absolute path; ``instead`` are words that may replace it.

    A default of None permits None, an empty value in the file. With ``socket`` the path has at most
    106 bytes, to fit the address of a unix socket to listen at. The file need not exist yet.
    """
    limit = LISTENED_PATH_BYTES if socket else _PATH_BYTES

    def check(value: str | None) -> Iterator[str]:
        if value is None or value in instead:
            return
        if not value.startswith("/"):
            yield f"must be an absolute path, got {shown(value)}"
        yield from unfit(value)
        if (size := len(value.encode(errors="replace"))) > limit:
            yield f"must be at most {limit} bytes long, got {size}"

    span = "absolute path"
    if socket:
        span += f", at most {limit} bytes"
    if default is None or "" in instead:
        span += ", or empty"
    span += "".join(f', or "{word}"' for word in instead if word)
    return checked_field(default, check, span, key=key)


def word(default: str, pattern: str, span: str, *, key: str = "") -> Any:
    """Declare a string that matches a whole regular expression; ``span`` describes it."""
    compiled = re.compile(pattern)

    def check(value: str) -> Iterator[str]:
        if not compiled.fullmatch(value):
            yield f"must be {span}, got {shown(value)}"

    return checked_field(default, check, span, key=key)


def command(*placeholders: str, key: str = "") -> Any:
    """Declare a command as a list of arguments; the default is empty, no command.

    The first argument is the program. It must not contain a placeholder, because a VM must never
    decide which program is run. The others may contain the given placeholders, also repeatedly.
    """
    known = _braced(placeholders)

    def check(value: tuple[str, ...]) -> Iterator[str]:
        if len(value) > _ARGUMENTS:
            yield f"must be at most {_ARGUMENTS} arguments, got {len(value)}"
            return
        if value and not value[0]:
            yield _of_item(1, "must name a program, got nothing")
        for place, item in enumerate(value, 1):
            if len(item) > _ARGUMENT_CHARS:
                fault = f"must be at most {_ARGUMENT_CHARS} characters long"
                yield _of_item(place, fault)
                continue
            # Newlines and tabs are valid in a script for sh -c; no argument can hold a NUL.
            if "\0" in item:
                yield _of_item(place, f"must not contain a NUL, got {shown(item)}")
            for name in placeholders_in(item):
                if place == 1:
                    fault = f"the program must not contain a placeholder, got {{{name}}}"
                    yield _of_item(1, fault)
                elif name not in placeholders:
                    yield _of_item(
                        place,
                        f"unknown placeholder {{{name}}}, expected {known}; "
                        f"write {{{{{name}}}}} for a literal {{{name}}}",
                    )

    return checked_field((), check, f"list of arguments with {known}; empty: none", "", key)


def file_patterns(default: tuple[str, ...]) -> Any:
    """Declare file name patterns, each with ``{uuid}`` exactly once: 1 to 16, no two alike."""

    def check(value: tuple[str, ...]) -> Iterator[str]:
        if not 1 <= len(value) <= 16:
            yield f"must be 1 to 16 patterns, got {len(value)}"
            return
        for place, item in enumerate(value, 1):
            if item.count("{uuid}") != 1 or placeholders_in(item) != ["uuid"]:
                fault = f"must contain {{uuid}} once and no other placeholder, got {shown(item)}"
                yield _of_item(place, fault)
            elif "/" in item:
                yield _of_item(place, f"must be a file name without /, got {shown(item)}")
            elif item in value[: place - 1]:
                yield _of_item(place, f"is listed twice, {shown(item)}")
            yield from (_of_item(place, fault) for fault in unfit(item))

    return checked_field(default, check, "1 to 16 file names with {uuid} once", "", "")


def group_names() -> Any:
    """Declare a list of names of groups of this machine: at most 16, no two alike."""

    def check(value: tuple[str, ...]) -> Iterator[str]:
        if len(value) > _GROUPS:
            yield f"must be at most {_GROUPS} groups, got {len(value)}"
            return
        for place, item in enumerate(value, 1):
            if not _GROUP.fullmatch(item):
                yield _of_item(place, f"must be the name of a group, got {shown(item)}")
            elif item in value[: place - 1]:
                yield _of_item(place, f"is listed twice, {shown(item)}")

    return checked_field((), check, f"at most {_GROUPS} names of groups", "", "")


def table(cls: type[Any], *, key: str = "") -> Any:
    """Declare a table of settings; a missing table has all defaults."""
    return attrs.field(factory=cls, metadata={"key": key})


def tables(check: Check, span: str) -> Any:
    """Declare tables with keys that are no names of settings; ``check`` yields the keys' faults.

    The field's type is ``Mapping[str, CLASS]``, and the default has none.
    """

    def validate(_instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        for fault in check(value):
            raise ValueError(f"{attribute.name}: {fault}")

    setting = Setting("", span, check)
    return attrs.field(factory=dict, validator=validate, metadata={"setting": setting, "key": ""})


def placeholders_in(text: str) -> list[str]:
    """Return the names of the placeholders in a text, in order and with repetitions."""
    return [match[2] for match in PLACEHOLDER.finditer(text) if match[2]]


def checked_field(default: Any, check: Check, span: str, unit: str = "", key: str = "") -> Any:
    """Return a field with a Setting; ``key`` is its name in the file if that differs."""

    def validate(_instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if value is None and default is None:
            return
        for fault in check(value):
            raise ValueError(f"{attribute.name}: {fault}")

    setting = Setting(unit, span, check)
    return attrs.field(
        default=default, validator=validate, metadata={"setting": setting, "key": key}
    )


def unfit(text: str) -> Iterator[str]:
    """Yield a fault if a text contains characters that are unfit for a file name."""
    # The system refuses NULs and lone surrogates; other control characters are mistakes.
    if _UNFIT.search(text):
        yield f"must not contain control characters, got {shown(text)}"


def _of_item(place: int, fault: str) -> Fault:
    """Return a fault of an item of a list, counted from 1."""
    return Fault(f"item {place}: {fault}", place - 1)


def _braced(names: Collection[str]) -> str:
    return ", ".join(f"{{{name}}}" for name in names)
