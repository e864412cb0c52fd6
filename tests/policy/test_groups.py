"""Groups: who is a member, how many may be unavailable, and who may go down now."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hbtrio.policy.group_rule import Amount, Group
from hbtrio.policy.groups import CORRECTING, TAKING_DOWN, Groups
from hbtrio.wire.vocabulary import EVENT_TABLE, CorrectiveAction, Event, ExpectedEffect

UUIDS = {f"db-{number}": f"{number:08x}-0000-4000-8000-000000000000" for number in range(1, 7)}
DB_1, DB_2, DB_3 = (UUIDS[f"db-{number}"] for number in (1, 2, 3))
RESTARTING = TAKING_DOWN[Event.REBOOT]


def group(
    members: tuple[str, ...] = ("db-*",),
    *,
    name: str = "db",
    most: int | str | None = None,
    least: int | str | None = None,
    delay_s: float = 300.0,
) -> Group:
    return Group.configured(name, members, most, least, delay_s)


class Fleet:
    """Groups, and the states of their members."""

    def __init__(self, *groups: Group, size: int = 3) -> None:
        self.states: dict[str, str] = {}
        self.groups = Groups(groups, lambda uuid: self.states.get(uuid, ""))
        for name, uuid in list(UUIDS.items())[:size]:
            self.groups.joined(uuid, name)


# -- the rule itself ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "total", "allowed"),
    [
        (0, 3, 0),
        (1, 3, 1),
        (5, 3, 5),
        ("0%", 3, 0),
        ("33%", 3, 0),  # 0.99
        ("34%", 3, 1),
        ("50%", 3, 1),
        ("99%", 3, 2),
        ("100%", 3, 3),
        ("33%", 100, 33),
        ("50%", 0, 0),
    ],
)
def test_a_share_that_may_be_unavailable_rounds_down(
    limit: int | str, total: int, allowed: int
) -> None:
    assert group(most=limit).allowed(total) == allowed


@pytest.mark.parametrize(
    ("limit", "total", "allowed"),
    [
        (2, 3, 1),
        (3, 3, 0),
        (4, 3, 0),  # too few members: none may go down
        ("66%", 3, 1),  # 1.98, so 2 must be available
        ("67%", 3, 0),  # 2.01
        ("1%", 3, 2),
        ("0%", 3, 3),
        ("100%", 3, 0),
    ],
)
def test_a_share_that_must_be_available_rounds_up(
    limit: int | str, total: int, allowed: int
) -> None:
    assert group(least=limit).allowed(total) == allowed


@pytest.mark.parametrize("percent", range(101))
@pytest.mark.parametrize("total", [1, 2, 3, 7, 100])
def test_no_share_ever_allows_more_than_it_says(percent: int, total: int) -> None:
    share = Amount(percent, is_share=True)
    assert share.floor(total) * 100 <= total * percent <= share.ceiling(total) * 100


@pytest.mark.parametrize(
    ("globs", "name", "found"),
    [
        (("db-1",), "db-1", True),
        (("db-1",), "db-10", False),
        (("db-*",), "db-1", True),
        (("db-*",), "DB-1", False),
        (("web", "db-[0-9]"), "db-1", True),
        ((DB_1,), "", True),
        ((DB_1.upper(),), "", True),
        (("00000001-*",), "x", True),
        (("db-*",), "", False),
        (("*",), "", True),
    ],
)
def test_who_is_a_member(globs: tuple[str, ...], name: str, found: bool) -> None:
    assert group(globs, most=1).has(DB_1, name) is found


# -- events ---------------------------------------------------------------------------------------


def test_each_event_that_ends_with_the_vm_away_takes_it_down_and_no_other() -> None:
    returns = {event for event, row in EVENT_TABLE.items() if row.effect is ExpectedEffect.RETURNS}
    assert set(TAKING_DOWN) == set(EVENT_TABLE) - returns


def test_a_corrective_action_that_does_something_takes_the_vm_down() -> None:
    assert set(CORRECTING) == {CorrectiveAction.REBOOT, CorrectiveAction.STOP}


# -- who may go down ------------------------------------------------------------------------------


def test_the_last_place_is_taken_once_at_one_moment() -> None:
    fleet = Fleet(group(most=1))
    assert fleet.groups.take(DB_2, "action", RESTARTING) == ""
    expected = "group db: db-2 is restarting, at most 1 of 3 may be unavailable"
    assert fleet.groups.take(DB_1, "action", RESTARTING) == expected
    assert not fleet.groups.holds(DB_1, "action")
    fleet.groups.give_back(DB_2, "action")
    assert fleet.groups.take(DB_1, "action", RESTARTING) == ""


def test_what_must_be_available_has_words_of_the_same_shape() -> None:
    fleet = Fleet(group(least=2))
    fleet.groups.hold(DB_2, "action", RESTARTING)
    expected = "group db: db-2 is restarting, at least 2 of 3 must be available"
    assert fleet.groups.refusal(DB_1) == expected


def test_a_share_is_told_as_a_number() -> None:
    fleet = Fleet(group(most="50%"))
    fleet.states[DB_3] = "is stopped"
    expected = "group db: db-3 is stopped, at most 1 of 3 may be unavailable"
    assert fleet.groups.refusal(DB_1) == expected


def test_a_group_of_which_none_may_go_down_names_nobody() -> None:
    fleet = Fleet(group(most=0))
    assert fleet.groups.refusal(DB_1) == "group db: at most 0 of 3 may be unavailable"


def test_of_many_members_three_are_named() -> None:
    fleet = Fleet(group(most=4), size=6)
    for uuid in list(UUIDS.values())[1:]:
        fleet.states[uuid] = "is lost"
    assert fleet.groups.refusal(DB_1) == (
        "group db: db-2 is lost, db-3 is lost, db-4 is lost, 2 more are unavailable, "
        "at most 4 of 6 may be unavailable"
    )


def test_a_member_without_a_name_is_told_by_its_uuid() -> None:
    fleet = Fleet(group(("*",), most=1), size=0)
    fleet.groups.joined(DB_1, "db-1")
    fleet.groups.joined(DB_2, "")
    fleet.states[DB_2] = "is lost"
    assert fleet.groups.refusal(DB_1).startswith(f"group db: {DB_2} is lost, at most 1 of 2")


def test_the_target_is_not_counted_twice() -> None:
    fleet = Fleet(group(most=1))
    fleet.states[DB_1] = "is lost"
    assert fleet.groups.take(DB_1, "action", RESTARTING) == ""
    assert fleet.groups.take(DB_1, "vote", RESTARTING) == ""
    assert fleet.groups.refusal(DB_2).startswith("group db: db-1 is restarting, at most 1 of 3")


def test_of_two_that_are_down_already_one_goes_at_a_time() -> None:
    fleet = Fleet(group(most=1))
    fleet.states |= {DB_1: "is lost", DB_2: "is lost"}
    assert fleet.groups.take(DB_1, "action", RESTARTING) == ""
    assert fleet.groups.refusal(DB_2).startswith("group db: db-1 is restarting")
    fleet.groups.give_back(DB_1, "action")
    assert fleet.groups.refusal(DB_2) == ""
    assert fleet.groups.refusal(DB_3) != ""


def test_an_instance_in_several_groups_satisfies_all() -> None:
    fleet = Fleet(group(most=2), group(("db-1", "db-2"), name="pair", most=1))
    fleet.states[DB_2] = "is lost"
    expected = "group pair: db-2 is lost, at most 1 of 2 may be unavailable"
    assert fleet.groups.refusal(DB_1) == expected
    assert fleet.groups.refusal(DB_3) == ""


def test_an_instance_in_no_group_may_always_go_down() -> None:
    fleet = Fleet(group(("db-2", "db-3"), most=0))
    assert not fleet.groups.joined(DB_1, "db-1")
    assert fleet.groups.take(DB_1, "action", RESTARTING) == ""


def test_several_places_of_an_instance_are_given_back_one_by_one() -> None:
    fleet = Fleet(group(most=1))
    fleet.groups.hold(DB_1, "event", "is being migrated")
    fleet.groups.hold(DB_1, "action", RESTARTING)
    assert fleet.groups.give_back(DB_1, "event")
    assert not fleet.groups.give_back(DB_1, "event")
    assert fleet.groups.refusal(DB_2) != ""
    assert fleet.groups.give_back(DB_1, "action")
    assert fleet.groups.refusal(DB_2) == ""
    assert fleet.groups.going_down == frozenset()


# -- members --------------------------------------------------------------------------------------


def test_a_member_stays_one_until_it_has_left() -> None:
    fleet = Fleet(group(most=1))
    fleet.states[DB_1] = "is stopped"
    assert not fleet.groups.joined(DB_1, "")  # its name is unknown for a moment
    assert fleet.groups.refusal(DB_2) != ""
    assert fleet.groups.left(DB_1)
    assert not fleet.groups.left(DB_1)
    assert fleet.groups.refusal(DB_2) == ""
    assert fleet.groups.in_group("db") == {DB_2, DB_3}


def test_a_new_name_may_be_that_of_another_group_or_of_none() -> None:
    fleet = Fleet(group(most=1), group(("web-*",), name="web", most=1))
    assert fleet.groups.joined(DB_1, "web-1")
    assert fleet.groups.in_group("web") == {DB_1}
    assert not fleet.groups.joined(DB_1, "mail-1")
    assert fleet.groups.groups_of(DB_1) == ()


def test_a_picture_of_a_group() -> None:
    fleet = Fleet(group(most=2))
    fleet.states[DB_1] = "is lost"
    (picture,) = fleet.groups.pictures()
    assert (picture.total, picture.available, picture.allowed) == (3, 2, 2)
    assert picture.allowed_now == 1
    assert [(one.name, one.words) for one in picture.unavailable] == [("db-1", "is lost")]


# -- corrective actions ---------------------------------------------------------------------------


def test_a_corrective_action_waits_only_for_what_our_actions_take_down() -> None:
    fleet = Fleet(group(most=1))
    fleet.states |= {DB_1: "is lost", DB_3: "is stopped"}
    assert fleet.groups.hindrance(DB_1, 0.0) == ""
    fleet.groups.hold(DB_2, "action", RESTARTING)
    expected = "group db: db-2 is restarting, at most 1 of 3 may be unavailable"
    assert fleet.groups.hindrance(DB_1, 0.0) == expected
    assert fleet.groups.hindrance(DB_1, 0.0, 299.9) == expected
    assert fleet.groups.hindrance(DB_1, 0.0, 300.0) == ""


def test_of_several_that_wait_the_oldest_goes_first() -> None:
    fleet = Fleet(group(most=1))
    lost_at = {DB_3: 1.0, DB_1: 2.0, DB_2: 2.0}
    fleet.states |= dict.fromkeys(lost_at, "is lost")
    for uuid, at in lost_at.items():
        fleet.groups.waits(uuid, at)
    free = [uuid for uuid, at in lost_at.items() if not fleet.groups.hindrance(uuid, at)]
    assert free == [DB_3]
    assert fleet.groups.waits_no_more(DB_3)
    assert not fleet.groups.waits_no_more(DB_3)
    fleet.groups.hold(DB_3, "command", RESTARTING)
    del lost_at[DB_3]
    assert all(fleet.groups.hindrance(uuid, at) for uuid, at in lost_at.items())
    fleet.groups.give_back(DB_3, "command")
    free = [uuid for uuid, at in lost_at.items() if not fleet.groups.hindrance(uuid, at)]
    assert free == [DB_1]


def test_a_group_of_which_none_may_go_down_is_corrected_one_by_one() -> None:
    fleet = Fleet(group(most=0))
    assert fleet.groups.hindrance(DB_1, 0.0) == ""
    fleet.groups.hold(DB_1, "command", RESTARTING)
    assert fleet.groups.hindrance(DB_2, 0.0) != ""


def test_each_group_has_its_own_longest_delay() -> None:
    fleet = Fleet(group(most=1, delay_s=10.0), group(name="all", most=1, delay_s=20.0))
    assert fleet.groups.next_delay_s(DB_1, 4.0) == 6.0
    assert fleet.groups.next_delay_s(DB_1, 10.0) == 10.0
    assert fleet.groups.next_delay_s(DB_1, 20.0) == 0.0
    fleet.groups.hold(DB_2, "action", RESTARTING)
    assert fleet.groups.hindrance(DB_1, 0.0, 10.0).startswith("group all:")
    assert fleet.groups.hindrance(DB_1, 0.0, 20.0) == ""


# -- any interleaving -----------------------------------------------------------------------------


class Interleaving(RuleBasedStateMachine):
    """Acts, losses, ends and restarts of six members in two groups, in any order."""

    uuids = st.sampled_from(sorted(UUIDS.values()))
    holders = st.sampled_from(["vote", "event", "action"])

    def __init__(self) -> None:
        super().__init__()
        rules = (group(most=2), group(("db-[123]",), name="few", least="66%"))
        self.fleet = Fleet(*rules, size=6)
        #: Our actions, in the order of their begin.
        self.acting: list[tuple[str, str]] = []

    @rule(uuid=uuids, holder=holders)
    def act(self, uuid: str, holder: str) -> None:
        groups = self.fleet.groups
        if (uuid, holder) in self.acting:
            return
        was_down = uuid in groups.going_down or uuid in self.fleet.states
        if groups.take(uuid, holder, RESTARTING):
            return
        self.acting.append((uuid, holder))
        for picture in groups.pictures():
            if uuid in groups.in_group(picture.group.name) and not was_down:
                assert len(picture.unavailable) <= picture.allowed

    @rule(data=st.data())
    @precondition(lambda self: self.acting)
    def end(self, data: st.DataObject) -> None:
        ended = data.draw(st.sampled_from(self.acting))
        self.acting.remove(ended)
        assert self.fleet.groups.give_back(*ended)

    @rule(uuid=uuids)
    def lose(self, uuid: str) -> None:
        self.fleet.states[uuid] = "is lost"

    @rule(uuid=uuids)
    def come_back(self, uuid: str) -> None:
        self.fleet.states.pop(uuid, None)

    @rule()
    def restart(self) -> None:
        """Another process of the daemon, which remembers the members and what it takes down."""
        before = self.fleet
        self.fleet = Fleet(*before.groups.groups, size=0)
        self.fleet.states = before.states
        for uuid, name in before.groups.members.items():
            self.fleet.groups.joined(uuid, name)
        for uuid, holder in self.acting:
            self.fleet.groups.hold(uuid, holder, RESTARTING)

    @invariant()
    def no_more_than_permitted_are_taken_down(self) -> None:
        taken = self.fleet.groups.going_down
        assert taken == {uuid for uuid, _ in self.acting}
        for one in self.fleet.groups.groups:
            members = self.fleet.groups.in_group(one.name)
            assert len(taken & members) <= one.allowed(len(members))


TestInterleaving = Interleaving.TestCase
