"""The link's codec: every message there and back, literal lines, bounds, hostile lines."""

from __future__ import annotations

import json
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hbtrio.wire.channel_codec import MAX_NAME_BYTES, MAX_VOTER_REASON_BYTES, clip_utf8
from hbtrio.wire.channel_messages import MAX_VOTERS
from hbtrio.wire.link_call_off import MAX_REASON, CallOff
from hbtrio.wire.link_codec import (
    MAX_LINK_LINE,
    LinkError,
    decode_from_agent,
    decode_from_host,
    encode_link,
)
from hbtrio.wire.link_follow import Follow
from hbtrio.wire.link_holds import HoldWord
from hbtrio.wire.link_looks import Look, Seen
from hbtrio.wire.link_messages import (
    FROM_AGENT,
    FROM_HOST,
    MAX_NAME,
    MAX_NUMBER,
    MAX_STATE_REASON,
    MAX_TEXT,
    Ack,
    ActCommand,
    ActionProgress,
    Gone,
    Goodbye,
    Hello,
    Instance,
    LinkMessage,
    LinkReport,
    OverloadReport,
    Ping,
    Pong,
    Reply,
    Reporting,
    RoundCommand,
    SnapshotEnd,
    Welcome,
)
from hbtrio.wire.link_parts import LinkRequest, LinkRound, LinkVoter
from hbtrio.wire.link_places import PlaceAnswer, PlaceOver, PlaceRequest
from hbtrio.wire.vocabulary import (
    CorrectiveAction,
    Event,
    Health,
    NotificationType,
    VoterAnswer,
    VoteResult,
    VoterHealth,
)

INSTANCE = Instance(
    uuid="u-1",
    name="vm",
    state="heartbeating",
    heartbeating=True,
    health=Health.HEALTHY,
    corrective_action=CorrectiveAction.REBOOT,
    interval_ms=1000,
    vote_s=9,
    shutdown_notice_s=10,
    suspend_notice_s=11,
    resume_notice_s=14,
    restart_s=121,
    why="no answer",
    domain="instance-1",
    domain_state="paused: saving",
    voters=(
        LinkVoter(
            "web",
            VoterHealth.ILL,
            "2026-01-01T00:00:00+00:00",
            1000,
            CorrectiveAction.LOG,
            "slow",
            LinkRequest(
                Event.STOP,
                NotificationType.REVOCABLE,
                VoterAnswer.REJECT,
                "busy",
                "2026-01-01T00:00:01+00:00",
            ),
        ),
        LinkVoter("script", VoterHealth.NONE, "", 0, CorrectiveAction.NONE, ""),
    ),
    voters_unlisted=3,
    open=LinkRound(True, Event.STOP, 8.5, "extended by 30 s"),
    restart_remaining_s=120.5,
    acting=Event.LIVE_MIGRATE_BEGIN,
)
REPORT = LinkReport(
    number=7,
    time="2026-01-01T00:00:00+00:00",
    kind="vote",
    uuid="u-1",
    reason='disk "a" busy',
    event=Event.STOP,
    result=VoteResult.REJECT,
    command_id="c-1",
    who="operator uid 0",
)

