"""When an unhealthy answer is news."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hbtrio.fsm.heartbeat.illness import REPORTS, REPORTS_PERIOD_S, SAME_AGAIN_S, Illness
from hbtrio.wire.channel_codec import decode
from hbtrio.wire.channel_messages import ChallengeResponse
from hbtrio.wire.vocabulary import CorrectiveAction, Health
from wire.captured import capture

WELL, ILL = Health.HEALTHY, Health.UNHEALTHY
NONE, REBOOT, STOP, LOG, UNKNOWN = CorrectiveAction


def test_ill_health_with_an_action_is_news_at_once() -> None:
    assert Illness().is_news(ILL, REBOOT, 5.0)


@pytest.mark.parametrize("health", [Health.HEALTHY, Health.UNKNOWN])
@pytest.mark.parametrize("action", CorrectiveAction)
def test_a_healthy_guest_asks_for_nothing_whatever_its_action(
    health: Health, action: CorrectiveAction
) -> None:
    assert not Illness().is_news(health, action, 0.0)


@pytest.mark.parametrize("action", [NONE, UNKNOWN])
def test_an_illness_without_an_action_is_no_news(action: CorrectiveAction) -> None:
    assert not Illness().is_news(ILL, action, 0.0)


def test_the_same_action_with_every_beat_is_news_once_in_55_s() -> None:
    illness = Illness()
    news = [at for at in range(120) if illness.is_news(ILL, REBOOT, float(at))]
    assert (news, SAME_AGAIN_S) == ([0, 55, 110], 55.0)


def test_the_repetition_of_a_deployed_client_is_always_news() -> None:
    illness = Illness()
    news = [
        round(captured.at_s)
        for captured in capture("g_health")
        if isinstance(answer := decode(captured.line), ChallengeResponse)
        and illness.is_news(answer.heartbeat_health, answer.corrective_action, captured.at_s)
    ]
    assert news == [7, 67, 89]


def test_none_in_between_does_not_make_the_same_action_news() -> None:
    illness = Illness()
    assert illness.is_news(ILL, REBOOT, 0.0)
    assert not illness.is_news(ILL, NONE, 1.0)
    assert not illness.is_news(ILL, REBOOT, 2.0)
    assert illness.is_news(ILL, REBOOT, 55.0)


def test_another_action_and_a_relapse_are_news() -> None:
    illness = Illness()
    assert illness.is_news(ILL, LOG, 0.0)
    assert illness.is_news(ILL, STOP, 1.0)
    assert not illness.is_news(WELL, STOP, 2.0)
    assert illness.is_news(ILL, STOP, 3.0)


def test_a_guest_that_changes_its_mind_with_every_beat_gets_six_a_minute() -> None:
    illness = Illness()
    news = [at for at in range(120) if illness.is_news(WELL if at % 2 else ILL, REBOOT, float(at))]
    assert news == [0, 2, 4, 6, 8, 10, 60, 62, 64, 66, 68, 70]


def test_what_the_quota_refused_is_news_as_soon_as_there_is_room() -> None:
    illness = Illness()
    actions = [REBOOT, STOP] * 3
    assert all(illness.is_news(ILL, action, float(n)) for n, action in enumerate(actions))
    assert not illness.is_news(ILL, LOG, 6.0)
    assert not illness.is_news(ILL, LOG, 59.0)
    assert illness.is_news(ILL, LOG, 60.0)


@settings(deadline=None)  # a shared machine may be slow
@given(
    st.lists(
        st.tuples(
            st.integers(0, 40), st.sampled_from(Health), st.sampled_from(list(CorrectiveAction))
        ),
        max_size=60,
    )
)
def test_no_minute_holds_more_reports_than_the_quota(
    beats: list[tuple[int, Health, CorrectiveAction]],
) -> None:
    illness, now = Illness(), 0.0
    news: list[float] = []
    for quarters, health, action in beats:
        now += quarters / 4
        if illness.is_news(health, action, now):
            assert (health, action.is_actionable) == (ILL, True)
            news.append(now)
    for at in news:
        assert sum(at <= other < at + REPORTS_PERIOD_S for other in news) <= REPORTS
