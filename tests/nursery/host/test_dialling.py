"""Dialling: one line for each fault, waits that grow, and a new socket is dialled at once."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from hbtrio.nursery.host.dialling import Dialling
from support.memory_port import MemoryDialer

PATH, OTHER = "/run/vms/a.sock", "/run/vms/b.sock"


def dialling(dialer: MemoryDialer) -> Dialling:
    return Dialling("uuid-1", PATH, dialer)


async def test_a_fault_that_lasts_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    dialer = MemoryDialer()
    attempts = dialling(dialer)
    for _ in range(3):
        assert attempts.dial() is None
    line = f"uuid-1: {PATH}: {attempts.fault}; retrying"
    assert caplog.messages == [line]
    dialer.listen(PATH, lambda _: None)
    assert attempts.dial() is not None
    assert attempts.fault == ""
    dialer.forget(PATH)
    assert attempts.dial() is None
    assert caplog.messages == [line, line]


async def test_a_wait_ends_with_a_new_socket(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    dialer = MemoryDialer()
    dialer.listen(PATH, lambda _: None)
    dialer.listen(OTHER, lambda _: None)
    attempts = dialling(dialer)
    attempts.absent = True
    assert attempts.dial() is None
    assert attempts.fault == "its socket is gone, the instance is expected back"
    for _ in range(5):
        await attempts.wait()
    started = trio.current_time()
    nursery.start_soon(attempts.wait)
    await wait_all_tasks_blocked()
    attempts.retarget(OTHER)
    await wait_all_tasks_blocked()
    assert nursery.child_tasks == frozenset()
    assert trio.current_time() == started
    assert (attempts.path, attempts.dial() is not None) == (OTHER, True)
