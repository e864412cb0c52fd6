"""What libvirt's answers about a domain mean. Numbers and names: libvirt's own enumerations."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbtrio.fsm.domain import DomainChange, DomainState, Standing, changes

C = DomainChange


@pytest.mark.parametrize(
    ("state", "reason", "standing", "words"),
    [
        (1, 1, Standing.RUNNING, "running: booted"),
        (1, 0, Standing.RUNNING, "running"),
        (2, 0, Standing.RUNNING, "blocked"),
        (3, 3, Standing.PAUSED, "paused: saving"),
        (3, 5, Standing.PAUSED, "paused: I/O error"),
        (3, 10, Standing.PANICKED, "paused: crashed"),
        (3, 99, Standing.PAUSED, "paused"),
        (4, 0, Standing.ENDING, "in shutdown"),
        (5, 0, Standing.STOPPED, "shut off"),
        (5, 1, Standing.STOPPED, "shut off: shutdown"),
        (5, 2, Standing.STOPPED, "shut off: destroyed"),
        (5, 3, Standing.FAILED, "shut off: crashed"),
        (5, 4, Standing.STOPPED, "shut off: migrated"),
        (5, 5, Standing.STOPPED, "shut off: saved"),
        (5, 6, Standing.FAILED, "shut off: failed"),
        (6, 1, Standing.PANICKED, "crashed: panicked"),
        (7, 0, Standing.PAUSED, "suspended by its guest (pm)"),
        (0, 0, Standing.UNKNOWN, "no state"),
        (42, 1, Standing.UNKNOWN, "no state"),
    ],
)
def test_a_state_and_a_reason_have_a_standing_and_words(
    state: int, reason: int, standing: Standing, words: str
) -> None:
    domain = DomainState(state, reason)
    assert (domain.standing, domain.words) == (standing, words)


def test_a_pause_by_an_io_error_or_a_watchdog_is_alarming_and_no_other_is() -> None:
    alarming = {reason for reason in range(20) if DomainState(3, reason).is_alarming}
    assert alarming == {5, 6, 13, 14}
    assert not any(DomainState(state, 5).is_alarming for state in (0, 1, 2, 4, 5, 6, 7))


def _at(state: int, reason: int, domain_id: int | None = None) -> DomainState:
    return DomainState(state, reason, (-1 if state == 5 else 7) if domain_id is None else domain_id)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        # suspend, resume
        (_at(1, 1), _at(3, 1), (C.PAUSED,)),
        (_at(3, 1), _at(1, 5), (C.RESUMED,)),
        # a pause whose reason becomes known a moment later
        (_at(3, 0), _at(3, 3), (C.PAUSED,)),
        # save, then restore
        (_at(3, 3), _at(5, 5), (C.STOPPED,)),
        (_at(5, 5), _at(3, 11, 8), (C.STARTED, C.PAUSED)),
        (_at(3, 11, 8), _at(1, 3, 8), (C.RESUMED,)),
        # a snapshot reverted: another process, and no answer in between
        (_at(1, 1, 7), _at(1, 4, 8), (C.STARTED,)),
        # power-off, destroy
        (_at(1, 1), _at(4, 0), (C.ENDING,)),
        (_at(4, 0), _at(5, 2), (C.STOPPED,)),
        (_at(1, 1), _at(5, 1), (C.STOPPED,)),
        # QEMU killed; after a restart of libvirtd the reason is forgotten
        (_at(1, 1), _at(5, 3), (C.FAILED,)),
        (_at(1, 1), _at(5, 6), (C.FAILED,)),
        (_at(5, 3), _at(5, 0), ()),
        # a panic, kept or restarted
        (_at(1, 1), _at(6, 1), (C.PANICKED,)),
        (_at(6, 1), _at(3, 10), (C.PANICKED,)),
        (_at(3, 10), _at(1, 5), (C.RESTARTED,)),
        (_at(6, 1), _at(1, 9), (C.RESTARTED,)),
        (_at(1, 1), _at(1, 9), (C.RESTARTED,)),
        # another reason alone
        (_at(1, 1), _at(1, 5), ()),
        # the first answer
        (None, _at(1, 1), ()),
        (None, _at(3, 1), (C.PAUSED,)),
        (None, _at(5, 3), (C.FAILED,)),
        # libvirt does not know
        (_at(1, 1), _at(0, 0), ()),
    ],
)
def test_two_answers_show_what_happened(
    before: DomainState | None, after: DomainState, expected: tuple[DomainChange, ...]
) -> None:
    assert changes(before, after) == expected


_ANSWERS = st.builds(
    DomainState, st.integers(0, 9), st.integers(0, 16), st.sampled_from((-1, 1, 2))
)


@given(_ANSWERS)
def test_the_same_answer_twice_is_no_change(answer: DomainState) -> None:
    assert changes(answer, answer) == ()


@given(st.none() | _ANSWERS, _ANSWERS)
def test_only_a_standing_that_is_not_running_suspends_a_guest(
    before: DomainState | None, after: DomainState
) -> None:
    if after.standing is Standing.RUNNING:
        assert set(changes(before, after)) <= {C.STARTED, C.RESUMED, C.RESTARTED}
    else:
        assert not set(changes(before, after)) & {C.RESUMED, C.RESTARTED}
