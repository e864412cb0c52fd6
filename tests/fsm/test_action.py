"""Every action of the event table, walked to each of its ends."""

from __future__ import annotations

import pytest

from hbtrio.fsm.action import (
    Action,
    ActionState,
    AskVote,
    AwaitDown,
    AwaitReturn,
    Finish,
    GiveNotice,
    Inspect,
    Perform,
    Step,
)
from hbtrio.fsm.table import IllegalEvent
from hbtrio.wire.vocabulary import ActionName, Event

#: The steps of each action that goes well, by the event table of PROTOCOL.md.
SUCCEEDS = {
    "stop": "vote:stop notice:stop perform down done",
    "reboot": "vote:reboot notice:reboot perform await done",
    "pause": "vote:pause notice:pause perform down done",
    "unpause": "perform notice:unpause done",
    "suspend": "vote:suspend notice:suspend perform down done",
    "resume": "perform notice:resume done",
    "resize": "vote:resize_begin notice:resize_begin perform await notice:resize_end done",
    "live-migrate": (
        "vote:live_migrate_begin notice:live_migrate_begin perform notice:live_migrate_end done"
    ),
    "cold-migrate": (
        "vote:cold_migrate_begin notice:cold_migrate_begin perform await "
        "notice:cold_migrate_end done"
    ),
}

#: And of each whose command fails: who was told of a beginning is told of an end.
FAILS = {
    "stop": "vote:stop notice:stop perform notice:resume failed",
    "reboot": "vote:reboot notice:reboot perform notice:resume failed",
    "pause": "vote:pause notice:pause perform notice:unpause failed",
    "unpause": "perform failed",
    "suspend": "vote:suspend notice:suspend perform notice:resume failed",
    "resume": "perform failed",
    "resize": "vote:resize_begin notice:resize_begin perform notice:resize_end failed",
    "live-migrate": (
        "vote:live_migrate_begin notice:live_migrate_begin perform notice:live_migrate_end failed"
    ),
    "cold-migrate": (
        "vote:cold_migrate_begin notice:cold_migrate_begin perform notice:cold_migrate_end failed"
    ),
}

#: The state in which each kind of step leaves an action; a notice has one before and two after.
STATES = {
    AskVote: {ActionState.VOTING},
    GiveNotice: {ActionState.PREPARING, ActionState.FINISHING, ActionState.FINISHING_FAILED},
    Perform: {ActionState.PERFORMING},
    AwaitReturn: {ActionState.AWAITING},
    AwaitDown: {ActionState.GOING_DOWN},
    Finish: {ActionState.DONE, ActionState.REJECTED, ActionState.FAILED},
}


def walked(
    action: Action, step: Step | None = None, *, rejected: bool = False, succeeded: bool = True
) -> str:
    """Carries out every step of an action in words, from the first one or the given one on."""
    words = []
    step = step or action.start()
    while True:
        assert action.state in STATES[type(step)]
        match step:
            case AskVote(event):
                words.append(f"vote:{event}")
                step = action.voted(rejected=rejected)
            case GiveNotice(event):
                words.append(f"notice:{event}")
                step = action.noticed()
            case Perform():
                words.append("perform")
                step = action.performed(succeeded=succeeded)
            case AwaitReturn():
                words.append("await")
                step = action.back()
            case AwaitDown():
                words.append("down")
                step = action.down()
            case Finish():
                return " ".join([*words, action.state.value])


def test_every_action_stands_in_both_lists() -> None:
    assert set(SUCCEEDS) == set(FAILS) == set(ActionName)


@pytest.mark.parametrize("name", ActionName)
@pytest.mark.parametrize("force", [False, True], ids=["voted", "forced"])
@pytest.mark.parametrize("rejected", [False, True], ids=["accepted", "rejected"])
@pytest.mark.parametrize("succeeded", [True, False], ids=["succeeds", "fails"])
def test_the_exact_steps(name: ActionName, force: bool, rejected: bool, succeeded: bool) -> None:
    steps = (SUCCEEDS if succeeded else FAILS)[name]
    vote, _, rest = steps.partition(" ")
    if not vote.startswith("vote:"):
        expected = steps  # nobody is asked: the VM is not running
    elif force:
        expected = rest
    elif rejected:
        expected = f"{vote} rejected"
    else:
        expected = steps
    assert walked(Action(name, force=force), rejected=rejected, succeeded=succeeded) == expected


def test_an_action_knows_its_name_and_has_done_nothing_at_first() -> None:
    action = Action(ActionName.RESIZE)
    assert (action.name, action.state) == (ActionName.RESIZE, ActionState.PLANNED)


TOLD = {
    "start": lambda action: action.start(),
    "voted": lambda action: action.voted(rejected=False),
    "noticed": lambda action: action.noticed(),
    "performed": lambda action: action.performed(succeeded=True),
    "back": lambda action: action.back(),
    "stayed": lambda action: action.stayed(),
    "down": lambda action: action.down(),
}
#: What an action may be told in each state; a resize passes through all of them.
LEGAL = {
    ActionState.PLANNED: "start",
    ActionState.VOTING: "voted",
    ActionState.PREPARING: "noticed",
    ActionState.PERFORMING: "performed",
    ActionState.AWAITING: ("back", "stayed"),
    ActionState.FINISHING: "noticed",
    ActionState.DONE: None,
}


