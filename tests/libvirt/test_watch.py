"""What the host learns of real domains: one test for each line of libvirt's that can run here."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import attrs
import pytest
import trio

from hbtrio.fsm.domain import DomainChange, Standing
from hbtrio.fsm.known_domains import Domain
from hbtrio.nursery.host.libvirt_watch import DomainListener, LibvirtWatch, Source
from hbtrio.nursery.host.virsh import Virsh
from hbtrio.nursery.time_guard import run_guard
from hbtrio.policy.time_guard import OnTimeGuard
from hbtrio.system.runner import SystemProcesses
from libvirt.private_libvirt import PrivateLibvirt, TinyDomain

pytestmark = [pytest.mark.processes, pytest.mark.real_time, pytest.mark.slow]

C = DomainChange

#: What takes a second or two, on a machine that is very busy.
SOON_S = 30.0

PANICS = "<on_crash>{}</on_crash>"


@attrs.define
class Watched:
    """A watch over the real libvirt, and what it announced."""

    libvirt: PrivateLibvirt
    watch: LibvirtWatch
    heard: list[tuple[str, tuple[DomainChange, ...], str]] = attrs.field(factory=list)
    resets: list[str] = attrs.field(factory=list)
    channels: dict[str, tuple[str, ...]] = attrs.field(factory=dict)
    _news: trio.Event = attrs.field(factory=trio.Event)

    def changed(self, domain: Domain, happened: tuple[DomainChange, ...]) -> None:
        self.heard.append((domain.name, happened, domain.state.words))
        self.wake()

    def wake(self) -> None:
        self._news.set()
        self._news = trio.Event()

    async def until(self, condition: Callable[[], object]) -> None:
        with trio.fail_after(SOON_S):
            while not condition():
                await self._news.wait()

    async def until_heard(self, domain: TinyDomain, change: DomainChange, words: str = "") -> None:
        """Returns once this change has been announced, and forgets all until then."""

        def found() -> bool:
            return any(
                name == domain.name and change in happened and text.startswith(words)
                for name, happened, text in self.heard
            )

        await self.until(found)
        self.heard.clear()

    async def virsh(self, *words: str) -> str:
        return await trio.to_thread.run_sync(self.libvirt.virsh, *words)

    async def start(self, domain: TinyDomain) -> TinyDomain:
        """Defines and starts a domain; returns once it is known to run."""
        await trio.to_thread.run_sync(self.libvirt.define, domain)
        await self.virsh("start", domain.uuid)
        await self.until(lambda: domain.uuid in self.channels)
        assert await self.standing(domain) is Standing.RUNNING
        self.heard.clear()
        return domain

    async def standing(self, domain: TinyDomain) -> Standing | None:
        """A fresh answer."""
        looks = await self.watch.look([domain.uuid], SOON_S)
        return looks[domain.uuid].standing


@asynccontextmanager
async def watched(libvirt: PrivateLibvirt) -> AsyncIterator[Watched]:
    world: list[Watched] = []

    def channels_found(uuid: str, paths: tuple[str, ...]) -> None:
        world[0].channels[uuid] = paths
        world[0].wake()

    def was_reset(domain: Domain) -> None:
        world[0].resets.append(domain.name)
        world[0].wake()

    listener = DomainListener(
        on_change=lambda domain, happened: world[0].changed(domain, happened),
        on_reset=was_reset,
        on_channels=channels_found,
    )
    async with SystemProcesses() as processes, trio.open_nursery() as nursery:
        guard = OnTimeGuard(trio.current_time())
        virsh = Virsh(processes, libvirt.read_only_uri, guard)
        watch = LibvirtWatch(virsh, listener, guard, required=True)
        world.append(Watched(libvirt, watch))
        nursery.start_soon(run_guard, guard)
        nursery.start_soon(watch.run)
        with trio.fail_after(SOON_S):
            await watch.next_answer()
        yield world[0]
        nursery.cancel_scope.cancel()


async def test_suspend_and_resume(libvirt: PrivateLibvirt) -> None:
    async with watched(libvirt) as world:
        domain = await world.start(TinyDomain("a"))
        await world.virsh("suspend", domain.uuid)
        await world.until_heard(domain, C.PAUSED, "paused: user")
        await world.virsh("resume", domain.uuid)
        await world.until_heard(domain, C.RESUMED)


async def test_managed_save_and_start(libvirt: PrivateLibvirt) -> None:
    async with watched(libvirt) as world:
        domain = await world.start(TinyDomain("a"))
        await world.virsh("managedsave", domain.uuid)
        await world.until_heard(domain, C.STOPPED, "shut off: saved")
        await world.virsh("start", domain.uuid)
        await world.until_heard(domain, C.STARTED)
        assert await world.standing(domain) is Standing.RUNNING


async def test_dump_pauses_and_goes_on(libvirt: PrivateLibvirt) -> None:
    async with watched(libvirt) as world:
        domain = await world.start(TinyDomain("a"))
        # A short one may lie between two questions; then nothing is announced, and nothing missed.
        await world.virsh("dump", domain.uuid, str(libvirt.directory / "core"), "--memory-only")
        assert await world.standing(domain) is Standing.RUNNING
        assert not {C.STOPPED, C.FAILED, C.RESTARTED, C.STARTED} & {
            change for _, happened, _ in world.heard for change in happened
        }


async def test_a_killed_qemu(libvirt: PrivateLibvirt) -> None:
    async with watched(libvirt) as world:
        domain = await world.start(TinyDomain("a"))
        os.kill(libvirt.qemu_pid(domain), signal.SIGKILL)
        await world.until_heard(domain, C.FAILED, "shut off: crashed")


async def test_a_terminated_qemu(libvirt: PrivateLibvirt) -> None:
    async with watched(libvirt) as world:
        domain = await world.start(TinyDomain("a"))
        os.kill(libvirt.qemu_pid(domain), signal.SIGTERM)
        await world.until_heard(domain, C.STOPPED, "shut off: shutdown")


async def test_destroy_and_undefine(libvirt: PrivateLibvirt) -> None:
    async with watched(libvirt) as world:
        domain = await world.start(TinyDomain("a"))
        await world.virsh("destroy", domain.uuid)
        await world.until_heard(domain, C.STOPPED, "shut off: destroyed")
        await world.virsh("undefine", domain.uuid)
        assert await world.standing(domain) is Standing.STOPPED
        await world.until(lambda: world.channels[domain.uuid] == ())


async def test_a_transient_domain_that_ends(libvirt: PrivateLibvirt) -> None:
    async with watched(libvirt) as world:
        domain = TinyDomain("transient")
        path = libvirt.directory / "transient.xml"
        path.write_text(domain.xml, encoding="utf-8")
        await world.virsh("create", str(path))
        await world.until(lambda: domain.uuid in world.channels)
        await world.virsh("destroy", domain.uuid)
        await world.until_heard(domain, C.STOPPED, "shut off")


async def test_a_reset_changes_no_state(libvirt: PrivateLibvirt) -> None:
    async with watched(libvirt) as world:
        domain = await world.start(TinyDomain("a"))
        await world.virsh("reset", domain.uuid)
        await world.until(lambda: "a" in world.resets)
        assert await world.standing(domain) is Standing.RUNNING
        assert world.heard == []


async def test_an_odd_name_is_read_and_reset(libvirt: PrivateLibvirt) -> None:
    async with watched(libvirt) as world:
        domain = await world.start(TinyDomain('my "odd" vm\'s: x'))
        assert world.watch.uuid_of(domain.name) == domain.uuid
        await world.virsh("reset", domain.uuid)
        await world.until(lambda: domain.name in world.resets)
        await world.virsh("suspend", domain.uuid)
        await world.until_heard(domain, C.PAUSED)


async def test_a_domain_that_is_renamed(libvirt: PrivateLibvirt) -> None:
    async with watched(libvirt) as world:
        domain = await world.start(TinyDomain("a"))
        await world.virsh("destroy", domain.uuid)
        await world.until_heard(domain, C.STOPPED)
        await world.virsh("domrename", domain.uuid, "b")
        await world.until(lambda: world.watch.uuid_of("b") == domain.uuid)
        assert world.watch.uuid_of("a") is None
        await world.virsh("start", domain.uuid)
        await world.until_heard(attrs.evolve(domain, name="b"), C.STARTED)


async def test_the_socket_that_libvirt_makes_is_found(libvirt: PrivateLibvirt) -> None:
    async with watched(libvirt) as world:
        domain = await world.start(TinyDomain("a"))
        (path,) = world.channels[domain.uuid]
        assert path.startswith("/var/lib/libvirt/qemu/channel/")
        assert path.endswith("/cgcs.heartbeat")
        named = TinyDomain("b", socket=f"{libvirt.directory}/b.sock")
        await world.start(named)
        assert world.channels[named.uuid] == (named.socket,)


async def test_a_snapshot_reverted_is_a_new_qemu(libvirt: PrivateLibvirt) -> None:
    image = libvirt.directory / "disk.qcow2"
    await trio.run_process(["qemu-img", "create", "-q", "-f", "qcow2", str(image), "1M"])
    disk = (
        "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/>"
        f"<source file='{image}'/><target dev='vda' bus='virtio'/></disk>"
    )
    async with watched(libvirt) as world:
        domain = await world.start(TinyDomain("a", devices=disk))
        await world.virsh("snapshot-create-as", domain.uuid, "s")
        world.heard.clear()
        await world.virsh("snapshot-revert", domain.uuid, "s")
        await world.until_heard(domain, C.STARTED)
        assert await world.standing(domain) is Standing.RUNNING


async def test_a_hung_libvirtd_is_silent_and_found_again(libvirt: PrivateLibvirt) -> None:
    async with watched(libvirt) as world:
        domain = await world.start(TinyDomain("a"))
        libvirt.hang()
        try:
            look = (await world.watch.look([domain.uuid], 0.5))[domain.uuid]
            assert (look.source, look.words) == (Source.SILENCE, "libvirt unknown")
        finally:
            libvirt.go_on()
        with trio.fail_after(SOON_S):
            await world.watch.next_answer()
        assert await world.standing(domain) is Standing.RUNNING


async def test_a_vm_killed_while_libvirtd_is_away(libvirt: PrivateLibvirt) -> None:
    async with watched(libvirt) as world:
        domain = await world.start(TinyDomain("a"))
        await trio.to_thread.run_sync(libvirt.end)
        os.kill(libvirt.qemu_pid(domain), signal.SIGKILL)
        await trio.to_thread.run_sync(libvirt.start)
        await world.until_heard(domain, C.FAILED, "shut off: crashed")


async def test_a_hung_qemu_delays_no_answer(libvirt: PrivateLibvirt) -> None:
    async with watched(libvirt) as world:
        domain = await world.start(TinyDomain("a"))
        other = await world.start(TinyDomain("b"))
        pid = libvirt.qemu_pid(domain)
        os.kill(pid, signal.SIGSTOP)
        try:
            with trio.fail_after(SOON_S):
                looks = await world.watch.look([domain.uuid, other.uuid], 3.0)
            assert {look.standing for look in looks.values()} == {Standing.RUNNING}
        finally:
            os.kill(pid, signal.SIGCONT)
