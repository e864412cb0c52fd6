"""So many in so long, whenever they come."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hbtrio.policy.quota import ByteBucket, Quota

#: Quarters of a second: sums of them are exact.
TIMES = st.lists(st.integers(0, 400), max_size=60).map(lambda q: [n / 4 for n in sorted(q)])


def test_a_quota_is_used_up_and_flows_back_one_by_one() -> None:
    quota = Quota(2, 60.0)
    assert [quota.take(now) for now in (0.0, 1.0, 2.0, 59.9)] == [True, True, False, False]
    assert [quota.take(now) for now in (60.0, 60.0, 60.9, 61.0)] == [True, False, False, True]


def test_what_was_refused_does_not_count() -> None:
    quota = Quota(1, 10.0)
    assert quota.take(0.0)
    assert not any(quota.take(1.0 + n) for n in range(9))
    assert quota.take(10.0)


def test_a_quota_of_nothing_grants_nothing() -> None:
    quota = Quota(0, 1.0)
    assert not any(quota.take(float(now)) for now in range(10))


@settings(deadline=None)  # a shared machine may be slow
@given(TIMES, st.integers(1, 5), st.sampled_from([0.25, 1.0, 7.0]))
def test_no_period_ever_holds_more_than_the_quota_and_none_is_withheld(
    times: list[float], count: int, period_s: float
) -> None:
    quota = Quota(count, period_s)
    granted: list[float] = []
    for now in times:
        recent = sum(now - at < period_s for at in granted)
        assert quota.take(now) is (recent < count)
        if recent < count:
            granted.append(now)
    for at in granted:
        assert sum(at <= other < at + period_s for other in granted) <= count


def test_a_bucket_lets_a_burst_through_and_then_asks_for_a_rest() -> None:
    bucket = ByteBucket(rate=100, burst=1000, now=5.0)
    assert bucket.take(1000, 5.0) == 0.0
    assert bucket.take(50, 5.0) == 0.5
    # Half a second later the debt is paid, and nothing is in hand.
    assert bucket.take(0, 5.5) == 0.0
    assert bucket.take(1, 5.5) == 0.01


def test_a_bucket_never_saves_more_than_a_burst() -> None:
    bucket = ByteBucket(rate=100, burst=1000, now=0.0)
    assert bucket.take(1000, 10_000.0) == 0.0
    assert bucket.take(100, 10_000.0) == 1.0


@pytest.mark.parametrize("read", [1, 100, 4096])
def test_a_flooder_that_is_left_unread_as_told_gets_its_rate_and_no_more(read: int) -> None:
    bucket = ByteBucket(rate=8192, burst=8192, now=0.0)
    now, total = 0.0, 0
    while now < 10:
        total += read
        now += bucket.take(read, now)
    assert 8192 * 10 <= total <= 8192 + 8192 * now
    assert now < 10 + read / 8192
