"""How long a real host takes to heartbeat many channels that are made at once."""

from __future__ import annotations

import time
from typing import Any

from hbtrio.lab.scene import open_scene
from support.guest_farm import open_guest_farm, uuid_of


async def seconds_until_all_beat(count: int, *, within_s: float) -> float:
    """Starts a host process, makes the channels and waits for its event about each of them.

    Returns:
        Seconds from the moment when the last socket is there to the host's last event, as read
        from its standard output. A socket that the host has found between its being bound and its
        listening refuses, and is tried again after a second.

    Raises:
        NotSeen: they are not all heartbeating within ``within_s``.
    """
    awaited = {uuid_of(index) for index in range(count)}

    def is_last(event: dict[str, Any]) -> bool:
        assert event["kind"] == "heartbeating", event
        awaited.remove(event["uuid"])
        return not awaited

    async with open_scene() as scene, open_guest_farm(scene.channel_dir) as farm:
        await scene.start_host()
        made = await farm.listen(count)
        await scene.events.wait_for(is_last, within_s=within_s)
        return time.monotonic() - made.ended
