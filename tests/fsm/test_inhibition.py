"""What an application inhibits: from its message to the end of its registration."""

from __future__ import annotations

import itertools

import pytest

from hbtrio.fsm.application import ApplicationSession
from hbtrio.fsm.application_effects import Ignored, InhibitionChanged
from hbtrio.fsm.inhibition import Inhibition
from hbtrio.wire.app_messages import AppInhibit, AppInit, AppMessage, Final
from hbtrio.wire.vocabulary import EVENT_TABLE, CorrectiveAction, Event, NotificationType

VOTE, NOTICE = NotificationType.REVOCABLE, NotificationType.IRREVOCABLE
INIT = AppInit("backup", 1000, 8, 8, 8, 13, CorrectiveAction.NONE)
STOP = AppInhibit(frozenset({Event.STOP, Event.REBOOT}), 'a "dump"\n')


def registered() -> ApplicationSession:
    application = ApplicationSession(itertools.count(101).__next__)
    application.received(INIT, 10.0)
    return application


def test_it_is_for_the_votes_on_its_events_alone() -> None:
    application = registered()
    assert application.inhibition is None
    assert application.received(STOP, 11.0) == [InhibitionChanged()]
    assert application.inhibition is not None
    assert application.inhibition.since == 11.0
    for event in EVENT_TABLE:
        held = application.inhibits(event, VOTE)
        assert (held is application.inhibition) == (event in STOP.events)
        assert application.inhibits(event, NOTICE) is None


def test_its_reason_is_fit_for_a_log_and_for_the_host() -> None:
    application = registered()
    application.received(STOP, 11.0)
    assert application.inhibition is not None
    assert '"' not in application.inhibition.reason
    assert "\n" not in application.inhibition.reason


def test_before_a_registration_it_is_ignored() -> None:
    application = ApplicationSession(itertools.count(101).__next__)
    assert application.received(STOP, 1.0) == [Ignored("an inhibition before the registration")]
    assert application.inhibition is None


def test_a_second_one_replaces_the_first_and_none_ends_it() -> None:
    application = registered()
    application.received(STOP, 11.0)
    assert application.received(STOP, 12.0) == []
    other_reason = AppInhibit(STOP.events, "another dump")
    assert application.received(other_reason, 13.0) == [InhibitionChanged()]
    assert application.inhibition == Inhibition(STOP.events, "another dump", 11.0)
    other_events = AppInhibit(frozenset({Event.PAUSE}), "another dump")
    assert application.received(other_events, 14.0) == [InhibitionChanged()]
    assert application.inhibition == Inhibition(other_events.events, "another dump", 14.0)
    assert application.received(AppInhibit(frozenset(), ""), 15.0) == [InhibitionChanged()]
    assert application.inhibition is None
    assert application.received(AppInhibit(frozenset(), ""), 16.0) == []


@pytest.mark.parametrize("end", [Final("Exiting"), INIT, None])
def test_it_ends_with_its_registration(end: AppMessage | None) -> None:
    application = registered()
    application.received(STOP, 11.0)
    if end is None:
        application.closed()
    else:
        application.received(end, 12.0)
    assert application.inhibition is None


def test_silence_does_not_end_it() -> None:
    """A stopped process inhibits, as one that holds a lock of systemd-logind."""
    application = registered()
    application.received(STOP, 11.0)
    application.expired(application.deadline, late=False, stalled_s=0.0)
    application.expired(100.0, late=False, stalled_s=0.0)
    assert not application.health.healthy
    assert application.inhibits(Event.STOP, VOTE) is not None
