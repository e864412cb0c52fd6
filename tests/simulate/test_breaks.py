"""Faults put back one at a time: each patch applies, and the simulator finds what it breaks."""

from __future__ import annotations

import shutil
from pathlib import Path

import attrs
import pytest

from hbtrio.simulate.invariants.every import INVARIANTS
from hbtrio.simulate.run import run_schedule
from hbtrio.simulate.schedule import Schedule
from support.breaks import MOST_SEEDS, PAGE, ROOT, TABLE, Break, breaks, violated, with_table

BREAKS = breaks()
BY_NAME = {each.name: each for each in BREAKS}

#: Those that `make test` looks for; nearly every seed shows these. `make breaks` does for all.
SAMPLE = ("reject-does-not-end-action", "response-left-open")


def test_there_are_enough_of_them() -> None:
    assert len(BREAKS) >= 28


def test_each_invariant_bites() -> None:
    """One that is violated by no break may be one that never is."""
    assert {each.invariant for each in BREAKS} == {one.name for one in INVARIANTS}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a copy of the sources."""
    directory = tmp_path_factory.mktemp("copy")
    shutil.copytree(ROOT / "src", directory / "src")
    return directory


@pytest.mark.parametrize("each", BREAKS, ids=[each.name for each in BREAKS])
def test_a_patch_applies(each: Break, copy: Path) -> None:
    each.apply(copy, "--check")


def test_the_documentation_has_each_of_them_with_what_finds_it() -> None:
    page = PAGE.read_text()
    assert page == with_table(page, [each.row for each in BREAKS])
    assert all(1 <= each.seed <= MOST_SEEDS for each in BREAKS)


def test_what_was_measured_is_written_down(tmp_path: Path) -> None:
    """Into the patch, of which nothing else changes, and into the table in place of its rows."""
    each = BREAKS[0]
    copy = attrs.evolve(each, path=tmp_path / each.path.name)
    text = each.path.read_text()
    copy.path.write_text(text)
    copy.note(each.seed + 1)
    assert copy.path.read_text() == text.replace(
        f"\nSeed: {each.seed}\n", f"\nSeed: {each.seed + 1}\n"
    )
    page = f"before\n\n{TABLE}| old |\n| older |\n\nafter\n"
    assert with_table(page, ["| new |"]) == f"before\n\n{TABLE}| new |\n\nafter\n"
    with pytest.raises(ValueError, match="no table"):
        with_table("nothing", [])


@pytest.mark.parametrize("name", SAMPLE)
def test_the_seed_of_a_break_finds_it(name: str, tmp_path: Path) -> None:
    each = BY_NAME[name]
    source = each.put_back(tmp_path)
    found = violated(source, f"{each.seed}-{each.seed}", tmp_path / "report")
    assert each.invariant in found[each.seed]


@pytest.mark.parametrize("seed", sorted({BY_NAME[name].seed for name in SAMPLE}))
def test_the_same_seed_finds_nothing_without_the_break(seed: int) -> None:
    schedule = Schedule(seed=seed, minutes=8.0, vms=4, hosts=2).drawn()
    assert run_schedule(schedule).violations == ()
