"""Hostile hosts and clients at a real agent: the others lose no link and no verdict."""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Final

import attrs
import pytest
import trio

from hbtrio.log.limits import PLACE_RATE, RARE_RATE
from support.guest_farm import module_environment
from support.hostile_links import WELCOME, name_of
from support.real_agent import RealAgent, real_agent
from support.real_processes import descriptors, resident_mib, until
from support.scripted_host import INSTANCE, ScriptedHost
from support.tenant_texts import hostile_in

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.usefixtures("home")]

_HOSTS: Final = 10
_SECONDS: Final = float(os.environ.get("HBTRIO_HOSTILE_S", "12"))

#: What all the attackers' connections, and the instances they make up, may take; 7 were seen.
_MORE_MIB: Final = 60

#: Lines of one place in the source.
_AT_ONCE: Final = PLACE_RATE.burst + RARE_RATE.burst
_A_MINUTE: Final = PLACE_RATE.per_minute + RARE_RATE.per_minute

#: What differs between two lines of one place in the source.
_OWN: Final = re.compile(r"^\S+ \S+ |[0-9a-f]{8}-[0-9a-f-]{27}|evil[a-z-]*|:.*$|\d+")


def uuids(number: int) -> tuple[str, str]:
    return f"aaaaaaaa-0000-4000-8000-{number:012x}", f"bbbbbbbb-0000-4000-8000-{number:012x}"


async def test_hosts_and_clients_that_mean_no_good(tmp_path: Path) -> None:
    async with real_agent(tmp_path) as agent:
        hosts = [await _introduced(agent, number) for number in range(_HOSTS)]
        memory, files = resident_mib(agent.daemon.pid), descriptors(agent.daemon.pid)
        votes = 0
        attack = await trio.lowlevel.open_process(
            [
                *(sys.executable, "-m", "support.hostile_links"),
                *(str(tmp_path / "link"), str(agent.vim_port), str(agent.operator_port)),
            ],
            env=module_environment(),
        )
        try:
            await until(lambda: name_of("reports") in agent.log)
            began = trio.current_time()
            while trio.current_time() - began < _SECONDS:
                await _vote(agent, votes % _HOSTS, votes // _HOSTS + 1)
                votes += 1
            status = await agent.operate("GET", "/v1/status")
            grown = resident_mib(agent.daemon.pid) - memory
            assert attack.poll() is None
        finally:
            attack.kill()
            await attack.wait()
        assert status["agent"]["crashes"] == 0
        verdicts = [one["event-data"]["guest-response"] for one in agent.vim.patches("action")]
        assert verdicts == ["allow"] * votes
        assert all(host.up for host in hosts)
        assert grown <= _MORE_MIB
        # The VIM's connections come and go.
        await until(lambda: descriptors(agent.daemon.pid) <= files + 2)
        log = agent.log
        assert not any(f"{host.hello.hostname}: link ended" in log for host in hosts)
        await agent.daemon.stop()
    lines = Counter(_OWN.sub("", line) for line in log.splitlines())
    assert lines.most_common(1)[0][1] <= _AT_ONCE + _A_MINUTE * _SECONDS / 60
    assert {kind for kind in WELCOME if name_of(kind) not in log} == set()
    assert "connection refused" in log
    assert {char for line in log.splitlines() for char in hostile_in(line)} == set()
    assert "Traceback" not in agent.log


async def _introduced(agent: RealAgent, number: int) -> ScriptedHost:
    vm, uuid = uuids(number)
    name = f"good-{number}"
    instance = attrs.evolve(INSTANCE, uuid=vm)
    host = await agent.host(ScriptedHost(name, uuid, instances=(instance,)))
    about = {"uuid": uuid, "hostname": name}
    assert (await agent.ask("POST", f"/v1/hosts/{uuid}", about)).status == 200
    about = {"uuid": vm, "hostname": name, "services": ["heartbeat"]}
    assert (await agent.ask("POST", f"/v1/instances/{vm}", about)).status == 200
    return host


async def _vote(agent: RealAgent, number: int, count: int) -> None:
    """The VIM asks, and gets its verdict."""
    vm, _ = uuids(number)
    about = {"uuid": vm, "hostname": f"good-{number}", "action": "stop"}
    answer = await agent.ask("POST", f"/v1/instances/{vm}/vote", about)
    assert answer.status == 200, answer.raw
    await until(lambda: sum(one["uuid"] == vm for one in agent.vim.patches("action")) >= count)
