"""A real host under as many requests as it takes at a time: whoever acts or looks gets in."""

from __future__ import annotations

import json
import re
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import pytest
import trio

from hbtrio.errors import UserError
from hbtrio.lab.scene import Scene, open_scene
from support.agent_world import request_bytes
from support.guest_farm import open_guest_farm, uuid_of
from support.real_processes import SOON_S, resident_mib

pytestmark = pytest.mark.processes

#: So many ask side by side: all in one go are connected long before the first one asks, and a
#: host closes those of more than 64 that have not asked for a second.
ASKING: Final = 32

#: The window of a guest of the farm that does not answer, in seconds.
WINDOW_S: Final = 20.0

#: How much later the end of a window may be read, with a thousand at once.
LATE_S: Final = 6.0

VOTES: Final = 1000

#: As many as there are places for votes.
MOST_VOTES: Final = 1024

#: What the votes may add to the memory of the host, in MiB: 64 KiB for each.
MEMORY_MIB: Final = VOTES / 16


async def open_votes(scene: Scene) -> int:
    """How many votes are open on the host."""
    return sum(one["open"] is not None for one in (await scene.status())["instances"])


class Vote:
    """A vote that a client asks for with a connection of its own."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.lines: list[dict[str, Any]] = []
        #: Seconds from the line for its window to its end.
        self.took_s = 0.0

    async def run(self, scene: Scene, turn: trio.CapacityLimiter) -> None:
        """Asks, and reads to the end of the answer.

        Args:
            scene: has the host.
            turn: bounds the votes that are connected and have not asked yet.
        """
        raw = request_bytes("POST", f"/v1/instances/{uuid_of(self.index)}/vote", {"event": "stop"})
        opened_at = 0.0
        answer = b""
        async with AsyncExitStack() as stack:
            async with turn:
                stream = await trio.open_unix_socket(str(scene.control_socket))
                await stack.enter_async_context(stream)
                await stream.send_all(raw)
            async for data in stream:
                opened_at = opened_at or trio.current_time()
                answer += data
        self.took_s = trio.current_time() - opened_at
        self.lines = [json.loads(one) for one in re.findall(rb"\{.*\}", answer)]


async def test_1000_votes_at_once(home: Path) -> None:
    """All are answered within their windows; meanwhile an operator looks, acts and follows."""
    async with open_scene() as scene, open_guest_farm(scene.channel_dir) as farm:
        scene.settings["actions"] = {"stop": ["true"]}
        host = await scene.start_host()
        await farm.listen(VOTES + 1, votes=False)
        awaited = {uuid_of(index) for index in range(VOTES + 1)}

        def is_last(event: dict[str, Any]) -> bool:
            awaited.discard(event["uuid"])
            return not awaited

        await scene.events.wait_for(is_last, within_s=2 * SOON_S)
        before_mib = resident_mib(host.pid)
        votes = [Vote(index) for index in range(VOTES)]
        async with trio.open_nursery() as nursery:
            turn = trio.CapacityLimiter(ASKING)
            for vote in votes:
                nursery.start_soon(vote.run, scene, turn)
            with trio.fail_after(WINDOW_S - 2):
                while await open_votes(scene) < VOTES:  # noqa: ASYNC110
                    await trio.sleep(2)  # a status of a thousand is work for the host, too
            grown_mib = resident_mib(host.pid) - before_mib
            assert grown_mib < MEMORY_MIB
            # By force, as there is a vote open: it says so, and what it waits for.
            async with scene.client() as client:
                body = {"action": "stop", "force": True}
                path = f"/v1/instances/{uuid_of(0)}/act"
                async with client.lines("POST", path, body) as lines:
                    first = await lines.next(dict[str, Any], 5.0)
                    assert first is not None
                    assert first["waiting"].startswith("a vote on stop is open for another ")
                    assert first["seconds"] <= WINDOW_S
                # One that takes no part in a vote is acted upon at once.
                path = f"/v1/instances/{uuid_of(VOTES)}/act"
                async with client.lines("POST", path, body) as lines:
                    first = await lines.next(dict[str, Any], 5.0)
                    assert first is not None
                    assert first["window"] == "SHUTDOWN_NOTICE"
                async with client.lines("GET", "/v1/events?recent=1&follow=yes") as lines:
                    assert await lines.next(dict[str, Any], 5.0) is not None
        for vote in votes:
            assert [line["step"] for line in vote.lines] == ["vote", "vote"], vote.lines
            assert vote.lines[1]["reason"] == "no answer within 20 s"
            # A host that is late gives an answer more time; so do its clients, on a busy machine.
            assert vote.took_s < WINDOW_S + LATE_S
        assert (await scene.status())["host"]["crashes"] == 0


async def test_a_host_with_all_votes_open_ends_in_time(home: Path) -> None:
    """SIGTERM; each client's answer ends, and without an outcome."""
    async with open_scene() as scene, open_guest_farm(scene.channel_dir) as farm:
        host = await scene.start_host()
        await farm.listen(MOST_VOTES, votes=False)
        awaited = {uuid_of(index) for index in range(MOST_VOTES)}

        def is_last(event: dict[str, Any]) -> bool:
            awaited.discard(event["uuid"])
            return not awaited

        await scene.events.wait_for(is_last, within_s=2 * SOON_S)
        votes = [Vote(index) for index in range(MOST_VOTES)]
        async with trio.open_nursery() as nursery:
            turn = trio.CapacityLimiter(ASKING)
            for vote in votes:
                nursery.start_soon(vote.run, scene, turn)
            with trio.fail_after(WINDOW_S - 2):
                while await open_votes(scene) < MOST_VOTES:  # noqa: ASYNC110
                    await trio.sleep(2)
            # It would be killed after 5 s, which is another status.
            assert await host.stop() == 0
        assert {vote.lines[0]["step"] for vote in votes} == {"vote"}
        assert "Traceback" not in scene.host_log.read_text()


async def test_streams_of_events_keep_no_operator_out(home: Path) -> None:
    async with open_scene() as scene:
        await scene.start_host()
        async with AsyncExitStack() as stack:
            for _ in range(64):
                client = await stack.enter_async_context(scene.client())
                await stack.enter_async_context(client.lines("GET", "/v1/events"))
            async with scene.client() as client:
                with pytest.raises(UserError, match="too many streams of events in progress"):
                    async with client.lines("GET", "/v1/events"):
                        pass
            assert (await scene.status())["host"]["crashes"] == 0
            with pytest.raises(UserError, match="no instance"):
                await scene.post(f"/v1/instances/{uuid_of(0)}/act", {"action": "stop"})
