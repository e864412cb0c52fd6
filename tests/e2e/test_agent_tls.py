"""A real agent whose APIs are beyond the loopback as far as it knows: TLS, tokens, and its end."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import attrs
import httpx
import pytest
import trio

from hbtrio.cli import main
from hbtrio.errors import ExitStatus
from hbtrio.http.waiting import PATIENCE_S
from hbtrio.lab.daemon import Daemon
from support.certificates import AUTHORITY, HERE, files, pair, trusting
from support.real_processes import POWERLESS, Ran, descriptors, hbtrio, logged

TOKEN, VIM_TOKEN = "0123456789-operators-only", "0123456789-the-vim-only"

#: Of this machine, and not what agent.toml takes for the loopback.
ADDRESS = "127.0.0.2"

INSTANCE = "/v1/instances/4ba21eb5-8257-4ae0-a8bd-b07d1a0c8b59"
NEEDS_TOKEN = "the token is missing or wrong"


def quoted(**keys: str) -> str:
    return "\n".join(f"{key} = {json.dumps(value)}" for key, value in keys.items())


def tls(name: str = "agent") -> str:
    certificate, key, authority = files(name)
    return quoted(certificate=certificate, key=key, authority=authority)


def token_file(folder: Path, name: str, token: str) -> str:
    file = folder / name
    file.touch(0o600)
    file.write_text(token)
    return str(file)


@attrs.frozen
class Agent:
    daemon: Daemon
    folder: Path
    vim: int
    operator: int

    async def ctl(self, *words: str, **env: str) -> Ran:
        url = f"https://{ADDRESS}:{self.operator}"
        return await hbtrio("ctl", "--url", url, "--ca", AUTHORITY, *words, env=env)

    async def ask(self, certificate: str, **headers: str) -> int:
        """The status of what the VIM's API answers."""
        async with httpx.AsyncClient(verify=trusting(certificate), trust_env=False) as client:
            url = f"https://{ADDRESS}:{self.vim}{INSTANCE}"
            return (await client.get(url, headers={"user-agent": "vim/1.0"} | headers)).status_code


