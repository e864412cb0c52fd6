"""One application's connection: its registration, its beats, its health and its answers."""

from __future__ import annotations

import itertools
import math
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hbtrio.fsm.application import EXCUSES, LISTEN_S, ApplicationSession
from hbtrio.fsm.application_effects import (
    Answered,
    ApplicationStateChanged,
    Effect,
    Ignored,
    RegistrationChanged,
    RegistrationRefused,
    SendToApplication,
    StillIll,
    Withdrew,
)
from hbtrio.fsm.application_table import APPLICATION_TABLE, ApplicationEvent, ApplicationState
from hbtrio.fsm.table import IllegalEvent
from hbtrio.policy.health_merge import HealthMerge, HealthStatus
from hbtrio.policy.profile import Profile
from hbtrio.wire.app_codec import AppDecoder
from hbtrio.wire.app_messages import (
    AppActionNotify,
    AppActionResponse,
    AppChallenge,
    AppChallengeResponse,
    AppInit,
    AppInitAck,
    AppMessage,
    Final,
)
from hbtrio.wire.channel_codec import plain_text
from hbtrio.wire.vocabulary import (
    CorrectiveAction,
    Event,
    Health,
    NotificationType,
    VoteResult,
    WindowKind,
)
from wire.captured import APP_TO_GUEST, api_capture

UNREGISTERED, HEALTHY, ILL, SILENT, GONE = ApplicationState
VOTE, NOTICE = NotificationType.REVOCABLE, NotificationType.IRREVOCABLE

INIT = AppInit("web", 1000, 8, 5, 6, 7, CorrectiveAction.STOP)
PROFILE = Profile(
    name="web",
    interval_s=1.0,
    vote_s=8,
    shutdown_notice_s=5,
    suspend_notice_s=6,
    resume_notice_s=7,
    corrective_action=CorrectiveAction.STOP,
)
WELL = HealthStatus(True)
TIMEOUT = HealthStatus(False, CorrectiveAction.STOP, "Application web heartbeat timeout 2000 ms.")
NO_RECENT = Ignored("an answer to none of the last challenges")
NO_ROUND = Ignored("an answer to no vote or notice that is open")


def connected(*, first_id: int = 101) -> ApplicationSession:
    return ApplicationSession(itertools.count(first_id).__next__)


def registered(init: AppInit = INIT, now: float = 10.0) -> ApplicationSession:
    application = connected()
    assert application.received(init, now) == [
        SendToApplication(AppInitAck(True)),
        ApplicationStateChanged(UNREGISTERED, HEALTHY, ApplicationEvent.INIT_ACCEPTED),
    ]
    return application


def beat(application: ApplicationSession) -> int:
    """Lets the next challenge come; its number."""
    (effect,) = application.expired(application.deadline, late=False, stalled_s=0.0)
    assert isinstance(effect, SendToApplication)
    assert isinstance(effect.message, AppChallenge)
    return effect.message.heartbeat_challenge


def well(number: int) -> AppChallengeResponse:
    return AppChallengeResponse(number, True, CorrectiveAction.NONE, "")


def sick(number: int, reason: str = "disk full") -> AppChallengeResponse:
    return AppChallengeResponse(number, False, CorrectiveAction.LOG, reason)


def response(
    invocation_id: int, result: VoteResult = VoteResult.ACCEPT, reason: str = ""
) -> AppActionResponse:
    return AppActionResponse(invocation_id, Event.STOP, VOTE, result, reason)


def state_of(application: ApplicationSession) -> tuple[ApplicationState, HealthStatus, float]:
    return application.state, application.health, application.deadline


# -- registration ---------------------------------------------------------------------------------


def test_a_connection_begins_unregistered_and_waits_for_nothing() -> None:
    application = connected()
    assert state_of(application) == (UNREGISTERED, WELL, math.inf)
    assert not application.registered
    assert application.expired(1e9, late=False, stalled_s=0.0) == []


def test_a_registration() -> None:
    application = registered(now=10.0)
    assert state_of(application) == (HEALTHY, WELL, 11.0)
    assert application.registered
    assert application.profile == PROFILE


