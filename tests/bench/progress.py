"""Shows at a terminal what is being measured."""

from __future__ import annotations

import sys


def progress(text: str) -> None:
    """Replaces the line that shows it; into a file nothing is written."""
    if sys.stderr.isatty():
        print(f"\r{text:60}\r", end="", file=sys.stderr, flush=True)
