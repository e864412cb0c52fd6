"""Runs an agent, a host and guests as real processes and shows whether they leak.

Each round has votes and notices that the VIM asks for, a status and a history that an operator asks
for, audits, a killed guest, a lost link, and a stall of the host, of the agent or of a guest. After
each round, when nothing is in progress, it takes a sample of each process that has run since the
beginning: descriptors, threads and RSS.

Flat is: beside the first quarter of the samples, which is warming up, the smallest number of
descriptors and of threads in the last quarter is not above that of the second, and the median RSS
of the last quarter is at most 3 % and 1 MiB above that of the second.

``SOAK_S`` is how long it runs, in seconds, 1800 by default. The exit status is 1 unless all is
flat.
"""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import attrs
import trio

from hbtrio.client.address import Address
from hbtrio.client.client import CtlClient
from hbtrio.lab.daemon import Daemon
from hbtrio.lab.guest import LabGuest
from hbtrio.lab.scene import event
from support.real_fleet import HOST_UUID, HOSTNAME, Fleet, open_fleet
from support.real_processes import SOON_S, descriptors

DEFAULT_S: Final = 1800

#: The first of them is killed in each round, so it is not sampled.
GUESTS: Final = ("killed", "vm-1", "vm-2", "vm-3")

WINDOW_S: Final = 2
AUDIT_S: Final = 10
STALL_S: Final = 1.0

#: After this long without a request nothing is in progress, and idle connections are closed.
QUIET_S: Final = 1.0

#: Samples that the criterion needs.
FEWEST: Final = 8


@attrs.frozen
class Sample:
    """What a process has."""

    descriptors: int
    threads: int
    rss_kib: int

    @classmethod
    def of(cls, pid: int) -> Sample:
        """Reads it from /proc."""
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        status = {key: value for key, _, value in (line.partition(":") for line in lines)}
        rss_kib = int(status["VmRSS"].split()[0])
        return cls(descriptors(pid), int(status["Threads"]), rss_kib)


def faults(name: str, samples: Sequence[Sample]) -> list[str]:
    """Says what of a process is not flat."""
    quarter = len(samples) // 4
    second, last = samples[quarter : 2 * quarter], samples[-quarter:]
    found = []
    for what in ("descriptors", "threads"):
        before, after = (min(getattr(one, what) for one in part) for part in (second, last))
        if after > before:
            found.append(f"{name}: {what} rose from {before} to {after}")
    before, after = (statistics.median(one.rss_kib for one in part) for part in (second, last))
    if after > 1.03 * before + 1024:
        found.append(f"{name}: RSS rose from {before:.0f} to {after:.0f} KiB")
    return found


class Soak:
    """The rounds and their samples."""

    def __init__(self, fleet: Fleet) -> None:
        self.samples: dict[str, list[Sample]] = {}
        self.rounds = 0
        #: Votes and notices of which the VIM got no verdict in time, as on an overloaded machine.
        self.without_verdict = 0
        self._fleet = fleet
        self._killed, *self._lasting = fleet.vms

    def _daemons(self) -> dict[str, Daemon]:
        fleet = self._fleet
        assert fleet.agent is not None
        assert fleet.scene.host is not None
        daemons = {"agent": fleet.agent, "host": fleet.scene.host}
        for vm in self._lasting:
            assert vm.daemon is not None
            daemons[vm.name] = vm.daemon
        return daemons

    async def round(self) -> None:
        """Makes one round, and takes the samples at its end."""
        async with trio.open_nursery() as nursery:
            for vm in self._lasting:
                nursery.start_soon(self._ask, vm)
            nursery.start_soon(self._operate)
            nursery.start_soon(self._kill)
        await self._stall()
        if self.rounds % 3 == 0:
            await self._cut_link()
        await trio.sleep(QUIET_S)
        for name, daemon in self._daemons().items():
            self.samples.setdefault(name, []).append(Sample.of(daemon.pid))
        self.rounds += 1
        self._fleet.vim.received.clear()  # it keeps the last ones only, which would spoil counting

    async def _ask(self, vm: LabGuest) -> None:
        for verb in ("vote", "notify"):
            question = self._fleet.begin(vm, verb)
            await question.over.wait()
            assert not question.refusal, question.refusal
            with trio.move_on_after(question.seconds or SOON_S) as patience:
                while len(self._fleet.verdicts(vm)) <= question.since:  # noqa: ASYNC110
                    await trio.sleep(0.02)
            # The VIM has decided by itself: nothing is sent after the time that it was told.
            self.without_verdict += patience.cancelled_caught

    async def _operate(self) -> None:
        url = f"unix:{self._fleet.scene.directory}/agent.sock"
        async with CtlClient(Address.parse(url)) as client:
            status = await client.status(dict)
        assert status["agent"]["crashes"] == 0
        assert (await self._fleet.scene.status())["host"]["crashes"] == 0

    async def _kill(self) -> None:
        since = self._fleet.scene.events.end
        await self._killed.kill()
        await self._killed.start()
        heartbeating = event("heartbeating", self._killed)
        await self._fleet.scene.events.wait_for(heartbeating, within_s=SOON_S, since=since)

    async def _stall(self) -> None:
        daemon = list(self._daemons().values())[self.rounds % len(self._daemons())]
        daemon.freeze()
        await trio.sleep(STALL_S)
        daemon.thaw()

    async def _cut_link(self) -> None:
        await self._fleet.link.down()
        self._fleet.link.up()
        await self._fleet.ready()


async def _main(seconds: float) -> int:
    async with open_fleet(*GUESTS, window_s=WINDOW_S, audit_s=AUDIT_S) as fleet:
        # Else the next audit finds that the VIM has none.
        service = {"service": "heartbeat", "state": "enabled"}
        fleet.vim.instances[HOST_UUID] = [
            {"uuid": vm.uuid, "hostname": HOSTNAME, "services": [service]} for vm in fleet.vms
        ]
        soak = Soak(fleet)
        end = trio.current_time() + seconds
        while trio.current_time() < end or soak.rounds < FEWEST:
            began = trio.current_time()
            await soak.round()
            now = [
                f"{name} {one[-1].descriptors} {one[-1].threads} {one[-1].rss_kib}"
                for name, one in soak.samples.items()
            ]
            print(f"{trio.current_time() - began:5.1f} s  " + "   ".join(now), flush=True)
    found = [fault for name, one in soak.samples.items() for fault in faults(name, one)]
    print(f"{soak.rounds} rounds, {soak.without_verdict} verdicts missing")
    print("\n".join(found) or "flat")
    return 1 if found else 0


if __name__ == "__main__":
    print("each process: descriptors, threads, RSS in KiB")
    sys.exit(trio.run(_main, float(os.environ.get("SOAK_S", DEFAULT_S))))