@pytest.mark.parametrize(
    ("interval_ms", "accepted"),
    [(0, False), (399, False), (400, True), (60_000, True), (2**32 - 1, True)],
)
def test_an_interval_below_400_ms_is_refused(interval_ms: int, accepted: bool) -> None:
    application = connected()
    effects = application.received(
        msgspec.structs.replace(INIT, heartbeat_interval_ms=interval_ms), 10.0
    )
    assert effects[0] == SendToApplication(AppInitAck(accepted))
    assert application.registered is accepted
    assert application.deadline == (10.0 + interval_ms / 1000 if accepted else math.inf)


def test_a_refused_application_may_try_again() -> None:
    application = connected()
    refused = msgspec.structs.replace(INIT, heartbeat_interval_ms=100)
    ack = SendToApplication(AppInitAck(False))
    assert application.received(refused, 1.0) == [ack, RegistrationRefused()]
    # Once for each interval.
    assert application.received(refused, 1.1) == [ack]
    other = msgspec.structs.replace(INIT, heartbeat_interval_ms=200)
    assert application.received(other, 1.2) == [ack, RegistrationRefused()]
    assert application.received(INIT, 2.0)[0] == SendToApplication(AppInitAck(True))
    assert state_of(application) == (HEALTHY, WELL, 3.0)


def test_the_windows_are_those_it_asked_for_and_at_least_a_second() -> None:
    profile = registered().profile
    kinds = list(WindowKind)[:4]
    assert [profile.window_s(kind) for kind in kinds] == [8, 5, 6, 7]
    nothing = msgspec.structs.replace(
        INIT, vote_secs=0, shutdown_notice_secs=0, suspend_notice_secs=0, resume_notice_secs=0
    )
    assert [registered(nothing).profile.window_s(kind) for kind in kinds] == [1, 1, 1, 1]


def test_a_name_is_fit_for_a_log_and_for_the_host() -> None:
    application = registered(msgspec.structs.replace(INIT, name='a "web"\n\x1b[31m\\server\ufffd'))
    assert application.profile.name == "a 'web'  [31m/server?"


def test_a_second_init_replaces_the_first() -> None:
    application = registered()
    number = beat(application)
    application.received(sick(number), 11.1)
    application.ask(Event.STOP, VOTE)
    again = msgspec.structs.replace(INIT, name="new", heartbeat_interval_ms=3000)
    assert application.received(again, 12.0) == [
        Withdrew(),
        SendToApplication(AppInitAck(True)),
        ApplicationStateChanged(ILL, HEALTHY, ApplicationEvent.INIT_ACCEPTED),
    ]
    assert state_of(application) == (HEALTHY, WELL, 15.0)
    assert application.profile == msgspec.structs.replace(PROFILE, name="new", interval_s=3.0)
    # Nothing that was asked before it is open any more.
    assert application.received(well(number), 12.1) == [NO_RECENT]
    assert application.received(response(102), 12.1) == [NO_ROUND]


@pytest.mark.parametrize(
    "terms", [{"name": "new"}, {"vote_secs": 9}, {"corrective_action": CorrectiveAction.LOG}]
)
def test_a_second_init_of_one_who_is_well_is_news_if_the_terms_are(terms: dict[str, Any]) -> None:
    application = registered()
    assert application.received(INIT, 10.5) == [SendToApplication(AppInitAck(True))]
    again = msgspec.structs.replace(INIT, **terms)
    assert application.received(again, 11.0) == [
        SendToApplication(AppInitAck(True)),
        RegistrationChanged(PROFILE),
    ]
    assert application.state is HEALTHY
    assert application.received(again, 11.5) == [SendToApplication(AppInitAck(True))]


def test_a_second_init_is_challenged_whatever_was_unanswered_before_it() -> None:
    application = registered()
    number = beat(application)
    application.received(INIT, 11.5)
    assert application.expired(12.5, late=False, stalled_s=0.0) == [
        SendToApplication(AppChallenge(number + 1))
    ]


def test_a_second_init_that_is_refused_ends_the_registration() -> None:
    application = registered()
    refused = msgspec.structs.replace(INIT, heartbeat_interval_ms=100)
    assert application.received(refused, 10.5) == [
        SendToApplication(AppInitAck(False)),
        ApplicationStateChanged(HEALTHY, UNREGISTERED, ApplicationEvent.INIT_REFUSED),
    ]
    assert state_of(application) == (UNREGISTERED, WELL, math.inf)


