"""The real composition of guest, host and agent in the simulated machine room."""

from __future__ import annotations

import json
import logging
import re
import signal
import socket
import threading

import h11
import pytest
import trio

from hbtrio.net.connections import ConnectionEnds
from hbtrio.net.peer_credentials import PeerCredentials
from support.simulation import digests_across_hash_seeds
from support.small_fleet import SmallFleet, small_fleet_digest

#: An operator of the machine itself.
ROOT = ConnectionEnds(credentials=PeerCredentials(pid=1, uid=0, gid=0))


@pytest.fixture
def fleet(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> SmallFleet:
    """A fleet that was started, without the machine's own sockets and threads."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the simulation uses the real machine")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    caplog.set_level(logging.INFO)
    fleet = SmallFleet()
    fleet.start()
    return fleet


def count(caplog: pytest.LogCaptureFixture, text: str) -> int:
    return sum(text in record.getMessage() for record in caplog.records)


def ask(
    fleet: SmallFleet, address: str, request: bytes, body: bytes = b""
) -> list[dict[str, object]]:
    """Asks one of the APIs from a process of its own; the answer is in the list soon after."""
    answers: list[dict[str, object]] = []
    process = fleet._process("operator", fleet.controller)

    async def main() -> None:
        stream = await fleet.network.connect(process, address, ROOT)
        head = b"%s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n" % (request, len(body))
        await stream.send_all(
            head + b"Content-Type: application/json\r\nConnection: close\r\n\r\n" + body
        )
        client = h11.Connection(h11.CLIENT)
        client.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
        client.send(h11.EndOfMessage())
        received = bytearray()
        while True:
            event = client.next_event()
            if event is h11.NEED_DATA:
                client.receive_data(await stream.receive_some())
            elif isinstance(event, h11.Data):
                received += event.data
            elif isinstance(event, h11.EndOfMessage):
                break
        answers.append(json.loads(received))
        await stream.aclose()

    process.start(main)
    return answers


def test_guests_heartbeat_for_a_minute_through_the_real_composition(
    fleet: SmallFleet, caplog: pytest.LogCaptureFixture
) -> None:
    fleet.run(60.0)
    assert all(process.alive for process in fleet.processes.values())
    assert count(caplog, "heartbeating: init answered") == 2
    assert count(caplog, "link is up") == 1
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    for port in fleet.ports.values():  # one challenge a second, and each was answered
        numbers = re.findall(rb'"sequence":(\d+),"heartbeat_response"', port._recent)
        assert 55 <= int(numbers[-1]) <= 62


def test_the_apis_answer_over_the_simulated_network(fleet: SmallFleet) -> None:
    fleet.run(20.0)
    of_host = ask(fleet, "unix:/run/host.sock", b"GET /v1/status")
    of_agent = ask(fleet, "unix:/run/agent.sock", b"GET /v1/status")
    fleet.run(21.0)
    assert [len(of_host), len(of_agent)] == [1, 1]
    assert '"state": "heartbeating"' in json.dumps(of_host)
    assert "host-1" in json.dumps(of_agent)


def test_a_guest_that_is_killed_is_lost_and_heartbeats_again_after_a_restart(
    fleet: SmallFleet, caplog: pytest.LogCaptureFixture
) -> None:
    fleet.timeline.at(20.0, fleet.processes["guest-1"].kill)
    fleet.run(40.0)
    assert count(caplog, " loss: ") == 1
    fleet.start_guest(0)
    fleet.run(60.0)
    assert count(caplog, "heartbeating: back after no answer") == 1


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("daemon", ["host", "agent"])
def test_nothing_is_lost_while_a_daemon_is_frozen(
    caplog: pytest.LogCaptureFixture, daemon: str, lazy: bool
) -> None:
    fleet = SmallFleet(lazy=lazy)
    fleet.start()
    for at in (20.0, 40.0):
        fleet.timeline.at(at, lambda: fleet.processes[daemon].freeze_for(12.0))
    fleet.run(60.0)
    assert count(caplog, " loss: ") == 0


def test_nothing_is_lost_when_the_host_is_killed_and_started_again(
    fleet: SmallFleet, caplog: pytest.LogCaptureFixture
) -> None:
    fleet.run(20.0)
    fleet.processes["host"].kill()
    fleet.run(25.0)
    fleet.start_host()
    fleet.run(60.0)
    assert count(caplog, " loss: ") == 0
    assert count(caplog, "link is up") == 2
    answers = ask(fleet, "unix:/run/host.sock", b"GET /v1/status")
    fleet.run(61.0)
    assert json.dumps(answers).count('"state": "heartbeating"') == 2


def test_the_link_comes_back_after_a_clog_and_after_a_cut(
    fleet: SmallFleet, caplog: pytest.LogCaptureFixture
) -> None:
    route = fleet.network.route("host-1", "tcp:127.0.0.1:2411")
    fleet.timeline.at(20.0, route.clog)
    fleet.timeline.at(50.0, route.unclog)
    fleet.timeline.at(80.0, route.cut)
    fleet.run(120.0)
    assert count(caplog, "agent: the link to controller is up") == 3
    assert count(caplog, " loss: ") == 0
    assert route.connections == 1


@pytest.mark.parametrize("daemon", ["agent", "host", "guest-1"])
def test_term_ends_a_daemon_in_order_and_leaves_nothing_open(
    fleet: SmallFleet, daemon: str
) -> None:
    fleet.run(20.0)
    process = fleet.processes[daemon]
    fleet.signals[daemon].send(signal.SIGTERM)
    fleet.run(100.0)
    assert not process.alive
    assert process.error is None
    assert not process.held


def test_a_store_survives_a_power_cut_up_to_its_last_sync(fleet: SmallFleet) -> None:
    fleet.run(20.0)
    for name in ("agent", "host"):
        fleet.processes[name].kill()
    assert fleet.agent_disk.syncs > 0
    fleet.agent_disk.power_cut()
    fleet.host_disk.power_cut()
    fleet.start_agent()
    fleet.start_host()
    fleet.run(60.0)
    assert all(process.alive for process in fleet.processes.values())


@pytest.mark.slow
def test_the_same_seed_gives_the_same_trace_across_hash_seeds() -> None:
    logging.disable()
    try:
        digest = small_fleet_digest()
        assert small_fleet_digest() == digest
        assert small_fleet_digest(seed=2) != digest
    finally:
        logging.disable(logging.NOTSET)
    assert digests_across_hash_seeds("small_fleet_digest", "support.small_fleet") == {digest}


def test_a_process_of_the_fleet_starts_outside_of_trio() -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match="outside of all runs"):
            SmallFleet().start()

    trio.run(main)
