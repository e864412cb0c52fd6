"""A guest that was heartbeating before this host or its connection was there."""

from __future__ import annotations

import pytest

from hbtrio.fsm.domain import DomainChange, Standing
from hbtrio.fsm.heartbeat.effects import (
    Absent,
    Heartbeating,
    Lost,
    Note,
    OpenRestart,
    Paused,
    RestartExpired,
    SendToGuest,
    Suspected,
)
from hbtrio.fsm.heartbeat.table import HeartbeatState
from hbtrio.policy.profile import Profile
from hbtrio.wire.channel_messages import Challenge
from hbtrio.wire.vocabulary import CorrectiveAction
from support.heartbeat_bench import HeartbeatBench

S = HeartbeatState
REBOOT = CorrectiveAction.REBOOT
PROFILE = Profile(name="vm1", interval_s=1.0, restart_s=121, corrective_action=REBOOT)
WHY = "it was heartbeating before the host's restart"
OVERDUE = "not back within 121 s"


def presumed(*, connected: bool = True, confirms: bool = False) -> HeartbeatBench:
    """At 0.0 s, expected back until 121.0 s."""
    bench = HeartbeatBench()
    bench.beat.losses.are_confirmed = confirms
    if connected:
        bench.skip(bench.open())
    effects = bench.skip(bench.beat.losses.presumed(PROFILE, WHY, 121.0, 0.0, remembered=True))
    assert effects[0] == OpenRestart(121.0)
    assert effects[1:] == ((SendToGuest(Challenge(1)),) if connected else ())
    assert (bench.beat.state, bench.beat.reason) == (S.RETURNING, WHY)
    return bench


def test_the_first_answer_means_heartbeating() -> None:
    bench = presumed()
    effects = bench.skip(bench.at(0.5).answer_challenge())
    assert effects == (Heartbeating(WHY),)
    assert (bench.beat.state, bench.beat.profile) == (S.HEARTBEATING, PROFILE)
    assert not bench.beat.situation.is_presumed


def test_an_init_is_challenged_and_its_profile_counts() -> None:
    bench = presumed()
    bench.skip(bench.at(0.5).send_init(name="other"))
    assert bench.skip(bench.answer_challenge()) == (Heartbeating(WHY),)
    assert bench.beat.profile.name == "other"


def test_one_that_is_not_connected_yet_is_challenged_when_it_is() -> None:
    bench = presumed(connected=False)
    assert bench.skip(bench.at(3.0).open()) == (SendToGuest(Challenge(1)),)


def test_without_libvirt_it_is_lost_if_its_socket_accepts_connections() -> None:
    bench = presumed()
    effects = bench.skip(bench.beat.losses.restart_expired(121.0))
    assert effects == (RestartExpired(OVERDUE), Lost(OVERDUE, REBOOT, seen=False))
    assert bench.beat.state is S.LOST


def test_without_libvirt_it_is_absent_if_its_socket_does_not() -> None:
    bench = presumed(connected=False)
    effects = bench.skip(bench.beat.losses.restart_expired(121.0))
    assert effects == (Absent(f"{OVERDUE}: its socket accepts no connection"),)
    assert bench.beat.state is S.ABSENT
    # Once: a guest that comes later starts anew.
    assert bench.skip(bench.beat.losses.restart_expired(300.0)) == ()
    bench.skip(bench.at(400.0).open())
    bench.skip(bench.send_init())
    bench.skip(bench.answer_challenge())
    assert bench.beat.state is S.HEARTBEATING


@pytest.mark.parametrize("connected", [True, False])
@pytest.mark.parametrize(
    ("standing", "words", "state"),
    [
        (Standing.RUNNING, "running: booted", S.LOST),
        (Standing.FAILED, "shut off: crashed", S.LOST),
        (Standing.PANICKED, "crashed: panicked", S.LOST),
        (Standing.PAUSED, "paused: saving", S.PAUSED),
        (Standing.STOPPED, "shut off: saved", S.STOPPED),
        (Standing.ENDING, "in shutdown", S.STOPPED),
        (Standing.UNKNOWN, "no state", S.ABSENT),
    ],
)
def test_libvirt_decides(
    standing: Standing, words: str, state: HeartbeatState, *, connected: bool
) -> None:
    bench = presumed(connected=connected, confirms=True)
    assert bench.skip(bench.beat.losses.restart_expired(121.0)) == (Suspected(OVERDUE),)
    bench.skip(bench.beat.domain.confirmed(standing, words, 121.1))
    assert (bench.beat.state, bench.beat.suspected) == (state, False)


