"""Runs the benchmark and prints what it saw: `make bench`, `make bench-scale`, or with options

PYTHONPATH=tests python -m bench comparison crowd --channels 5000 --crowd 10000 --json bench.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs
import trio

from bench import agent, applications, guest, host_parts, links, status
from bench.chart import chart
from bench.comparison import C_FLOOR, HOST, PACKED, SHAPES
from bench.faults import FAILED, FARM_DIED, MISSED, BenchFailed
from bench.measure import summary
from bench.part import Part
from bench.sample import allow_descriptors
from support.guest_farm import FarmDied

Measuring = Callable[[argparse.Namespace], Awaitable[Part]]

#: The parts, in the order in which they run. What else is measured is one more line here, and one
#: in what `make bench` or `make bench-scale` runs.
PARTS: Final[Mapping[str, Measuring]] = {
    "comparison": host_parts.comparison,
    "detection": host_parts.detection,
    "short_interval": host_parts.short_interval,
    "start": host_parts.start,
    "crowd": host_parts.crowd,
    "votes": agent.votes,
    "storm": agent.storm,
    "queries": agent.queries,
    "applications": applications.applications,
    "guest": guest.guest,
    "status": status.status,
    "links": links.links,
}

#: What `make bench` and `make bench-scale` run.
BENCH: Final = (
    "comparison",
    "detection",
    "short_interval",
    "start",
    "votes",
    "storm",
    "queries",
    "applications",
    "guest",
)
SCALE: Final = ("comparison", "crowd", "links")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench", description="Measures hbtrio's daemons.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--scale", action="store_true", help="the parts of make bench-scale")
    add = parser.add_argument
    add("--channels", type=int, nargs="+", metavar="N", help="of the comparison")
    add("--rounds", type=int, default=3, help="of each shape (default 3)")
    add("--seconds", type=float, default=2.0, help="of each turn (default 2)")
    add("--shapes", nargs="+", choices=SHAPES, metavar="SHAPE", help=f"of {', '.join(SHAPES)}")
    add("--crowd", type=int, default=15_000, metavar="N", help="channels of the crowd")
    add("--crowd-seconds", type=float, default=300.0, metavar="S", help="(default 300)")
    add("--unfrozen", action="store_true", help="a crowd left to the garbage collector")
    add("--known", type=int, default=1000, metavar="N", help="instances of the agent's parts")
    add("--votes", type=int, default=300, metavar="N", help="votes of each way (default 300)")
    add("--applications", type=int, default=200, metavar="N", help="of one guest (default 200)")
    add("--instances", type=int, default=2000, metavar="N", help="of the part status")
    add("--runs", type=int, default=20, metavar="N", help="of the part status")
    add("--links", type=int, default=300, metavar="N", help="hosts of an agent (default 300)")
    add("--most-links", type=int, default=1000, metavar="N", help="the same, to lose none")
    add("--of-each", type=int, default=100, metavar="N", help="instances of those hosts")
    add("--json", type=Path, metavar="FILE", help="every sample")
    add("--svg", type=Path, metavar="FILE", help="diagrams of the comparison")
    return parser


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    options = parser.parse_args(arguments)
    for name in options.parts:
        if name not in PARTS:
            parser.error(f"no part {name!r}: there are {', '.join(PARTS)}")
    chosen = options.parts or (SCALE if options.scale else BENCH)
    options.parts = [name for name in PARTS if name in chosen]
    options.channels = options.channels or (
        [1000, 5000, 15_000] if options.scale else [100, 1000, 5000]
    )
    options.shapes = options.shapes or [PACKED, C_FLOOR, HOST]
    return options


async def _run(options: argparse.Namespace, parts: Mapping[str, Measuring]) -> list[Part]:
    done = []
    for name in options.parts:
        part = attrs.evolve(await parts[name](options), load=os.getloadavg()[0])
        print(f"{name} (load {part.load:.1f})\n\n{part.text}\n", flush=True)
        done.append(part)
    return done


def write(options: argparse.Namespace, system: str, parts: Sequence[Part]) -> None:
    """Writes the files that the options ask for."""
    comparisons = [one for part in parts for one in part.comparisons]
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(as_json(system, parts))
    if options.svg is not None and comparisons:
        options.svg.parent.mkdir(parents=True, exist_ok=True)
        options.svg.write_text(chart(comparisons, system))


def as_json(system: str, parts: Sequence[Part]) -> str:
    """Every sample of all parts, and the summary."""
    members: dict[str, Any] = {
        "system": system,
        "load": {part.name: part.load for part in parts},
        "summary": [attrs.asdict(one) for part in parts for one in part.measures],
        "parts": {part.name: part.data for part in parts},
    }
    return json.dumps(members, indent=1) + "\n"


def system_text(load: float) -> str:
    """What is measured on."""
    return (
        f"Python {platform.python_version()}, trio {trio.__version__}, {os.cpu_count()} CPUs, "
        f"load {load:.1f} at the start"
    )


def main(arguments: Sequence[str] | None = None, parts: Mapping[str, Measuring] = PARTS) -> int:
    """Runs it; returns the exit status, see :mod:`bench.faults`."""
    options = _options(arguments)
    allow_descriptors()
    system = system_text(os.getloadavg()[0])
    print(system, end="\n\n", flush=True)
    try:
        done = trio.run(_run, options, parts)
    except FarmDied as fault:
        print(f"bench: {fault}", file=sys.stderr)
        return FARM_DIED
    except BenchFailed as fault:
        print(f"bench: {fault}", file=sys.stderr)
        return FAILED
    write(options, system, done)
    print(summary(one for part in done for one in part.measures))
    return MISSED if any(part.missed for part in done) else 0


if __name__ == "__main__":
    sys.exit(main())
