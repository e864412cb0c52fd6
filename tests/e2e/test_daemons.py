"""What signals, stalled readers and hostile words do to real daemons."""

from __future__ import annotations

import fcntl
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import pytest
import trio

from hbtrio.lab.daemon import Daemon
from hbtrio.lab.guest import LabGuest, write_script
from hbtrio.lab.scene import Scene, event, open_scene
from support.real_processes import SOON_S, Ran, hbtrio, logged, until

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("home")]

#: What every guest is told here: the shortest interval there is, and no health script.
QUICK: dict[str, str | int] = {"HB_INTERVAL": 400, "HEALTH_CHECK_INTERVAL": 0}


async def boot(scene: Scene, name: str, **keys: str | int) -> LabGuest:
    """Starts a guest; :func:`heartbeating` waits for it."""
    vm = await scene.add_guest(name)
    vm.configure(**(QUICK | keys))
    await vm.start()
    return vm


async def heartbeating(scene: Scene, vm: LabGuest, since: int = 0) -> None:
    """Returns once it is heartbeating, after a position of the events."""
    await scene.events.wait_for(event("heartbeating", vm), within_s=SOON_S, since=since)


async def instance(scene: Scene, vm: LabGuest) -> dict[str, Any]:
    status = await scene.status()
    (found,) = (one for one in status["instances"] if one["uuid"] == vm.uuid)
    assert isinstance(found, dict)
    return found


async def beats_on(scene: Scene, *vms: LabGuest, more: int = 3) -> None:
    """Returns once each of them has answered so many challenges more."""
    wanted = [(await instance(scene, vm))["beats"] + more for vm in vms]
    with trio.fail_after(SOON_S):
        for vm, beats in zip(vms, wanted, strict=True):
            while (await instance(scene, vm))["beats"] < beats:  # noqa: ASYNC110 - is asked for
                await trio.sleep(0.1)


def kinds(scene: Scene, vm: LabGuest, since: int = 0) -> list[str]:
    return [line["kind"] for line in scene.events.since(since) if line["uuid"] == vm.uuid]


@asynccontextmanager
async def a_host(scene: Scene, *arguments: str, stdout: bool = False) -> AsyncIterator[Daemon]:
    """A host that writes its events elsewhere than the scene's own does."""
    places = ("--channel-dir", str(scene.channel_dir), "--control-socket", scene.control_socket)
    host = await Daemon.start(
        "host", ["host", *map(str, places), *arguments], scene.host_log, stdout=stdout
    )
    try:
        await until(scene.control_socket.exists)
        yield host
    finally:
        await host.stop()


# -- the guest's signals --------------------------------------------------------------------


async def test_sigterm_of_a_guest_is_a_farewell_and_no_loss() -> None:
    async with open_scene() as scene:
        await scene.start_host()
        vm = await boot(scene, "vm")
        await heartbeating(scene, vm)
        since = scene.events.end
        assert vm.daemon is not None
        assert await vm.daemon.stop() == 0
        stopped = await scene.events.wait_for(event("stopped", vm), within_s=SOON_S, since=since)
        assert stopped["reason"] == "guest exited: Exiting..."
        await vm.start()
        await heartbeating(scene, vm, since)
        assert kinds(scene, vm, since) == ["stopped", "heartbeating"]
        released = [
            "Guest-Client heartbeat state change from initial to enabling, event=release.",
            "Guest-Client heartbeat state change from enabling to enabled, event=init-ack.",
        ]
        left = "Guest-Client heartbeat state change from enabled to initial, event=shutdown."
        # The host counts the init before the guest reads its answer.
        await logged(vm.log, "from enabling to enabled, event=init-ack.", times=2)
        log = vm.log.read_text().splitlines()
        changes = [line.partition(" INFO ")[2] for line in log if "state change" in line]
        assert changes == [*released, left, *released]