def test_a_final_ends_the_registration_and_what_was_asked() -> None:
    application = registered()
    application.received(sick(beat(application)), 11.0)
    application.ask(Event.STOP, VOTE)
    assert application.received(Final("Exiting"), 11.5) == [
        Withdrew(),
        ApplicationStateChanged(ILL, UNREGISTERED, ApplicationEvent.FINAL_CAME),
    ]
    assert state_of(application) == (UNREGISTERED, WELL, math.inf)
    assert application.received(Final("twice"), 11.6) == []


def test_a_connection_that_closes_withdraws_the_application() -> None:
    application = registered()
    application.ask(Event.STOP, VOTE)
    assert application.closed(has_left=True) == [
        Withdrew(),
        ApplicationStateChanged(HEALTHY, GONE, ApplicationEvent.CONNECTION_CLOSED),
    ]
    assert state_of(application) == (GONE, WELL, math.inf)
    assert not application.registered
    for deliver in (
        lambda: application.closed(has_left=True),
        lambda: application.received(INIT, 12.0),
        lambda: application.received(Final(""), 12.0),
    ):
        with pytest.raises(IllegalEvent):
            deliver()
    assert state_of(application) == (GONE, WELL, math.inf)


# -- the beats ------------------------------------------------------------------------------------


def test_a_challenge_every_interval_on_a_grid() -> None:
    application = registered(now=10.0)
    for at in (11.0, 12.0, 13.0, 14.0):
        assert application.deadline == at
        number = beat(application)
        assert application.received(well(number), at + 0.3) == []
    assert state_of(application) == (HEALTHY, WELL, 15.0)


def test_no_challenge_is_sent_while_one_is_unanswered() -> None:
    application = registered(now=10.0)
    number = beat(application)
    sent = []
    for at in range(12, 60):
        sent += [
            e
            for e in application.expired(float(at), late=False, stalled_s=0.0)
            if isinstance(e, SendToApplication)
        ]
    assert sent == []
    assert application.received(well(number), 59.5) == [
        ApplicationStateChanged(SILENT, HEALTHY, ApplicationEvent.ANSWERED_HEALTHY)
    ]
    assert beat(application) == number + 1


def test_what_was_slept_through_is_not_made_up_for() -> None:
    application = registered(now=10.0)
    application.received(well(beat(application)), 11.1)
    assert application.expired(512.3, late=True, stalled_s=0.0) == [
        SendToApplication(AppChallenge(102))
    ]
    assert application.deadline == 513.0  # the same grid


def test_too_early_nothing_happens() -> None:
    application = registered(now=10.0)
    assert application.expired(10.99, late=False, stalled_s=0.0) == []
    assert state_of(application) == (HEALTHY, WELL, 11.0)


def test_a_sleep_that_ends_on_the_grid_leaves_the_next_point_to_come() -> None:
    """These are numbers of which the next point of the grid comes out as now."""
    application = registered(
        msgspec.structs.replace(INIT, heartbeat_interval_ms=1825), 445387.19405
    )
    now = 448809.06905
    application.expired(now, late=True, stalled_s=0.0)
    assert application.deadline == now + 1.825


@settings(deadline=None)  # a shared machine may be slow
@given(
    st.integers(400, 2**32 - 1),
    st.floats(0, 1e9),
    st.lists(st.tuples(st.floats(0, 3), st.booleans()), max_size=30),
)
def test_the_deadline_is_always_to_come(
    interval_ms: int, start: float, sleeps: list[tuple[float, bool]]
) -> None:
    """Or a task that sleeps until then would spin."""
    application = registered(
        msgspec.structs.replace(INIT, heartbeat_interval_ms=interval_ms), start
    )
    now = start
    for intervals, answers in sleeps:
        now = max(now + intervals * interval_ms / 1000, application.deadline)
        for effect in application.expired(now, late=False, stalled_s=0.0):
            if (
                answers
                and isinstance(effect, SendToApplication)
                and isinstance(effect.message, AppChallenge)
            ):
                application.received(well(effect.message.heartbeat_challenge), now)
        assert now < application.deadline <= now + interval_ms / 1000 + 1e-3


