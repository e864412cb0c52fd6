"""A real host and clients of other users: ``[control]`` decides who may look and who may act."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import trio

from hbtrio.errors import ExitStatus
from hbtrio.lab.scene import Scene, open_scene
from support.agent_world import request_bytes
from support.guest_farm import uuid_of
from support.real_processes import SOON_S, hbtrio

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can become other users"),
]

#: Groups that every Linux has, by their numbers.
DAEMON, BIN, SYS = 1, 2, 3

#: Becomes a user with groups, sends what it reads to a socket, and writes what that answers. Not
#: hbtrio ctl, as other users may be unable to read the Python that root runs.
CLIENT: Final = """\
import os, socket, sys
path, uid, gid, *groups = sys.argv[1:]
os.setgroups([int(one) for one in groups])
os.setgid(int(gid))
os.setuid(int(uid))
with socket.socket(socket.AF_UNIX) as peer:
    peer.connect(path)
    peer.sendall(sys.stdin.buffer.read())
    while data := peer.recv(65536):
        sys.stdout.buffer.write(data)
"""


#: Becomes a user without rights, makes that many connections, and writes the first line that comes
#: after the heads of the answers.
READERS: Final = """\
import os, select, socket, sys
path, count = sys.argv[1], int(sys.argv[2])
os.setgroups([])
os.setgid(3)
os.setuid(4242)
request = sys.stdin.buffer.read()
peers = []
for _ in range(count):
    peer = socket.socket(socket.AF_UNIX)
    peer.connect(path)
    peer.sendall(request)
    assert peer.recv(65536).startswith(b"HTTP/1.1 200 ")
    peers.append(peer)
print("reading", flush=True)
while True:
    for peer in select.select(peers, [], [])[0]:
        data = peer.recv(65536)
        if not data:
            peers.remove(peer)
        for line in data.splitlines():
            if line.startswith(b"{"):
                print(line.decode(), flush=True)
"""


async def line_from(output: trio.abc.ReceiveStream) -> bytes:
    """The next line, which may come in pieces; nothing comes after it."""
    line = b""
    with trio.fail_after(SOON_S):
        while not line.endswith(b"\n"):
            line += (await output.receive_some()) or b" the end\n"
    return line


@asynccontextmanager
async def readers(scene: Scene, request: bytes) -> AsyncIterator[trio.abc.ReceiveStream]:
    """A process with 64 streams that have begun, which writes the first line that comes."""
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", READERS, str(scene.control_socket), "64"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    async with process.stdout:
        try:
            async with process.stdin:
                await process.stdin.send_all(request)
            assert await line_from(process.stdout) == b"reading\n"
            yield process.stdout
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()


async def ask(scene: Scene, request: bytes, uid: int, gid: int, *groups: int) -> tuple[int, str]:
    """The status of an answer, and the reason of a refusal."""
    ids = [str(one) for one in (uid, gid, *groups)]
    with trio.fail_after(SOON_S):
        ended = await trio.run_process(
            [sys.executable, "-c", CLIENT, str(scene.control_socket), *ids],
            stdin=request,
            capture_stdout=True,
        )
    head, _, body = ended.stdout.partition(b"\r\n\r\n")
    status = int(head[9:12])
    return status, "" if status == 200 else json.loads(body)["reason"]


async def history(scene: Scene) -> list[dict[str, Any]]:
    """The entries of the host's history, the newest first."""
    async with await trio.open_unix_socket(str(scene.control_socket)) as stream:
        await stream.send_all(request_bytes("GET", "/v1/history"))
        answer = b"".join([bytes(data) async for data in stream])
    entries: list[dict[str, Any]] = json.loads(answer.partition(b"\r\n\r\n")[2])["history"]
    return entries


async def refused_by_file(scene: Scene) -> list[dict[str, Any]]:
    """What the configuration has refused to our user; the newest first."""
    told = [one for one in await history(scene) if one["who"] == "operator uid 4242"]
    return [one for one in told if "of host.toml" in one["reason"]]


LOOK = request_bytes("GET", "/v1/status")
ACT = request_bytes("POST", f"/v1/instances/{uuid_of(0)}/act", {"action": "stop"})

OPEN = (200, "")
ACTS = (404, f"no instance {uuid_of(0)} on this host")
LOOKS_ONLY = (
    403,
    "uid 4242 may look but not act: it is in no group of control.act of host.toml",
)
NOTHING = (403, "uid 4242 is in no group of [control] of host.toml")


async def test_groups(home: Path) -> None:
    os.chmod(home, 0o711)
    async with open_scene() as scene:
        os.chmod(scene.directory, 0o711)
        state = scene.directory / "state"
        state.mkdir(mode=0o700)
        scene.settings |= {
            "state_dir": str(state),
            "control_mode": "0666",
            "control": {"look": ["daemon"], "act": ["bin"]},
        }
        await scene.start_host()
        for groups, looking, acting in (
            ((BIN,), OPEN, ACTS),
            ((SYS, BIN), OPEN, ACTS),
            ((DAEMON,), OPEN, LOOKS_ONLY),
            ((SYS, SYS, DAEMON), OPEN, LOOKS_ONLY),
            ((DAEMON, BIN), OPEN, ACTS),
            ((SYS,), NOTHING, NOTHING),
        ):
            assert await ask(scene, LOOK, 4242, *groups) == looking
            assert await ask(scene, ACT, 4242, *groups) == acting
        # Root, by its uid.
        assert await ask(scene, ACT, 0, SYS) == ACTS
        log = scene.host_log.read_text()
        assert f"operator {LOOKS_ONLY[1]}; refused: POST /v1/instances/{uuid_of(0)}/act" in log
        assert f"operator {NOTHING[1]}; refused: GET /v1/status" in log
        # The newest first; what was refused for another reason stands there, too.
        refusals = [f"act: refused: {reason}" for _, reason in (NOTHING, LOOKS_ONLY, LOOKS_ONLY)]
        with trio.fail_after(SOON_S):  # each is stored within a moment
            while len(refused := await refused_by_file(scene)) < len(refusals):
                pass
        assert [one["reason"] for one in refused] == refusals
        assert {one["uuid"] for one in refused} == {uuid_of(0)}


async def test_whoever_may_act_displaces_those_who_only_look(home: Path) -> None:
    os.chmod(home, 0o711)
    news = request_bytes("GET", "/v1/events")
    async with open_scene() as scene:
        os.chmod(scene.directory, 0o711)
        scene.settings |= {"control_mode": "0666", "control": {"act": ["bin"]}}
        await scene.start_host()
        async with readers(scene, news) as output:
            refused = "too many streams of events in progress, the limit is 64"
            assert await ask(scene, news, 4242, SYS) == (503, refused)
            async with scene.client() as client, client.lines("GET", "/v1/events"):
                line = json.loads(await line_from(output))
        assert line == {
            "kind": "lost",
            "reason": "closed to make room for an operator who may make changes",
        }


async def test_a_group_that_does_not_exist(home: Path) -> None:
    config = home / "host.toml"
    config.write_text('[control]\nact = ["no-such-group"]\n')
    ran = await hbtrio("host", "--config", str(config), "--channel-dir", str(home))
    assert ran.status == ExitStatus.USAGE
    why = f"{config}: control.act: no group named no-such-group on this machine"
    assert ran.err[-1] == f"hbtrio host: {why}"
    ran = await hbtrio("check-config", str(config))
    assert ran.out == [f"{config}: correct (host)"]
