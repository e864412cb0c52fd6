"""Lines out of a byte stream, compared with splitting the whole stream at once."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hbtrio.wire.lines import MAX_LINE_BYTES, LineReader
from wire.captured import CHANNEL_FILES, capture

#: Small alphabets and limits: most streams then hold empty, full and too long lines at once.
STREAMS = st.binary().map(lambda data: data.translate(bytes(b"ab\n{"[n % 4] for n in range(256))))
LIMITS = st.integers(1, 8)


@st.composite
def chunked(draw: st.DrawFn, stream: bytes) -> list[bytes]:
    cuts = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    return [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]


def oracle(stream: bytes, max_bytes: int) -> tuple[list[bytes], int, int]:
    """The lines, how many were skipped, and how many bytes are held at the end."""
    *lines, tail = stream.split(b"\n")
    fitting = [line for line in lines if 0 < len(line) <= max_bytes]
    skipped = sum(len(line) > max_bytes for line in [*lines, tail])
    return fitting, skipped, len(tail) if len(tail) <= max_bytes else 0


@settings(deadline=None)  # a shared machine may be slow
@given(st.data(), STREAMS, LIMITS)
def test_any_chunking_gives_what_splitting_the_whole_gives(
    data: st.DataObject, stream: bytes, max_bytes: int
) -> None:
    reader = LineReader(max_bytes)
    lines = []
    for chunk in data.draw(chunked(stream)):
        lines += reader.feed(chunk)
        assert reader.held_bytes <= max_bytes
    assert (lines, reader.skipped, reader.held_bytes) == oracle(stream, max_bytes)


@pytest.mark.parametrize("name", CHANNEL_FILES)
@settings(deadline=None)  # a shared machine may be slow
@given(data=st.data())
def test_a_captured_stream_gives_its_messages_in_any_chunking(
    name: str, data: st.DataObject
) -> None:
    messages = capture(name)
    stream = b"".join(message.data for message in messages)
    reader = LineReader()
    lines = []
    for chunk in data.draw(chunked(stream)):
        lines += reader.feed(chunk)
    assert lines == [message.line for message in messages]
    assert (reader.skipped, reader.held_bytes) == (0, 0)


@pytest.mark.parametrize("name", CHANNEL_FILES)
def test_a_captured_stream_gives_its_messages_byte_by_byte(name: str) -> None:
    messages = capture(name)
    reader = LineReader()
    lines = [
        line for message in messages for byte in message.data for line in reader.feed(bytes([byte]))
    ]
    assert lines == [message.line for message in messages]


@pytest.mark.parametrize("whole", [True, False], ids=["in one read", "byte by byte"])
@pytest.mark.parametrize(
    ("size", "kept"), [(MAX_LINE_BYTES - 1, 1), (MAX_LINE_BYTES, 1), (MAX_LINE_BYTES + 1, 0)]
)
def test_the_longest_line_is_kept_and_one_byte_more_is_skipped(
    size: int, kept: int, whole: bool
) -> None:
    stream = b"\n" + b"x" * size + b"\nnext\n"
    reader = LineReader()
    chunks = [stream] if whole else [bytes([byte]) for byte in stream]
    lines = [line for chunk in chunks for line in reader.feed(chunk)]
    assert lines == [b"x" * size] * kept + [b"next"]
    assert (reader.skipped, reader.held_bytes) == (1 - kept, 0)


def test_a_peer_that_never_ends_its_line_costs_no_memory_and_is_counted_once() -> None:
    reader = LineReader(16)
    for _ in range(1000):
        assert reader.feed(b"x" * 7) == []
        assert reader.held_bytes <= 16
    assert (reader.skipped, reader.held_bytes) == (1, 0)
    assert reader.feed(b"still the same line\nhere again\n") == [b"here again"]
    assert reader.skipped == 1


def test_reading_on_after_a_reset_starts_with_a_fresh_line() -> None:
    reader = LineReader(16)
    assert reader.feed(b"begun on the ") == []
    assert reader.held_bytes == 13
    reader.reset()
    assert reader.held_bytes == 0
    assert reader.feed(b"whole\n") == [b"whole"]


def test_a_reset_ends_a_skipped_line_as_well() -> None:
    reader = LineReader(4)
    assert reader.feed(b"too long") == []
    reader.reset()
    assert reader.feed(b"next\n") == [b"next"]
    assert reader.skipped == 1


def test_empty_reads_and_empty_lines_are_nothing() -> None:
    reader = LineReader()
    assert reader.feed(b"") == []
    assert reader.feed(b"\n") == []
    assert reader.feed(b"\n\n\n") == []
    assert (reader.skipped, reader.held_bytes) == (0, 0)
