"""What a tenant advertises, within the host's bounds."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hbtrio.fsm.guest_session import SessionSettings
from hbtrio.policy.profile import Profile, ProfileLimits
from hbtrio.wire.channel_messages import Init
from hbtrio.wire.vocabulary import CorrectiveAction, WindowKind

LIMITS = ProfileLimits()
INIT = Init(1, "vm1", 1000, 9, 8, 7, 14, 301, CorrectiveAction.STOP)
INT32 = st.integers(-(2**31), 2**32 - 1)


def test_a_usual_init_is_taken_as_it_is() -> None:
    assert Profile.from_init(INIT, LIMITS) == Profile(
        "vm1", 1.0, 9, 8, 7, 14, 301, CorrectiveAction.STOP
    )


def test_without_an_init_the_windows_are_those_of_a_guest_without_a_configuration() -> None:
    advertised = Profile.from_init(SessionSettings("").init(1), LIMITS)
    # But nothing is done to an instance that has asked for nothing.
    assert Profile() == msgspec.structs.replace(advertised, corrective_action=CorrectiveAction.NONE)


@pytest.mark.parametrize(
    ("advertised_ms", "interval_s"),
    [
        (-(2**31), 0.4),
        (0, 0.4),
        (399, 0.4),
        (400, 0.4),
        (401, 0.401),
        (59_999, 59.999),
        (60_000, 60.0),
        (60_001, 60.0),
        (2**32 - 1, 60.0),
    ],
)
def test_the_interval_is_brought_into_bounds(advertised_ms: int, interval_s: float) -> None:
    init = msgspec.structs.replace(INIT, heartbeat_interval_ms=advertised_ms)
    assert Profile.from_init(init, LIMITS) == msgspec.structs.replace(
        Profile.from_init(INIT, LIMITS), interval_s=interval_s
    )


WINDOWS = {
    "vote_secs": (WindowKind.VOTE, 600),
    "shutdown_notice_secs": (WindowKind.SHUTDOWN_NOTICE, 600),
    "suspend_notice_secs": (WindowKind.SUSPEND_NOTICE, 600),
    "resume_notice_secs": (WindowKind.RESUME_NOTICE, 600),
    "restart_secs": (WindowKind.RESTART, 3600),
}


@pytest.mark.parametrize("field", WINDOWS)
def test_each_window_has_its_own_bounds_and_its_own_field(field: str) -> None:
    kind, most = WINDOWS[field]
    usual = {k: Profile.from_init(INIT, LIMITS).window_s(k) for k in WindowKind}
    for advertised, kept in [
        (-(2**31), 1),
        (0, 1),
        (1, 1),
        (most, most),
        (most + 1, most),
        (2**32 - 1, most),
    ]:
        profile = Profile.from_init(msgspec.structs.replace(INIT, **{field: advertised}), LIMITS)
        assert {k: profile.window_s(k) for k in WindowKind} == usual | {kind: kept}


def test_the_host_sets_the_bounds() -> None:
    limits = ProfileLimits(2000, 3000, vote_max_s=5, notice_max_s=6, restart_max_s=7)
    assert Profile.from_init(INIT, limits) == Profile(
        "vm1", 2.0, 5, 6, 6, 6, 7, CorrectiveAction.STOP
    )


def test_a_name_is_made_plain_and_short() -> None:
    init = msgspec.structs.replace(INIT, name='\x1b[1m"vm"\n' + "ü" * 99)
    assert Profile.from_init(init, LIMITS).name == "[1m'vm' " + "ü" * 27


@settings(deadline=None)  # a shared machine may be slow
@given(
    st.builds(
        Init,
        INT32,
        st.text(st.characters()),
        *[INT32] * 6,
        st.sampled_from(CorrectiveAction),
    )
)
def test_whatever_is_advertised_stays_within_the_bounds(init: Init) -> None:
    profile = Profile.from_init(init, LIMITS)
    assert 0.4 <= profile.interval_s <= 60.0
    assert len(profile.name.encode()) <= 63
    assert profile.corrective_action is init.corrective_action
    for kind, most in WINDOWS.values():
        assert 1 <= profile.window_s(kind) <= most
