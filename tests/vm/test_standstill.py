"""A VM that stands still: paused, suspended, reset; with and without a word before."""

from __future__ import annotations

import pytest
import trio

from hbtrio.wire.channel_messages import (
    MAX_ID,
    ActionNotify,
    ActionResponse,
    Challenge,
    ChallengeResponse,
    Init,
    InitAck,
    Message,
)
from hbtrio.wire.vocabulary import Event, NotificationType
from vm.bed import Supply, open_bed
from vm.machine import BOOT_S, CHANNELS, COMMAND_S, Hardware, Transport
from vm.raw_host import RawHost
from vm.words import FOUND, LOST, MISSED, RECOVERED, RELEASED

pytestmark = pytest.mark.vm

LONGER_THAN_LOSS_S = 4.0

#: How soon after its thaw a VM has to be heartbeating for an orchestrator that waits for that.
BACK_WITHIN_S = 8.0


def around(event: str, end: str) -> list[list[tuple[str, str]]]:
    """What may be reported: it is back with its thaw or with the end notice, whichever is first."""
    return [
        [
            ("vote", ""),
            ("notice", ""),
            ("stopped", f"{event} is in progress"),
            ("heartbeating", f"back after {back}"),
            ("notice", ""),
        ]
        for back in (event, f"{end} was sent")
    ]


async def test_paused_with_notices_is_no_loss(supply: Supply) -> None:
    async with open_bed(supply) as bed:
        vm = await bed.resume()
        since = bed.now
        assert await bed.vote(vm, "pause") == ("accept", "")
        assert await bed.notify(vm, "pause") == ("complete", "")
        await vm.qmp("stop")
        await trio.sleep(LONGER_THAN_LOSS_S)
        await vm.qmp("cont")
        assert await bed.notify(vm, "unpause") == ("complete", "")
        await bed.beats(vm, 3)
        assert bed.events(vm, since) in around("pause", "unpause")
        # Its clocks stood still too.
        await vm.changed(*FOUND)


async def test_it_is_back_before_anybody_says_that_it_runs(supply: Supply) -> None:
    async with open_bed(supply) as bed:
        vm = await bed.resume()
        since = bed.now
        assert await bed.notify(vm, "pause") == ("complete", "")
        await vm.qmp("stop")
        await trio.sleep(10.0)
        await vm.qmp("cont")
        await bed.event("heartbeating", vm, since=since, within_s=BACK_WITHIN_S)
        assert bed.events(vm, since) == [
            ("notice", ""),
            ("stopped", "pause is in progress"),
            ("heartbeating", "back after pause"),
        ]
        assert await bed.notify(vm, "unpause") == ("complete", "")
        await vm.changed(*FOUND)


async def test_paused_without_notices_is_a_loss_and_recovers(supply: Supply) -> None:
    async with open_bed(supply) as bed:
        vm = await bed.resume()
        since = bed.now
        await vm.qmp("stop")
        await bed.event("loss", vm, since=since)
        await vm.qmp("cont")
        await bed.event("heartbeating", vm, since=since)
        await bed.beats(vm, 3)
        assert bed.events(vm, since) == [LOST, RECOVERED]
        await vm.changed(*FOUND, *MISSED)


@pytest.mark.parametrize("transport", CHANNELS)
async def test_reset_with_a_notice_is_no_loss(supply: Supply, transport: Transport) -> None:
    async with open_bed(supply) as bed:
        vm = await bed.heartbeating(transport)
        await vm.said("event=init-ack.")
        boots = vm.console.count("init: up")
        since = bed.now
        assert await bed.vote(vm, "reboot") == ("accept", "")
        assert await bed.notify(vm, "reboot") == ("complete", "")
        await vm.qmp("system_reset")
        restarting = await bed.until(vm, lambda one: one["restart_remaining_s"])
        assert (restarting["state"], restarting["connected"]) == ("restarting", True)
        await bed.event("heartbeating", vm, since=since, within_s=BOOT_S)
        await bed.beats(vm, 3)
        assert bed.events(vm, since) == [
            ("vote", ""),
            ("notice", ""),
            ("stopped", "reboot is in progress"),
            ("heartbeating", "back after reboot"),
        ]
        assert vm.console.count("init: up") == boots + 1
        await vm.changed(*(FOUND if transport is Transport.VIRTIO else RELEASED), *RELEASED)


