"""Draws the charts of a report as SVG, which stands in the page and asks for nothing from outside.

Colours are those of the page's CSS variables, so that a chart follows light and dark. Whatever is
drawn is text of the simulation; it is escaped all the same.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Final

from hbtrio.simulate.seed_result import Moment
from hbtrio.text import printable

_WIDTH: Final = 900
_ROW: Final = 20
#: The width of a character, more or less: the labels of bars get the room that they need.
_CHARACTER: Final = 6.5
_NAME: Final = 110
_BINS: Final = 40
_HEIGHT: Final = 160
_MARGIN: Final = 40


def escaped(text: str) -> str:
    """Returns a text as HTML, on one line and without control characters."""
    return html.escape(printable(text))


def bars(rows: Sequence[tuple[str, int]], title: str) -> str:
    """Returns a bar for each row; a row with 0 is marked, since it is to be noticed."""
    most = max((number for _, number in rows), default=0) or 1
    room = 16 + _CHARACTER * max((len(label) for label, _ in rows), default=0)
    space = _WIDTH - room - 80
    parts = []
    for place, (label, number) in enumerate(rows):
        y = place * _ROW
        width = space * number / most
        kind = "" if number else ' class="none"'
        words = f"{number:,}" if number else "NOT SEEN"
        parts.append(
            f'<text x="{room - 8:.1f}" y="{y + 14}"{kind} text-anchor="end">{escaped(label)}</text>'
            f'<rect x="{room:.1f}" y="{y + 4}" width="{width:.1f}" height="12" rx="2" class="bar">'
            f"<title>{escaped(label)}: {number:,}</title></rect>"
            f'<text x="{room + 6 + width:.1f}" y="{y + 14}"{kind}>{words}</text>'
        )
    return _svg(len(rows) * _ROW + 4, parts, title)


def histogram(values: Iterable[float], most: float, unit: str, title: str, mark: float) -> str:
    """Returns how often values fell into each of 40 bins from 0 to ``most``.

    Args:
        values: what is counted; a larger one is in the last bin.
        most: the right end.
        unit: of the values.
        title: what is shown.
        mark: where a line is drawn, such as a bound.
    """
    counts = [0] * _BINS
    for value in values:
        counts[min(_BINS - 1, int(_BINS * max(0.0, value) / most))] += 1
    tallest = max(counts) or 1
    space = _WIDTH - 2 * _MARGIN
    width = space / _BINS
    base = _HEIGHT + 14
    parts = [f'<line x1="{_MARGIN}" y1="{base}" x2="{_WIDTH - _MARGIN}" y2="{base}" class="axis"/>']
    for place, number in enumerate(counts):
        height = max(1.0, _HEIGHT * number / tallest) if number else 0.0
        low, high = place * most / _BINS, (place + 1) * most / _BINS
        parts.append(
            f'<rect x="{_MARGIN + place * width + 1:.1f}" y="{base - height:.1f}" '
            f'width="{width - 2:.1f}" height="{height:.1f}" class="bar">'
            f"<title>{low:.4g} to {high:.4g} {unit}: {number:,}</title></rect>"
        )
    for value in (0.0, most / 4, most / 2, 3 * most / 4, most):
        x = _MARGIN + space * value / most
        parts.append(
            f'<text x="{x:.1f}" y="{base + 16}" text-anchor="middle">{value:.3g} {unit}</text>'
        )
    x = _MARGIN + space * min(1.0, mark / most)
    parts.append(f'<line x1="{x:.1f}" y1="0" x2="{x:.1f}" y2="{base}" class="mark"/>')
    parts.append(f'<text x="{_MARGIN - 4}" y="22" text-anchor="end">{tallest:,}</text>')
    return _svg(base + 24, parts, title)


def timeline(moments: Sequence[Moment], marks: Sequence[float], title: str) -> str:
    """Returns a row for each who: bars for what lasted, dots for what happened.

    Args:
        moments: at least one, in the order of their times.
        marks: the times of violations, in seconds.
    """
    times = [moment.at_s for moment in moments] + list(marks)
    times += [moment.until_s for moment in moments if moment.until_s is not None]
    # What began long before is cut off at the left: the rest would have no room.
    first = max(min(times), (marks[0] if marks else max(times)) - 70)
    span = max(times) - first or 1.0
    rows = {who: row for row, who in enumerate(dict.fromkeys(m.who for m in moments))}
    space = _WIDTH - _NAME - 10
    bottom = len(rows) * _ROW

    def x(at_s: float) -> float:
        return _NAME + space * max(0.0, at_s - first) / span

    parts = [
        f'<text x="{_NAME - 8}" y="{row * _ROW + 14}" text-anchor="end">{escaped(who)}</text>'
        f'<line x1="{_NAME}" y1="{row * _ROW + 10}" x2="{_WIDTH - 10}" y2="{row * _ROW + 10}" '
        f'class="row"/>'
        for who, row in rows.items()
    ]
    for moment in moments:
        y = rows[moment.who] * _ROW
        words = f"<title>{moment.at_s:.3f} s: {escaped(moment.text)}</title>"
        if moment.until_s is None:
            place = f'cx="{x(moment.at_s):.1f}" cy="{y + 10}" r="4"'
            parts.append(f'<circle {place} class="dot">{words}</circle>')
        else:
            width = max(2.0, x(moment.until_s) - x(moment.at_s))
            parts.append(
                f'<rect x="{x(moment.at_s):.1f}" y="{y + 5}" width="{width:.1f}" height="10" '
                f'rx="2" class="span">{words}</rect>'
            )
    parts += [
        f'<line x1="{x(at_s):.1f}" y1="0" x2="{x(at_s):.1f}" y2="{bottom}" class="mark">'
        f"<title>violation at {at_s:.3f} s</title></line>"
        for at_s in marks
    ]
    for quarter in range(5):
        at_s = first + span * quarter / 4
        anchor = ("start", "middle", "middle", "middle", "end")[quarter]
        parts.append(
            f'<text x="{x(at_s):.1f}" y="{bottom + 16}" text-anchor="{anchor}">{at_s:.1f} s</text>'
        )
    return _svg(bottom + 22, parts, title)


def _svg(height: float, parts: Iterable[str], title: str) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height:g}" role="img" aria-label="{escaped(title)}">'
        f"{''.join(parts)}</svg>"
    )
