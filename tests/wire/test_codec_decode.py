"""What is a message and what is not, and what the sender of what is not is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hbtrio.wire.channel_codec import MessageError, VersionTooOld, decode, encode
from hbtrio.wire.channel_messages import (
    MESSAGE_CLASSES,
    ActionNotify,
    ActionResponse,
    Challenge,
    ChallengeResponse,
    Exit,
    Init,
    InitAck,
    Message,
    MoreTime,
    Nack,
    RejectWithdrawn,
    TimeGranted,
    VoterState,
)
from hbtrio.wire.lines import MAX_LINE_BYTES
from hbtrio.wire.vocabulary import (
    CorrectiveAction,
    Event,
    Health,
    NotificationType,
    VoterAnswer,
    VoteResult,
    VoterHealth,
)
from support.json_values import nested
from wire import printed
from wire.captured import CHANNEL_FILES, capture

#: One of each, with the keys behind the header in the order of the table in PROTOCOL.md.
LEGACY_KEYS: dict[str, str] = {
    "init": "invocation_id name heartbeat_interval_ms vote_secs shutdown_notice_secs "
    "suspend_notice_secs resume_notice_secs restart_secs corrective_action",
    "init_ack": "invocation_id",
    "challenge": "heartbeat_challenge",
    "challenge_response": "heartbeat_response heartbeat_health corrective_action log_msg",
    "action_notify": "invocation_id event_type notification_type timeout_ms",
    "action_response": "invocation_id event_type notification_type vote_result log_msg",
    "exit": "log_msg",
    "nack": "invocation_id log_msg",
    # Ours, so that no deployed program has an order for it.
    "voter_state": "place count unlisted name health health_s interval_ms corrective_action reason "
    "event_type notification_type answer answer_reason ago_s",
    "more_time": "invocation_id request seconds name",
    "time_granted": "invocation_id request seconds log_msg",
    "reject_withdrawn": "event_type name",
}
SAMPLES: tuple[Message, ...] = (
    Init(11, "vm1", 1000, 9, 8, 7, 14, 301, CorrectiveAction.REBOOT),
    InitAck(12),
    Challenge(13),
    ChallengeResponse(14, Health.UNHEALTHY, CorrectiveAction.STOP, "disk full"),
    ActionNotify(15, Event.RESIZE_BEGIN, NotificationType.REVOCABLE, 9000),
    ActionResponse(16, Event.PAUSE, NotificationType.IRREVOCABLE, VoteResult.REJECT, "busy"),
    Exit("Exiting..."),
    Nack(17, "failed to parse name"),
    VoterState(
        1,
        2,
        3,
        "web",
        VoterHealth.ILL,
        4,
        1000,
        CorrectiveAction.LOG,
        "slow",
        Event.STOP,
        NotificationType.REVOCABLE,
        VoterAnswer.REJECT,
        "busy",
        5,
    ),
    MoreTime(18, 1, 30, "web"),
    TimeGranted(18, 1, 20, "the limit is 20 s in all"),
    RejectWithdrawn(Event.LIVE_MIGRATE_BEGIN, "web"),
)
HEADER = ("version", "revision", "msg_type", "sequence")
ROADS = pytest.mark.parametrize("road", [b"", b" "], ids=["fast road", "careful road"])
EVERY = pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: str(sample.TYPE))


def members_of(message: Message, **changes: Any) -> dict[str, Any]:
    return {
        "version": 3,
        "revision": 1,
        "msg_type": message.TYPE,
        "sequence": 5,
        **msgspec.structs.asdict(message),
        **changes,
    }


def printed_json(members: dict[str, Any]) -> bytes:
    return json.dumps(members, separators=(",", ":")).encode()


def fault_of(line: bytes) -> MessageError:
    with pytest.raises(MessageError) as caught:
        decode(line)
    return caught.value


def result_of(line: bytes) -> tuple[object, ...]:
    try:
        return (decode(line),)
    except MessageError as error:
        return type(error), error.text, error.invocation_id, error.msg_type


# -- what is a message ----------------------------------------------------------------------------


def test_there_is_a_sample_of_every_message_and_its_fields_stand_in_legacy_order() -> None:
    assert tuple(type(sample) for sample in SAMPLES) == MESSAGE_CLASSES
    fields = {
        cls.TYPE: " ".join(f.name for f in msgspec.structs.fields(cls) if f.required)
        for cls in MESSAGE_CLASSES
    }
    assert fields == LEGACY_KEYS


@ROADS
@EVERY
def test_every_message_is_read(sample: Message, road: bytes) -> None:
    assert decode(road + printed_json(members_of(sample))) == sample


@EVERY
def test_layout_order_and_further_keys_do_not_matter(sample: Message) -> None:
    members = members_of(sample, extra={"deep": [1, {"x": None}]}, more="text")
    line = json.dumps(dict(reversed(members.items())), indent=2).replace("\n", "\r\t")
    assert decode(line.encode()) == sample


@ROADS
@pytest.mark.parametrize("version", [3, 4, 2**31, 10**30])
def test_higher_versions_are_accepted(version: int, road: bytes) -> None:
    line = road + printed_json(members_of(Challenge(1), version=version, revision=7, sequence=0))
    assert decode(line) == Challenge(1)


@ROADS
@pytest.mark.parametrize("number", [-(2**31), -1, 0, 2**31 - 1, 2**31, 2**32 - 1])
def test_integers_are_read_both_signed_and_unsigned(number: int, road: bytes) -> None:
    assert decode(road + printed_json(members_of(Challenge(number)))) == Challenge(number)


@ROADS
def test_words_in_no_vocabulary_are_unknown_and_cost_nothing_else(road: bytes) -> None:
    members = members_of(
        SAMPLES[5], event_type="live-migrate-begin", notification_type="", vote_result="Accept"
    )
    assert decode(road + printed_json(members)) == ActionResponse(
        16, Event.UNKNOWN, NotificationType.UNKNOWN, VoteResult.UNKNOWN, "busy"
    )
    members = members_of(SAMPLES[3], heartbeat_health="\ud800", corrective_action="x" * 1000)
    assert decode(road + printed_json(members)) == ChallengeResponse(
        14, Health.UNKNOWN, CorrectiveAction.UNKNOWN, "disk full"
    )


@ROADS
def test_a_text_of_the_longest_line_is_read_whole(road: bytes) -> None:
    room = MAX_LINE_BYTES - len(road) - len(printed_json(members_of(Exit(""))))
    line = road + printed_json(members_of(Exit("x" * room)))
    assert len(line) == MAX_LINE_BYTES
    assert decode(line) == Exit("x" * room)


def test_lone_surrogates_leave_no_trace_in_a_message_or_a_fault() -> None:
    line = (
        b'{"version":3,"revision":1,"msg_type":"%s","sequence":1,"log_msg":"\\udfff","\\ud800":1}'
    )
    assert decode(line % b"exit") == Exit("?")
    fault = fault_of(line % b"\\ud83d")
    assert (fault.text, fault.msg_type) == ("unknown msg_type ?", "?")


# -- the first of equal keys ----------------------------------------------------------------------


@EVERY
def test_the_first_of_two_equal_keys_counts(sample: Message) -> None:
    members = members_of(sample)
    for key in members:
        behind = {"version": 2, "msg_type": "nack"}.get(key, 0)
        line = printed_json(members)[:-1] + f',"{key}":{json.dumps(behind)}}}'.encode()
        assert decode(line) == sample


def test_a_doubled_key_in_the_place_of_a_missing_one_is_not_taken_for_it() -> None:
    # As many quotes as a whole challenge has, and yet its sequence is missing.
    line = b'{"version":3,"revision":1,"msg_type":"challenge","heartbeat_challenge":1,'
    fault = fault_of(line + b'"heartbeat_challenge":2}')
    assert fault.text == "failed to parse sequence"


# -- what is none ---------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [2, 1, 0, -1, -(10**30)])
def test_a_version_below_3_is_too_old_whatever_else_is_wrong(version: int) -> None:
    fault = fault_of(printed_json({"version": version, "msg_type": "init", "invocation_id": 9}))
    assert type(fault) is VersionTooOld
    assert (fault.invocation_id, fault.msg_type) == (9, "init")
    assert fault.text == f"version {max(version, -(2**31))} is not supported"


@EVERY
def test_the_first_missing_key_in_legacy_order_is_named(sample: Message) -> None:
    members = members_of(sample)
    keys = [*HEADER, *LEGACY_KEYS[sample.TYPE].split()]
    for first in range(len(keys)):
        fault = fault_of(printed_json({key: members[key] for key in keys[:first]}))
        assert type(fault) is MessageError
        assert fault.text == f"failed to parse {keys[first]}"
        assert fault.msg_type == (sample.TYPE if first > 2 else "")
        told = "invocation_id" in keys[:first]
        assert fault.invocation_id == (members["invocation_id"] if told else 0)


NO_INTEGERS = [
    b'"1"', b'""', b"1.0", b"1.5", b"1e3", b"true", b"false", b"null", b"[]", b"[1]", b"{}",
    b"NaN", b"Infinity", b"-Infinity", b"1e999", b"4294967296", b"-2147483649", b"9" * 400,
]  # fmt: skip
NO_STRINGS = [b"1", b"1.5", b"true", b"null", b"[]", b'["a"]', b"{}", b"NaN", b"1e999"]


@ROADS
@EVERY
def test_a_value_of_the_wrong_type_is_named(sample: Message, road: bytes) -> None:
    for key in LEGACY_KEYS[sample.TYPE].split():
        members = members_of(sample, **{key: "@@"})
        wrong = NO_INTEGERS if type(getattr(sample, key)) is int else NO_STRINGS
        for value in wrong:
            fault = fault_of(road + printed_json(members).replace(b'"@@"', value))
            assert (fault.text, fault.msg_type) == (f"failed to parse {key}", sample.TYPE)
            told = key != "invocation_id" and "invocation_id" in members
            assert fault.invocation_id == (members["invocation_id"] if told else 0)


@ROADS
@pytest.mark.parametrize("key", HEADER)
def test_a_header_of_the_wrong_type_is_named(key: str, road: bytes) -> None:
    line = printed_json(members_of(Challenge(1), **{key: "@@"}))
    wrong = NO_STRINGS if key == "msg_type" else NO_INTEGERS[:-3]
    for value in wrong:
        fault = fault_of(road + line.replace(b'"@@"', value))
        assert fault.text == f"failed to parse {key}"


@pytest.mark.parametrize("name", ["", "Init", "challenge ", "x" * 1000])
def test_an_unknown_type_is_named_as_far_as_it_can_be_answered(name: str) -> None:
    fault = fault_of(printed_json(members_of(InitAck(6), msg_type=name)))
    assert fault.text == f"unknown msg_type {name[:32]}"
    assert (fault.invocation_id, fault.msg_type) == (6, name[:32])


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b" ",
        b"\x00",
        b"{",
        b"{}}",
        b"null",
        b"3",
        b'"text"',
        b"[]",
        b"\xef\xbb\xbf{}",
        b"\xff" * MAX_LINE_BYTES,
        b"[" * MAX_LINE_BYTES,
        b'{"a":' * 800,
        b"[" * 2000 + b"]" * 2000,
        b"9" * MAX_LINE_BYTES,
        b'{"version":' + b"9" * 5000 + b"}",
        b'{"version":3,"revision":1,"msg_type":"challenge","sequence":1}{"version":3}',
    ],
)
def test_what_is_no_object_is_no_message(line: bytes) -> None:
    fault = fault_of(line)
    assert type(fault) is MessageError
    assert (fault.invocation_id, fault.msg_type) == (0, "")
    assert fault.text == "failed to parse message: not a JSON object"


def test_nesting_hidden_in_a_key_nobody_reads_does_no_harm() -> None:
    line = printed_json(members_of(Challenge(1)))[:-1] + b',"x":%s}'
    assert decode(line % (b"[" * 500 + b"]" * 500)) == Challenge(1)
    # How deep Python's own decoder goes differs between its versions, and does not matter.
    first, *_ = result_of(line % (b"[" * 1900 + b"]" * 1900))
    assert first in (Challenge(1), MessageError)


# -- whatever the bytes ---------------------------------------------------------------------------

LINES = [message.line for name in CHANNEL_FILES for message in capture(name)]
PIECES = st.sampled_from(
    [
        *(bytes([byte]) for byte in b'",{}[]:\\ \t\r\x00\x7f\x80\xc3\xedeE019-.'),
        b'"log_msg":"',
        b'"sequence":1,',
        b'"sequence":null,',
        b"\\ud800",
        b"\xed\xa0\x80",
        b"NaN",
        b"1e999",
        b"true",
        b"9" * 30,
        b"[" * 1200,
    ]
)


@st.composite
def spoiled(draw: st.DrawFn) -> bytes:
    """A captured line with a few pieces cut out and a few put in."""
    line = draw(st.sampled_from(LINES))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(line)))
        end = min(len(line), start + draw(st.integers(0, 12)))
        line = line[:start] + draw(PIECES | st.just(b"") | st.binary(max_size=3)) + line[end:]
    return line


@settings(deadline=None)  # a shared machine may be slow
@given(spoiled())
def test_both_roads_agree_on_spoiled_lines_and_refuse_in_one_way_only(line: bytes) -> None:
    assert result_of(line) == result_of(b" " + line)


@settings(deadline=None)  # a shared machine may be slow
@given(st.binary(max_size=MAX_LINE_BYTES))
def test_arbitrary_bytes_are_no_message(line: bytes) -> None:
    assert isinstance(fault_of(line), MessageError)


JSON = nested(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    st.text(max_size=8),
    most=4,
    max_leaves=8,
)
KEYS = st.sampled_from([*HEADER, *sorted({k for ks in LEGACY_KEYS.values() for k in ks.split()})])
SURROGATES = st.text(st.characters(categories=["Cs", "Lu"]), max_size=5)


@settings(deadline=None)  # a shared machine may be slow
@given(
    st.dictionaries(KEYS | SURROGATES, JSON | SURROGATES),
    st.sampled_from(SAMPLES),
    st.sampled_from([json.dumps, lambda value: json.dumps(value, ensure_ascii=False)]),
)
def test_any_json_object_is_a_message_or_a_message_error(
    changes: dict[str, Any], sample: Message, dumps: Callable[[object], str]
) -> None:
    for members in (changes, members_of(sample) | changes):
        line = dumps(members).encode("utf-8", "surrogatepass")
        first, *_ = result_of(line)
        if isinstance(first, MESSAGE_CLASSES):
            encode(first, 1)  # what was read can be printed: no surrogate came through


@settings(deadline=None)  # a shared machine may be slow
@given(st.binary(max_size=300).filter(lambda data: b"\n" not in data))
def test_any_name_is_a_message_or_a_message_error(name: bytes) -> None:
    first, *_ = result_of(printed.init(name))
    assert isinstance(first, Init) or first is MessageError
