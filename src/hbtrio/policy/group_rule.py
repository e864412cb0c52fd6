"""A group of instances of which only so many may be unavailable at once, as it is configured.

A share of the members never rounds towards allowing more: of three, at most 33% unavailable are
none, and at least 34% available are two.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import translate
from functools import cached_property
from typing import Final

import attrs

#: Members of a group that a sentence names; the others are counted.
_NAMED: Final = 3


@attrs.frozen
class Amount:
    """A number of members, or a share of all in percent."""

    value: int
    is_share: bool = False

    @classmethod
    def of(cls, value: int | str) -> Amount:
        """Takes it as it is configured: ``2`` or ``"33%"``."""
        return cls(value) if isinstance(value, int) else cls(int(value.rstrip("%")), is_share=True)

    def floor(self, total: int) -> int:
        """Returns the number of ``total`` members, rounded down."""
        return total * self.value // 100 if self.is_share else self.value

    def ceiling(self, total: int) -> int:
        """Returns the number of ``total`` members, rounded up."""
        return -(-total * self.value // 100) if self.is_share else self.value


@attrs.frozen(slots=False)
class Group:
    """A group and its rule.

    Args:
        name: as it is configured.
        globs: names and uuids of its members, with or without wildcards.
        limit: how many may be unavailable, or with ``keeps`` how many must be available.
        keeps: which of the two it is.
        max_delay_s: how long a corrective action waits for it at most, in seconds.
    """

    name: str
    globs: tuple[str, ...]
    limit: Amount
    keeps: bool = False
    max_delay_s: float = 300.0

    @classmethod
    def configured(
        cls,
        name: str,
        members: Iterable[str],
        max_unavailable: int | str | None,
        min_available: int | str | None,
        max_delay_s: float,
    ) -> Group:
        """Takes a group as it is configured; exactly one of the two limits is set."""
        keeps = max_unavailable is None
        limit = min_available if max_unavailable is None else max_unavailable
        assert limit is not None
        return cls(name, tuple(members), Amount.of(limit), keeps, max_delay_s)

    @cached_property
    def _patterns(self) -> tuple[tuple[re.Pattern[str], re.Pattern[str]], ...]:
        """For uuids and for names; each instance is compared with all."""
        return tuple(
            (re.compile(translate(glob.lower())), re.compile(translate(glob)))
            for glob in self.globs
        )

    def has(self, uuid: str, name: str) -> bool:
        """Whether an instance is a member; its name is case-sensitive, and may be unknown: ""."""
        return any(
            of_uuid.match(uuid) or (name and of_name.match(name))
            for of_uuid, of_name in self._patterns
        )

    def allowed(self, total: int) -> int:
        """Returns how many of ``total`` members may be unavailable."""
        if self.keeps:
            return max(0, total - self.limit.ceiling(total))
        return self.limit.floor(total)

    def words(self, total: int) -> str:
        """Returns the rule for ``total`` members, in words."""
        if self.keeps:
            return f"at least {self.limit.ceiling(total)} of {total} must be available"
        return f"at most {self.allowed(total)} of {total} may be unavailable"

    def refusal(self, blocking: Iterable[tuple[str, str]], total: int) -> str:
        """Returns why a member must not go down: ``group db: db-2 is restarting, at most …``.

        Args:
            blocking: name and state of each that is unavailable: ``db-2``, ``is restarting``.
            total: the number of members.
        """
        each = [f"{name} {state}" for name, state in blocking]
        if len(each) > _NAMED:
            each = [*each[:_NAMED], f"{len(each) - _NAMED} more are unavailable"]
        return f"group {self.name}: {', '.join((*each, self.words(total)))}"