# -- silence --------------------------------------------------------------------------------------


def test_two_intervals_without_an_answer_make_it_unhealthy_with_its_own_action() -> None:
    application = registered(now=10.0)
    number = beat(application)
    assert application.expired(11.999, late=False, stalled_s=0.0) == []
    assert application.health == WELL
    assert application.expired(12.0, late=False, stalled_s=0.0) == [
        ApplicationStateChanged(HEALTHY, SILENT, ApplicationEvent.TIMED_OUT)
    ]
    assert state_of(application) == (SILENT, TIMEOUT, 13.0)
    assert application.registered  # it is still asked: a vote's window bounds the wait for it
    assert application.expired(100.0, late=False, stalled_s=0.0) == []
    assert application.received(well(number), 100.5) == [
        ApplicationStateChanged(SILENT, HEALTHY, ApplicationEvent.ANSWERED_HEALTHY)
    ]
    assert state_of(application) == (HEALTHY, WELL, 101.0)


def test_the_two_intervals_count_from_the_last_answer() -> None:
    application = registered(now=10.0)
    application.received(well(beat(application)), 11.9)
    beat(application)
    application.expired(13.0, late=False, stalled_s=0.0)
    assert application.deadline == 13.9
    application.expired(13.9, late=False, stalled_s=0.0)
    assert application.state is SILENT


def test_the_message_names_application_and_both_intervals() -> None:
    application = registered(
        msgspec.structs.replace(
            INIT,
            name="db",
            heartbeat_interval_ms=450,
            corrective_action=CorrectiveAction.REBOOT,
        )
    )
    application.expired(99.0, late=False, stalled_s=0.0)
    assert application.health == HealthStatus(
        False, CorrectiveAction.REBOOT, "Application db heartbeat timeout 900 ms."
    )


def test_a_late_daemon_gives_two_more_intervals() -> None:
    application = registered(now=10.0)
    number = beat(application)
    assert application.expired(15.5, late=True, stalled_s=0.0) == []
    assert (application.state, application.health) == (HEALTHY, WELL)
    application.expired(17.4, late=False, stalled_s=0.0)
    assert application.state is HEALTHY
    assert application.expired(17.5, late=False, stalled_s=0.0) == [
        ApplicationStateChanged(HEALTHY, SILENT, ApplicationEvent.TIMED_OUT)
    ]
    assert application.received(sick(number), 18.0) == [
        ApplicationStateChanged(SILENT, ILL, ApplicationEvent.ANSWERED_ILL)
    ]


def test_a_stall_since_the_challenge_is_listened_for_again() -> None:
    """A short one, in which nobody calls this process late."""
    application = registered(now=10.0)
    number = beat(application)
    application.expired(12.3, late=False, stalled_s=0.7)
    assert application.state is HEALTHY
    application.expired(12.99, late=False, stalled_s=0.7)
    assert application.state is HEALTHY
    application.received(well(number), 12.995)
    assert application.state is HEALTHY


@pytest.mark.parametrize(("stall_s", "again_s"), [(0.01, LISTEN_S), (0.2, 0.2), (0.7, 0.7)])
def test_after_a_stall_silence_is_judged(stall_s: float, again_s: float) -> None:
    application = registered(now=10.0)
    beat(application)
    application.expired(12.0, late=False, stalled_s=stall_s)
    application.expired(12.0 + again_s - 0.001, late=False, stalled_s=stall_s)
    assert application.state is HEALTHY
    application.expired(12.0 + again_s, late=False, stalled_s=stall_s)
    assert application.state is SILENT


def test_a_stall_before_the_challenge_delays_the_challenge() -> None:
    """It is listened for as long as any other."""
    application = registered(now=10.0)
    assert application.expired(11.6, late=False, stalled_s=0.5) != []
    application.expired(12.599, late=False, stalled_s=0.5)
    assert application.state is HEALTHY
    application.expired(12.6, late=False, stalled_s=0.5)
    assert application.state is SILENT


