"""A Debian in a directory, made by debootstrap, whose programs run in a chroot; as root."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from support.wheel import INSTALL_S

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


@contextmanager
def made_debian(root: Path, *packages: str) -> Iterator[Debian]:
    """Makes a minimal Debian of this machine's release, with some packages more."""
    release, site = mirror()
    more = [f"--include={','.join(packages)}"] if packages else []
    done = subprocess.run(
        ["debootstrap", "--variant=minbase", *more, release, str(root), site],
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    output("mount", "-t", "proc", "proc", root / "proc")
    try:
        yield Debian(root)
    finally:
        output("umount", root / "proc")


def output(*command: str | Path) -> str:
    """What a command prints, which succeeds."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
