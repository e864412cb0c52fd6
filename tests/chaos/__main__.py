"""Runs a fleet of real processes in which things go wrong, and judges it: ``make chaos``.

``CHAOS_MINUTES`` is how long, 20 by default; ``CHAOS_SEED`` draws the schedule, by default another
one each time; ``CHAOS_FAULTS`` names a file with a schedule instead, such as one that was kept. All
that is needed to understand a run is kept in ``build/chaos/SEED-TIME``, or below ``CHAOS_DIR``.

The exit status is 1 if an invariant was violated.
"""

from __future__ import annotations

import os
import random
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import trio

from chaos import judge
from chaos.run import run
from chaos.strikes import KINDS
from hbtrio.simulate.schedule import Schedule
from hbtrio.simulate.schedule_file import read

#: Two hosts with an agent, and one without.
HOSTS: Final = 3
VMS: Final = 9

#: A run uses all kinds: there are few runs.
SHARE: Final = 1.0


def main() -> int:
    """Runs and judges; returns the exit status."""
    minutes = float(os.environ.get("CHAOS_MINUTES", "20"))
    seed = int(os.environ.get("CHAOS_SEED") or random.randrange(1_000_000))
    if faults := os.environ.get("CHAOS_FAULTS"):
        schedule = read(faults)
    else:
        schedule = Schedule(seed, minutes, VMS, HOSTS).drawn(1.0, KINDS, SHARE)
    time = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    kept = Path(os.environ.get("CHAOS_DIR", "build/chaos")) / f"{schedule.seed}-{time}"
    kept.mkdir(parents=True)
    print(f"seed {schedule.seed}, {len(schedule.faults)} faults, kept in {kept}", flush=True)
    trio.run(run, schedule, kept)
    return judge.main(kept)


if __name__ == "__main__":
    sys.exit(main())
