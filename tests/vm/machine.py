"""One QEMU process, its control socket and a shell in its VM."""

from __future__ import annotations

import base64
import subprocess
import uuid
from enum import Enum
from pathlib import Path
from typing import Any, Final

import attrs
import trio

from hbtrio.system.reaper_link import ReaperLink
from vm.initramfs import Image
from vm.qmp import Qmp

#: From QEMU's start until a command is answered inside. It takes 4 to 6 s where nothing else runs.
BOOT_S: Final = 90.0

#: How long a command inside may take.
COMMAND_S: Final = 30.0

_ANSWER_BYTES: Final = 1_000_000

#: The queue of what port 1 sends: behind two of port 0, two of control and its own other one.
_HEARTBEAT_OUT: Final = 5


class Transport(Enum):
    """What the heartbeat channel is in the VM: its device there, and QEMU's words for it."""

    VIRTIO = ("", "virtserialport,bus=ports.0,nr=1,name=cgcs.heartbeat")
    #: Not the heartbeat channel, but somebody else's port in its place.
    OTHER = ("", "virtserialport,bus=ports.0,nr=1,name=org.qemu.guest_agent.0")
    CONSOLE = ("/dev/hvc0", "virtconsole,bus=ports.0,nr=0")
    SERIAL = ("/dev/ttyS1", "isa-serial,index=1")

    @property
    def device(self) -> str:
        """What ``hbtrio guest --device`` is given; "" for its default."""
        return self.value[0]

    @property
    def qemu(self) -> str:
        """What QEMU's ``-device`` is given, without its chardev and id."""
        return self.value[1]


#: What may be the heartbeat channel.
CHANNELS: Final = (Transport.VIRTIO, Transport.CONSOLE, Transport.SERIAL)


class GuestCommandFailed(Exception):
    """A command inside ended with another status than 0; the text is what it said."""


@attrs.frozen
class Hardware:
    """What may differ between two machines."""

    transport: Transport = Transport.VIRTIO
    #: Where the machine comes from instead of booting: QEMU's ``-incoming``.
    incoming: str = ""
    #: A virtio device before the ports', which so are ``/dev/vport1p1`` and so on.
    second: bool = False


