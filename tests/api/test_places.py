"""Which requests share places at the APIs of host and agent; each class is bounded on its own."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest

from hbtrio.api.places import request_classes
from hbtrio.http.limits import HttpLimits
from hbtrio.http.request import RequestRefusedError
from hbtrio.http.slots import Slots
from support.http_cases import quiet

pytestmark = pytest.mark.usefixtures("autojump_clock")

INST, HOST = "/v1/instances/x", "/v1/hosts/x"

#: The requests of all APIs by class, and how many of a class are served at a time.
CLASSES = {
    "votes and notices": (1024, [("POST", f"{INST}/vote"), ("POST", f"{INST}/notify")]),
    "actions": (1024, [("POST", f"{INST}/act")]),
    "streams of events": (64, [("GET", "/v1/events"), ("GET", "/v1/events?recent=9&follow=yes")]),
    "changes": (
        64,
        [
            ("POST", f"{HOST}/alarms"),
            ("POST", f"{HOST}/forget"),
            ("PUT", f"{HOST}/enable"),
            ("PUT", f"{HOST}/disable"),
            ("POST", HOST),
            ("DELETE", HOST),
            ("PATCH", INST),
            ("FOO", "/no/such/path"),
        ],
    ),
    "queries": (
        64,
        [
            ("GET", "/v1/status"),
            ("GET", "/v1/history"),
            ("GET", "/v1/events?follow=no"),
            ("HEAD", "/v1/status"),
            ("GET", INST),
            ("GET", f"{INST}/vote"),
            ("GET", "/metrics"),
            ("GET", "/openapi.json"),
            ("OPTIONS", "*"),
        ],
    ),
}

EACH = [(kind, *one) for kind, (_, requests) in CLASSES.items() for one in requests]


def scope(method: str, target: str) -> dict[str, Any]:
    path, _, query = target.partition("?")
    return {"method": method, "path": path, "query_string": query.encode()}


@pytest.mark.parametrize(("kind", "method", "target"), EACH)
def test_classes(kind: str, method: str, target: str) -> None:
    for preferred in (False, True):
        place = request_classes(lambda _, it=preferred: it).place_of(scope(method, target))
        assert (place.kind, place.preferred) == (kind, preferred)


@pytest.mark.parametrize("kind", CLASSES)
async def test_a_class_that_is_exhausted_leaves_the_others(kind: str) -> None:
    slots = Slots(HttpLimits(), request_classes(lambda _: True))
    most, requests = CLASSES[kind]
    with ExitStack() as stack:
        for number in range(most):
            one = scope(*requests[number % len(requests)])
            stack.enter_context(slots.take(quiet).at_work(one))
        for request in requests:
            reason = f"503 too many {kind} in progress, the limit is {most}"
            with (
                pytest.raises(RequestRefusedError, match=reason),
                slots.take(quiet).at_work(scope(*request)),
            ):
                pass
        for other, method, target in EACH:
            if other != kind:
                with slots.take(quiet).at_work(scope(method, target)):
                    pass
