"""What a deployed guest client and its host said to each other, read and printed again."""

from __future__ import annotations

import json
from itertools import groupby
from typing import Any

import msgspec
import pytest

from hbtrio.wire import channel_codec
from hbtrio.wire.channel_codec import (
    MAX_LOG_BYTES,
    MAX_MESSAGE_BYTES,
    MessageError,
    decode,
    encode,
    plain_text,
)
from hbtrio.wire.channel_messages import (
    MESSAGE_CLASSES,
    ActionResponse,
    Message,
    MoreTime,
    RejectWithdrawn,
    TimeGranted,
    VoterState,
)
from hbtrio.wire.vocabulary import Event, NotificationType, VoteResult
from wire.captured import CHANNEL_FILES, Captured, capture

ALL = [message for name in CHANNEL_FILES for message in capture(name)]

#: The one captured message that lacks a key: a host tried what the client makes of it.
LACKING = (77, "failed to parse timeout_ms")

#: The one captured line that is not JSON: a reason with two raw carriage returns.
RAW_CR_REASON = "a\r b\r "

#: Words that the host once asked about and that are in no vocabulary.
ODD_WORDS = {"bogus", "live-migrate-begin"}


def members_of(captured: Captured) -> dict[str, Any]:
    members: dict[str, Any] = json.loads(captured.line, strict=False)
    return members


def is_lacking(captured: Captured) -> bool:
    return members_of(captured).get("invocation_id") == LACKING[0]


USABLE = [message for message in ALL if not is_lacking(message)]


#: No host has refused anything, and what extends the protocol is in no deployed program.
RECORDED = {cls.TYPE for cls in MESSAGE_CLASSES} - {
    "nack",
    *(cls.TYPE for cls in (VoterState, MoreTime, TimeGranted, RejectWithdrawn)),
}


def test_the_captures_hold_what_these_tests_rely_on() -> None:
    types = {members_of(message)["msg_type"] for message in ALL}
    assert types == RECORDED
    assert len(ALL) - len(USABLE) == 1
    assert sum(b"\r" in message.line for message in ALL) == 1


def test_every_captured_line_says_what_the_json_in_it_says() -> None:
    for captured in USABLE:
        members = members_of(captured)
        message = decode(captured.line)
        assert members["msg_type"] == message.TYPE
        for field, value in msgspec.structs.asdict(message).items():
            expected = members.get(field, 0)  # extensions, which deployed hosts don't send
            if field == "log_msg":
                expected = expected.removesuffix(" ")  # behind the last line of a script
            assert value == ("unknown" if expected in ODD_WORDS else expected)


def test_the_captured_message_that_lacks_a_key_is_named_with_its_id() -> None:
    (captured,) = [message for message in ALL if is_lacking(message)]
    with pytest.raises(MessageError) as caught:
        decode(captured.line)
    assert (caught.value.invocation_id, caught.value.text) == LACKING
    assert caught.value.msg_type == "action_notify"


def test_the_captured_line_with_raw_carriage_returns_is_repaired() -> None:
    (captured,) = [message for message in ALL if b"\r" in message.line]
    assert decode(captured.line) == ActionResponse(
        1021, Event.STOP, NotificationType.REVOCABLE, VoteResult.REJECT, RAW_CR_REASON.rstrip(" ")
    )


def test_both_roads_read_every_captured_line_alike() -> None:
    for captured in USABLE:
        # A leading blank is valid JSON, and nothing that a deployed peer prints.
        assert decode(captured.line) == decode(b" " + captured.line)


def test_captured_lines_that_are_json_take_the_fast_road_but_for_their_last_blank(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(line: bytes) -> Message:
        raise AssertionError(f"the careful road was asked about {line!r}")

    monkeypatch.setattr(channel_codec, "_decode_carefully", refuse)
    for captured in USABLE:
        if b"\r" not in captured.line and b' "}' not in captured.line:
            decode(captured.line)


def test_what_we_print_is_byte_for_byte_what_was_captured() -> None:
    compared: dict[str, int] = {}
    for captured in USABLE:
        members = members_of(captured)
        log = members.get("log_msg", "")
        if log != plain_text(log, MAX_LOG_BYTES) or ODD_WORDS & {*map(str, members.values())}:
            continue
        assert encode(decode(captured.line), members["sequence"]) == captured.data
        compared[members["msg_type"]] = compared.get(members["msg_type"], 0) + 1
    assert set(compared) == RECORDED
    assert sum(compared.values()) > len(USABLE) / 2


def test_no_captured_message_is_longer_than_ours_may_be() -> None:
    assert max(len(message.data) for message in ALL) <= MAX_MESSAGE_BYTES


def test_each_side_counts_its_messages_from_one() -> None:
    for name in CHANNEL_FILES:
        by_side = sorted(capture(name), key=lambda message: message.direction)
        for _, messages in groupby(by_side, key=lambda message: message.direction):
            sequences = [members_of(message)["sequence"] for message in messages]
            assert sequences == list(range(1, len(sequences) + 1))
