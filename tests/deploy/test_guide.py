"""What the guides tell a reader to type is what hbtrio and the checkout have."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import pytest

from hbtrio.cli import COMMANDS, Parser
from hbtrio.config.guest import parse_guest_config
from hbtrio.config.host import HostConfig
from hbtrio.config.toml import load_toml
from hbtrio.wire.vocabulary import Event

CHECKOUT: Final = Path(__file__).parents[2]
GUIDE: Final = CHECKOUT / "docs" / "getting-started.md"
PAGES: Final = (GUIDE, CHECKOUT / "README.md", CHECKOUT / "deploy" / "README.md")

_COMMAND: Final = re.compile(r"^ {4}(?:(?:host|vm)?\$ )?(?:sudo )?(hbtrio [a-z-]+(?: .*)?)$", re.M)


def commands() -> list[str]:
    return sorted({typed for page in PAGES for typed in _COMMAND.findall(page.read_text())})


def blocks(text: str) -> list[str]:
    """The indented blocks of a page, without their indentation."""
    found = re.findall(r"(?:^ {4}.*\n)+", text, re.M)
    return [re.sub("^ {4}", "", block, flags=re.M) for block in found]


@pytest.mark.parametrize("typed", commands())
def test_each_command_is_one(typed: str) -> None:
    _, name, *words = shlex.split(typed, comments=True)
    assert name in COMMANDS
    parser = Parser(prog=f"hbtrio {name}")
    command = importlib.import_module(f"hbtrio.cli.{name.replace('-', '_')}")
    command.add_arguments(parser)
    parser.parse_args(words)


def test_the_guide_has_commands() -> None:
    typed = _COMMAND.findall(GUIDE.read_text())
    assert "hbtrio ctl status" in typed
    assert "hbtrio ctl act web-1 reboot -- virsh reboot {uuid}" in typed
    assert len(typed) >= 8


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(CHECKOUT)))
def test_each_file_it_names_is_there(page: Path) -> None:
    text = page.read_text()
    named = set(re.findall(r"(?<![\w/.-])(?:deploy|config)/[\w.-]*\w", text))
    assert [name for name in sorted(named) if not (CHECKOUT / name).exists()] == []


def test_its_event_script(tmp_path: Path) -> None:
    path = "/etc/guest-client/heartbeat/event_script"
    _, begun, rest = GUIDE.read_text().partition(f"sudo tee {path} <<'END'\n")
    assert begun
    text, ended, _ = rest.partition("    END\n")
    assert ended
    busy = tmp_path / "busy"
    assert "/run/guest-client/busy" in text
    script = tmp_path / "event_script"
    text = re.sub("^ {4}", "", text, flags=re.M)
    script.write_text(text.replace("/run/guest-client/busy", str(busy)))
    for event in Event:
        for notification in ("revocable", "irrevocable"):
            assert ran(script, notification, event) == (0, "")
    busy.touch()
    for event in Event:
        assert ran(script, "revocable", event) == (1, "a backup is running\n")
        assert ran(script, "irrevocable", event) == (0, "")


def ran(script: Path, *arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        ["/bin/sh", str(script), *arguments], capture_output=True, text=True, timeout=20
    )
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_its_configurations_are_correct(tmp_path: Path) -> None:
    found = blocks(GUIDE.read_text())
    (guest,) = (block for block in found if block.startswith("EVENT_NOTIFICATION_SCRIPT="))
    config = parse_guest_config(guest, "guide")
    assert config.event_notification_script == "/etc/guest-client/heartbeat/event_script"
    (host,) = (block for block in found if block.startswith("reboot = "))
    file = tmp_path / "host.toml"
    file.write_text(f"[corrective-commands]\n{host}")
    corrective = load_toml(file, HostConfig).corrective_commands
    assert corrective.reboot
    assert corrective.stop
    assert corrective.log


@pytest.mark.processes
def test_the_quick_start_s_bridge_leaves_nothing() -> None:
    quick_start = (CHECKOUT / "docs" / "quick-start.md").read_text()
    (typed,) = re.findall(r"^\$ (python -m hbtrio.lab.bridge .*) &$", quick_start, re.M)
    with tempfile.TemporaryDirectory(prefix="g.") as place:
        _, *words = shlex.split(typed.replace("/tmp/hbtrio", place))
        bridge = subprocess.Popen([sys.executable, *words])
        try:
            deadline = time.monotonic() + 20
            while len(os.listdir(place)) < 2 and time.monotonic() < deadline:
                time.sleep(0.02)  # another process makes them
            uuid = "f1e7a3d5-27a5-4b3e-9d0c-7d1f3f0f2f5b"
            assert sorted(os.listdir(place)) == [f"cgcs.heartbeat.{uuid}.sock", "port"]
            bridge.send_signal(signal.SIGINT)
            assert bridge.wait(20) == 0
            assert os.listdir(place) == []
        finally:
            bridge.kill()
            bridge.wait()


def test_each_event_that_it_asks_about_is_one() -> None:
    asked = re.findall(r"ctl (?:vote|notify) \S+ (\S+)", GUIDE.read_text())
    assert asked
    assert set(asked) <= {str(event) for event in Event}
