"""The schema of the operator API: what is left out, what is replaced, and what it documents."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given

from hbtrio.api.openapi import openapi
from hbtrio.wire.operator import (
    EventLine,
    FleetEventLine,
    FleetStatus,
    ProgressLine,
    Refusal,
    ReplyFault,
    encode,
    encode_line,
    parse,
    parse_event,
)
from hbtrio.wire.operator.codec import encode_members
from hbtrio.wire.operator.components import components
from hbtrio.wire.operator.words import Body, StreamLine
from hbtrio.wire.vocabulary import ACTION_TABLE, EVENT_TABLE
from support.tenant_texts import HOSTILE, TENANT_TEXTS, hostile_in

AGENT = b'{"name":"c","version":"1","started":"2026-01-01T00:00:00+00:00"}'


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (EventLine(kind="lost"), b'{"kind": "lost", "reason": ""}'),
        (FleetEventLine(kind="loss", id=1), b'{"id": 1, "kind": "loss", "reason": ""}'),
        (ProgressLine(step="vote"), b'{"step": "vote"}'),
        (
            ProgressLine(step="command", result="done", reason="", output=""),
            b'{"step": "command", "result": "done", "reason": "", "output": ""}',
        ),
    ],
)
def test_a_line_leaves_out_what_does_not_apply(line: StreamLine, expected: bytes) -> None:
    assert encode_line(line) == expected


def test_half_a_surrogate_pair_becomes_a_question_mark() -> None:
    assert encode(Refusal(reason="a\ud800")) == b'{"status":"fail","reason":"a?"}'
    line = ProgressLine(step="command", argv=("x", "\udfff"), seconds=9)
    assert encode_line(line) == b'{"step": "command", "argv": ["x", "?"], "seconds": 9}'


@given(text=TENANT_TEXTS)
@example(text=HOSTILE)
def test_a_body_holds_nothing_hostile_and_means_what_was_said(text: str) -> None:
    heard = text.encode(errors="replace").decode()
    for body in (encode({text: [text]}), encode({text: [f"{text}\ud800"]})):
        assert hostile_in(body.decode()) == []
        assert next(iter(json.loads(body))) == heard
    line = encode_line(ProgressLine(step="command", output=text))
    assert hostile_in(line.decode()) == []
    assert parse(line, ProgressLine).output == heard


def test_a_fleet_is_put_together_of_its_parts_in_order() -> None:
    lists = dict.fromkeys(("drains", "groups", "unregistered", "instances", "hosts"), b"[]")
    parts = {**lists, "agent": AGENT}
    whole = encode_members(FleetStatus, parts)
    assert (
        whole
        == b'{"agent":%b,"hosts":[],"instances":[],"unregistered":[],"groups":[],"drains":[]}'
        % AGENT
    )
    assert parse(whole, FleetStatus).agent.name == "c"
    del parts["hosts"]
    with pytest.raises(KeyError):
        encode_members(FleetStatus, parts)


def test_unknown_members_and_words_are_read() -> None:
    line = parse(b'{"step": "dance", "event": "leap", "x": {}}', ProgressLine)
    assert (line.step, line.event, line.reason or "") == ("dance", "leap", "")


def test_a_wrong_type_is_not_read() -> None:
    with pytest.raises(ReplyFault, match=r"^Expected `str`, got `int`$"):
        parse(b'{"step": "vote", "event": 1}', ProgressLine)


def test_an_event_is_an_agents_if_it_names_a_host() -> None:
    of_agent = parse_event(b'{"kind": "loss", "hostname": "compute-0", "who": "vim"}')
    assert of_agent == FleetEventLine(kind="loss", hostname="compute-0", who="vim")
    of_host = parse_event(b'{"kind": "loss", "name": "web-1"}')
    assert of_host == EventLine(kind="loss", name="web-1")
    assert (of_agent.name, of_host.hostname, of_host.who) == ("", "", "")


def references(value: Any) -> Iterator[str]:
    match value:
        case {"$ref": str(name)}:
            yield name
        case dict():
            for inner in value.values():
                yield from references(inner)
        case list():
            for inner in value:
                yield from references(inner)


@pytest.mark.parametrize("local", [True, False])
def test_the_document_refers_to_what_it_has(local: bool) -> None:
    document = json.loads(json.dumps(openapi(local=local)))
    found = set(references(document))
    assert len(found) > 15
    for name in found:
        part: Any = document
        for key in name.removeprefix("#/").split("/"):
            part = part[key]
    # And nothing is in it that no route answers with.
    schemas = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    streamed = {f"#/components/schemas/{name}" for name in ("DrainLine", "ProgressLine")}
    assert schemas - found == streamed


def test_bodies_are_documented_with_all_their_members() -> None:
    schemas = components()
    for cls in Body.__subclasses__():
        if (schema := schemas.get(cls.__name__)) is not None:
            assert schema["required"] == list(cls.__struct_fields__)
            assert schema["additionalProperties"] is False
            assert not any("default" in member for member in schema["properties"].values())
            assert schema["description"] == cls.__doc__


def test_words_are_those_of_the_vocabulary() -> None:
    schemas = components()
    event = schemas["NoticeRequest"]["properties"]["event"]
    assert event["enum"] == list(map(str, EVENT_TABLE))
    voted = schemas["VoteRequest"]["properties"]["event"]["enum"]
    assert voted == [str(word) for word, rule in EVENT_TABLE.items() if rule.voted]
    action = schemas["ActRequest"]["properties"]["action"]
    assert action["enum"] == list(map(str, ACTION_TABLE))
    assert schemas["FleetHostLine"]["properties"]["instances"]["minimum"] == 0
