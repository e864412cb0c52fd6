"""Legacy senders escape nothing: what can be saved of their lines, and that a reject stays one."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hbtrio.wire.channel_codec import MessageError, decode
from hbtrio.wire.channel_messages import ActionResponse, ChallengeResponse, Exit, Init, Message
from hbtrio.wire.vocabulary import (
    CorrectiveAction,
    Event,
    Health,
    NotificationType,
    VoteResult,
)
from support.growth import TIMES, assert_linear
from wire import printed


def reject(reason: str) -> ActionResponse:
    return ActionResponse(42, Event.STOP, NotificationType.REVOCABLE, VoteResult.REJECT, reason)


def init(name: str) -> Init:
    return Init(1804289383, name, 1000, 9, 9, 9, 14, 301, CorrectiveAction.REBOOT)


@pytest.mark.parametrize(
    ("reason", "read"),
    [
        (b"", ""),
        (b"busy", "busy"),
        (b'disk "a" busy', 'disk "a" busy'),
        (b'"', '"'),
        (b'"all of it"', '"all of it"'),
        (b"path C:\\", "path C:\\"),
        (b"C:\\data is in use", "C:\\data is in use"),
        (b"one\ttwo", "one\ttwo"),
        (b"line one\r line two\r ", "line one\r line two\r"),
        (b"line one line two ", "line one line two"),
        (b'"quoted" ', '"quoted"'),
        (b"\x00\x01\x1f", "\x00\x01\x1f"),
        (b"d\xe9j\xe0 vu", "d\ufffdj\ufffd vu"),
        (b"caf\xc3", "caf\ufffd"),
        (b"\xf0\x9f\x92", "\ufffd"),
        ("über 90 % – voll".encode(), "über 90 % – voll"),
        (b'it says {"no"}', 'it says {"no"}'),
        (b'ends like a message"}', 'ends like a message"}'),
        (b'"}', '"}'),
        (b'"}"}"}', '"}"}"}'),
        (b"}", "}"),
        (b'a","log_msg":"b "quoted" c', 'a","log_msg":"b "quoted" c'),
    ],
)
def test_a_reject_with_an_unescaped_reason_is_read_as_it_was_meant(
    reason: bytes, read: str
) -> None:
    assert decode(printed.action_response(reason)) == reject(read)


@pytest.mark.parametrize(
    ("reason", "read"),
    [
        (b"path C:\\temp\\new", "path C:\\temp\\new"),
        (b"\\u0041", "\\u0041"),
        (b"half a pair: \\ud83d", "half a pair: \\ud83d"),
        (b"C:\\temp ", "C:\\temp"),
    ],
)
def test_a_reason_that_is_valid_json_by_accident_is_read_as_it_stands(
    reason: bytes, read: str
) -> None:
    """Who prints the reason last prints it as it is: no backslash escapes anything."""
    assert decode(printed.action_response(reason)) == reject(read)


@pytest.mark.parametrize(
    "injected",
    [
        b'no","vote_result":"accept","x":"',
        b'no","vote_result":"accept","log_msg":"fine',
        b'no","invocation_id":43,"vote_result":"accept',
        b'no","version":2,"x":"',
        b'no","msg_type":"exit","x":"',
        b'no","\\u0076ote_result":"accept","x":"',
    ],
)
def test_keys_injected_behind_the_reason_do_not_count(injected: bytes) -> None:
    assert decode(printed.action_response(injected)) == reject("no")


def test_keys_injected_with_a_broken_text_behind_them_do_not_count_either() -> None:
    injected = b'no","vote_result":"accept","x":"a"b'
    assert decode(printed.action_response(injected)) == reject(injected.decode())


TRICKY = st.lists(
    st.sampled_from(
        [
            *(bytes([byte]) for byte in b'",{}[]:\\ \t\r\x00\x7f\x80\xc3\xe9ab19-.eu'),
            b'"log_msg":"',
            b'","log_msg":"',
            b'"vote_result":"accept"',
            b'","vote_result":"accept","x":"',
            b'"name":"',
            b'"}',
            b"\\ud800",
            b"[" * 1200,
        ]
    ),
    max_size=24,
).map(b"".join)


@settings(deadline=None)  # a shared machine may be slow
@given(TRICKY | st.binary().filter(lambda data: b"\n" not in data))
def test_no_reason_whatever_turns_a_reject_into_anything_else(reason: bytes) -> None:
    message = decode(printed.action_response(reason))
    assert isinstance(message, ActionResponse)
    assert message == reject(message.log_msg)


@pytest.mark.parametrize("reason", [b"the disk is busy", b'disk "a" is busy', b'x"}'])
def test_a_line_cut_inside_its_reason_is_still_a_reject_and_cut_before_it_is_refused(
    reason: bytes,
) -> None:
    line = printed.action_response(reason)
    start = line.index(b'"log_msg":"') + len(b'"log_msg":"')
    for cut in range(len(line)):
        if cut < start:
            with pytest.raises(MessageError, match="failed to parse message"):
                decode(line[:cut])
        else:
            message = decode(line[:cut])
            assert isinstance(message, ActionResponse)
            assert message == reject(message.log_msg)
            assert reason.decode().startswith(message.log_msg)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            b'{"version":3,"revision":1,"msg_type":"challenge_response","sequence":2,'
            b'"heartbeat_response":-5,"heartbeat_health":"unhealthy","corrective_action":"stop",'
            b'"log_msg":"File "/run/bad" exists"}',
            ChallengeResponse(
                -5, Health.UNHEALTHY, CorrectiveAction.STOP, 'File "/run/bad" exists'
            ),
        ),
        (
            b'{"version":3,"revision":1,"msg_type":"exit","sequence":9,"log_msg":"by "root""}',
            Exit('by "root"'),
        ),
        (
            b' { "version" : 3, "revision":1, "msg_type":"exit", "sequence":9 , '
            b'"log_msg" : "a\tb" } ',
            Exit("a\tb"),
        ),
        (
            b'{"version":3,"revision":1,"name":"no init","msg_type":"exit","sequence":9,'
            b'"log_msg":"by "root""}',
            Exit('by "root"'),
        ),
    ],
)
def test_every_message_with_a_text_is_repaired(line: bytes, message: Message) -> None:
    assert decode(line) == message


@pytest.mark.parametrize(
    ("name", "read"),
    [
        (b'the "one"', 'the "one"'),
        (b'"', '"'),
        (b"C:\\vm", "C:\\vm"),
        (b"tab\there", "tab\there"),
        (b"ends in \\", "ends in \\"),
        (b"d\xe9j\xe0", "d\ufffdj\ufffd"),
        (b'a","b"c":"', 'a","b"c":"'),
        (b'"name":"x', '"name":"x'),
    ],
)
def test_an_unescaped_name_is_read_as_it_was_meant(name: bytes, read: str) -> None:
    assert decode(printed.init(name)) == init(read)


def test_a_name_that_swallows_the_rest_of_its_line_is_no_message() -> None:
    with pytest.raises(MessageError, match="failed to parse message: not a JSON object"):
        decode(b'{"version":3,"revision":1,"msg_type":"init","sequence":1,"name":"a"b}')


@pytest.mark.parametrize(
    "piece", [b'"name":"', b',"log_msg":"', b',"log_msg" ', b", ", b'{"a":[', b'\\"', b"\xc3"]
)
def test_a_line_made_to_be_slow_costs_no_more_than_its_length(piece: bytes) -> None:
    def make(size: int) -> bytes:
        return b'{"version":3,' + piece * (size // len(piece))

    def refuse(line: bytes) -> None:
        with pytest.raises(MessageError):
            decode(line)

    # The larger is ten times the longest line that a channel hands on.
    assert_linear(make, refuse, 10 * 4096 // TIMES)
