"""The sample scripts: consent by default, and the first line of a flag file as the reason."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from hbtrio.wire.vocabulary import Event

CONFIG = Path(__file__).parents[2] / "config"
HEALTH = CONFIG / "sample_health_script"
EVENT = CONFIG / "sample_event_script"


def run(script: Path, flags: Path, *args: str) -> tuple[int, str, str]:
    environment = {"GUEST_CLIENT_FLAGS": str(flags)}
    done = subprocess.run(
        ["/bin/sh", str(script), *args], env=environment, capture_output=True, text=True, timeout=20
    )
    return done.returncode, done.stdout, done.stderr


def test_healthy_unless_declared_otherwise(tmp_path: Path) -> None:
    assert run(HEALTH, tmp_path) == (0, "", "")
    assert run(HEALTH, tmp_path / "none") == (0, "", "")
    (tmp_path / "unhealthy").write_text("disk \\n 'a' is full\nmore\n")
    assert run(HEALTH, tmp_path) == (1, "disk \\n 'a' is full\n", "")
    (tmp_path / "unhealthy").write_text("")
    assert run(HEALTH, tmp_path) == (1, "declared unhealthy\n", "")


@pytest.mark.parametrize("notification", ["revocable", "irrevocable"])
def test_every_event_is_accepted(tmp_path: Path, notification: str) -> None:
    for event in Event:
        assert run(EVENT, tmp_path, notification, event) == (0, "", "")


def test_vetoes(tmp_path: Path) -> None:
    (tmp_path / "veto.pause").write_text("call is up")
    assert run(EVENT, tmp_path, "revocable", "pause") == (1, "call is up\n", "")
    assert run(EVENT, tmp_path, "revocable", "stop") == (0, "", "")
    assert run(EVENT, tmp_path, "irrevocable", "pause") == (0, "", "")
    (tmp_path / "veto").touch()
    assert run(EVENT, tmp_path, "revocable", "stop") == (1, "refused by veto\n", "")


def test_wrong_arguments(tmp_path: Path) -> None:
    usage = "usage: sample_event_script revocable|irrevocable EVENT\n"
    assert run(EVENT, tmp_path) == (2, "", usage)
