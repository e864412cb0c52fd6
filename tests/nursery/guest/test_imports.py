"""The guest lives in small VMs: what it loads, asked of a real guest process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hbtrio.wire.channel_messages import ActionNotify, ActionResponse, Exit
from hbtrio.wire.vocabulary import Event, NotificationType, VoteResult
from support.guest_peer import BOUND_S, running_guest

#: Of the host, the agent and the tools; and libraries that would bring a second event loop.
FORBIDDEN = {
    "anyio",
    "asyncio",
    "cattrs",
    "click",
    "email",
    "h11",
    "http",
    "httpcore",
    "httpx",
    "inotify_simple",
    "rich",
    "sqlite3",
    "starlette",
    "structlog",
    "tomllib",
    "trio_serial",  # only where the device is a tty
}

#: Our packages, or their modules where others are in the package, that a guest loads.
OURS = {
    "hbtrio",
    "hbtrio.cli",
    "hbtrio.cli.extras",
    "hbtrio.cli.guest",
    "hbtrio.config",
    "hbtrio.config.guest",
    "hbtrio.config.settings",
    "hbtrio.config.source",
    "hbtrio.daemons",
    "hbtrio.daemons.guest",
    "hbtrio.daemons.machine",
    "hbtrio.daemons.machine.guest",
    "hbtrio.daemons.machine.process",
    "hbtrio.daemons.signals",
    "hbtrio.errors",
    "hbtrio.fsm",
    "hbtrio.fsm.application",
    "hbtrio.fsm.application_effects",
    "hbtrio.fsm.application_table",
    "hbtrio.fsm.ballot",
    "hbtrio.fsm.guest_session",
    "hbtrio.fsm.guest_session_table",
    "hbtrio.fsm.inhibition",
    "hbtrio.fsm.table",
    "hbtrio.log.*",
    "hbtrio.net",
    "hbtrio.net.accepting",
    "hbtrio.net.connections",
    "hbtrio.net.peer_credentials",
    "hbtrio.net.unix_connect",
    "hbtrio.net.unix_socket",
    "hbtrio.nursery",
    "hbtrio.nursery.guest.*",
    "hbtrio.nursery.pacer",
    "hbtrio.nursery.port",
    "hbtrio.nursery.port_writer",
    "hbtrio.nursery.time_guard",
    "hbtrio.nursery.wakeup",
    "hbtrio.nursery.window_tasks",
    "hbtrio.nursery.windows",
    "hbtrio.output",
    "hbtrio.policy",
    "hbtrio.policy.allowances",
    "hbtrio.policy.backoff",
    "hbtrio.policy.health_merge",
    "hbtrio.policy.health_timeouts",
    "hbtrio.policy.histogram",
    "hbtrio.policy.more_time",
    "hbtrio.policy.named_reasons",
    "hbtrio.policy.profile",
    "hbtrio.policy.quota",
    "hbtrio.policy.time_guard",
    "hbtrio.policy.voter_news",
    "hbtrio.stderr",
    "hbtrio.system.*",
    "hbtrio.text",
    "hbtrio.wire",
    "hbtrio.wire.app_codec",
    "hbtrio.wire.app_messages",
    "hbtrio.wire.app_socket",
    "hbtrio.wire.app_status",
    "hbtrio.wire.channel_codec",
    "hbtrio.wire.channel_messages",
    "hbtrio.wire.lines",
    "hbtrio.wire.vocabulary",
}

#: Of the standard library, beside what the libraries load: options, JSON, and what asks the system.
STANDARD = {
    "_json",
    "argparse",
    "encodings.utf_8_sig",  # of the configuration
    "gettext",
    "grp",
    "json",
    "json.decoder",
    "json.encoder",
    "json.scanner",
    "resource",
    "termios",
}

#: What a guest may hold in memory after a vote and some beats. It is 30 MB with trio, attrs and
#: msgspec on Python 3.11; each library of the host is another 4 to 10.
RSS_LIMIT_MB = 40

#: Says what a process has loaded.
LOADED = "import json, sys; print(json.dumps(sorted(sys.modules)))"

#: Runs the command and says, at its end, what it has loaded.
PROGRAM = """
import json, sys
from hbtrio.cli import main
status = main(sys.argv[1:])
print(json.dumps([status, sorted(sys.modules)]))
"""


def loaded_by(program: str) -> set[str]:
    run = subprocess.run(
        [sys.executable, "-c", f"{program}\n{LOADED}"],
        capture_output=True,
        text=True,
        check=True,
        timeout=BOUND_S,
    )
    return set(json.loads(run.stdout))


def is_ours(name: str) -> bool:
    return name in OURS or any(
        f"{name}.".startswith(place.removesuffix("*")) for place in OURS if place.endswith("*")
    )


def needless(modules: set[str]) -> set[str]:
    """Of what a guest has loaded, what neither it nor one of its libraries needs.

    Its own program loads json too, and the machine's start of Python whatever is installed there.
    """
    libraries = loaded_by("import attrs, logging, msgspec, trio")
    others = {name for name in modules if name.partition(".")[0] != "hbtrio"} - libraries
    ours = {name for name in modules - others - libraries if not is_ours(name)}
    return ours | (others - STANDARD)


def rss_mb(pid: int) -> float:
    """Resident memory, in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def test_the_command_alone_loads_little() -> None:
    modules = loaded_by("import hbtrio.cli.guest")
    assert {name.partition(".")[0] for name in modules} & FORBIDDEN == set()
    assert needless(modules) == set()


def test_a_module_of_the_host_or_a_further_library_is_needless() -> None:
    program = "import hbtrio.cli.guest, hbtrio.nursery.host.channel_setup, http.client"
    found = needless(loaded_by(program))
    assert {"hbtrio.nursery.host", "http.client", "email"} <= found


@pytest.mark.processes
def test_a_guest_at_work_loads_little_and_stays_small(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\necho fine\n")
    script.chmod(0o755)
    config = (
        f"HEALTH_CHECK_SCRIPT={script}\nHEALTH_CHECK_INTERVAL=30\n"
        f"EVENT_NOTIFICATION_SCRIPT={script}\n"
    )
    command = [sys.executable, "-c", PROGRAM, "guest"]
    with running_guest(command, tmp_path, config) as (guest, host):
        host.accept_init()
        for number in range(20):
            host.beat(number)
        host.send(ActionNotify(900, Event.STOP, NotificationType.REVOCABLE, 9000))
        assert host.next() == ActionResponse(
            900, Event.STOP, NotificationType.REVOCABLE, VoteResult.ACCEPT, "fine"
        )
        size_mb = rss_mb(guest.pid)
        print(f"resident memory of a guest at work: {size_mb:.1f} MB")
        guest.send_signal(signal.SIGTERM)
        assert isinstance(host.next(), Exit)
        output, _ = guest.communicate(timeout=BOUND_S)
        status, modules = json.loads(output)
    assert status == 0
    assert {name.partition(".")[0] for name in modules} & FORBIDDEN == set()
    assert needless(set(modules)) == set()
    assert size_mb < RSS_LIMIT_MB
