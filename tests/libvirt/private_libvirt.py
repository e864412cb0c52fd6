"""A libvirtd of the tests' own: the machine's libvirt, if there is one, is not touched.

It runs in a mount namespace in which its directories lie over those of the machine. It needs root,
and neither systemd nor D-Bus.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import attrs
import pytest

#: libvirtd probes QEMU at its first start, on a machine that may be busy.
START_S: Final = 60.0

#: What fits into :attr:`PrivateLibvirt.small`.
SMALL_BYTES: Final = 2 * 1024 * 1024

#: What a command may take.
COMMAND_S: Final = 60.0

TOOLS: Final = (
    *("libvirtd", "virsh", "qemu-system-x86_64", "qemu-img"),
    *("unshare", "nsenter", "mount"),
)

#: Each in its own directory, below which the machine's own is hidden.
_HIDDEN: Final = {
    "etc": "/etc/libvirt",
    "run": "/run/libvirt",
    "lib": "/var/lib/libvirt",
    "cache": "/var/cache/libvirt",
    "log": "/var/log/libvirt",
}

_LIBVIRTD_CONF: Final = """\
auth_unix_ro = "none"
auth_unix_rw = "none"
"""

#: No cgroups, no namespaces, no other user: the tests' directories are root's alone.
_QEMU_CONF: Final = """\
user = "root"
group = "root"
security_driver = "none"
dynamic_ownership = 0
remember_owner = 0
namespaces = []
cgroup_controllers = []
stdio_handler = "file"
"""


def obstacle() -> str:
    """Why no libvirtd can be started here; empty if one can."""
    missing = [tool for tool in TOOLS if shutil.which(tool, path=_PATH) is None]
    if missing:
        packages = "libvirt-daemon-system, qemu-system-x86, qemu-utils"
        return f"no {', '.join(missing)}: install {packages}"
    if os.geteuid() != 0:
        return "a libvirtd of the tests' own needs root"
    return ""


_PATH: Final = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


@attrs.frozen
class TinyDomain:
    """A domain of 16 MiB that runs its firmware and no system: enough where only states matter.

    Args:
        name: libvirt's name.
        devices: XML added to its devices.
        elements: XML added to the domain.
        socket: the path of its heartbeat channel; empty: libvirt makes one.
    """

    name: str
    devices: str = ""
    elements: str = ""
    socket: str = ""
    uuid: str = attrs.field(factory=lambda: str(uuid.uuid4()))

    @property
    def xml(self) -> str:
        source = f"<source mode='bind' path='{self.socket}'/>" if self.socket else ""
        name = self.name.replace("&", "&amp;").replace("<", "&lt;")
        return f"""
<domain type='qemu'>
  <name>{name}</name>
  <uuid>{self.uuid}</uuid>
  <memory unit='MiB'>16</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  {self.elements}
  <devices>
    <emulator>{shutil.which("qemu-system-x86_64")}</emulator>
    <controller type='usb' model='none'/>
    <channel type='unix'>{source}<target type='virtio' name='cgcs.heartbeat'/></channel>
    <memballoon model='none'/>
    {self.devices}
  </devices>
