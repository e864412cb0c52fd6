"""What is seen of a VM, and what that says of an action."""

from __future__ import annotations

import itertools
from typing import Final

import pytest

from hbtrio.fsm.domain import Standing
from hbtrio.fsm.sighting import Sighting
from hbtrio.wire.vocabulary import ExpectedEffect

STOPS, FREEZES = ExpectedEffect.STOPS, ExpectedEffect.FREEZES
RESTARTS, RETURNS = ExpectedEffect.RESTARTS, ExpectedEffect.RETURNS


def seen(
    standing: Standing | None = None, *, has_socket: bool = True, silent: bool = False
) -> Sighting:
    return Sighting(standing, has_socket=has_socket, silent=silent)


#: Whether a VM is down, and whether it stands still, by libvirt's word.
DOWN: Final = {
    Standing.RUNNING: (False, False),
    Standing.PAUSED: (False, True),
    Standing.PANICKED: (False, False),
    Standing.ENDING: (False, False),
    Standing.STOPPED: (True, True),
    Standing.FAILED: (True, True),
}


@pytest.mark.parametrize("standing", DOWN)
@pytest.mark.parametrize(("has_socket", "silent"), list(itertools.product([True, False], repeat=2)))
def test_libvirts_word_counts_whatever_the_guest_does(
    standing: Standing, has_socket: bool, silent: bool
) -> None:
    sighting = seen(standing, has_socket=has_socket, silent=silent)
    assert (sighting.is_down(STOPS), sighting.is_down(FREEZES)) == DOWN[standing]


@pytest.mark.parametrize("standing", [None, Standing.UNKNOWN])
@pytest.mark.parametrize(
    ("has_socket", "silent", "expected"),
    [
        (True, False, (False, False)),
        (True, True, (False, True)),
        (False, False, (True, True)),
        (False, True, (True, True)),
    ],
)
def test_without_libvirt_the_socket_and_the_guest_tell(
    standing: Standing | None, has_socket: bool, silent: bool, expected: tuple[bool, bool]
) -> None:
    sighting = seen(standing, has_socket=has_socket, silent=silent)
    assert (sighting.is_down(STOPS), sighting.is_down(FREEZES)) == expected


def verdicts(sighting: Sighting, *, answers: bool = False, renewed: bool = False) -> str:
    """The verdicts on a stop, a freeze, a restart and a return: yes, no or not known yet."""
    words = {True: "yes", False: "no", None: "?"}
    return " ".join(
        words[sighting.took_effect(effect, answers=answers, renewed=renewed)]
        for effect in (STOPS, FREEZES, RESTARTS, RETURNS)
    )


@pytest.mark.parametrize(
    ("sighting", "answers", "renewed", "expected"),
    [
        (seen(), False, False, "? ? ? ?"),
        (seen(), True, False, "no no no yes"),
        (seen(silent=True), False, False, "yes yes yes no"),
        (seen(has_socket=False), False, False, "yes yes yes ?"),
        (seen(has_socket=False, silent=True), False, False, "yes yes yes no"),
        # Another QEMU process answers.
        (seen(), True, True, "yes yes yes yes"),
        (seen(Standing.RUNNING), False, False, "? ? ? yes"),
        (seen(Standing.RUNNING), True, False, "no no no yes"),
        # It hangs, or goes down or up; but it does not stand still.
        (seen(Standing.RUNNING, silent=True), False, False, "yes no yes yes"),
        (seen(Standing.PAUSED, silent=True), False, False, "yes yes yes no"),
        (seen(Standing.STOPPED), False, False, "yes yes yes ?"),
        (seen(Standing.FAILED, silent=True), False, False, "yes yes yes no"),
    ],
)
def test_whether_an_interrupted_command_took_effect(
    sighting: Sighting, answers: bool, renewed: bool, expected: str
) -> None:
    assert verdicts(sighting, answers=answers, renewed=renewed) == expected
