"""How many lines refused connections cost, and what they name."""

from __future__ import annotations

import pytest

from hbtrio.nursery.agent.refused_links import EVERY_S, MOST, RefusedLinks


def test_one_line_a_minute_for_each_address(caplog: pytest.LogCaptureFixture) -> None:
    links = RefusedLinks()
    for second in range(0, 181, 2):  # a host dials again every 2 s, from another port each time
        links.log(f"tcp:10.0.0.5:{40000 + second}", "expired", float(second))
    assert caplog.messages == [
        "tcp:10.0.0.5:40000: connection refused: expired",
        *(
            f"tcp:10.0.0.5:{40000 + at}: connection refused: expired "
            "(29 more since the last line about tcp:10.0.0.5)"
            for at in (60, 120, 180)
        ),
    ]
    assert links.count == 91


def test_the_host_that_was_linked_from_there(caplog: pytest.LogCaptureFixture) -> None:
    links = RefusedLinks()
    for port in (1, 2):
        links.accepted(f"tcp:10.0.0.5:{port}", "compute-5")
        links.accepted(f"tcp:10.0.0.6:{port}", f"compute-{port}")  # a proxy
    links.log("tcp:10.0.0.5:3", "expired", 0.0)
    links.log("tcp:10.0.0.6:3", "expired", 0.0)
    links.log("tcp:[fd00::5]:3", "expired", 0.0)
    assert caplog.messages == [
        "tcp:10.0.0.5:3 (compute-5 was linked from there): connection refused: expired",
        "tcp:10.0.0.6:3: connection refused: expired",
        "tcp:[fd00::5]:3: connection refused: expired",
    ]


def test_many_addresses_share_a_line(caplog: pytest.LogCaptureFixture) -> None:
    links = RefusedLinks()
    for number in range(10 * MOST):
        links.log(f"tcp:10.0.{number % 250}.{number // 250}:1", "expired", number / 1000)
    assert len(caplog.messages) == MOST + 1
    assert len(links._addresses) == MOST + 1
    # Minutes later, addresses have lines of their own again.
    links.log("tcp:10.9.9.9:1", "expired", 3 * EVERY_S)
    assert caplog.messages[-1] == "tcp:10.9.9.9:1: connection refused: expired"
    assert len(links._addresses) == 1


def test_known_hosts_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hbtrio.nursery.agent.refused_links._KNOWN", 3)
    links = RefusedLinks()
    for number in range(5):
        links.accepted(f"tcp:10.0.0.{number}:1", f"compute-{number}")
    assert list(links._hosts.values()) == ["compute-2", "compute-3", "compute-4"]
