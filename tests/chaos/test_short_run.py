"""A short run of real daemons: some faults, a vote and a notice, and no violation."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos import judge
from chaos.fleet import ChaosFleet
from chaos.run import run
from hbtrio.simulate.fault_kinds import Kind
from hbtrio.simulate.observations import AGENT, CarriedOut, Decided, RejectArrived, Struck, Verdict
from hbtrio.simulate.schedule import Fault, Schedule

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("home")]

#: The agent is stopped over the reject of the first VM's guest, the host is killed later.
FAULTS = (
    Fault(at_s=0.5, kind=Kind.STOP_AGENT, for_s=1.5),
    Fault(at_s=3.0, kind=Kind.HANG_VM, who=1),
    Fault(at_s=7.0, kind=Kind.KILL_HOST, for_s=0.2),
    Fault(at_s=7.0, kind=Kind.VIM_DOWN, for_s=1.0),
)


async def ask_for_a_vote(fleet: ChaosFleet) -> None:
    vm = fleet.vm(0)
    vm.draws_answers = False
    vm.guest.will("revocable", "stop", after_s=1, status=1, says="busy")
    for one in fleet.vms.values():
        await fleet.vim.add_instance(one.uuid, one.name, one.last.name)
    assert (await fleet.vim.vote(vm.uuid, "stop")).response == "reject"


async def test_a_short_run(tmp_path: Path) -> None:
    await run(Schedule(1, 0.2, 2, 1, FAULTS), tmp_path, ask_for_a_vote)
    judgement, lateness = judge.judge_kept(tmp_path)
    assert judgement.result.violations == (), "\n".join(judge.lines(judgement, lateness))
    seen = judge.read(tmp_path / judge.OBSERVATIONS)
    assert {one.kind for one in seen if isinstance(one, Struck)} == {one.kind for one in FAULTS}
    [verdict] = [one for one in seen if isinstance(one, Verdict)]
    assert verdict.result == "reject"
    assert any(isinstance(one, CarriedOut) for one in seen)
    # Each knows it as the same request.
    for kind, process in ((Decided, "compute-0"), (RejectArrived, "compute-0"), (Decided, AGENT)):
        assert any(
            isinstance(one, kind) and one.process == process and one.request == verdict.request
            for one in seen
        ), (kind, process)
    for name in ("agent", "compute-0", "vm0", "vm1"):
        assert (tmp_path / f"{name}.log").exists()
