"""A VIM that asks for votes while an operator owns the instance, against an agent and its host."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
import trio

from hbtrio.api.vim import vim_api
from hbtrio.http.server import serve_http
from hbtrio.wire.channel_messages import ActionNotify
from hbtrio.wire.vocabulary import ActionName, Event
from support.fake_processes import FakeRun
from support.fleet_world import fleet_world

pytestmark = pytest.mark.usefixtures("autojump_clock")

OWNED = "an operator's action (live-migrate) is in progress"


async def test_while_an_operator_owns_it_a_vote_is_503_and_a_notice_delivered(
    tmp_path: Path,
) -> None:
    async with (
        fleet_world(tmp_path, runs={"slow": FakeRun(delay_s=30.0)}) as world,
        trio.open_nursery() as nursery,
    ):
        guest = await world.host.heartbeating()
        await world.host.settle()
        (tcp,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        app, crashes = vim_api(world.agent), list[BaseException]()
        await nursery.start(
            lambda task_status: serve_http(
                app, [tcp], classes=app.classes, on_crash=crashes.append, task_status=task_status
            )
        )
        url = f"http://127.0.0.1:{tcp.socket.getsockname()[1]}/v1/instances/{guest.uuid}"
        async with httpx.AsyncClient(
            headers={"user-agent": "vim/1.0"}, timeout=None, trust_env=False
        ) as vim:

            async def asked(verb: str, action: str) -> tuple[int, str]:
                body = {"uuid": guest.uuid, "hostname": "compute-0", "action": action}
                answer = await vim.post(f"{url}/{verb}", json=body)
                return answer.status_code, answer.json().get("reason", "")

            assert await asked("vote", "stop") == (200, "")
            await world.host.sleep(5)
            world.host.host.begin_action(
                guest.uuid, ActionName.LIVE_MIGRATE, ("slow", "{uuid}"), force=True, who="uid 0"
            )
            await world.host.sleep(5)
            assert await asked("vote", "reboot") == (503, OWNED)
            assert (await asked("notify", "pause"))[0] == 200
            await world.host.settle()
            notified = [one.message for one in guest.received if type(one.message) is ActionNotify]
            assert notified[-1].event_type is Event.PAUSE
            await world.host.sleep(300)
            assert (await asked("vote", "reboot"))[0] == 200
        nursery.cancel_scope.cancel()
        assert crashes == []
