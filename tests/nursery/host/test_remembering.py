"""What of a host's life is remembered: its instances, and who asked for what in its history."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from hbtrio.nursery.host.memory import NO_DIRECTORY
from hbtrio.store.host_records import KnownInstance
from hbtrio.wire.vocabulary import ActionName, Event
from support.control_socket import call, served
from support.fake_processes import FakeRun
from support.host_world import NOTICE, HostWorld, host_world
from support.memory_store import PATH, MemoryStore, memory_store

pytestmark = pytest.mark.usefixtures("autojump_clock")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[MemoryStore]:
    with memory_store(tmp_path) as made:
        yield made


async def known(store: MemoryStore) -> dict[str, KnownInstance]:
    return {one.uuid: one for one in (await store.recall()).instances}


async def told(world: HostWorld) -> list[tuple[str, str, str]]:
    found = await world.host.memory.history(100)
    return [(one.entry.kind, one.entry.who, one.entry.reason) for one in reversed(found)]


async def test_instances_are_remembered_as_they_change(store: MemoryStore) -> None:
    async with host_world(memory=store.memory()) as world:
        guest = await world.heartbeating()
        other = await world.heartbeating()
        await trio.sleep(1)
        first = (await known(store))[guest.uuid]
        assert (first.state, first.boot_id, first.profile) == (
            "heartbeating",
            store.boot_id,
            world.channel(guest).heartbeat.profile,
        )
        guest.send_exit("bye")
        other.vanish()
        await trio.sleep(1)
        left = await known(store)
        assert [(one.state, one.reason) for one in left.values()] == [
            ("waiting", "guest exited: bye")
        ]


async def test_the_end_of_the_host_is_no_news_of_its_instances(store: MemoryStore) -> None:
    async with host_world(memory=store.memory()) as world:
        guest = await world.heartbeating()
    assert (await known(store))[guest.uuid].state == "heartbeating"


async def test_beats_are_not_written(store: MemoryStore) -> None:
    async with host_world(memory=store.memory()) as world:
        await world.heartbeating()
        await trio.sleep(1)
        before = store.writes
        await trio.sleep(60)
        assert store.writes == before


async def test_the_history_says_who_asked(store: MemoryStore) -> None:
    runs = {"ok": FakeRun()}
    async with host_world(memory=store.memory(), runs=runs) as world:
        guest = await world.heartbeating()
        world.host.open_round(guest.uuid, Event.PAUSE, NOTICE, who="operator uid 5")
        await trio.sleep(1)
        world.host.begin_action(
            guest.uuid, ActionName.UNPAUSE, ("ok", "secret"), force=True, who="operator uid 7"
        )
        await trio.sleep(1)
        assert await told(world) == [
            ("heartbeating", "", "init answered"),
            ("notice", "operator uid 5", ""),
            ("stopped", "", "pause is in progress"),
            ("action", "operator uid 7", "unpause: asked, without its vote"),
            ("heartbeating", "", "back after unpause was sent"),
            ("notice", "operator uid 7", ""),
            ("action", "operator uid 7", "unpause: done"),
        ]


async def test_a_disk_that_hangs_delays_nobody(store: MemoryStore) -> None:
    async with host_world(memory=store.memory()) as world:
        await trio.sleep(1)
        store.worker.slow_s = 3600
        guest = await world.heartbeating()
        await trio.sleep(600)
        assert world.channel(guest).heartbeating
        assert world.host.guard.late_ticks == 0
        assert "the disk has not answered" in world.host.memory.fault


async def test_ctl_shows_the_history_of_a_host(store: MemoryStore) -> None:
    async with host_world(memory=store.memory()) as world, served(world.host) as api:
        guest = await world.heartbeating(name="web-1")
        await call(api.path, "vote", guest.uuid, "stop")
        await trio.sleep(1)
        shown = (await call(api.path, "history", "web-1", "--limit", "1")).text
        assert "... older entries: --before 2" in shown
        assert f"(web-1) compute-0 vote stop accept by operator uid {os.getuid()}" in shown
        async with api.client() as http:
            answer = (await http.get("/v1/history")).json()
            assert [one["kind"] for one in answer["history"]] == ["vote", "heartbeating"]
            status = (await http.get("/v1/status")).json()["host"]["memory"]
            assert status == {"state": "kept", "path": PATH, "why": "", "lost": 0}
            store.worker.fault = "database or disk is full"
            refused = await http.get("/v1/history")
            assert refused.status_code == 503
            guest.send_exit()
            await trio.sleep(1)
            status = (await http.get("/v1/status")).json()["host"]["memory"]
            assert (status["state"], status["why"]) == ("failing", "database or disk is full")
        assert "memory: database or disk is full" in (await call(api.path, "status")).text


async def test_a_host_without_a_state_directory_says_so() -> None:
    async with host_world() as world, served(world.host) as api:
        assert NO_DIRECTORY in (await call(api.path, "status")).text
        async with api.client() as http:
            refused = await http.get("/v1/history")
            assert refused.status_code == 409
            assert NO_DIRECTORY in refused.text
