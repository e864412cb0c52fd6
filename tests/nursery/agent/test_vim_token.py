"""The VIM's token: at no level of logging, in no fault, in no record, in nothing that is sent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio

from hbtrio.lab.vim_server import Mood
from support.agent_world import request_bytes
from support.real_agent import real_agent
from support.real_processes import SOON_S
from support.scripted_host import HOST_UUID, HOSTNAME, INSTANCE, VM, ScriptedHost

SECRET = "s3cr3t-t0k3n-0f-the-v1m"
TOKEN = (f"X-Auth-Token: {SECRET}",)
HOST, INST = f"/v1/hosts/{HOST_UUID}", f"/v1/instances/{VM}"
ABOUT_HOST = {"uuid": HOST_UUID, "hostname": HOSTNAME}
ABOUT_VM = {"uuid": VM, "hostname": HOSTNAME}
ASK = ABOUT_VM | {"action": "stop"}

REQUESTS = [
    ("POST", HOST, ABOUT_HOST),
    ("PUT", f"{HOST}/enable", ABOUT_HOST),
    ("GET", HOST, b""),
    ("GET", f"{HOST}/disable", ABOUT_HOST),
    ("POST", INST, ABOUT_VM | {"services": ["heartbeat"]}),
    ("PATCH", INST, ABOUT_VM | {"services": [{"service": "heartbeat", "state": "enabled"}]}),
    ("GET", INST, b""),
    ("POST", f"{INST}/vote", ASK),
    ("POST", f"{INST}/notify", ASK),
    ("PUT", f"{HOST}/disable", ABOUT_HOST),
    ("DELETE", INST, b""),
    ("DELETE", HOST, b""),
]

#: Requests that the HTTP driver itself refuses, or that end before they are whole.
BROKEN = [
    b"GET / HTTP/1.1\r\nX-Auth-Token: %s\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nX-Auth-Token : %s\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nX-Auth-Token: %s\x00\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nX-Auth-Token: %s\r\nHost: y\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\n X-Auth-Token: %s\r\n\r\n",
    b"GET / HTTP/3.0\r\nHost: x\r\nX-Auth-Token: %s\r\n\r\n",
    b"X-Auth-Token: %s\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: %s\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: %s\r\n\r\n",
    b"GET /[ HTTP/1.1\r\nHost: [%s\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\nX-Auth-Token: %s\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nX-Auth-Token: %s\r\n",
]


@pytest.mark.processes
async def test_a_token_is_nowhere(tmp_path: Path) -> None:
    async with real_agent(tmp_path, log_level="debug", audit_s=1) as agent:
        agent.vim.hosts[HOST_UUID] = {"hostname": HOSTNAME, "state": "enabled"}
        agent.vim.instances[HOST_UUID] = []
        host = await agent.host(ScriptedHost(instances=(INSTANCE,)))
        said: list[bytes] = []
        for method, path, body in REQUESTS:
            answer = await agent.ask(method, path, body, headers=TOKEN)
            assert answer.status in (200, 204), answer.raw
            said.append(answer.raw)
            for how in (
                {"body": b"{"},
                {"body": {"uuid": 5}},
                {"body": body, "agent": "other/1.0"},
            ):
                said.append((await agent.ask(method, path, headers=TOKEN, **how)).raw)
            said.append((await agent.ask(method, f"{path}/x/y", body, headers=TOKEN)).raw)
            # And for anybody who takes the agent's port for the operator's.
            raw = request_bytes(method, path, body, headers=TOKEN)
            said.append((await agent.exchange(agent.operator_port, raw)).raw)
        for raw in BROKEN:
            with trio.fail_after(SOON_S):
                async with await trio.open_tcp_stream("127.0.0.1", agent.vim_port) as stream:
                    await stream.send_all(raw % SECRET.encode())
                    await stream.send_eof()
                    said += [bytes(data) async for data in stream]
        # What fails behind a request: the VIM that it came from, and the host that it is for.
        for method, path, body in REQUESTS[:6]:
            assert (await agent.ask(method, path, body, headers=TOKEN)).status == 200
        agent.vim.next_moods.extend([Mood.RESET, Mood.GARBAGE, Mood.ERROR_500])
        await host.cut()
        said.append((await agent.ask("POST", f"{INST}/vote", ASK, headers=TOKEN)).raw)
        told = [
            json.dumps(await agent.operate("GET", path))
            for path in ("/v1/status", "/v1/history?limit=1000")
        ]
        raw = request_bytes("GET", "/v1/events?recent=1000&follow=no")
        said.append((await agent.exchange(agent.operator_port, raw)).raw)
        log_before_the_end = agent.log
        assert await agent.daemon.stop() == 0
        # It was a log that says something.
        assert "answered 400" in log_before_the_end
        assert "DEBUG" in log_before_the_end
        assert SECRET not in agent.log
        assert SECRET not in "".join(told)
        assert SECRET.encode() not in b"".join(said)
        assert SECRET.encode() not in b"".join(one.raw for one in agent.vim.received)
    assert holding(tmp_path, SECRET.encode()) == []


def holding(directory: Path, secret: bytes) -> list[str]:
    """The files in which it is."""
    files = [file for file in directory.iterdir() if file.is_file()]
    assert {"agent.db", "agent.log"} <= {file.name for file in files}
    return [file.name for file in files if secret in file.read_bytes()]
