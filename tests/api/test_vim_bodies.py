"""Bodies of the VIM's requests: whatever comes is a body or a fault that names its place."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hbtrio.api.vim_bodies import (
    AskBody,
    BodyFault,
    ChangedInstance,
    HostBody,
    NewInstance,
    ServiceState,
    parse_body,
)
from hbtrio.wire.vim import Switch
from hbtrio.wire.vocabulary import Event
from support.json_values import nested

HOST: dict[str, Any] = {"uuid": "U-1", "hostname": "compute-0"}
STATES = [{"service": "heartbeat", "state": "enabled"}]


@pytest.mark.parametrize(
    ("members", "body"),
    [
        (HOST, HostBody(uuid="U-1", hostname="compute-0")),
        (
            HOST | {"services": ["heartbeat"]},
            NewInstance(uuid="U-1", hostname="compute-0", services=["heartbeat"]),
        ),
        (HOST | {"services": []}, NewInstance(uuid="U-1", hostname="compute-0", services=[])),
        (
            HOST | {"services": STATES},
            ChangedInstance(
                uuid="U-1",
                hostname="compute-0",
                services=[ServiceState(service="heartbeat", state=Switch.ENABLED)],
            ),
        ),
        (
            HOST | {"action": "resize_end"},
            AskBody(uuid="U-1", hostname="compute-0", action=Event.RESIZE_END),
        ),
    ],
)
def test_bodies(members: dict[str, Any], body: HostBody) -> None:
    cls = type(body)
    assert parse_body(json.dumps(members).encode(), cls, "u-1") == body
    # What a later VIM may add is no fault, wherever it stands.
    more = members | {"x-later": None}
    if members.get("services") == STATES:
        more["services"] = [STATES[0] | {"faults": []}]
    assert parse_body(json.dumps(more).encode(), cls, "u-1") == body


def test_faults_are_bounded() -> None:
    body = HOST | {"services": [{"service": 1, "state": 2}] * 1000}
    with pytest.raises(BodyFault) as caught:
        parse_body(json.dumps(body).encode(), ChangedInstance, "u-1")
    assert str(caught.value).count("; ") == 9


VALUES = nested(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    st.text(max_size=5),
    most=3,
    max_leaves=8,
)
MEMBERS = st.dictionaries(
    st.sampled_from(["uuid", "hostname", "services", "action", "x"]),
    st.sampled_from(["u-1", "compute-0", "stop", ["heartbeat"], STATES]) | VALUES,
)


@pytest.mark.slow
@given(members=MEMBERS, cls=st.sampled_from([HostBody, NewInstance, ChangedInstance, AskBody]))
@example(members={"uuid": "u-1", "hostname": "c", "services": [[]]}, cls=ChangedInstance)
@settings(max_examples=400, deadline=None)
def test_any_json(members: dict[str, Any], cls: type[HostBody]) -> None:
    words = "body"
    try:
        body = parse_body(json.dumps(members).encode(), cls, "u-1")
    except BodyFault as fault:
        words = str(fault)
    else:
        assert type(body) is cls
        assert body.uuid.lower() == "u-1"
    assert words.startswith("body")
    assert words.isprintable()


@given(raw=st.binary(max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_bytes(raw: bytes) -> None:
    with pytest.raises(
        BodyFault, match=r"^the body is not JSON$|^the body is not a JSON object$|^body"
    ):
        parse_body(raw, HostBody, "u-1")
