"""Fills the placeholders of a configured command."""

from __future__ import annotations

from collections.abc import Sequence

from hbtrio.config.settings import PLACEHOLDER
from hbtrio.text import as_argument


def expand(argv: Sequence[str], **values: str) -> list[str]:
    """Replace a command's placeholders by values.

    Each argument stays one argument, and placeholders within a value are not replaced: a reason
    ``{uuid}; rm -rf /`` is passed on as it is, but printable and never beginning with ``-``, see
    :func:`hbtrio.text.as_argument`.

    Raises:
        KeyError: a placeholder has no value; the configuration refuses such commands.
    """
    safe = {name: as_argument(value) for name, value in values.items()}
    return [
        PLACEHOLDER.sub(lambda match: f"{{{match[1]}}}" if match[1] else safe[match[2]], item)
        for item in argv
    ]
