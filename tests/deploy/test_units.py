"""The systemd files: what systemd itself says of them, and what hbtrio needs of them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from hbtrio.config.host import HostConfig
from hbtrio.errors import ExitStatus
from hbtrio.nursery.guest.named_port import NAMED_DEVICE

DEPLOY: Final = Path(__file__).parents[2] / "deploy"
DAEMONS: Final = ("guest", "host", "agent")


def systemd(tool: str, *arguments: str) -> str:
    """What one of systemd's tools prints, both outputs; it has to succeed."""
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is missing: apt-get install systemd")
    done = subprocess.run([tool, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def settings(file: Path) -> list[tuple[str, str]]:
    """The settings of a unit; a key may stand more than once."""
    lines = [line.strip() for line in file.read_text().splitlines()]
    return [(k, v) for k, is_setting, v in (line.partition("=") for line in lines) if is_setting]


def setting(daemon: str, key: str) -> str:
    """The one value of a key."""
    (value,) = (v for k, v in settings(DEPLOY / f"hbtrio-{daemon}.service") if k == key)
    return value


def exposure(unit: Path) -> float:
    """0 to 10, the lower the better."""
    said = systemd(
        "systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=100", str(unit)
    )
    level = re.search(r"Overall exposure level for \S+: ([0-9.]+)", said)
    assert level is not None, said
    return float(level[1])


@pytest.mark.parametrize("daemon", DAEMONS)
def test_systemd_finds_no_fault(daemon: str, tmp_path: Path) -> None:
    unit = tmp_path / f"hbtrio-{daemon}.service"
    text = (DEPLOY / unit.name).read_text()
    # The program need not be installed here.
    unit.write_text(text.replace("ExecStart=hbtrio ", "ExecStart=/bin/true "))
    assert systemd("systemd-analyze", "verify", str(unit)) == ""


def test_systemd_finds_no_fault_in_the_notices_of_a_shutdown(tmp_path: Path) -> None:
    unit = tmp_path / "hbtrio-shutdown.service"
    text = (DEPLOY / unit.name).read_text()
    unit.write_text(text.replace("=-hbtrio ", "=-/bin/true "))
    assert systemd("systemd-analyze", "verify", str(unit)) == ""
    assert exposure(unit) <= 2.0


def test_a_shutdown_is_told_before_libvirt_stops_the_vms() -> None:
    # What is started after them is stopped before them.
    after = set(setting("shutdown", "After").split())
    assert {"libvirt-guests.service", "hbtrio-host.service", "libvirtd.service"} <= after
    (stop,) = (v for k, v in settings(DEPLOY / "hbtrio-shutdown.service") if k == "TimeoutStopSec")
    text = (DEPLOY / "hbtrio-shutdown.service").read_text()
    (within,) = re.findall(r"--within (\d+) --told", text)
    assert int(stop) >= int(within) + 15


@pytest.mark.parametrize("daemon", ["host", "agent"])
def test_host_and_agent_are_locked_in(daemon: str) -> None:
    assert exposure(DEPLOY / f"hbtrio-{daemon}.service") <= 2.0


def hardened(directory: Path) -> Path:
    """The guest's unit with its drop-in, in one file."""
    unit, drop_in = DEPLOY / "hbtrio-guest.service", DEPLOY / "hbtrio-guest-hardened.conf"
    both = directory / unit.name
    text = unit.read_text().partition("[Install]")[0] + drop_in.read_text()
    both.write_text(text.replace("ExecStart=hbtrio ", "ExecStart=/bin/true "))
    return both


def test_a_guest_whose_scripts_only_look_can_be_locked_in(tmp_path: Path) -> None:
    both = hardened(tmp_path)
    assert systemd("systemd-analyze", "verify", str(both)) == ""
    assert exposure(both) <= 2.0


def test_the_readme_has_the_numbers(tmp_path: Path) -> None:
    if not systemd("systemctl", "--version").startswith("systemd 252 "):
        pytest.skip("the numbers are those that systemd 252 gives")
    rows = re.findall(
        r"^\| (`hbtrio.*) \| .* \| ([0-9.]+) \|$", (DEPLOY / "README.md").read_text(), re.M
    )
    seen = {
        f"`hbtrio-{name}`": exposure(DEPLOY / f"hbtrio-{name}.service")
        for name in (*DAEMONS, "shutdown")
    }
    seen["`hbtrio-guest` with `hbtrio-guest-hardened.conf`"] = exposure(hardened(tmp_path))
    assert {name: float(number) for name, number in rows} == seen


@pytest.mark.parametrize("daemon", DAEMONS)
def test_the_daemon_speaks_for_itself(daemon: str) -> None:
    assert setting(daemon, "Type") == "notify"
    assert int(setting(daemon, "WatchdogSec")) >= 30
    assert setting(daemon, "ExecStart") == f"hbtrio {daemon} --log syslog"
    assert setting(daemon, "Restart") == "on-failure"


def test_what_starting_again_would_not_mend() -> None:
    hopeless = {ExitStatus.USAGE, ExitStatus.DENIED}
    for daemon in ("host", "agent"):
        prevented = setting(daemon, "RestartPreventExitStatus").split()
        assert set(map(int, prevented)) == hopeless
    prevented = setting("guest", "RestartPreventExitStatus").split()
    assert set(map(int, prevented)) == hopeless | {ExitStatus.NOT_CONFIGURED}


def test_only_the_guest_can_be_reloaded() -> None:
    assert setting("guest", "ExecReload") == "/bin/kill -HUP $MAINPID"
    for daemon in ("host", "agent"):
        assert "ExecReload" not in dict(settings(DEPLOY / f"hbtrio-{daemon}.service"))


def test_host_and_agent_share_their_directories() -> None:
    for key in ("User", "RuntimeDirectory", "RuntimeDirectoryMode", "RuntimeDirectoryPreserve"):
        assert setting("host", key) == setting("agent", key)
    assert setting("host", "RuntimeDirectoryPreserve") == "yes"


def test_the_guest_opens_no_devices_but_ports() -> None:
    # The name is the driver's in /proc/devices: the number is another one on each machine.
    assert setting("guest", "DevicePolicy") == "closed"
    assert setting("guest", "DeviceAllow") == "char-virtio-portsdev rw"


def test_the_port_alone_starts_the_guest() -> None:
    # Before it is there the driver has no number that systemd could allow, and the guest could
    # never open the port. And only if the unit is enabled, which SYSTEMD_WANTS would not ask.
    said = systemd("systemd-escape", "--path", "--suffix=device", NAMED_DEVICE)
    assert setting("guest", "WantedBy") == said.strip()
    rules = (DEPLOY / "60-hbtrio-guest.rules").read_text().splitlines()
    (rule,) = (line for line in rules if not line.startswith("#"))
    assert rule == 'SUBSYSTEM=="virtio-ports", TAG+="systemd"'


def test_enabling_the_guest_makes_it_the_ports(tmp_path: Path) -> None:
    units = tmp_path / "etc/systemd/system"
    units.mkdir(parents=True)
    shutil.copy(DEPLOY / "hbtrio-guest.service", units)
    systemd("systemctl", f"--root={tmp_path}", "enable", "hbtrio-guest")
    links = [str(path.relative_to(units)) for path in units.rglob("*") if path.is_symlink()]
    wanted = systemd("systemd-escape", "--path", "--suffix=device", NAMED_DEVICE).strip()
    assert links == [f"{wanted}.wants/hbtrio-guest.service"]


def test_users(tmp_path: Path) -> None:
    said = systemd(
        "systemd-sysusers",
        "--dry-run",
        f"--root={tmp_path}",
        str(DEPLOY / "hbtrio.sysusers.conf"),
    )
    assert "Creating user 'hbtrio' (hbtrio host and agent)" in said
    assert setting("host", "User") == "hbtrio"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a directory to others")
def test_directories(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\nhbtrio:x:12:13::/:/bin/sh\n")
    (tmp_path / "etc/group").write_text("root:x:0:\nhbtrio:x:13:\n")
    file = DEPLOY / "hbtrio.tmpfiles.conf"
    assert systemd("systemd-tmpfiles", "--create", f"--root={tmp_path}", str(file)) == ""
    made = {name: (tmp_path / name).stat() for name in ("etc/hbtrio", "run/hbtrio")}
    assert {name: (f"{one.st_mode:o}", one.st_uid, one.st_gid) for name, one in made.items()} == {
        "etc/hbtrio": ("40750", 0, 13),
        "run/hbtrio": ("40750", 12, 13),
    }


def test_systemd_lets_a_host_finish_its_actions() -> None:
    """It signals the host alone, and waits for longer than the host does."""
    assert setting("host", "KillMode") == "mixed"
    assert float(setting("host", "TimeoutStopSec")) >= HostConfig().stop_grace_s + 10
