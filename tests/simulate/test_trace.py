from __future__ import annotations

import io

import attrs

from hbtrio.simulate.trace import Trace


@attrs.define
class Clock:
    now: float = 1.5


def test_events_are_kept_and_steps_and_bytes_are_not() -> None:
    trace = Trace(Clock())
    trace.event("host", "reported", "lost", vm="web-1")
    trace.step("host", "hbtrio.pacer")
    trace.sent("host", b"{}\n")
    assert trace.events == ["1.5000000 host reported lost vm=web-1"]
    assert trace.steps == 1


def test_the_address_of_an_object_does_not_show_in_a_task() -> None:
    digests = set()
    for _ in range(3):
        trace = Trace(Clock())
        trace.step("host", repr(Trace(Clock())))
        digests.add(trace.digest)
    trace = Trace(Clock())
    trace.step("host", "<init>")
    assert len({*digests, trace.digest}) == 2


def test_everything_is_in_the_digest() -> None:
    digests = set()
    for change in range(6):
        clock = Clock()
        trace = Trace(clock)
        digests.add(trace.digest)
        clock.now = 1.5 if change != 1 else 1.5000000000000002
        trace.step("host" if change != 2 else "guest", "task" if change != 3 else "other")
        trace.sent("host", b"abc" if change != 4 else b"abd")
        trace.event("host", "stopped" if change != 5 else "killed")
        digests.add(trace.digest)
    assert len(digests) == 7  # the empty one, and one for each change


def test_the_file_gets_all_lines_and_the_digest_stays_the_same() -> None:
    plain, file = Trace(Clock()), io.StringIO()
    written = Trace(Clock(), file)
    for trace in (plain, written):
        trace.event("host", "killed")
        trace.step("agent", "main")
        trace.sent("agent", b"\x00\n")
    assert file.getvalue().splitlines() == [
        "1.5000000 host killed",
        "1.5 agent step main",
        "1.5 agent sends b'\\x00\\n'",
    ]
    assert written.digest == plain.digest


def test_lines_are_digested_in_bunches_and_none_is_left_out() -> None:
    digests = set()
    for count in range(0, 600, 5):
        trace = Trace(Clock())
        for number in range(count):
            trace.step("host", f"task {number}")
        assert trace.digest == trace.digest
        digests.add(trace.digest)
    assert len(digests) == 120
    plain, written = Trace(Clock()), Trace(Clock(), io.StringIO())
    for trace in (plain, written):
        for number in range(600):
            trace.step("host", f"task {number}")
            if trace is plain and number % 100 == 0:
                assert trace.digest  # asking in between changes nothing
    assert plain.digest == written.digest