#: Each message as it stands on the line.
LITERAL: list[tuple[LinkMessage, str]] = [
    (
        Hello(1, "compute-0", "h-1", "b-1", "0.1.0", 0, 12.5, "any", True, True, True, True),
        '{"type":"hello","protocol":1,"hostname":"compute-0","host_uuid":"h-1","boot_id":"b-1",'
        '"version":"0.1.0","dropped":0,"clock_s":12.5,"commands":"any","looks":true,"holds":true,'
        '"call_offs":true,"follows":true}',
    ),
    (
        INSTANCE,
        '{"type":"instance","uuid":"u-1","name":"vm","state":"heartbeating","heartbeating":true,'
        '"health":"healthy","corrective_action":"reboot","interval_ms":1000,"vote_s":9,'
        '"shutdown_notice_s":10,"suspend_notice_s":11,"resume_notice_s":14,"restart_s":121,'
        '"why":"no answer","domain":"instance-1","domain_state":"paused: saving",'
        '"voters":[{"name":"web","health":"ill","since":"2026-01-01T00:00:00+00:00",'
        '"interval_ms":1000,"corrective_action":"log","reason":"slow","last":{"event":"stop",'
        '"notification":"revocable","answer":"reject","reason":"busy",'
        '"time":"2026-01-01T00:00:01+00:00"}},{"name":"script","health":"none","since":"",'
        '"interval_ms":0,"corrective_action":"none","reason":"","last":null}],'
        '"voters_unlisted":3,"open":{"vote":true,"event":"stop","remaining_s":8.5,'
        '"extended":"extended by 30 s"},"restart_remaining_s":120.5,'
        '"acting":"live_migrate_begin"}',
    ),
    (SnapshotEnd(2), '{"type":"snapshot_end","count":2}'),
    (Gone("u-1", "removed"), '{"type":"gone","uuid":"u-1","reason":"removed"}'),
    (
        REPORT,
        '{"type":"report","number":7,"time":"2026-01-01T00:00:00+00:00","kind":"vote",'
        '"uuid":"u-1","reason":"disk \\"a\\" busy","event":"stop","result":"reject",'
        '"corrective_action":null,"command_id":"c-1","who":"operator uid 0"}',
    ),
    (
        Reply("c-1", True, seconds=9),
        '{"type":"reply","command_id":"c-1","ok":true,"reason":"","seconds":9,"owned":false,'
        '"unbegun":false}',
    ),
    (
        ActionProgress("c-1", "{}", last=True),
        '{"type":"progress","command_id":"c-1","line":"{}","last":true}',
    ),
    (
        Seen("u-1", True, 9, 2, 1, 0.25, "brake: closed"),
        '{"type":"seen","uuid":"u-1","known":true,"beats":9,"missed":2,"late_answers":1,'
        '"round_trip_ms":0.25,"not_acted":"brake: closed"}',
    ),
    (
        OverloadReport("2026-01-01T00:00:00+00:00", True),
        '{"type":"overload","since":"2026-01-01T00:00:00+00:00","alarm":true}',
    ),
    (
        Welcome(1, "controller-0", 5),
        '{"type":"welcome","protocol":1,"agent":"controller-0","acknowledged":5,"overloads":false,'
        '"holds":false,"places":false}',
    ),
    (
        PlaceRequest(7, "u-1", Event.STOP),
        '{"type":"place_request","number":7,"uuid":"u-1","event":"stop"}',
    ),
    (PlaceOver("u-1"), '{"type":"place_over","uuid":"u-1"}'),
    (
        PlaceAnswer(7, "group db: full"),
        '{"type":"place_answer","number":7,"denial":"group db: full"}',
    ),
    (Reporting("", True), '{"type":"reporting","uuid":"","enabled":true}'),
    (
        RoundCommand("c-1", "u-1", Event.RESIZE_END, False, 1.0, 17.5, "b-1", "vim"),
        '{"type":"round","command_id":"c-1","uuid":"u-1","event":"resize_end","vote":false,'
        '"deadline_s":1.0,"begin_by_s":17.5,"boot_id":"b-1","who":"vim"}',
    ),
    (
        ActCommand("c-1", "u-1", "reboot", ("virsh", "reset"), False, 1.0, 17.5, "b-1", "uid 0"),
        '{"type":"act","command_id":"c-1","uuid":"u-1","action":"reboot",'
        '"command":["virsh","reset"],"force":false,"deadline_s":1.0,'
        '"begin_by_s":17.5,"boot_id":"b-1","who":"uid 0","take_over":false,'
        '"ignore_group":false,"ignore_hold":false,"planned_at":0,"overrides":null}',
    ),
    (
        HoldWord("u-1", 7, 1.5, 61.5, 59.5, "uid 0", "disk swap", is_ended=True),
        '{"type":"hold","uuid":"u-1","number":7,"since_s":1.5,"until_s":61.5,"left_s":59.5,'
        '"who":"uid 0","reason":"disk swap","is_ended":true}',
    ),
    (CallOff("c-1", "why"), '{"type":"call_off","command_id":"c-1","reason":"why"}'),
    (
        Follow("c-2", "u-1", "reboot", "uid 0", 5.0),
        '{"type":"follow","command_id":"c-2","uuid":"u-1","action":"reboot","who":"uid 0",'
        '"deadline_s":5.0}',
    ),
    (Look("u-1"), '{"type":"look","uuid":"u-1"}'),
    (Ack(3), '{"type":"ack","number":3}'),
    (Ping(1), '{"type":"ping","number":1}'),
    (Pong(1, 12.5), '{"type":"pong","number":1,"clock_s":12.5}'),
    (Goodbye("why"), '{"type":"goodbye","reason":"why"}'),
]


