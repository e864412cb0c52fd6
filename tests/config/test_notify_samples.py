"""The sample commands for `[notify]`, run by real shells against a real socket."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import pytest
import trio

from hbtrio.config.expansion import expand
from support.webhook_receiver import Receiver, webhook_receiver

SAMPLES: Final = Path(__file__).parents[2] / "config/notify"
SHELLS: Final = ("dash", "bash", "busybox sh")
TIME: Final = "2026-01-01T04:00:00+01:00"

pytestmark = pytest.mark.processes


async def ran(shell: str, sample: str, *argv: str, **env: str) -> int:
    words = [*shell.split(), str(SAMPLES / sample), *argv]
    path = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    with trio.fail_after(30):
        return (await trio.run_process(words, env=path | env, check=False)).returncode


def alert(receiver: Receiver, kind: str, severity: str, reason: str = "gone") -> tuple[str, ...]:
    url = f"http://127.0.0.1:{receiver.port}"
    return (url, kind, severity, "compute-0", "u1", 'my "db"\\', reason, TIME)


@pytest.mark.parametrize("shell", SHELLS)
async def test_an_alert_at_an_alertmanager(shell: str) -> None:
    async with webhook_receiver() as receiver:
        words = alert(receiver, "loss", "critical", 'a "quoted" \\ $(reboot) `reason`')
        assert await ran(shell, "alertmanager", *words) == 0
        (one,) = receiver.requests
        assert (one.method, one.target) == ("POST", "/api/v2/alerts")
        assert one.headers["content-type"] == "application/json"
        assert one.json == [
            {
                "labels": {
                    "alertname": "hbtrio_loss",
                    "severity": "critical",
                    "hostname": "compute-0",
                    "uuid": "u1",
                },
                "annotations": {
                    "summary": 'a "quoted" \\ $(reboot) `reason`',
                    "name": 'my "db"\\',
                },
                "startsAt": TIME,
            }
        ]


async def test_a_return_ends_the_alert_with_the_labels_it_had() -> None:
    async with webhook_receiver() as receiver:
        assert await ran("dash", "alertmanager", *alert(receiver, "loss", "critical")) == 0
        assert await ran("dash", "alertmanager", *alert(receiver, "recovered", "info")) == 0
        raised, ended = (one.json for one in receiver.requests)
        assert raised[0]["labels"] in [one["labels"] for one in ended]
        assert {one["endsAt"] for one in ended} == {TIME}


async def test_an_alertmanager_that_refuses_is_a_failure() -> None:
    async with webhook_receiver() as receiver:
        receiver.answers = [b"HTTP/1.1 503 Away\r\ncontent-length: 0\r\n\r\n"]
        assert await ran("dash", "alertmanager", *alert(receiver, "loss", "critical")) != 0


@pytest.mark.parametrize("shell", SHELLS)
async def test_a_notification_at_masakari(shell: str) -> None:
    async with webhook_receiver() as receiver:
        env = {"OS_TOKEN": "token", "MASAKARI_URL": f"http://127.0.0.1:{receiver.port}/v1"}
        words = ("compute-0", "u1", TIME)
        assert await ran(shell, "masakari", "unhealthy", *words, **env) == 0
        assert receiver.requests == []
        assert await ran(shell, "masakari", "loss", *words, **env) == 0
        (one,) = receiver.requests
        assert (one.method, one.target) == ("POST", "/v1/notifications")
        assert one.headers["x-auth-token"] == "token"
        assert one.json == {
            "notification": {
                "type": "VM",
                "hostname": "compute-0",
                "generated_time": "2026-01-01T03:00:00",
                "payload": {
                    "event": "LIFECYCLE",
                    "instance_uuid": "u1",
                    "vir_domain_event": "STOPPED_FAILED",
                },
            }
        }


@pytest.mark.parametrize("sample", ["alertmanager", "masakari"])
def test_the_commands_in_their_comments_are_valid(sample: str) -> None:
    text = (SAMPLES / sample).read_text()
    command = text.partition("command = ")[2].partition("]")[0].replace("#", "") + "]"
    argv = json.loads(command)
    names = ("kind", "severity", "hostname", "uuid", "name", "reason", "state", "time", "json")
    values = {name: f"<{name}>" for name in names}
    assert argv[0] == f"/etc/hbtrio/notify/{sample}"
    expected = {"alertmanager": 8, "masakari": 4}[sample]
    assert len(expand(argv, **values)) == expected + 1
