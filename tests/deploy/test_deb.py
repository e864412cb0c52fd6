"""The Debian packages: what is in them, and how they live and die in a Debian made for it.

``make test-deb`` makes that Debian with debootstrap; other runs look only into the packages.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

import hbtrio
from support.debian import Debian, made_debian, output
from support.wheel import CHECKOUT, INSTALL_S, built_once

pytestmark = pytest.mark.processes

DEPLOY: Final = CHECKOUT / "deploy"
REQUIRED: Final = os.environ.get("HBTRIO_REQUIRE_INDEX") == "1"
PYTHON: Final = "/usr/bin/python3"
DAEMONS: Final = {"guest": ["guest"], "host": ["host", "agent"]}
#: Those that let the host reach channels and libvirt.
GROUPS: Final = ("libvirt", "libvirt-qemu")
CONFIGURATION: Final = {
    "guest": [
        "/etc/guest-client/heartbeat/guest_heartbeat.conf",
        "/etc/guest-client/heartbeat/sample_event_script",
        "/etc/guest-client/heartbeat/sample_health_script",
    ],
    "host": ["/etc/hbtrio/agent.toml", "/etc/hbtrio/host.toml"],
}


def is_new_enough(python: str) -> bool:
    """Whether this Python is there and can run hbtrio."""
    test = "import sys; sys.exit(sys.version_info < (3, 11))"
    try:
        return subprocess.run([python, "-c", test], timeout=60).returncode == 0
    except FileNotFoundError:
        return False


def package(role: str, factory: pytest.TempPathFactory, revision: int = 1) -> Path:
    """The package of a role."""
    if not (shutil.which("dpkg-deb") and is_new_enough(PYTHON)) and not REQUIRED:
        pytest.skip(f"there is no dpkg-deb or no {PYTHON} of 3.11 or newer here")

    def build(place: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", str(DEPLOY / "deb" / "build.sh"), role, str(place)],
            env=os.environ | {"PIP_PYTHON": sys.executable, "DEB_REVISION": str(revision)},
            capture_output=True,
            text=True,
            timeout=INSTALL_S,
        )

    (deb,) = built_once(factory, f"deb-{role}-{revision}", build).glob("*.deb")
    return deb


@pytest.mark.parametrize("role", DAEMONS)
def test_a_package(role: str, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    deb = package(role, tmp_path_factory)
    version = re.escape(f"{hbtrio.__version__}-1")
    assert re.fullmatch(rf"hbtrio-{role}_{version}_\w+\.deb", deb.name)
    (tmp_path / "control").mkdir()
    output("dpkg-deb", "--control", deb, tmp_path / "control")
    conffiles = (tmp_path / "control" / "conffiles").read_text().splitlines()
    assert conffiles == CONFIGURATION[role]
    assert "@" not in (tmp_path / "control" / "control").read_text().replace("maintainers@", "")
    assert re.search(
        r"^Depends: python3 \(>= 3\.\d+\), python3 \(<< 3\.\d+\)",
        output("dpkg-deb", "--field", deb),
        re.M,
    )
    for script in ("postinst", "prerm", "postrm"):
        output("sh", "-n", tmp_path / "control" / script)

    root = tmp_path / "root"
    output("dpkg-deb", "--extract", deb, root)
    place = f"/opt/hbtrio-{role}"
    assert os.readlink(root / "usr/bin/hbtrio") == f"{place}/bin/hbtrio"
    assert sorted(path.name for path in (root / place[1:] / "bin").iterdir())[0] == "hbtrio"
    for daemon in DAEMONS[role]:
        unit = (root / f"usr/lib/systemd/system/hbtrio-{daemon}.service").read_text()
        plain = (DEPLOY / f"hbtrio-{daemon}.service").read_text()
        assert unit == plain.replace("ExecStart=hbtrio ", f"ExecStart={place}/bin/hbtrio ")
        assert unit != plain
    assert nothing_names_where_it_was_built(root)
    # Its Python finds its packages from any place.
    python = root / place[1:] / "bin" / "python"
    said = output(python, "-I", root / place[1:] / "bin" / "hbtrio", "--version")
    assert said == f"hbtrio {hbtrio.__version__}\n"


def nothing_names_where_it_was_built(root: Path) -> bool:
    """Whether no text names a directory of temporary files."""
    inside = subprocess.run(
        ["grep", "-rlI", "--exclude-dir=files", "--exclude-dir=_tests", "/tmp/tmp.", str(root)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    return inside.stdout == ""


# -- in a Debian --------------------------------------------------------------------------------

whole = pytest.mark.skipif(
    os.environ.get("HBTRIO_DEBOOTSTRAP") != "1", reason="run by make test-deb, as root"
)


@pytest.fixture
def debian(tmp_path: Path) -> Iterator[Debian]:
    """A minimal Debian with Python and systemd, of this machine's release."""
    with made_debian(
        tmp_path / "debian", "procps", "python3", "systemd", "systemd-sysv", "udev"
    ) as made:
        yield made