def decode(message: LinkMessage, line: bytes) -> LinkMessage:
    if isinstance(message, FROM_HOST):
        return decode_from_host(line)
    return decode_from_agent(line)


@pytest.mark.parametrize(("message", "line"), LITERAL, ids=lambda one: getattr(one, "TYPE", ""))
def test_every_message_literally(message: LinkMessage, line: str) -> None:
    assert encode_link(message) == line.encode() + b"\n"
    assert decode(message, line.encode()) == message


def test_none_is_left_out() -> None:
    assert {type(message) for message, _ in LITERAL} == {*FROM_HOST, *FROM_AGENT}
    names = [cls.TYPE for cls in {*FROM_HOST, *FROM_AGENT}]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("cls", FROM_AGENT)
def test_what_only_an_agent_says_is_refused_from_a_host(cls: type[LinkMessage]) -> None:
    [line] = [line for message, line in LITERAL if type(message) is cls]
    if cls in FROM_HOST:
        assert decode_from_host(line.encode())
    else:
        with pytest.raises(LinkError, match="unknown type"):
            decode_from_host(line.encode())


@pytest.mark.parametrize("name", ["why", "domain", "domain_state"])
def test_an_older_host_does_not_say_why(name: str) -> None:
    line = json.loads(LITERAL[1][1])
    del line[name]
    got = decode_from_host(json.dumps(line).encode())
    assert got == attrs.evolve(INSTANCE, **{name: ""})


def test_an_older_host_reports_neither_voters_nor_windows() -> None:
    line = json.loads(LITERAL[1][1])
    del line["voters"], line["voters_unlisted"], line["open"], line["restart_remaining_s"]
    got = decode_from_host(json.dumps(line).encode())
    assert got == attrs.evolve(
        INSTANCE, voters=None, voters_unlisted=0, open=None, restart_remaining_s=None
    )


def test_an_older_host_does_not_say_who_asked() -> None:
    (text,) = [text for message, text in LITERAL if message is REPORT]
    line = json.loads(text)
    del line["who"]
    assert decode_from_host(json.dumps(line).encode()) == attrs.evolve(REPORT, who="")


def test_an_older_host_does_not_say_what_is_in_progress() -> None:
    line = json.loads(LITERAL[1][1])
    del line["acting"]
    got = decode_from_host(json.dumps(line).encode())
    assert got == attrs.evolve(INSTANCE, acting=None)


def test_an_older_host_does_not_say_who_extended_a_window() -> None:
    line = json.loads(LITERAL[1][1])
    del line["open"]["extended"]
    got = decode_from_host(json.dumps(line).encode())
    assert got == attrs.evolve(INSTANCE, open=LinkRound(True, Event.STOP, 8.5))


@pytest.mark.parametrize(
    ("cls", "newer"),
    [
        (Hello, {"clock_s"}),
        (Pong, {"clock_s"}),
        (RoundCommand, {"begin_by_s", "boot_id"}),
        (ActCommand, {"begin_by_s", "boot_id"}),
    ],
)
def test_an_older_end_has_no_clock_and_names_no_moment(
    cls: type[LinkMessage], newer: set[str]
) -> None:
    message = next(message for message, _ in LITERAL if type(message) is cls)
    line = json.loads(changed(cls))
    got: Any = decode(message, json.dumps({k: line[k] for k in line if k not in newer}).encode())
    assert [getattr(got, name) for name in sorted(newer)] in ([None], [None, ""])


