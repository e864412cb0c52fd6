"""What one part of the benchmark has seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from bench.comparison import Comparison
from bench.measure import Measure


@attrs.frozen
class Part:
    """What one part of the benchmark has seen.

    Attributes:
        name: of the part, a key of the JSON object.
        text: its page.
        measures: its lines of the summary.
        data: every sample, for JSON.
        missed: whether a beat of a healthy guest was missed where none may be.
        comparisons: what the diagrams show.
        load: of the machine when it was done, over the last minute.
    """

    name: str
    text: str
    measures: Sequence[Measure]
    data: Any
    missed: bool = False
    comparisons: Sequence[Comparison] = ()
    load: float = 0.0
