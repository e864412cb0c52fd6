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
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

import hbtrio
from support.wheel import CHECKOUT, INSTALL_S, built_once

pytestmark = pytest.mark.processes

DEPLOY: Final = CHECKOUT / "deploy"
REQUIRED: Final = os.environ.get("HBTRIO_REQUIRE_INDEX") == "1"
PYTHON: Final = "/usr/bin/python3"
DAEMONS: Final = {"guest": ["guest"], "host": ["host", "agent"]}
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


def output(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


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

#: What dpkg, apt and systemd's tools change for any package.
NOISE: Final = re.compile(
    r"/(proc|dev|sys|tmp|packages)(/|$)|/var/(lib/dpkg|cache|log|lib/systemd)(/|$)"
    r"|/etc/(passwd|group|shadow|gshadow)-?$|/etc/\.pwd\.lock$|/etc/ld\.so\.cache$"
    r"|/etc/sub[ug]id-?$|/var/lib/apt/|/run(/|$)"
)


class Debian:
    """A Debian in a directory, whose programs run in a chroot.

    Args:
        root: the directory.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def run(self, *command: str, user: str = "root") -> subprocess.CompletedProcess[str]:
        """Runs a command in it, to its end."""
        return subprocess.run(
            ["chroot", f"--userspec={user}", str(self.root), *command],
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=INSTALL_S,
        )

    def output(self, *command: str) -> str:
        """What a command prints, which succeeds."""
        done = self.run(*command)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def environment(self) -> dict[str, str]:
        """That of its programs."""
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return {"PATH": path, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}

    def install(self, deb: Path) -> None:
        """Installs a package with apt; what it depends on is there already."""
        (self.root / "packages").mkdir(exist_ok=True)
        shutil.copy(deb, self.root / "packages")
        self.output(
            "apt-get", "install", "--yes", "--no-install-recommends",
            "-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold",
            f"/packages/{deb.name}",
        )  # fmt: skip

    def files(self) -> set[str]:
        """All that is in it, without what changes with any package."""
        found = set()
        for directory, inner, names in os.walk(self.root):
            for name in (*inner, *names):
                path = f"{directory}/{name}".removeprefix(str(self.root))
                found.add(path)
            inner[:] = [
                name
                for name in inner
                if not NOISE.match(f"{directory}/{name}".removeprefix(str(self.root)))
            ]
        return {path for path in found if not NOISE.match(path)}

    def unit(self, daemon: str) -> dict[str, str]:
        """The last value of each setting of a daemon's unit."""
        file = self.root / f"usr/lib/systemd/system/hbtrio-{daemon}.service"
        lines = (line.partition("=") for line in file.read_text().splitlines())
        return {key: value for key, is_setting, value in lines if is_setting and key[0] != "#"}

    @contextmanager
    def started(self, daemon: str, *more: str) -> Iterator[subprocess.Popen[str]]:
        """Runs what ExecStart says as systemd would, and ends it with TERM, which has to succeed.

        Args:
            daemon: whose unit.
            more: further arguments.
        """
        unit = self.unit(daemon)
        user = unit.get("User", "root")
        for key, parent in (("RuntimeDirectory", "run"), ("StateDirectory", "var/lib")):
            if key in unit:
                self.output("install", "-d", "-o", user, "-g", user, f"/{parent}/{unit[key]}")
        command = [*unit["ExecStart"].split(), *more]
        assert command[0].startswith("/opt/hbtrio-")
        self.output("sh", "-c", "command -v setpriv >/dev/null")
        process = subprocess.Popen(
            ["chroot", str(self.root), "setpriv", f"--reuid={user}", f"--regid={user}",
             "--init-groups", *command],
            env=self.environment(),
            stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        try:
            yield process
            process.terminate()
            _, said = process.communicate(timeout=60)
            assert process.returncode == 0, said
        finally:
            process.kill()
            process.wait()

    def until_it_says(self, wanted: str, *command: str) -> None:
        """Runs a command until its output has a text; another process makes it true."""
        deadline = time.monotonic() + 60
        done = self.run(*command)
        while wanted not in done.stdout and time.monotonic() < deadline:
            time.sleep(0.2)
            done = self.run(*command)
        assert wanted in done.stdout, done.stdout + done.stderr


def mirror() -> tuple[str, str]:
    """The name of this Debian's release, and from where apt gets it here."""
    release = dict(
        line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if line
    )["VERSION_CODENAME"]
    listed = output("apt-get", "indextargets", "--format", "$(CODENAME) $(COMPONENT) $(SITE)")
    sites = [line.split()[2] for line in listed.splitlines() if line.split()[0] == release]
    return release, sites[0]


@pytest.fixture
def debian(tmp_path: Path) -> Iterator[Debian]:
    """A minimal Debian with Python and systemd, of this machine's release."""
    root = tmp_path / "debian"
    done = subprocess.run(
        ["debootstrap", "--variant=minbase", "--include=procps,python3,systemd,systemd-sysv,udev",
         mirror()[0], str(root), mirror()[1]],
        capture_output=True,
        text=True,
        timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    output("mount", "-t", "proc", "proc", root / "proc")
    try:
        yield Debian(root)
    finally:
        output("umount", root / "proc")


@whole
def test_from_installation_to_purge(
    debian: Debian, tmp_path_factory: pytest.TempPathFactory
) -> None:
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

        changed = debian.root / CONFIGURATION[role][-1][1:]
        changed.write_text(changed.read_text() + "# mine\n")
        debian.install(package(role, tmp_path_factory, revision=2))
        field = debian.output("dpkg-query", "-W", "-f", "${Version}", f"hbtrio-{role}")
        assert field == f"{hbtrio.__version__}-2"
        assert changed.read_text().endswith("# mine\n")
        assert debian.output("systemctl", "is-enabled", f"hbtrio-{role}") == "enabled\n"
        runs(debian, role)

        debian.output("apt-get", "remove", "--yes", f"hbtrio-{role}")
        left = debian.files() - before
        assert set(CONFIGURATION[role]) <= left
        assert not [path for path in left if path.startswith(("/opt/", "/usr/"))]
        debian.output("apt-get", "purge", "--yes", f"hbtrio-{role}")
        assert debian.files() == before - {"/opt"}  # which nobody owns: dpkg removes it if empty
        assert (debian.root / "etc/passwd").read_text() == users


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
