"""`hbtrio ctl` at a plain host: the brake, who owns an instance, why nothing is done, refusals."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from hbtrio.config.host import BrakeSettings, CorrectiveCommands
from hbtrio.errors import ExitStatus
from hbtrio.nursery.host.memory import HostMemory
from hbtrio.wire.vocabulary import ActionName, Event
from support.agent_api_cases import ME
from support.control_socket import Ctl, Served, call, served
from support.ctl_cases import fault_of
from support.fake_processes import FakeRun
from support.host_world import HostWorld, ScriptedGuest, host_world, uuid_of
from support.memory_store import MemoryStore, memory_store

pytestmark = pytest.mark.usefixtures("autojump_clock")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[MemoryStore]:
    with memory_store(tmp_path) as made:
        yield made


def runs(argv: Sequence[str]) -> FakeRun:
    return FakeRun(delay_s=20.0) if argv[0] in ("reset", "slow") else FakeRun()


@asynccontextmanager
async def host_with_api(
    memory: HostMemory | None = None, share: float = 1.0
) -> AsyncIterator[tuple[HostWorld, Served]]:
    async with (
        host_world(
            corrective_commands=CorrectiveCommands(reboot=("reset", "{uuid}")),
            brake=BrakeSettings(share=share),
            runs=runs,
            memory=memory,
        ) as world,
        served(world.host) as api,
    ):
        yield world, api


def falls_silent(guest: ScriptedGuest) -> None:
    guest.answers_after_s, guest.sends_init = None, False


def cells(called: Ctl, guest: ScriptedGuest, *heads: str) -> list[str]:
    """The cells of a guest's row below these heads."""
    table = called.lines[called.lines.index("") + 1 :]
    columns = table[0].split("  ")
    starts = [table[0].index(head) for head in filter(None, columns)]
    [row] = [line for line in table if line.startswith(guest.uuid)]
    found = []
    for head in heads:
        start = table[0].index(head)
        end = min((one for one in starts if one > start), default=None)
        found.append(row[start:end].strip())
    return found


def reset(world: HostWorld) -> list[str]:
    return [moment.argv[1] for moment in world.processes.started if moment.argv[0] == "reset"]


async def test_an_operator_releases_the_brake(store: MemoryStore) -> None:
    async with host_with_api(store.memory(), share=0.5) as (world, api):
        guests = await world.all_heartbeating(4)
        closed = "the brake is closed: no command runs; `hbtrio ctl brake release` opens it"
        assert closed not in (await call(api.path, "status")).lines
        await world.at(4.5)
        for guest in guests:
            falls_silent(guest)
        await world.at(30)
        shown = await call(api.path, "status")
        assert closed in shown.lines
        assert cells(shown, guests[0], "NOT ACTED") == ["brake: too many instances failed at once"]
        released = await call(api.path, "brake", "release")
        assert released.lines == ["compute-0: corrective commands run again"]
        assert released.status == ExitStatus.DONE
        assert closed not in (await call(api.path, "status")).lines
        await world.at(60)
        assert sorted(reset(world)) == [guest.uuid for guest in guests]
        history = await call(api.path, "history")
        assert any(
            line.endswith(f"compute-0 action by {ME}: release: corrective commands run again")
            for line in history.lines
        )


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (("brake", "release"), "the brake is not closed: no corrective command is held back"),
        (("alarms", "send", "compute-0"), "a host holds no alarms back; its agent does (--url)"),
        (("alarms", "withdraw", "x"), "a host holds no alarms back; its agent does (--url)"),
    ],
)
async def test_nothing_to_release(words: tuple[str, ...], fault: str) -> None:
    async with host_with_api() as (_, api):
        assert await fault_of(api.path, *words) == (fault, ExitStatus.FAILED)


async def test_a_release_that_comes_too_late_releases_nothing() -> None:
    async with host_with_api(share=0.5) as (world, api):
        for guest in await world.all_heartbeating(4):
            falls_silent(guest)
        await world.at(30)
        async with api.client() as http:
            headers = {"hbtrio-begin-by": "1 boot-1"}
            answer = await http.post("/v1/brake/release", headers=headers)
        assert answer.status_code == 409
        assert answer.json()["reason"].startswith("expired")
        assert world.host.corrective.brake.closed


async def test_status_shows_the_owner_and_what_was_not_done() -> None:
    async with host_with_api() as (world, api):
        guest, other = await world.all_heartbeating(2)
        shown = await call(api.path, "status")
        assert "OWNER" not in shown.text
        assert "NOT ACTED" not in shown.text
        await world.at(2)
        await world.vim_vote(guest, Event.REBOOT)
        await world.at(4.5)
        falls_silent(guest)
        await world.at(20)
        shown = await call(api.path, "status")
        assert cells(shown, guest, "OWNER", "NOT ACTED") == [
            "an announced event (reboot)",
            "owner: an announced event (reboot) is in progress",
        ]
        assert cells(shown, other, "OWNER", "NOT ACTED") == ["-", "-"]


async def test_an_action_takes_over(store: MemoryStore) -> None:
    async with host_with_api(store.memory()) as (world, api):
        guest = await world.heartbeating()
        await world.at(4.5)
        falls_silent(guest)
        await world.at(10)
        assert reset(world) == [guest.uuid]
        words = ("act", guest.uuid, "stop", "--force", "--take-over", "--", "stop-it")
        world.after(5, guest.vanish)
        called = await call(api.path, *words)
        assert called.status == ExitStatus.DONE
        assert trio.current_time() < 20
        assert [moment.argv[0] for moment in world.processes.cancelled] == ["reset"]
        await world.sleep(5)  # written together
        history = (await call(api.path, "history", guest.uuid)).text
        request = "stop: asked, without its vote, ending a corrective command (reboot)"
        assert f"action by {ME}: {request}" in history
        assert "corrective [reboot]" in history


async def test_what_is_refused_is_in_the_history(store: MemoryStore) -> None:
    async with host_with_api(store.memory()) as (world, api):
        guest = await world.heartbeating()
        await world.act(guest, ActionName.UNPAUSE, "slow")
        refused = [
            ("act", guest.uuid, "stop", "--", "x"),
            ("vote", guest.uuid, "stop"),
            ("vote", uuid_of(77), "pause"),
            ("notify", uuid_of(77), "resume"),
            ("act", uuid_of(77), "stop", "--", "x"),
        ]
        faults = [await fault_of(api.path, *words) for words in refused]
        assert {status for _, status in faults} == {ExitStatus.FAILED}
        texts = [text for text, _ in faults]
        await world.sleep(5)
        lines = [
            line.partition(" compute-0 ")[2] for line in (await call(api.path, "history")).lines
        ]
        assert lines[-5:] == [
            f"action by {ME}: stop: refused: {texts[0]}",
            f"vote stop error by {ME}: refused: {texts[1]}",
            f"vote pause error by {ME}: refused: {texts[2]}",
            f"notice resume error by {ME}: refused: {texts[3]}",
            f"action by {ME}: stop: refused: {texts[4]}",
        ]
