"""The switches of reporting: an instance's counts while the host's is on, and they are bounded."""

from __future__ import annotations

import pytest

from hbtrio.nursery.host.reporting import ReportingSwitch


def test_both_switches_have_to_be_on() -> None:
    switch = ReportingSwitch(default=False)
    assert not switch.set("", enabled=True)
    assert not switch.is_on("a")
    assert switch.set("a", enabled=True)
    assert not switch.set("a", enabled=True)
    assert (switch.is_on("a"), switch.is_on("b")) == (True, False)
    switch.set("", enabled=False)
    assert not switch.is_on("a")


@pytest.mark.parametrize("default", [False, True])
def test_only_what_differs_is_kept_and_only_so_much(
    default: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hbtrio.nursery.host.reporting._INSTANCES", 2)
    switch = ReportingSwitch(default=default)
    for uuid in "abc":
        switch.set(uuid, enabled=not default)
    assert set(switch.instances) == {"a", "b"}
    switch.set("a", enabled=default)
    switch.set("c", enabled=not default)
    assert set(switch.instances) == {"b", "c"}
