"""docs/simulation.md lists what the simulator does and checks."""

from __future__ import annotations

import re
from pathlib import Path

from hbtrio.simulate import schedule_file
from hbtrio.simulate.fault_kinds import CLOCK, KIND_RULES, Kind, KindRule, Span, Target, Trigger
from hbtrio.simulate.invariant import Invariant
from hbtrio.simulate.invariants.every import INVARIANTS
from hbtrio.simulate.schedule import LIVENESS_S
from hbtrio.simulate.shrink import MOST_RUNS
from hbtrio.simulate.sightings import Sighting

PAGE = (Path(__file__).parents[2] / "docs" / "simulation.md").read_text(encoding="utf-8")

WHO = {
    Target.INSTANCE: "a VM",
    Target.HOST: "a host",
    Target.AGENT: "the agent",
    Target.VIM: "the VIM",
}


def between(span: Span) -> str:
    return f"{span.low:g} to {span.high:g} s"


def kind_row(kind: Kind, rule: KindRule) -> str:
    drawn = [f"for {between(rule.lasts)}"] if rule.lasts else []
    drawn += {
        Trigger.TIME: [],
        Trigger.EFFECT: [f"at its effect 1 to {rule.most}"],
        Trigger.STEP: [f"before its task step 1 to {rule.most}"],
        Trigger.WINDOW_END: ["over within 250 ms after its own window"],
    }[rule.trigger]
    drawn += [f"by {between(CLOCK)}, forward or back"] if rule.steps_clock else []
    return f"| `{kind}` | {rule.words.format(who=WHO[rule.target])} | {', '.join(drawn)} |"


def invariant_row(one: type[Invariant]) -> str:
    excuses = "; ".join(f"`{excuse.name}`: {excuse.sentence}" for excuse in one.excuses)
    return f"| `{one.name}` | {one.sentence()} | {excuses or 'none'} |"


def test_the_tables_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| `.*\|$", PAGE, re.M)
    assert rows == [
        *(kind_row(kind, rule) for kind, rule in KIND_RULES.items()),
        *map(invariant_row, INVARIANTS),
    ]


def test_the_sightings_are_those_of_the_code() -> None:
    assert re.findall(r"^- (.*)$", PAGE, re.M) == [sighting.value for sighting in Sighting]


def test_the_schedule_is_one() -> None:
    lines = re.findall(r"^    (\{.*\})$", PAGE, re.M)
    assert len(schedule_file.from_text("\n".join(lines), "the page").faults) == 1


def test_the_numbers_are_those_of_the_code() -> None:
    assert f"The last {LIVENESS_S:g} s are without faults" in PAGE
    assert f"in at most {MOST_RUNS}\nruns" in PAGE
