"""A whole host: many channels at once, failures that stay where they are, an orderly end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import pytest

from hbtrio.config.host import ActionCommands
from hbtrio.fsm.heartbeat.table import HeartbeatState
from hbtrio.nursery.host.action_runs import ActionRefused
from hbtrio.nursery.host.refusals import UnknownInstance
from hbtrio.wire.vocabulary import ActionName, Event
from support.fake_processes import HANGS, FakeRun
from support.host_world import HostWorld, ScriptedGuest, host_world, now, stay_silent, uuid_of
from support.lines import members

pytestmark = pytest.mark.usefixtures("autojump_clock")


class Fault(Exception):
    """A programming error, brought about by a test."""


def raise_fault(*_: Any, **__: Any) -> NoReturn:
    raise Fault("brought about")


def crashes(caplog: pytest.LogCaptureFixture) -> list[tuple[str, type[BaseException]]]:
    """What the log says of failures: the text, and the error whose traceback stands with it."""
    found = []
    for record in caplog.records:
        if record.exc_info and record.exc_info[1] is not None:
            error: BaseException = record.exc_info[1]
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            assert error.__traceback__ is not None
            found.append((record.getMessage(), type(error)))
    return found


# -- many at once ---------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_thousand_found_at_once_are_heartbeating_at_once(world: HostWorld) -> None:
    guests = await world.all_heartbeating(1000)
    assert now() == 1.0
    assert world.host.heartbeating == len(world.host.channels) == 1000
    assert {told[:2] for told in world.reports()} == {(1.0, "heartbeating")}
    await world.at(4.5)
    for guest in guests:
        assert guest.connections == 1
        assert guest.challenged_at() == [1.0, 2.0, 3.0, 4.0]
        assert world.channel(guest).heartbeat.beats == 4


@pytest.mark.slow
async def test_a_thousand_that_go_at_once_are_forgotten_at_once(world: HostWorld) -> None:
    guests = await world.all_heartbeating(1000)
    await world.at(2.5)
    for guest in guests[1:]:
        guest.vanish()
    await world.settle()
    assert list(world.host.channels) == [guests[0].uuid]
    assert world.host.heartbeating == 1
    await world.at(300)
    assert len(world.dialer.dials) == 1000
    assert guests[0].challenged_at()[-1] == 300.0


@pytest.mark.slow
async def test_some_of_many_are_lost_each_once(world: HostWorld) -> None:
    guests = await world.all_heartbeating(300)
    await world.at(2.5)
    for guest in guests[::3]:
        guest.answers_after_s = None
    await world.at(60)
    lost = [guest for guest in guests if world.reports(guest)[-1][1] == "loss"]
    assert lost == guests[::3]
    assert {told[0] for told in world.reports(since=2)} == {5.0}
    assert len(world.reports(since=2)) == 100
    assert world.host.heartbeating == 200


@pytest.mark.slow
async def test_votes_on_all_of_many_at_once(world: HostWorld) -> None:
    guests = await world.all_heartbeating(300)
    await world.at(2.5)
    for number, guest in enumerate(guests):
        if number % 3 == 0:
            guest.reply = stay_silent
        world.vote(guest)
    await world.at(30)
    for number, guest in enumerate(guests):
        late = number % 3 == 0
        (told,) = world.reports(guest, since=2)
        assert told[:4] == (11.5 if late else 2.5, "vote", "stop", "accept")


# -- a programming error in one channel -----------------------------------------------------


def in_the_pacers_call(world: HostWorld, guest: ScriptedGuest) -> None:
    world.channel(guest).heartbeat.tick = raise_fault  # type: ignore[method-assign]


def in_its_reader(world: HostWorld, guest: ScriptedGuest) -> None:
    world.channel(guest).heartbeat.received = raise_fault  # type: ignore[method-assign]


def at_the_end_of_a_window(world: HostWorld, guest: ScriptedGuest) -> None:
    world.channel(guest).heartbeat.announced.notice_over = raise_fault  # type: ignore[method-assign]
    guest.reply = stay_silent
    world.notice(guest)


def mend(world: HostWorld, guest: ScriptedGuest) -> None:
    beat = world.channel(guest).heartbeat
    for name in ("tick", "received", "notice_over", "opened"):
        vars(beat).pop(name, None)


@pytest.mark.parametrize(
    ("breaks", "fails_at"),
    [(in_the_pacers_call, 5.0), (in_its_reader, 5.0), (at_the_end_of_a_window, 14.5)],
)
async def test_it_is_logged_counted_and_only_that_channel_starts_over(
    breaks: Callable[[HostWorld, ScriptedGuest], None],
    fails_at: float,
    caplog: pytest.LogCaptureFixture,
    world: HostWorld,
) -> None:
    guest, neighbour = await world.all_heartbeating(2)
    await world.at(4.5)
    breaks(world, guest)
    await world.at(fails_at)
    mend(world, guest)
    world.crashes = 1
    text = f"channel {guest.uuid} failed and will be restarted"
    assert crashes(caplog) == [(text, Fault)]
    assert world.host.supervisor.crashes == 1
    assert guest.connections == 1
    assert guest.peer.host_closed
    await world.at(fails_at + 0.999)
    assert guest.connections == 1
    await world.at(30)
    assert guest.connections == 2
    assert world.reports(guest)[-1][:2] == (fails_at + 1, "heartbeating")
    assert world.reports(neighbour) == [(1.0, "heartbeating", "init answered")]
    assert neighbour.challenged_at() == [float(second) for second in range(1, 31)]
    assert len([told for told in world.reports(guest) if told[1] == "notice"]) == (
        1 if breaks is at_the_end_of_a_window else 0
    )


async def test_failing_again_and_again_the_delays_double(
    caplog: pytest.LogCaptureFixture, world: HostWorld
) -> None:
    guest, neighbour = await world.all_heartbeating(2)
    await world.at(4.5)
    in_its_reader(world, guest)
    await world.at(100)
    # Each connection fails with the init on it.
    assert [round(dial.time_s, 6) for dial in world.dialer.dials[2:]] == [
        6.0,
        8.0,
        12.0,
        20.0,
        36.0,
        68.0,
    ]
    world.crashes = 7
    assert len(crashes(caplog)) == 7
    assert world.host.heartbeating == 1
    assert neighbour.challenged_at()[-1] == 100.0


async def test_a_round_open_meanwhile_has_one_outcome(world: HostWorld) -> None:
    guest = await world.heartbeating()
    guest.reply = stay_silent
    await world.at(4.5)
    current = world.vote(guest)
    in_the_pacers_call(world, guest)
    await world.at(5.0)
    mend(world, guest)
    world.crashes = 1
    await world.at(60)
    ((at, *words),) = [told for told in world.reports() if told[1] == "vote"]
    assert (at, words[:3]) == (5.0, ["vote", "stop", "error"])
    assert current.done.is_set()


async def test_the_restart_window_outlives_it(world: HostWorld) -> None:
    guest = await world.heartbeating()
    await world.at(4.5)
    world.notice(guest, Event.REBOOT)
    await world.settle()
    guest.answers_after_s, guest.sends_init = None, False
    await world.at(60)
    in_its_reader(world, guest)
    guest.send_init()
    await world.settle()
    mend(world, guest)
    world.crashes = 1
    assert world.channel(guest).heartbeat.state is HeartbeatState.RESTARTING
    await world.at(500)
    assert [told[1] for told in world.reports(since=5)] == ["restart-expired", "loss"]


async def test_acted_upon_between_two_lives_it_has_its_window(world: HostWorld) -> None:
    guest = await world.heartbeating()
    await world.at(4.5)
    in_its_reader(world, guest)
    await world.at(5.5)
    mend(world, guest)
    world.crashes = 1
    guest.answers_after_s, guest.sends_init = None, False
    world.channel(guest).outages.restarts("acted")
    await world.at(300)
    assert [told[1] for told in world.reports(since=5.4)] == ["restart-expired", "loss"]


async def test_a_socket_that_goes_between_two_lives_is_forgotten(world: HostWorld) -> None:
    guest = await world.heartbeating()
    await world.at(4.5)
    in_its_reader(world, guest)
    await world.at(5.5)
    world.crashes = 1
    world.directory.remove(guest.name)
    await world.at(60)
    assert world.host.channels == {}
    assert len(world.dialer.dials) == 1


# -- a programming error elsewhere ----------------------------------------------------------


async def test_discovery_that_fails_starts_over_and_channels_go_on(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, world: HostWorld
) -> None:
    guest = await world.heartbeating()
    await world.at(4.5)
    with monkeypatch.context() as patch:
        patch.setattr(world.directory, "scan", raise_fault)
        second = world.guest().appear()
        await world.settle()
    world.crashes = 1
    assert crashes(caplog) == [("discovery failed and will be restarted", Fault)]
    await world.at(5.499)
    assert world.host.heartbeating == 1
    await world.at(5.5)
    assert world.host.heartbeating == 2
    assert world.channel(second).heartbeating
    await world.at(10)
    assert guest.connections == 1
    assert guest.challenged_at() == [float(second) for second in range(1, 11)]


# -- actions --------------------------------------------------------------------------------


async def test_what_can_not_be_begun() -> None:
    actions = ActionCommands(reboot=("hang",))
    async with host_world(actions=actions, runs={"hang": HANGS}) as world:
        guest = await world.heartbeating()
        begin = world.host.begin_action
        with pytest.raises(UnknownInstance, match=f"no instance {uuid_of(9)} on this host"):
            begin(uuid_of(9), ActionName.STOP, ("true",), force=False)
        with pytest.raises(ActionRefused) as refused:
            begin(guest.uuid, ActionName.LIVE_MIGRATE, (), force=False)
        assert str(refused.value) == (
            "no command for live-migrate: give one after --, or set live-migrate in [actions]"
        )
        assert world.host.actions == {}
        begin(guest.uuid.upper(), ActionName.REBOOT, (), force=False)
        with pytest.raises(ActionRefused) as refused:
            begin(guest.uuid, ActionName.STOP, ("true",), force=False)
        assert str(refused.value) == f"reboot is in progress on {guest.uuid}"
        await world.settle()
        assert [moment.argv for moment in world.processes.started] == [("hang",)]


async def test_only_so_many_actions_at_once() -> None:
    async with host_world(runs={"hang": HANGS}) as world:
        guests = await world.all_heartbeating(257)
        for guest in guests[:-1]:
            world.host.begin_action(guest.uuid, ActionName.PAUSE, ("hang",), force=True)
        with pytest.raises(
            ActionRefused, match="256 actions are in progress on this host, the maximum"
        ):
            world.host.begin_action(guests[-1].uuid, ActionName.PAUSE, ("hang",), force=True)


async def test_an_action_that_fails_is_logged_and_no_other_notices(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def runs(argv: Any) -> FakeRun:
        if argv[0] == "breaks":
            raise_fault()
        return FakeRun(delay_s=5)

    async with host_world(runs=runs) as world:
        guest, other = await world.all_heartbeating(2)
        begin = world.host.begin_action
        broken = begin(guest.uuid, ActionName.UNPAUSE, ("breaks",), force=False)
        fine = begin(other.uuid, ActionName.UNPAUSE, ("fine",), force=False)
        lines = [members(line) async for line in broken.progress()]
        assert [line["step"] for line in lines] == ["command"]
        assert crashes(caplog) == [(f"action unpause on {guest.uuid} failed", Fault)]
        world.crashes = 1
        assert list(world.host.actions) == [other.uuid]
        assert [members(line) async for line in fine.progress()][-1]["outcome"] == "done"
        assert world.host.actions == {}
        assert world.channel(guest).heartbeating


# -- the end --------------------------------------------------------------------------------


async def test_the_end_is_orderly_and_at_once() -> None:
    async with host_world(runs={"hang": HANGS}) as world:
        guests = await world.all_heartbeating(30)
        await world.at(3.5)
        guests[0].answers_after_s = None
        guests[1].reply = guests[2].reply = stay_silent
        world.vote(guests[1])
        world.notice(guests[2])
        world.notice(guests[3], Event.REBOOT)
        world.dialer.refuse(guests[4].path)
        guests[4].peer.close()
        world.host.begin_action(guests[5].uuid, ActionName.PAUSE, ("hang",), force=False)
        await world.at(4.5)
        await world.stop_host()
        assert now() == 4.5
        assert all(guest.peer.host_closed for guest in guests)
        assert world.host.actions == {}
        assert [moment.argv for moment in world.processes.cancelled] == [("hang",)]
        assert "loss" not in [told[1] for told in world.reports()]
        assert [
            told[2:4] for told in world.reports(since=4.2) if told[1] in ("vote", "notice")
        ] in ([("stop", "error")] * 2,)
        assert world.host.heartbeating == 0


async def test_a_host_that_ends_before_its_first_guest(world: HostWorld) -> None:
    await world.stop_host()
    assert world.reports() == []
