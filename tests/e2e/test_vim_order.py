"""The VIM's actions in its own order, with real daemons: nobody is lost, and each is soon over.

The precise figures are those of the fake clock (``tests/nursery/test_vim_order.py``).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import attrs
import pytest
import trio

from hbtrio.lab.cloud import HOSTNAMES, Cloud, open_cloud
from hbtrio.lab.guest import LabGuest
from hbtrio.lab.waits import until_heartbeating, until_linked
from support.nameless import nameless

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("home")]

SOURCE, TARGET = HOSTNAMES

#: From when the VM runs again to the end of the action, on a very busy machine: 290 s without the
#: VIM's enable.
SOON_S: Final = 20.0

Perform = Callable[[Cloud, LabGuest], Awaitable[None]]


async def pause(_: Cloud, vm: LabGuest) -> None:
    """As libvirt knows of it."""
    vm.pause()
    await trio.sleep(10)
    vm.resume()


async def suspend(_: Cloud, vm: LabGuest) -> None:
    """Longer than RESTART, and libvirt does not know of it."""
    assert vm.daemon is not None
    vm.daemon.freeze()
    await trio.sleep(30)
    vm.daemon.thaw()


async def stay(_: Cloud, __: LabGuest) -> None:
    await trio.sleep(2)


async def move(cloud: Cloud, vm: LabGuest) -> None:
    await trio.sleep(1)
    await cloud.migrate(vm, TARGET)


async def move_cold(cloud: Cloud, vm: LabGuest) -> None:
    await vm.stop()
    await cloud.migrate(vm, TARGET)
    await trio.sleep(2)
    await vm.start()


@attrs.frozen
class Case:
    """An action, its notices, and where the VM is after it."""

    begins: str
    perform: Perform
    ends: str
    hostname: str = SOURCE


CASES: Final = {
    "paused": Case("pause", pause, "unpause"),
    "suspended": Case("suspend", suspend, "resume"),
    "stays": Case("live_migrate_begin", stay, "live_migrate_end"),
    "moves": Case("live_migrate_begin", move, "live_migrate_end", TARGET),
    "cold": Case("cold_migrate_begin", move_cold, "cold_migrate_end", TARGET),
}


def services(cloud: Cloud, vm: LabGuest, since: int) -> list[dict[str, Any]]:
    return [
        body
        for body in cloud.vim.received.since(since)
        if (body["uuid"], body["event-type"]) == (vm.uuid, "service")
    ]


async def acts(cloud: Cloud, vm: LabGuest, case: Case) -> None:
    vim = cloud.vim
    assert (await vim.vote(vm.uuid, case.begins)).response == "allow"
    noticed = vim.received.end
    assert (await vim.notify(vm.uuid, case.begins)).response == "proceed"
    await trio.sleep(1)
    assert services(cloud, vm, noticed) == []
    since = vim.received.end
    await vim.disable(vm.uuid)
    await case.perform(cloud, vm)
    runs_since = trio.current_time()
    await vim.enable(vm.uuid, case.hostname)
    await until_heartbeating(cloud, vm, case.hostname, since)
    assert (await vim.notify(vm.uuid, case.ends)).response == "proceed"
    assert trio.current_time() - runs_since < SOON_S


async def reboots(cloud: Cloud, vm: LabGuest) -> None:
    """There is no end notice. The VIM goes on at once, and the old guest answers for a while."""
    vim = cloud.vim
    assert (await vim.vote(vm.uuid, "reboot")).response == "allow"
    assert (await vim.notify(vm.uuid, "reboot")).response == "proceed"
    since = vim.received.end
    await vim.disable(vm.uuid)
    await vim.enable(vm.uuid)
    await trio.sleep(5)
    assert [body["event-data"]["services"][0]["status"] for body in services(cloud, vm, since)] == [
        "disabled"
    ]
    await vm.reset()
    await until_heartbeating(cloud, vm, SOURCE, since)


async def test_each_action_is_soon_over_and_nobody_is_lost() -> None:
    async with open_cloud() as cloud:
        await cloud.start()
        for hostname in cloud.hosts:
            await until_linked(cloud, hostname)
        vms = {name: await cloud.add_guest(name, SOURCE) for name in (*CASES, "rebooted")}
        async with trio.open_nursery() as nursery:
            for vm in vms.values():
                vm.configure(VOTE=8, SUSPEND_NOTICE=8, RESUME_NOTICE=8, SHUTDOWN_NOTICE=8)
                nursery.start_soon(vm.start)
        for vm in vms.values():
            await until_heartbeating(cloud, vm, SOURCE, 0)
        async with trio.open_nursery() as nursery:
            for name, case in CASES.items():
                nursery.start_soon(acts, cloud, vms[name], case)
            nursery.start_soon(reboots, cloud, vms["rebooted"])
        assert [event for event in cloud.events.since() if event.get("kind") == "loss"] == []
        assert [body for body in cloud.vim.received.since() if body["event-type"] == "alarm"] == []
        assert cloud.vim.unasked == 0
        names = {vm.uuid: name for name, vm in vms.items()}
        for log in (cloud.agent.log, cloud.hosts[SOURCE].host_log):
            assert nameless(log.read_text().splitlines(), names) == []