@pytest.mark.parametrize("late", [False, True])
def test_a_process_that_always_stalls_still_judges(late: bool) -> None:
    application = registered(now=10.0)
    beat(application)
    stalled_s, looks = 0.0, 0
    while application.state is HEALTHY:
        looks += 1
        assert looks < 100
        stalled_s += 0.3
        now = application.deadline + 0.3
        application.expired(now, late=late, stalled_s=stalled_s)
    assert now <= 12.0 + (EXCUSES + 1) * 2.3


def test_an_answer_renews_the_excuses() -> None:
    application = registered(now=10.0)
    now, stalled_s = 11.0, 0.0
    for _ in range(20):
        number = beat(application)
        now = application.deadline + 3.0
        stalled_s += 3.0
        application.expired(now, late=True, stalled_s=stalled_s)
        application.received(well(number), now)
        assert application.state is HEALTHY


def test_an_ill_application_that_falls_silent_is_reported_silent() -> None:
    application = registered(now=10.0)
    application.received(sick(beat(application)), 11.0)
    application.expired(12.0, late=False, stalled_s=0.0)
    assert application.expired(13.0, late=False, stalled_s=0.0) == [
        ApplicationStateChanged(ILL, SILENT, ApplicationEvent.TIMED_OUT)
    ]
    assert application.health == TIMEOUT


# -- answers to challenges ------------------------------------------------------------------------


def test_the_last_four_challenges_may_be_answered_and_no_older_one() -> None:
    application = registered(now=10.0)
    numbers = []
    for at in range(5):
        numbers.append(beat(application))
        application.received(well(numbers[-1]), 11.0 + at)
    assert application.received(sick(numbers[0]), 15.5) == [NO_RECENT]
    assert application.state is HEALTHY
    for number, deliver in zip(numbers[1:], [sick, well, sick, well], strict=True):
        application.received(deliver(number), 15.5)
        assert application.state is (ILL if deliver is sick else HEALTHY)


def test_a_wrong_echo_is_no_answer() -> None:
    application = registered(now=10.0)
    number = beat(application)
    for wrong in (0, number - 1, number + 1, 2**32 - 1):
        assert application.received(sick(wrong), 11.5) == [NO_RECENT]
        assert application.received(well(wrong), 11.5) == [NO_RECENT]
    assert state_of(application) == (HEALTHY, WELL, 12.0)
    application.expired(12.0, late=False, stalled_s=0.0)
    assert application.state is SILENT


def test_an_answer_before_the_first_challenge_or_without_registration_is_ignored() -> None:
    for application in (connected(), registered()):
        before = state_of(application)
        assert application.received(sick(0), 10.5) == [NO_RECENT]
        assert state_of(application) == before


def test_health_action_and_reason_are_those_of_the_last_answer() -> None:
    application = registered(now=10.0)
    assert application.received(sick(beat(application)), 11.1) == [
        ApplicationStateChanged(HEALTHY, ILL, ApplicationEvent.ANSWERED_ILL)
    ]
    assert application.health == HealthStatus(False, CorrectiveAction.LOG, "disk full", "web")
    number = beat(application)
    worse = AppChallengeResponse(number, False, CorrectiveAction.REBOOT, 'disk "a" gone\n')
    assert application.received(worse, 12.1) == [StillIll()]
    assert application.health == HealthStatus(
        False, CorrectiveAction.REBOOT, "disk 'a' gone", "web"
    )
    # What goes with a healthy answer says nothing.
    mended = AppChallengeResponse(number, True, CorrectiveAction.STOP, "was ill")
    assert application.received(mended, 12.2) == [
        ApplicationStateChanged(ILL, HEALTHY, ApplicationEvent.ANSWERED_HEALTHY)
    ]
    assert application.health == WELL


@pytest.mark.parametrize(
    ("answer", "news"),
    [
        (sick(0), []),
        (sick(0, "disk on fire"), [StillIll()]),
        (AppChallengeResponse(0, False, CorrectiveAction.REBOOT, "disk full"), [StillIll()]),
    ],
)
def test_while_it_is_ill_only_another_illness_is_news(
    answer: AppChallengeResponse, news: list[Effect]
) -> None:
    application = registered(now=10.0)
    application.received(sick(beat(application)), 11.1)
    number = beat(application)
    assert (
        application.received(msgspec.structs.replace(answer, heartbeat_response=number), 12.1)
        == news
    )
    assert application.state is ILL
    # Nor is it, said once more.
    number = beat(application)
    assert (
        application.received(msgspec.structs.replace(answer, heartbeat_response=number), 13.1) == []
    )