class Machine:
    """A VM; made by :meth:`start`.

    Args:
        directory: of its own; for sockets and logs.
        channel: the socket at which QEMU is to serve the heartbeat channel.
        uuid: the instance.
        process: QEMU.
        qmp: its control socket.
    """

    def __init__(
        self, directory: Path, channel: Path, uuid: str, process: trio.Process, qmp: Qmp
    ) -> None:
        self.directory = directory
        self.channel = channel
        self.uuid = uuid
        self.started_at = trio.current_time()
        self.qmp = qmp
        self._process = process
        self._shell: trio.SocketStream | None = None
        self._said = bytearray()
        self._commands = 0

    @classmethod
    async def start(
        cls,
        directory: Path,
        channel_dir: Path,
        image: Image,
        reaper: ReaperLink,
        hardware: Hardware,
        instance: str | None = None,
    ) -> Machine:
        """Starts QEMU and returns once it takes commands; the VM boots meanwhile."""
        instance = instance or str(uuid.uuid4())
        channel = channel_dir / f"cgcs.heartbeat.{instance}.sock"
        directory.mkdir()  # noqa: ASYNC240 - a local directory, made in microseconds
        with open(directory / "qemu.log", "wb") as log:  # noqa: ASYNC230 - as above
            process = await trio.lowlevel.open_process(
                _command(directory, channel, image, hardware),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        reaper.add(process.pid)
        try:
            qmp = await _connected(process, directory)
        except BaseException:
            process.kill()
            raise
        return cls(directory, channel, instance, process, qmp)

    @property
    def pid(self) -> int:
        """QEMU's process."""
        return self._process.pid

    @property
    def console(self) -> str:
        """What the kernel, init and the guest's log have written."""
        path = self.directory / "console.log"
        return path.read_text("utf-8", "replace") if path.exists() else ""

    def logs(self) -> str:
        """QEMU's words and the end of the console, for a test that failed."""
        qemu = (self.directory / "qemu.log").read_text("utf-8", "replace")
        return f"{qemu}\n{self.console[-3000:]}"

    # -- inside -----------------------------------------------------------------------------

    async def sh(self, command: str, *, within_s: float = COMMAND_S) -> str:
        """Runs a line of shell inside and returns its output; the VM may still be booting.

        Raises:
            GuestCommandFailed: it ended with another status than 0.
        """
        assert "\n" not in command
        with trio.fail_after(within_s):
            if self._shell is None:
                self._shell = await trio.open_unix_socket(str(self.directory / "shell.sock"))
            self._commands += 1
            # The empty line ends what another test's cut-off command may have left.
            await self._shell.send_all(f"{self._commands} {command}\n".encode())
            while True:
                number, status, output = (await self._line()).split(" ")
                if int(number) == self._commands:
                    break
        text = base64.b64decode(output).decode("utf-8", "replace")
        if status != "0":
            raise GuestCommandFailed(f"{command}: {status}: {text}")
        return text

    async def booted(self) -> float:
        """Returns once init takes commands; seconds since QEMU's start."""
        await self.sh("true", within_s=BOOT_S)
        return trio.current_time() - self.started_at

    async def _line(self) -> str:
        assert self._shell is not None
        while (end := self._said.find(b"\n")) < 0:
            data = await self._shell.receive_some(65536)
            assert data, "QEMU closed the shell's port"
            self._said += data
            assert len(self._said) < _ANSWER_BYTES
        line = self._said[:end].decode()
        del self._said[: end + 1]
        return line

    # -- outside ----------------------------------------------------------------------------

    async def said(self, text: str, times: int = 1, within_s: float = BOOT_S) -> None:
        """Returns once the console holds this text, so many times."""
        with trio.fail_after(within_s):
            while self.console.count(text) < times:  # noqa: ASYNC110 - another process writes it
                await trio.sleep(0.02)

    async def changed(self, *expected: str, shell: bool = True) -> None:
        """Returns if these were all of the guest's changes of state.

        Args:
            expected: since this QEMU was started, as the guest's log has them.
            shell: whether the VM's shell is to be trusted: after a migration the first changes are
                compared as soon as there are as many.
        """
        if shell:
            # The console follows the log, a second behind.
            mark = f"that was all, {self._commands}"
            await self.sh(f"echo {mark} >>/run/guest.log")
            await self.said(mark)
        with trio.move_on_after(COMMAND_S):
            while len(self.changes) < len(expected):  # noqa: ASYNC110 - another process writes it
                await trio.sleep(0.02)
        assert self.changes == list(expected), f"{self.changes} instead of {list(expected)}"

    @property
    def changes(self) -> list[str]:
        """The guest's changes of state so far, as the console has them."""
        marker = "heartbeat state change "
        lines = self.console.splitlines()
        return [line.partition(marker)[2].strip() for line in lines if marker in line]

    async def save(self, state: Path) -> None:
        """Writes all of the machine to a file, for another's ``-incoming``, and switches it off."""
        await self.qmp("migrate", uri=f"exec:cat >{state}")
        await self.qmp.until_migrated()
        await self.qmp("quit")
        await self.ended()

    async def unplug(self) -> None:
        """Takes the heartbeat port out of the VM; its socket stays."""
        await self.qmp("device_del", id="port")
        await self.qmp.event("DEVICE_DELETED", COMMAND_S, lambda data: data.get("device") == "port")

    async def plug(self, port: Transport = Transport.VIRTIO) -> None:
        """Puts it back, or another one in its place."""
        driver, *settings = port.qemu.split(",")
        arguments: dict[str, Any] = dict(item.split("=") for item in settings)
        await self.qmp("device_add", driver=driver, id="port", chardev="heartbeat", **arguments)

    async def stalled(self) -> bool:
        """Whether QEMU holds data of the heartbeat port that its client does not take."""
        (device,) = await self.qmp("x-query-virtio")
        about = await self.qmp(
            "x-query-virtio-queue-status", path=device["path"], queue=_HEARTBEAT_OUT
        )
        return bool(about["inuse"])

    async def ended(self, within_s: float = COMMAND_S) -> int:
        """Returns QEMU's exit status once it has ended."""
        with trio.fail_after(within_s):
            return await self._process.wait()

    async def kill(self) -> None:
        """Ends QEMU at once, with all that is open in it."""
        for stream in (self._shell, self.qmp):
            if stream is not None:
                with trio.CancelScope(shield=True):
                    await stream.aclose()
        if self._process.returncode is None:
            self._process.kill()
        with trio.CancelScope(shield=True):
            await self._process.wait()


def _command(directory: Path, channel: Path, image: Image, hardware: Hardware) -> list[str]:
    device = hardware.transport.device
    options = f"--device {device}" if device else ""
    ports = 2 if hardware.transport in (Transport.VIRTIO, Transport.OTHER) else 1
    append = [
        f"ports={ports}",
        "console=ttyS0",
        "panic=-1",
        "quiet",
        "mitigations=off",
        f'guest="{options}"',
    ]
    command = [
        *("qemu-system-x86_64", "-accel", "tcg", "-machine", "q35", "-cpu", "max"),
        *("-smp", "1", "-m", "256", "-nodefaults", "-nic", "none", "-display", "none"),
        *("-kernel", str(image.kernel), "-initrd", str(image.initramfs)),
        *("-append", " ".join(append)),
        *("-chardev", f"file,id=console,path={directory / 'console.log'},append=on"),
        *("-device", "isa-serial,chardev=console,index=0"),
        *(("-device", "virtio-serial-pci,id=first,max_ports=1") if hardware.second else ()),
        *("-device", "virtio-serial-pci,id=ports,max_ports=4"),
        *("-chardev", f"socket,id=shell,path={directory / 'shell.sock'},server=on,wait=off"),
        *("-device", "virtserialport,bus=ports.0,nr=2,name=hbtrio.test,chardev=shell"),
        *("-chardev", f"socket,id=heartbeat,path={channel},server=on,wait=off"),
        *("-device", f"{hardware.transport.qemu},chardev=heartbeat,id=port"),
    ]
    # Two, for each bears one client: the test's, and that of what hbtrio ctl act runs.
    for name in ("qmp.sock", "act.sock"):
        command += ["-qmp", f"unix:{directory / name},server=on,wait=off"]
    if hardware.incoming:
        command += ["-incoming", hardware.incoming]
    return command


async def _connected(process: trio.Process, directory: Path) -> Qmp:
    with trio.fail_after(COMMAND_S):
        while True:
            try:
                return await Qmp.connect(directory / "qmp.sock")
            except OSError:
                log = (directory / "qemu.log").read_text("utf-8", "replace")
                assert process.poll() is None, f"QEMU did not start: {log}"
                await trio.sleep(0.02)
