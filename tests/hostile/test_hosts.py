"""A hostile host on the channel: the guest answers each challenge, and its applications miss none.

The environment makes it longer, see `make test-hostile`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import trio

from hbtrio.lab.daemon import Daemon
from hbtrio.log.limits import GUEST_PLACE_RATE, RARE_RATE
from hbtrio.wire.app_messages import AppActionNotify, AppChallenge, AppInitAck
from hbtrio.wire.lines import LineReader
from hbtrio.wire.vocabulary import VoteResult
from support.guest_farm import module_environment
from support.hostile_host_process import KINDS
from support.raw_application import RawApplication, init
from support.real_processes import descriptors, resident_mib, until
from support.tenant_texts import hostile_in

pytestmark = [pytest.mark.processes, pytest.mark.slow]

#: For each kind in turn.
_TURN_S: Final = float(os.environ.get("HBTRIO_HOSTILE_S", "15")) / len(KINDS)

#: What all that a guest holds of it may take; 1 was seen.
_MORE_MIB: Final = 10

#: One who reads no answers, and one who asks and leaves, are not answered.
_UNANSWERED: Final = {"deaf", "leaver"}

#: What a guest has to say of a host that is none.
_NAMED: Final = (
    "the host floods the channel: more than 64 reads a second",
    "message dropped: failed to parse message: not a JSON object",
    "message dropped: longer than 4096 bytes",
    "message dropped: failed to parse heartbeat_challenge",
    "message dropped: version 2 is not supported",
    "message dropped: unknown msg_type --force",
    "message dropped: exit, which hosts don't send",
    "the host refuses a message: --force",
    "too many actions at once",
    "channel closed",
)

#: What differs between two lines of one place in the source.
_OWN: Final = re.compile(r"^\S+ \S+ |(?<=dropped: |message: ).*|\(.*\)|\d\S*")

#: Lines of one place in the source, in the first minute and in each that follows.
_AT_ONCE: Final = GUEST_PLACE_RATE.burst + RARE_RATE.burst
_A_MINUTE: Final = GUEST_PLACE_RATE.per_minute + RARE_RATE.per_minute


async def test_a_hostile_host(home: Path) -> None:
    async with (
        _attack(home) as turns,
        _running_guest(home) as guest,
        trio.open_nursery() as nursery,
    ):
        app = await _registered(home / "api", nursery)
        memory, files = resident_mib(guest.pid), descriptors(guest.pid)
        began, seen = trio.current_time(), []
        async for turn in turns:
            seen.append(turn["kind"])
            assert turn["answered"] >= 1 or turn["kind"] in _UNANSWERED, turn
            assert turn["answered"] == turn["sent"] or turn["kind"] in _UNANSWERED, turn
        passed = trio.current_time() - began
        grown, challenges = resident_mib(guest.pid) - memory, len(app.received_of(AppChallenge))
        assert seen == list(KINDS)
        assert app.closed_at is None
        # One each second, on a grid: none was left out, and each was answered in time.
        assert challenges >= passed - 1
        assert len(app.received_of(AppActionNotify)) <= 30 * passed + 30
        assert grown <= _MORE_MIB
        # One more for the reaper, which has started with the first event script.
        await until(lambda: descriptors(guest.pid) <= files + 1)
        await guest.stop()
        nursery.cancel_scope.cancel()
    log = (home / "guest.log").read_text()
    lines = Counter(_OWN.sub("", line) for line in log.splitlines())
    assert lines.most_common(1)[0][1] <= _AT_ONCE + _A_MINUTE * passed / 60, lines.most_common(10)
    assert [text for text in _NAMED if text not in log] == []
    assert log.count(_NAMED[0]) >= int(passed / 60) or passed < 60
    assert "silent" not in log
    assert "Traceback" not in log
    assert {char for line in log.splitlines() for char in hostile_in(line)} == set()


@asynccontextmanager
async def _attack(home: Path) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
    """Serves the guest's device until the last turn; what came of each turn."""
    process = await trio.lowlevel.open_process(
        [
            *(sys.executable, "-m", "support.hostile_host_process"),
            *(str(home / "device"), str(_TURN_S)),
        ],
        stdout=subprocess.PIPE,
        env=module_environment(),
    )
    assert process.stdout is not None
    try:
        await until((home / "device").exists)
        async with process.stdout, aclosing(_objects(process.stdout)) as turns:
            yield turns
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


async def _objects(stream: trio.abc.ReceiveStream) -> AsyncIterator[dict[str, Any]]:
    lines = LineReader()
    while data := await stream.receive_some():
        for line in lines.feed(bytes(data)):
            yield json.loads(line)


@asynccontextmanager
async def _running_guest(home: Path) -> AsyncIterator[Daemon]:
    """Ends it also where the test fails, for the sake of those that follow."""
    script = home / "event_script"
    script.write_text("#!/bin/sh\necho fine\n")
    script.chmod(0o755)
    config = home / "guest.conf"
    config.write_text(f"HB_INTERVAL=1000\nVOTE=3\nEVENT_NOTIFICATION_SCRIPT={script}\n")
    paths = {"--config": config, "--device": home / "device", "--app-socket": home / "api"}
    options = [str(word) for option in paths.items() for word in option]
    guest = await Daemon.start("guest", ["guest", *options], home / "guest.log")
    try:
        await until((home / "api").exists)
        yield guest
    finally:
        with trio.CancelScope(shield=True):
            await guest.kill()
        print((home / "guest.log").read_text()[-10_000:])


async def _registered(path: Path, nursery: trio.Nursery) -> RawApplication:
    app = RawApplication.connect(path, nursery, init("good"))
    app.on_event = lambda asked: app.answer(asked, VoteResult.ACCEPT)
    await until(lambda: app.received_of(AppInitAck))
    return app
