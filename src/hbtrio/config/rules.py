"""Checks rules about several keys, such as "certificate and key go together".

A rule reads its keys as attributes of their table and yields the faults. If some keys of a table
are faulty, the rule gets the table's :class:`SoundKeys` instead; it ends without further faults as
soon as it reads a faulty key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

#: Called with a table; yields its faults.
Rule = Callable[[Any], Iterator[str]]


class BrokenRulesError(ValueError):
    """The faults that the rules of one table found."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


class Ruled:
    """The base of an attrs class with ``rules``; raises BrokenRulesError with all their faults."""

    __slots__ = ()

    rules: ClassVar[tuple[Rule, ...]] = ()

    def __attrs_post_init__(self) -> None:
        """Check the rules, once the attrs validators have checked each value."""
        if faults := broken_rules(type(self), self):
            raise BrokenRulesError(faults)


class SoundKeys:
    """The keys of a table with a valid or default value, as attributes."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def __getattr__(self, name: str) -> Any:
        if name not in self._values:
            raise _UnsoundError
        return self._values[name]


class _UnsoundError(Exception):
    """A rule reads a key without a valid value."""


def broken_rules(cls: type[Any], values: Any) -> list[str]:
    """Return the faults that the rules of ``cls`` find in ``values``.

    Args:
        cls: any class; one without rules has no faults.
        values: an instance of ``cls``, or SoundKeys with its fields.
    """
    faults: list[str] = []
    for rule in getattr(cls, "rules", ()) if issubclass(cls, Ruled) else ():
        try:
            faults.extend(rule(values))
        except _UnsoundError:
            continue
    return faults
