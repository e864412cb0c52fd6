"""What libvirt reports of a VM, and what the heartbeat makes of it."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from hbtrio.fsm.domain import BOOTED, MIGRATED, DomainChange, Standing
from hbtrio.fsm.heartbeat.domain_changes import ENDS_S
from hbtrio.fsm.heartbeat.effects import (
    Absent,
    Effect,
    Heartbeating,
    Lost,
    Note,
    OpenRestart,
    Paused,
    RestartExpired,
    SendToGuest,
    Stopped,
    Suspected,
)
from hbtrio.fsm.heartbeat.presence import Presence
from hbtrio.fsm.heartbeat.table import HeartbeatState
from hbtrio.wire.channel_messages import Challenge
from hbtrio.wire.vocabulary import CorrectiveAction, Event, Health
from support.heartbeat_bench import HeartbeatBench

S = HeartbeatState
C = DomainChange
REBOOT = CorrectiveAction.REBOOT


def challenge(number: int) -> SendToGuest:
    return SendToGuest(Challenge(number))


def change(bench: HeartbeatBench, what: DomainChange, words: str = "") -> tuple[Effect, ...]:
    return bench.beat.domain.changed(what, words or what.value, bench.now)


def paused(words: str = "paused: user") -> HeartbeatBench:
    """Heartbeating until 0.25 s, paused at 0.5 s."""
    bench = HeartbeatBench().heartbeating()
    bench.expect(
        change(bench.at(0.5), C.PAUSED, words),
        [Paused(words)],
        state=S.PAUSED,
        reason=words,
        is_heartbeating=False,
        due=math.inf,
        owes_answer=False,
    )
    return bench


def restarting(event: Event = Event.REBOOT) -> HeartbeatBench:
    bench = HeartbeatBench().heartbeating()
    bench.skip(bench.beat.announced.notice_over(event, bench.now))
    return bench


def reset(at: float = 1.0) -> HeartbeatBench:
    bench = HeartbeatBench().heartbeating()
    bench.skip(bench.at(at).beat.domain.reset(at))
    assert bench.beat.state is S.RESTARTING
    return bench


# -- paused -------------------------------------------------------------------------------------


def test_a_paused_vm_is_neither_challenged_nor_lost() -> None:
    bench = paused()
    assert bench.run(100_000.0) == []
    assert bench.beat.state is S.PAUSED


def test_a_pause_in_a_silence_ends_it() -> None:
    """libvirt's word of a VM that stands still may come after the first miss."""
    bench = HeartbeatBench().heartbeating()
    bench.run(2.0)
    assert bench.beat.state is S.HEARTBEATING
    bench.skip(change(bench, C.PAUSED))
    assert [effect for _, effect in bench.run(500.0)] == []


def test_a_pause_because_of_a_fault_is_an_alarm() -> None:
    bench = HeartbeatBench().heartbeating()
    effects = bench.beat.domain.changed(C.PAUSED, "paused: I/O error", 0.5, is_alarming=True)
    assert effects == (Paused("paused: I/O error", is_alarming=True),)


def test_the_reason_of_a_pause_may_follow() -> None:
    bench = paused("paused")
    bench.expect(
        change(bench, C.PAUSED, "paused: saving"),
        [Paused("paused: saving")],
        reason="paused: saving",
    )
    bench.expect(change(bench, C.PAUSED, "paused: saving"), [])


def test_after_a_pause_the_first_answer_means_heartbeating() -> None:
    bench = paused()
    bench.run(100.0)
    bench.expect(
        change(bench, C.RESUMED),
        [OpenRestart(121.0), challenge(2)],
        state=S.RETURNING,
        reason="paused: user; it runs again",
        is_heartbeating=True,
        due=101.0,
        owes_answer=True,
    )
    bench.expect(
        bench.at(100.25).answer_challenge(),
        [Heartbeating("back after paused: user; it runs again")],
        state=S.HEARTBEATING,
        reason="answers challenges",
        beats=2,
        owes_answer=False,
    )


