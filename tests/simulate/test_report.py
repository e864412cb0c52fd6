"""The report: everything is in it, it asks for nothing from outside, and text stays text."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from hbtrio.simulate.charts import bars, histogram, timeline
from hbtrio.simulate.fault_kinds import Kind
from hbtrio.simulate.invariant import Violation
from hbtrio.simulate.invariants.every import INVARIANTS
from hbtrio.simulate.latencies import Latency
from hbtrio.simulate.report import MOST_SHOWN, report
from hbtrio.simulate.results_file import Options
from hbtrio.simulate.schedule import Fault, Schedule
from hbtrio.simulate.seed_result import Moment, SeedResult
from hbtrio.simulate.sightings import Sighting
from hbtrio.simulate.summary import Summary

OPTIONS = Options(minutes=8.0, vms=4, hosts=2, faults="default", version="1.2.3")
HOSTILE = "<script>alert(1)</script>\x1b[31m\u202e&"
FAULT = Fault(at_s=31.25, kind=Kind.STOP_HOST, who=1, for_s=2.5)
FAILED = SeedResult(
    seed=17,
    cpu_s=0.5,
    vm_hours=0.5,
    violations=(Violation(50.0, "healthy-not-lost", "vm0 is well and reported lost"),),
    faults={"stop-host": 3, "cut-link": 1},
    sightings={Sighting.EXPIRED.value: 2},
    excused={"healthy-not-lost: disturbed": 5},
    detections=(Latency(3.0, 4.5),),
    verdicts=(Latency(1.0, 11.0),),
    moments=(
        Moment(31.25, "compute-1", "it is stopped", 33.75),
        Moment(50.0, "vm0", "compute-0 reports loss"),
    ),
    schedule=Schedule(seed=17, minutes=8.0, vms=4, hosts=2, faults=(FAULT,)),
)


class Page(HTMLParser):
    """What a browser would make of a page, as far as the tests ask."""

    VOID = frozenset({"meta", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def page(*results: SeedResult) -> Page:
    parsed = Page(report(Summary(results), OPTIONS))
    assert parsed.open == []
    return parsed


def words(*results: SeedResult) -> str:
    return " ".join(page(*results).words)


def test_a_failed_seed_is_shown_with_all_that_is_known() -> None:
    text = words(FAILED)
    for part in (
        "hbtrio 1.2.3; 4 VMs on 2 hosts for 8 virtual minutes; faults: default",
        "Seed 17: vm0 is well and reported lost",
        "healthy-not-lost",
        "31.25 s: the daemon of compute-1 is stopped (SIGSTOP) for 2.5 s",
        "compute-0 reports loss",
        "(until 33.750 s)",
        "disturbed 5",
        "1 seeds",
    ):
        assert part in text
    assert "No invariant was violated" not in text


def test_every_invariant_and_sighting_is_listed() -> None:
    text = words(FAILED)
    assert all(invariant.sentence() in text for invariant in INVARIANTS)
    assert all(sighting.value in text for sighting in Sighting)
    assert text.count("NOT SEEN") == len(Sighting) - 1
    assert f"{len(Sighting) - 1} situations were not seen once" in text
    assert f"1 of {len(Sighting)}" in text


def test_a_campaign_without_failures_says_so() -> None:
    seen = SeedResult(seed=1, sightings={sighting.value: 1 for sighting in Sighting})
    text = words(seen)
    assert "No invariant was violated." in text
    assert "What failed" not in text
    assert "NOT SEEN" not in text
    assert text.count("Nothing was measured.") == 2


def test_a_campaign_without_results_has_a_page() -> None:
    assert "0 of" in words()


def test_a_seed_without_a_result_is_shown_with_its_traceback() -> None:
    text = words(SeedResult(seed=9, error="Traceback:\n  line\nKeyError: 'x'"))
    assert "Seed 9: no result" in text
    assert "Traceback:\n  line\nKeyError: 'x'" in text


def test_not_every_failure_is_shown() -> None:
    many = [SeedResult(seed=seed, error="died") for seed in range(MOST_SHOWN + 1)]
    text = words(*many)
    assert f"The first {MOST_SHOWN} of {MOST_SHOWN + 1} failed seeds." in text
    assert text.count(": no result") == MOST_SHOWN


def test_nothing_comes_from_outside() -> None:
    parsed = page(FAILED)
    assert not {"src", "href", "action"} & {name for name, _ in parsed.attributes}
    text = report(Summary([FAILED]), OPTIONS)
    assert "http" not in text.replace("http-equiv", "")
    assert "url(" not in text
    assert "@import" not in text
    assert "<script" not in text


def test_both_schemes_have_all_colours() -> None:
    text = report(Summary(), OPTIONS)
    light, dark = re.findall(r":root \{([^}]*)\}", text)
    assert set(re.findall(r"--\w+", light)) == set(re.findall(r"--\w+", dark))
    used = set(re.findall(r"var\((--\w+)\)", text))
    assert used <= set(re.findall(r"--\w+", light))


def test_text_of_a_run_stays_text() -> None:
    result = SeedResult(
        seed=1,
        violations=(Violation(5.0, HOSTILE, HOSTILE),),
        faults={HOSTILE: 1},
        sightings={HOSTILE: 1},
        moments=(Moment(5.0, HOSTILE, HOSTILE),),
        error=HOSTILE,
    )
    text = report(Summary([result]), OPTIONS)
    assert "<script" not in text
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert page(result).open == []


# -- charts ------------------------------------------------------------------------------------


def rects(svg: str, kind: str) -> list[dict[str, float]]:
    found = [one for one in ElementTree.fromstring(svg).iter("rect") if one.get("class") == kind]
    keys = ("x", "y", "width", "height")
    return [{key: float(one.get(key, "nan")) for key in keys} for one in found]


def test_bars_are_as_long_as_their_numbers() -> None:
    svg = bars([("one", 10), ("two", 5), ("none", 0)], "title")
    widths = [rect["width"] for rect in rects(svg, "bar")]
    assert widths[1] == pytest.approx(widths[0] / 2, abs=0.1)
    assert widths[2] == 0
    assert svg.count("NOT SEEN") == 1
    assert 'aria-label="title"' in svg


def test_a_chart_without_rows_is_a_chart() -> None:
    ElementTree.fromstring(bars([], "title"))
    ElementTree.fromstring(histogram([], 1.0, "s", "title", 0.5))


def test_a_histogram_counts_each_value_once() -> None:
    svg = histogram([0.0, 0.01, 0.99, 1.0, 7.0, -1.0], 1.0, "s", "title", 0.5)
    titles = [one.text or "" for one in ElementTree.fromstring(svg).iter("title")]
    counts = [int(title.rpartition(": ")[2]) for title in titles]
    assert counts[0] == 3
    assert counts[-1] == 3
    assert sum(counts) == 6


def test_a_mark_beyond_the_end_is_at_the_end() -> None:
    root = ElementTree.fromstring(histogram([0.5], 1.0, "s", "title", 9.0))
    (mark,) = (one for one in root.iter("line") if one.get("class") == "mark")
    (axis,) = (one for one in root.iter("line") if one.get("class") == "axis")
    assert float(mark.get("x1", "0")) == float(axis.get("x2", "1"))


def test_a_timeline_has_a_row_for_each_and_keeps_the_order_of_times() -> None:
    moments = [
        Moment(1.0, "vm0", "paused", 9000.0),
        Moment(9000.0, "agent", "started"),
        Moment(9030.0, "vm0", "hangs", 9052.0),
        Moment(9050.0, "vm0", "lost"),
    ]
    root = ElementTree.fromstring(timeline(moments, [9050.0], "title"))
    spans = rects(timeline(moments, [9050.0], "title"), "span")
    dots = [float(dot.get("cx", "0")) for dot in root.iter("circle")]
    assert len([line for line in root.iter("line") if line.get("class") == "row"]) == 2
    # The long pause is cut off at the left, where the last 70 s begin.
    assert spans[0]["x"] < dots[0] < spans[1]["x"] < dots[1]
    assert spans[0]["x"] + spans[0]["width"] == pytest.approx(dots[0], abs=0.2)
    (mark,) = (one for one in root.iter("line") if one.get("class") == "mark")
    assert float(mark.get("x1", "0")) == dots[1]


def test_a_single_moment_is_a_timeline() -> None:
    ElementTree.fromstring(timeline([Moment(5.0, "vm0", "lost")], [5.0], "title"))
    ElementTree.fromstring(timeline([Moment(5.0, "vm0", "lost")], [], "title"))
