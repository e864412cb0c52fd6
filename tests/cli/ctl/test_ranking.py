"""Which instances a status shows, and in which order."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbtrio.api.host_status import NOT_WATCHED
from hbtrio.cli.ctl.arguments import _STATES
from hbtrio.cli.ctl.ranking import Selection, counts, shown_name
from hbtrio.errors import ExitStatus, UserError
from hbtrio.fsm.heartbeat.table import HeartbeatState
from hbtrio.wire.operator import FleetInstanceLine
from support.host_world import uuid_of


def one(
    name: str, state: str = "heartbeating", *, number: int = 1, ill: bool = False, host: str = ""
) -> FleetInstanceLine:
    return FleetInstanceLine(
        uuid=uuid_of(number),
        name=name,
        hostname=host,
        state=state,
        heartbeating=state == "heartbeating",
        health="unhealthy" if ill else "healthy",
        reporting=True,
        why="",
    )


def names(selection: Selection, *instances: FleetInstanceLine) -> list[str]:
    return [instance.name for instance in selection.of_instances(instances)]


def test_the_worst_come_first_and_numbers_count() -> None:
    shown = names(
        Selection(),
        one("web-10"),
        one("web-9"),
        one("Web-9b", "paused"),
        one("u", "unwatched"),
        one("z", "absent"),
        one("b", ill=True),
        one("a", "lost", number=3),
        one("a", "lost", number=2),
    )
    assert shown == ["a", "a", "b", "z", "u", "web-9", "Web-9b", "web-10"]


def test_who_is_ill_and_silent_is_not_called_ill() -> None:
    assert counts([one("a", "suspended", ill=True), one("b", ill=True), one("c")]) == (
        "1 ill, 1 suspended"
    )


def test_the_counts_begin_with_the_worst_and_are_nothing_where_all_is_well() -> None:
    assert counts([one("a"), one("b")]) == ""
    states = ("waiting", "lost", "paused", "unwatched", "absent", "lost")
    assert counts([one("x", state) for state in states]) == (
        "2 lost, 1 absent, 1 unwatched, 1 paused, 1 waiting"
    )


def test_one_that_is_not_watched_is_asked_for_in_one_word() -> None:
    instances = (one("a", NOT_WATCHED), one("b", number=2))
    assert names(Selection(states=frozenset({"not-watched"})), *instances) == ["a"]


def test_of_a_host() -> None:
    instances = (one("a", host="compute-0"), one("b", host="compute-1", number=2))
    assert names(Selection(host="compute-1"), *instances) == ["b"]
    with pytest.raises(UserError, match=r"^no instance on compute-2$") as caught:
        Selection(host="compute-2").of_instances(instances)
    assert caught.value.status is ExitStatus.FAILED


def test_conditions_are_met_together() -> None:
    instances = (
        one("a", "lost", host="h", number=1),
        one("b", "lost", host="i", number=2),
        one("c", host="h", number=3),
    )
    assert names(Selection(host="h", unhealthy=True), *instances) == ["a"]
    assert names(Selection(words=("b", "c"), states=frozenset({"lost"})), *instances) == ["b"]


def test_the_name_of_a_domain_goes_before_the_guests() -> None:
    assert shown_name(one("x")) == "x"
    assert shown_name(msgspec.structs.replace(one("x"), domain="db")) == "db"


def test_each_state_can_be_asked_for() -> None:
    assert set(_STATES) == {
        *(state.shown for state in HeartbeatState),
        NOT_WATCHED.replace(" ", "-"),
    } - {"gone"}


@given(st.lists(st.text(max_size=30), max_size=20))
def test_any_name_has_a_place(texts: list[str]) -> None:
    instances = [one(text, number=number) for number, text in enumerate(texts, 1)]
    shown = Selection().of_instances(instances)
    assert sorted(instance.uuid for instance in shown) == [item.uuid for item in instances]
    assert shown == Selection().of_instances(shown[::-1])


def test_a_number_too_long_to_be_one_is_text() -> None:
    assert names(Selection(), one("9" * 5000), one("1")) == ["1", "9" * 5000]
