"""The keys of ``host.toml`` about the windows of votes and notices."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from hbtrio.config.settings import number, table
from hbtrio.wire.vocabulary import WindowKind

# ruff: noqa: RUF009 -- the calls in the class bodies make attrs fields, not shared defaults


@attrs.frozen(kw_only=True)
class ExtensionSettings:
    """How much a guest may extend a window by, in all; 0 is not at all."""

    vote: int = number(0, 0, 86_400, "s")
    shutdown_notice: int = number(0, 0, 86_400, "s")
    suspend_notice: int = number(0, 0, 86_400, "s")
    resume_notice: int = number(0, 0, 86_400, "s")

    @property
    def by_window(self) -> Mapping[WindowKind, int]:
        """The limits by the windows that have one, in seconds."""
        limits = {
            WindowKind.VOTE: self.vote,
            WindowKind.SHUTDOWN_NOTICE: self.shutdown_notice,
            WindowKind.SUSPEND_NOTICE: self.suspend_notice,
            WindowKind.RESUME_NOTICE: self.resume_notice,
        }
        return {kind: limit for kind, limit in limits.items() if limit}


@attrs.frozen(kw_only=True)
class WindowSettings:
    """The windows of votes and notices, beside what guests advertise."""

    max_extension_s: ExtensionSettings = table(ExtensionSettings)


@attrs.frozen(kw_only=True)
class VetoSettings:
    """How many rejects of an event stand, in any ``per_s``; 0: all of them."""

    max_rejects: int = number(0, 0, 1000, "rejects")
    per_s: float = number(3600.0, 1, 604_800, "s")
