"""``extensions`` in ``init_ack``: deployed clients don't mind it, and our guest reads it."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from hbtrio.wire.channel_codec import MessageError, decode, encode
from hbtrio.wire.channel_messages import OFFERED, ActionNotify, Extension, InitAck
from hbtrio.wire.vocabulary import Event, NotificationType
from support import c_client
from wire.captured import CHANNEL_FILES, GUEST_TO_HOST, HOST_TO_GUEST, capture

ACK = b'{"version":3,"revision":1,"msg_type":"init_ack","sequence":1,"invocation_id":5%s}'

#: Recordings in which the client answered each message once, before its next ``init``.
PLAIN = ("a_basic", "b_accept", "f_notify", "g_health", "i1_two_apps")


def host_bytes(name: str, *, offers: int) -> bytes:
    """What the recorded host sent, with the key in each ``init_ack`` as our host would put it."""
    sent = b""
    for captured in capture(name):
        if captured.direction == HOST_TO_GUEST:
            message = decode(captured.line) if b'"init_ack"' in captured.line else None
            if offers and isinstance(message, InitAck):
                sequence = json.loads(captured.line)["sequence"]
                sent += encode(InitAck(message.invocation_id, offers), sequence)
            else:
                sent += captured.data
    return sent


def recorded_answers(name: str) -> list[tuple[str, int]]:
    found = []
    for captured in capture(name):
        if captured.direction == GUEST_TO_HOST:
            members = json.loads(captured.line, strict=False)
            if members["msg_type"] in ("challenge_response", "action_response"):
                echo = members.get("heartbeat_response", members.get("invocation_id"))
                found.append((members["msg_type"], echo))
    return found


@pytest.mark.parametrize("name", PLAIN)
def test_the_imitation_answers_what_the_recorded_client_answered(name: str) -> None:
    ours = sorted(c_client.answers(host_bytes(name, offers=0)))
    assert ours == sorted(recorded_answers(name))


@pytest.mark.parametrize("name", CHANNEL_FILES)
@pytest.mark.parametrize("offers", [OFFERED, OFFERED | Extension.MORE_TIME])
def test_a_deployed_client_reads_the_same_with_the_key_and_without(name: str, offers: int) -> None:
    plain, offering = host_bytes(name, offers=0), host_bytes(name, offers=offers)
    assert offering.count(b',"extensions":%d}\n' % offers) == plain.count(b'"init_ack"') > 0
    assert [*c_client.read_messages(offering)] == [*c_client.read_messages(plain)]


@pytest.mark.parametrize("name", CHANNEL_FILES)
def test_a_deployed_client_reads_the_same_with_a_planned_time_and_without(name: str) -> None:
    plain = planned = b""
    for captured in capture(name):
        if captured.direction == HOST_TO_GUEST:
            plain += captured.data
            is_asking = b'"timeout_ms"' in captured.data
            ends = b"}\n", b',"planned_at":1790000000}\n'
            planned += captured.data.replace(*ends) if is_asking else captured.data
    assert planned.count(b',"planned_at":1790000000}\n') == plain.count(b'"timeout_ms"')
    assert [*c_client.read_messages(planned)] == [*c_client.read_messages(plain)]


def test_a_planned_time_is_the_last_key_and_left_out_if_there_is_none() -> None:
    notify = ActionNotify(5, Event.STOP, NotificationType.REVOCABLE, 9000)
    told = msgspec.structs.replace(notify, planned_at=2**32 - 1)
    assert encode(notify, 1).endswith(b',"timeout_ms":9000}\n')
    assert encode(told, 1).endswith(b',"timeout_ms":9000,"planned_at":4294967295}\n')
    assert decode(encode(told, 1).strip()) == told
    assert decode(encode(notify, 1).strip()) == notify


def test_the_key_is_the_last_and_is_left_out_if_nothing_is_offered() -> None:
    assert encode(InitAck(5, OFFERED), 1) == b"\n" + ACK % b',"extensions":13' + b"\n"
    assert encode(InitAck(5), 1) == b"\n" + ACK % b"" + b"\n"
    assert OFFERED == Extension.NAMED_REASONS | Extension.VOTERS | Extension.WITHDRAWALS == 13


@pytest.mark.parametrize(
    ("key", "extensions"),
    [
        (b"", 0),
        (b',"extensions":0', 0),
        (b',"extensions":1', 1),
        # A newer host's other bits.
        (b',"extensions":4095', 4095),
        (b',"extensions":2147483647', 2**31 - 1),
        (b',"extensions":1,"more":"keys"', 1),
        # The first of two equal keys counts, as everywhere.
        (b',"extensions":1,"extensions":0', 1),
    ],
)
def test_what_a_guest_reads(key: bytes, extensions: int) -> None:
    assert decode(ACK % key) == InitAck(5, extensions)


@pytest.mark.parametrize("value", ['"1"', "1.5", "null", "[1]", "4294967296"])
def test_another_kind_of_value_is_a_fault(value: Any) -> None:
    with pytest.raises(MessageError, match="failed to parse extensions"):
        decode(ACK % f',"extensions":{value}'.encode())