async def test_sighup_reads_the_configuration_again() -> None:
    async with open_scene() as scene:
        await scene.start_host()
        vm = await boot(scene, "vm", VOTE=2)
        await heartbeating(scene, vm)
        assert vm.daemon is not None

        async def advertised() -> tuple[int, dict[str, int]]:
            asked = await hbtrio("ctl", "--url", scene.url, "status", "--json")
            assert (asked.status, asked.err) == (0, [])
            (one,) = json.loads("\n".join(asked.out))["instances"]
            return one["interval_ms"], one["windows_s"]

        assert await advertised() == (
            400,
            {
                "VOTE": 3,
                "SHUTDOWN_NOTICE": 3,
                "SUSPEND_NOTICE": 3,
                "RESUME_NOTICE": 3,
                "RESTART": 21,
            },
        )
        since = scene.events.end
        vm.configure(HB_INTERVAL=500, HEALTH_CHECK_INTERVAL=0, VOTE=7, RESUME_NOTICE=9, RESTART=30)
        vm.daemon.signal(signal.SIGHUP)
        await logged(vm.log, "configuration read again")
        await logged(vm.log, "from enabling to enabled, event=init-ack.", times=2)
        again = (
            500,
            {
                "VOTE": 8,
                "SHUTDOWN_NOTICE": 3,
                "SUSPEND_NOTICE": 3,
                "RESUME_NOTICE": 10,
                "RESTART": 31,
            },
        )
        assert await advertised() == again

        vm.configure(**QUICK, VOTE="soon", SHUTDOWN=8)
        vm.daemon.signal(signal.SIGHUP)
        await logged(vm.log, "ERROR Guest-Client not reloaded: ", times=2)
        faults = [line for line in vm.log.read_text().splitlines() if "not reloaded" in line]
        assert [line.partition(": ")[2] for line in faults] == [
            f'{vm.config}:3: VOTE: must be a whole number, got "soon"',
            f"{vm.config}:12: SHUTDOWN: unknown key, did you mean SHUTDOWN_NOTICE?",
        ]
        await beats_on(scene, vm)
        assert await advertised() == again
        # A reload is neither a stop nor a loss.
        assert kinds(scene, vm, since) == []


async def test_a_frozen_guest_is_lost_and_comes_back_by_itself() -> None:
    async with open_scene() as scene:
        scene.settings["corrective-commands"] = {}
        await scene.start_host()
        # With the usual floor of 5 s it would take that long to notice that it was given up.
        vm = await boot(scene, "vm", HB_MIN_TIMEOUT=0)
        other = await boot(scene, "other")
        await heartbeating(scene, vm)
        await heartbeating(scene, other)
        assert vm.daemon is not None
        since = scene.events.end
        vm.daemon.freeze()
        lost = await scene.events.wait_for(event("loss", vm), within_s=SOON_S, since=since)
        assert lost["reason"] == "no answer for 1.2 s"
        assert lost["corrective_action"] == "reboot"
        vm.daemon.thaw()
        await heartbeating(scene, vm, since)
        assert kinds(scene, vm, since) == ["loss", "heartbeating"]
        assert kinds(scene, other, since) == []


# -- the host's signals ---------------------------------------------------------------------


async def test_a_frozen_host_loses_no_healthy_guest() -> None:
    async with open_scene() as scene:
        host = await scene.start_host()
        vms = [await boot(scene, name) for name in ("one", "two", "three")]
        for vm in vms:
            await heartbeating(scene, vm)
        since = scene.events.end
        host.freeze()
        await trio.sleep(4.0)  # longer than any of them may be silent
        host.thaw()
        # Beyond the calm that a host gives itself: the misses that count again are its own.
        await beats_on(scene, *vms, more=6)
        assert [kinds(scene, vm, since) for vm in vms] == [[], [], []]
        status = (await scene.status())["host"]
        assert status["late_ticks"] > 0
        assert status["corrective_commands_run"] == 0


async def test_sigterm_of_a_host_ends_it_though_somebody_follows_its_events() -> None:
    async with open_scene() as scene:
        events = scene.directory / "events"
        async with a_host(scene, "--events", str(events)) as host, trio.open_nursery() as nursery:
            vm = await boot(scene, "vm")
            shown = scene.directory / "shown"
            to_file = ("sh", "-c", f'exec "$@" >{shown}', "sh")
            words = ("--url", scene.url, "events", "--follow", "--recent", "9")
            ran: list[Ran] = []

            async def follow() -> None:
                ran.append(await hbtrio("ctl", *words, prefix=to_file))

            nursery.start_soon(follow)
            await logged(events, "init answered")
            await scene.post(f"/v1/instances/{vm.uuid}/vote", {"event": "stop"})
            await logged(shown, f"{vm.uuid} (vm) vote stop accept")
            # Later than GRACE_S it is killed, and its status is not 0.
            assert await host.stop() == 0
        assert ran == [Ran(5, [], [f"hbtrio ctl: {scene.url}: the daemon went away"])]
        assert not scene.control_socket.exists()
        written = [json.loads(line) for line in events.read_text().splitlines()]
        assert all(datetime.fromisoformat(one.pop("time")).tzinfo for one in written)
        assert written == [
            {"kind": "heartbeating", "uuid": vm.uuid, "name": "vm", "reason": "init answered"},
            {
                "kind": "vote",
                "uuid": vm.uuid,
                "name": "vm",
                "reason": "",
                "event": "stop",
                "result": "accept",
            },
            {"kind": "stopped", "uuid": vm.uuid, "name": "vm", "reason": "the host closed it"},
        ]


