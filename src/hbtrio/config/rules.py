"""Rules about several keys, such as "certificate and key go together".

A rule reads the keys that it is about as attributes of their table, and yields what is wrong. It is
tried on a file's table as well when some of the keys there are faulty: then on its
:class:`SoundKeys`, and from where it asks for a faulty one it says nothing, for nobody knows what
is meant by that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

#: Called with a table; yields its faults.
Rule = Callable[[Any], Iterator[str]]


class BrokenRulesError(ValueError):
    """What the rules of one table say."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


class Ruled:
    """Base of an attrs class with ``rules``; building it raises BrokenRulesError for all broken."""

    __slots__ = ()

    rules: ClassVar[tuple[Rule, ...]] = ()

    def __attrs_post_init__(self) -> None:
        """Hold the values, each of them sound by itself, to the rules."""
        if faults := broken_rules(type(self), self):
            raise BrokenRulesError(faults)


class SoundKeys:
    """The keys of a table that have a sound value, as attributes; also those at their defaults."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def __getattr__(self, name: str) -> Any:
        if name not in self._values:
            raise _UnsoundError
        return self._values[name]


class _UnsoundError(Exception):
    """A rule needs a key that has no sound value."""


def broken_rules(cls: type[Any], values: Any) -> list[str]:
    """Return what the rules of ``cls``, if it has any, say of ``values``.

    Args:
        cls: any class.
        values: one of it, or SoundKeys with its fields.
    """
    faults: list[str] = []
    for rule in getattr(cls, "rules", ()) if issubclass(cls, Ruled) else ():
        try:
            faults.extend(rule(values))
        except _UnsoundError:
            continue
    return faults