def test_a_hang_right_after_a_pause_is_a_loss() -> None:
    bench = paused()
    bench.run(100.0)
    bench.skip(change(bench, C.RESUMED))
    bench.run(220.0)
    assert bench.beat.state is S.RETURNING
    assert bench.at(221.0).beat.losses.restart_expired(221.0) == (
        RestartExpired("not back within 121 s"),
        Lost("not back within 121 s", REBOOT),
    )
    assert bench.beat.state is S.LOST


def test_a_guest_that_starts_over_in_a_pause_ends_it() -> None:
    """libvirt may have fallen silent: what answers runs."""
    bench = paused()
    bench.skip(bench.send_init())
    assert bench.beat.state is S.PAUSED
    assert bench.answer_challenge() == (Heartbeating("back after paused: user"),)
    assert bench.beat.state is S.HEARTBEATING


def test_a_pause_without_a_guest_is_shown_and_no_more() -> None:
    bench = HeartbeatBench()
    bench.skip(bench.open())
    bench.expect(
        change(bench, C.PAUSED, "paused"), [], state=S.PAUSED, reason="paused", due=math.inf
    )
    bench.skip(change(bench, C.RESUMED))
    assert bench.beat.state is S.WAITING


def test_a_pause_takes_nothing_of_the_restart_window() -> None:
    bench = restarting()
    bench.run(20.25)
    bench.skip(change(bench, C.PAUSED))
    assert bench.beat.expects_socket
    bench.run(520.25)
    assert change(bench, C.RESUMED) == (OpenRestart(101.0),)
    assert bench.beat.state is S.RESTARTING
    # A second pause does not start the window anew either.
    bench.run(540.25)
    bench.skip(change(bench, C.PAUSED))
    bench.run(600.25)
    assert change(bench, C.RESUMED) == (OpenRestart(81.0),)


def test_a_pause_after_a_pause_takes_nothing_of_the_window_either() -> None:
    bench = paused()
    bench.skip(change(bench, C.RESUMED))
    bench.run(60.5)
    bench.skip(change(bench, C.PAUSED))
    bench.run(500.0)
    assert change(bench, C.RESUMED)[0] == OpenRestart(61.0)


def test_a_vm_that_is_to_stop_may_be_paused_meanwhile() -> None:
    bench = HeartbeatBench().heartbeating()
    bench.skip(bench.beat.announced.notice_over(Event.STOP, bench.now))
    bench.skip(change(bench, C.PAUSED))
    assert change(bench, C.RESUMED) == ()
    assert (bench.beat.state, bench.beat.reason) == (S.SUSPENDED, "stop is in progress")


def test_an_announced_pause_ends_when_libvirt_says_so() -> None:
    """Before the end notice: the VIM sends that only once the instance is heartbeating."""
    bench = HeartbeatBench().heartbeating()
    bench.skip(bench.beat.announced.notice_over(Event.PAUSE, bench.now))
    bench.skip(change(bench.at(1.0), C.PAUSED, "paused: user"))
    bench.run(10.0)
    bench.skip(change(bench, C.RESUMED))
    bench.skip(bench.at(10.25).answer_challenge())
    assert bench.beat.state is S.HEARTBEATING
    assert bench.beat.announced.notice_opened(Event.UNPAUSE, 10.5) == ()
    assert [when for when, what in bench.run(60.0) if isinstance(what, Lost)] == [13.0]


def test_an_announced_pause_ends_even_if_its_beginning_was_not_seen() -> None:
    bench = HeartbeatBench().heartbeating()
    bench.skip(bench.beat.announced.notice_over(Event.PAUSE, bench.now))
    bench.run(10.0)
    bench.skip(change(bench, C.RESUMED))
    assert bench.beat.state is S.RETURNING
    assert bench.beat.reason == "pause is over: libvirt says that it runs"


# -- ended --------------------------------------------------------------------------------------


