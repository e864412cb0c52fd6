"""Schedules: what a seed draws, what a fault may be, and the file that replays it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from random import Random

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hbtrio.errors import UserError
from hbtrio.simulate import schedule_file
from hbtrio.simulate.fault_kinds import KIND_RULES, Kind, Target, Trigger
from hbtrio.simulate.schedule import FIRST_S, LIVENESS_S, MOST_WHO, Fault, Schedule


def drawn(seed: int = 1, *, minutes: float = 8, rate: float = 1.0) -> Schedule:
    return Schedule(seed=seed, minutes=minutes, vms=4, hosts=2).drawn(rate)


# -- drawing -----------------------------------------------------------------------------------


def test_a_seed_always_draws_the_same_and_others_draw_others() -> None:
    assert drawn(7) == drawn(7)
    assert len({drawn(seed).faults for seed in range(20)}) == 20


def test_every_kind_has_a_rule_and_is_drawn() -> None:
    assert set(KIND_RULES) == set(Kind)
    assert {fault.kind for seed in range(60) for fault in drawn(seed).faults} == set(Kind)


def test_a_run_uses_about_half_of_the_kinds() -> None:
    used = [len({fault.kind for fault in drawn(seed, rate=5).faults}) for seed in range(40)]
    assert 0.45 < sum(used) / len(used) / len(Kind) < 0.55
    assert max(used) < len(Kind)


def test_what_a_kind_draws_depends_on_no_other_kind() -> None:
    whole = drawn(5)
    for kind in Kind:
        alone = attrs.evolve(whole, faults=()).drawn(kinds=[kind])
        assert alone.faults == tuple(fault for fault in whole.faults if fault.kind is kind)


def test_nothing_is_wrong_in_the_beginning_and_in_the_liveness_phase() -> None:
    faults = [fault for seed in range(60) for fault in drawn(seed).faults]
    assert min(fault.at_s for fault in faults) >= FIRST_S
    quiet_s = 8 * 60 - LIVENESS_S
    assert quiet_s - 10 < max(fault.over_s for fault in faults) < quiet_s


def test_a_run_without_time_for_faults_has_none() -> None:
    assert drawn(minutes=3).faults == ()
    assert drawn(rate=0).faults == ()


def test_a_longer_run_has_the_faults_of_a_shorter_one() -> None:
    assert set(drawn(minutes=8).faults) < set(drawn(minutes=12).faults)


def test_there_is_a_fault_every_ten_seconds_or_so_and_the_rate_counts() -> None:
    def faults_per_s(rate: float) -> float:
        number = sum(len(drawn(seed, rate=rate).faults) for seed in range(60))
        return number / 60 / (8 * 60 - LIVENESS_S - FIRST_S)

    assert 1 / 10 < faults_per_s(1) < 1 / 6
    assert faults_per_s(4) == pytest.approx(4 * faults_per_s(1), rel=0.2)


def test_numbers_are_drawn_from_the_ranges_of_the_kind() -> None:
    for fault in (fault for seed in range(60) for fault in drawn(seed).faults):
        rule = KIND_RULES[fault.kind]
        if rule.lasts is not None:
            assert fault.for_s is not None
            assert rule.lasts.low <= fault.for_s <= rule.lasts.high
        if rule.trigger in (Trigger.EFFECT, Trigger.STEP):
            assert 1 <= (fault.effect or fault.step or 0) <= rule.most
        if rule.trigger is Trigger.WINDOW_END:
            assert fault.window_end_s is not None
            assert 0 <= fault.window_end_s <= 0.25
        if rule.target in (Target.AGENT, Target.VIM):
            assert fault.who == 0


def test_clocks_are_set_forward_and_back() -> None:
    steps = [f.by_s for seed in range(60) for f in drawn(seed).faults if f.by_s is not None]
    signs = Counter(by_s > 0 for by_s in steps)
    assert signs[True] > 20
    assert signs[False] > 20


def test_short_and_long_durations_are_as_frequent() -> None:
    lasts = [
        fault.for_s
        for seed in range(120)
        for fault in drawn(seed).faults
        if fault.kind is Kind.STOP_HOST and fault.for_s is not None
    ]
    parts = Counter((for_s > 0.3) + (for_s > 3.0) for for_s in lasts)
    assert min(parts.values()) > 0.25 * len(lasts)


# -- what a fault may be -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"at_s": -0.1}, "at_s: must be 0 to inf, got -0.1"),
        ({"at_s": float("nan")}, "at_s: must be 0 to inf, got nan"),
        ({"at_s": float("inf")}, "at_s: must be 0 to inf, got inf"),
        ({"who": MOST_WHO + 1}, "who: must be 0 to 999, got 1000"),
        ({"for_s": None}, "for_s: stop-host-at-effect needs such number"),
        ({"for_s": -1.0}, "for_s: must be 0 to inf, got -1"),
        ({"effect": 0}, "effect: must be 1 to inf, got 0"),
        ({"effect": None}, "effect: stop-host-at-effect needs such number"),
        ({"step": 3}, "step: stop-host-at-effect has no such number"),
        ({"window_end_s": 0.1}, "window_end_s: stop-host-at-effect has no such number"),
        ({"by_s": 3.0}, "by_s: stop-host-at-effect has no such number"),
    ],
)
def test_a_fault_has_the_numbers_of_its_kind(changes: dict[str, float], text: str) -> None:
    fault = Fault(at_s=30.0, kind=Kind.STOP_HOST_AT_EFFECT, for_s=1.0, effect=3)
    with pytest.raises(ValueError) as caught:
        attrs.evolve(fault, **changes)
    assert str(caught.value) == text


def test_the_limits_themselves_are_allowed() -> None:
    Fault(at_s=0, kind=Kind.STOP_HOST_AT_EFFECT, who=MOST_WHO, for_s=0, effect=1)


# -- the file ----------------------------------------------------------------------------------

HEAD = '{"seed":1,"minutes":8,"vms":4,"hosts":2}'


@settings(max_examples=30)
@given(st.integers(0, 10**12), st.floats(4, 10), st.integers(1, 40), st.floats(0, 3))
def test_what_is_written_reads_back_the_same(
    seed: int, minutes: float, vms: int, rate: float
) -> None:
    schedule = Schedule(seed=seed, minutes=minutes, vms=vms, hosts=2).drawn(rate)
    assert schedule_file.from_text(schedule_file.to_text(schedule), "it") == schedule


def test_a_line_has_only_what_its_fault_has() -> None:
    fault = Fault(at_s=31.25, kind=Kind.STOP_AGENT, for_s=2.5)
    schedule = Schedule(seed=1, minutes=8.0, vms=4, hosts=2, faults=(fault,))
    assert schedule_file.to_text(schedule) == (
        '{"seed":1,"minutes":8.0,"vms":4,"hosts":2}\n'
        '{"at_s":31.25,"kind":"stop-agent","who":0,"for_s":2.5}\n'
    )


def test_comments_and_empty_lines_are_skipped_and_the_order_is_that_of_time() -> None:
    text = (
        f'# found a loss\n\n{HEAD}\n{{"at_s":9,"kind":"cut-link"}}\n#\n'
        '{"at_s":2,"kind":"cut-channel","who":3}\n'
    )
    assert schedule_file.from_text(text, "it").faults == (
        Fault(at_s=2.0, kind=Kind.CUT_CHANNEL, who=3),
        Fault(at_s=9.0, kind=Kind.CUT_LINK),
    )


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "it: no schedule: the first line has seed, minutes, vms and hosts"),
        ("# nothing\n\n", "it: no schedule: the first line has seed, minutes, vms and hosts"),
        ("{", "it:1: Input data was truncated"),
        ("[]", "it:1: Expected `object`, got `array`"),
        ('{"seed":1}', "it:1: Object missing required field `minutes`"),
        (
            '{"seed":1,"minutes":8,"vms":4,"hosts":2,"faults":[]}',
            "it:1: unknown key faults, there are seed, minutes, vms, hosts",
        ),
        (
            '{"seed":1,"minutes":8,"vms":0,"hosts":2}',
            "it:1: 'vms' must be >= 1: 0",
        ),
        (f'{HEAD}\n\n{{"at_s":"3","kind":"cut-link"}}', "it:3: Expected `float`, got `str`"),
        (f'{HEAD}\n{{"at_s":3,"kind":"cut"}}', "it:2: Invalid enum value 'cut'"),
        (f'{HEAD}\n{{"at_s":3,"kind":"cut-link","x\\u009b":1}}', "it:2: unknown key x\\x9b, there"),
        (
            f'{HEAD}\n{{"at_s":3,"kind":"cut-link","for_s":1}}',
            "it:2: for_s: cut-link has no such number",
        ),
        (f'{HEAD}\n{{"at_s":3,"kind":"cut-link","who":1e3}}', "it:2: Expected `int`, got"),
        (f'{HEAD}\n{{"at_s":3,"kind":"cut-link","who":-1}}', "it:2: who: must be 0 to 999"),
        (f'{HEAD}\n{{"at_s":3,"kind":"\ud800"}}', "it:2: 'utf-8' codec can't encode"),
    ],
)
def test_bad_input_is_one_line_with_its_place(text: str, fault: str) -> None:
    with pytest.raises(UserError) as caught:
        schedule_file.from_text(text, "it")
    assert str(caught.value).startswith(fault)
    assert "\n" not in str(caught.value)


def test_files_are_read(tmp_path: Path) -> None:
    schedule = drawn()
    path = tmp_path / "faults"
    path.write_text(schedule_file.to_text(schedule))
    assert schedule_file.read(str(path)) == schedule


def test_faults_of_files_name_the_file(tmp_path: Path) -> None:
    missing, binary, huge = tmp_path / "missing", tmp_path / "binary", tmp_path / "huge"
    binary.write_bytes(b"#\n\xff\n")
    huge.write_bytes(b"#" * (schedule_file.LIMIT_BYTES + 1))
    for path, text in (
        (missing, f"{missing}: cannot be read: No such file or directory"),
        (binary, f"{binary}:2: not UTF-8"),
        (huge, f"{huge}: over 1048576 bytes, too large for a schedule"),
    ):
        with pytest.raises(UserError) as caught:
            schedule_file.read(str(path))
        assert str(caught.value) == text


def fault_of(text: str) -> str:
    """The fault of a text, or nothing if it is a schedule."""
    try:
        schedule_file.from_text(text, "it")
    except UserError as error:
        return str(error)
    return ""


@settings(max_examples=50)
@given(st.binary(max_size=200).map(lambda data: data.decode("latin-1")))
def test_any_text_is_a_schedule_or_one_line(text: str) -> None:
    assert fault_of(text).isprintable()
    assert fault_of(f"{HEAD}\n{text}").isprintable()


def test_a_damaged_schedule_is_read_or_refused() -> None:
    """Whatever is changed in a valid file: no other exception."""
    random = Random(1)
    text = schedule_file.to_text(drawn())
    faults = []
    for _ in range(200):
        at = random.randrange(len(text))
        faults.append(fault_of(text[:at] + random.choice('0"}{:,-e x\n') + text[at + 1 :]))
    assert sum(bool(fault) for fault in faults) > 50
    assert all(fault.startswith("it:") for fault in faults if fault)
