"""What the guides tell a reader to type is what hbtrio and the checkout have."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path
from typing import Final

import pytest
import yaml  # comes with schemathesis

from hbtrio.cli import COMMANDS, Parser
from hbtrio.config.guest import parse_guest_config
from hbtrio.config.host import load_host_config
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
    for target, anchor in re.findall(r"\]\(([^)#:]*)(#[^)]*)?\)", text):
        linked = (page.parent / target) if target else page
        assert linked.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", linked.read_text(), re.M)
            assert anchor[1:] in {title.lower().replace(" ", "-") for title in titles}


def test_its_event_script_is_that_of_cloud_init() -> None:
    data = yaml.safe_load((CHECKOUT / "deploy" / "cloud-init.yaml").read_text())
    path = "/etc/guest-client/heartbeat/event_script"
    (written,) = (file["content"] for file in data["write_files"] if file["path"] == path)
    _, begun, rest = GUIDE.read_text().partition(f"sudo tee {path} <<'END'\n")
    assert begun
    script, ended, _ = rest.partition("    END\n")
    assert ended
    assert re.sub("^ {4}", "", script, flags=re.M) == written


def test_its_configurations_are_correct(tmp_path: Path) -> None:
    found = blocks(GUIDE.read_text())
    (guest,) = (block for block in found if block.startswith("EVENT_NOTIFICATION_SCRIPT="))
    config = parse_guest_config(guest, "guide")
    assert config.event_notification_script == "/etc/guest-client/heartbeat/event_script"
    (host,) = (block for block in found if block.startswith("reboot = "))
    file = tmp_path / "host.toml"
    file.write_text(f"[corrective-commands]\n{host}")
    corrective = load_host_config(file).corrective_commands
    assert corrective.reboot
    assert corrective.stop
    assert corrective.log


def test_each_event_that_it_asks_about_is_one() -> None:
    asked = re.findall(r"ctl (?:vote|notify) \S+ (\S+)", GUIDE.read_text())
    assert asked
    assert set(asked) <= {str(event) for event in Event}
