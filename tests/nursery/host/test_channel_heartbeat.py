"""Challenges, misses, losses and ill health of a running host, with exact times."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from hbtrio.config.host import HeartbeatSettings
from hbtrio.fsm.heartbeat.table import HeartbeatState
from hbtrio.nursery.pacer import SHARED, SLOT_S
from hbtrio.wire.channel_messages import OFFERED, Challenge, InitAck
from hbtrio.wire.vocabulary import CorrectiveAction, Health
from support.host_world import FIRST_ID, HostWorld, Received, ScriptedGuest, host_world, now

pytestmark = pytest.mark.usefixtures("autojump_clock")


def logged(caplog: pytest.LogCaptureFixture, guest: ScriptedGuest) -> list[str]:
    head = f"{guest.uuid}: "
    return [
        record.getMessage().removeprefix(head)
        for record in caplog.records
        if record.name == "hbtrio.channel" and record.getMessage().startswith(head)
    ]


@pytest.fixture(autouse=True)
def _log_everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "hbtrio.channel")


async def silent_from(world: HostWorld, time_s: float, **init: Any) -> ScriptedGuest:
    """A guest that beats, and from that time on does not answer."""
    guest = await world.heartbeating(**init)
    await world.at(time_s)
    guest.answers_after_s = None
    return guest


# -- loss -----------------------------------------------------------------------------------


async def test_loss_three_intervals_after_the_last_answered_challenge(
    caplog: pytest.LogCaptureFixture, world: HostWorld
) -> None:
    guest = await silent_from(world, 4.5)
    beat = world.channel(guest).heartbeat
    await world.at(6.999)
    assert world.reports(since=2) == []
    assert (beat.state, beat.missed) == (HeartbeatState.HEARTBEATING, 1)
    await world.at(7.0)
    assert world.reports(since=2) == [(7.0, "loss", "reboot", "no answer for 3 s")]
    assert (beat.state, beat.missed) == (HeartbeatState.LOST, 2)
    assert guest.challenged_at(since=4) == [4.0, 5.0, 6.0]
    assert logged(caplog, guest) == ["heartbeat missed"]
    assert f"{guest.uuid}: heartbeat missed" in caplog.messages
    assert world.host.heartbeating == 0


@pytest.mark.parametrize("interval_ms", [400, 499, 1000, 1234, 2500, 10_000, 60_000])
async def test_loss_at_most_20_ms_after_three_intervals(interval_ms: int, world: HostWorld) -> None:
    interval_s = interval_ms / 1000
    guest = await silent_from(world, 1 + 4.5 * interval_s, heartbeat_interval_ms=interval_ms)
    answered = guest.challenged_at()[-1]
    await world.sleep(4 * interval_s)
    ((lost, *_),) = world.reports(since=1.1)
    assert isinstance(lost, float)
    # Beats are kept on a grid: the last answered one was sent up to a slot after its time too.
    assert abs(lost - answered - 3 * interval_s) <= SLOT_S + 1e-6


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(0.06, 3), min_size=1, max_size=6),
    st.sampled_from([400, 700, 1000, 1700]),
    st.floats(0, 5),
)
def test_loss_whenever_a_guest_came_and_however_beats_are_packed(
    pauses: list[float], interval_ms: int, silent_after: float
) -> None:
    interval_s = interval_ms / 1000

    async def main() -> None:
        async with host_world() as world:
            guests = []
            for pause in pauses:
                await world.sleep(pause)
                guests.append(world.guest(heartbeat_interval_ms=interval_ms).appear())
            await world.sleep(silent_after)
            for guest in guests:
                guest.answers_after_s = None
            answered = [guest.challenged_at()[-1] for guest in guests]
            await world.sleep(4 * interval_s)
            for guest, answered_s in zip(guests, answered, strict=True):
                lost = world.reports(guest)[-1]
                assert lost[1:] == ("loss", "reboot", f"no answer for {3 * interval_s:g} s")
                assert isinstance(lost[0], float)
                # A beat may come earlier than the interval, to share a slot; its answer has time.
                assert 2 * interval_s <= lost[0] - answered_s <= 3 * interval_s + SLOT_S + 1e-6

    trio.run(main, clock=MockClock(autojump_threshold=0))


@pytest.mark.parametrize("threshold", [0, 1, 2, 5])
async def test_more_misses_in_a_row_than_the_threshold_are_a_loss(threshold: int) -> None:
    settings = HeartbeatSettings(failure_threshold=threshold)
    async with host_world(heartbeat=settings) as world:
        await silent_from(world, 4.5)
        lost_at = 4.0 + threshold + 2
        await world.at(lost_at - 0.001)
        assert world.reports(since=2) == []
        await world.at(lost_at)
        why = f"no answer for {threshold + 2} s"
        assert world.reports(since=2) == [(lost_at, "loss", "reboot", why)]


@pytest.mark.parametrize(
    ("answered_at", "lost"),
    # The first of two challenges in a row; the second of them; at the very end; too late.
    [(5.999, False), (6.0, False), (6.5, False), (6.999, False), (7.001, True)],
)
async def test_an_answer_before_the_end_prevents_it(
    answered_at: float, lost: bool, world: HostWorld
) -> None:
    guest = await silent_from(world, 4.5)
    world.after(answered_at - now(), lambda: guest.answer_challenge())
    world.after(answered_at - now(), setattr, guest, "answers_after_s", 0.0)
    await world.at(30)
    expected = [(7.0, "loss", "reboot", "no answer for 3 s")] if lost else []
    assert world.reports(since=2) == expected


async def test_one_miss_between_answers_is_no_loss(
    caplog: pytest.LogCaptureFixture, world: HostWorld
) -> None:
    guest = await world.heartbeating()
    for second in range(2, 20, 2):
        await world.at(second - 0.5)
        guest.answers_after_s = None
        await world.at(second + 0.5)
        guest.answers_after_s = 0.0
    await world.at(25)
    assert world.reports(since=2) == []
    assert world.channel(guest).heartbeat.missed == 9
    assert logged(caplog, guest) == ["heartbeat missed"] * 9


async def test_a_lost_instance_is_reported_once_and_left_alone(world: HostWorld) -> None:
    guest = await silent_from(world, 4.5)
    guest.sends_init = False
    await world.at(1000)
    assert len(world.reports(since=2)) == 1
    assert guest.challenged_at(since=6.5) == []


async def test_a_lost_instance_comes_back_with_init(world: HostWorld) -> None:
    guest = await silent_from(world, 4.5)
    await world.at(9.25)
    guest.answers_after_s = 0.0
    guest.send_init()
    await world.at(20)
    assert world.reports(since=8) == [(9.25, "heartbeating", "back after no answer for 3 s")]
    assert world.host.heartbeating == 1


async def test_the_loss_names_what_the_guest_advertised(world: HostWorld) -> None:
    await silent_from(world, 4.5, corrective_action=CorrectiveAction.STOP)
    await world.at(8)
    assert world.reports(since=2) == [(7.0, "loss", "stop", "no answer for 3 s")]


async def test_with_reporting_off_misses_only_stop_it(world: HostWorld) -> None:
    guest = await world.heartbeating()
    world.channel(guest).heartbeat.situation.reporting = False
    await world.at(4.5)
    guest.answers_after_s = None
    await world.at(20)
    assert world.reports(since=2) == [(7.0, "stopped", "no answer for 3 s; reporting is off")]
    assert world.channel(guest).heartbeat.state is HeartbeatState.LOST


async def test_shutdown_before_the_loss(world: HostWorld) -> None:
    await silent_from(world, 4.5)
    await world.at(6.99)
    await world.stop_host()
    assert world.reports(since=2) == [(6.99, "stopped", "the host closed it")]


# -- answers --------------------------------------------------------------------------------


async def test_a_wrong_echo_is_no_answer(world: HostWorld) -> None:
    guest = await silent_from(world, 4.5)
    for second in (5.2, 6.2):
        await world.at(second)
        guest.answer_challenge((guest.challenges[-1].heartbeat_challenge + 1) % 2**31)
    await world.at(7.0)
    assert world.reports(since=2) == [(7.0, "loss", "reboot", "no answer for 3 s")]


async def test_a_late_answer_is_logged_and_is_no_answer(
    caplog: pytest.LogCaptureFixture, world: HostWorld
) -> None:
    guest = await silent_from(world, 4.5)
    await world.at(6.25)
    guest.answer_challenge(guest.challenges[-2].heartbeat_challenge)
    await world.at(7.0)
    assert world.reports(since=2) == [(7.0, "loss", "reboot", "no answer for 3 s")]
    assert logged(caplog, guest) == [
        "heartbeat missed",
        "late answer, 1.250 s after its challenge",
    ]
    assert world.channel(guest).heartbeat.late_answers == 1


async def test_a_second_answer_counts_for_nothing(world: HostWorld) -> None:
    guest = await world.heartbeating()
    await world.at(4.5)
    for _ in range(5):
        guest.answer_challenge()
    await world.settle()
    assert world.channel(guest).heartbeat.beats == 4


async def test_stopped_for_12_s_all_its_answers_come_at_once() -> None:
    # A reconnect would have come; this guest was lost, and its burst must not confuse anybody.
    settings = HeartbeatSettings(failure_threshold=20)
    async with host_world(heartbeat=settings) as world:
        guest = await silent_from(world, 4.5)
        await world.at(16.5)
        for challenge in guest.challenges[4:]:
            guest.answer_challenge(challenge.heartbeat_challenge)
        guest.answers_after_s = 0.0
        await world.at(60)
        beat = world.channel(guest).heartbeat
        assert world.reports(since=2) == []
        assert (beat.missed, beat.late_answers) == (11, 1)
        assert len(guest.challenges) == 60


async def test_init_while_heartbeating_restarts_the_handshake_at_once(world: HostWorld) -> None:
    guest = await world.heartbeating()
    await world.at(4.3)
    guest.send_init(heartbeat_interval_ms=500, restart_secs=60)
    await world.at(5.5)
    assert [(h.time_s, type(h.message)) for h in guest.received_since(since=4.2)] == [
        (4.3, InitAck),
        (4.3, Challenge),
        (4.8, Challenge),
        (5.3, Challenge),
    ]
    assert world.reports(since=2) == []
    assert world.channel(guest).heartbeat.profile.restart_s == 60


async def test_a_guest_that_starts_over_and_then_falls_silent_is_lost(world: HostWorld) -> None:
    guest = await silent_from(world, 4.5)
    guest.send_init()
    await world.settle()
    assert guest.received_since(since=4.2)[0] == Received(4.5, InitAck(FIRST_ID, OFFERED))
    await world.at(10)
    ((lost, *words),) = world.reports(since=2)
    assert words[0] == "loss"
    assert lost == 6.5


async def test_init_again_and_again_does_not_hide_the_silence(world: HostWorld) -> None:
    guest = await silent_from(world, 4.5)
    for number in range(20):
        world.after(0.25 * number, guest.send_init)
    await world.at(10)
    assert [told[1] for told in world.reports(since=2)] == ["loss"]


# -- ill health -----------------------------------------------------------------------------


async def test_ill_health_is_reported_with_the_answer_and_once(world: HostWorld) -> None:
    guest = await world.heartbeating()
    guest.answers_after_s = 0.25
    guest.health, guest.log_msg = Health.UNHEALTHY, "disk full"
    await world.at(30)
    assert world.reports(since=2) == [(2.25, "unhealthy", "reboot", "disk full")]
    beat = world.channel(guest).heartbeat
    assert (beat.health, beat.health_reason) == (Health.UNHEALTHY, "disk full")
    assert beat.state is HeartbeatState.HEARTBEATING


@pytest.mark.parametrize("action", list(CorrectiveAction))
async def test_only_actions_other_than_none_and_unknown_are_reported(
    action: CorrectiveAction, world: HostWorld
) -> None:
    guest = await world.heartbeating()
    guest.health, guest.action, guest.log_msg = Health.UNHEALTHY, action, "ill"
    await world.at(3.5)
    expected = [(2.0, "unhealthy", str(action), "ill")] if action.is_actionable else []
    assert world.reports(since=1.5) == expected


async def test_a_guests_repetition_after_60_s_is_reported_again(world: HostWorld) -> None:
    guest = await world.heartbeating()
    guest.health, guest.log_msg = Health.UNHEALTHY, "ill"
    await world.at(2.5)
    guest.action = CorrectiveAction.NONE
    await world.at(61.5)
    guest.action = CorrectiveAction.REBOOT
    await world.at(62.5)
    guest.action = CorrectiveAction.NONE
    await world.at(70)
    assert [told[:2] for told in world.reports(since=1.5)] == [
        (2.0, "unhealthy"),
        (62.0, "unhealthy"),
    ]


async def test_healthy_answers_carry_an_action_that_means_nothing(world: HostWorld) -> None:
    guest = await world.heartbeating(corrective_action=CorrectiveAction.STOP)
    guest.action, guest.log_msg = CorrectiveAction.STOP, "all is well"
    await world.at(10)
    assert world.reports(since=1.5) == []
    assert world.channel(guest).heartbeat.health_reason == ""


async def test_with_reporting_off_ill_health_is_not_reported(
    caplog: pytest.LogCaptureFixture, world: HostWorld
) -> None:
    guest = await world.heartbeating()
    world.channel(guest).heartbeat.situation.reporting = False
    guest.health = Health.UNHEALTHY
    await world.at(10)
    assert world.reports(since=1.5) == []
    assert logged(caplog, guest) == ["unhealthy, but reporting is off"]


# -- the process itself late ----------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("frozen_s", [0.85, 1.5, 3.0, 5.0, 30.0, 600.0])
async def test_a_frozen_host_loses_nobody(
    frozen_s: float, autojump_clock: MockClock, world: HostWorld
) -> None:
    guests = await world.all_heartbeating(300)
    await world.at(4.5)
    autojump_clock.jump(frozen_s)
    await world.at(4.5 + frozen_s + 10)
    assert world.reports(since=2) == []
    assert world.host.heartbeating == 300
    assert world.host.guard.late_ticks == (1 if frozen_s > 1 else 0)
    for guest in guests:
        beat = world.channel(guest).heartbeat
        assert (beat.missed, beat.late_answers) == (0, 0)


@pytest.mark.slow
async def test_answers_that_wait_to_be_read_are_read_before_a_miss_counts(
    autojump_clock: MockClock, world: HostWorld
) -> None:
    # Late, but less than the 800 ms for which a whole process counts as late.
    guests = await world.all_heartbeating(300)
    await world.at(4.5)
    for guest in guests:
        guest.answers_after_s = None
    await world.at(5.9)
    for guest in guests:
        guest.answer_challenge()
        guest.answers_after_s = 0.0
    autojump_clock.jump(0.5)
    await world.at(20)
    assert world.reports(since=2) == []
    assert world.host.guard.late_ticks == 0
    for guest in guests:
        beat = world.channel(guest).heartbeat
        assert (beat.missed, beat.late_answers) == (0, 0)


@pytest.mark.slow
async def test_answers_sent_while_the_host_was_frozen(
    autojump_clock: MockClock, world: HostWorld
) -> None:
    # The challenge of 5.0 is answered at 5.0 + 0.7, in the middle of the freeze.
    guests = await world.all_heartbeating(300)
    for guest in guests:
        guest.answers_after_s = 0.7
    await world.at(5.5)
    autojump_clock.jump(20)
    await world.at(40)
    assert world.reports(since=2) == []
    assert world.host.heartbeating == 300


@pytest.mark.parametrize("missed", [0, 1])
async def test_a_guest_that_died_during_a_freeze_is_lost_after_it(
    missed: int, autojump_clock: MockClock, world: HostWorld
) -> None:
    guest = await silent_from(world, 4.5)
    await world.at(5.5 + missed)
    assert world.channel(guest).heartbeat.missed == missed
    autojump_clock.jump(20)
    # Late until 27.5 (28.5): what was missed until then does not count, nor what was before.
    thawed = 25.5 + missed
    await world.at(thawed + 2.999)
    assert world.reports(since=2) == []
    await world.at(thawed + 3)
    assert world.reports(since=2) == [(thawed + 3, "loss", "reboot", "no answer for 3 s")]
    assert world.channel(guest).heartbeat.missed == missed + 2
    since = guest.challenged_at(since=thawed)
    assert since == [thawed, thawed + 1, thawed + 2]


async def test_a_host_that_freezes_again_and_again_still_beats(
    autojump_clock: MockClock, world: HostWorld
) -> None:
    await world.all_heartbeating(50)
    for _ in range(20):
        await world.sleep(0.5)
        autojump_clock.jump(1.7)
    await world.sleep(0.1)
    assert world.reports(since=2) == []
    assert world.host.heartbeating == 50
    assert world.host.guard.late_ticks == 20


# -- packed slots ---------------------------------------------------------------------------


async def test_a_hundred_guests_share_few_wakeups(world: HostWorld) -> None:
    guests = []
    for _ in range(100):
        guests.append(await world.heartbeating())
        await world.sleep(0.037)
    await world.sleep(2)
    start = now()
    await world.sleep(1)
    times = [guest.challenged_at(since=start) for guest in guests]
    assert all(len(beats) == 1 for beats in times)
    slots = {beats[0] for beats in times}
    assert len(slots) == 2
    largest = max(sum(beats[0] == slot for beats in times) for slot in slots)
    assert largest == SHARED
    assert world.reports(since=start) == []


async def test_an_aligned_beat_comes_earlier_never_later(world: HostWorld) -> None:
    first = await world.heartbeating()
    await world.at(3.3)
    second = world.guest().appear()
    await world.at(7.5)
    assert first.challenged_at() == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    assert second.challenged_at() == [3.3, 4.0, 5.0, 6.0, 7.0]


async def test_the_answer_to_a_challenge_before_an_aligned_beat_has_its_whole_interval(
    world: HostWorld,
) -> None:
    await world.heartbeating()
    await world.at(3.3)
    second = world.guest()
    second.answers_after_s = 0.95
    second.appear()
    await world.at(20)
    assert world.channel(second).heartbeat.missed == 0
    assert second.challenged_at()[:3] == [3.3, 4.3, 5.3]