@whole
def test_from_installation_to_purge(
    debian: Debian, tmp_path_factory: pytest.TempPathFactory
) -> None:
    for group in GROUPS:  # libvirt's packages make them
        debian.output("groupadd", "--system", group)
    for role, daemons in DAEMONS.items():
        before = debian.files() | {"/opt"}
        users = (debian.root / "etc/passwd").read_text()
        debian.install(package(role, tmp_path_factory))
        units = [f"/usr/lib/systemd/system/hbtrio-{daemon}.service" for daemon in daemons]
        assert debian.run("systemd-analyze", "verify", *units).stderr == ""
        enabled = debian.output("systemctl", "is-enabled", f"hbtrio-{role}")
        assert enabled == "enabled\n"
        assert debian.output("hbtrio", "--version") == f"hbtrio {hbtrio.__version__}\n"
        for name in ("man1/hbtrio.1.gz", f"man8/hbtrio-{role}.8.gz"):
            # minbase leaves manual pages out, unless dpkg is told otherwise.
            assert name.rpartition("/")[2] in debian.output("dpkg", "-L", f"hbtrio-{role}")
        runs(debian, role)
        if role == "host":
            assert set(GROUPS) <= groups_of_hbtrio(debian)
            debian.output("gpasswd", "--delete", "hbtrio", "libvirt")

        changed = debian.root / CONFIGURATION[role][-1][1:]
        changed.write_text(changed.read_text() + "# mine\n")
        debian.install(package(role, tmp_path_factory, revision=2))
        field = debian.output("dpkg-query", "-W", "-f", "${Version}", f"hbtrio-{role}")
        assert field == f"{hbtrio.__version__}-2"
        assert changed.read_text().endswith("# mine\n")
        assert debian.output("systemctl", "is-enabled", f"hbtrio-{role}") == "enabled\n"
        runs(debian, role)
        if role == "host":
            # A right that was taken away stays taken.
            assert set(GROUPS) & groups_of_hbtrio(debian) == {"libvirt-qemu"}

        debian.output("apt-get", "remove", "--yes", f"hbtrio-{role}")
        left = debian.files() - before
        assert set(CONFIGURATION[role]) <= left
        assert not [path for path in left if path.startswith(("/opt/", "/usr/"))]
        debian.output("apt-get", "purge", "--yes", f"hbtrio-{role}")
        assert debian.files() == before - {"/opt"}  # which nobody owns: dpkg removes it if empty
        assert (debian.root / "etc/passwd").read_text() == users


def groups_of_hbtrio(debian: Debian) -> set[str]:
    return set(debian.output("id", "-nG", "hbtrio").split())


def runs(debian: Debian, role: str) -> None:
    """The daemons do what they are for."""
    if role == "guest":
        guest_runs(debian)
    else:
        host_and_agent_run(debian)


def guest_runs(debian: Debian) -> None:
    """By ExecStart alone it finds no channel; with one it greets its host."""
    start = debian.unit("guest")["ExecStart"].split()
    assert debian.run(*start).returncode == 6
    channel = debian.root / "channel"
    # A path of the chroot may be too long for a socket address; one through a descriptor is not.
    directory = os.open(debian.root, os.O_PATH)
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"/proc/self/fd/{directory}/channel")
            listener.listen()
            listener.settimeout(60)
            with debian.started("guest", "--device", "/channel"):
                connection, _ = listener.accept()
                with connection, connection.makefile("rb") as lines:
                    connection.settimeout(60)
                    greeting = next(line for line in lines if line.strip())
        assert json.loads(greeting)["msg_type"] == "init"
    finally:
        os.close(directory)
        channel.unlink()


def host_and_agent_run(debian: Debian) -> None:
    """The user is what the units say, and the operator's command reaches both."""
    debian.output("install", "-d", "/var/lib/libvirt/qemu")
    try:
        with debian.started("host"):
            debian.until_it_says("0 of 0 heartbeating", "hbtrio", "ctl", "status")
        with debian.started("agent"):
            url = "unix:/run/hbtrio/agent.sock"
            debian.until_it_says("0 of 0", "hbtrio", "ctl", "--url", url, "status")
        assert debian.output("stat", "-c", "%U %G %a", "/etc/hbtrio") == "root hbtrio 750\n"
    finally:
        debian.output("rm", "-r", "/var/lib/libvirt")
