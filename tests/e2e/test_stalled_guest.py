"""A real guest that is stopped over the end of a vote, with the answer there when it goes on."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import trio

from hbtrio.lab.guest import LabGuest, write_script
from hbtrio.lab.scene import Scene, event, open_scene
from hbtrio.wire.vocabulary import VoteResult
from support.raw_application import RawApplication, init
from support.real_processes import SOON_S, hbtrio

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("home")]

#: Votes of each kind of voter. A guest that let the order of its tasks decide got half of an
#: application's answers wrong, and all of the script's.
VOTES = 4

#: The guest's own window in seconds; the host's is a second longer.
WINDOW_S = 1

#: When the guest is stopped and goes on, counted from the start of the script, in seconds.
STOPPED_AT_S, GOES_ON_AT_S = 0.75, 1.5

#: What the script does after it has said that it runs: it waits for its reason to reject.
REJECTS = 'read -r reason <go\necho "$reason"\nexit 1\n'


async def test_an_answer_that_came_meanwhile_is_the_answer() -> None:
    async with open_scene() as scene, trio.open_nursery() as nursery:
        await scene.start_host()
        vm = await scene.add_guest("vm")
        go = vm.directory / "go"
        os.mkfifo(go)
        says_so = vm.event_script.read_text().splitlines(keepends=True)[:3]
        write_script(vm.event_script, "".join(says_so) + REJECTS)
        vm.configure(VOTE=WINDOW_S)
        await vm.start()
        await scene.events.wait_for(event("heartbeating", vm), within_s=SOON_S)
        app = RawApplication.connect(
            vm.app_socket, nursery, init("web", vote_secs=1000, heartbeat_interval_ms=60_000)
        )

        async def script_answers(number: int) -> None:
            fd = os.open(go, os.O_WRONLY | os.O_NONBLOCK)  # the script has it open by now
            os.write(fd, f"script {number}\n".encode())
            os.close(fd)

        async def application_answers(number: int) -> None:
            app.answer(await app.asked(number), VoteResult.REJECT, f"application {number}")

        asked, judged = 0, 0
        with trio.fail_after(120):
            while judged < 2 * VOTES:
                asked += 1
                if judged < VOTES:
                    answer = partial(script_answers, asked)
                    reason = f"script {asked}"
                else:
                    answer = partial(application_answers, asked)
                    reason = f"web: application {asked}"
                since = scene.events.end
                nursery.start_soon(hbtrio, "ctl", "--url", scene.url, "vote", "vm", "stop")
                in_time = await stop_over_the_end(scene, vm, answer)
                vote = await scene.events.wait_for(event("vote", vm), since=since, within_s=SOON_S)
                if in_time:
                    judged += 1
                    assert (vote["result"], vote["reason"]) == ("reject", reason)
        app.crash()
        nursery.cancel_scope.cancel()


async def stop_over_the_end(
    scene: Scene, vm: LabGuest, answer: Callable[[], Awaitable[None]]
) -> bool:
    """Stops the guest over the end of its window; returns whether it was stopped in time.

    If this process was late itself, the guest may have decided before, or the host.
    """
    assert vm.daemon is not None
    since = scene.script_lines.end
    await scene.script_lines.wait_for(
        lambda words: words[0] == "handler", since=since, within_s=SOON_S
    )
    began_at = trio.current_time()
    await trio.sleep_until(began_at + STOPPED_AT_S)
    vm.daemon.freeze()
    stopped_at = trio.current_time()
    await answer()
    await trio.sleep_until(began_at + GOES_ON_AT_S)
    vm.daemon.thaw()
    went_on_at = trio.current_time()
    return stopped_at - began_at < WINDOW_S - 0.1 and went_on_at - began_at < GOES_ON_AT_S + 0.1