def test_what_was_ended_on_request_has_stopped() -> None:
    bench = HeartbeatBench().heartbeating()
    bench.expect(
        change(bench, C.STOPPED, "shut off: destroyed"),
        [Stopped("shut off: destroyed")],
        state=S.STOPPED,
        reason="shut off: destroyed",
        is_heartbeating=False,
        due=120.25,
    )
    bench.expect(change(bench, C.STOPPED, "shut off: shutdown"), [], reason="shut off: shutdown")
    assert not [effect for _, effect in bench.run(1000.0) if isinstance(effect, Lost)]


IN_SHUTDOWN = "in shutdown"
DESTROYED = "shut off: destroyed"


def ending(bench: HeartbeatBench | None = None) -> HeartbeatBench:
    """Its QEMU is told to end."""
    bench = HeartbeatBench().heartbeating() if bench is None else bench
    bench.expect(
        change(bench, C.ENDING, IN_SHUTDOWN),
        [Note("in shutdown: reported once libvirt says how it ended")],
        state=S.STOPPED,
        reason=IN_SHUTDOWN,
        is_heartbeating=False,
        due=bench.now + ENDS_S,
    )
    return bench


def ends(bench: HeartbeatBench, until: float) -> list[tuple[float, Effect]]:
    return [one for one in bench.run(until) if isinstance(one[1], Stopped | Lost)]


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("after_s", [0.1, ENDS_S - 0.1])
def test_an_end_is_reported_as_libvirt_says_in_the_end(closed: bool, after_s: float) -> None:
    bench = ending()
    began = bench.now
    if closed:
        bench.skip(bench.beat.closed("reset"))
    assert ends(bench, began + after_s) == []
    bench.expect(change(bench, C.STOPPED, DESTROYED), [Stopped(DESTROYED)], reason=DESTROYED)
    assert ends(bench, began + 100.0) == []
    assert bench.beat.removed("gone") == ()


@pytest.mark.parametrize("closed", [False, True])
def test_an_end_that_takes_long_is_reported_as_it_is_known(closed: bool) -> None:
    bench = ending()
    began = bench.now
    if closed:
        bench.skip(bench.beat.closed("reset"))
    assert ends(bench, began + 100.0) == [(began + ENDS_S, Stopped(IN_SHUTDOWN))]
    # Its reason is corrected in status, and reported once.
    bench.expect(change(bench, C.STOPPED, DESTROYED), [], reason=DESTROYED)
    assert bench.beat.removed("gone") == ()


def test_time_in_which_the_host_stood_still_is_not_libvirts() -> None:
    bench = ending()
    began = bench.now
    bench.beat.stood_still(20.0)
    assert ends(bench, began + 100.0) == [(began + ENDS_S + 20.0, Stopped(IN_SHUTDOWN))]


def test_a_failure_in_the_end_is_a_loss_alone() -> None:
    bench = ending()
    assert change(bench, C.FAILED, "shut off: failed") == (
        Lost("shut off: failed", REBOOT, "shut off: failed"),
    )


def test_an_end_of_which_no_more_is_known() -> None:
    assert ending().beat.removed("gone") == (Stopped(IN_SHUTDOWN),)
    assert change(ending(), C.STARTED, "running: booted") == (Stopped(IN_SHUTDOWN),)


def test_one_that_did_not_end_has_not_stopped() -> None:
    bench = ending()
    bench.skip(bench.send_init())
    assert bench.answer_challenge() == (Heartbeating("back after in shutdown"),)
    assert ends(bench, bench.now + 1.0) == []


def test_without_a_guest_an_end_is_not_reported() -> None:
    bench = HeartbeatBench()
    bench.expect(change(bench, C.ENDING, IN_SHUTDOWN), [], state=S.STOPPED, reason=IN_SHUTDOWN)
    assert ends(bench, bench.now + 100.0) == []
    assert change(bench, C.STOPPED, DESTROYED) == ()


