"""Writes the report of a campaign: one HTML page that asks for nothing from outside."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from hbtrio.simulate.charts import bars, escaped, histogram, timeline
from hbtrio.simulate.fault_words import describe
from hbtrio.simulate.invariants.every import INVARIANTS
from hbtrio.simulate.latencies import Latency
from hbtrio.simulate.results_file import Options
from hbtrio.simulate.seed_result import SeedResult
from hbtrio.simulate.summary import Summary, share_of, spread_of

#: How many failed seeds are shown.
MOST_SHOWN: Final = 30

_STYLE: Final = """
:root { color-scheme: light dark; --text: #1c2430; --soft: #5a6675; --back: #fff; --card: #f3f5f8;
  --line: #d5dbe3; --bar: #2f6fb0; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --text: #e6eaf0; --soft: #a3adba; --back: #14181e;
  --card: #1e242d; --line: #38424f; --bar: #6aa8e8; --bad: #ff8a80; } }
body { font: 15px/1.45 system-ui, sans-serif; color: var(--text); background: var(--back);
  max-width: 940px; margin: 2rem auto; padding: 0 1rem; }
h2 { margin-top: 2.2rem; }
p, td { overflow-wrap: anywhere; }
.soft { color: var(--soft); }
.bad { color: var(--bad); font-weight: 600; }
.tiles { display: flex; flex-wrap: wrap; gap: .7rem; padding: 0; list-style: none; }
.tiles li { background: var(--card); border-radius: 6px; padding: .6rem 1rem; min-width: 7rem; }
.tiles b { display: block; font-size: 1.5rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .3rem .6rem .3rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
details { background: var(--card); border-radius: 6px; padding: .6rem 1rem; margin: .7rem 0; }
summary { cursor: pointer; }
code, pre { font: 13px/1.4 ui-monospace, monospace; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
svg { width: 100%; min-width: 640px; height: auto; font: 12px system-ui, sans-serif; }
svg text { fill: var(--text); }
svg text.none { fill: var(--bad); font-weight: 600; }
.bar { fill: var(--bar); }
.dot { fill: var(--text); }
.span { fill: var(--bar); opacity: .55; }
.axis, .row { stroke: var(--line); }
.mark { stroke: var(--bad); stroke-width: 2; stroke-dasharray: 5 3; }
"""


def report(summary: Summary, options: Options) -> str:
    """Returns the page.

    Args:
        summary: of the campaign.
        options: that it was run with.
    """
    return "".join(
        [
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">',
            '<meta http-equiv="Content-Security-Policy" ',
            "content=\"default-src 'none'; style-src 'unsafe-inline'\">",
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>Simulated fleet</title><style>{_STYLE}</style></head><body>",
            *_head(summary, options),
            *_failures(summary),
            *_invariants(summary),
            *_sightings(summary),
            *_latencies("How long a hung VM took to be reported", summary.detections),
            *_latencies("How long votes and notices took", summary.verdicts),
            *_faults(summary),
            "</body></html>\n",
        ]
    )


def _head(summary: Summary, options: Options) -> Iterator[str]:
    yield "<h1>Simulated fleet</h1>"
    yield (
        f'<p class="soft">hbtrio {escaped(options.version)}; {options.vms} VMs on {options.hosts} '
        f"hosts for {options.minutes:g} virtual minutes; faults: {escaped(options.faults)}</p>"
    )
    speed = summary.vm_hours / summary.cpu_s if summary.cpu_s else 0.0
    seen = len(summary.sightings) - len(summary.unseen)
    tiles = [
        ("seeds", f"{summary.seeds:,}"),
        ("failed", f"{summary.failed:,}"),
        ("VM-hours", f"{summary.vm_hours:,.1f}"),
        ("VM-hours per CPU s", f"{speed:.1f}"),
        ("faults", f"{sum(summary.faults.values()):,}"),
        ("situations seen", f"{seen} of {len(summary.sightings)}"),
    ]
    yield '<ul class="tiles">'
    yield from (f"<li><b>{number}</b>{words}</li>" for words, number in tiles)
    yield "</ul>"
    if not summary.failed:
        yield "<p>No invariant was violated.</p>"
    if summary.unseen:
        yield (
            f'<p class="bad">{len(summary.unseen)} situations were not seen once: the campaign '
            "proves nothing about them.</p>"
        )


def _failures(summary: Summary) -> Iterator[str]:
    if not summary.failed:
        return
    yield "<h2>What failed</h2>"
    shown = summary.failures[:MOST_SHOWN]
    if len(shown) < summary.failed:
        yield f"<p>The first {len(shown)} of {summary.failed} failed seeds.</p>"
    for place, result in enumerate(shown):
        first = result.violations[0].text if result.violations else "no result"
        yield f"<details{'' if place else ' open'}><summary>Seed {result.seed}: {escaped(first)}"
        yield "</summary>"
        yield from _failure(result)
        yield "</details>"


def _failure(result: SeedResult) -> Iterator[str]:
    if result.error:
        lines = "\n".join(map(escaped, result.error.splitlines()))
        yield f"<pre>{lines}</pre>"
    if result.violations:
        yield "<table><tr><th>at</th><th>invariant</th><th>what</th></tr>"
        for violation in result.violations:
            yield (
                f'<tr><td class="number">{violation.at_s:.3f} s</td>'
                f"<td>{escaped(violation.invariant)}</td><td>{escaped(violation.text)}</td></tr>"
            )
        yield "</table>"
    if result.moments:
        marks = [violation.at_s for violation in result.violations]
        last_s = max(moment.until_s or moment.at_s for moment in result.moments)
        chart = timeline(
            result.moments, [at_s for at_s in marks if at_s <= last_s], "what happened around it"
        )
        yield f'<h3>Around the first violation</h3><div class="wide">{chart}</div>'
        yield "<details><summary>In words</summary><table>"
        for moment in result.moments:
            lasted = f" (until {moment.until_s:.3f} s)" if moment.until_s is not None else ""
            yield (
                f'<tr><td class="number">{moment.at_s:.3f} s</td><td>{escaped(moment.who)}</td>'
                f"<td>{escaped(moment.text)}{lasted}</td></tr>"
            )
        yield "</table></details>"
    if result.schedule is not None:
        yield f"<h3>Faults ({len(result.schedule.faults)})</h3><ol>"
        for fault in result.schedule.faults:
            yield f"<li>{escaped(describe(fault, result.schedule))}</li>"
        yield "</ol>"


def _invariants(summary: Summary) -> Iterator[str]:
    yield "<h2>Invariants</h2><table><tr><th>rule</th><th>excuses needed</th><th>violated in</th>"
    yield "</tr>"
    for invariant in INVARIANTS:
        excuses = "; ".join(
            f"{excuse.name} {summary.excused[f'{invariant.name}: {excuse.name}']:,}"
            for excuse in invariant.excuses
        )
        violated = summary.violations[invariant.name]
        words = f'<span class="bad">{violated:,} seeds</span>' if violated else "none"
        yield (
            f"<tr><td>{escaped(invariant.sentence())}<br><code>{invariant.name}</code></td>"
            f'<td class="soft">{escaped(excuses) or "has none"}</td>'
            f'<td class="number">{words}</td></tr>'
        )
    yield "</table>"


def _sightings(summary: Summary) -> Iterator[str]:
    yield "<h2>What was seen</h2>"
    chart = bars(list(summary.sightings.items()), "how often each situation was seen")
    yield f'<div class="wide">{chart}</div>'


def _latencies(title: str, latencies: list[Latency]) -> Iterator[str]:
    yield f"<h2>{title}</h2>"
    if not latencies:
        yield '<p class="bad">Nothing was measured.</p>'
        return
    yield f"<p>{escaped(spread_of(latencies))}</p>"
    longest = max(1e-3, *(latency.took_s for latency in latencies))
    median_s = sorted(latency.took_s for latency in latencies)[len(latencies) // 2]
    charts = [
        (
            "Of its bound; the line is the bound.",
            120.0,
            "%",
            100.0,
            (100 * share_of(latency) for latency in latencies),
        ),
        (
            "In seconds; the line is the median.",
            longest,
            "s",
            median_s,
            (latency.took_s for latency in latencies),
        ),
    ]
    for words, most, unit, mark, values in charts:
        chart = histogram(values, most, unit, f"{title}: {words}", mark)
        yield f'<p class="soft">{words}</p><div class="wide">{chart}</div>'


def _faults(summary: Summary) -> Iterator[str]:
    yield "<h2>Faults</h2>"
    chart = bars(summary.faults.most_common(), "how often each kind of fault struck")
    yield f'<div class="wide">{chart}</div>'
