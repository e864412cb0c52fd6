"""The command that delivers alerts."""

from __future__ import annotations

import json
from functools import partial

import pytest
import trio

from hbtrio.config.expansion import expand
from hbtrio.nursery.notify_command import NotifyCommand
from hbtrio.wire.alert import Alert, Severity, Told, Undelivered
from support.fake_processes import HANGS, FakeProcesses, FakeRun

pytestmark = pytest.mark.usefixtures("autojump_clock")

ALERT = Alert(
    kind="loss",
    severity=Severity.CRITICAL,
    hostname="compute-0",
    uuid="u1",
    name="{uuid}; rm",
    reason="--help\x1b[31m" + "x" * 500,
    state="running: booted",
)
TOLD = Told(ALERT, "a1", "2026-01-01T00:00:00+00:00")
WORDS = ("{kind}", "{severity}", "{hostname}", "{uuid}", "{name}", "{state}", "{time}")


def command(run: FakeRun, *argv: str) -> tuple[NotifyCommand, FakeProcesses]:
    processes = FakeProcesses({"page": run})
    return NotifyCommand(partial(expand, ("page", *argv)), processes, 10), processes


async def test_it_gets_what_the_alert_says() -> None:
    channel, processes = command(FakeRun(), *WORDS, "{json}")
    await channel.send(TOLD)
    (argv,) = (moment.argv for moment in processes.started)
    assert list(argv[1:8]) == [
        "loss", "critical", "compute-0", "u1", "{uuid}; rm", "running: booted", TOLD.time,
    ]  # fmt: skip
    assert json.loads(argv[8])["data"]["kind"] == "loss"


async def test_a_tenants_text_is_short_and_no_option() -> None:
    channel, processes = command(FakeRun(), "{reason}")
    await channel.send(TOLD)
    ((_, reason),) = (moment.argv for moment in processes.started)
    assert not reason.startswith("-")
    assert len(reason) <= 230
    assert reason.isprintable()


@pytest.mark.parametrize(
    ("run", "fault"),
    [
        (FakeRun(exit_code=3, stderr=b"no\nroute"), "exit 3: no route"),
        (FakeRun(signal=9), "signal 9: "),
        (FakeRun(fault="Permission denied"), "page: Permission denied"),
        (HANGS, "timed out after 10 s"),
    ],
)
async def test_why_it_has_failed(run: FakeRun, fault: str) -> None:
    channel, _ = command(run)
    with pytest.raises(Undelivered) as caught:
        await channel.send(TOLD)
    assert (str(caught.value), caught.value.is_final) == (fault, False)
    assert trio.current_time() == (10 if run is HANGS else 0)