def test_the_closed_socket_may_come_first() -> None:
    bench = HeartbeatBench().heartbeating()
    bench.skip(bench.beat.closed("reset"))
    assert change(bench, C.STOPPED, "shut off: saved") == (Stopped("shut off: saved"),)


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("what", [C.FAILED, C.PANICKED])
def test_an_end_that_nobody_asked_for_is_a_loss_at_once(what: DomainChange, closed: bool) -> None:
    bench = HeartbeatBench().heartbeating()
    if closed:
        bench.skip(bench.beat.closed("reset"))
    assert change(bench, what, "shut off: failed") == (
        Lost("shut off: failed", REBOOT, "shut off: failed"),
    )
    assert bench.beat.state is S.LOST
    if not closed:
        # The end of the connection follows: it is no news, and no other state.
        bench.expect(bench.skip(bench.beat.closed("reset")), [])
        assert (bench.beat.state, bench.beat.reason) == (S.LOST, "shut off: failed")


def test_without_reporting_a_failure_is_no_loss() -> None:
    bench = HeartbeatBench().heartbeating()
    bench.beat.situation.reporting = False
    assert change(bench, C.FAILED) == (Stopped("failed; reporting is off"),)


def test_a_failure_after_a_loss_is_no_second_loss() -> None:
    bench = HeartbeatBench().heartbeating()
    bench.run(3.0)
    assert bench.beat.state is S.LOST
    assert change(bench, C.FAILED, "shut off: failed") == (
        Note("shut off: failed; it was lost before: no answer for 3 s"),
    )
    assert bench.beat.reason == "shut off: failed"


def test_without_a_guest_a_failure_is_only_an_end() -> None:
    bench = HeartbeatBench()
    bench.expect(change(bench, C.FAILED), [], state=S.STOPPED, reason="failed")


@pytest.mark.parametrize("what", [C.FAILED, C.PANICKED])
def test_a_failure_in_a_restart_or_a_pause_is_a_loss_too(what: DomainChange) -> None:
    for bench in (restarting(), reset(), paused()):
        assert [type(effect) for effect in change(bench, what)] == [Lost]


def test_a_restart_by_way_of_destroy_and_start_is_a_restart() -> None:
    bench = restarting()
    for what in (C.ENDING, C.STOPPED, C.STARTED, C.PAUSED):
        assert Lost not in map(type, bench.skip(change(bench.at(bench.now + 1), what)))
        assert bench.beat.expects_socket
    # It may have taken long to stop, and boots from the start on.
    assert change(bench.at(bench.now + 1), C.RESUMED) == (OpenRestart(120.0),)
    bench.skip(bench.send_init())
    assert bench.answer_challenge() == (Heartbeating("back after reboot"),)


def test_a_vm_that_is_started_again_and_again_in_a_restart_is_lost() -> None:
    bench = restarting()
    began = bench.now
    assert change(bench.at(began + 100.0), C.STARTED) == (OpenRestart(121.0),)
    assert change(bench.at(began + 200.0), C.STARTED) == (OpenRestart(121.0),)
    assert change(bench.at(began + 300.0), C.STARTED) == (OpenRestart(42.0),)
    bench.at(began + 342.0)
    assert Lost in map(type, bench.beat.losses.restart_expired(bench.now))


def test_an_end_while_a_restart_is_paused_goes_on_as_a_restart() -> None:
    bench = restarting()
    bench.skip(change(bench, C.PAUSED))
    assert change(bench.at(10.0), C.STOPPED) == (OpenRestart(121.0),)
    assert bench.beat.state is S.RESTARTING


@pytest.mark.parametrize("is_paused", [False, True])
def test_one_that_was_moved_while_it_restarts_is_not_expected_here(is_paused: bool) -> None:
    bench = restarting()
    if is_paused:
        bench.skip(change(bench, C.PAUSED, "paused: migrating"))
    bench.at(10.0)
    assert change(bench, C.STOPPED, MIGRATED) == (Stopped(MIGRATED),)
    assert bench.beat.state is S.STOPPED
    assert not bench.beat.is_expected_back
    assert not bench.beat.expects_socket
    assert not {type(effect) for _, effect in bench.run(400.0)} & {Lost, RestartExpired}
    # It may come back, as any other that has stopped.
    bench.skip(change(bench, C.STARTED))
    assert bench.beat.state is S.WAITING


