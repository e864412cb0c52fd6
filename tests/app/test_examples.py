"""Each sample of ``examples/``, as a process of its own, in front of a guest daemon by hand."""

from __future__ import annotations

import fcntl
import inspect
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from app.scripted_guest import SOON_S, Connected, ScriptedGuest, listening
from hbtrio.app import DEFAULT_SOCKET, Application, Event
from hbtrio.wire.app_messages import Final
from hbtrio.wire.vocabulary import EVENT_TABLE
from support.free_ports import free_port
from support.real_processes import Ran

EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples"
PYTHON = [sys.executable, "-W", "error"]


class Sample:
    """A sample that runs, and the lines that it prints."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self._read = b""

    async def prints(self, pattern: str) -> str:
        """Waits for a line that matches, and returns what the group matches, or all."""
        assert self.process.stdout is not None
        with trio.fail_after(SOON_S):
            while True:
                line, end, rest = self._read.partition(b"\n")
                if end:
                    self._read = rest
                    if found := re.fullmatch(pattern, line.decode()):
                        return found.group(found.re.groups)
                else:
                    data = await self.process.stdout.receive_some()
                    assert data, f"it has ended without {pattern}"
                    self._read += data

    async def ends(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Sends it a signal and returns its exit status."""
        self.process.send_signal(how)
        with trio.fail_after(SOON_S):
            return await self.process.wait()


@asynccontextmanager
async def sample(name: str, *arguments: object) -> AsyncIterator[Sample]:
    command = [*PYTHON, str(EXAMPLES / name), *map(str, arguments)]
    process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE)
    try:
        yield Sample(process)
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
        assert process.stdout is not None
        await process.stdout.aclose()


# -- active/standby -------------------------------------------------------------------------------


@pytest.mark.processes
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
async def test_the_active_half_goes_only_when_its_peer_can_take_over(
    tmp_path: Path, backend: str
) -> None:
    ports = {"one": free_port(), "two": free_port()}

    @asynccontextmanager
    async def half(
        name: str, peer: str, guest: ScriptedGuest, *more: str
    ) -> AsyncIterator[tuple[Sample, Connected]]:
        addresses = ["--listen", f"127.0.0.1:{ports[name]}", "--peer", f"127.0.0.1:{ports[peer]}"]
        options = ["--app-socket", guest.path, "--backend", backend, *more]
        async with sample("active_standby.py", name, *addresses, *options) as started:
            await started.prints(f"{name} is (active|standby)")
            async with guest.connection() as connected:
                init = await connected.registered()
                assert (init.name, init.corrective_action) == (name, "reboot")
                yield started, connected

    refused = ("reject", "one is active and its peer is not ready")
    async with (
        listening(tmp_path / "api1") as guest_1,
        listening(tmp_path / "api2") as guest_2,
        half("one", "two", guest_1, "--active") as (one, vm_1),
    ):
        await vm_1.is_healthy()
        assert await vm_1.votes(Event.STOP) == refused
        assert await vm_1.votes(Event.LIVE_MIGRATE_BEGIN) == refused
        async with half("two", "one", guest_2) as (two, vm_2):
            assert await vm_1.votes(Event.STOP) == ("accept", "")
            assert await vm_2.votes(Event.STOP) == ("accept", "")
            # An end is no reason to go.
            assert await vm_1.is_told(Event.RESUME) == ("complete", "")
            assert await vm_2.is_told(Event.STOP) == ("complete", "")
            # Before the notice is answered the peer has the role.
            assert await vm_1.is_told(Event.STOP) == ("complete", "")
            await two.prints("two is active")
            await one.prints("one is standby")
            assert await one.ends(signal.SIGTERM) == 0
            assert await vm_1.hear() == Final("Exiting")
            assert await vm_2.votes(Event.REBOOT) == (
                "reject",
                "two is active and its peer is not ready",
            )
            # It is told all the same, and has nobody to hand over to.
            assert await vm_2.is_told(Event.REBOOT) == ("complete", "")
            await two.prints("two is standby")
            await two.prints("two is active")
            assert await two.ends(signal.SIGINT) == 0
            assert await vm_2.hear() == Final("Exiting")


