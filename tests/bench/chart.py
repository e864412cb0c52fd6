"""Draws what was compared, as an SVG that needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final
from xml.sax.saxutils import escape

import attrs

from bench.comparison import PACKED, SHAPES, Comparison
from bench.sample import Sample

_COLOURS: Final = dict(
    zip(SHAPES, ("#999999", "#555555", "#117733", "#cc3311", "#ee9955"), strict=True)
)

_WIDTH: Final = 420
_HEIGHT: Final = 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 15, 40, 40
_HEAD: Final = 54

_STYLE: Final = "text{font:12px sans-serif;fill:#222}.title{font-weight:bold}line{stroke:#ddd}"


@attrs.frozen
class Panel:
    """One diagram over the number of channels.

    Attributes:
        title: above it.
        points: of each line its places: channels, and the least, median and most of the rounds.
        logarithmic: whether its ordinate is.
    """

    title: str
    points: Mapping[str, Sequence[tuple[int, float, float, float]]]
    logarithmic: bool = False


def panel(
    title: str,
    comparisons: Sequence[Comparison],
    value: Callable[[Comparison, Sample], float],
    *,
    logarithmic: bool = False,
) -> Panel:
    """A diagram of a value of all samples."""
    points: dict[str, list[tuple[int, float, float, float]]] = {}
    for comparison in sorted(comparisons, key=lambda one: one.channels):
        for shape, samples in comparison.samples.items():
            seen = sorted(value(comparison, sample) for sample in samples)
            middle = seen[(len(seen) - 1) // 2]
            points.setdefault(shape, []).append((comparison.channels, seen[0], middle, seen[-1]))
    return Panel(title, points, logarithmic)


def chart(comparisons: Sequence[Comparison], caption: str) -> str:
    """The diagrams of all comparisons.

    Args:
        comparisons: at least one.
        caption: what ran where, and under which load.
    """
    panels = [
        panel("CPU time of a beat, us", comparisons, lambda _, sample: sample.beat_us),
        panel(
            "lateness of beats, p99, ms",
            comparisons,
            lambda _, sample: max(sample.late_ms[1], 0.1),
            logarithmic=True,
        ),
        panel("memory of a channel, KiB", comparisons, lambda _, sample: sample.channel_kb),
    ]
    if all(PACKED in one.samples for one in comparisons):
        panels.insert(
            1,
            panel(
                "CPU time of a beat, to the packed floor",
                comparisons,
                lambda one, sample: sample.beat_us / one.beat_us(PACKED),
            ),
        )
    width, height = 2 * _WIDTH, _HEAD + -(-len(panels) // 2) * _HEIGHT
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
        f' width="{width}" height="{height}">',
        f'<style>{_STYLE}</style><rect width="100%" height="100%" fill="#fff"/>',
        _text(10, 20, caption),
        *_legend(panels),
    ]
    for place, one in enumerate(panels):
        x, y = place % 2 * _WIDTH, _HEAD + place // 2 * _HEIGHT
        lines += [f'<g transform="translate({x} {y})">', *_drawn(one), "</g>"]
    return "\n".join([*lines, "</svg>", ""])


def _legend(panels: Sequence[Panel]) -> list[str]:
    lines, x = [], 10
    for shape in panels[0].points:
        lines.append(f'<rect x="{x}" y="34" width="12" height="12" fill="{_COLOURS[shape]}"/>')
        lines.append(_text(x + 17, 45, shape))
        x += 35 + 8 * len(shape)
    return lines


def _drawn(one: Panel) -> list[str]:
    places = [point for points in one.points.values() for point in points]
    channels = sorted({point[0] for point in places})
    least, most = min(point[1] for point in places), max(point[3] for point in places)
    ticks = _decades(least, most) if one.logarithmic else _steps(most)
    bottom, top = ticks[0], ticks[-1]

    def x(count: float) -> float:
        span = math.log(channels[-1] / channels[0]) or 1.0
        inner = _WIDTH - _LEFT - _RIGHT - 40
        return _LEFT + 20 + math.log(count / channels[0]) / span * inner

    def y(value: float) -> float:
        if one.logarithmic:
            part = math.log(value / bottom) / math.log(top / bottom)
        else:
            part = (value - bottom) / (top - bottom)
        return _HEIGHT - _BOTTOM - part * (_HEIGHT - _TOP - _BOTTOM)

    lines = [_text(_LEFT, 24, one.title, "title")]
    for tick in ticks:
        lines.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
        )
        lines.append(_text(_LEFT - 6, y(tick) + 4, f"{tick:g}", anchor="end"))
    lines += [
        _text(x(count), _HEIGHT - _BOTTOM + 18, f"{count:,}", anchor="middle") for count in channels
    ]
    lines.append(_text((_LEFT + _WIDTH) / 2, _HEIGHT - 6, "channels", anchor="middle"))
    for shape, points in one.points.items():
        colour = _COLOURS[shape]
        path = " ".join(f"{x(count):.1f},{y(middle):.1f}" for count, _, middle, _ in points)
        lines.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for count, low, middle, high in points:
            lines.append(
                f'<path d="M{x(count):.1f} {y(low):.1f}V{y(high):.1f}" stroke="{colour}"/>'
                f'<circle cx="{x(count):.1f}" cy="{y(middle):.1f}" r="3" fill="{colour}">'
                f"<title>{escape(shape)}: {middle:.2f} ({low:.2f} to {high:.2f})</title></circle>"
            )
    return lines


def _decades(least: float, most: float) -> list[float]:
    low, high = math.floor(math.log10(least)), math.ceil(math.log10(most))
    return [10.0**exponent for exponent in range(low, max(high, low + 1) + 1)]


def _steps(most: float) -> list[float]:
    """Round numbers from 0 to the first that is no less than the largest."""
    rough = max(most, 1e-3) / 5
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
    return [step * number for number in range(max(1, math.ceil(most / step)) + 1)]


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    of_kind = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{of_kind}>{escape(text)}</text>'
