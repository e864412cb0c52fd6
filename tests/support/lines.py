"""Lines of the operator API as a client sees them."""

from __future__ import annotations

import json
from typing import Any

from hbtrio.wire.operator import encode_line
from hbtrio.wire.operator.words import StreamLine


def members(line: StreamLine | None) -> dict[str, Any]:
    """What a client reads of a line."""
    assert line is not None
    read: dict[str, Any] = json.loads(encode_line(line))
    return read