@pytest.mark.processes
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("answers", [True, False])
async def test_the_active_half_steps_down_before_its_peer_can_take_over(
    tmp_path: Path, backend: str, answers: bool
) -> None:
    asked: list[bytes] = []

    async def lose_the_first_answer(stream: trio.SocketStream) -> None:
        """Has taken over, but the first answer is lost, or all of them are."""
        async with stream:
            question = await stream.receive_some(64)
            if question != b"take over":
                await stream.send_all(b"ready")
                return
            if not asked:
                await one.prints("one is standby")
            asked.append(question)
            if answers and len(asked) == 2:
                await stream.send_all(b"active")

    async with trio.open_nursery() as nursery, listening(tmp_path / "api") as guest:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        serving = trio.CancelScope()
        served = trio.Event()

        async def serve() -> None:
            with serving:
                await trio.serve_listeners(lose_the_first_answer, [listener])
            served.set()

        nursery.start_soon(serve)
        peer = listener.socket.getsockname()[1]
        addresses = ["--listen", f"127.0.0.1:{free_port()}", "--peer", f"127.0.0.1:{peer}"]
        options = ["--app-socket", guest.path, "--backend", backend, "--active"]
        async with (
            sample("active_standby.py", "one", *addresses, *options) as one,
            guest.application() as vm,
        ):
            await one.prints("one is active")
            assert await vm.votes(Event.STOP) == ("accept", "")
            assert await vm.is_told(Event.STOP) == ("complete", "")
            assert len(asked) == 2 if answers else len(asked) > 2
            # It has nothing against anything any more, with or without a peer.
            serving.cancel()
            await served.wait()
            assert await vm.votes(Event.STOP) == ("accept", "")
            assert await one.ends() == 0


# -- web server -----------------------------------------------------------------------------------