@pytest.mark.parametrize("transport", CHANNELS)
async def test_reset_without_a_word_is_a_loss_and_recovers(
    supply: Supply, transport: Transport
) -> None:
    async with open_bed(supply) as bed:
        vm = await bed.heartbeating(transport)
        await vm.said("event=init-ack.")
        since = bed.now
        await vm.qmp("system_reset")
        await bed.event("loss", vm, since=since)
        await bed.event("heartbeating", vm, since=since, within_s=BOOT_S)
        await bed.beats(vm, 3)
        assert bed.events(vm, since) == [LOST, RECOVERED]
        await vm.changed(*(FOUND if transport is Transport.VIRTIO else RELEASED), *RELEASED)


async def test_what_was_said_during_a_reset_is_no_beat(supply: Supply) -> None:
    """The socket stays open: what came meanwhile is read when the port is opened."""
    async with open_bed(supply, host=False) as bed:
        vm = await bed.start(Hardware(incoming=supply.booted))
        async with await trio.open_unix_socket(str(vm.channel)) as stream:
            host = RawHost(stream)
            await acknowledge(await host.hear(), host)
            await host.say(Challenge(1))
            assert number_of(await host.hear()) == 1
            await vm.said("event=init-ack.")
            await vm.qmp("system_reset")
            await vm.qmp.event("RESET", COMMAND_S)
            heard: list[Message] = []
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask_on, host)
                # A guest answers notices also when it is not enabled: so it has read of the others.
                while {type(message) for message in heard} < {Init, ActionResponse}:
                    heard.append(await host.hear(BOOT_S))
                nursery.cancel_scope.cancel()
            assert {type(message) for message in heard} == {Init, ActionResponse}
            await acknowledge(next(one for one in heard if isinstance(one, Init)), host)
            await host.say(Challenge(FRESH))
            while isinstance(answer := await host.hear(), ActionResponse):
                pass
            assert number_of(answer) == FRESH
            await vm.changed(*FOUND, *RELEASED)


#: No number of :func:`ask_on`.
FRESH = MAX_ID


async def acknowledge(init: Message, host: RawHost) -> None:
    """Answers a guest's init."""
    assert isinstance(init, Init)
    await host.say(InitAck(init.invocation_id))


async def ask_on(host: RawHost) -> None:
    """Sends challenges and notices until cancelled."""
    for number in range(2, FRESH):
        await host.say(Challenge(number))
        notice = ActionNotify(number, Event.STOP, NotificationType.IRREVOCABLE, 8000)
        await host.say(notice)
        await trio.sleep(0.1)


def number_of(answer: Message) -> int:
    """Which challenge it answers."""
    assert isinstance(answer, ChallengeResponse)
    return answer.heartbeat_response


async def test_suspended_to_memory_with_notices_is_no_loss(supply: Supply) -> None:
    async with open_bed(supply) as bed:
        vm = await bed.resume()
        since = bed.now
        assert await bed.vote(vm, "suspend") == ("accept", "")
        assert await bed.notify(vm, "suspend") == ("complete", "")
        await vm.sh("(sleep 0.2; echo mem >/sys/power/state) >/dev/null 2>&1 &")
        await vm.qmp.event("SUSPEND", COMMAND_S)
        await trio.sleep(LONGER_THAN_LOSS_S)
        await vm.qmp("system_wakeup")
        await vm.qmp.event("WAKEUP", COMMAND_S)
        assert await bed.notify(vm, "resume") == ("complete", "")
        await bed.beats(vm, 3)
        assert bed.events(vm, since) in around("suspend", "resume")
        await vm.changed(*FOUND)
