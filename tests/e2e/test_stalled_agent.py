"""A real agent that is stopped over the end of a vote, with the host's reject in its socket."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest
import trio

from hbtrio.policy.allowances import MARGIN_S
from hbtrio.wire.vocabulary import VoteResult
from support.real_agent import RealAgent, real_agent
from support.rounds_cases import agrees_s
from support.scripted_host import HOST_UUID, HOSTNAME, INSTANCE, VM, ScriptedHost

pytestmark = pytest.mark.processes

#: Votes for each length of the stop. An agent that let the order of its tasks decide got half of
#: them wrong.
VOTES = 5

WINDOW_S = 1

#: How long after the moment at which it would have decided the agent goes on.
AFTER_S = 0.06


@pytest.mark.parametrize("stopped_s", [0.1, 0.6])
async def test_it_never_tells_the_vim_allow(stopped_s: float, home: Path) -> None:
    async with real_agent(home) as agent:
        host = ScriptedHost(instances=(attrs.evolve(INSTANCE, vote_s=WINDOW_S),))
        host.silent()
        await introduce(agent, host)
        told: list[tuple[str, str]] = []
        expected: list[tuple[str, str]] = []
        with trio.fail_after(60):
            while len(expected) < VOTES:
                before = len(agent.vim.patches("action"))
                reason = f"busy {len(expected)}"
                if await stop_over_the_end(agent, host, reason, stopped_s):
                    told += [verdict(body) for body in agent.vim.patches("action")[before:]]
                    expected.append(("reject", reason))
        # One that was read too late for the VIM is not sent: the VIM has agreed by itself.
        assert [one for one in told if one not in expected] == []
        assert told
        history = (await agent.operate("GET", "/v1/history?limit=100"))["history"]
        kept = {(one["result"], one["reason"]) for one in history if one["kind"] == "vote"}
        assert set(expected) <= kept
        assert await agent.daemon.stop() == 0


async def introduce(agent: RealAgent, host: ScriptedHost) -> None:
    """The VIM tells of the host and its instance."""
    await agent.host(host)
    about = {"uuid": HOST_UUID, "hostname": HOSTNAME}
    assert (await agent.ask("POST", f"/v1/hosts/{HOST_UUID}", about)).status == 200
    about = {"uuid": VM, "hostname": HOSTNAME, "services": ["heartbeat"]}
    assert (await agent.ask("POST", f"/v1/instances/{VM}", about)).status == 200


async def stop_over_the_end(
    agent: RealAgent, host: ScriptedHost, reason: str, stopped_s: float
) -> bool:
    """One vote; whether the agent was stopped before it could decide.

    Not where this process came too late itself: then nobody knows what the agent knew.
    """
    decides_at = trio.current_time() + agrees_s(WINDOW_S)  # not before
    ask = {"uuid": VM, "hostname": HOSTNAME, "action": "stop"}
    assert (await agent.ask("POST", f"/v1/instances/{VM}/vote", ask)).json["timeout"] == "4"
    await trio.sleep_until(decides_at + AFTER_S - stopped_s)
    agent.daemon.freeze()
    in_time = trio.current_time() < decides_at
    await host.outcome(host.commands[-1], VoteResult.REJECT, reason)
    await trio.sleep(stopped_s)
    agent.daemon.thaw()
    await trio.sleep_until(decides_at + MARGIN_S + 0.3)
    return in_time


def verdict(body: dict[str, object]) -> tuple[str, str]:
    data = body["event-data"]
    assert isinstance(data, dict)
    return data["guest-response"], data["reason"]
