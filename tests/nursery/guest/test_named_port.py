"""Which port is the heartbeat's, in a /sys and /dev made by the test."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from hbtrio.errors import ExitStatus, UserError
from hbtrio.nursery.guest.device import DeviceMissing
from hbtrio.nursery.guest.named_port import PORT_NAME, NamedPort

OTHER = "org.qemu.guest_agent.0"

NAMED = f"dev/virtio-ports/{PORT_NAME}"


class System:
    """The ports of a machine.

    Args:
        root: where its /sys and /dev are.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ports = root / "sys/class/virtio-ports"
        self.ports.mkdir(parents=True)
        (root / "dev/virtio-ports").mkdir(parents=True)

    def plug(self, device: str, name: str | None) -> None:
        """Makes a port as the kernel does: one without a name has no file for it."""
        (self.root / "dev" / device).touch()
        (self.ports / device).mkdir()
        if name is not None:
            (self.ports / device / "name").write_text(f"{name}\n")

    def unplug(self, device: str) -> None:
        """Takes it away, and leaves what is udev's."""
        (self.root / "dev" / device).unlink()
        (self.ports / device / "name").unlink(missing_ok=True)
        (self.ports / device).rmdir()

    def link(self, device: str) -> None:
        """Udev's link to the heartbeat's port."""
        (self.root / NAMED).symlink_to(f"../{device}")

    @property
    def found(self) -> str:
        """The port that the guest takes, below the root; "" for none."""
        try:
            path = NamedPort(self.root).find()
        except FileNotFoundError:
            return ""
        return str(Path(path).relative_to(self.root))


@pytest.fixture
def system(tmp_path: Path) -> System:
    return System(tmp_path)


def test_it_is_found_by_its_name_without_udev(system: System) -> None:
    system.plug("vport0p1", OTHER)
    system.plug("vport0p7", PORT_NAME)
    system.plug("vport1p1", "org.example.0")
    assert system.found == "dev/vport0p7"


def test_older_clouds_call_it_otherwise(system: System) -> None:
    system.plug("vport1p1", "wrs.heartbeat.agent.0")
    assert system.found == "dev/vport1p1"
    system.plug("vport1p2", PORT_NAME)
    assert system.found == "dev/vport1p2"


def test_without_a_port_the_guest_is_not_configured(system: System) -> None:
    assert system.found == ""
    with pytest.raises(UserError) as caught:
        NamedPort(system.root).check()
    text = f"{system.root / NAMED}: no such device; this VM has no heartbeat channel"
    assert (str(caught.value), caught.value.status) == (text, ExitStatus.NOT_CONFIGURED)
    NamedPort(system.root).check(wait=True)


async def test_without_a_port_it_is_missing_at_each_opening(system: System) -> None:
    system.plug("vport1p1", OTHER)
    with pytest.raises(DeviceMissing, match="no such file or directory"):
        await NamedPort(system.root).open()


def test_anothers_port_is_not_taken(system: System) -> None:
    system.plug("vport1p1", OTHER)
    assert system.found == ""


def test_anothers_port_is_not_taken_for_a_link_that_was_left(system: System) -> None:
    system.plug("vport1p1", PORT_NAME)
    system.link("vport1p1")
    assert system.found == "dev/vport1p1"
    system.unplug("vport1p1")
    assert system.found == ""
    system.plug("vport1p1", OTHER)
    assert system.found == ""
    with pytest.raises(UserError) as caught:
        NamedPort(system.root).check()
    assert caught.value.status is ExitStatus.NOT_CONFIGURED


def test_a_port_that_came_back_under_another_number_is_found(system: System) -> None:
    system.plug("vport1p1", PORT_NAME)
    port = NamedPort(system.root)
    assert Path(port.find()).name == "vport1p1"
    system.unplug("vport1p1")
    system.plug("vport2p1", PORT_NAME)
    assert Path(port.find()).name == "vport2p1"


def test_the_deployed_default_is_taken_if_it_has_no_name(system: System) -> None:
    system.plug("vport0p1", None)
    assert system.found == ""
    system.plug("vport1p1", None)
    assert system.found == "dev/vport1p1"


def test_the_deployed_default_is_no_port_if_sysfs_does_not_know_it(system: System) -> None:
    (system.root / "dev/vport1p1").touch()
    assert system.found == ""


def test_without_sysfs_the_places_are_what_there_is(system: System) -> None:
    system.ports.rmdir()
    assert system.found == ""
    (system.root / "dev/vport1p1").touch()
    assert system.found == "dev/vport1p1"
    system.link("vport1p1")
    assert system.found == NAMED


def test_in_a_container_that_has_the_port_by_its_name_alone(system: System) -> None:
    """sysfs is the machine's; /dev has only what was let in, also as a device of its own."""
    system.plug("vport0p7", PORT_NAME)
    (system.root / "dev/vport0p7").unlink()
    (system.root / NAMED).touch()
    assert system.found == NAMED


def test_a_link_to_something_that_is_no_port_is_somebodys_will(system: System) -> None:
    (system.root / "dev/hvc0").touch()
    system.link("hvc0")
    assert system.found == NAMED


def test_a_name_that_cannot_be_read_is_none(system: System) -> None:
    system.plug("vport0p1", None)
    (system.ports / "vport0p1/name").mkdir()
    system.plug("vport0p2", None)
    (system.ports / "vport0p2/name").write_bytes(b"\xff\xfe\n")
    system.plug("vport0p3", PORT_NAME)
    assert system.found == "dev/vport0p3"


@pytest.fixture
def listener(system: System) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as one:
        one.bind(str(system.root / "channel"))
        one.listen(1)
        yield one


@pytest.mark.usefixtures("listener")
async def test_what_was_found_is_checked_and_opened(system: System) -> None:
    """A socket stands in for the port, which is not to be had outside a VM."""
    system.plug("vport0p1", PORT_NAME)
    (system.root / "dev/vport0p1").unlink()
    (system.root / "channel").rename(system.root / "dev/vport0p1")
    port = NamedPort(system.root)
    port.check()
    await (await port.open()).aclose()
