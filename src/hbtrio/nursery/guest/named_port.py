"""Finds the heartbeat's virtio-serial port among the ports of a VM, by its name.

A VM may have other ports, such as that of QEMU's guest agent, and a port's number only reflects the
order of creation. Data written to another port would reach another program.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

from hbtrio.nursery.guest.path_device import PathDevice

#: The name of the port (PROTOCOL.md, the guest channel).
PORT_NAME: Final = "cgcs.heartbeat"

#: The name in older clouds; hosts look for its sockets as well (``channel_patterns``).
_OLDER_NAME: Final = "wrs.heartbeat.agent.0"

#: The names in order of preference.
_NAMES: Final = (PORT_NAME, _OLDER_NAME)

#: The link that udev makes for the port.
NAMED_DEVICE: Final = f"/dev/virtio-ports/{PORT_NAME}"

#: The default device of the deployed client.
DEFAULT_DEVICE: Final = "/dev/vport1p1"


class NamedPort(PathDevice):
    """Finds the port at each opening, because it may have moved after a replug.

    In order of preference: the port with the name in sysfs, which needs no udev; the link made by
    udev; the deployed client's default. The latter two are used only if sysfs has no other name for
    them: a link may remain from a removed port whose number was reused.

    Args:
        root: the directory with /dev and /sys.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._ports = root / "sys/class/virtio-ports"
        self._dev = root / "dev"
        self._named = root / NAMED_DEVICE.lstrip("/")
        self._default = root / DEFAULT_DEVICE.lstrip("/")

    def find(self) -> str:
        """See :class:`PathDevice`; the error names the path of the udev link."""
        for device in self._devices_by_name():
            if device.exists():
                return str(device)
        if self._named.exists() and not self._name(self._named):
            return str(self._named)
        if self._default.exists() and self._may_be_heartbeat(self._default):
            return str(self._default)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self._named))

    def _devices_by_name(self) -> list[Path]:
        ports = [(_read(name), name.parent.name) for name in sorted(self._ports.glob("*/name"))]
        return [self._dev / port for wanted in _NAMES for name, port in ports if name == wanted]

    def _may_be_heartbeat(self, device: Path) -> bool:
        if not self._ports.is_dir():
            return True  # no sysfs to check
        return self._entry(device).is_dir() and not self._name(device)

    def _name(self, device: Path) -> str:
        return _read(self._entry(device) / "name")

    def _entry(self, device: Path) -> Path:
        return self._ports / Path(os.path.realpath(device)).name


def _read(path: Path) -> str:
    # A port without a name has no such file, and a port may vanish at any moment.
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return ""
