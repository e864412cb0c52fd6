"""The handlers of deploy/handlers that vote: each run under dash and busybox."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from hbtrio.nursery.guest.event_scripts import EventScripts
from hbtrio.system.runner import SystemProcesses
from hbtrio.wire.channel_messages import ActionNotify
from hbtrio.wire.vocabulary import EVENT_TABLE, Event, NotificationType, VoteResult
from nursery.guest.test_event_scripts import settled_by
from support.handlers import HANDLERS, SOON_S, UNDER_BOTH, Bench, bench, until
from support.message_bus import Inhibitor, message_bus

__all__ = ["bench"]

pytestmark = pytest.mark.processes

VOTES: Final = ("logind-inhibitors", "package-manager", "postgresql-primary")
SHUTDOWN: Final = ("stop", "reboot", "resize_begin", "cold_migrate_begin")
SLEEP: Final = ("pause", "suspend")


@UNDER_BOTH
@pytest.mark.parametrize("handler", VOTES)
def test_a_notice_is_none_of_their_business(handler: str, bench: Bench) -> None:
    for event in EVENT_TABLE:
        assert bench.notify(handler, event).accepted
    assert bench.run(handler).status == bench.run(handler, "revocable").status == 2


async def test_linked_into_the_guest_s_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for handler in HANDLERS.iterdir():
        (tmp_path / handler.name).symlink_to(handler)
    lock = tmp_path / ".lock"
    with lock.open("w") as held:
        fcntl.lockf(held, fcntl.LOCK_EX)
        settings = tmp_path / ".conf"
        settings.write_text(f"PACKAGE_LOCKS={lock}\nFREEZE=/nowhere\n")
        monkeypatch.setenv("HBTRIO_HANDLERS_CONF", str(settings))
        vote = ActionNotify(900, Event.STOP, NotificationType.REVOCABLE, 9000)
        async with SystemProcesses() as processes:
            scripts = EventScripts(str(tmp_path), processes)
            assert [*scripts.handlers(vote)] == sorted({*os.listdir(HANDLERS)} - {"common.sh"})
            outcome = await settled_by(scripts, vote)
    assert outcome.result is VoteResult.REJECT
    assert outcome.reason.endswith(f" holds {lock}")


# -- systemd-logind -----------------------------------------------------------------------------

INHIBITORS: Final[list[Inhibitor]] = [
    ("sleep", "NetworkManager", "turns off networks", "delay", 0, 412),
    ("handle-power-key:handle-lid-switch", "Gnome", "does it itself", "block", 1000, 9),
    ("shutdown:idle", 'back "up" \\ é', 'tape\n1 "a"', "block", 33, 812),
    ("shutdown", "apt", "an upgrade runs", "block", 0, 813),
]


@pytest.fixture
def logind(bench: Bench) -> Bench:
    if shutil.which("busctl") is None:
        pytest.skip("there is no busctl here")
    return bench


@UNDER_BOTH
def test_a_block_inhibitor_rejects_what_it_is_against(logind: Bench, tmp_path: Path) -> None:
    with message_bus(tmp_path / "bus", INHIBITORS) as bus:
        for event in SHUTDOWN:
            answered = logind.vote("logind-inhibitors", event, DBUS_SYSTEM_BUS_ADDRESS=bus)
            assert (answered.status, answered.reason) == (
                1,
                'back "up" \\ é (pid 812): tape 1 "a"; and 1 more',
            )
        for event in (*SLEEP, "live_migrate_begin"):
            assert logind.vote("logind-inhibitors", event, DBUS_SYSTEM_BUS_ADDRESS=bus).accepted


def test_nobody_inhibits(logind: Bench, tmp_path: Path) -> None:
    for inhibitors in ([], INHIBITORS[:2]):
        with message_bus(tmp_path / f"bus{len(inhibitors)}", inhibitors) as bus:
            assert logind.vote("logind-inhibitors", "stop", DBUS_SYSTEM_BUS_ADDRESS=bus).accepted


def test_a_logind_that_is_away_or_hangs_leaves_it_undecided(logind: Bench, tmp_path: Path) -> None:
    nowhere = f"unix:path={tmp_path / 'nowhere'}"
    assert logind.vote("logind-inhibitors", "stop", DBUS_SYSTEM_BUS_ADDRESS=nowhere).is_undecided
    logind.settings(LOGIND_S=1)
    with message_bus(tmp_path / "bus", None) as bus:
        assert logind.vote("logind-inhibitors", "stop", DBUS_SYSTEM_BUS_ADDRESS=bus).is_undecided


@UNDER_BOTH
def test_a_bus_without_logind_leaves_it_undecided_and_the_log_says_why(bench: Bench) -> None:
    fault = "The name org.freedesktop.login1 was not provided by any .service files"
    bench.tool("busctl", f"echo 'Call failed: {fault}' >&2; exit 1")
    answered = bench.vote("logind-inhibitors", "stop")
    assert answered.is_undecided
    assert fault in answered.said
    assert "systemd-logind did not list its inhibitors" in answered.said


@UNDER_BOTH
def test_warnings_of_busctl_are_no_inhibitors(bench: Bench) -> None:
    bench.tool("busctl", "echo 'Warning: old' >&2; echo 'a(ssssuu) 0'")
    assert bench.vote("logind-inhibitors", "stop").accepted


@UNDER_BOTH
def test_a_list_that_is_cut_off_by_a_kill_is_not_read(bench: Bench) -> None:
    bench.tool("busctl", "echo 'a(ssssuu) 0'; kill -KILL $$")
    assert bench.vote("logind-inhibitors", "stop").is_undecided


@UNDER_BOTH
def test_without_busctl_it_is_undecided(bench: Bench) -> None:
    for name in ("dash", "busybox", "dirname", "readlink"):
        (bench.tools / name).symlink_to(shutil.which(name) or "")
    answered = bench.run("logind-inhibitors", "revocable", "stop", PATH=str(bench.tools))
    assert answered.is_undecided
    assert "no busctl: can't ask systemd-logind" in answered.said


@pytest.mark.parametrize("text", ["", "b true", "a(ssssuub) 0"])
def test_another_form_of_the_list_leaves_it_undecided(text: str, bench: Bench) -> None:
    bench.tool("busctl", f"echo '{text}'")
    assert bench.vote("logind-inhibitors", "stop").is_undecided


# -- dpkg and rpm -------------------------------------------------------------------------------


@pytest.fixture
def locks(bench: Bench) -> Iterator[tuple[Bench, int]]:
    """A lock's file, open and not locked, of a package manager that is this process."""
    path = bench.place / "lock"
    bench.settings(PACKAGE_LOCKS=f"{bench.place}/none {path}")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    yield bench, descriptor
    os.close(descriptor)


