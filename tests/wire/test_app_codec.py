"""The application API: what deployed peers sent, every message, and any bytes at all."""

from __future__ import annotations

import struct
import tracemalloc
from itertools import pairwise

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hbtrio.wire.app_codec import (
    MAGIC,
    MAX_APP_LOG_BYTES,
    MAX_APP_NAME_BYTES,
    MESSAGE_BYTES,
    AppDecoder,
    encode,
)
from hbtrio.wire.app_messages import (
    AppActionNotify,
    AppActionResponse,
    AppChallenge,
    AppChallengeResponse,
    AppInhibit,
    AppInit,
    AppInitAck,
    AppMessage,
    Final,
)
from hbtrio.wire.vocabulary import (
    EVENT_TABLE,
    CorrectiveAction,
    Event,
    NotificationType,
    VoteResult,
)
from wire.captured import API_FILES, APP_TO_GUEST, GUEST_TO_APP, ApiCaptured, api_capture

CLASSES = (
    AppInit,
    AppInitAck,
    Final,
    AppChallenge,
    AppChallengeResponse,
    AppActionNotify,
    AppActionResponse,
)
ALL = [message for name in API_FILES for message in api_capture(name)]

INIT = AppInit("web", 1000, 8, 5, 6, 7, CorrectiveAction.REBOOT)
RESPONSE = AppChallengeResponse(7, False, CorrectiveAction.LOG, "disk full")
REJECT = AppActionResponse(
    5, Event.PAUSE, NotificationType.REVOCABLE, VoteResult.REJECT, "a call is on"
)


def decode(*chunks: bytes) -> list[AppMessage]:
    decoder = AppDecoder()
    return [message for chunk in chunks for message in decoder.feed(chunk)]


def skipped(decoder: AppDecoder) -> tuple[int, int, int]:
    return decoder.garbage_bytes, decoder.other_versions, decoder.other_types


# -- what deployed peers sent ---------------------------------------------------------------------

#: The recorder's names, where ours are others.
NAMES = {"name": "application_name", "healthy": "health"}

ACTIONS = ["unknown", "none", "reboot", "stop", "log"]
EVENTS = ["unknown", "stop", "reboot", "suspend", "pause", "unpause", "resume"]
EVENTS += ["resize_begin", "resize_end", "live_migrate_begin", "live_migrate_end"]
EVENTS += ["cold_migrate_begin", "cold_migrate_end"]
WORDS = {
    "corrective_action": ACTIONS,
    "event_type": EVENTS,
    "notification_type": ["unknown", "revocable", "irrevocable"],
    "vote_result": ["unknown", "accept", "reject", "complete"],
}


def test_the_captures_hold_what_these_tests_rely_on() -> None:
    assert API_FILES == ("i1_two_apps_api", "i4_app_hb_timeout_api")
    # Deployed peers send all but the inhibition, which is of our own applications.
    assert {message.says["msg_type"] for message in ALL} == {cls.TYPE for cls in CLASSES}
    assert AppInhibit.TYPE not in {cls.TYPE for cls in CLASSES}
    assert {message.says["event_type"] for message in ALL if "event_type" in message.says} == {
        *range(1, 13)
    }
    assert {len(message.data) for message in ALL} == {MESSAGE_BYTES}


@pytest.mark.parametrize("captured", ALL, ids=lambda message: message.says["type"])
def test_a_captured_message_is_read_as_it_was_and_printed_byte_for_byte(
    captured: ApiCaptured,
) -> None:
    (message,) = decode(captured.data)
    assert captured.says["msg_type"] == message.TYPE
    for field, value in msgspec.structs.asdict(message).items():
        # No deployed guest tells a planned time; there are zeros.
        said = 0 if field == "planned_at" else captured.says[NAMES.get(field, field)]
        assert value == (WORDS[field][said] if field in WORDS else said), field
    assert encode(message, captured.says["sequence"]) == captured.data


