"""Mutual TLS of the link over loopback TCP: who is let in under which name, and clear faults."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio

from hbtrio.errors import ExitStatus, UserError
from hbtrio.net.endpoints import Endpoint, Unreachable
from hbtrio.net.tls import client_tls, server_tls
from hbtrio.net.tls_files import server_files
from hbtrio.wire.vocabulary import Event
from support.agent_world import AgentWorld, agent_world
from support.certificates import HERE, files
from support.scripted_host import ScriptedHost


@attrs.frozen
class Controller:
    world: AgentWorld
    port: int

    async def dial(
        self, certificate: str, hostname: str = "compute-0", authority: str = "authority"
    ) -> ScriptedHost:
        """A host with this certificate that says this name."""
        tls = client_tls("host.toml: agent", *files(certificate, authority))
        stream = await Endpoint(host="127.0.0.1", port=self.port).connect(tls)
        host = ScriptedHost(hostname, "")
        await host.begin(stream, self.world.nursery)
        return host


@asynccontextmanager
async def controller(folder: Path, certificate: str = "agent") -> AsyncIterator[Controller]:
    """An agent that serves its link with mutual TLS."""
    tls = server_files("agent.toml: link", *files(certificate))
    with trio.fail_after(20):
        async with agent_world(folder) as world:
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            world.agent.links.listen(list(listeners), tls)
            yield Controller(world, listeners[0].socket.getsockname()[1])


# -- who is let in -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("certificate", "hostname"),
    [
        ("compute-0", "compute-0"),
        ("compute-1-by-common-name", "compute-1"),
        ("compute-2-in-both", "compute-2"),
    ],
)
async def test_a_host_under_the_name_of_its_certificate(
    tmp_path: Path, certificate: str, hostname: str
) -> None:
    async with controller(tmp_path) as world:
        host = await world.dial(certificate, hostname)
        assert host.up
        assert list(world.world.agent.fleet.sessions) == [hostname]
        await host.report_heartbeating()
        await host.settle()
        await host.cut()


async def test_a_host_that_is_cut_off(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with controller(tmp_path) as world:
        host = await world.dial("compute-0", "compute-0")
        await host.cut()
        await said(caplog, "compute-0: link ended: the connection failed: closed by the other end")


async def test_votes_go_through(tmp_path: Path) -> None:
    async with controller(tmp_path) as world:
        await world.world.bound_host(host=ScriptedHost())  # in memory
        host = await world.dial("compute-0")  # and this one replaces it
        asked = await world.world.ask(Event.STOP, vote=True)
        assert asked.seconds == 9
        assert len(host.commands) == 1
        assert asked.outcome is not None
        assert (await asked.outcome.wait()).reason == "fine"


@pytest.mark.parametrize(
    ("certificate", "hostname", "named"),
    [
        ("compute-0", "compute-1", "compute-0"),
        ("compute-1-by-common-name", "compute-0", "compute-1"),
        ("agent", "compute-0", "localhost"),
        # Its common name says so, but where there are alternative names that does not count.
        ("compute-2-in-both", "compute-0", "compute-2"),
    ],
)
async def test_a_name_that_the_certificate_does_not_bear(
    tmp_path: Path, certificate: str, hostname: str, named: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with controller(tmp_path) as world:
        host = await world.dial(certificate, hostname)
        await host.until(lambda: not host.up)
        not_valid = f"the certificate is not valid for the name {hostname}, but for {named}"
        why = f"unusable message: {not_valid}"
        assert host.goodbyes == [why]
        assert world.world.agent.fleet.sessions == {}
        assert world.world.agent.fleet.hosts == {}
        await said(caplog, f"connection refused: {why}")


async def test_a_host_of_another_authority(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with controller(tmp_path) as world:
        host = await world.dial("compute-0-by-other")
        assert host.welcome is None
        why = "the certificate is refused: unable to get local issuer certificate"
        await said(caplog, f"connection refused: {why}")
        assert world.world.agent.fleet.sessions == {}


async def said(caplog: pytest.LogCaptureFixture, text: str) -> None:
    """Returns once the log says so."""
    while text not in caplog.text:  # noqa: ASYNC110 - a log sets no event
        await trio.sleep(0.01)


async def test_a_host_without_a_certificate(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with controller(tmp_path) as world:
        bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        bare.load_verify_locations(HERE / "authority.pem")
        stream = await Endpoint(host="127.0.0.1", port=world.port).connect(bare)
        host = ScriptedHost()
        await host.begin(stream, world.world.nursery)
        assert host.welcome is None
        await said(caplog, "connection refused: TLS: peer did not return a certificate")
        assert world.world.agent.fleet.sessions == {}


@pytest.mark.parametrize(
    "data",
    [
        b'{"type":"hello","protocol":1}\n',
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01" + b"\xff" * 300,
        b"",
    ],
)
async def test_what_is_no_tls(
    tmp_path: Path, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with controller(tmp_path) as world:
        async with await trio.open_tcp_stream("127.0.0.1", world.port) as stream:
            await stream.send_all(data)
            await stream.send_eof()
            try:
                while await stream.receive_some(4096):
                    pass
            except trio.BrokenResourceError:
                pass
        await said(caplog, "connection refused")
        # It goes on serving.
        assert (await world.dial("compute-0")).up
    assert "Traceback" not in caplog.text


async def test_an_old_version_of_tls(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with controller(tmp_path) as world:
        tls = client_tls("host.toml: agent", *files("compute-0"))
        assert tls.minimum_version is ssl.TLSVersion.TLSv1_2
        tls.maximum_version = ssl.TLSVersion.TLSv1_2
        stream = await Endpoint(host="127.0.0.1", port=world.port).connect(tls)
        host = ScriptedHost(host_uuid="")
        await host.begin(stream, world.world.nursery)
        assert host.up


# -- whom a host trusts ----------------------------------------------------------------------------


async def test_an_agent_under_another_name(tmp_path: Path) -> None:
    async with controller(tmp_path, "agent-elsewhere") as world:
        with pytest.raises(Unreachable) as caught:
            await world.dial("compute-0")
        assert str(caught.value).startswith(
            f"tcp:127.0.0.1:{world.port}: the certificate is refused: IP address mismatch"
        )


async def test_an_agent_of_another_authority(tmp_path: Path) -> None:
    async with controller(tmp_path) as world:
        with pytest.raises(Unreachable) as caught:
            await world.dial("compute-0", authority="other-authority")
        refused = f"tcp:127.0.0.1:{world.port}: the certificate is refused: "
        assert str(caught.value).startswith(refused)


async def test_an_agent_that_closes_in_the_handshake() -> None:
    async def close(stream: trio.SocketStream) -> None:
        await stream.receive_some(1)

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, close, listeners)
            port = listeners[0].socket.getsockname()[1]
            tls = client_tls("host.toml: agent", *files("compute-0"))
            with pytest.raises(Unreachable, match=f"tcp:127.0.0.1:{port}: "):
                await Endpoint(host="127.0.0.1", port=port).connect(tls)
            nursery.cancel_scope.cancel()


# -- files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [client_tls, server_tls])
@pytest.mark.parametrize(
    ("certificate", "key", "authority", "fault"),
    [
        (
            "none.pem",
            "compute-0.key",
            "authority.pem",
            "{here}/none.pem: no such file or directory",
        ),
        (
            "compute-0.pem",
            "none.key",
            "authority.pem",
            "{here}/none.key: no such file or directory",
        ),
        (
            "compute-0.pem",
            "compute-0.key",
            "none.pem",
            "{here}/none.pem: no such file or directory",
        ),
        ("compute-0.pem", "compute-0.key", "", "{here}: is a directory"),
        (
            "compute-0.pem",
            "compute-0.key",
            "make.sh",
            "{here}/make.sh: no certificates in PEM: no certificate or crl found",
        ),
        (
            "compute-0.pem",
            "agent.key",
            "authority.pem",
            "{here}/compute-0.pem and {here}/agent.key: key values mismatch",
        ),
        (
            "compute-0.pem",
            "compute-0-encrypted.key",
            "authority.pem",
            "{here}/compute-0.pem and {here}/compute-0-encrypted.key: ",
        ),
        (
            "make.sh",
            "compute-0.key",
            "authority.pem",
            "{here}/make.sh and {here}/compute-0.key: ",
        ),
    ],
)
def test_files_that_can_t_be_used(
    make: type, certificate: str, key: str, authority: str, fault: str
) -> None:
    with pytest.raises(UserError) as caught:
        make("x.toml: y", *(str(HERE / name) for name in (certificate, key, authority)))
    assert str(caught.value).startswith(f"x.toml: y: {fault.format(here=HERE)}")
    assert "\n" not in str(caught.value)
    assert caught.value.status is ExitStatus.USAGE
