"""More time for a vote, as the operator API tells it."""

from __future__ import annotations

import json

import pytest
import trio

from hbtrio.config.windows import ExtensionSettings, WindowSettings
from support.api_replies import at, stream
from support.control_socket import served
from support.host_world import host_world, stay_silent

pytestmark = pytest.mark.usefixtures("autojump_clock")


async def test_a_vote_that_its_guest_extends_tells_what_is_left() -> None:
    windows = WindowSettings(max_extension_s=ExtensionSettings(vote=40))
    async with (
        host_world(windows=windows) as world,
        served(world.host) as api,
        api.client() as http,
    ):
        guest = await world.heartbeating()
        guest.reply = stay_silent
        async with stream(http, "POST", at(guest, "vote"), json={"event": "stop"}) as (_, lines):
            await anext(lines)
            await world.at(6)
            guest.ask_time(30)
            assert json.loads(await anext(lines)) == {
                "step": "vote",
                "event": "stop",
                "window": "VOTE",
                "extended": "extended by 30 s by orders",
                "seconds": 34.0,
            }
            assert json.loads(await anext(lines))["reason"] == "no answer within 39 s"
            assert trio.current_time() == 40.0
