"""What an application inhibits: from its message to the end of its registration."""

from __future__ import annotations

import itertools

import pytest

from hbtrio.fsm.application import ApplicationSession
from hbtrio.fsm.application_effects import (
    Answered,
    Ignored,
    InhibitionChanged,
    SendToApplication,
    WithdrewReject,
)
from hbtrio.fsm.inhibition import Inhibition
from hbtrio.wire.app_messages import (
    AppActionNotify,
    AppActionResponse,
    AppInhibit,
    AppInit,
    AppMessage,
    AppReady,
    Final,
)
from hbtrio.wire.vocabulary import (
    EVENT_TABLE,
    CorrectiveAction,
    Event,
    NotificationType,
    VoteResult,
)

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
        held = application.reject_inhibited(event, VOTE)
        assert (held is application.inhibition) == (event in STOP.events)
        assert application.reject_inhibited(event, NOTICE) is None


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
        application.closed(has_left=True)
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
    assert application.reject_inhibited(Event.STOP, VOTE) is not None


def over(application: ApplicationSession, end: AppMessage | None) -> list[WithdrewReject]:
    """The rejects that an end takes back."""
    effects = application.closed(has_left=True) if end is None else application.received(end, 20.0)
    return [one for one in effects if isinstance(one, WithdrewReject)]


NOTHING = AppInhibit(frozenset(), "")


@pytest.mark.parametrize("end", [NOTHING, Final("Exiting"), None])
def test_its_end_takes_back_what_it_has_rejected_since(end: AppMessage | None) -> None:
    application = registered()
    application.received(STOP, 11.0)
    application.reject_inhibited(Event.STOP, VOTE)
    application.reject_inhibited(Event.STOP, VOTE)
    application.reject_inhibited(Event.REBOOT, NOTICE)
    application.reject_inhibited(Event.PAUSE, VOTE)
    assert over(application, end) == [WithdrewReject(Event.STOP)]


def test_an_end_by_the_guest_takes_nothing_back() -> None:
    """The application connects again, and inhibits again."""
    application = registered()
    application.received(STOP, 11.0)
    application.reject_inhibited(Event.STOP, VOTE)
    effects = application.closed(has_left=False)
    assert not [one for one in effects if isinstance(one, WithdrewReject)]


def test_a_second_registration_takes_nothing_back() -> None:
    application = registered()
    application.received(STOP, 11.0)
    application.reject_inhibited(Event.STOP, VOTE)
    assert over(application, INIT) == []
    application.received(STOP, 21.0)
    assert over(application, NOTHING) == []


def test_each_reject_is_taken_back_once_with_the_last_that_inhibits_its_event() -> None:
    application = registered()
    application.received(STOP, 11.0)
    application.reject_inhibited(Event.STOP, VOTE)
    application.reject_inhibited(Event.REBOOT, VOTE)
    assert over(application, AppReady(Event.STOP)) == []  # it still inhibits
    fewer = AppInhibit(frozenset({Event.REBOOT}), "a dump")
    assert over(application, fewer) == [WithdrewReject(Event.STOP)]
    assert over(application, AppReady(Event.STOP)) == []
    assert over(application, NOTHING) == [WithdrewReject(Event.REBOOT)]
    assert over(application, None) == []


def test_a_reject_of_its_own_is_taken_back_too_if_it_inhibits_the_event() -> None:
    """Asked before its inhibition came, an application of the SDK rejects by itself."""
    application = registered()
    (asked,) = application.ask(Event.STOP, VOTE)
    assert isinstance(asked, SendToApplication)
    assert isinstance(asked.message, AppActionNotify)
    number = asked.message.invocation_id
    reject = AppActionResponse(number, Event.STOP, VOTE, VoteResult.REJECT, "a dump")
    application.received(STOP, 11.0)
    assert application.received(reject, 12.0) == [Answered(VoteResult.REJECT, "a dump")]
    assert over(application, None) == [WithdrewReject(Event.STOP)]
