"""What must not stand in a host's history: a decision twice, or an action without one outcome."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from hbtrio.store.records import HistoryEntry

#: The entries between which a decision may come again.
_DECISIONS: Final = frozenset(
    {"not-acted", "loss", "ill", "heartbeating", "corrective", "hold", "hold-over", "stopped"}
)


def faults(entries: Sequence[HistoryEntry], cuts: Sequence[float]) -> Iterator[str]:
    """Yields what is wrong with a history, the oldest entry first.

    Args:
        entries: those of one instance.
        cuts: when the host was ended, in seconds since the epoch. What it had just decided may not
            have been written, and the next run decides anew.
    """
    yield from _actions([entry for entry in entries if entry.kind == "action"], cuts)
    before: HistoryEntry | None = None
    for entry in (one for one in entries if one.kind in _DECISIONS):
        is_same = before is not None and (before.kind, before.reason) == (entry.kind, entry.reason)
        if before is not None and is_same and entry.kind == "not-acted":
            since, until = before.time.timestamp(), entry.time.timestamp()
            if not any(since <= cut <= until for cut in cuts):
                yield f"decided twice: {entry.reason}"
        before = entry


def _actions(entries: Sequence[HistoryEntry], cuts: Sequence[float]) -> Iterator[str]:
    asked = ""
    for entry in entries:
        name, _, what = entry.reason.partition(": ")
        if what.startswith("refused:"):
            continue
        if what.startswith("asked"):
            if asked:
                yield f"{name} was asked for, and {asked} has no outcome"
            asked = name
        else:
            if asked != name and not any(cut <= entry.time.timestamp() for cut in cuts):
                yield f"{entry.reason}, which nobody has asked for"
            asked = ""
    if asked:
        yield f"{asked} has no outcome"
