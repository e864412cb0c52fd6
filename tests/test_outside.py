"""What reaches outside the program comes from its world: the composition runs in a simulation.

The source is searched for what asks the system by itself: a clock, random numbers, files, sockets,
threads, processes, signals, the collector. Each place that may do so is listed, with the reason.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

SOURCE: Final = Path(__file__).parents[1] / "src" / "hbtrio"

#: Those whose code a simulation runs.
PACKAGES: Final = (
    "api",
    "app",
    "daemons",
    "fsm",
    "http",
    "net",
    "nursery",
    "policy",
    "store",
    "wire",
)

#: Modules that reach outside.
MODULES: Final = {
    "fcntl",
    "gc",
    "grp",
    "inotify_simple",
    "os",
    "platform",
    "pwd",
    "random",
    "resource",
    "secrets",
    "select",
    "signal",
    "socket",
    "subprocess",
    "termios",
    "threading",
    "time",
    "trio_serial",
    "uuid",
}

#: Names of trio and others that do.
NAMES: Final = {
    "datetime.now",
    "open",
    "trio.from_thread",
    "trio.lowlevel.current_trio_token",
    "trio.lowlevel.start_thread_soon",
    "trio.lowlevel.wait_readable",
    "trio.lowlevel.wait_writable",
    "trio.open_process",
    "trio.open_signal_receiver",
    "trio.open_tcp_listeners",
    "trio.open_tcp_stream",
    "trio.open_unix_socket",
    "trio.run_process",
    "trio.to_thread",
}

#: Of :mod:`hbtrio.system`: protocols, their results, and what does nothing without its settings.
HARMLESS: Final = {
    "runner.ProcessNotStarted",
    "runner.ProcessResult",
    "runner.ProcessRunner",
    "sd_notify.ServiceManager",
    "side_pipe.SidePipe",
}

_WORLD: Final = "of this machine's world; a simulation passes in its own: "
_SOCKETS: Final = "for sockets alone; a simulation's connections are none: "
_SDK: Final = "in the applications' own processes; their scripted peers are simulated: "

#: Where each module reaches outside, and why it may.
EXCEPTED: Final = {
    "api/control.py": ("grp os", _WORLD + "who has access"),
    "app/application.py": ("os random", _SDK + "its luck is an argument"),
    "app/handlers.py": ("os threading", _SDK + "handlers that are no coroutines"),
    "app/membership.py": ("os", _SDK + "a fork is noticed"),
    "app/more_time.py": ("threading time", _SDK + "the time that is left, for threads"),
    "app/registration.py": ("os", _SDK + "the socket's path"),
    "app/stream.py": ("os socket", _SDK + "the connection"),
    "app/sync.py": ("os socket threading", _SDK + "the event loop of a program that has none"),
    "daemons/signals.py": ("signal", "the number of SIGHUP"),
    "net/accepting.py": (
        "open_files.SpareDescriptor open_files.is_reserved open_files.limit_text select socket",
        _SOCKETS + "the backlog and the last descriptors",
    ),
    "net/begin_by_header.py": ("boot_clock.boot_clock", "for clients, not for daemons"),
    "net/connections.py": ("socket", _SOCKETS + "their addresses"),
    "net/endpoints.py": (
        "socket trio.open_tcp_listeners trio.open_tcp_stream",
        _WORLD + "addresses of the configuration",
    ),
    "net/http_connect.py": ("trio.open_tcp_stream", _WORLD + "the connection to the VIM"),
    "net/link_session.py": ("boot_clock.boot_clock", "a default; the daemons pass in their clock"),
    "net/peer_credentials.py": ("socket", _SOCKETS + "who has connected"),
    "net/tls.py": ("open socket", _WORLD + "certificates"),
    "net/tls_files.py": ("datetime.now open renewed_files.RenewedFiles", _WORLD + "certificates"),
    "net/token_file.py": ("open os", _WORLD + "tokens"),
    "net/unix_connect.py": ("trio.open_unix_socket", _WORLD + "unix sockets"),
    "net/unix_socket.py": (
        "grp lock_file.FileLock lock_file.LockHeld lock_file.lock_beside os socket",
        _WORLD + "unix sockets",
    ),
    "nursery/agent/daemon.py": (
        "boot_clock.process_clock",
        "a default; the composition passes in the world's clock",
    ),
    "nursery/file_watch.py": (
        "datetime.now renewed_files.RenewedFiles trio.to_thread",
        "a default clock; looks at files only where there are any",
    ),
    "nursery/guest/applications.py": ("os resource socket", _SOCKETS + "those of applications"),
    "nursery/guest/event_scripts.py": ("os", "the last part of a path"),
    "nursery/guest/named_port.py": ("os", _WORLD + "the device"),
    "nursery/guest/path_device.py": ("fcntl os select termios trio_serial", _WORLD + "the device"),
    "nursery/guest/script_search.py": ("threading", _WORLD + "the event scripts"),
    "nursery/guest/scripts.py": ("os signal", _WORLD + "the event scripts; names of signals"),
    "nursery/guest/virtio_port.py": (
        "os select trio.lowlevel.wait_readable",
        _WORLD + "the device",
    ),
    "nursery/host/directory_claim.py": (
        "lock_file.FileLock lock_file.LockHeld lock_file.lock_directory",
        _WORLD + "the directory of the channels",
    ),
    "nursery/host/directory_watch.py": (
        "inotify_simple os trio.lowlevel.wait_readable",
        _WORLD + "the directory of the channels",
    ),
    "nursery/host/environment.py": (
        "boot_clock.process_clock",
        "a default; the composition passes in the world's clock",
    ),
    "nursery/host/events_file.py": (
        "file_identity.FileIdentity os threading trio.to_thread",
        _WORLD + "the events file",
    ),
    "nursery/host/found_channels.py": ("os", "the normal form of a path"),
    "nursery/host/heap_freezer.py": ("gc time", "defaults; the world passes in a freezer"),
    "nursery/host/virsh.py": ("trio.to_thread", "for the list of thousands of instances"),
    "nursery/port.py": (
        "open_files.is_reserved open_files.limit_text select socket time"
        " trio.lowlevel.wait_readable trio.lowlevel.wait_writable",
        _WORLD + "the channels' sockets",
    ),
    "store/database.py": (
        "file_identity.FileIdentity lock_file.FileLock lock_file.LockHeld lock_file.lock_beside os"
        " threading",
        _WORLD + "the file of a store",
    ),
    "store/lease.py": ("threading", _WORLD + "the thread that renews the lease of a database"),
    "store/places.py": (
        "trio.lowlevel.current_trio_token",
        _WORLD + "what that thread has to say",
    ),
    "store/postgres.py": ("os socket threading", _WORLD + "the database of a store"),
    "store/worker.py": (
        "threading trio.lowlevel.current_trio_token trio.to_thread",
        _WORLD + "the thread of a store",
    ),
}


def reached(tree: ast.AST) -> Iterator[str]:
    """Yields each module and name that reaches outside."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ({alias.name.partition(".")[0] for alias in node.names} & MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module:
            if (top := node.module.partition(".")[0]) in MODULES:
                yield top
            elif node.module.startswith("hbtrio.system."):
                module = node.module.removeprefix("hbtrio.system.")
                yield from ({f"{module}.{alias.name}" for alias in node.names} - HARMLESS)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in NAMES:
                yield node.func.id
        elif isinstance(node, ast.Attribute) and (text := ast.unparse(node)) in NAMES:
            yield text


def found() -> dict[str, set[str]]:
    places = {}
    for package in PACKAGES:
        for path in sorted((SOURCE / package).rglob("*.py")):
            name = str(path.relative_to(SOURCE))
            what = set(reached(ast.parse(path.read_text(encoding="utf-8"))))
            if what and not name.startswith("daemons/machine/"):
                places[name] = what
    return places


def test_what_reaches_outside_is_listed() -> None:
    listed = {path: set(names.split()) for path, (names, _) in EXCEPTED.items()}
    assert found() == listed


def test_the_composition_has_no_exception_but_a_number() -> None:
    assert [path for path in EXCEPTED if path.startswith("daemons/")] == ["daemons/signals.py"]


EXAMPLE: Final = """
import os.path, trio
from random import random
from hbtrio.system.runner import ProcessRunner, SystemProcesses

class Window:
    open: bool

async def late(self):
    if self.open: print(datetime.now(UTC), open("file"))
    await trio.to_thread.run_sync(random)
"""


def test_it_is_found_wherever_it_hides() -> None:
    assert set(reached(ast.parse(EXAMPLE))) == {
        "datetime.now",
        "open",
        "os",
        "random",
        "runner.SystemProcesses",
        "trio.to_thread",
    }