def test_its_health_goes_into_the_merge() -> None:
    silent, ill = registered(), registered()
    silent.expired(20.0, late=False, stalled_s=0.0)
    ill.received(sick(beat(ill)), 11.0)
    merge = HealthMerge(CorrectiveAction.REBOOT)
    report = merge.report([connected().health, ill.health, silent.health], 20.0)
    assert (report.health, report.action) == (Health.UNHEALTHY, CorrectiveAction.STOP)
    assert report.reason == TIMEOUT.reason


# -- votes and notices ----------------------------------------------------------------------------


@pytest.mark.parametrize("state", [HEALTHY, ILL, SILENT])
def test_it_is_asked_and_answers_under_that_id(state: ApplicationState) -> None:
    application = registered()
    if state is ILL:
        application.received(sick(beat(application)), 11.0)
    elif state is SILENT:
        application.expired(12.0, late=False, stalled_s=0.0)
    assert application.state is state
    (effect,) = application.ask(Event.PAUSE, VOTE)
    assert isinstance(effect, SendToApplication)
    assert isinstance(effect.message, AppActionNotify)
    number = effect.message.invocation_id
    assert effect.message == AppActionNotify(number, Event.PAUSE, VOTE)
    # It names another event than was asked: only the id counts.
    assert application.received(response(number, VoteResult.REJECT, 'no "a"'), 12.0) == [
        Answered(VoteResult.REJECT, "no 'a'")
    ]
    assert application.received(response(number), 12.1) == [NO_ROUND]
    assert application.state is state


@pytest.mark.parametrize("state", [UNREGISTERED, GONE])
def test_only_a_registered_application_is_asked(state: ApplicationState) -> None:
    application = connected()
    if state is GONE:
        application.closed(has_left=True)
    with pytest.raises(ValueError, match="the application is not registered"):
        application.ask(Event.PAUSE, VOTE)


def test_a_newer_question_withdraws_the_answer_to_the_older() -> None:
    application = registered()
    assert application.ask(Event.PAUSE, VOTE) == [
        SendToApplication(AppActionNotify(101, Event.PAUSE, VOTE))
    ]
    assert application.ask(Event.PAUSE, NOTICE) == [
        Withdrew(),
        SendToApplication(AppActionNotify(102, Event.PAUSE, NOTICE)),
    ]
    assert application.received(response(101, VoteResult.REJECT), 11.0) == [NO_ROUND]
    assert application.received(response(102, VoteResult.COMPLETE), 11.0) == [
        Answered(VoteResult.COMPLETE, "")
    ]


def test_an_answer_after_the_window_is_ignored() -> None:
    application = registered()
    application.ask(Event.PAUSE, VOTE)
    application.unask()
    assert application.received(response(101), 30.0) == [NO_ROUND]
    assert application.closed(has_left=True) == [
        ApplicationStateChanged(HEALTHY, GONE, ApplicationEvent.CONNECTION_CLOSED)
    ]


@pytest.mark.parametrize(
    "message", [AppInitAck(True), AppChallenge(1), AppActionNotify(1, Event.STOP, VOTE)]
)
def test_what_applications_do_not_send_is_ignored(message: AppMessage) -> None:
    application = registered()
    before = state_of(application)
    (effect,) = application.received(message, 11.0)
    assert effect == Ignored(
        f"{type(message).__name__.removeprefix('App')}, which applications don't send"
    )
    assert state_of(application) == before


# -- what was recorded ----------------------------------------------------------------------------


