"""Bodies to and from the VIM, byte for byte."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbtrio.wire.vim import (
    MAX_REASON,
    AlarmEvent,
    AlarmState,
    GuestResponse,
    HostAnswer,
    InstanceAnswer,
    ServiceEvent,
    Switch,
    VerdictEvent,
    VimAnswerFault,
    VimRequest,
    guest_response,
    host_audit,
    instances_audit,
    parse_host_answer,
    parse_instances_answer,
    patch_instance,
    vim_reason,
)
from hbtrio.wire.vocabulary import CorrectiveAction, Event, NotificationType, VoteResult

U = "4ba21eb5-8257-4ae0-a8bd-b07d1a0c8b59"
H = "6f0e9d8a-0f11-4c2b-9d1e-aa0b7a4b7c11"


@pytest.mark.parametrize("status", Switch)
def test_service(status: Switch) -> None:
    body = ServiceEvent(U, "compute-0", Switch.ENABLED, status, 300).body()
    assert body == (
        '{"uuid":"4ba21eb5-8257-4ae0-a8bd-b07d1a0c8b59","hostname":"compute-0",'
        '"event-type":"service","event-data":{"services":[{"service":"heartbeat",'
        f'"state":"enabled","status":"{status}","restart-timeout":"300"}}]}}}}'
    )


@pytest.mark.parametrize(("state", "word"), [("FAILED", "failed"), ("UNHEALTHY", "unhealthy")])
def test_alarm(state: str, word: str) -> None:
    body = AlarmEvent(U, "compute-0", AlarmState[state], CorrectiveAction.REBOOT).body()
    assert body == (
        '{"uuid":"4ba21eb5-8257-4ae0-a8bd-b07d1a0c8b59","hostname":"compute-0",'
        '"event-type":"alarm","event-data":{"services":[{"service":"heartbeat",'
        f'"state":"{word}","repair-action":"reboot"}}]}}}}'
    )


def test_action() -> None:
    event = VerdictEvent(U, Event.LIVE_MIGRATE_BEGIN, GuestResponse.REJECT, 'disk "a"\\b busy\n')
    assert event.body() == (
        '{"uuid":"4ba21eb5-8257-4ae0-a8bd-b07d1a0c8b59","event-type":"action",'
        '"event-data":{"action":"live_migrate_begin","guest-response":"reject",'
        '"reason":"disk \'a\'/b busy"}}'
    )


def test_bodies_are_ascii_whatever_the_hostname() -> None:
    request = patch_instance(U, ServiceEvent(U, "räck-\ud800", *[Switch.DISABLED] * 2, 0).body())
    assert request.body.isascii()
    assert json.loads(request.body)["hostname"] == "räck-\ud800"


def test_requests() -> None:
    assert patch_instance(U, "{}") == VimRequest("PATCH", f"/nfvi-plugins/v1/instances/{U}", b"{}")
    assert host_audit(H, "compute-0") == VimRequest(
        "GET",
        f"/nfvi-plugins/v1/hosts/{H}",
        b'{"hostname":"compute-0","uuid":"6f0e9d8a-0f11-4c2b-9d1e-aa0b7a4b7c11"}',
    )
    assert instances_audit(H) == VimRequest(
        "GET", f"/nfvi-plugins/v1/instances/?host_uuid={H}", b""
    )


def test_a_uuid_can_not_become_another_path() -> None:
    assert patch_instance("../x?y z", "{}").target == "/nfvi-plugins/v1/instances/..%2Fx%3Fy%20z"
    assert instances_audit("a&b=c").target.endswith("?host_uuid=a%26b%3Dc")


@pytest.mark.parametrize("result", VoteResult)
def test_guest_response(result: VoteResult) -> None:
    expected = GuestResponse.REJECT if result is VoteResult.REJECT else GuestResponse.ALLOW
    assert guest_response(NotificationType.REVOCABLE, result) is expected
    assert guest_response(NotificationType.IRREVOCABLE, result) is GuestResponse.PROCEED


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("busy", "busy"),
        ("", ""),
        ('say "no"', "say 'no'"),
        ("C:\\temp", "C:/temp"),
        ("  two\n\tlines\r\n", "two lines"),
        ("a\x00b\x1bc\x7fd\x85e", "a b c d e"),
        ("Gr\u00f6\u00dfe \u4e2d", "Gr??e ?"),
        ("a\u2028b\u00a0c", "a b c"),
        ("half \ud83d", "half ?"),
        ("x" * 10_000, "x" * MAX_REASON),
        ("x" * (MAX_REASON - 1) + " y", "x" * (MAX_REASON - 1)),
        ("\n" * 9 * MAX_REASON + "late", ""),
    ],
)
def test_reason(text: str, plain: str) -> None:
    assert vim_reason(text) == plain


@given(st.text(max_size=2000))
def test_a_reason_survives_being_pasted_between_quotes(text: str) -> None:
    reason = vim_reason(text)
    assert json.loads(f'"{reason}"') == reason
    assert all(" " <= char <= "~" for char in reason)
    assert len(reason) <= MAX_REASON
    assert vim_reason(reason) == reason


def test_host_answer() -> None:
    body = f'{{"uuid":"{H.upper()}","hostname":"compute-0","state":"disabled","more":1}}'
    assert parse_host_answer(body.encode()) == HostAnswer(H, "compute-0", Switch.DISABLED)


def test_instances_answer() -> None:
    body = {
        "instances": [
            {
                "uuid": U.upper(),
                "hostname": "compute-0",
                "services": [
                    {"service": "other", "state": "weird"},
                    {"service": "heartbeat", "state": "enabled"},
                ],
            },
            {"uuid": H, "hostname": "compute-0", "services": []},
        ]
    }
    assert parse_instances_answer(json.dumps(body).encode()) == (
        InstanceAnswer(U, "compute-0", Switch.ENABLED),
    )
    assert parse_instances_answer(b'{"instances":[]}') == ()


@pytest.mark.parametrize(
    ("body", "place"),
    [
        (b"", "truncated"),
        (b"[]", "object"),
        (b"[" * 100_000, ""),
        (b'{"uuid":"a","hostname":"b"}', "state"),
        (b'{"uuid":1,"hostname":"b","state":"enabled"}', "$.uuid"),
        (b'{"uuid":"a","hostname":"b","state":"on"}', "$.state"),
        (b'{"uuid":"\xff","hostname":"b","state":"enabled"}', ""),
    ],
)
def test_faulty_host_answers(body: bytes, place: str) -> None:
    with pytest.raises(VimAnswerFault) as caught:
        parse_host_answer(body)
    assert place in str(caught.value)


@pytest.mark.parametrize(
    ("body", "place"),
    [
        (b"{}", "instances"),
        (b'{"instances":[{"uuid":"a","hostname":"b"}]}', "$.instances[0]"),
        (
            b'{"instances":[{"uuid":"a","hostname":"b","services":[{"service":"heartbeat"}]}]}',
            "$.instances[0].services[0]",
        ),
        (
            b'{"instances":[{"uuid":"a","hostname":"b","services":'
            b'[{"service":"heartbeat","state":"on"}]}]}',
            "$.instances[0]",
        ),
        (b'{"instances":[', "truncated"),
    ],
)
def test_faulty_instances_answers(body: bytes, place: str) -> None:
    with pytest.raises(VimAnswerFault) as caught:
        parse_instances_answer(body)
    assert place in str(caught.value)


@given(st.binary(max_size=200))
def test_any_bytes_are_an_answer_or_a_fault(body: bytes) -> None:
    for parse in (parse_host_answer, parse_instances_answer):
        with pytest.raises(VimAnswerFault):
            parse(body)