def test_an_older_end_names_no_operator_and_no_commands() -> None:
    for cls, member in ((Hello, "commands"), (RoundCommand, "who"), (ActCommand, "who")):
        message = next(message for message, _ in LITERAL if type(message) is cls)
        line = json.loads(encode_link(message))
        del line[member]
        got = decode(message, json.dumps(line).encode())
        assert got == attrs.evolve(message, **{member: ""})


def test_the_state_that_an_older_host_calls_beating_is_heartbeating() -> None:
    old = encode_link(attrs.evolve(INSTANCE, state="beating"))
    assert b'"state":"beating"' in old
    assert decode_from_host(old) == INSTANCE
    other = attrs.evolve(INSTANCE, state="suspended", name="beating")
    assert decode_from_host(encode_link(other)) == other


def test_keys_that_are_not_known_are_ignored() -> None:
    assert decode_from_host(b'{"type":"ping","number":1,"later":{"x":[1]}}') == Ping(1)


def test_words_that_are_not_known_cost_no_message() -> None:
    line = json.loads(LITERAL[4][1]) | {"event": "defragment", "result": "perhaps"}
    got = decode_from_host(json.dumps(line).encode())
    assert got == attrs.evolve(REPORT, event=Event.UNKNOWN, result=VoteResult.UNKNOWN)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"ping"',
        b"{}",
        b'{"type":1}',
        b'{"type":"pingg","number":1}',
        b'{"type":"ping"}',
        b'{"type":"ping","number":"1"}',
        b'{"type":"ping","number":1.0}',
        b'{"type":"ping","number":true}',
        b'{"type":"ping","number":null}',
        b'{"type":"ping","number":-1}',
        b'{"type":"ping","number":9007199254740993}',
        b'{"type":"ping","number":' + b"9" * 5000 + b"}",
        b'{"type":"ping","number":1}{"type":"ping","number":2}',
        b'{"type":"gone","uuid":"\xff","reason":""}',
        b'{"type":"gone","uuid":"\\ud800","reason":""}',
        b'{"type":"gone","uuid":null,"reason":""}',
        b"[" * 16000,
        b'{"type":"ping","number":1,"x":' + b"[" * 8000 + b"]" * 8000 + b"}",
    ],
)
def test_hostile_lines(line: bytes) -> None:
    for of in (decode_from_host, decode_from_agent):
        with pytest.raises(LinkError):
            of(line)


def changed(cls: type[LinkMessage], **members: Any) -> bytes:
    [line] = [line for message, line in LITERAL if type(message) is cls]
    return json.dumps(json.loads(line) | members).encode()


@pytest.mark.parametrize(
    ("cls", "members"),
    [
        (Hello, {"hostname": "x" * (MAX_NAME + 1)}),
        (CallOff, {"reason": "x" * (MAX_REASON + 1)}),
        (Follow, {"who": "x" * (MAX_NAME + 1)}),
        (Follow, {"deadline_s": -1}),
        (Hello, {"dropped": MAX_NUMBER + 1}),
        (Instance, {"vote_s": -1}),
        (Instance, {"restart_s": 2**31}),
        (Instance, {"uuid": "x" * (MAX_NAME + 1)}),
        (Instance, {"heartbeating": 1}),
        (Instance, {"voters": json.loads(LITERAL[1][1])["voters"] * 9}),
        (Instance, {"voters_unlisted": -1}),
        (Instance, {"restart_remaining_s": 86_401}),
        (Instance, {"open": {"vote": True, "event": "stop", "remaining_s": -1}}),
        (
            Instance,
            {"open": {"vote": True, "event": "stop", "remaining_s": 1, "extended": "x" * 301}},
        ),
        (LinkReport, {"reason": "x" * (MAX_TEXT + 1)}),
        (LinkReport, {"number": 2**63}),
        (Reply, {"seconds": -1}),
        (RoundCommand, {"deadline_s": -0.1}),
        (RoundCommand, {"deadline_s": 1e9}),
        (RoundCommand, {"begin_by_s": -0.1}),
        (ActCommand, {"begin_by_s": 1e300}),
        (Pong, {"clock_s": -1}),
        (Hello, {"clock_s": "12"}),
        (ActCommand, {"command": ["x"] * 65}),
        (ActCommand, {"command": "virsh"}),
    ],
)
def test_values_beyond_their_bounds(cls: type[LinkMessage], members: dict[str, Any]) -> None:
    message = next(message for message, _ in LITERAL if type(message) is cls)
    assert decode(message, changed(cls)) == message
    with pytest.raises(LinkError):
        decode(message, changed(cls, **members))


