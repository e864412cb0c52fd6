"""Links that are refused: what host and agent log and show, over real sockets and real TLS."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
import trio

from hbtrio.api.host_status import host_status
from hbtrio.config.host import AgentLinkSettings, HostConfig
from hbtrio.net.endpoints import Endpoint
from hbtrio.net.tls_files import TlsFiles, client_files, server_files
from hbtrio.nursery.host.agent_link import HostLink, Identity
from hbtrio.nursery.host.daemon import Host, open_host
from hbtrio.nursery.host.environment import HostEnvironment
from hbtrio.nursery.host.reports import Reports
from support.agent_world import AgentWorld, agent_world
from support.certificates import HERE, files
from support.fake_directory import FakeDirectory
from support.fake_processes import FakeProcesses
from support.made_certificates import MadeAuthority
from support.memory_port import MemoryDialer


@asynccontextmanager
async def an_agent(folder: Path, tls: TlsFiles | None) -> AsyncIterator[tuple[AgentWorld, int]]:
    """An agent that serves its link on a port of the loopback."""
    with trio.fail_after(20):
        async with agent_world(folder) as world:
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            world.agent.links.listen(list(listeners), tls)
            yield world, listeners[0].socket.getsockname()[1]


@asynccontextmanager
async def a_host(port: int, tls: TlsFiles | None, hostname: str) -> AsyncIterator[Host]:
    """A host that keeps dialling the agent."""
    endpoint = Endpoint(host="127.0.0.1", port=port)
    config = HostConfig(hostname=hostname, agent=AgentLinkSettings(connect=str(endpoint)))
    environment = HostEnvironment(
        watch=FakeDirectory(),
        dialer=MemoryDialer(),
        processes=FakeProcesses({}),
        new_id=int,
        reports=Reports(lambda: datetime.now(UTC)),
    )
    async with open_host(config, environment) as host, trio.open_nursery() as nursery:
        connect = partial(endpoint.connect, None if tls is None else tls.value.context)
        link = HostLink(host, Identity(hostname, "", "boot-1"), connect)
        nursery.start_soon(link.run)
        yield host
        nursery.cancel_scope.cancel()


async def until_down(host: Host) -> str:
    """Returns why its first attempt failed."""
    while host.link.since is None:  # noqa: ASYNC110 - a status sets no event
        await trio.sleep(0.01)
    line = host_status(host, trio.current_time()).link
    assert line is not None
    assert (line.state, line.agent) == ("down", "")
    return line.why


async def said(caplog: pytest.LogCaptureFixture, *texts: str) -> None:
    """Returns once the log has a line with all of these."""
    while not any(all(text in line for text in texts) for line in caplog.messages):  # noqa: ASYNC110
        await trio.sleep(0.01)


def agent_tls(certificate: str = "agent") -> TlsFiles:
    return server_files("agent.toml: link", *files(certificate))


def host_tls(certificate: str, authority: str = "authority") -> TlsFiles:
    return client_files("host.toml: agent", *files(certificate, authority))


REFUSED = "the other end refuses this end's certificate: "


@pytest.mark.parametrize(
    ("certificate", "hostname", "at_agent", "at_host"),
    [
        (
            "compute-0-by-other",
            "compute-0",
            "the certificate is refused: unable to get local issuer certificate",
            f"{REFUSED}its authority is unknown there",
        ),
        (
            "compute-0",
            "compute-1",
            "the certificate is not valid for the name compute-1, but for compute-0",
            "the certificate is not valid for the name compute-1, but for compute-0",
        ),
    ],
)
async def test_a_certificate_of_a_host(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    certificate: str,
    hostname: str,
    at_agent: str,
    at_host: str,
) -> None:
    async with (
        an_agent(tmp_path, agent_tls()) as (_, port),
        a_host(port, host_tls(certificate), hostname) as host,
    ):
        assert at_host in await until_down(host)
        await said(caplog, "tcp:127.0.0.1:", "connection refused", at_agent)
        await said(caplog, "agent: ", at_host)


async def test_an_expired_certificate_of_a_host(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    authority = MadeAuthority.make(tmp_path / "ca")
    agent, expired = authority.agent(90), authority.host("compute-0", -1, "expired")
    tls = server_files("link", *agent.names, authority.file)
    good = client_files("agent", *authority.host("compute-0", 90).names, authority.file)
    bad = client_files("agent", *expired.names, authority.file)
    async with an_agent(tmp_path, tls) as (world, port):
        async with a_host(port, good, "compute-0") as host:
            while not host.link.is_up:  # noqa: ASYNC110 - a status sets no event
                await trio.sleep(0.01)
        async with a_host(port, bad, "compute-0") as host:
            assert await until_down(host) == (
                f"the link ended: the connection failed: {REFUSED}it has expired"
            )
        # It has not said its name: the address had one.
        await said(
            caplog,
            "(compute-0 was linked from there): connection refused: "
            "the certificate is refused: certificate has expired",
        )
        assert world.agent.links.refused.count >= 1


async def test_a_host_without_a_certificate(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bare = client_files("agent", authority=str(HERE / "authority.pem"))
    async with (
        an_agent(tmp_path, agent_tls()) as (_, port),
        a_host(port, bare, "compute-0") as host,
    ):
        assert f"{REFUSED}none was sent" in await until_down(host)
        await said(caplog, "connection refused: TLS: peer did not return a certificate")


@pytest.mark.parametrize(
    ("certificate", "authority", "at_host", "at_agent"),
    [
        (
            "agent-elsewhere",
            "authority",
            "the certificate is refused: IP address mismatch",
            "the other end refuses this end's certificate: bad certificate",
        ),
        (
            "agent",
            "other-authority",
            "the certificate is refused: self-signed certificate in certificate chain",
            "the other end refuses this end's certificate: its authority is unknown there",
        ),
    ],
)
async def test_a_certificate_of_an_agent(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    certificate: str,
    authority: str,
    at_host: str,
    at_agent: str,
) -> None:
    async with (
        an_agent(tmp_path, agent_tls(certificate)) as (_, port),
        a_host(port, host_tls("compute-0", authority), "compute-0") as host,
    ):
        assert f"tcp:127.0.0.1:{port}: {at_host}" in await until_down(host)
        await said(caplog, "connection refused: ", at_agent)


async def test_a_host_in_clear_at_an_agent_with_tls(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        an_agent(tmp_path, agent_tls()) as (_, port),
        a_host(port, None, "compute-0") as host,
    ):
        assert await until_down(host) == (
            "the link ended: the other end uses TLS, this end does not"
        )
        await said(caplog, "connection refused: the other end does not use TLS")


async def test_a_host_with_tls_at_an_agent_in_clear(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        an_agent(tmp_path, None) as (_, port),
        a_host(port, host_tls("compute-0"), "compute-0") as host,
    ):
        assert "the other end does not use TLS" in await until_down(host)
        await said(caplog, "connection refused: the other end uses TLS, this end does not")