@UNDER_BOTH
def test_a_lock_that_is_held_rejects_until_it_is_released(locks: tuple[Bench, int]) -> None:
    bench, descriptor = locks
    assert bench.vote("package-manager", "stop").accepted
    fcntl.lockf(descriptor, fcntl.LOCK_EX)
    comm = Path("/proc/self/comm").read_text().strip()
    for event in SHUTDOWN:
        answered = bench.vote("package-manager", event)
        assert (answered.status, answered.reason) == (
            1,
            f"{comm} (pid {os.getpid()}) holds {bench.place}/lock",
        )
    for event in (*SLEEP, "live_migrate_begin"):
        assert bench.vote("package-manager", event).accepted
    fcntl.lockf(descriptor, fcntl.LOCK_UN)
    assert bench.vote("package-manager", "stop").accepted


def test_a_lock_of_another_kind_or_file_is_none(locks: tuple[Bench, int]) -> None:
    bench, descriptor = locks
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with (bench.place / "other").open("w") as other:
        fcntl.lockf(other, fcntl.LOCK_EX)
        assert bench.vote("package-manager", "stop").accepted


@pytest.mark.skipif(shutil.which("dpkg") is None, reason="there is no dpkg here")
def test_a_dpkg_at_work(bench: Bench) -> None:
    """The real one, held up in the script of a package."""
    root, package = bench.place / "root", bench.place / "package"
    (package / "DEBIAN").mkdir(parents=True)
    (package / "DEBIAN/control").write_text(
        "Package: slow\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b>\nDescription: slow\n"
    )
    fifo = bench.place / "fifo"
    os.mkfifo(fifo)
    preinst = package / "DEBIAN/preinst"
    preinst.write_text(f"#!/bin/sh\nread -r line < '{fifo}'\n")
    preinst.chmod(0o755)
    subprocess.run(
        ["dpkg-deb", "--build", str(package), f"{package}.deb"], check=True, capture_output=True
    )
    for directory in ("updates", "info"):
        (root / "dpkg" / directory).mkdir(parents=True)
    (root / "dpkg/status").touch()
    command = ["dpkg", f"--admindir={root}/dpkg", f"--instdir={root}", "--force-all"]
    command += ["--force-script-chrootless", f"--log={root}/log", "--install", f"{package}.deb"]
    bench.settings(PACKAGE_LOCKS=f"{root}/dpkg/lock-frontend {root}/dpkg/lock")
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as dpkg:
        with fifo.open("w") as go_on:  # opens once the script reads
            answered = bench.vote("package-manager", "reboot")
            go_on.write("\n")
        dpkg.wait(SOON_S)
    assert answered.status == 1
    assert answered.reason.startswith(f"dpkg (pid {dpkg.pid}) holds {root}/dpkg/lock")
    assert bench.vote("package-manager", "reboot").accepted


