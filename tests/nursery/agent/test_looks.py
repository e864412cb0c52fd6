"""An operator looks at an instance: how often its host is asked, and what if it is silent."""

from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from hbtrio.net.link_session import SessionEnded
from hbtrio.nursery.agent.looks import FRESH_S, LOOK_S, MOST, Looks, NotSeen
from hbtrio.wire.link_looks import Look, Seen

pytestmark = pytest.mark.usefixtures("autojump_clock")


class Host:
    """A host that answers looks after a while, or never."""

    def __init__(self, answers_after_s: float = 0.0) -> None:
        self.asked: list[str] = []
        self.answers_after_s = answers_after_s
        self.over = False
        self.looks = Looks("compute-0", self._send, supported=True)

    async def _send(self, look: Look) -> None:
        if self.over:
            raise SessionEnded("the link is closed")
        self.asked.append(look.uuid)
        if self.answers_after_s == 0.0:
            self.answer(look.uuid)

    def answer(self, uuid: str, beats: int = 1) -> None:
        self.looks.answered(Seen(uuid, known=True, beats=beats))


async def test_it_returns_what_the_host_sees() -> None:
    host = Host()
    assert await host.looks.look("u-1") == Seen("u-1", known=True, beats=1)
    assert host.asked == ["u-1"]


async def test_a_second_look_is_answered_from_the_first_for_a_second() -> None:
    host = Host()
    await host.looks.look("u-1")
    await trio.sleep(FRESH_S - 0.001)
    host.answers_after_s = 9.0
    assert (await host.looks.look("u-1")).beats == 1
    assert host.asked == ["u-1"]
    await trio.sleep(0.001)
    host.answers_after_s = 0.0
    await host.looks.look("u-1")
    assert host.asked == ["u-1", "u-1"]


async def test_all_who_look_at_once_wait_for_one_answer() -> None:
    host = Host(answers_after_s=1.0)
    seen: list[Seen] = []

    async def look() -> None:
        seen.append(await host.looks.look("u-1"))

    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(look)
        await trio.sleep(LOOK_S - 0.001)
        host.answer("u-1", beats=7)
    assert [one.beats for one in seen] == [7] * 50
    assert host.asked == ["u-1"]


async def test_a_silent_host_is_waited_for_two_seconds_and_then_asked_again() -> None:
    host = Host(answers_after_s=9.0)
    began = trio.current_time()
    with pytest.raises(NotSeen, match=r"^compute-0 did not answer within 2 s$"):
        await host.looks.look("u-1")
    assert trio.current_time() - began == LOOK_S
    with pytest.raises(NotSeen):
        await host.looks.look("u-1")
    assert host.asked == ["u-1", "u-1"]


async def test_a_client_that_went_away_has_not_asked_in_vain() -> None:
    host = Host(answers_after_s=9.0)
    with trio.move_on_after(0.5):
        await host.looks.look("u-1")
    host.answer("u-1", beats=3)
    assert (await host.looks.look("u-1")).beats == 3
    assert host.asked == ["u-1"]


async def test_a_host_that_reads_nothing_holds_up_nobody() -> None:
    async def send(_: Look) -> None:
        await trio.sleep_forever()

    looks = Looks("compute-0", send, supported=True)
    began = trio.current_time()
    with pytest.raises(NotSeen, match="did not answer within 2 s"):
        await looks.look("u-1")
    assert trio.current_time() - began == LOOK_S


async def test_an_older_host_is_not_asked() -> None:
    asked: list[Look] = []

    async def send(look: Look) -> None:
        asked.append(look)

    with pytest.raises(NotSeen, match="runs an older version"):
        await Looks("compute-0", send, supported=False).look("u-1")
    assert asked == []


async def test_a_host_is_asked_about_so_many_instances_at_a_time() -> None:
    host = Host()
    for number in range(MOST):
        await host.looks.look(f"u-{number}")
    with pytest.raises(NotSeen, match=f"^{MOST} instances of compute-0 are looked at already$"):
        await host.looks.look("u-more")
    await host.looks.look("u-0")  # one of them
    assert len(host.asked) == MOST
    await trio.sleep(FRESH_S)
    await host.looks.look("u-more")


async def test_the_end_of_the_link_ends_the_wait() -> None:
    host = Host(answers_after_s=9.0)
    faults: list[str] = []

    async def look() -> None:
        try:
            await host.looks.look("u-1")
        except NotSeen as fault:
            faults.append(str(fault))

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(look)
        await wait_all_tasks_blocked()
        host.looks.end()
    assert faults == ["the link to compute-0 is gone"]
    assert trio.current_time() == began


async def test_after_the_end_of_the_link_nothing_is_asked() -> None:
    host = Host()
    host.over = True
    with pytest.raises(NotSeen, match=r"^the link to compute-0 is gone$"):
        await host.looks.look("u-1")


async def test_an_answer_to_no_question_is_ignored() -> None:
    host = Host()
    host.answer("u-1", beats=9)
    assert (await host.looks.look("u-1")).beats == 1
