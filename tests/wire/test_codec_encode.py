"""What we print: within every limit of deployed peers, and read back as it was meant."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hbtrio.wire.channel_codec import (
    MAX_LOG_BYTES,
    MAX_MESSAGE_BYTES,
    MAX_NAME_BYTES,
    MAX_VOTER_REASON_BYTES,
    clip_utf8,
    decode,
    encode,
    plain_text,
)
from hbtrio.wire.channel_messages import MESSAGE_CLASSES, ActionResponse, Exit, Init, Message, Nack
from hbtrio.wire.vocabulary import (
    CorrectiveAction,
    Event,
    Health,
    NotificationType,
    VoterAnswer,
    VoteResult,
    VoterHealth,
)

INT32 = st.integers(-(2**31), 2**32 - 1)
#: Surrogates, control characters and whatever else a Python string can hold.
TEXT = st.text(st.characters(), max_size=400) | st.text(st.characters(codec="utf-8"), min_size=60)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "Int32": INT32,
    "str": TEXT,
    **{
        word.__name__: st.sampled_from(word)
        for word in (
            *(CorrectiveAction, Event, Health, NotificationType, VoteResult),
            *(VoterAnswer, VoterHealth),
        )
    },
}
MESSAGES = st.one_of(
    [
        st.builds(
            cls, **{name: VALUES[cls.__annotations__[name]] for name in cls.__struct_fields__}
        )
        for cls in MESSAGE_CLASSES
    ]
)
LIMITS = {
    "name": MAX_NAME_BYTES,
    "log_msg": MAX_LOG_BYTES,
    "reason": MAX_VOTER_REASON_BYTES,
    "answer_reason": MAX_VOTER_REASON_BYTES,
}


def made_plain(message: Message) -> Message:
    texts = {name: limit for name, limit in LIMITS.items() if hasattr(message, name)}
    return msgspec.structs.replace(
        message, **{name: plain_text(getattr(message, name), n) for name, n in texts.items()}
    )


@settings(deadline=None)  # a shared machine may be slow
@given(MESSAGES, st.integers(1, 2**31 - 1))
def test_a_message_is_printed_within_every_limit_and_read_back_equal(
    message: Message, sequence: int
) -> None:
    data = encode(message, sequence)
    line = data[1:-1]
    assert data == b"\n" + line + b"\n"
    assert len(data) <= MAX_MESSAGE_BYTES
    assert b"\n" not in line
    assert b"\\" not in line
    assert not any(byte < 0x20 or byte == 0x7F for byte in line)
    members = json.loads(line)
    assert list(members)[:4] == ["version", "revision", "msg_type", "sequence"]
    assert list(members)[4:] == [
        field.name
        for field in msgspec.structs.fields(type(message))
        if field.required or getattr(message, field.name)
    ]
    assert (members["version"], members["revision"], members["sequence"]) == (3, 1, sequence)
    for name, value in members.items():
        if isinstance(value, str):
            assert '"' not in value
            assert len(value.encode()) <= LIMITS.get(name, 31)
    # No escapes and no quotes: the text on the line is the text itself.
    assert line.count(b'"') == sum(4 if isinstance(v, str) else 2 for v in members.values())
    plain = made_plain(message)
    assert decode(line) == plain
    assert encode(plain, sequence) == data


def test_a_plain_message_is_printed_as_deployed_peers_print_it() -> None:
    message = ActionResponse(
        2**31 - 1, Event.STOP, NotificationType.REVOCABLE, VoteResult.REJECT, "90 % voll: ü"
    )
    assert (
        encode(message, 12)
        == (
            '\n{"version":3,"revision":1,"msg_type":"action_response","sequence":12,'
            '"invocation_id":2147483647,"event_type":"stop","notification_type":"revocable",'
            '"vote_result":"reject","log_msg":"90 % voll: ü"}\n'
        ).encode()
    )


def test_the_longest_message_of_all_fits_the_smallest_buffer() -> None:
    low = -(2**31)
    longest = Init(low, "n" * 99, low, low, low, low, low, low, CorrectiveAction.UNKNOWN)
    assert len(encode(longest, 2**31 - 1)) < MAX_MESSAGE_BYTES
    longest_log = ActionResponse(
        low, Event.COLD_MIGRATE_BEGIN, NotificationType.IRREVOCABLE, VoteResult.COMPLETE, "x" * 999
    )
    assert len(encode(longest_log, 2**31 - 1)) < MAX_MESSAGE_BYTES


@pytest.mark.parametrize(
    ("sequence", "printed"), [(1, 1), (2**31 - 1, 2**31 - 1), (2**31, 0), (2**31 + 5, 5)]
)
def test_the_sequence_stays_in_31_bits(sequence: int, printed: int) -> None:
    assert json.loads(encode(Exit(""), sequence))["sequence"] == printed


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("", ""),
        ("all good", "all good"),
        ('disk "a" busy', "disk 'a' busy"),
        ("C:\\temp", "C:/temp"),
        ("two\nlines\r\n", "two lines"),
        ("  \t around \x00", "around"),
        ("tab\there", "tab here"),
        ("\x1b[31mred\x1b[0m", "[31mred [0m"),
        ("\x9b31mred\x85", "31mred"),
        ("a\x7fb", "a b"),
        ("caf\ufffd", "caf?"),
        ("half \ud83d a pair \udfff", "half ? a pair ?"),
        ("ü – ✓ \N{GRINNING FACE}", "ü – ✓ \N{GRINNING FACE}"),
    ],
)
def test_plain_text(text: str, plain: str) -> None:
    assert plain_text(text, MAX_LOG_BYTES) == plain
    assert encode(Nack(1, text), 1) == encode(Nack(1, plain), 1)


@pytest.mark.parametrize(
    ("text", "limit", "clipped"),
    [
        ("abc", 3, "abc"),
        ("abcd", 3, "abc"),
        ("abc", 0, ""),
        ("äöü", 6, "äöü"),
        ("äöü", 5, "äö"),
        ("€", 2, ""),
        ("a\N{GRINNING FACE}", 4, "a"),
        ("a\N{GRINNING FACE}", 5, "a\N{GRINNING FACE}"),
        ("\ud800\ud800", 1, "?"),
    ],
)
def test_a_text_is_clipped_between_characters(text: str, limit: int, clipped: str) -> None:
    assert clip_utf8(text, limit) == clipped


@settings(deadline=None)  # a shared machine may be slow
@given(TEXT, st.integers(0, 70))
def test_clipping_keeps_the_longest_beginning_that_fits(text: str, limit: int) -> None:
    text = text.encode("utf-8", "replace").decode()
    clipped = clip_utf8(text, limit)
    assert text.startswith(clipped)
    assert len(clipped.encode()) <= limit
    assert clipped == text or len(text[: len(clipped) + 1].encode()) > limit


@pytest.mark.parametrize(("limit", "plain"), [(7, "one two"), (5, "one t"), (4, "one"), (3, "one")])
def test_a_clipped_text_does_not_end_in_a_blank(limit: int, plain: str) -> None:
    assert plain_text(" one two ", limit) == plain
