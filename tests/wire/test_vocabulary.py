"""The words of the protocol and the event table, compared with what PROTOCOL says of them."""

from __future__ import annotations

import pytest

from hbtrio.wire.vocabulary import (
    ACTION_TABLE,
    EVENT_TABLE,
    ActionName,
    CorrectiveAction,
    Event,
    ExpectedEffect,
    Health,
    NotificationType,
    VoteResult,
    WindowKind,
    window_of,
)

#: Action, event, "vote" where there is one, "pre" or "post", window of the notice.
EVENT_TABLE_OF_THE_PROTOCOL = """
    stop          stop                vote  pre   SHUTDOWN_NOTICE
    reboot        reboot              vote  pre   SHUTDOWN_NOTICE
    pause         pause               vote  pre   SUSPEND_NOTICE
    unpause       unpause             -     post  RESUME_NOTICE
    suspend       suspend             vote  pre   SUSPEND_NOTICE
    resume        resume              -     post  RESUME_NOTICE
    resize        resize_begin        vote  pre   SUSPEND_NOTICE
    resize        resize_end          -     post  RESUME_NOTICE
    live-migrate  live_migrate_begin  vote  pre   SUSPEND_NOTICE
    live-migrate  live_migrate_end    -     post  RESUME_NOTICE
    cold-migrate  cold_migrate_begin  vote  pre   SUSPEND_NOTICE
    cold-migrate  cold_migrate_end    -     post  RESUME_NOTICE
"""
ROWS = [line.split() for line in EVENT_TABLE_OF_THE_PROTOCOL.strip().splitlines()]


def test_the_event_table_has_a_row_for_every_event_and_no_other() -> None:
    assert [str(event) for event in EVENT_TABLE] == [row[1] for row in ROWS]
    assert set(EVENT_TABLE) == set(Event) - {Event.UNKNOWN}


@pytest.mark.parametrize(("action", "event", "vote", "when", "notice"), ROWS)
def test_an_event_has_the_vote_and_the_windows_of_its_row(
    action: str, event: str, vote: str, when: str, notice: str
) -> None:
    rule = EVENT_TABLE[Event(event)]
    assert (rule.voted, str(rule.notice)) == (vote == "vote", notice)
    assert window_of(Event(event), NotificationType.REVOCABLE) is WindowKind.VOTE
    assert window_of(Event(event), NotificationType.IRREVOCABLE) is WindowKind(notice)
    around = ACTION_TABLE[ActionName(action)]
    assert (around.before if when == "pre" else around.after) is Event(event)


def test_the_action_table_has_a_row_for_every_action_and_no_further_events() -> None:
    assert set(ACTION_TABLE) == {ActionName(row[0]) for row in ROWS} == set(ActionName)
    events = [e for rule in ACTION_TABLE.values() for e in (rule.before, rule.after) if e]
    assert sorted(events) == sorted(EVENT_TABLE)
    restarting = {name for name, rule in ACTION_TABLE.items() if rule.restarts}
    assert restarting == {ActionName.REBOOT, ActionName.RESIZE, ActionName.COLD_MIGRATE}


def test_what_the_host_expects_after_a_notice() -> None:
    expected = {
        ExpectedEffect.STOPS: "stop",
        ExpectedEffect.RESTARTS: "reboot resize_begin cold_migrate_begin",
        ExpectedEffect.FREEZES: "pause suspend live_migrate_begin",
        ExpectedEffect.RETURNS: "unpause resume resize_end live_migrate_end cold_migrate_end",
    }
    for effect, events in expected.items():
        found = {event for event, rule in EVENT_TABLE.items() if rule.effect is effect}
        assert found == {Event(event) for event in events.split()}


def test_there_is_no_window_for_an_unknown_event() -> None:
    for notification in NotificationType:
        with pytest.raises(KeyError):
            window_of(Event.UNKNOWN, notification)


@pytest.mark.parametrize("word", [CorrectiveAction, Health, NotificationType, VoteResult, Event])
def test_an_odd_word_is_unknown_but_a_number_is_a_fault(
    word: type[CorrectiveAction | Health | NotificationType | VoteResult | Event],
) -> None:
    assert word("no such word") is word("unknown") is word["UNKNOWN"]
    assert word("") is word["UNKNOWN"]
    for value in (None, 3, True, ["stop"]):
        with pytest.raises(ValueError, match="is not a valid"):
            word(value)


@pytest.mark.parametrize(
    ("word", "values"),
    [
        (CorrectiveAction, "none reboot stop log unknown"),
        (Health, "healthy unhealthy unknown"),
        (NotificationType, "revocable irrevocable unknown"),
        (VoteResult, "accept reject complete timeout error unknown"),
    ],
)
def test_the_words_on_the_wire(
    word: type[CorrectiveAction | Health | NotificationType | VoteResult], values: str
) -> None:
    assert [str(member) for member in word] == values.split()


def test_corrective_actions_by_strength() -> None:
    ranked = [CorrectiveAction.STOP, CorrectiveAction.REBOOT, CorrectiveAction.LOG]
    assert [action.strength for action in ranked] == [3, 2, 1]
    assert all(action.is_actionable for action in ranked)
    for action in (CorrectiveAction.NONE, CorrectiveAction.UNKNOWN):
        assert (action.strength, action.is_actionable) == (0, False)
