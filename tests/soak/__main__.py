"""Runs an agent, a host and guests as real processes and shows whether they leak.

Each round has votes and notices that the VIM asks for, a status that an operator asks for, audits,
a killed guest, and votes during which the agent, the host or a guest is stopped; every third has a
lost link. After each round, when nothing is in progress, it takes a sample of each process that has
run since the beginning: descriptors, threads and RSS.

A vote or notice has its verdict at the VIM, or a line in the agent's history that says why there is
none, see :mod:`soak.missing`.

Flat is: beside the first quarter of the samples, which is warming up, the smallest number of
descriptors and of threads in the last quarter is not above that of the second, and the median RSS
of the last quarter is at most 3 % and 1 MiB above that of the second.

``SOAK_S`` is how long it runs, in seconds, 1800 by default. The exit status is 1 unless all is flat
and no verdict is missing without a reason.
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
from soak.missing import NEWEST, SINCE, Line, why_missing
from support.real_fleet import HOST_UUID, HOSTNAME, Fleet, Question, open_fleet
from support.real_processes import SOON_S, descriptors, until

DEFAULT_S: Final = 1800

#: The first of them is killed in each round, so it is not sampled.
GUESTS: Final = ("killed", "vm-1", "vm-2", "vm-3")

WINDOW_S: Final = 2
AUDIT_S: Final = 10
STALL_S: Final = 1.0

#: How long an event script takes, so that its vote is open when a process is stopped.
THINKS_S: Final = 0.5

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
        self.asked = 0
        #: Missing verdicts with a reason, and what is known of those without.
        self.explained = 0
        self.unexplained: list[str] = []
        self._stalled = "nobody"
        self._fleet = fleet
        self._killed, *self._lasting = fleet.vms
        for vm in self._lasting:
            (vm.directory / "think").write_text(str(THINKS_S))

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
            await self._fleet.link.down()
            self._fleet.link.up()
        await self._fleet.ready()
        await trio.sleep(QUIET_S)
        for name, daemon in self._daemons().items():
            self.samples.setdefault(name, []).append(Sample.of(daemon.pid))
        self.rounds += 1
        self._fleet.vim.received.clear()  # it keeps the last ones only, which would spoil counting

    async def _ask(self, vm: LabGuest) -> None:
        for verb in ("vote", "notify"):
            since = self._newest()
            question = self._fleet.begin(vm, verb)
            await question.over.wait()
            await self._verdict_of(question, since)

    def _newest(self) -> int:
        [(newest,)] = self._fleet.read(NEWEST)
        return int(newest)

    async def _verdict_of(self, question: Question, since: int) -> None:
        """Waits for the verdict, or for a line of the history since then which says why not."""
        vm, told = question.vm, question.refusal or question.seconds
        assert told is not None, "the VIM got no reply"
        kind = "vote" if question.verb == "vote" else "notice"
        self.asked += 1
        why = None
        with trio.move_on_after((question.seconds or 0) + SOON_S) as patience:
            while why is None and len(self._fleet.verdicts(vm)) <= question.since:
                await trio.sleep(0.05)
                lines = (Line(*row) for row in self._fleet.read(SINCE, vm.uuid, since))
                why = why_missing(vm.uuid, kind, told, lines)
        what = f"{kind} of {vm.name}, told {told!r}, {self._stalled} was stopped last"
        if why is not None:
            self.explained += 1
            print(f"no verdict: {what}: {why}", flush=True)
        elif patience.cancelled_caught:
            known = self._fleet.rows(vm)[question.row :]
            self.unexplained.append(f"{what}: {known} {self._fleet.read(SINCE, vm.uuid, since)}")

    async def _operate(self) -> None:
        url = f"unix:{self._fleet.scene.directory}/agent.sock"
        async with CtlClient(Address.parse(url)) as client:
            status = await client.status(dict)
        assert status["agent"]["crashes"] == 0
        assert (await self._fleet.scene.status())["host"]["crashes"] == 0

    async def _kill(self) -> None:
        await self._killed.kill()
        before = self._killed.log.stat().st_size
        await self._killed.start()
        # The host has no event of it if the guest is back before it has missed three beats.
        await until(lambda: b"event=init-ack" in self._killed.log.read_bytes()[before:])

    async def _stall(self) -> None:
        """Stops one process after the other while votes are open."""
        since = self._newest()
        questions = [self._fleet.begin(vm, "vote") for vm in self._lasting]
        for question in questions:
            await question.over.wait()
        daemons = list(self._daemons().items())
        self._stalled, daemon = daemons[self.rounds % len(daemons)]
        daemon.freeze()
        await trio.sleep(STALL_S)
        daemon.thaw()
        async with trio.open_nursery() as nursery:
            for question in questions:
                nursery.start_soon(self._verdict_of, question, since)


async def _main(seconds: float) -> int:
    async with open_fleet(*GUESTS, window_s=WINDOW_S, audit_s=AUDIT_S) as fleet:
        # Else the next audit finds that the VIM has none.
        service = {"service": "heartbeat", "state": "enabled"}
        fleet.vim.instances[HOST_UUID] = [
            {"uuid": vm.uuid, "hostname": HOSTNAME, "services": [service]} for vm in fleet.vms
        ]
        soak = Soak(fleet)
        start = trio.current_time()
        end = start + seconds
        while trio.current_time() < end or soak.rounds < FEWEST:
            began = trio.current_time()
            try:
                await soak.round()
            except BaseException:
                print(fleet.logs())
                raise
            now = [
                f"{name} {one[-1].descriptors} {one[-1].threads} {one[-1].rss_kib}"
                for name, one in soak.samples.items()
            ]
            passed_s, round_s = trio.current_time() - start, trio.current_time() - began
            print(f"{passed_s / 60:5.2f} min {round_s:5.1f} s  " + "   ".join(now), flush=True)
    found = [fault for name, one in soak.samples.items() for fault in faults(name, one)]
    print(
        f"{soak.rounds} rounds, {soak.asked} votes and notices,"
        f" {soak.explained} verdicts missing with a reason, {len(soak.unexplained)} without"
    )
    print("\n".join(found) or "flat")
    for what in soak.unexplained:
        print(f"missing without a reason: {what}")
    return 1 if found or soak.unexplained else 0


if __name__ == "__main__":
    print("since the start, the round, and of each process: descriptors, threads, RSS in KiB")
    sys.exit(trio.run(_main, float(os.environ.get("SOAK_S", DEFAULT_S))))