@pytest.mark.parametrize("direction", [APP_TO_GUEST, GUEST_TO_APP])
@pytest.mark.parametrize("name", API_FILES)
def test_a_captured_conversation_is_read_whatever_the_chunking(name: str, direction: str) -> None:
    for connection in (1, 2):
        messages = [
            message
            for message in api_capture(name)
            if (message.connection, message.direction) == (connection, direction)
        ]
        stream = b"".join(message.data for message in messages)
        expected = [decode(message.data)[0] for message in messages]
        assert len(expected) >= 10
        for size in (1, 7, 227, 229, 4096, len(stream)):
            chunks = [stream[at : at + size] for at in range(0, len(stream), size)]
            assert decode(*chunks) == expected


def test_each_application_counts_from_one_and_the_guest_over_all_of_them() -> None:
    for name in API_FILES:
        for connection in (1, 2):
            sequences = [
                message.says["sequence"]
                for message in api_capture(name)
                if (message.connection, message.direction) == (connection, APP_TO_GUEST)
            ]
            assert sequences == list(range(1, len(sequences) + 1))
        sent = [m.says["sequence"] for m in api_capture(name) if m.direction == GUEST_TO_APP]
        # The recorder's two connections overtake each other.
        assert sorted(sent) == list(range(1, len(sent) + 1))


def test_what_no_captured_body_uses_is_zero() -> None:
    """There is no uninitialised memory in what deployed peers send, and none in ours."""
    used = {0: 64, 1: 4, 2: 192, 3: 4, 4: 204, 5: 12, 6: 208}
    for captured in ALL:
        assert not captured.data[20 + used[captured.says["msg_type"]] :].strip(b"\0")


# -- the layout, spelled out once more ------------------------------------------------------------


def test_a_message_byte_by_byte() -> None:
    def u32(*numbers: int) -> bytes:
        return struct.pack(f"={len(numbers)}I", *numbers)

    def message(msg_type: int, sequence: int, body: bytes) -> bytes:
        head = b"FDFDA5A5\x02\x01" + struct.pack("=H", msg_type) + u32(sequence, 228)
        return (head + body).ljust(228, b"\0")

    assert encode(INIT, 1) == message(0, 1, b"web".ljust(40, b"\0") + u32(1000, 8, 5, 6, 7, 2))
    assert encode(AppInitAck(True), 2) == message(1, 2, u32(1))
    assert encode(AppInitAck(False), 2) == message(1, 2, u32(0))
    assert encode(Final("bye"), 3) == message(2, 3, b"bye")
    assert encode(AppChallenge(0xFEDCBA98), 4) == message(3, 4, u32(0xFEDCBA98))
    assert encode(RESPONSE, 5) == message(4, 5, u32(7, 0, 4) + b"disk full")
    notify = AppActionNotify(5, Event.PAUSE, NotificationType.IRREVOCABLE)
    assert encode(notify, 6) == message(5, 6, u32(5, 4, 2))
    assert encode(REJECT, 7) == message(6, 7, u32(5, 4, 1, 2) + b"a call is on")
    inhibit = AppInhibit(frozenset({Event.STOP, Event.COLD_MIGRATE_BEGIN}), "a dump")
    assert encode(inhibit, 8) == message(7, 8, u32(1 << 1 | 1 << 11) + b"a dump")


def test_the_sequence_wraps_at_32_bits() -> None:
    assert encode(AppChallenge(1), 2**32 + 5) == encode(AppChallenge(1), 5)


@pytest.mark.parametrize("number", [-1, 2**32])
def test_a_number_that_has_no_32_bits_is_a_fault_of_the_caller(number: int) -> None:
    with pytest.raises(struct.error):
        encode(AppChallenge(number), 1)


def test_a_fraction_is_a_fault_of_the_caller_too() -> None:
    with pytest.raises(TypeError):
        encode(msgspec.structs.replace(INIT, heartbeat_interval_ms=1000.5), 1)


