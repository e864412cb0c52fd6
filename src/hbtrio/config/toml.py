"""Reads TOML files into attrs classes, strictly, and reports every fault at once.

cattrs walks the classes. Values that cattrs would convert by default are refused: ``"12"`` is not a
number, ``true`` and ``1.9`` are not 1, and a string is not a list of characters. The only
conversion is from a whole number to a float, because people write ``timeout_s = 60``.

Each value is checked against its field's :class:`~hbtrio.config.settings.Setting` before the class
is built, because attrs' validators would stop at the first fault and don't know its path. If a
class can't be built because of a faulty key, its :mod:`~hbtrio.config.rules` still check the valid
keys.
"""

from __future__ import annotations

import ast
import contextlib
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, TypeVar, get_args, get_origin

import attrs
import cattrs
from cattrs.errors import ClassValidationError, ForbiddenExtraKeysError
from cattrs.gen import make_dict_structure_fn, override

from hbtrio.config.rules import BrokenRulesError, SoundKeys, broken_rules
from hbtrio.config.settings import NumberOrShare, Setting, key_of, setting_of
from hbtrio.config.source import MAX_FAULTS, Fault, config_error, read_source, shown, unknown_key
from hbtrio.config.toml_lines import Place, find_places
from hbtrio.errors import ConfigError
from hbtrio.text import printable

T = TypeVar("T")

#: The keys down to a value.
KeyPath = tuple[str, ...]

# tomllib of Python 3.11 gives the place of a fault only within the text of its message,
_PLACE = re.compile(r"(?P<what>.*) \(at line (?P<line>\d+), column (?P<column>\d+)\)", re.DOTALL)
# and a key that is defined twice only as a Python tuple.
_TWICE = re.compile(r"Cannot (?:declare|mutate immutable namespace) (?P<key>\(.*\))(?: twice)?")
# A float can't represent every larger integer.
_EXACT_FLOAT = 2**53
# A key that needs no quotes.
_BARE = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)


class _ValueRefused(ValueError):
    """All faults of one value."""

    def __init__(self, *faults: str) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


class _TablesRefused(_ValueRefused):
    """All faults of tables with free keys, each with its path below them, which may be empty."""

    def __init__(self, faults: list[tuple[KeyPath, str]]) -> None:
        super().__init__(*(fault for _, fault in faults))
        self.places = faults


def load_toml(path: str | os.PathLike[str], cls: type[T], *, missing_ok: bool = False) -> T:
    """Read a TOML file into a class.

    Args:
        path: the file.
        missing_ok: return all defaults if the file doesn't exist. Use this for a default path, not
            for a path that a user gave.
        cls: an attrs class, with or without :mod:`hbtrio.config.rules`. Its fields are declared
            with :mod:`hbtrio.config.settings` and have the types ``str``, ``int``, ``float``,
            ``bool``, ``Literal`` of strings, ``tuple[str, ...]``, ``NumberOrShare``, another such
            class or a ``Mapping`` from keys to one.

    Raises:
        ConfigError: the file is missing, can't be read, is not UTF-8 or is over 64 KiB; it is not
            TOML, as ``FILE:LINE:COLUMN: fault``; or the faults of :func:`structure`.
    """
    return parse_toml(read_source(path, missing_ok=missing_ok), cls, os.fspath(path))


def parse_toml(text: str, cls: type[T], name: str) -> T:
    """Parse a TOML text into ``cls``; arguments and errors are those of :func:`load_toml`."""
    try:
        data = tomllib.loads(text)
    except RecursionError as error:
        raise ConfigError([f"{printable(name)}: nested too deeply"]) from error
    except ValueError as error:  # TOMLDecodeError, or a number Python refuses to read
        raise ConfigError([f"{printable(name)}{_syntax_fault(text, str(error))}"]) from error
    return structure(data, cls, name, text)