</domain>
"""


class VirshFailed(Exception):
    """A virsh command failed; the text is what it printed."""


class PrivateLibvirt:
    """Starts and ends libvirtd, and commands it.

    Args:
        directory: where all its files are; its path must be short.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        socket = directory / "run" / "libvirt-sock"
        self.uri = f"qemu:///system?socket={socket}"
        #: For ``virsh -r``.
        self.read_only_uri = f"{self.uri}-ro"
        self._process: subprocess.Popen[bytes] | None = None
        for name, hidden in _HIDDEN.items():
            (directory / name).mkdir()
            Path(hidden).mkdir(parents=True, exist_ok=True)
        #: Where a file system is that is soon full; seen by libvirtd and QEMU alone.
        self.small = directory / "small"
        self.small.mkdir()
        # A VM moves only to another machine.
        conf = f'{_LIBVIRTD_CONF}host_uuid = "{uuid.uuid4()}"\n'
        (directory / "etc" / "libvirtd.conf").write_text(conf, encoding="ascii")
        (directory / "etc" / "qemu.conf").write_text(_QEMU_CONF, encoding="ascii")

    @property
    def pid(self) -> int:
        """The process id of libvirtd."""
        assert self._process is not None
        return self._process.pid

    # -- libvirtd -----------------------------------------------------------------------------

    def start(self) -> None:
        """Starts libvirtd and returns once it answers; its domains may run already."""
        mounts = [f"mount --bind {self.directory / name} {at}" for name, at in _HIDDEN.items()]
        mounts.append(f"mount -t tmpfs -o size={SMALL_BYTES} small {self.small}")
        # Those of other workers of a test run have a pid file, too.
        run = f"exec libvirtd --pid-file {self.directory}/libvirtd.pid"
        script = " && ".join((*mounts, run))
        with (self.directory / "libvirtd.log").open("ab") as log:
            self._process = subprocess.Popen(
                ["unshare", "--mount", "--propagation", "private", "sh", "-c", script],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PATH": _PATH},
                start_new_session=True,
            )
        deadline = time.monotonic() + START_S
        while True:
            try:
                self.virsh("list")
            except VirshFailed as error:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    text = (self.directory / "libvirtd.log").read_text(encoding="utf-8")
                    raise AssertionError(f"libvirtd did not start: {text}") from error
                time.sleep(0.05)
            else:
                return

    def start_if_crashed(self) -> None:
        """Starts libvirtd again if it has ended by itself, as 9.0 may in a dump with a reset.

        The test in which it crashed fails; the others are about other things.
        """
        if self._process is not None and self._process.poll() is not None:
            self.start()

    def end(self, signal_number: int = signal.SIGTERM) -> None:
        """Ends libvirtd and returns when it has ended; its domains run on."""
        assert self._process is not None
        self._process.send_signal(signal_number)
        self._process.wait(COMMAND_S)
        self._process = None

    def inside(self, *words: str) -> None:
        """Runs a command that sees libvirtd's directories."""
        subprocess.run(
            [*self.entering, *words], check=True, stdin=subprocess.DEVNULL, timeout=COMMAND_S
        )

    @property
    def entering(self) -> tuple[str, ...]:
        """What a command begins with that is to see libvirtd's directories."""
        return ("nsenter", f"--mount=/proc/{self.pid}/ns/mnt")

    @contextmanager
    def seen_by_python(self) -> Iterator[None]:
        """Has each Python that is started in the block see libvirtd's directories.

        A host daemon has to, to connect to a socket that libvirt has made.
        """
        wrapper = self.directory / "python"
        command = shlex.join((*self.entering, sys.executable))
        wrapper.write_text(f'#!/bin/sh\nexec {command} "$@"\n', encoding="utf-8")
        wrapper.chmod(0o755)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "executable", str(wrapper))
            yield

    def hang(self) -> None:
        """Stops libvirtd: it answers nothing."""
        os.kill(self.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """Lets a stopped libvirtd go on."""
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """Ends all domains, and libvirtd."""
        for path in (self.directory / "run" / "qemu").glob("*.pid"):
            os.kill(int(path.read_text(encoding="ascii")), signal.SIGKILL)
        if self._process is not None and self._process.poll() is None:
            self.go_on()
            self.end(signal.SIGKILL)

    # -- domains ------------------------------------------------------------------------------

    def virsh(self, *words: str) -> str:
        """Runs a virsh command with write access and returns its output.

        Raises:
            VirshFailed: it failed.
        """
        ended = subprocess.run(
            ["virsh", "-q", "-c", self.uri, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env={**os.environ, "LC_ALL": "C"},
            timeout=COMMAND_S,
            check=False,
        )
        if ended.returncode != 0:
            raise VirshFailed(ended.stderr.decode("utf-8", "replace"))
        return ended.stdout.decode()

    def define(self, domain: TinyDomain) -> TinyDomain:
        """Defines a domain, shut off."""
        path = self.directory / f"{domain.uuid}.xml"
        path.write_text(domain.xml, encoding="utf-8")
        self.virsh("define", str(path))
        return domain

    def qemu_pid(self, domain: TinyDomain) -> int:
        """The process id of a running domain's QEMU."""
        path = self.directory / "run" / "qemu" / f"{domain.name}.pid"
        return int(path.read_text(encoding="ascii"))

    def destroy_all(self) -> None:
        """Ends and undefines all domains, also of a libvirtd that has crashed."""
        self.start_if_crashed()
        for name in self.virsh("list", "--all", "--uuid").split():
            if name in self.virsh("list", "--uuid").split():
                self.virsh("destroy", name)
            self.virsh("undefine", name, "--managed-save", "--snapshots-metadata")