def test_a_reset_that_nobody_announced_does_not_outlast_the_vm() -> None:
    bench = reset()
    bench.skip(change(bench, C.STOPPED))
    assert bench.beat.state is S.STOPPED


def test_a_new_process_knows_nothing_of_the_old_guest() -> None:
    bench = HeartbeatBench().heartbeating()
    bench.skip(change(bench, C.FAILED))
    bench.expect(
        change(bench, C.STARTED, "running: booted"),
        [],
        state=S.WAITING,
        reason="running: booted",
        due=120.25,
    )
    assert bench.beat.situation.presence is Presence.NONE
    assert bench.beat.domain.reset(1.0) == ()


def test_who_answers_belongs_to_the_new_process() -> None:
    """libvirt's answer may come after the guest's, if an event was lost."""
    bench = HeartbeatBench().heartbeating()
    bench.expect(change(bench, C.STARTED), [])


def test_a_suspend_that_saves_the_vm_ends_with_its_restoration() -> None:
    bench = HeartbeatBench().heartbeating()
    bench.skip(bench.beat.announced.notice_over(Event.SUSPEND, bench.now))
    bench.skip(change(bench, C.PAUSED, "paused: saving"))
    bench.skip(change(bench, C.STOPPED, "shut off: saved"))
    bench.skip(bench.beat.closed("reset"))
    bench.at(100.0)
    bench.skip(change(bench, C.STARTED, "running: restored"))
    assert bench.beat.state is S.RETURNING
    bench.skip(bench.open())
    bench.skip(bench.at(100.25).answer_challenge())
    assert bench.beat.state is S.HEARTBEATING


def test_a_suspended_vm_may_be_restored_by_way_of_a_pause() -> None:
    bench = HeartbeatBench().heartbeating()
    bench.skip(bench.beat.announced.notice_over(Event.SUSPEND, bench.now))
    bench.skip(change(bench, C.PAUSED))
    bench.skip(change(bench, C.STARTED))
    assert bench.beat.state is S.PAUSED
    bench.skip(change(bench, C.RESUMED))
    assert bench.beat.state is S.RETURNING


@pytest.mark.parametrize("ended", [True, False])
@pytest.mark.parametrize("by_way_of_a_pause", [True, False])
def test_a_suspended_vm_that_is_started_anew_has_another_guest(
    *, ended: bool, by_way_of_a_pause: bool
) -> None:
    """Its guest is not that which was suspended, and need not be there at all."""
    bench = HeartbeatBench().heartbeating()
    bench.skip(bench.beat.announced.notice_over(Event.SUSPEND, bench.now))
    if ended:
        bench.skip(change(bench, C.STOPPED, "shut off: destroyed"))
    if by_way_of_a_pause:
        bench.skip(change(bench, C.STARTED, "paused: starting up"))
        bench.skip(change(bench, C.PAUSED, "paused: starting up"))
        bench.skip(change(bench, C.RESUMED, BOOTED))
    else:
        bench.skip(change(bench, C.STARTED, BOOTED))
    assert (bench.beat.state, bench.beat.situation.presence) == (S.WAITING, Presence.NONE)
    assert not bench.beat.is_expected_back


# -- reset --------------------------------------------------------------------------------------


def test_a_reset_opens_the_restart_window() -> None:
    bench = HeartbeatBench().heartbeating()
    bench.expect(
        bench.beat.domain.reset(1.0),
        [Stopped("reset is in progress"), OpenRestart(121.0)],
        state=S.RESTARTING,
        reason="reset is in progress",
    )


def test_restarted_after_a_crash_it_has_the_restart_window() -> None:
    bench = HeartbeatBench().heartbeating()
    assert change(bench, C.RESTARTED, "running: crashed") == (
        Stopped("running: crashed is in progress"),
        OpenRestart(121.0),
    )