def structure(data: Mapping[str, Any], cls: type[T], name: str, text: str = "") -> T:
    """Build ``cls`` from the result of tomllib.

    Args:
        data: the file's top-level table.
        cls: see :func:`load_toml`.
        name: the file's name, for the faults.
        text: the TOML that tomllib read, for the lines of the faults; empty: it was none.

    Raises:
        ConfigError: up to 50 faults, each as ``NAME:LINE: path.to.key: fault``, and how many
            others. Without a line: a missing key of the top-level table, or there is no text.
    """
    name = printable(name)
    try:
        return _CONVERTER.structure(dict(data), cls)
    except ClassValidationError as group:
        places = find_places(text)
        faults = []
        for path, fault in _faults_of(group, ()):
            line = _line_of(fault, path, places)
            place = f"{name}:{line}" if line else name
            faults.append(": ".join(filter(None, (place, ".".join(map(_quoted, path)), fault))))
        raise config_error(name, faults) from group


def _line_of(fault: str, path: KeyPath, places: Place) -> int:
    """Return the line of what a fault is about, or else of the path where it was found; 0: none."""
    about = fault.about if isinstance(fault, Fault) else ()
    lines = [line for way in about if (line := places.exact_line_of((*path, *way)))]
    return lines[0] if lines else places.line_of(path)


def _syntax_fault(text: str, message: str) -> str:
    """Return ``:LINE:COLUMN: fault``, or ``: fault`` if tomllib gives no place."""
    if match := _PLACE.fullmatch(message):
        what = match["what"]
        if twice := _TWICE.fullmatch(what):
            what = f"{'.'.join(ast.literal_eval(twice['key']))} is defined twice"
        return f":{match['line']}:{match['column']}: {shown(what)[1:-1]}"
    what, at_end, _ = message.rpartition(" (at end of document)")
    if at_end:
        lines = text.split("\n")
        return f":{len(lines)}:{len(lines[-1]) + 1}: {shown(what)[1:-1]}"
    return f": {shown(message)[1:-1]}"


