"""Which of a VM's virtio-serial ports is the heartbeat's: looked up by its name.

Other ports may be there, such as QEMU's own agent's, and a port's number says only in which order
they were made. What is written to another's port is taken for that one's words.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

from hbtrio.nursery.guest.path_device import PathDevice

#: What the port is called (PROTOCOL.md, the guest channel).
PORT_NAME: Final = "cgcs.heartbeat"

#: And in older clouds, whose sockets hosts look for as well (``channel_patterns``).
_OLDER_NAME: Final = "wrs.heartbeat.agent.0"

#: The first that is there.
_NAMES: Final = (PORT_NAME, _OLDER_NAME)

#: Where udev puts the port by its name.
NAMED_DEVICE: Final = f"/dev/virtio-ports/{PORT_NAME}"

#: What the deployed client opens when it is told nothing.
DEFAULT_DEVICE: Final = "/dev/vport1p1"


class NamedPort(PathDevice):
    """The port of this name, wherever it is at this moment: plugged in again it may have moved.

    It is, first of these, the port that sysfs gives the name, which needs no udev; what udev has
    put in its place; and the deployed client's default. The latter two only if sysfs does not know
    them by another name: a link may be left of a port that is gone, and its number given away.

    Args:
        root: where /dev and /sys are.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._ports = root / "sys/class/virtio-ports"
        self._dev = root / "dev"
        self._named = root / NAMED_DEVICE.lstrip("/")
        self._default = root / DEFAULT_DEVICE.lstrip("/")

    def find(self) -> str:
        """See :class:`PathDevice`; where udev would put it, if it is nowhere."""
        for device in self._named_so():
            if device.exists():
                return str(device)
        if self._named.exists() and not self._name(self._named):
            return str(self._named)
        if self._default.exists() and self._may_be_ours(self._default):
            return str(self._default)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self._named))

    def _named_so(self) -> list[Path]:
        ports = [(_read(name), name.parent.name) for name in sorted(self._ports.glob("*/name"))]
        return [self._dev / port for wanted in _NAMES for name, port in ports if name == wanted]

    def _may_be_ours(self, device: Path) -> bool:
        if not self._ports.is_dir():
            return True  # nobody can tell
        return self._entry(device).is_dir() and not self._name(device)

    def _name(self, device: Path) -> str:
        return _read(self._entry(device) / "name")

    def _entry(self, device: Path) -> Path:
        return self._ports / Path(os.path.realpath(device)).name


def _read(path: Path) -> str:
    # A port without a name has no such file; one may also go away at this moment.
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return ""
