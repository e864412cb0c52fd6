"""Writes the files that script the handlers in a VM; handlers read them at each vote or notice.

    SECONDS STATUS REASON

The handler waits for that time, then responds: status 0 accepts, any other rejects with the reason.
"""

from __future__ import annotations

import os
from pathlib import Path


def write_response(
    directory: Path, notification: str, event: str, *, after_s: float, status: int, says: str
) -> None:
    """Writes what the handler in this directory does from now on; see :meth:`LabGuest.will`."""
    replace(directory / f"response.{notification}.{event}", f"{after_s:g} {status} {says}\n")


def replace(path: Path, text: str, mode: int = 0o644) -> None:
    """Replaces a file atomically, since a script may be reading or running it."""
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(text)
    fresh.chmod(mode)
    os.replace(fresh, path)
