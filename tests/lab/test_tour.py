"""The tour's engine: what counts as seen, and that nothing holds it up."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from hbtrio.errors import UserError
from hbtrio.lab.feed import Feed, NotSeen
from hbtrio.lab.scene import alone
from hbtrio.lab.tour import TOUR_S, Fact, Finding, See, Step, Tour, event_words
from hbtrio.lab.view import summary


@attrs.frozen
class Named:
    name: str


@attrs.define
class Stage:
    """A cloud in which nothing runs."""

    events: Feed[dict[str, Any]] = attrs.field(factory=Feed)
    script_lines: Feed[list[str]] = attrs.field(factory=Feed)
    said: Feed[tuple[str, str]] = attrs.field(factory=Feed)
    guests: dict[str, Named] = attrs.field(factory=dict)

    def name_of(self, uuid: str) -> str:
        return self.guests[uuid].name if uuid in self.guests else uuid

    def host_of(self, uuid: str) -> Named:
        return Named(f"the host of {self.guests[uuid].name}")


def step(*expected: str, sees: tuple[str, ...] = (), then: BaseException | None = None) -> Step:
    async def play(_: Any, see: See) -> None:
        await trio.lowlevel.checkpoint()
        for fact in sees:
            see(fact)
        if then is not None:
            raise then

    return Step(f"step {expected}", expected, play)


async def played(*steps: Step, stage: Any = None) -> Tour:
    tour = Tour(stage or Stage(), steps)
    assert not tour.is_over
    await tour.play()
    assert tour.is_over
    assert tour.story.closed
    return tour


async def test_it_agrees_when_each_fact_is_seen_in_its_place() -> None:
    tour = await played(step("a", "b", sees=("a", "b")), step("c", sees=("c",)))
    assert tour.agrees
    assert tour.findings == [
        Finding("step ('a', 'b')", (Fact("a", "a"), Fact("b", "b"))),
        Finding("step ('c',)", (Fact("c", "c"),)),
    ]
    assert [line.text for line in tour.story.since()] == [
        "step 1 of 2: step ('a', 'b')",
        "step 2 of 2: step ('c',)",
    ]


@pytest.mark.parametrize(
    ("differing", "facts"),
    [
        (step("a", "b", sees=("b", "a")), (Fact("a", "b"), Fact("b", "a"))),
        (step("a", "b", sees=("a",)), (Fact("a", "a"), Fact("b", "nothing"))),
        (step("a", sees=("a", "x")), (Fact("a", "a"), Fact("nothing", "x"))),
        (step("a", "b", sees=("a",), then=NotSeen("no b")), (Fact("a", "a"), Fact("b", "no b"))),
        (step("a", then=UserError("refused\nmore")), (Fact("a", "refused"),)),
        (
            step("a", then=ExceptionGroup("", [ExceptionGroup("", [NotSeen("deep")])])),
            (Fact("a", "deep"),),
        ),
    ],
)
async def test_what_differs_is_found_and_the_tour_goes_on(
    differing: Step, facts: tuple[Fact, ...]
) -> None:
    tour = await played(differing, step("c", sees=("c",)))
    assert not tour.agrees
    assert [finding.facts for finding in tour.findings] == [facts, (Fact("c", "c"),)]
    told = [line.text for line in tour.story.since() if line.text.startswith("DIFFERS")]
    assert told == [
        f"DIFFERS: expected {fact.expected}, seen {fact.seen}" for fact in facts if not fact.agrees
    ]


async def test_a_programming_error_in_a_step_is_not_hidden() -> None:
    tour = Tour(Stage(), [step("a", then=KeyError("oops"))])
    with pytest.raises(BaseExceptionGroup) as caught:
        await tour.play()
    assert isinstance(alone(caught.value), KeyError)


async def test_a_step_that_hangs_ends_with_the_time_of_the_tour(autojump_clock: MockClock) -> None:
    async def hang(_: Any, see: See) -> None:
        see("a")
        await trio.sleep_forever()

    began_at = trio.current_time()
    tour = await played(Step("hangs", ("a", "b"), hang), step("c", sees=("c",)))
    assert trio.current_time() - began_at == pytest.approx(TOUR_S)
    assert [finding.facts for finding in tour.findings] == [
        (Fact("a", "a"), Fact("b", "the tour timed out")),
        (Fact("c", "the tour timed out"),),
    ]


async def test_the_story_tells_of_events_scripts_and_the_vim_by_the_names_of_the_guests() -> None:
    stage = Stage(guests={"u-1": Named("web")})

    async def play(cloud: Any, see: See) -> None:
        cloud.events.put({"kind": "vote", "uuid": "u-1", "event": "stop", "result": "accept"} | _R)
        await trio.testing.wait_all_tasks_blocked()
        cloud.script_lines.put(["handler", "web", "revocable", "stop", "4711"])
        cloud.script_lines.put(["handler", "web", "irrevocable", "stop", "4712"])
        cloud.script_lines.put(["application", "web", "shop", "registered", "4713"])
        cloud.script_lines.put(["application", "web", "shop", "revocable", "stop", "4713"])
        cloud.script_lines.put(["application", "web", "shop", "irrevocable", "stop", "4713"])
        cloud.script_lines.put(["note", "u-1", "disk", "full"])
        cloud.script_lines.put(["virsh", "reset", "u-1"])
        await trio.testing.wait_all_tasks_blocked()
        cloud.said.put(("VIM", "receives web: stop: allow"))
        await trio.testing.wait_all_tasks_blocked()
        cloud.events.put({"kind": "loss", "uuid": "u-2", "corrective_action": "log"} | _R)
        gone = {"reason": "/tmp/x/ch/cgcs.heartbeat.u-1.sock was removed"}
        cloud.events.put({"kind": "stopped", "uuid": "u-1"} | gone)

    tour = await played(Step("it", (), play), stage=stage)
    assert [(line.who, line.text) for line in tour.story.since()] == [
        ("", "step 1 of 1: it"),
        ("web", "vote stop: accept: why"),
        ("web", "its handler is asked: stop"),
        ("web", "its handler is notified: stop"),
        ("web", "its application shop is registered"),
        ("web", "its application shop is asked: stop"),
        ("web", "its application shop is notified: stop"),
        ("web", "the host of web logs: disk full"),
        ("host", "the host of web runs virsh reset web"),
        ("VIM", "receives web: stop: allow"),
        ("u-2", "loss: why (log)"),
        ("web", "stopped: its channel was removed"),
    ]


_R = {"reason": "why"}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"kind": "paused", "reason": "paused: user"}, "paused: user"),
        (
            {"kind": "corrective", "reason": "log done", "corrective_action": "log"},
            "corrective: log done",
        ),
        ({"kind": "loss", "reason": "why", "corrective_action": "reboot"}, "loss: why (reboot)"),
    ],
)
def test_an_event_in_words_names_nothing_twice(line: dict[str, str], words: str) -> None:
    assert event_words(line) == words


def test_an_event_in_words_leaves_out_what_it_does_not_have() -> None:
    assert event_words({"kind": "stopped", "reason": ""}) == "stopped"


async def test_the_summary_sets_expected_and_seen_side_by_side() -> None:
    tour = await played(step("a", "bb", sees=("a", "an\x1bescape")), step("c", sees=("c",)))
    assert summary(tour).splitlines() == [
        "",
        "  EXPECTED  SEEN",
        "step ('a', 'bb')",
        "  a         a         ok",
        "  bb        an\\x1bescape  DIFFERS",
        "step ('c',)",
        "  c         c         ok",
        "",
        "1 of 3 were not seen as expected.",
    ]


async def test_the_summary_folds_what_would_not_fit_into_80_columns() -> None:
    reason = "Application backup heartbeat timeout 2000 ms."
    tour = await played(
        step(f"unhealthy: {reason}", sees=(f"unhealthy: {reason}",)),
        step("a", sees=(reason,)),
        step(reason),
    )
    w = 36
    assert [line for line in summary(tour).splitlines()[2:] if line.startswith("  ")] == [
        f"  {'unhealthy: Application backup':{w}}  unhealthy: Application backup",
        f"  {'heartbeat timeout 2000 ms.':{w}}  {'heartbeat timeout 2000 ms.':{w}}  ok",
        f"  {'a':{w}}  Application backup heartbeat timeout",
        f"  {'':{w}}  {'2000 ms.':{w}}  DIFFERS",
        f"  {'Application backup heartbeat timeout':{w}}  nothing",
        f"  {'2000 ms.':{w}}  {'':{w}}  DIFFERS",
    ]
