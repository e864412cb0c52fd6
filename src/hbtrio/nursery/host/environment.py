"""Holds what the host's tasks need from outside."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from hbtrio.nursery.file_watch import FileWatch
from hbtrio.nursery.host.directory_watch import DirectoryWatch
from hbtrio.nursery.host.heap_freezer import HeapFreezer
from hbtrio.nursery.host.memory import HostMemory
from hbtrio.nursery.host.reports import Reports
from hbtrio.nursery.notifier import Notifier
from hbtrio.nursery.port import Dialer
from hbtrio.nursery.time_guard import GuardRunner, run_guard
from hbtrio.policy.begin_by import ProcessClock
from hbtrio.system.boot_clock import process_clock
from hbtrio.system.runner import ProcessRunner


@attrs.frozen
class HostEnvironment:
    """What the host's tasks need from outside; a simulation passes in its own."""

    watch: DirectoryWatch
    dialer: Dialer
    processes: ProcessRunner
    new_id: Callable[[], int]
    reports: Reports
    clock: ProcessClock = attrs.field(factory=process_clock)
    #: Drops log lines below level warning (True), or logs them again; called in an overload.
    shed_log: Callable[[bool], None] = lambda _: None
    #: Returns how many log lines were dropped.
    log_lines_dropped: Callable[[], int] = lambda: 0
    #: The certificates in use.
    files: FileWatch = attrs.field(factory=FileWatch)
    #: What is remembered across restarts.
    memory: HostMemory = attrs.field(factory=HostMemory)
    #: Tells whoever is on call; None: nobody is told.
    notifier: Notifier | None = None
    #: Ticks the on-time guard.
    run_guard: GuardRunner = run_guard
    #: Keeps garbage collections short.
    heap: HeapFreezer = attrs.field(factory=HeapFreezer)
    #: Runs ``virsh``; None: there is no libvirt.
    libvirt: ProcessRunner | None = None