# -- round trips ----------------------------------------------------------------------------------

U32 = st.integers(0, 2**32 - 1)


def texts(max_bytes: int) -> st.SearchStrategy[str]:
    short = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=max_bytes)
    return short.filter(lambda text: len(text.encode()) <= max_bytes)


ACTION = st.sampled_from(CorrectiveAction)
EVENT = st.sampled_from(Event)
NOTIFICATION = st.sampled_from(NotificationType)
RESULT = st.sampled_from([VoteResult.ACCEPT, VoteResult.REJECT, VoteResult.COMPLETE])
LOG = texts(MAX_APP_LOG_BYTES)
MESSAGES: st.SearchStrategy[AppMessage] = st.one_of(
    st.builds(AppInit, texts(MAX_APP_NAME_BYTES), U32, U32, U32, U32, U32, ACTION),
    st.builds(AppInitAck, st.booleans()),
    st.builds(Final, LOG),
    st.builds(AppChallenge, U32),
    st.builds(AppChallengeResponse, U32, st.booleans(), ACTION, LOG),
    st.builds(AppActionNotify, U32, EVENT, NOTIFICATION),
    st.builds(AppActionResponse, U32, EVENT, NOTIFICATION, RESULT, LOG),
    st.builds(AppInhibit, st.frozensets(st.sampled_from(list(EVENT_TABLE))), LOG),
)
QUICK = settings(deadline=None)  # a shared machine may be slow


@QUICK
@given(MESSAGES, U32)
def test_every_message_comes_back(message: AppMessage, sequence: int) -> None:
    data = encode(message, sequence)
    assert len(data) == MESSAGE_BYTES
    assert decode(data) == [message]


@QUICK
@given(st.lists(MESSAGES, max_size=5), st.lists(st.integers(0, 5 * MESSAGE_BYTES)))
def test_messages_come_back_wherever_the_stream_is_cut(
    messages: list[AppMessage], cuts: list[int]
) -> None:
    stream = b"".join(encode(message, 1) for message in messages)
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    assert decode(*(stream[a:b] for a, b in pairwise(places))) == messages


@pytest.mark.parametrize("message", [INIT, RESPONSE, REJECT, Final("x"), AppChallenge(1)])
def test_a_message_is_read_when_it_is_cut_at_any_byte(message: AppMessage) -> None:
    data = encode(message, 1)
    for cut in range(MESSAGE_BYTES + 1):
        decoder = AppDecoder()
        first = decoder.feed(data[:cut])
        assert (first, decoder.held_bytes) == (
            ([message], 0) if cut == MESSAGE_BYTES else ([], cut)
        )
        assert first + decoder.feed(data[cut:]) == [message]
        assert (skipped(decoder), decoder.held_bytes) == ((0, 0, 0), 0)


# -- text -----------------------------------------------------------------------------------------


@QUICK
@given(st.text())
def test_any_text_is_clipped_between_characters_and_never_spills(text: str) -> None:
    (message,) = decode(encode(Final(text), 1))
    assert isinstance(message, Final)
    sent = text.replace("\0", " ").encode("utf-8", "replace")
    assert sent.startswith(message.log_msg.encode())
    assert min(len(sent), MAX_APP_LOG_BYTES) - len(message.log_msg.encode()) < 4
    assert encode(Final(text), 1)[20 + MAX_APP_LOG_BYTES] == 0


def test_a_long_text_is_cut_before_the_character_that_does_not_fit() -> None:
    assert decode(encode(msgspec.structs.replace(INIT, name="x" * 38 + "é" + "y"), 1)) == [
        msgspec.structs.replace(INIT, name="x" * 38)
    ]
    assert decode(encode(Final("€" * 100), 1)) == [Final("€" * 63)]