def test_five_events_of_one_reset_are_one_reset() -> None:
    bench = reset(1.0)
    for _ in range(4):
        assert bench.at(bench.now + 0.02).beat.domain.reset(bench.now) == (OpenRestart(121.0),)
    assert bench.beat.state is S.RESTARTING


def test_a_boot_loop_ends_as_a_loss() -> None:
    bench = reset(1.0)
    assert bench.at(100.0).beat.domain.reset(100.0) == (OpenRestart(121.0),)
    # The window can't be opened beyond 2 x RESTART after the first reset.
    (window,) = bench.at(200.0).beat.domain.reset(200.0)
    assert window == OpenRestart(43.0)
    why = "not back within 242 s: it was reset again and again"
    assert bench.at(243.0).beat.losses.restart_expired(243.0) == (
        RestartExpired(why),
        Lost(why, REBOOT),
    )
    # Further resets are no news of one that is lost in a boot loop.
    assert bench.at(250.0).beat.domain.reset(250.0) == ()
    assert bench.beat.state is S.LOST


def test_an_answer_ends_the_count_of_resets() -> None:
    bench = reset(1.0)
    bench.skip(bench.at(100.0).send_init())
    bench.skip(bench.answer_challenge())
    bench.skip(bench.at(200.0).beat.domain.reset(200.0))
    assert bench.at(300.0).beat.domain.reset(300.0) == (OpenRestart(121.0),)


def test_an_answer_before_the_guest_goes_down_ends_it_too() -> None:
    bench = reset(1.0)
    bench.skip(bench.at(100.0).beat.tick(100.0, late=False))
    bench.skip(bench.answer_challenge())
    assert bench.beat.state is S.RESTARTING
    bench.skip(bench.beat.domain.reset(100.0))
    assert bench.at(200.0).beat.domain.reset(200.0) == (OpenRestart(121.0),)


def test_a_restart_by_hbtrio_starts_the_count_anew() -> None:
    bench = reset(1.0)
    bench.skip(bench.at(120.0).beat.announced.restarts("reboot", 120.0))
    assert bench.at(200.0).beat.domain.reset(200.0) == (OpenRestart(121.0),)
    assert bench.at(300.0).beat.domain.reset(300.0) == (OpenRestart(121.0),)
    assert bench.at(400.0).beat.domain.reset(400.0) == (OpenRestart(42.0),)


def test_resets_by_the_command_of_a_restart_do_not_count() -> None:
    bench = restarting()
    bench.beat.announced.performing(Event.REBOOT)
    for at in (50.0, 100.0, 200.0, 300.0):
        assert bench.at(at).beat.domain.reset(at) == (OpenRestart(121.0),)
    bench.beat.announced.carried_out(Event.REBOOT, 310.0)
    assert bench.at(320.0).beat.domain.reset(320.0) == (OpenRestart(121.0),)
    assert bench.at(540.0).beat.domain.reset(540.0) == (OpenRestart(22.0),)


def test_time_in_which_this_host_did_not_run_is_no_part_of_a_boot_loop() -> None:
    bench = reset(1.0)
    bench.beat.stood_still(100.0)
    assert bench.at(300.0).beat.domain.reset(300.0) == (OpenRestart(43.0),)


def test_a_reset_in_a_pause_counts_from_its_end() -> None:
    """``virsh dump --reset`` resets a VM that stands still."""
    bench = paused()
    assert bench.beat.domain.reset(1.0) == ()
    assert bench.beat.state is S.PAUSED
    assert change(bench.at(51.0), C.RESUMED) == (OpenRestart(121.0),)
    assert bench.beat.state is S.RESTARTING


@pytest.mark.parametrize("ends", [C.STOPPED, C.FAILED])
def test_what_has_ended_was_not_reset(ends: DomainChange) -> None:
    bench = HeartbeatBench()
    bench.skip(change(bench, ends))
    assert bench.beat.domain.reset(1.0) == ()


