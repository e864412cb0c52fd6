"""The element for hbtrio in the metadata of a real domain, as it is set, changed and removed."""

from __future__ import annotations

import pytest
import trio

from hbtrio.nursery.host.libvirt_watch import DomainListener, LibvirtWatch
from hbtrio.nursery.host.virsh import Virsh
from hbtrio.nursery.time_guard import run_guard
from hbtrio.policy.time_guard import OnTimeGuard
from hbtrio.system.runner import SystemProcesses
from hbtrio.wire.virsh import METADATA_NAMESPACE, LiveXml
from libvirt.private_libvirt import PrivateLibvirt, TinyDomain

pytestmark = [pytest.mark.processes, pytest.mark.real_time, pytest.mark.slow]

#: What takes a second or two, on a machine that is very busy.
SOON_S = 30.0


async def test_metadata_is_read_at_each_change(libvirt: PrivateLibvirt) -> None:
    domain = TinyDomain("a")
    sends, news = trio.open_memory_channel[LiveXml](1000)

    def read(uuid: str, xml: LiveXml) -> None:
        if uuid == domain.uuid:
            sends.send_nowait(xml)

    async def virsh(*words: str) -> None:
        await trio.to_thread.run_sync(libvirt.virsh, *words)

    async def change(*words: str) -> None:
        await virsh("metadata", domain.uuid, METADATA_NAMESPACE, "--live", *words)

    async def until(expected: dict[str, str] | None) -> None:
        with trio.fail_after(SOON_S):
            async for xml in news:
                assert xml.fault == ""
                if xml.metadata == expected:
                    return

    listener = DomainListener(
        on_change=lambda _domain, _happened: None,
        on_reset=lambda _domain: None,
        on_channels=lambda _uuid, _paths: None,
        on_xml=read,
    )
    async with SystemProcesses() as processes, trio.open_nursery() as nursery:
        guard = OnTimeGuard(trio.current_time())
        asked = Virsh(processes, libvirt.read_only_uri, guard)
        watch = LibvirtWatch(asked, listener, guard, required=True)
        nursery.start_soon(run_guard, guard)
        nursery.start_soon(watch.run)
        await trio.to_thread.run_sync(libvirt.define, domain)
        await virsh("start", domain.uuid)
        await until(None)
        # After its start it asks once more; from now on only an event makes it ask.
        await trio.sleep(3)
        await change("--key", "hbtrio", "--set", "<instance watch='false' grace_s='60'/>")
        await until({"watch": "false", "grace_s": "60"})
        await change("--key", "hbtrio", "--set", "<instance corrective='log'/>")
        await until({"corrective": "log"})
        await change("--remove")
        await until(None)
        nursery.cancel_scope.cancel()