def test_half_a_surrogate_and_a_nul_are_replaced() -> None:
    assert decode(encode(Final("a\udc80b"), 1)) == [Final("a?b")]
    assert decode(encode(Final("no\0reason"), 1)) == [Final("no reason")]


def raw(message: AppMessage, at: int, data: bytes) -> bytes:
    """A message with some bytes of its body replaced."""
    body = bytearray(encode(message, 1))
    body[20 + at : 20 + at + len(data)] = data
    return bytes(body)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"caf\xe9", "caf\ufffd"),
        (b"x" * 190 + "é".encode()[:1], "x" * 190 + "\ufffd"),
        (b"x" * 192, "x" * 192),  # no NUL at all
        (b"seen\0left over from another message", "seen"),
        (b"\0hidden", ""),
        (b'raw "quotes"\r\n\\', 'raw "quotes"\r\n\\'),
    ],
)
def test_text_is_decoded_leniently(data: bytes, text: str) -> None:
    assert decode(raw(Final(""), 0, data)) == [Final(text)]


def test_a_text_without_its_nul_does_not_run_into_the_next_field() -> None:
    (message,) = decode(raw(INIT, 0, b"n" * 40))
    assert message == msgspec.structs.replace(INIT, name="n" * 40)


# -- numbers --------------------------------------------------------------------------------------


def u32_at(message: AppMessage, at: int, number: int) -> AppMessage:
    (changed,) = decode(raw(message, at, struct.pack("=I", number)))
    return changed


@pytest.mark.parametrize("number", [13, 99, 200, 2**31, 2**32 - 1])
def test_a_word_that_nobody_knows_is_unknown(number: int) -> None:
    unknown_action = CorrectiveAction.UNKNOWN
    assert u32_at(INIT, 60, number) == msgspec.structs.replace(
        INIT, corrective_action=unknown_action
    )
    assert u32_at(RESPONSE, 8, number) == msgspec.structs.replace(
        RESPONSE, corrective_action=unknown_action
    )
    assert u32_at(REJECT, 4, number) == msgspec.structs.replace(REJECT, event_type=Event.UNKNOWN)
    assert u32_at(REJECT, 8, number) == msgspec.structs.replace(
        REJECT, notification_type=NotificationType.UNKNOWN
    )
    assert u32_at(REJECT, 12, number) == msgspec.structs.replace(
        REJECT, vote_result=VoteResult.UNKNOWN
    )


@pytest.mark.parametrize("word", [VoteResult.TIMEOUT, VoteResult.ERROR, VoteResult.UNKNOWN])
def test_a_word_without_a_number_is_sent_as_unknown(word: VoteResult) -> None:
    assert decode(encode(msgspec.structs.replace(REJECT, vote_result=word), 1)) == [
        msgspec.structs.replace(REJECT, vote_result=VoteResult.UNKNOWN)
    ]


@pytest.mark.parametrize(
    ("number", "healthy"), [(0, False), (1, True), (2, True), (2**32 - 1, True)]
)
def test_only_0_is_unhealthy_as_a_deployed_guest_has_it(number: int, healthy: bool) -> None:
    assert u32_at(RESPONSE, 4, number) == msgspec.structs.replace(RESPONSE, healthy=healthy)


@pytest.mark.parametrize("bits", [0, 1, 1 << 13, 1 << 31])
def test_a_bit_of_no_event_is_ignored(bits: int) -> None:
    stop = AppInhibit(frozenset({Event.STOP}), "a dump")
    assert u32_at(stop, 0, 1 << 1 | bits) == stop
    assert u32_at(stop, 0, 0xFFFFFFFF) == msgspec.structs.replace(
        stop, events=frozenset(EVENT_TABLE)
    )
    unknown = msgspec.structs.replace(stop, events=frozenset({Event.STOP, Event.UNKNOWN}))
    assert decode(encode(unknown, 1)) == [stop]


