"""Checks configuration files and reports all faults of all at once; status 2 if there are any.

Of a host's file it prints what is set for some instances: who is watched, and who is acted upon. Of
a host's or an agent's it prints the groups.
The files that a file names, such as certificates and tokens, are not opened: they may be on another
machine.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import tomllib
from collections.abc import Callable, Iterator, Mapping, Set
from typing import Any, Final

import attrs

from hbtrio.cli.extras import Need, require
from hbtrio.config.agent import AgentConfig
from hbtrio.config.groups import GroupSettings
from hbtrio.config.guest import GuestConfig, parse_guest_config
from hbtrio.config.host import HostConfig
from hbtrio.config.instances import KEYS
from hbtrio.config.settings import key_of
from hbtrio.config.source import read_source, read_standard_input
from hbtrio.errors import ConfigError, ExitStatus
from hbtrio.output import write_out
from hbtrio.text import printable


@attrs.frozen
class _Kind:
    """Whose configuration a file may be.

    Args:
        name: what is looked for in the name of a file.
        article: what stands before the name.
        cls: what the file is made into.
        parse: does it; called with the text and the name of the file.
    """

    name: str
    article: str
    cls: type[Any]
    parse: Callable[[str, str], object]

    @property
    def keys(self) -> Set[str]:
        """The keys and tables at its top."""
        return {key_of(field) for field in attrs.fields(self.cls)}


def _toml_parser(cls: type[Any], extra: str) -> Callable[[str, str], object]:
    def parse(text: str, name: str) -> object:
        require(Need(extra, ("cattrs",)))
        # Imported here: where only a guest is installed, a guest's file can still be checked.
        from hbtrio.config.toml import parse_toml

        return parse_toml(text, cls, name)

    return parse


_GUEST: Final = _Kind("guest", "a", GuestConfig, parse_guest_config)
_HOST: Final = _Kind("host", "a", HostConfig, _toml_parser(HostConfig, "host"))
_AGENT: Final = _Kind("agent", "an", AgentConfig, _toml_parser(AgentConfig, "agent"))
_KINDS: Final = (_GUEST, _HOST, _AGENT)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument(
        "files",
        metavar="FILE",
        nargs="+",
        help="host.toml, agent.toml or a guest_heartbeat.conf; if its name does not say which, its "
        "keys do; -: standard input",
    )
    parser.add_argument(
        "--kind",
        choices=[kind.name for kind in _KINDS],
        help="whose configuration the files are, whatever their names and keys say",
    )


def run(options: argparse.Namespace) -> int:
    """Checks the files, each of them whatever the others are like.

    Raises:
        ConfigError: the faults of all, with the status of the first faulty one.
        UserError: one is a host's or an agent's, and what reads those is not installed.
    """
    told = next((kind for kind in _KINDS if kind.name == options.kind), None)
    refused: list[ConfigError] = []
    for path in options.files:
        try:
            kind, config = _check(path, told)
        except ConfigError as error:
            refused.append(error)
        else:
            write_out(f"{printable(_name(path))}: correct ({kind.name})\n")
            lines: list[str] = []
            if isinstance(config, HostConfig):
                lines += _set_for_some(config)
            if isinstance(config, HostConfig | AgentConfig):
                lines += _groups(config.groups)
            write_out("".join(f"  {line}\n" for line in lines))
    if refused:
        raise ConfigError([fault for one in refused for fault in one.faults], refused[0].status)
    return ExitStatus.DONE


def _set_for_some(config: HostConfig) -> Iterator[str]:
    """Yields what each ``[instances."GLOB"]`` sets, in the order of the file."""
    for key, settings in config.instances.items():
        values = {name: getattr(settings, name) for name in KEYS}
        words = [
            f"{name} = {json.dumps(value)}" for name, value in values.items() if value is not None
        ]
        glob = printable(json.dumps(key, ensure_ascii=False))
        yield f"instances {glob}: {', '.join(words) or 'as all'}"


def _groups(groups: Mapping[str, GroupSettings]) -> Iterator[str]:
    """Yields each ``[groups.NAME]``, in the order of the file."""
    for name, group in groups.items():
        limit = "max_unavailable" if group.min_available is None else "min_available"
        value = json.dumps(getattr(group, limit))
        members = printable(json.dumps(group.members, ensure_ascii=False))
        yield f"groups.{name}: {limit} = {value}, members = {members}"


def _name(path: str) -> str:
    return "standard input" if path == "-" else path


def _check(path: str, told: _Kind | None) -> tuple[_Kind, object]:
    """Returns whose configuration a file is taken for, and its content; raises its faults."""
    file = printable(_name(path))
    text = read_standard_input() if path == "-" else read_source(path)
    named, meant = _kind_by_name(path), _kind_by_keys(text)
    otherwise = _HOST if path.endswith(".toml") else _GUEST
    kind = told or named or meant or otherwise
    try:
        config = kind.parse(text, _name(path))
    except ConfigError as error:
        if told is not None:
            raise
        checked = f"{file}: checked as {kind.article} {kind.name}'s"
        if named is None:
            raise ConfigError([checked, *error.faults], error.status) from error
        if meant is not None and meant is not named:
            checked += f", as its name says; its keys are those of {meant.article} {meant.name}"
            raise ConfigError([checked, *error.faults], error.status) from error
        raise
    return kind, config


def _kind_by_name(path: str) -> _Kind | None:
    """What a file's name says; nothing if it names none or several."""
    name = os.path.basename(path).casefold()
    named = [kind for kind in _KINDS if kind.name in name]
    if name.endswith(".conf") and _GUEST not in named:
        named.append(_GUEST)
    return named[0] if len(named) == 1 else None


def _kind_by_keys(text: str) -> _Kind | None:
    """Whose keys a text has, or most of; nothing if it has as many of several, or is no TOML.

    A guest's is TOML as well if all its values are numbers or in quotes. Keys that several kinds
    have, such as ``brake``, say nothing.
    """
    data: dict[str, Any] = {}
    with contextlib.suppress(ValueError, RecursionError):
        data = tomllib.loads(text)
    count = {kind: len(data.keys() & _own_keys(kind)) for kind in _KINDS}
    first, second = sorted(count, key=count.__getitem__, reverse=True)[:2]
    return first if count[first] > count[second] else None


def _own_keys(kind: _Kind) -> Set[str]:
    return kind.keys - set().union(*(other.keys for other in _KINDS if other is not kind))
