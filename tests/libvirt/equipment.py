"""What the shared guest has besides its channel: disks, a watchdog, and a device for panics."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

from libvirt.private_libvirt import PrivateLibvirt

#: The guest may suspend itself to memory. Whoever tests panics sets another reaction.
ELEMENTS: Final = "<on_crash>preserve</on_crash><pm><suspend-to-mem enabled='yes'/></pm>"

_DISK: Final = (
    "<disk type='file' device='disk'><driver name='qemu' type='qcow2' error_policy='stop'/>"
    "<source file='{file}'/><target dev='{name}' bus='virtio'/></disk>"
)

#: One for snapshots, and one that is larger than the file system that it is on.
SMALL_DISK: Final = "/dev/vdb"
_SMALL_DISK_MIB: Final = 16

#: Has the watchdog expire a second later, without a driver: Debian's cloud kernel has none for it.
#: Its registers are unlocked for one write each; the last one, in its configuration, is the switch.
START_WATCHDOG: Final = (
    "d=$(dirname $(grep -l 0x25ab /sys/bus/pci/devices/*/device)); echo 1 >$d/enable; "
    "b=$(head -n 1 $d/resource | cut -d ' ' -f 1); "
    "w() { devmem $((b + 12)) 16 0x80; devmem $((b + 12)) 16 0x86; devmem $((b + $1)) 32 $2; }; "
    "w 0 500; w 4 500; printf '\\002' | dd of=$d/config bs=1 seek=104 conv=notrunc"
)


def make_devices(libvirt: PrivateLibvirt, directory: Path) -> str:
    """Makes the disks' files, and returns the XML of all devices."""
    small = libvirt.small / f"{directory.parent.name}.qcow2"
    create = ("qemu-img", "create", "-q", "-f", "qcow2")
    subprocess.run([*create, directory / "disk.qcow2", "16M"], check=True)
    libvirt.inside(*create, str(small), f"{_SMALL_DISK_MIB}M")
    return (
        _DISK.format(file=directory / "disk.qcow2", name="vda")
        + _DISK.format(file=small, name="vdb")
        + "<watchdog model='i6300esb' action='pause'/><panic model='isa'/>"
    )


def make_room(libvirt: PrivateLibvirt) -> None:
    """Lets the file system grow that the small disk has filled."""
    libvirt.inside("mount", "-o", f"remount,size={2 * _SMALL_DISK_MIB}m", str(libvirt.small))
