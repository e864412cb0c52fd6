"""What handlers in a VM are to do: a file each, which they read when they are asked or told.

    SECONDS STATUS REASON

The handler takes that long, then answers: status 0 accepts, any other rejects with the reason.
"""

from __future__ import annotations

import os
from pathlib import Path


def write_wish(
    directory: Path, notification: str, event: str, *, after_s: float, status: int, says: str
) -> None:
    """Says what the handler in this directory does from now on; see :meth:`LabGuest.will`."""
    replace(directory / f"wish.{notification}.{event}", f"{after_s:g} {status} {says}\n")


def replace(path: Path, text: str, mode: int = 0o644) -> None:
    """Writes a file that a script may be reading, or that is one that runs, at this moment."""
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(text)
    fresh.chmod(mode)
    os.replace(fresh, path)