@pytest.mark.parametrize("number", [0, 1, 399, 2**31, 2**32 - 1])
def test_an_interval_and_windows_are_handed_on_as_they_are(number: int) -> None:
    assert u32_at(INIT, 40, number) == msgspec.structs.replace(INIT, heartbeat_interval_ms=number)
    for at, name in enumerate(("vote", "shutdown_notice", "suspend_notice", "resume_notice")):
        changed = msgspec.structs.replace(INIT, **{f"{name}_secs": number})
        assert u32_at(INIT, 44 + 4 * at, number) == changed


# -- garbage --------------------------------------------------------------------------------------


def header(data: bytes, *, version: int = 2, msg_type: int | None = None, size: int = 228) -> bytes:
    """A message with another header."""
    kind = data[10:12] if msg_type is None else struct.pack("=H", msg_type)
    return (
        data[:8]
        + bytes([version])
        + data[9:10]
        + kind
        + data[12:16]
        + (struct.pack("=I", size) + data[20:])
    )


@QUICK
@given(st.lists(st.tuples(st.binary(max_size=40), MESSAGES), min_size=1), st.binary(max_size=40))
def test_garbage_between_messages_is_skipped_and_counted(
    pairs: list[tuple[bytes, AppMessage]], tail: bytes
) -> None:
    # What reads like a beginning is the subject of other tests.
    assume(all(not MAGIC.startswith(garbage[-1:]) or not garbage for garbage, _ in pairs))
    assume(all(MAGIC not in garbage for garbage in [tail, *(g for g, _ in pairs)]))
    stream = b"".join(garbage + encode(message, 1) for garbage, message in pairs) + tail
    decoder = AppDecoder()
    assert decoder.feed(stream) == [message for _, message in pairs]
    assert decoder.held_bytes < len(MAGIC)
    garbage = sum(len(garbage) for garbage, _ in pairs) + len(tail)
    assert skipped(decoder) == (garbage - decoder.held_bytes, 0, 0)


@pytest.mark.parametrize("cut", range(1, len(MAGIC) + 1))
def test_a_magic_that_breaks_off_costs_no_message(cut: int) -> None:
    false_start = MAGIC[:cut]
    decoder = AppDecoder()
    assert decoder.feed(false_start + encode(INIT, 1) + encode(REJECT, 2)) == [INIT, REJECT]
    # A whole magic, followed by "FDFD...", reads as a header of version 70.
    assert skipped(decoder) == ((cut, 0, 0) if cut < len(MAGIC) else (0, 1, 0))


def test_a_magic_inside_a_body_begins_nothing() -> None:
    inner = encode(AppChallenge(66), 1)[:100].rstrip(b"\0").decode("latin-1")
    assert inner.startswith("FDFDA5A5\x02")
    messages = [
        Final("FDFDA5A5\x02\x01"),
        msgspec.structs.replace(INIT, name="FDFDA5A5"),
        Final("A5A5FDFD"),
    ]
    stream = b"".join(encode(message, 1) for message in messages)
    stream += raw(Final(""), 0, encode(AppChallenge(66), 1)[:192])
    for chunks in ([stream], [stream[at : at + 1] for at in range(len(stream))]):
        decoder = AppDecoder()
        decoded = [message for chunk in chunks for message in decoder.feed(chunk)]
        assert decoded == [*messages, Final("FDFDA5A5\x02\x01\x03")]
        assert skipped(decoder) == (0, 0, 0)


@pytest.mark.parametrize("version", [0, 1, 3, 255])
def test_another_version_is_skipped_and_counted(version: int) -> None:
    inner = raw(Final(""), 0, encode(AppChallenge(66), 1)[:192])
    decoder = AppDecoder()
    stream = header(inner, version=version) + encode(INIT, 1)
    assert decoder.feed(stream) == [INIT]
    assert skipped(decoder) == (0, 1, 0)


