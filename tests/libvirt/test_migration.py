"""A guest that moves to another libvirtd, with a host daemon on either side."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from hbtrio.lab.scene import open_scene
from libvirt.guest_domain import Bed, configure, open_bed
from libvirt.private_libvirt import PrivateLibvirt
from support.free_ports import free_port
from vm.initramfs import Image

pytestmark = [pytest.mark.processes, pytest.mark.real_time, pytest.mark.slow, pytest.mark.vm]


@pytest.fixture
def elsewhere(libvirtd: PrivateLibvirt) -> Iterator[PrivateLibvirt]:
    """A second libvirtd, of another machine as far as it knows."""
    with tempfile.TemporaryDirectory(prefix="lv.") as name:
        private = PrivateLibvirt(Path(name))
        try:
            private.start()
            yield private
        finally:
            private.close()


async def test_a_live_migration(
    libvirt: PrivateLibvirt, elsewhere: PrivateLibvirt, image: Image
) -> None:
    async with open_bed(libvirt, image) as source, open_scene() as scene:
        configure(scene, elsewhere)
        directory = scene.directory / "vm"
        directory.mkdir()
        socket = f"{directory}/beat.sock"
        target = Bed(
            elsewhere, scene, attrs.evolve(source.domain, directory=directory, socket=socket)
        )
        await scene.start_host()
        source.begin()

        xml = await source.virsh("dumpxml", "--migratable")
        path = directory / "domain.xml"
        path.write_text(xml.replace(str(source.domain.directory), str(directory)))
        port = ("--migrateuri", f"tcp://127.0.0.1:{free_port()}")
        await source.virsh("migrate", elsewhere.uri, "--live", "--xml", str(path), *port)

        await target.until_beating()
        await source.until_forgotten()
        assert source.kinds[-1] == "stopped"
        for bed in (source, target):
            print(*bed.story(), sep="\n")
            assert "loss" not in bed.kinds
            assert bed.commands == []
        # Whoever takes it over finds its hang.
        target.begin()
        await target.inside("kill -STOP $(cat /run/guest.pid)")
        await target.event("loss")
        await target.until_commanded()
        assert source.commands == []
