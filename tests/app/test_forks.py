"""Real processes that fork and execute others while they are applications.

A child that outlives its parent, or leaves the parent's block, must be nothing to the guest.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from app.scripted_guest import SOON_S, Connected, listening
from hbtrio.app import Event
from hbtrio.wire.app_messages import Final

pytestmark = pytest.mark.processes

#: Python 3.12 and later warn of forks beside threads, which is what this is about.
PYTHON = [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning"]

#: ``host`` is how it is an application, ``how`` how the child comes about, ``then`` what follows.
PROGRAM = """\
import multiprocessing, os, subprocess, sys
import anyio
from hbtrio.app import Application, Reject
from hbtrio.app.sync import in_background

path, host, how, then = sys.argv[1:]
gate = os.dup(0)  # multiprocessing closes the standard input of its children

def tell(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

def vote(_):
    if how == "handler":
        child = fork()
        if child == 0:
            return None
        os.waitpid(child, 0)
    return Reject("I object")

async def vote_in_loop(_):
    return Reject("I object")

others = []
# A child that leaves trio.run() spoils how threads wake the loop of its parent, with us or without.
on_vote = vote_in_loop if (host, how, then) == ("trio", "os", "exit") else vote
app = Application("forker", on_vote=on_vote, socket=path)

def live():
    try:
        background.wait_registered(1) if host == "sync" else app._is_registered()
    except RuntimeError as error:
        tell("child", os.getpid(), app.registered, error)
    os.read(gate, 1)

def fork():
    child = os.fork()
    if child == 0 and then != "return":
        if then != "exit":
            live()
            os._exit(0)
        sys.exit(0)
    return child

def give_birth():
    if how == "os":
        child = fork()
        if then == "exit":
            tell("ended", os.waitpid(child, 0)[1])
    elif how == "multiprocessing":
        multiprocessing.get_context("fork").Process(target=live, daemon=True).start()
    elif how == "exec":
        other = [sys.executable, "-c", "import sys; sys.stdin.read()"]
        others.append(subprocess.Popen(other, close_fds=False))
        tell("child", others[0].pid)

async def main():
    async with app:
        await app.wait_registered()
        give_birth()
        if then != "leave":
            await anyio.wait_readable(0)

if host == "sync":
    with in_background(app) as background:
        background.wait_registered(60)
        give_birth()
        if then != "leave":
            sys.stdin.read()
else:
    anyio.run(main, backend=host)
if then == "leave":
    tell("left")
    os._exit(0)
"""

HOSTS = ["asyncio", "trio", "sync"]


class Program:
    """The program, and what it prints."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process

    async def prints(self) -> list[str]:
        """The words of what it prints next."""
        assert self.process.stdout is not None
        with trio.fail_after(SOON_S):
            line = b""
            while not line.endswith(b"\n"):
                data = await self.process.stdout.receive_some(1)
                assert data, "it has ended"
                line += data
        return line.decode().split()

    async def ends(self) -> int:
        """Lets it go on and returns its exit status."""
        assert self.process.stdin is not None
        await self.process.stdin.aclose()
        with trio.fail_after(SOON_S):
            return await self.process.wait()


@asynccontextmanager
async def program(
    place: Path, host: str, how: str, then: str
) -> AsyncIterator[tuple[Program, Connected]]:
    """The program, registered; when it is left nobody has complained."""
    complaints = place / "stderr"
    async with listening(place / "api") as guest:
        with open(complaints, "wb") as stderr:  # noqa: ASYNC230 - a local file
            process = await trio.lowlevel.open_process(
                [*PYTHON, "-c", PROGRAM, str(guest.path), host, how, then],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
            )
        try:
            async with guest.application() as connected:
                yield Program(process), connected
        finally:
            if process.returncode is None:
                process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                await pipe.aclose()
    assert complaints.read_text() == ""


@pytest.mark.parametrize("host", HOSTS)
async def test_a_child_that_exits_leaves_the_application_of_its_parent_alone(
    tmp_path: Path, host: str
) -> None:
    async with program(tmp_path, host, "os", "exit") as (parent, vm):
        assert await parent.prints() == ["ended", "0"]
        # No farewell comes before these, and no answer but the parent's.
        assert await vm.votes(Event.STOP) == ("reject", "I object")
        await vm.is_healthy()
        if host != "trio":  # a parent hangs in trio.run() if a child has left that
            assert await parent.ends() == 0
            assert await vm.hear() == Final("Exiting")
        else:
            parent.process.kill()
        assert await vm.hear() is None


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("how", ["os", "multiprocessing"])
async def test_a_child_that_lives_on_does_not_keep_a_dead_parent_alive(
    tmp_path: Path, host: str, how: str
) -> None:
    async with program(tmp_path, host, how, "live") as (parent, vm):
        _, child, registered, *why = await parent.prints()
        assert registered == "False"
        other = "runs in another process" if host == "sync" else "is not running"
        assert " ".join(why) == f"application forker {other}"
        await vm.is_healthy()
        parent.process.kill()
        assert await vm.hear() is None
        os.kill(int(child), 0)


@pytest.mark.parametrize("host", HOSTS)
async def test_a_child_that_lives_on_does_not_keep_a_parent_that_has_signed_off(
    tmp_path: Path, host: str
) -> None:
    async with program(tmp_path, host, "os", "leave") as (parent, vm):
        words = [await parent.prints(), await parent.prints()]
        assert ["left"] in words
        assert await vm.hear() == Final("Exiting")
        assert await vm.hear() is None
        (child,) = [line[1] for line in words if line[0] == "child"]
        os.kill(int(child), 0)


@pytest.mark.parametrize("host", HOSTS)
async def test_a_program_that_is_executed_does_not_keep_a_dead_parent_alive(
    tmp_path: Path, host: str
) -> None:
    async with program(tmp_path, host, "exec", "live") as (parent, vm):
        _, child = await parent.prints()
        await vm.is_healthy()
        parent.process.kill()
        assert await vm.hear() is None
        os.kill(int(child), 0)


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("then", ["exit", "return"])
async def test_a_child_that_a_handler_forks_ends(tmp_path: Path, host: str, then: str) -> None:
    async with program(tmp_path, host, "handler", then) as (parent, vm):
        assert await vm.votes(Event.STOP) == ("reject", "I object")
        await vm.is_healthy()
        assert await parent.ends() == 0
        assert await vm.hear() == Final("Exiting")