# -- absent -------------------------------------------------------------------------------------


def test_a_reset_after_an_exit_ends_as_an_absence() -> None:
    """The service was stopped, or removed, before the VM was rebooted."""
    bench = HeartbeatBench().heartbeating()
    bench.skip(bench.send_exit())
    assert bench.beat.domain.reset(1.0) == (OpenRestart(121.0),)
    why = "its guest had exited, and is not back within 121 s"
    bench.at(122.0)
    assert bench.beat.losses.restart_expired(122.0) == (Absent(why),)
    assert (bench.beat.state, bench.beat.reason) == (S.ABSENT, why)
    bench.skip(bench.send_init())
    assert bench.answer_challenge() == (Heartbeating(f"back after {why}"),)


def test_an_exit_may_be_read_after_the_reset() -> None:
    bench = reset()
    bench.skip(bench.send_exit())
    assert [type(effect) for effect in bench.beat.losses.restart_expired(122.0)] == [Absent]


def test_an_init_after_the_exit_makes_it_a_loss_again() -> None:
    bench = HeartbeatBench().heartbeating()
    bench.skip(bench.send_exit())
    bench.skip(bench.beat.domain.reset(1.0))
    bench.skip(bench.at(50.0).send_init())
    bench.skip(bench.answer_challenge())
    bench.skip(bench.beat.domain.reset(60.0))
    assert Lost in map(type, bench.at(181.0).beat.losses.restart_expired(181.0))


def test_an_announced_restart_of_one_that_had_exited_before_is_over_without_a_loss() -> None:
    """It could not be told; whoever restarts it hears that it is not back."""
    bench = HeartbeatBench().heartbeating()
    bench.skip(bench.send_exit())
    bench.skip(bench.beat.announced.restarts("reboot", 1.0))
    assert bench.at(122.0).beat.losses.restart_expired(122.0) == (
        RestartExpired("not back within 121 s"),
    )


def test_an_announced_restart_is_a_loss_even_after_an_exit() -> None:
    bench = HeartbeatBench().heartbeating()
    bench.skip(bench.beat.announced.notice_opened(Event.REBOOT, bench.now))
    bench.skip(bench.send_exit())
    bench.skip(bench.beat.announced.notice_over(Event.REBOOT, bench.now))
    bench.skip(bench.beat.domain.reset(2.0))
    assert Lost in map(type, bench.at(123.0).beat.losses.restart_expired(123.0))


# -- suspected ----------------------------------------------------------------------------------


def suspected() -> HeartbeatBench:
    bench = HeartbeatBench()
    bench.beat.losses.are_confirmed = True
    bench.heartbeating()
    assert [effect for _, effect in bench.run(3.0)][-2:] == [
        Suspected("no answer for 3 s"),
        challenge(4),
    ]
    assert bench.beat.suspected
    assert bench.beat.state is S.HEARTBEATING
    return bench


@pytest.mark.parametrize(
    ("standing", "words", "why"),
    [
        (Standing.RUNNING, "running: booted", "no answer for 3 s"),
        (Standing.UNKNOWN, "no state", "no answer for 3 s"),
        (None, "libvirt unknown", "no answer for 3 s (libvirt unknown)"),
        (None, "", "no answer for 3 s"),
    ],
)
def test_a_silence_is_lost_once_libvirt_was_asked(
    standing: Standing | None, words: str, why: str
) -> None:
    bench = suspected()
    assert bench.beat.domain.confirmed(standing, words, 3.5) == (Lost(why, REBOOT, words),)
    assert bench.beat.state is S.LOST
    assert not bench.beat.suspected
    assert bench.beat.domain.confirmed(standing, words, 3.6) == ()


def test_it_is_asked_for_once_and_challenged_meanwhile() -> None:
    bench = suspected()
    came = [type(effect) for _, effect in bench.run(5.0)]
    assert came == [Note, SendToGuest, Note, SendToGuest]


