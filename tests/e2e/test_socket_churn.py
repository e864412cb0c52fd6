"""Socket files made and removed a thousand times a second: no missed beat, and a short log."""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Final

import pytest
import trio

from hbtrio.lab.scene import Scene, open_scene
from hbtrio.log.limits import PLACE_RATE, RARE_RATE
from support.guest_farm import module_environment, open_guest_farm, uuid_of

pytestmark = pytest.mark.processes

_GOOD: Final = 50
_PER_S: Final = 1000
_SECONDS: Final = 5.0

#: What differs between two lines of one place in the source.
_OWN: Final = re.compile(r"^\S+ \S+ |[0-9a-f]{8}-[0-9a-f-]{27}|no-uuid-\d+|/\S+")


async def test_churn_of_sockets_holds_no_beat_up_and_fills_no_log(home: Path) -> None:
    good = {uuid_of(index) for index in range(_GOOD)}
    async with open_scene() as scene, open_guest_farm(scene.channel_dir) as farm:
        began = trio.current_time()
        await scene.start_host()
        await farm.listen(_GOOD, interval_ms=1000, spread_s=0.5)
        await _until_only(scene, good)
        churn = await trio.run_process(
            [
                *(sys.executable, "-m", "support.socket_churn"),
                *(str(scene.channel_dir), str(_PER_S), str(_SECONDS)),
            ],
            capture_stdout=True,
            env=module_environment(),
        )
        made = int(churn.stdout)
        assert made == _PER_S * _SECONDS
        status = await _until_only(scene, good)
        assert status["host"]["crashes"] == 0
        for line in status["instances"]:
            assert (line["missed"], line["beats"] > _SECONDS - 2) == (0, True), line
        # Nothing has stopped: no guest was ever heard on any of them.
        assert [line for line in scene.events.since(0) if line["uuid"] not in good] == []
        assert scene.host is not None
        await scene.host.stop()
        minutes = (trio.current_time() - began) / 60
        lines = scene.host_log.read_text().splitlines()
    kinds = Counter(_OWN.sub("", line) for line in lines)
    most = sum(rate.burst + rate.per_minute * minutes for rate in (PLACE_RATE, RARE_RATE))
    assert kinds.most_common(1)[0][1] <= most, kinds
    assert len(lines) < made, kinds.most_common(10)
    assert any("lines like this were not logged" in line for line in lines), kinds.most_common(10)


async def _until_only(scene: Scene, uuids: set[str]) -> dict[str, Any]:
    """Returns the status once these instances are heartbeating and there are no others."""
    with trio.fail_after(20):
        while True:
            status = await scene.status()
            beating = {line["uuid"] for line in status["instances"] if line["heartbeating"]}
            if beating == uuids and len(status["instances"]) == len(uuids):
                return status
            await trio.sleep(0.1)