@asynccontextmanager
async def an_agent(folder: Path) -> AsyncIterator[Agent]:
    sockets = [socket.create_server((ADDRESS, 0)) for _ in range(2)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    config = folder / "agent.toml"
    config.write_text(
        f"""
        [vim]
        {quoted(listen=f"tcp:{ADDRESS}:{ports[0]}", url="http://127.0.0.1:1")}
        {quoted(token_file=token_file(folder, "vim-token", VIM_TOKEN))}
        {tls()}
        [operator]
        {quoted(listen=f"tcp:{ADDRESS}:{ports[1]}")}
        {quoted(token_file=token_file(folder, "token", TOKEN))}
        {tls()}
        [link]
        {quoted(listen=f"unix:{folder}/link")}
        [store]
        {quoted(file=f"{folder}/agent.db")}
        """
    )
    log = folder / "agent.log"
    daemon = await Daemon.start("the agent", ["agent", "--config", str(config)], log)
    try:
        await logged(log, "operators at")
        yield Agent(daemon, folder, *ports)
    finally:
        await daemon.stop()


@pytest.mark.processes
async def test_operators_the_vim_and_an_end_in_time(home: Path) -> None:
    async with an_agent(home) as agent, AsyncExitStack() as stack:
        certificate, key = pair("operator")
        for words, env in (
            (("--token-file", str(home / "token")), {}),
            ((), {"HBTRIO_TOKEN": TOKEN}),
            (("--certificate", certificate, "--key", key), {}),
        ):
            ran = await agent.ctl(*words, "status", **env)
            assert (ran.status, ran.err) == (ExitStatus.DONE, [])
            assert "0 of 0 hosts linked" in ran.out[0]
        fault = f"hbtrio ctl: https://{ADDRESS}:{agent.operator}: {NEEDS_TOKEN}"
        for env in ({}, {"HBTRIO_TOKEN": VIM_TOKEN}):
            ran = await agent.ctl("status", **env)
            assert (ran.status, ran.out, ran.err) == (ExitStatus.DENIED, [], [fault])

        # The VIM needs both.
        assert await agent.ask("operator", **{"x-auth-token": VIM_TOKEN}) == 404
        assert await agent.ask("operator", authorization=f"Bearer {VIM_TOKEN}") == 404
        assert await agent.ask("operator") == 401
        assert await agent.ask("operator", **{"x-auth-token": TOKEN}) == 401
        with pytest.raises(httpx.TransportError):
            await agent.ask("", **{"x-auth-token": VIM_TOKEN})

        for port in (agent.vim, agent.operator):
            for _ in range(100):
                stream = await stack.enter_async_context(await trio.open_tcp_stream(ADDRESS, port))
                await stream.send_all(b"\x16\x03\x01")
        # A burst may last so long. The next one closes those beyond 64, at each port.
        await trio.sleep(PATIENCE_S + 0.1)
        assert (await agent.ctl("status", HBTRIO_TOKEN=TOKEN)).status == ExitStatus.DONE
        assert await agent.ask("operator", **{"x-auth-token": VIM_TOKEN}) == 404
        assert descriptors(agent.daemon.pid) < 160
        # Later than GRACE_S it is killed, and its status is not 0.
        assert await agent.daemon.stop() == 0
    log = (home / "agent.log").read_text()
    for word in ("Traceback", "ERROR", TOKEN, VIM_TOKEN):
        assert word not in log
    assert log.count("TLS handshake failed: TLS: peer did not return a certificate") == 1


@pytest.mark.processes
async def test_a_key_that_the_agent_may_not_read(home: Path) -> None:
    key = home / "agent.key"
    key.write_bytes((HERE / "agent.key").read_bytes())
    key.chmod(0)
    certificate, _ = pair("agent")
    config = home / "agent.toml"
    lines = quoted(listen="tcp:127.0.0.1:1", certificate=certificate, key=str(key))
    config.write_text(f"[operator]\n{lines}\n")
    ran = await hbtrio("agent", "--config", str(config), prefix=POWERLESS)
    fault = f"hbtrio agent: {config}: operator: {key}: permission denied"
    assert (ran.status, ran.err) == (ExitStatus.DENIED, [fault])
    # Which files there are is not the configuration's to check.
    assert (await hbtrio("check-config", str(config))).status == ExitStatus.DONE


CERTIFICATE, KEY = pair("agent")
_, OTHER_KEY = pair("operator")


@pytest.mark.parametrize("table", ["vim", "operator", "link"])
@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        (("/no/c.pem", KEY, AUTHORITY), "/no/c.pem: no such file or directory"),
        ((CERTIFICATE, "/no/c.key", AUTHORITY), "/no/c.key: no such file or directory"),
        ((CERTIFICATE, KEY, "/no/ca.pem"), "/no/ca.pem: no such file or directory"),
        ((CERTIFICATE, KEY, str(HERE)), f"{HERE}: is a directory"),
        ((CERTIFICATE, OTHER_KEY, ""), f"{CERTIFICATE} and {OTHER_KEY}: key values mismatch"),
        ((KEY, KEY, ""), f"{KEY} and {KEY}: "),
    ],
)
def test_files_that_can_t_be_used(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    table: str,
    keys: tuple[str, str, str],
    fault: str,
) -> None:
    certificate, key, authority = keys
    if table == "link":
        authority = authority or AUTHORITY
    config = tmp_path / "agent.toml"
    lines = quoted(certificate=certificate, key=key, authority=authority)
    config.write_text(f'[{table}]\nlisten = "tcp:127.0.0.1:1"\n{lines}\n')
    assert main(["agent", "--config", str(config)]) == ExitStatus.USAGE
    [line] = capfd.readouterr().err.splitlines()
    assert line.startswith(f"hbtrio agent: {config}: {table}: {fault}")
    assert [file.name for file in tmp_path.iterdir()] == ["agent.toml"]


@pytest.mark.parametrize("table", ["vim", "operator"])
def test_a_token_that_can_t_be_used(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], table: str
) -> None:
    config = tmp_path / "agent.toml"
    config.write_text(f"[{table}]\n{quoted(token_file='/no/token')}\n")
    assert main(["agent", "--config", str(config)]) == ExitStatus.USAGE
    place = f"{config}: {table}.token_file"
    line = f"hbtrio agent: {place}: /no/token: no such file or directory\n"
    assert capfd.readouterr().err == line
