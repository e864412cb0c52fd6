"""How many instances of a host were heartbeating when one of them failed."""

from __future__ import annotations

from hbtrio.policy.losses import Beating


def told(*uuids: str) -> Beating:
    beating = Beating()
    for uuid in uuids:
        beating.told(uuid, beating=True, now=0.0)
    return beating


def test_those_that_ceased_in_the_same_interval_count() -> None:
    beating = told("a", "b", "c")
    for uuid in "abc":
        beating.told(uuid, beating=False, now=5.0)
    assert len(beating) == 0
    assert beating.before("a", 5.0, 1.0) == 3
    assert beating.before("a", 6.0, 1.0) == 3
    assert beating.before("a", 6.1, 1.0) == 1


def test_the_one_that_failed_counts_once() -> None:
    beating = told("a", "b")
    assert beating.before("a", 0.0, 1.0) == 2
    assert beating.before("never heard of", 0.0, 1.0) == 3


def test_what_ceased_before_anybody_listened_counts_for_an_interval() -> None:
    beating = told("a")
    beating.told("b", beating=False, now=5.0)
    assert (len(beating), beating.before("a", 6.0, 1.0)) == (1, 2)
    # To be told again of what is known already is no news.
    beating.told("b", beating=False, now=1000.0)
    assert beating.before("a", 1000.0, 1.0) == 1


def test_one_that_is_back_counts_once() -> None:
    beating = told("a", "b")
    beating.told("a", beating=False, now=0.0)
    beating.told("a", beating=True, now=0.1)
    assert (len(beating), beating.before("a", 0.2, 1.0)) == (2, 2)


def test_one_that_is_gone_does_not_count() -> None:
    beating = told("a", "b", "c")
    beating.told("a", beating=False, now=0.0)
    beating.gone("a")
    beating.gone("b")
    beating.gone("never heard of")
    assert (len(beating), beating.before("c", 0.0, 1.0)) == (1, 1)


def test_a_shorter_interval_forgets_nothing() -> None:
    beating = told("a", "b", "c")
    beating.told("a", beating=False, now=0.0)
    assert beating.before("b", 5.0, 1.0) == 2
    assert beating.before("b", 5.0, 10.0) == 3


def test_those_that_a_host_does_not_tell_of_are_gone() -> None:
    beating = told("a", "b", "c")
    for uuid in "bc":
        beating.told(uuid, beating=False, now=0.0)
    beating.only({"b", "never heard of"})
    assert (len(beating), beating.before("b", 0.0, 1.0)) == (0, 1)