def test_the_longest_reason_fits_whatever_it_is_made_of() -> None:
    for char in ("\0", '"', "\\", "é", "\U0001f600", "\ud800"):
        line = encode_link(attrs.evolve(REPORT, reason=char * MAX_TEXT))
        assert len(line) <= MAX_LINK_LINE + 1
        assert line.count(b"\n") == 1
        got = decode_from_host(line[:-1])
        assert isinstance(got, LinkReport)
        assert got.reason == (char if char != "\ud800" else "?") * MAX_TEXT


def test_the_longest_state_fits_whatever_its_voters_are_called() -> None:
    for char in ("x", "\u00e9", "\U0001f600"):
        name = clip_utf8(char * MAX_NAME_BYTES, MAX_NAME_BYTES)
        reason = clip_utf8(char * MAX_VOTER_REASON_BYTES, MAX_VOTER_REASON_BYTES)
        moment = "2026-01-01T00:00:00+14:00"
        last = LinkRequest(
            Event.LIVE_MIGRATE_BEGIN,
            NotificationType.IRREVOCABLE,
            VoterAnswer.COMPLETE,
            reason,
            moment,
        )
        action = CorrectiveAction.UNKNOWN
        voter = LinkVoter(name, VoterHealth.HEALTHY, moment, 2**31 - 1, action, reason, last)
        instance = attrs.evolve(
            INSTANCE,
            name=name,
            why="\0" * MAX_STATE_REASON,
            domain="\0" * MAX_NAME,
            domain_state="\0" * MAX_NAME,
            voters=(voter,) * MAX_VOTERS,
        )
        assert decode_from_host(encode_link(instance)[:-1]) == instance


def test_half_a_surrogate_pair_in_a_command() -> None:
    line = encode_link(ActCommand("c", "u", "stop", ("a\ud800",), False, 1.0))
    got = decode_from_agent(line)
    assert isinstance(got, ActCommand)
    assert got.command == ("a?",)


def test_a_line_that_is_too_long_is_not_made() -> None:
    with pytest.raises(LinkError, match="longer than 16384"):
        encode_link(ActionProgress("c", "x" * MAX_LINK_LINE, last=False))


TEXT = st.text(max_size=MAX_NAME)


@given(
    message=st.one_of(
        st.builds(Gone, TEXT, st.text(max_size=MAX_TEXT)),
        st.builds(
            LinkReport,
            st.integers(0, MAX_NUMBER),
            TEXT,
            TEXT,
            TEXT,
            st.text(max_size=MAX_TEXT),
            st.none() | st.sampled_from(Event),
            st.none() | st.sampled_from(VoteResult),
            st.none() | st.sampled_from(CorrectiveAction),
            TEXT,
        ),
        st.builds(Reply, TEXT, st.booleans(), st.text(max_size=MAX_TEXT), st.integers(0, 9999)),
    )
)
@settings(max_examples=200, deadline=None)
def test_there_and_back(message: LinkMessage) -> None:
    line = encode_link(message)
    assert line.endswith(b"\n")
    assert b"\n" not in line[:-1]
    assert decode_from_host(line[:-1]) == message


@given(data=st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_bytes_are_a_message_or_a_link_error(data: bytes) -> None:
    for of in (decode_from_host, decode_from_agent):
        try:
            of(data)
        except LinkError:
            continue