def test_while_libvirt_is_silent_nothing_is_decided() -> None:
    bench = presumed(confirms=True)
    bench.skip(bench.beat.losses.restart_expired(121.0))
    for now in (122.0, 500.0):
        assert bench.skip(bench.beat.domain.confirmed(None, "libvirt unknown", now)) == ()
        assert (bench.beat.state, bench.beat.suspected) == (S.RETURNING, True)
    effects = bench.skip(bench.beat.domain.confirmed(Standing.RUNNING, "running: booted", 600.0))
    assert effects == (
        RestartExpired(OVERDUE),
        Lost(OVERDUE, REBOOT, "running: booted", seen=False),
    )


@pytest.mark.parametrize(("connected", "state"), [(True, S.LOST), (False, S.ABSENT)])
def test_libvirt_does_not_know_it(state: HeartbeatState, *, connected: bool) -> None:
    """As one whose QEMU somebody starts by hand."""
    bench = presumed(connected=connected, confirms=True)
    bench.skip(bench.beat.losses.restart_expired(121.0))
    bench.skip(bench.beat.domain.confirmed(None, "", 121.1))
    assert bench.beat.state is state


def test_an_answer_beats_the_end_of_the_window() -> None:
    bench = presumed(confirms=True)
    bench.skip(bench.beat.losses.restart_expired(121.0))
    bench.skip(bench.at(121.05).answer_challenge())
    assert (bench.beat.state, bench.beat.suspected) == (S.HEARTBEATING, False)
    assert bench.beat.domain.confirmed(Standing.RUNNING, "running", 121.1) == ()


def test_a_guest_that_exits_has_left() -> None:
    bench = presumed()
    bench.skip(bench.at(1.0).send_exit())
    assert bench.beat.state is S.WAITING
    assert bench.skip(bench.beat.losses.restart_expired(121.0)) == ()


def test_a_new_start_of_its_vm_ends_the_presumption() -> None:
    bench = presumed(connected=False)
    bench.skip(bench.beat.domain.changed(DomainChange.STARTED, "running: booted", 5.0))
    assert bench.beat.state is S.WAITING
    assert bench.skip(bench.beat.losses.restart_expired(121.0)) == ()


def test_a_pause_puts_the_end_off_and_ends_no_presumption() -> None:
    bench = presumed(connected=False)
    effects = bench.skip(bench.beat.domain.changed(DomainChange.PAUSED, "paused: user", 21.0))
    assert effects == (Paused("paused: user"),)
    effects = bench.skip(bench.beat.domain.changed(DomainChange.RESUMED, "running", 81.0))
    assert effects == (OpenRestart(100.0),)
    bench.skip(bench.beat.losses.restart_expired(181.0))
    assert bench.beat.state is S.ABSENT


def test_a_failure_that_is_only_remembered_is_not_one_that_was_seen() -> None:
    """Nothing is started in its place: it may run elsewhere by now."""
    bench = presumed()
    [lost] = bench.skip(bench.beat.domain.changed(DomainChange.FAILED, "shut off: crashed", 1.0))
    assert lost == Lost("shut off: crashed", REBOOT, "shut off: crashed", seen=False)
    bench.skip(bench.at(2.0).send_init())
    bench.skip(bench.answer_challenge())
    [lost] = bench.skip(bench.beat.domain.changed(DomainChange.FAILED, "shut off: crashed", 3.0))
    assert lost == Lost("shut off: crashed", REBOOT, "shut off: crashed")


def test_one_that_is_heard_is_not_presumed() -> None:
    bench = HeartbeatBench().heartbeating()
    assert bench.beat.losses.presumed(PROFILE, WHY, 121.0, bench.now, remembered=True) == ()


def test_one_whose_connection_was_closed() -> None:
    """It is no end yet: libvirt will say how its VM ended, if it did."""
    bench = HeartbeatBench().heartbeating()
    effects = bench.skip(bench.beat.cut_off("reset", bench.now))
    note, opened = effects
    assert note == Note("connection closed: reset; libvirt says that it runs")
    assert isinstance(opened, OpenRestart)
    assert bench.beat.state is S.RETURNING
    assert bench.beat.profile.name == "vm1"
    bench.skip(bench.beat.losses.restart_expired(bench.now + 30.0))
    assert bench.beat.state is S.ABSENT