def test_the_recorded_stall_is_judged_as_the_deployed_guest_did() -> None:
    """One application is stopped from 4.5 s to 12 s, challenged on the deployed guest's grid."""
    captured = [m for m in api_capture("i4_app_hb_timeout_api") if m.connection == 1]
    numbers = [m.says["heartbeat_challenge"] for m in captured if m.says["type"] == "challenge"]
    application = ApplicationSession(iter(numbers).__next__)
    challenged, changes = [], []

    def apply(effects: list[Effect], at_s: float) -> None:
        for effect in effects:
            if isinstance(effect, SendToApplication) and isinstance(effect.message, AppChallenge):
                challenged.append(round(at_s))
            elif isinstance(effect, ApplicationStateChanged):
                changes.append((round(at_s), effect.new, application.health))

    for message in captured:
        if message.direction != APP_TO_GUEST:
            continue
        while application.deadline < message.at_s:
            at = application.deadline
            apply(application.expired(at, late=False, stalled_s=0.0), at)
        (said,) = AppDecoder().feed(message.data)
        apply(application.received(said, message.at_s), message.at_s)
    # Stopped after the challenge at 5; continued at 12, its late answer counts.
    timeout = "Application stall heartbeat timeout 2000 ms."
    assert changes == [
        (0, HEALTHY, WELL),
        (6, SILENT, HealthStatus(False, CorrectiveAction.STOP, timeout)),
        (12, HEALTHY, WELL),
    ]
    theirs = [round(m.at_s) for m in captured if m.says["type"] == "challenge" and m.at_s < 16.5]
    assert (
        challenged
        == [at for at in theirs if at <= max(challenged)]
        == [1, 2, 3, 4, 5, 13, 14, 15, 16]
    )


# -- any course of events -------------------------------------------------------------------------

MESSAGES: st.SearchStrategy[AppMessage] = st.one_of(
    st.builds(
        AppInit,
        st.text(max_size=40),
        st.sampled_from([0, 399, 400, 1000, 2**32 - 1]),
        *[st.integers(0, 2**32 - 1)] * 4,
        st.sampled_from(CorrectiveAction),
    ),
    st.builds(Final, st.text()),
    # Ids are drawn from 0 to 9, so that many are hit.
    st.builds(
        AppChallengeResponse,
        st.integers(0, 9),
        st.booleans(),
        st.sampled_from(CorrectiveAction),
        st.text(max_size=80),
    ),
    st.builds(
        AppActionResponse,
        st.integers(0, 9),
        st.sampled_from(Event),
        st.sampled_from(NotificationType),
        st.sampled_from(VoteResult),
        st.text(max_size=80),
    ),
    st.just(AppInitAck(True)),
)
STEPS: st.SearchStrategy[AppMessage | str] = st.one_of(
    MESSAGES, MESSAGES, st.sampled_from(["sleep", "sleep late", "ask", "unask"])
)


@settings(deadline=None)
@given(st.lists(STEPS, max_size=40))
def test_any_course_of_events(steps: list[AppMessage | str]) -> None:
    ids = itertools.cycle(range(10))
    application = ApplicationSession(ids.__next__)
    now, owed = 0.0, 0
    for step in steps:
        old = application.state
        match step:
            case "sleep" | "sleep late":
                now = max(now, min(application.deadline, now + 3600.0))
                effects = application.expired(now, late=step == "sleep late", stalled_s=0.0)
                assert application.deadline > now
            case "ask":
                if not application.registered:
                    continue
                effects = application.ask(Event.STOP, VOTE)
            case "unask":
                application.unask()
                owed, effects = 0, []
            case str():
                raise AssertionError(step)
            case message:
                now += 0.1
                effects = application.received(message, now)
        changes = [effect for effect in effects if isinstance(effect, ApplicationStateChanged)]
        if application.state is old:
            assert changes == []
        else:
            (change,) = changes
            assert (change.old, change.new) == (old, application.state)
            assert APPLICATION_TABLE.after(change.old, change.event) is change.new
        for effect in effects:
            match effect:
                case Answered() | Withdrew():
                    owed -= 1
                case SendToApplication(AppActionNotify()):
                    owed += 1
        # Each question has at most one end, and none is forgotten.
        assert owed in (0, 1)
        assert application.health.healthy is (application.state not in (ILL, SILENT))
        assert application.registered is (application.deadline < math.inf)
        reason = application.health.reason
        assert reason == plain_text(reason, 191)
    left = application.closed(has_left=True)
    assert left.count(Withdrew()) == owed
