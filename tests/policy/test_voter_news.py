"""When a guest reports its voters, which ones, and how many at a time."""

from __future__ import annotations

import msgspec

from hbtrio.policy.voter_news import (
    INTERVAL_S,
    PER_ANSWER,
    REFRESH_S,
    KnownVoter,
    LastRequest,
    VoterNews,
)
from hbtrio.wire.channel_messages import MAX_VOTERS, VoterState
from hbtrio.wire.vocabulary import (
    CorrectiveAction,
    Event,
    NotificationType,
    VoterAnswer,
    VoterHealth,
)

REJECTED = LastRequest(
    Event.STOP, NotificationType.REVOCABLE, VoterAnswer.REJECT, "3 orders are open", at=7.5
)
ORDERS = KnownVoter(
    "orders", VoterHealth.ILL, 4.0, 1000, CorrectiveAction.LOG, "disk full", REJECTED
)
SCRIPT = KnownVoter("handler")


class Guest:
    """Voters that a test changes, and the news of them."""

    def __init__(self, *voters: KnownVoter) -> None:
        self.voters = list(voters)
        self.looks = 0
        self._news = VoterNews()

    def at(self, now: float, *, anew: bool = False) -> list[VoterState]:
        """What goes out with the answer at this time."""
        return self._news.next(self._look, now, anew=anew)

    def names_at(self, now: float, *, anew: bool = False) -> list[str]:
        return [state.name for state in self.at(now, anew=anew)]

    def _look(self) -> list[KnownVoter]:
        self.looks += 1
        return self.voters


def test_all_that_is_known_of_a_voter() -> None:
    orders, script = Guest(SCRIPT, ORDERS).at(10.0, anew=True)
    assert orders == VoterState(
        place=1,
        count=2,
        unlisted=0,
        name="orders",
        health=VoterHealth.ILL,
        health_s=6,
        interval_ms=1000,
        corrective_action=CorrectiveAction.LOG,
        reason="disk full",
        event_type=Event.STOP,
        notification_type=NotificationType.REVOCABLE,
        answer=VoterAnswer.REJECT,
        answer_reason="3 orders are open",
        ago_s=2,
    )
    assert (script.place, script.count, script.name) == (2, 2, "handler")
    assert (script.health, script.interval_ms) == (VoterHealth.NONE, 0)
    assert (script.notification_type, script.answer) == (
        NotificationType.UNKNOWN,
        VoterAnswer.NONE,
    )


def test_a_change_is_reported_once_and_not_too_soon() -> None:
    guest = Guest(ORDERS)
    assert guest.names_at(10.0, anew=True) == ["orders"]
    guest.voters.append(SCRIPT)
    assert guest.names_at(10.0 + INTERVAL_S - 0.1) == []
    assert guest.names_at(10.0 + INTERVAL_S) == ["orders", "handler"]
    guest.looks = 0
    assert guest.names_at(19.9) == []
    assert guest.looks == 0
    # Nothing has changed since, apart from the time.
    assert guest.names_at(21.0) == []
    assert guest.looks == 1
    # After a long silence a change goes out with the next answer.
    guest.voters[0] = msgspec.structs.replace(ORDERS, health=VoterHealth.HEALTHY, since=21.5)
    assert guest.names_at(22.0) == ["orders", "handler"]


def test_the_same_list_is_repeated_after_a_minute() -> None:
    guest = Guest(SCRIPT)
    guest.at(10.0, anew=True)
    assert guest.names_at(10.0 + REFRESH_S - 0.1) == []
    assert guest.names_at(10.0 + REFRESH_S) == ["handler"]
    assert guest.names_at(10.0 + 2 * REFRESH_S - 0.1) == []


def test_another_init_makes_the_host_forget_all_and_begins_anew() -> None:
    guest = Guest(*(KnownVoter(f"v{number}") for number in range(6)))
    assert len(guest.at(10.0, anew=True)) == PER_ANSWER
    assert guest.names_at(11.0, anew=True) == ["v0", "v1", "v2", "v3"]
    assert guest.names_at(12.0) == ["v4", "v5"]


def test_few_voters_go_out_with_one_answer() -> None:
    guest = Guest(*(KnownVoter(f"v{number}") for number in range(9)))
    assert len(guest.at(10.0, anew=True)) == PER_ANSWER
    guest.voters.clear()  # the list is sent to its end
    assert [state.place for state in guest.at(11.0)] == [5, 6, 7, 8]
    assert [(state.place, state.count) for state in guest.at(12.0)] == [(9, 9)]
    assert guest.at(13.0) == []


def test_the_worst_are_listed_and_the_others_counted() -> None:
    healthy = [KnownVoter(f"h{n}", VoterHealth.HEALTHY) for n in range(MAX_VOTERS)]
    guest = Guest(SCRIPT, *healthy, ORDERS, KnownVoter("mute", VoterHealth.SILENT))
    states = [state for now in range(10, 16) for state in guest.at(now, anew=now == 10)]
    assert [state.name for state in states] == ["mute", "orders", *(f"h{n}" for n in range(14))]
    assert {(state.count, state.unlisted) for state in states} == {(MAX_VOTERS, 3)}
    # One more that is not listed is news, too.
    guest.voters.append(KnownVoter("another", VoterHealth.HEALTHY))
    assert [state.unlisted for state in guest.at(20.0)] == [4] * PER_ANSWER


def test_a_crowd_is_not_looked_at_with_each_answer() -> None:
    guest = Guest(*(KnownVoter(f"h{n}", VoterHealth.HEALTHY) for n in range(MAX_VOTERS + 1)))
    assert len(guest.at(10.0, anew=True)) == PER_ANSWER
    for now in (11.0, 12.0, 13.0):
        guest.at(now)
    assert guest.looks == 1
    for now in (15.0, 16.0, 17.0, 18.0, 19.0):
        assert guest.at(now) == []
    assert guest.looks == 2
    guest.voters.pop()
    assert guest.at(20.0)
    assert guest.looks == 3


def test_a_guest_without_voters_says_so() -> None:
    guest = Guest()
    [nobody] = guest.at(10.0, anew=True)
    assert (nobody.place, nobody.count, nobody.unlisted, nobody.name) == (0, 0, 0, "")
    assert guest.at(20.0) == []
    [again] = guest.at(10.0 + REFRESH_S)
    assert again.count == 0


def test_no_time_is_too_long_for_a_number() -> None:
    old = KnownVoter("old", VoterHealth.HEALTHY, since=0.0)
    [state] = Guest(old).at(1e12, anew=True)
    assert state.health_s == 2**31 - 1
