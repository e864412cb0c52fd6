"""The outage as a value: how it begins, what follows each other, what an answer shows."""

from __future__ import annotations

import math

import attrs
import pytest

from hbtrio.fsm.heartbeat.outage import (
    CALL_OFF_MIGRATION_S,
    CALL_OFF_S,
    NO_OUTAGE,
    Outage,
    Phase,
    Sign,
)
from hbtrio.wire.vocabulary import Event
from support.heartbeat_bench import HeartbeatBench

PAUSE = Outage.freeze(Event.PAUSE, 100.0)
STOP = Outage.stop("stop", 100.0)


def test_how_they_begin() -> None:
    assert Outage("pause", True, 100.0 + CALL_OFF_S) == PAUSE
    migration = Outage.freeze(Event.LIVE_MIGRATE_BEGIN, 100.0)
    assert migration == Outage("live_migrate_begin", True, 100.0 + CALL_OFF_MIGRATION_S)
    assert Outage("stop", False, 100.0 + CALL_OFF_S) == STOP
    assert Outage.restart("reboot", 100.0, 10) == Outage("reboot", False, 100.0 + CALL_OFF_S)
    assert Outage.restart("reboot", 100.0, 600) == Outage("reboot", False, 700.0)


def test_it_is_never_changed() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        PAUSE.phase = Phase.BACK  # type: ignore[misc]


@pytest.mark.parametrize(
    ("before", "silent"),
    [
        (Phase.ANSWERING, Phase.SILENT),
        (Phase.SILENT, Phase.SILENT),
        (Phase.BACK, Phase.SILENT_AGAIN),
        (Phase.SILENT_AGAIN, Phase.SILENT_AGAIN),
    ],
)
def test_its_phases(before: Phase, silent: Phase) -> None:
    outage = attrs.evolve(PAUSE, phase=before)
    assert outage.fell_silent() == attrs.evolve(PAUSE, phase=silent)
    assert outage.came_back() == attrs.evolve(PAUSE, phase=Phase.BACK)


def test_what_else_is_noted_of_it() -> None:
    assert PAUSE.carried_out(200.0).carried_out(300.0) == attrs.evolve(PAUSE, carried_out_at=200.0)
    assert STOP.extends() == attrs.evolve(STOP, extended=True)
    gone_by = STOP.reconnects()
    assert gone_by == attrs.evolve(STOP, reconnected=True)
    assert gone_by.over(happened=True) == STOP
    assert gone_by.over(happened=False) == attrs.evolve(STOP, happened=False)


@pytest.mark.parametrize("phase", Phase)
def test_when_its_silence_is_an_alarm(phase: Phase) -> None:
    outage = attrs.evolve(PAUSE, phase=phase)
    returned = phase in (Phase.BACK, Phase.SILENT_AGAIN)
    assert outage.unwatched_at == (400.0 if returned else math.inf)
    assert outage.carried_out(200.0).unwatched_at == math.inf


@pytest.mark.parametrize("init_seen", [False, True])
@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("outage", [PAUSE, STOP, NO_OUTAGE], ids=lambda outage: outage.event)
def test_what_an_answer_shows(outage: Outage, phase: Phase, init_seen: bool) -> None:
    outage = attrs.evolve(outage, phase=phase).carried_out(200.0)
    returns = init_seen or (outage.freezes and phase is not Phase.ANSWERING)
    before, between, after = (
        outage.sign(sent_at, now, init_seen=init_seen)
        for sent_at, now in [(199.9, 200.1), (200.0, 399.9), (199.9, 400.0)]
    )
    if not returns:
        assert (before, between) == (Sign.GOES_ON, Sign.GOES_ON)
        assert after is (Sign.GOES_ON if math.isinf(outage.call_off_at) else Sign.STAYED)
    else:
        assert before is (Sign.BACK if outage.freezes else Sign.BACK_FOR_GOOD)
        assert (between, after) == (Sign.BACK_FOR_GOOD, Sign.BACK_FOR_GOOD)


def test_a_pause_from_its_notice_to_its_end_as_a_machine_sees_it() -> None:
    bench = HeartbeatBench().heartbeating()
    assert bench.beat.situation.outage is NO_OUTAGE
    bench.skip(bench.beat.announced.notice_over(Event.PAUSE, 0.25))
    pause = Outage.freeze(Event.PAUSE, 0.25)
    assert bench.beat.situation.outage == pause
    bench.run(3.0)
    assert bench.beat.situation.outage == pause.fell_silent()
    bench.skip(bench.send_init())
    bench.skip(bench.answer_challenge())
    assert bench.beat.situation.outage == pause.came_back()
    bench.run(6.0)
    assert bench.beat.situation.outage == pause.came_back().fell_silent()
    bench.beat.announced.carried_out(Event.PAUSE, 6.0)
    bench.skip(bench.beat.announced.notice_opened(Event.UNPAUSE, 7.0))
    assert bench.beat.situation.outage == pause.came_back().fell_silent().carried_out(6.0)
    bench.run(12.0)
    assert bench.beat.situation.outage.reconnected