async def test_sighup_of_a_host_opens_its_events_anew_and_vms_take_no_notice() -> None:
    async with open_scene() as scene:
        events, old = scene.directory / "events", scene.directory / "events.1"
        async with a_host(scene, "--events", str(events)) as host:
            vm = await boot(scene, "vm")
            await logged(events, "init answered")
            events.rename(old)
            host.signal(signal.SIGHUP)
            await logged(scene.host_log, f"events: {events} reopened")
            await scene.post(f"/v1/instances/{vm.uuid}/vote", {"event": "stop"})
            await logged(events, '"kind": "vote"')
            assert (await scene.status())["host"]["events_fault"] is None
        assert len(old.read_text().splitlines()) == 1


async def test_a_full_disk_is_in_the_status_of_the_host() -> None:
    async with open_scene() as scene, a_host(scene, "--events", "/dev/full"):
        vm = await boot(scene, "vm")
        await logged(scene.host_log, "events are being lost")
        await beats_on(scene, vm)
        fault = (await scene.status())["host"]["events_fault"]
        assert datetime.fromisoformat(fault.pop("since")).tzinfo
        assert fault == {"why": "no space left on device", "lost": 1}
        ran = await hbtrio("ctl", "--url", scene.url, "status")
        assert ran.out[1].startswith("1 event not written since 20")
        assert ran.out[1].endswith(": no space left on device")


# -- readers that stall ---------------------------------------------------------------------


async def test_a_stalled_reader_of_events_holds_up_no_heartbeat() -> None:
    async with open_scene() as scene:
        async with a_host(scene, "--events", "-", stdout=True) as host:
            assert isinstance(host.stdout, trio.lowlevel.FdStream)
            size = fcntl.fcntl(host.stdout.fileno(), fcntl.F_SETPIPE_SZ, 4096)
            vm = await boot(scene, "vm", EVENT_NOTIFICATION_SCRIPT="")
            await logged(scene.host_log, "heartbeating: init answered")
            for _ in range(size // 64):  # an event is longer
                await scene.post(f"/v1/instances/{vm.uuid}/vote", {"event": "stop"})
            await beats_on(scene, vm, more=5)
            # Later than GRACE_S it is killed, and its status is not 0.
            assert await host.stop() == 0
            # What it took is whole: nothing was written over or cut.
            read = b"".join([bytes(data) async for data in host.stdout])
        *lines, rest = read.split(b"\n")
        assert 0 < len(read) <= size
        assert [json.loads(line)["kind"] for line in lines][:2] == ["heartbeating", "vote"]
        assert len(lines) < size // 64
        assert rest == b"" or rest.startswith(b'{"')


# -- words of tenants -----------------------------------------------------------------------

HOSTILE = 'disk "a" full\'; touch pwned; $(touch pwned) `touch pwned` | tee pwned && {uuid} %s \\ *'

#: Deployed parsers know no escapes, so that nothing is sent that would need one.
ARRIVES = HOSTILE.replace('"', "'").replace("\\", "/")


async def test_a_reason_is_one_argument_of_a_corrective_command_whatever_it_holds() -> None:
    async with open_scene() as scene:
        directory = scene.directory
        write_script(
            directory / "note",
            f'#!/bin/sh\ncd {directory} || exit 1\nprintf "%s\\n" "$@" >said.new\n'
            "mv said.new said\n",
        )
        command = [
            str(directory / "note"),
            "{uuid}",
            "{reason}",
            "<{action}: {reason}>",
            "{{uuid}}",
        ]
        scene.settings["corrective-commands"] = {"log": command}
        await scene.start_host()
        vm = await scene.add_guest("vm")
        (vm.directory / "reason").write_text(f"{HOSTILE}\n")
        write_script(vm.health_script, f"#!/bin/sh\ncat {vm.directory}/reason\nexit 1\n")
        vm.configure(HB_INTERVAL=400, HEALTH_CHECK_INTERVAL=1, CORRECTIVE_ACTION="log")
        await vm.start()
        ill = await scene.events.wait_for(event("unhealthy", vm), within_s=SOON_S)
        assert (ill["reason"], ill["corrective_action"]) == (ARRIVES, "log")
        await until((directory / "said").exists)
        assert (directory / "said").read_text().splitlines() == [
            vm.uuid,
            ARRIVES,
            f"<log: {ARRIVES}>",
            "{uuid}",
        ]
        assert list(directory.rglob("pwned")) == []
