#!/usr/bin/env python3
"""An event script in Python, without the SDK or a long-running process: two arguments, one answer.

In guest_heartbeat.conf:

    EVENT_NOTIFICATION_SCRIPT=/etc/guest-client/heartbeat/event_script.py

A backup that must not be interrupted holds a lock on a file. While the lock is held, the script
rejects stopping or moving the VM. Before the VM goes down or freezes, the script records the time;
afterwards it reports to the operator how long the VM was away.
"""

from __future__ import annotations

import fcntl
import os
import sys
import time
from pathlib import Path

#: Where this script keeps its files.
STATE = Path(os.environ.get("EVENT_SCRIPT_STATE", "/run/event-script"))

BEFORE = ["stop", "reboot", "pause", "suspend", "resize_begin"]
BEFORE += ["live_migrate_begin", "cold_migrate_begin"]
AFTER = ["unpause", "resume", "resize_end", "live_migrate_end", "cold_migrate_end"]


def backup_is_running() -> bool:
    """Whether a process holds the lock; a lock file left by a dead process does not count."""
    try:
        with (STATE / "backup.lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def vote(event: str) -> int:
    """Returns 0 to accept; any other status rejects, with the first printed line as the reason."""
    if event in BEFORE and backup_is_running():
        print(f"a backup is running, no {event} please")
        return 1
    return 0


def notice(event: str) -> int:
    """Handles a notice; the event waits for it until the window closes."""
    note = STATE / "went-away"
    if event in BEFORE:
        STATE.mkdir(parents=True, exist_ok=True)
        note.write_text(f"{time.time()} {event}\n")
    elif event in AFTER and note.exists():
        since, _, why = note.read_text().strip().partition(" ")
        note.unlink()
        print(f"back after {time.time() - float(since):.0f} s of {why}")
    return 0


def main() -> int:
    """Returns the exit status for the guest daemon."""
    match sys.argv[1:]:
        case ["revocable", event]:
            return vote(event)
        case ["irrevocable", event]:
            return notice(event)
    print(f"usage: {sys.argv[0]} revocable|irrevocable EVENT", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