@pytest.mark.parametrize(
    ("standing", "state"),
    [
        (Standing.PAUSED, S.PAUSED),
        (Standing.ENDING, S.STOPPED),
        (Standing.STOPPED, S.STOPPED),
        (Standing.FAILED, S.LOST),
        (Standing.PANICKED, S.LOST),
    ],
)
def test_the_answer_may_be_news(standing: Standing, state: HeartbeatState) -> None:
    bench = suspected()
    effects = bench.beat.domain.confirmed(standing, "so", 3.5)
    assert bench.beat.state is state
    assert (Lost("so", REBOOT, "so") in effects) == (state is S.LOST)


ENDS_OF_SUSPICION: dict[str, Callable[[HeartbeatBench], object]] = {
    "answer": lambda bench: bench.skip(bench.answer_challenge()),
    "init": lambda bench: bench.skip(bench.send_init()),
    "exit": lambda bench: bench.skip(bench.send_exit()),
    "closed": lambda bench: bench.skip(bench.beat.closed("reset")),
    "paused": lambda bench: bench.skip(change(bench, C.PAUSED)),
    "reset": lambda bench: bench.skip(bench.beat.domain.reset(bench.now)),
    "notice": lambda bench: bench.skip(bench.beat.announced.notice_over(Event.PAUSE, bench.now)),
}


@pytest.mark.parametrize("end", ENDS_OF_SUSPICION)
def test_what_ends_a_suspicion(end: str) -> None:
    bench = suspected()
    ENDS_OF_SUSPICION[end](bench)
    assert not bench.beat.suspected
    assert bench.beat.domain.confirmed(Standing.RUNNING, "running", 3.5) == ()


def test_a_window_that_is_over_waits_for_libvirt_too() -> None:
    bench = restarting()
    bench.beat.losses.are_confirmed = True
    bench.at(121.25)
    assert bench.beat.losses.restart_expired(121.25) == (Suspected("not back within 121 s"),)
    assert bench.beat.state is S.RESTARTING
    why = "not back within 121 s (libvirt unknown)"
    assert bench.beat.domain.confirmed(None, "libvirt unknown", 121.5) == (
        RestartExpired(why),
        Lost(why, REBOOT, "libvirt unknown"),
    )


def test_without_a_guest_the_end_of_a_window_waits_for_nobody() -> None:
    bench = HeartbeatBench()
    bench.beat.losses.are_confirmed = True
    bench.skip(bench.beat.announced.restarts("reboot", 0.0))
    assert [type(effect) for effect in bench.beat.losses.restart_expired(300.0)] == [RestartExpired]


def test_a_panic_waits_for_libvirt_which_may_restart_the_vm() -> None:
    bench = HeartbeatBench()
    bench.beat.losses.are_confirmed = True
    bench.heartbeating()
    bench.expect(change(bench, C.PANICKED, "crashed: panicked"), [Suspected("crashed: panicked")])
    bench.skip(change(bench, C.RESTARTED, "running: crashed"))
    assert bench.beat.domain.confirmed(Standing.RUNNING, "running: crashed", 1.0) == ()
    assert bench.beat.state is S.RESTARTING


@pytest.mark.parametrize("standing", [Standing.PANICKED, None])
def test_a_panic_that_stands_is_a_loss(standing: Standing | None) -> None:
    bench = HeartbeatBench()
    bench.beat.losses.are_confirmed = True
    bench.heartbeating()
    bench.skip(change(bench, C.PANICKED, "crashed: panicked"))
    assert bench.beat.domain.confirmed(standing, "crashed: panicked", 1.0) == (
        Lost("crashed: panicked", REBOOT, "crashed: panicked"),
    )


def test_a_panic_that_is_over_is_none() -> None:
    bench = HeartbeatBench()
    bench.beat.losses.are_confirmed = True
    bench.heartbeating()
    bench.skip(change(bench, C.PANICKED))
    bench.expect(bench.beat.domain.confirmed(Standing.RUNNING, "running", 1.0), [])
    assert bench.beat.health is Health.HEALTHY
