"""Applications made with the SDK at a real guest, beside a real host."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from hbtrio.app import Accept, Application, Event, Healthy, Notice, Reject, Unhealthy, Vote
from hbtrio.app.sync import in_background
from hbtrio.lab.guest import LabGuest
from hbtrio.lab.scene import Scene, event, open_scene
from support.real_processes import SOON_S, Ran, hbtrio, logged, until

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("home")]

EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples"


@asynccontextmanager
async def heartbeating_vm(**keys: str | int) -> AsyncIterator[tuple[Scene, LabGuest]]:
    """A host and a VM that is heartbeating."""
    async with open_scene() as scene:
        await scene.start_host()
        vm = await scene.add_guest("vm")
        vm.configure(HB_INTERVAL=400, HEALTH_CHECK_INTERVAL=0, VOTE=20, SHUTDOWN_NOTICE=20, **keys)
        await vm.start()
        await scene.events.wait_for(event("heartbeating", vm), within_s=SOON_S)
        yield scene, vm


async def ctl(scene: Scene, *words: str) -> Ran:
    return await hbtrio("ctl", "--url", scene.url, *words)


def outcomes(scene: Scene, kind: str) -> list[tuple[str, str]]:
    return [
        (line["result"], line["reason"]) for line in scene.events.since() if line["kind"] == kind
    ]


async def registered(app: Application) -> None:
    with trio.fail_after(SOON_S):
        await app.wait_registered()


async def test_it_votes_is_told_falls_ill_and_outlives_the_guest_daemon() -> None:
    said: list[str] = []
    health: list[Healthy | Unhealthy] = [Healthy()]

    async def vote(vote: Vote) -> Accept | Reject:
        return Reject('dump "a" runs') if vote.event is Event.STOP else Accept()

    async def prepare(notice: Notice) -> None:
        await trio.sleep(0.2)
        said.append(f"{notice.event}, {notice.window_s} s")

    # No corrective reset: on a busy machine it would come when the next guest is up already.
    async with heartbeating_vm(CORRECTIVE_ACTION="log") as (scene, vm):
        app = Application(
            "db",
            heartbeat_s=0.4,
            vote_s=15,
            shutdown_notice_s=9,
            on_health=lambda: health[0],
            on_vote=vote,
            on_notice=prepare,
            socket=vm.directory / "api",
        )
        async with app:
            await registered(app)
            assert (await ctl(scene, "vote", "vm", "stop")).status == 3
            assert (await ctl(scene, "vote", "vm", "pause")).status == 0
            since = len(scene.events.since())
            health[0] = Unhealthy("disk full")
            ill = await scene.events.wait_for(event("unhealthy", vm), within_s=SOON_S, since=since)
            assert (ill["reason"], ill["corrective_action"]) == ("db: disk full", "log")
            health[0] = Healthy()

            assert (await ctl(scene, "notify", "vm", "reboot")).status == 0
            assert said == ["reboot, 9 s"]
            listed = await hbtrio("apps", env={"HBTRIO_APP_SOCKET": str(vm.app_socket)})
            assert (listed.status, listed.err) == (0, [])
            assert listed.out[0] == "1 application registered"
            assert listed.out[2].startswith("db: ")
            assert f"  pid {os.getpid()}, uid {os.getuid()}, gid {os.getgid()}" in listed.out
            assert [line.partition(" ago: ")[2] for line in listed.out[-3:]] == [
                "notice reboot: complete",
                "vote pause: accept",
                "vote stop: reject (dump 'a' runs)",
            ]

            await vm.kill()
            await until(lambda: not app.registered)
            since = len(scene.events.since())
            await vm.start()
            await scene.events.wait_for(event("heartbeating", vm), within_s=SOON_S, since=since)
            await registered(app)
            assert (await ctl(scene, "vote", "vm", "stop")).status == 3
        await logged(vm.log, "application db", 2)
        # Nobody objects any more.
        assert (await ctl(scene, "vote", "vm", "stop")).status == 0
        results = outcomes(scene, "vote")
        assert [result for result, _ in results] == ["reject", "accept", "reject", "accept"]
        assert (results[0][1], results[2][1]) == ("db: dump 'a' runs",) * 2
        assert [result for result, _ in outcomes(scene, "notice")] == ["complete"]


async def test_the_guest_daemon_serves_where_the_environment_says(home: Path) -> None:
    """A path that was asked for must be served, unlike the default one."""
    missing = home / "missing" / "api"
    variables = {"HBTRIO_APP_SOCKET": str(missing)}
    words = ("guest", "--wait-device", "--device", str(home / "none"))
    ran = await hbtrio(*words, env=variables)
    assert (ran.status, len(ran.err)) == (2, 1)
    assert ran.err[0] == f"hbtrio guest: {missing}: its directory does not exist"
    other = home / "other" / "api"
    ran = await hbtrio(*words, "--app-socket", str(other), env=variables)
    assert ran.err == [f"hbtrio guest: {other}: its directory does not exist"]


async def test_one_of_plain_threads_that_is_there_before_the_guest_daemon() -> None:
    async with open_scene() as scene:
        await scene.start_host()
        vm = await scene.add_guest("vm")
        vm.configure(HB_INTERVAL=400, HEALTH_CHECK_INTERVAL=0, VOTE=20)
        app = Application(
            "web", on_vote=lambda _: Reject("busy"), socket=vm.directory / "api", heartbeat_s=0.4
        )
        with in_background(app) as background:
            await vm.start()
            await trio.to_thread.run_sync(background.wait_registered, SOON_S)
            await scene.events.wait_for(event("heartbeating", vm), within_s=SOON_S)
            assert (await ctl(scene, "vote", "vm", "stop")).status == 3
            assert outcomes(scene, "vote") == [("reject", "web: busy")]


async def test_silent_handlers_are_agreement_when_their_window_ends() -> None:
    async def hang(_: Vote) -> Accept:
        await trio.sleep_forever()
        raise AssertionError

    async def fail(_: Vote) -> Accept:
        raise ZeroDivisionError("mine")

    async with heartbeating_vm() as (scene, vm):
        place = vm.directory / "api"
        first = Application("one", vote_s=1, on_vote=hang, socket=place)
        second = Application("two", vote_s=2, on_vote=fail, socket=place)
        async with first, second:
            await registered(first)
            await registered(second)
            begun = trio.current_time()
            assert (await ctl(scene, "vote", "vm", "stop")).status == 0
            assert 2 <= trio.current_time() - begun < 15
        ((result, _),) = outcomes(scene, "vote")
        assert result in ("accept", "timeout")


async def test_the_web_server_drains_at_a_real_notice() -> None:
    async with heartbeating_vm() as (scene, vm):
        log = vm.directory / "web.out"
        command = [sys.executable, "-W", "error", str(EXAMPLES / "draining_web_server.py")]
        command += ["--port", "0", "--app-socket", str(vm.directory / "api")]
        with open(log, "wb") as output:  # noqa: ASYNC230 - a local file
            process = await trio.lowlevel.open_process(command, stdout=output)
        try:
            await logged(log, "serving on port")
            await logged(vm.log, "application web")
            assert (await ctl(scene, "vote", "vm", "stop")).status == 0
            assert "drained" not in log.read_text()
            assert (await ctl(scene, "notify", "vm", "stop")).status == 0
            assert "drained" in log.read_text()
            process.terminate()
            with trio.fail_after(SOON_S):
                assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
                with trio.CancelScope(shield=True):
                    await process.wait()


async def test_the_event_script_of_the_samples(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENT_SCRIPT_STATE", str(home))
    async with heartbeating_vm(EVENT_NOTIFICATION_SCRIPT=str(EXAMPLES / "event_script.py")) as (
        scene,
        _,
    ):
        with open(home / "backup.lock", "w") as lock:  # noqa: ASYNC230 - a local file
            fcntl.flock(lock, fcntl.LOCK_EX)
            assert (await ctl(scene, "vote", "vm", "stop")).status == 3
        assert (await ctl(scene, "vote", "vm", "stop")).status == 0
        assert outcomes(scene, "vote") == [
            ("reject", "a backup is running, no stop please"),
            ("accept", ""),
        ]