def test_another_version_of_another_size_is_skipped_too() -> None:
    for size in (0, 20, 100, 227, 300, 2**32 - 1):
        decoder = AppDecoder()
        long = header(encode(Final("x"), 1), version=3, size=size) + b"more of it"
        assert decoder.feed(long + encode(INIT, 1)) == [INIT]
        assert skipped(decoder) == (len(long) - len(MAGIC), 1, 0)


@pytest.mark.parametrize("msg_type", [11, 12, 255, 65535])
def test_an_unknown_type_is_skipped_and_counted(msg_type: int) -> None:
    inner = header(raw(Final(""), 0, encode(AppChallenge(66), 1)[:192]), msg_type=msg_type)
    decoder = AppDecoder()
    assert decoder.feed(inner + encode(INIT, 1)) == [INIT]
    assert skipped(decoder) == (0, 0, 1)
    decoder = AppDecoder()
    short = header(encode(Final("x" * 10), 1), msg_type=msg_type, size=30)[:30]
    assert decoder.feed(short + encode(INIT, 1)) == [INIT]
    assert skipped(decoder) == (len(short) - len(MAGIC), 0, 1)


@pytest.mark.parametrize("size", [0, 1, 20, 227, 229, 2**31, 2**32 - 1])
def test_the_size_of_a_known_message_is_not_believed(size: int) -> None:
    """Deployed readers never look at it, so an application may send anything there."""
    assert decode(header(encode(INIT, 1), size=size) + encode(REJECT, 2)) == [INIT, REJECT]


def test_the_revision_and_the_sequence_do_not_matter() -> None:
    data = bytearray(encode(INIT, 0))
    data[9] = 77
    assert decode(bytes(data)) == [INIT]


# -- hostile bytes --------------------------------------------------------------------------------

#: Bytes that get deep into the decoder: pieces of headers, of messages, and anything.
PIECES = st.one_of(
    st.binary(max_size=300),
    st.sampled_from([MAGIC, MAGIC[:5], MAGIC + b"\x02", MAGIC + b"\x02\x01\x00\x00", b"F", b"\0"]),
    MESSAGES.map(lambda message: encode(message, 1)),
    st.builds(lambda message, cut: encode(message, 1)[:cut], MESSAGES, st.integers(0, 228)),
    st.builds(lambda rest: MAGIC + b"\x02\x01" + rest, st.binary(min_size=218, max_size=218)),
)


@QUICK
@given(st.lists(PIECES))
def test_any_bytes_are_read_without_a_fault_and_alike_however_they_are_cut(
    pieces: list[bytes],
) -> None:
    stream = b"".join(pieces)
    whole, pieced, bytewise = AppDecoder(), AppDecoder(), AppDecoder()
    expected = whole.feed(stream)
    assert [message for piece in pieces for message in pieced.feed(piece)] == expected
    decoded: list[AppMessage] = []
    for at in range(len(stream)):
        decoded += bytewise.feed(stream[at : at + 1])
        assert bytewise.held_bytes < MESSAGE_BYTES
    assert decoded == expected
    assert skipped(whole) == skipped(pieced) == skipped(bytewise)
    assert whole.held_bytes == pieced.held_bytes == bytewise.held_bytes
    # Whatever was read can be sent on.
    assert all(len(encode(message, 1)) == MESSAGE_BYTES for message in expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    "flood",
    [b"\xff" * 1000, MAGIC * 125, (MAGIC + b"\x03").ljust(500, b"\0"), MAGIC[:7] * 140],
)
def test_a_flood_without_messages_costs_no_memory(flood: bytes) -> None:
    decoder = AppDecoder()
    decoder.feed(flood)
    tracemalloc.start()
    try:
        for _ in range(1000):
            assert decoder.feed(flood) == []
            assert decoder.held_bytes < MESSAGE_BYTES
        assert tracemalloc.get_traced_memory()[0] < 10_000
    finally:
        tracemalloc.stop()