def test_what_is_told_out_of_turn_is_refused_and_changes_nothing() -> None:
    action = Action(ActionName.RESIZE)
    for state, legal in LEGAL.items():
        assert action.state is state
        for name, tell in TOLD.items():
            if name not in (legal if isinstance(legal, tuple) else (legal,)):
                with pytest.raises(IllegalEvent):
                    tell(action)
                assert action.state is state
        if legal is not None:
            TOLD[legal[0] if isinstance(legal, tuple) else legal](action)


@pytest.mark.parametrize("name", ["reboot", "resize", "cold-migrate"])
@pytest.mark.parametrize("sent", [False, True])
def test_a_vm_that_never_goes_down_is_told_so(name: ActionName, sent: bool) -> None:
    """One that had no notice expects nothing, but an event with an end always has it."""
    action = Action(ActionName(name), force=True)
    action.start()
    action.noticed(sent=sent)
    assert action.performed(succeeded=True) == AwaitReturn()
    step = action.stayed()
    if sent or name != "reboot":
        end = {"reboot": "resume", "resize": "resize_end", "cold-migrate": "cold_migrate_end"}
        assert step == GiveNotice(Event(end[name]))
        step = action.noticed()
    assert step == Finish()
    assert action.state is ActionState.FAILED


@pytest.mark.parametrize("name", ["stop", "reboot", "pause", "suspend"])
def test_who_had_no_notice_hears_of_no_end(name: ActionName) -> None:
    action = Action(ActionName(name), force=True)
    action.start()
    action.noticed(sent=False)
    assert action.performed(succeeded=False) == Finish()
    assert action.state is ActionState.FAILED


@pytest.mark.parametrize("name", ["stop", "pause", "suspend"])
@pytest.mark.parametrize("sent", [False, True])
def test_a_vm_that_is_never_down_is_told_so(name: str, sent: bool) -> None:
    action = Action(ActionName(name), force=True)
    action.start()
    action.noticed(sent=sent)
    assert action.performed(succeeded=True) == AwaitDown()
    assert action.state is ActionState.GOING_DOWN
    step = action.stayed()
    if sent:
        assert step == GiveNotice(Event.UNPAUSE if name == "pause" else Event.RESUME)
        step = action.noticed()
    assert step == Finish()
    assert action.state is ActionState.FAILED


#: Where an action goes on that was at each state when its host ended.
RESUMED = [
    ("reboot", "planned", "vote:reboot notice:reboot perform await done"),
    ("reboot", "voting", "vote:reboot notice:reboot perform await done"),
    ("reboot", "preparing", "notice:reboot perform await done"),
    ("reboot", "awaiting", "await done"),
    ("stop", "going down", "down done"),
    ("resize", "finishing", "notice:resize_end done"),
    ("pause", "finishing after a failure", "notice:unpause failed"),
    ("unpause", "planned", "perform notice:unpause done"),
]


@pytest.mark.parametrize(("name", "state", "steps"), RESUMED)
def test_a_resumed_action_goes_on_at_its_state(name: str, state: str, steps: str) -> None:
    action = Action(ActionName(name))
    step = action.resume(ActionState(state), noticed=True, in_time=True)
    assert walked(action, step) == steps


@pytest.mark.parametrize("worked", [True, False])
@pytest.mark.parametrize("name", ActionName)
def test_an_interrupted_command_ends_as_the_vm_says(name: ActionName, worked: bool) -> None:
    action = Action(name)
    assert action.resume(ActionState.PERFORMING, noticed=True, in_time=True) == Inspect()
    assert action.state is ActionState.PERFORMING
    rest = (SUCCEEDS if worked else FAILS)[name].partition("perform ")[2]
    assert walked(action, action.performed(succeeded=worked)) == rest


@pytest.mark.parametrize(
    ("state", "noticed", "steps"),
    [
        ("planned", False, "failed"),
        ("voting", False, "failed"),
        ("preparing", False, "notice:resume failed"),
        ("preparing", True, "notice:resume failed"),
        # The command has begun: what it has done is to be known at any time.
        ("awaiting", True, "await done"),
        ("finishing after a failure", True, "notice:resume failed"),
    ],
)
def test_what_was_not_begun_in_time_is_not_resumed(state: str, noticed: bool, steps: str) -> None:
    action = Action(ActionName.REBOOT)
    step = action.resume(ActionState(state), noticed=noticed, in_time=False)
    assert walked(action, step) == steps


@pytest.mark.parametrize("name", [name for name in ActionName if "vote" in SUCCEEDS[name]])
def test_called_off_before_its_command_it_ends_and_who_was_told_is_told_of_the_end(
    name: ActionName,
) -> None:
    end_notice = FAILS[name].rpartition("perform ")[2]

    def at(told: str) -> Action:
        action = Action(name)
        action.start()
        for one in told.split():
            TOLD[one](action)
        return action

    for told in ("", "voted"):
        assert at(told).called_off() == Finish()
    noticed = at("voted noticed")
    assert walked(noticed, noticed.called_off()) == end_notice
    unsent = at("voted")
    unsent.noticed(sent=False)
    assert walked(unsent, unsent.called_off()) == "failed"
    with pytest.raises(IllegalEvent):
        at("voted noticed performed").called_off()
