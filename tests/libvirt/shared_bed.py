"""One host daemon and one guest for all scenarios of a module: each boot costs seconds."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Final

import trio

from libvirt.guest_domain import Bed
from vm.machine import BOOT_S

#: How long opening and closing may take, on a machine that is very busy.
_OPEN_S: Final = 2 * BOOT_S

Scenario = Callable[[Bed], Awaitable[None]]


class SharedBed:
    """A bed that runs in a thread of its own; made by :func:`share`."""

    def __init__(self, bed: Bed, token: trio.lowlevel.TrioToken) -> None:
        self._bed = bed
        self._token = token

    def play(self, scenario: Scenario) -> None:
        """Plays a scenario with a guest that is heartbeating; prints what was reported and done."""
        trio.from_thread.run(self._play, scenario, trio_token=self._token)

    async def _play(self, scenario: Scenario) -> None:
        bed = self._bed
        try:
            await bed.ready()
            await scenario(bed)
        except BaseException:
            print(bed.logs())
            raise
        finally:
            for line in bed.story():
                print(line)


@contextmanager
def share(opening: AbstractAsyncContextManager[Bed]) -> Iterator[SharedBed]:
    """Opens a bed in a thread, and closes it at the end of the block."""
    shared: list[SharedBed] = []
    opened = threading.Event()
    failures: list[BaseException] = []
    ends: list[trio.Event] = []

    async def serve() -> None:
        async with opening as bed:
            ends.append(trio.Event())
            shared.append(SharedBed(bed, trio.lowlevel.current_trio_token()))
            opened.set()
            await ends[0].wait()

    def run() -> None:
        try:
            trio.run(serve)
        except BaseException as failure:  # noqa: BLE001 - raised again by the test's thread
            failures.append(failure)
        finally:
            opened.set()

    thread = threading.Thread(target=run, name="shared bed")
    thread.start()
    try:
        assert opened.wait(_OPEN_S), "the guest did not boot"
        if shared:
            yield shared[0]
    finally:
        if shared and not failures:
            trio.from_thread.run_sync(ends[0].set, trio_token=shared[0]._token)
        thread.join(_OPEN_S)
    if failures:
        raise failures[0]


def played(scenario: Scenario) -> Callable[[SharedBed], None]:
    """A test that plays a scenario on the shared bed."""

    def test(shared: SharedBed) -> None:
        shared.play(scenario)

    test.__name__, test.__doc__ = scenario.__name__, scenario.__doc__
    test.__module__ = scenario.__module__
    return test