# -- PostgreSQL ---------------------------------------------------------------------------------

PRIMARY: Final = "PostgreSQL is a primary without a synchronous standby"


@pytest.fixture
def asked(bench: Bench) -> Bench:
    """A bench where psql answers with the file ``answer``; becoming another user is recorded."""
    bench.tool("runuser", 'shift 3; exec "$@"')
    bench.tool("pg_isready", f"exit $(cat '{bench.place}/ready')")
    bench.tool("psql", f"cat '{bench.place}/answer'; exit $(cat '{bench.place}/status')")
    for name, text in (("ready", "0"), ("status", "0"), ("answer", "alone")):
        (bench.place / name).write_text(text)
    return bench


@UNDER_BOTH
def test_a_lone_primary_is_not_stopped_nor_frozen(asked: Bench) -> None:
    for event in (*SHUTDOWN, *SLEEP):
        answered = asked.vote("postgresql-primary", event)
        assert (answered.status, answered.reason) == (1, PRIMARY)
    assert asked.vote("postgresql-primary", "live_migrate_begin").accepted


@pytest.mark.parametrize("answer", ["safe", "standby"])
def test_others_are(answer: str, asked: Bench) -> None:
    (asked.place / "answer").write_text(answer)
    assert asked.vote("postgresql-primary", "stop").accepted


def test_no_postgresql_is_no_primary(asked: Bench) -> None:
    (asked.place / "ready").write_text("2")
    assert asked.vote("postgresql-primary", "stop").accepted
    assert not any(call.startswith("psql") for call in asked.calls)


@pytest.mark.parametrize(
    ("ready", "status", "answer"),
    [("0", "2", ""), ("1", "2", ""), ("0", "0", "odd"), ("0", "0", "")],
)
def test_a_faulty_answer_leaves_it_undecided(
    ready: str, status: str, answer: str, asked: Bench
) -> None:
    for name, text in (("ready", ready), ("status", status), ("answer", answer)):
        (asked.place / name).write_text(text)
    assert asked.vote("postgresql-primary", "stop").is_undecided


@UNDER_BOTH
def test_a_postgresql_that_hangs_leaves_it_undecided_in_time(asked: Bench) -> None:
    asked.settings(POSTGRES_S=1)
    asked.tool("psql", "sleep 1000")
    assert asked.vote("postgresql-primary", "stop").is_undecided


POSTGRES: Final = "/usr/lib/postgresql"


@pytest.fixture
def postgres() -> Iterator[Path]:
    """A real PostgreSQL that is nobody's, as the server refuses to be root's; its directory."""
    versions = sorted(Path(POSTGRES).glob("*/bin/initdb"))
    if not versions or os.getuid() != 0:
        pytest.skip("there is no PostgreSQL here, or nobody to run it as")
    programs, place = versions[-1].parent, Path(tempfile.mkdtemp())
    shutil.chown(place, "nobody")

    def run(program: str, *arguments: str) -> None:
        subprocess.run(
            ["runuser", "-u", "nobody", "--", str(programs / program), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            check=True,
            timeout=SOON_S,
            cwd="/",
        )

    data = f"{place}/data"
    run("initdb", "-D", data, "-U", "postgres", "--auth=trust", "--no-sync", "--no-locale")
    settings = f"-k {place} -c listen_addresses= -c fsync=off -c synchronous_standby_names=*"
    try:
        run("pg_ctl", "-D", data, "-w", "-s", "-l", f"{place}/log", "-o", settings, "start")
        yield place
    finally:
        run("pg_ctl", "-D", data, "-w", "-s", "-m", "immediate", "stop")
        shutil.rmtree(place)


@pytest.mark.slow
def test_a_real_postgresql(postgres: Path, tmp_path: Path) -> None:
    bench = Bench(tmp_path, ["dash"])
    bench.settings(POSTGRES_USER="nobody", PGHOST=str(postgres), PGUSER="postgres", POSTGRES_S=20)
    answered = bench.vote("postgresql-primary", "stop")
    assert (answered.status, answered.reason) == (1, PRIMARY), answered.said
    # A receiver of the log that confirms it at once is a synchronous standby.
    programs = max(Path(POSTGRES).glob("*/bin/pg_receivewal"))
    wal = postgres / "wal"
    wal.mkdir()
    receiver = [str(programs), "-h", str(postgres), "-U", "postgres", "-D", str(wal)]
    with subprocess.Popen([*receiver, "--synchronous"]) as process:
        until(lambda: bench.vote("postgresql-primary", "stop").accepted)
        process.terminate()
    until(lambda: not bench.vote("postgresql-primary", "stop").accepted)
    bench.settings(PGHOST=str(postgres / "nowhere"))
    assert bench.vote("postgresql-primary", "stop").accepted