async def get(port: int, path: str) -> bytes:
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        await stream.send_all(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        answer = b""
        while data := await stream.receive_some():
            answer += data
    return answer


@pytest.mark.processes
async def test_the_web_server_finishes_what_it_has_begun(tmp_path: Path) -> None:
    answers: list[bytes] = []
    answered = trio.Event()

    async def take(port: int, path: str) -> None:
        answers.append(await get(port, path))
        answered.set()

    async with (
        listening(tmp_path / "api") as guest,
        sample("draining_web_server.py", "--port", 0, "--app-socket", guest.path) as web,
        guest.connection() as vm,
        trio.open_nursery() as nursery,
    ):
        assert (await vm.registered()).shutdown_notice_secs == 8
        port = int(await web.prints(r"serving on port (\d+)"))
        await vm.is_healthy()
        assert (await get(port, "/")).endswith(b"\r\n\r\ndone\n")
        assert await vm.is_told(Event.PAUSE) == ("complete", "")
        assert await vm.votes(Event.STOP) == ("accept", "")
        nursery.start_soon(take, port, "/1")
        # It has been accepted when one that was made later is answered.
        await get(port, "/")
        asked = vm.question(Event.STOP, vote=False)
        await vm.say(asked)
        # The heartbeat goes on while it drains.
        await vm.is_healthy()
        assert answers == []
        assert await vm.answered(asked) == ("complete", "")
        await web.prints("drained")
        with trio.fail_after(SOON_S):
            await answered.wait()
        assert answers[0].endswith(b"\r\n\r\ndone\n")
        with pytest.raises(OSError):
            await get(port, "/")
        await vm.is_healthy()
        assert await web.ends() == 0
        assert await vm.hear() == Final("Exiting")


@pytest.mark.processes
async def test_the_web_server_ends_at_any_time(tmp_path: Path) -> None:
    async with (
        listening(tmp_path / "api") as guest,
        sample("draining_web_server.py", "--port", 0, "--app-socket", guest.path) as web,
        guest.application() as vm,
    ):
        await web.prints(r"serving on port (\d+)")
        assert await web.ends() == 0
        assert await vm.hear() == Final("Exiting")


# -- event script ---------------------------------------------------------------------------------


def script(state: Path, *arguments: str) -> Ran:
    ended = subprocess.run(
        [*PYTHON, str(EXAMPLES / "event_script.py"), *arguments],
        env=os.environ | {"EVENT_SCRIPT_STATE": str(state)},
        capture_output=True,
        text=True,
        timeout=SOON_S,
        check=False,
    )
    return Ran(ended.returncode, ended.stdout.splitlines(), ended.stderr.splitlines())


@pytest.mark.processes
def test_the_event_script_says_no_while_the_lock_is_held(tmp_path: Path) -> None:
    state = tmp_path / "state"
    agreed = Ran(0, [], [])
    assert script(state, "revocable", "stop") == agreed
    state.mkdir()
    with (state / "backup.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert script(state, "revocable", "stop") == Ran(
            1, ["a backup is running, no stop please"], []
        )
        assert script(state, "revocable", "resume") == agreed
        assert script(state, "irrevocable", "stop") == agreed
    assert script(state, "revocable", "stop") == agreed


@pytest.mark.processes
def test_the_event_script_tells_how_long_it_was_away(tmp_path: Path) -> None:
    assert script(tmp_path, "irrevocable", "unpause") == Ran(0, [], [])
    assert script(tmp_path, "irrevocable", "pause") == Ran(0, [], [])
    back = script(tmp_path, "irrevocable", "unpause")
    assert (back.status, back.err) == (0, [])
    assert re.fullmatch(r"back after \d+ s of pause", back.out[0])
    assert script(tmp_path, "irrevocable", "unpause") == Ran(0, [], [])


@pytest.mark.processes
@pytest.mark.parametrize("arguments", [[], ["maybe", "stop"], ["revocable"]])
def test_the_event_script_called_in_another_way(tmp_path: Path, arguments: list[str]) -> None:
    ran = script(tmp_path, *arguments)
    assert (ran.status, ran.out) == (2, [])
    assert ran.err[0].endswith("event_script.py revocable|irrevocable EVENT")


def test_the_event_script_knows_all_events() -> None:
    namespace: dict[str, Any] = {"__name__": "event_script"}
    exec(compile((EXAMPLES / "event_script.py").read_text(), "event_script", "exec"), namespace)
    voted = {event for event, rule in EVENT_TABLE.items() if rule.voted}
    assert set(namespace["BEFORE"]) == voted
    assert set(namespace["AFTER"]) == set(EVENT_TABLE) - voted


# -- the guide ------------------------------------------------------------------------------------

GUIDE = (EXAMPLES.parent / "docs" / "python-applications.md").read_text()


@pytest.mark.processes
async def test_the_first_application_of_the_guide(tmp_path: Path) -> None:
    (code,) = re.findall(r"^```python\n(import asyncio.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)
    async with listening(tmp_path / "api") as guest:
        script = tmp_path / "first.py"
        told = code.replace('"db",', f'"db", socket="{guest.path}",')
        await trio.Path(script).write_text(told.replace("running = False", "running = True"))
        async with sample(str(script)), guest.connection() as vm:
            assert (await vm.registered()).name == "db"
            await vm.is_healthy()
            assert await vm.votes() == ("reject", "a backup is running")


def test_the_guide_has_every_argument_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \|([^|]*)\|", GUIDE, re.MULTILINE))
    for name, parameter in inspect.signature(Application).parameters.items():
        if name.startswith("on_"):
            assert f"`{name}`" in GUIDE
        elif parameter.default is parameter.empty:
            assert rows[name] == " "
        elif parameter.default is random.random:
            assert rows[name] == " `random.random` "
        elif name == "socket":
            assert parameter.default is None
            assert rows[name] == f" `$HBTRIO_APP_SOCKET`, else `{DEFAULT_SOCKET}` "
        elif name == "inhibition":
            assert parameter.default is None
            assert rows[name] == " "
        elif parameter.default is None:
            assert rows[name] == " `heartbeat_s` "
        else:
            assert rows[name].strip(' `"') == str(parameter.default)