def _faults_of(error: BaseException, path: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    """Yield each fault with its path, in the order of the fields.

    Any other error is raised again: a bug in a check must not look like a fault of the file.
    """
    match error:
        case ClassValidationError():
            noted, others = error.group_exceptions()
            for inner, note in noted:
                field = attrs.fields_dict(error.cl)[note.name]
                yield from _faults_of(inner, (*path, key_of(field)))
            for inner in others:
                yield from _faults_of(inner, path)
        case ForbiddenExtraKeysError():
            known = [key_of(field) for field in attrs.fields(error.cl)]
            for number, key in enumerate(sorted(error.extra_fields)):
                # What follows the first faults is only counted.
                fault = unknown_key(key, known if number < MAX_FAULTS else ())
                yield (*path, key), fault
        case _TablesRefused():
            for inner_path, fault in error.places:
                yield (*path, *inner_path), fault
        case _ValueRefused() | BrokenRulesError():
            for fault in error.faults:
                yield path, fault
        case KeyError() if path and error.args == (path[-1],):
            yield path, "is missing, and has no default"
        case _:
            raise error


def _strict(expected: type, words: str) -> Callable[[Any, Any], Any]:
    def hook(value: Any, _type: Any) -> Any:
        # Not isinstance: True is an int.
        if type(value) is not expected:
            raise _ValueRefused(f"must be {words}, got {shown(value)}")
        return value

    return hook


def _number_or_share(value: Any, _type: Any) -> int | str:
    if type(value) not in (int, str):
        raise _ValueRefused(f'must be a whole number, or a share such as "33%", got {shown(value)}')
    number_or_share: int | str = value
    return number_or_share


def _fraction(value: Any, _type: Any) -> float:
    if type(value) is int and abs(value) <= _EXACT_FLOAT:
        return float(value)
    if type(value) is not float:
        raise _ValueRefused(f"must be a number, got {shown(value)}")
    return value


def _texts(value: Any, _type: Any) -> tuple[str, ...]:
    if type(value) is not list:
        raise _ValueRefused(f"must be a list of strings, got {shown(value)}")
    wrong = [
        Fault(f"item {place}: must be a string, got {shown(item)}", place - 1)
        for place, item in enumerate(value, 1)
        if type(item) is not str
    ]
    if wrong:
        raise _ValueRefused(*wrong)
    return tuple(value)


def _tables_hook(field: attrs.Attribute[Any], setting: Setting) -> Callable[[Any, Any], Any]:
    _, cls = get_args(field.type)
    fill = _CONVERTER.get_structure_hook(cls)

    def hook(value: Any, _type: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise _ValueRefused(f"must be tables, got {shown(value)}")
        faults: list[tuple[KeyPath, str]] = [((), fault) for fault in setting.check(value)]
        filled = {}
        for key, inner in value.items():
            try:
                filled[key] = fill(inner, cls)
            except (ClassValidationError, _ValueRefused) as error:
                faults.extend(_faults_of(error, (key,)))
        if faults:
            raise _TablesRefused(faults)
        return filled

    return hook


def _quoted(key: str) -> str:
    """Return a key as it stands in a file, cut at 80 characters."""
    quoted = shown(key)
    return quoted[1:-1] if _BARE.fullmatch(key) else quoted


def _field_hook(field: attrs.Attribute[Any]) -> Callable[[Any, Any], Any]:
    if get_origin(field.type) is Mapping and (of_tables := setting_of(field)) is not None:
        return _tables_hook(field, of_tables)
    hook = _CONVERTER.get_structure_hook(field.type)
    setting = setting_of(field)
    if setting is None:
        return hook
    check = setting.check

    def checked(value: Any, type_: Any) -> Any:
        value = hook(value, type_)
        if faults := list(check(value)):
            raise _ValueRefused(*faults)
        return value

    return checked


def _table_hook(cls: type[Any]) -> Callable[[Any, Any], Any]:
    attrs.resolve_types(cls)
    overrides = {
        field.name: override(rename=key_of(field), struct_hook=_field_hook(field))
        for field in attrs.fields(cls)
    }
    fill = make_dict_structure_fn(
        cls,
        _CONVERTER,
        _cattrs_forbid_extra_keys=True,
        _cattrs_detailed_validation=True,
        **overrides,  # type: ignore[arg-type]
    )

    def hook(value: Any, type_: Any) -> Any:
        if not isinstance(value, dict):
            raise _ValueRefused(f"must be a table, got {shown(value)}")
        try:
            return fill(value, type_)
        except ClassValidationError as group:
            if any(isinstance(error, BrokenRulesError) for error in group.exceptions):
                raise  # no key is faulty, so building the class has checked the rules
            if faults := broken_rules(cls, _sound_keys(cls, value)):
                raise group.derive([*group.exceptions, BrokenRulesError(faults)]) from group
            raise

    return hook


def _sound_keys(cls: type[Any], data: Mapping[str, Any]) -> SoundKeys:
    """Return the keys of a table that have a valid value or a default."""
    sound: dict[str, Any] = {}
    for field in attrs.fields(cls):
        key = key_of(field)
        if attrs.has(field.type):
            if isinstance(inner := data.get(key, {}), dict):
                sound[field.name] = _sound_keys(field.type, inner)
        elif key in data:
            with contextlib.suppress(_ValueRefused):
                sound[field.name] = _field_hook(field)(data[key], field.type)
        elif get_origin(field.type) is Mapping:
            sound[field.name] = {}
        elif field.default is not attrs.NOTHING:
            sound[field.name] = field.default
    return SoundKeys(sound)


def _is_literal(type_: Any) -> bool:
    origin: object = get_origin(type_)
    return origin is Literal


def _new_converter() -> cattrs.Converter:
    converter = cattrs.Converter(detailed_validation=True)
    converter.register_structure_hook_factory(attrs.has, _table_hook)
    converter.register_structure_hook(str, _strict(str, "a string"))
    converter.register_structure_hook(int, _strict(int, "a whole number"))
    converter.register_structure_hook(bool, _strict(bool, "true or false"))
    converter.register_structure_hook(float, _fraction)
    converter.register_structure_hook_func(_is_literal, _strict(str, "a string"))
    converter.register_structure_hook_func(lambda type_: type_ == tuple[str, ...], _texts)
    converter.register_structure_hook_func(lambda type_: type_ == NumberOrShare, _number_or_share)
    return converter


_CONVERTER = _new_converter()
