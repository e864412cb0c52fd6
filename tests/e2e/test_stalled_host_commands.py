"""A real host that is stopped with commands of its agent in the link, until the agent gives up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from hbtrio.errors import UserError
from hbtrio.nursery.agent.rounds import PATIENCE_S
from hbtrio.policy.begin_by import BEGIN_S, REPLY_S
from hbtrio.wire.operator import ActRequest, History, ProgressLine
from support.real_fleet import Fleet, open_fleet
from support.real_processes import until

pytestmark = pytest.mark.processes

UNKNOWN = "the outcome is unknown: compute-0 did not reply"
LATER = "compute-0 replied later: expired"


async def test_a_command_in_the_link_is_not_carried_out_once_its_requester_was_told(
    tmp_path: Path,
) -> None:
    """Neither what the VIM asked for nor what an operator did: no vote, no notice, no command."""
    ran = tmp_path / "ran"
    actions = {"stop": ["touch", str(ran)]}
    async with open_fleet("voter", "hearer", "actor", window_s=5, actions=actions) as fleet:
        voter, hearer, actor = fleet.vms
        asked = fleet.scene.script_lines.end
        host = fleet.scene.host
        assert host is not None
        headers = await moment_of(fleet)
        host.freeze()
        lost: list[str] = []
        local: list[tuple[int, str]] = []
        with trio.fail_after(60):
            vote, notice = fleet.begin(voter, "vote"), fleet.begin(hearer, "notify")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(act, fleet, actor.uuid, lost)
                nursery.start_soon(notify_here, fleet, actor.uuid, headers, local)
                await vote.over.wait()
                await notice.over.wait()
                # The VIM was told 503, the operator that the outcome is unknown.
                assert (vote.refusal, notice.refusal) == (UNKNOWN, UNKNOWN)
                await until(lambda: lost)
                assert lost == ["compute-0 did not reply"]
                host.thaw()
            # An operator's request lay in the control socket.
            [(status, reason)] = local
            assert status == 409
            assert reason.startswith("expired")
            await until_noted(fleet, 3)
            await fleet.link.received()
            await trio.sleep(0.5)  # whatever the host begins, it begins at once
        history = [entry for entry in await entries(fleet) if entry.note]
        told = {(one.kind, one.reason, one.note[: len(LATER)]) for one in history}
        assert told == {
            ("vote", UNKNOWN, LATER),
            ("notice", UNKNOWN, LATER),
            ("action", f"stop: {UNKNOWN}", LATER),
        }
        # One request, one outcome.
        rounds = [one for one in await entries(fleet) if one.kind in ("vote", "notice")]
        assert len(rounds) == 2
        assert fleet.scene.script_lines.since(asked) == []
        assert not ran.exists()
        assert [fleet.verdicts(vm) for vm in (voter, hearer)] == [[], []]
        assert await fleet.crashes() == 0


def test_the_agent_gives_up_after_the_last_moment_of_a_command() -> None:
    assert BEGIN_S + PATIENCE_S < REPLY_S + PATIENCE_S


async def act(fleet: Fleet, uuid: str, lost: list[str]) -> None:
    """An operator's stop, without a vote; its command leaves a file."""
    body = ActRequest(action="stop", force=True)
    async with fleet.operator() as client:
        try:
            async with client.lines("POST", f"/v1/instances/{uuid}/act", body) as lines:
                while (line := await lines.next(ProgressLine, 30)) is not None:
                    lost += [line.reason or ""] if line.step == "lost" else [line.step]
        except UserError as error:
            lost.append(str(error))


async def moment_of(fleet: Fleet) -> dict[str, str]:
    """The headers of a request to the host that is made now."""
    async with fleet.scene.client() as client:
        return await client._headers()


async def notify_here(
    fleet: Fleet, uuid: str, headers: dict[str, str], answers: list[tuple[int, str]]
) -> None:
    """A notice through the host's own control socket."""
    transport = httpx.AsyncHTTPTransport(uds=str(fleet.scene.control_socket), verify=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://h", timeout=30) as http:
        path = f"/v1/instances/{uuid}/notify"
        answer = await http.post(path, json={"event": "stop"}, headers=headers)
        answers.append((answer.status_code, answer.json()["reason"]))


async def entries(fleet: Fleet) -> tuple[Any, ...]:
    async with fleet.operator() as client:
        return (await client.history("limit=100", History)).history


async def until_noted(fleet: Fleet, count: int) -> None:
    await until(lambda: fleet.read("SELECT count(*) FROM history WHERE note <> ''")[0][0] >= count)
