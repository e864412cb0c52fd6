"""``[instances."GLOB"]`` of host.toml, and the same in a domain's metadata.

What is set for some instances goes before what the host has for all. Each key is looked for by
itself, and taken from the first of these places that has it:

1. the table whose key is the instance's uuid,
2. the table whose key is libvirt's name of it,
3. the metadata of its domain, if ``[libvirt] metadata`` is on,
4. tables with wildcards that match its name or uuid; the one with the most other characters goes
   first, and of two with as many the later one in the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from fnmatch import translate
from functools import cached_property
from typing import Any, Final, Literal

import attrs

from hbtrio.config.settings import choice, flag, number, unfit
from hbtrio.config.source import Fault, shown

CorrectiveUse = Literal["on", "log", "off"]

#: What places call the metadata of a domain.
METADATA: Final = "metadata"

#: The longest key, in characters.
_GLOB_CHARS: Final = 255

_UUID: Final = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
#: In a set the first character is one of it, also a ].
_WILDCARD: Final = re.compile(r"[*?]|\[(?:!.|[^!])[^\]]*\]", re.DOTALL)


# ruff: noqa: RUF009 -- the calls in the class bodies make attrs fields, not shared defaults
@attrs.frozen(kw_only=True)
class InstanceSettings:
    """What is set for some instances; None: what the host has for all."""

    watch: bool | None = flag(None)
    #: ``log``: only the command of the action log runs; ``off``: none.
    corrective: CorrectiveUse | None = choice(None, CorrectiveUse)
    grace_s: float | None = number(None, 0, 86_400, "s")
    absent_after_s: float | None = number(None, 0, 86_400, "s")
    no_io_for_s: float | None = number(None, 0, 3600, "s")
    per_hour: int | None = number(None, 1, 3600, "per VM and hour")
    vote_max_s: int | None = number(None, 1, 86_400, "s")
    notice_max_s: int | None = number(None, 1, 86_400, "s")
    restart_max_s: int | None = number(None, 1, 86_400, "s")


#: The keys, in their order.
KEYS: Final = tuple(field.name for field in attrs.fields(InstanceSettings))


def is_uuid(key: str) -> bool:
    """Whether a key is a complete uuid."""
    return _UUID.fullmatch(key) is not None


def glob_fault(glob: str) -> str:
    """Returns what is wrong with a name or uuid, with or without wildcards; "" if nothing is."""
    if not glob:
        return '"": must be a name or uuid, with or without wildcards'
    if len(glob) > _GLOB_CHARS:
        return f"{shown(glob)}: must be at most {_GLOB_CHARS} characters long"
    if any(unfit(glob)):
        return f"{shown(glob)}: must not contain control characters"
    if _has_open_set(glob):
        return f"{shown(glob)}: is no glob: a [ without its ]; write [[] for the character"
    return ""


def glob_faults(tables: Mapping[str, object]) -> Iterator[str]:
    """Yields the faults of the keys of all tables."""
    uuids: set[str] = set()
    for key in tables:
        if fault := glob_fault(key):
            yield Fault(fault, key)
        elif is_uuid(key):
            if key.lower() in uuids:
                yield Fault(f"{shown(key)}: is the same uuid as another", key)
            uuids.add(key.lower())


def _has_open_set(key: str) -> bool:
    return "[" in _WILDCARD.sub("", key)


@attrs.frozen(slots=False)
class _Rule:
    key: str
    settings: InstanceSettings
    place: str

    @property
    def is_exact(self) -> bool:
        return not _WILDCARD.search(self.key)

    @property
    def literals(self) -> int:
        return len(_WILDCARD.sub("", self.key))

    @cached_property
    def _patterns(self) -> tuple[re.Pattern[str], re.Pattern[str]]:
        return re.compile(translate(self.key.lower())), re.compile(translate(self.key))

    def matches(self, uuid: str, name: str) -> bool:
        of_uuid, of_name = self._patterns
        return bool(of_uuid.match(uuid) or (name and of_name.match(name)))


@attrs.frozen
class InstancePolicy:
    """What holds for one instance.

    Args:
        watch: whether it is challenged at all.
        corrective: which corrective commands may run for it.
        grace_s: for how long its ill health is only shown after heartbeating began, in seconds.
        absent_after_s: how long its guest may take to begin, or to come back, in seconds; 0: the
            RESTART of its profile.
        no_io_for_s: for how long its I/O is observed before it is reset, in seconds; 0: not at all.
        per_hour: corrective commands in an hour, at most.
        vote_max_s: the longest vote window that its guest may ask for, in seconds.
        notice_max_s: the longest notice window, in seconds.
        restart_max_s: the longest RESTART window, in seconds.
        places: where each key is set that is set for some instances only.
    """

    watch: bool
    corrective: CorrectiveUse
    grace_s: float
    absent_after_s: float
    no_io_for_s: float
    per_hour: int
    vote_max_s: int
    notice_max_s: int
    restart_max_s: int
    places: Mapping[str, str] = attrs.field(factory=dict)


class InstanceRules:
    """Finds what holds for an instance.

    Args:
        tables: ``[instances]``, by their globs.
        default: what the host has for all.
        reads_metadata: whether the metadata of domains counts.
    """

    def __init__(
        self,
        tables: Mapping[str, InstanceSettings],
        default: InstancePolicy,
        *,
        reads_metadata: bool,
    ) -> None:
        self.default = default
        self.reads_metadata = reads_metadata
        rules = [
            _Rule(key, settings, f"instances.{shown(key)}") for key, settings in tables.items()
        ]
        self._uuids = {rule.key.lower(): rule for rule in rules if is_uuid(rule.key)}
        self._names = {rule.key: rule for rule in rules if rule.is_exact and not is_uuid(rule.key)}
        # The later one first, which a stable sort keeps.
        globs = [rule for rule in reversed(rules) if not rule.is_exact]
        self._globs = sorted(globs, key=lambda rule: -rule.literals)

    @property
    def needs_libvirt(self) -> bool:
        """Whether only libvirt knows what holds for an instance."""
        return (
            self.reads_metadata
            or any(needs_name(rule.key) for rule in self._globs)
            or bool(self._names)
        )

    def of(self, uuid: str, name: str, metadata: InstanceSettings | None) -> InstancePolicy:
        """Returns what holds for an instance.

        Args:
            uuid: in lower case.
            name: libvirt's; empty if it is unknown.
            metadata: that of its domain, if it has any.
        """
        found: dict[str, Any] = {}
        places: dict[str, str] = {}
        for settings, place in self._of(uuid, name, metadata):
            for key in KEYS:
                value = getattr(settings, key)
                if value is not None and key not in found:
                    found[key], places[key] = value, place
        return attrs.evolve(self.default, **found, places=places) if found else self.default

    def _of(
        self, uuid: str, name: str, metadata: InstanceSettings | None
    ) -> Iterator[tuple[InstanceSettings, str]]:
        for exact in (self._uuids.get(uuid), self._names.get(name)):
            if exact is not None:
                yield exact.settings, exact.place
        if metadata is not None and self.reads_metadata:
            yield metadata, METADATA
        for rule in self._globs:
            if rule.matches(uuid, name):
                yield rule.settings, rule.place


def needs_name(key: str) -> bool:
    """Whether a key is about libvirt's names: all but a uuid and ``*`` may be."""
    return not is_uuid(key) and key.strip("*") != ""
