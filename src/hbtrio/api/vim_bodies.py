"""The bodies of the VIM's requests: from bytes to attrs classes, each fault with its path.

Strict where the deployed agent would have guessed (a number is not a text), lenient where a later
VIM may send more: unknown keys are ignored at all levels.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection
from typing import Any, Final, Literal, TypeVar, get_args, get_origin

import attrs
from cattrs import Converter, transform_error
from cattrs.cols import list_structure_factory
from cattrs.errors import ClassValidationError

from hbtrio.config.source import shown
from hbtrio.wire.vim import Switch
from hbtrio.wire.vocabulary import EVENT_TABLE, Event

T = TypeVar("T", bound="HostBody")

#: The most faults that are reported of one body.
_FAULTS: Final = 10

#: As in host.toml: the host's link is looked up by this name.
_HOSTNAME: Final = re.compile(r"[A-Za-z0-9._-]{1,253}", re.ASCII)

_Heartbeat = Literal["heartbeat"]


class BodyFault(Exception):
    """A body that can't be used; the text has each fault and its place."""


class _BodyRefused(ValueError):
    pass


@attrs.frozen(kw_only=True)
class HostBody:
    """A host, as every request about one names it."""

    uuid: str
    hostname: str


@attrs.frozen(kw_only=True)
class NewInstance(HostBody):
    """A new instance and its services."""

    services: list[_Heartbeat]


@attrs.frozen(kw_only=True)
class ServiceState:
    """A service, and whether its losses must be reported."""

    service: _Heartbeat
    state: Switch


@attrs.frozen(kw_only=True)
class ChangedInstance(HostBody):
    """An instance, maybe on another host than before, and its services' states."""

    services: list[ServiceState]


@attrs.frozen(kw_only=True)
class AskBody(HostBody):
    """A vote or notice."""

    action: Event


def parse_body(raw: bytes, cls: type[T], uuid: str) -> T:
    """A request's body.

    Args:
        raw: its bytes.
        cls: its class.
        uuid: the one in the request's path, in lower case.

    Raises:
        BodyFault: it is not a ``cls``, or it names another uuid.
    """
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError):
        raise BodyFault("the body is not JSON") from None
    if not isinstance(data, dict):
        raise BodyFault("the body is not a JSON object")
    try:
        body = _CONVERTER.structure(data, cls)
    except ClassValidationError as error:
        faults = transform_error(error, "body", _words)[:_FAULTS]
        raise BodyFault("; ".join(map(_place_first, faults))) from error
    if body.uuid.lower() != uuid:
        raise BodyFault("body.uuid: differs from the path's")
    if not _HOSTNAME.fullmatch(body.hostname):
        raise BodyFault(f"body.hostname: must be a host name, got {shown(body.hostname)}")
    return body


def _words(error: BaseException, _: type | None) -> str:
    match error:
        case KeyError():
            return "is missing"
        case _BodyRefused():
            return str(error)
    raise error  # a bug of this module is not to pass for a fault of the body


def _place_first(fault: str) -> str:
    words, _, place = fault.rpartition(" @ ")
    return f"{place}: {words}"


def _strict(expected: type, words: str) -> Callable[[Any, Any], Any]:
    def hook(value: Any, _: Any) -> Any:
        if type(value) is not expected:
            raise _BodyRefused(f"must be {words}, got {_shown(value)}")
        return value

    return hook


def _word(words: Collection[str], make: Callable[[str], Any]) -> Callable[[Any, Any], Any]:
    def hook(value: Any, _: Any) -> Any:
        if not isinstance(value, str) or value not in words:
            raise _BodyRefused(f"must be one of {', '.join(words)}, got {_shown(value)}")
        return make(value)

    return hook


def _shown(value: object) -> str:
    match value:
        case None:
            return "null"
        case dict():
            return "a JSON object"
    return shown(value)


def _list_hook(type_: Any) -> Callable[[Any, Any], Any]:
    fill = list_structure_factory(type_, _CONVERTER)

    def hook(value: Any, of: Any) -> Any:
        if not isinstance(value, list):
            raise _BodyRefused(f"must be a list, got {_shown(value)}")
        return fill(value, of)

    return hook


def _object_hook(cls: type[Any]) -> Callable[[Any, Any], Any]:
    fill = _CONVERTER.gen_structure_attrs_fromdict(cls)

    def hook(value: Any, of: Any) -> Any:
        if not isinstance(value, dict):
            raise _BodyRefused(f"must be a JSON object, got {_shown(value)}")
        return fill(value, of)

    return hook


def _literal_hook(type_: Any) -> Callable[[Any, Any], Any]:
    return _word(get_args(type_), str)


def _is(kind: Any) -> Callable[[Any], bool]:
    def check(type_: Any) -> bool:
        origin: object = get_origin(type_)
        return origin is kind

    return check


def _new_converter() -> Converter:
    converter = Converter(detailed_validation=True)
    converter.register_structure_hook(str, _strict(str, "a string"))
    converter.register_structure_hook(Switch, _word(tuple(Switch), Switch))
    converter.register_structure_hook(Event, _word(tuple(EVENT_TABLE), Event))
    converter.register_structure_hook_factory(attrs.has, _object_hook)
    converter.register_structure_hook_factory(_is(list), _list_hook)
    converter.register_structure_hook_factory(_is(Literal), _literal_hook)
    return converter


_CONVERTER: Final = _new_converter()
