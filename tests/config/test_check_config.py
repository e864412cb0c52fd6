"""hbtrio check-config: whose configuration a file is taken for, and that it says so."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from hbtrio.cli import check_config
from hbtrio.errors import ConfigError, ExitStatus

GUEST = "VOTE=8\nCORRECTIVE_ACTION=reboot\n"
HOST = "[heartbeat]\nrescan_s = 5\n"
AGENT = "[link]\ngrace_s = 5\n"
#: Keys that host and agent have, with the same meaning.
BOTH = 'log = "syslog"\n[brake]\nshare = 1\n'


def check(file: Path) -> ExitStatus | int:
    return check_config.run(argparse.Namespace(file=str(file)))


def faults_of(file: Path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        check(file)
    return [re.sub(f"^{re.escape(str(file))}: ?", "", fault) for fault in caught.value.faults]


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [
        # As its name says.
        ("agent.toml", AGENT, "agent"),
        ("my-agent.toml", BOTH, "agent"),
        ("hbtrio-agent-2.toml", "", "agent"),
        ("agent.toml.new", AGENT, "agent"),
        ("host.toml", HOST, "host"),
        ("host.toml", BOTH, "host"),
        ("Host.TOML", "", "host"),
        ("guest_heartbeat.conf", GUEST, "guest"),
        ("vm.conf", "", "guest"),
        # As its keys say.
        ("b.toml", AGENT, "agent"),
        ("b.toml", "[vim]\n", "agent"),
        ("b.toml", 'vim.url = ""\n', "agent"),
        ("b.toml", "vim = {}\n", "agent"),
        ("b.toml", "[operator]\n[brake]\n", "agent"),
        ("b.toml", '[store]\nfile = "/s"\n', "agent"),
        ("b.toml", 'name = "x"\n', "agent"),
        ("b.toml", HOST, "host"),
        ("b.toml", '[agent]\nconnect = "unix:/x"\n', "host"),
        ("b", AGENT, "agent"),
        ("b", HOST, "host"),
        ("b", GUEST, "guest"),
        ("b", "VOTE=8\n", "guest"),
        ("b.toml", "VOTE=8\n", "guest"),
        ("host-and-agent.toml", AGENT, "agent"),
        ("agent.conf", AGENT, "agent"),
        ("guest-agent.conf", GUEST, "guest"),
        # Neither says.
        ("b.toml", BOTH, "host"),
        ("b.toml", "", "host"),
        ("b", "", "guest"),
    ],
)
def test_whose_it_is(
    tmp_path: Path, name: str, text: str, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / name
    file.write_text(text)
    assert check(file) is ExitStatus.DONE
    assert capsys.readouterr().out == f"{file}: correct ({kind})\n"


@pytest.mark.parametrize(
    ("name", "text", "faults"),
    [
        (
            "b.toml",
            "[vim]\naudit_s = 0\n",
            ["checked as an agent's", "vim.audit_s: must be 1 to 3600 s, got 0.0"],
        ),
        (
            "b.toml",
            "[heartbeat]\nrescan_s = 0\n",
            ["checked as a host's", "heartbeat.rescan_s: must be 1 to 86400 s, got 0.0"],
        ),
        (
            "b.toml",
            "[vim]\n[link]\n[limits]\n",
            ["checked as an agent's", "limits: unknown key"],
        ),
        (
            "b.toml",
            "[vim]\n[limits]\n",
            ["checked as a host's", "vim: unknown key"],
        ),
        ("b.toml", "VOTE=0\n", ["checked as a guest's", "1: VOTE: must be 1 to 86400 s, got 0"]),
        ("b", "vim\n", ["checked as a guest's", '1: no = in "vim", expected KEY=VALUE']),
    ],
)
def test_faults_say_what_it_was_taken_for(
    tmp_path: Path, name: str, text: str, faults: list[str]
) -> None:
    file = tmp_path / name
    file.write_text(text)
    assert faults_of(file) == faults


@pytest.mark.parametrize(
    ("name", "text", "faults"),
    [
        (
            "host.toml",
            "[vim]\n[link]\n",
            [
                "checked as a host's, as its name says; its keys are those of an agent",
                "link: unknown key",
                "vim: unknown key",
            ],
        ),
        (
            "agent.toml",
            HOST,
            [
                "checked as an agent's, as its name says; its keys are those of a host",
                "heartbeat: unknown key",
            ],
        ),
        (
            "agent.toml",
            "VOTE = 8\n",
            [
                "checked as an agent's, as its name says; its keys are those of a guest",
                "VOTE: unknown key",
            ],
        ),
        # What its name says and no more: nothing needs to be told.
        ("agent.toml", "[link]\ngrace_s = 0\n", ["link.grace_s: must be 1 to 3600 s, got 0.0"]),
        ("agent.toml", "[limits]\n[link]\n[vim]\n", ["limits: unknown key"]),
        ("agent.toml", "[colours]\n", ["colours: unknown key"]),
        ("agent.toml", "[link\n", ["1:6: Expected ']' at the end of a table declaration"]),
    ],
)
def test_a_name_that_says_otherwise_than_the_keys(
    tmp_path: Path, name: str, text: str, faults: list[str]
) -> None:
    file = tmp_path / name
    file.write_text(text)
    assert faults_of(file) == faults


def test_a_file_that_is_none_is_nobodys(tmp_path: Path) -> None:
    assert faults_of(tmp_path / "b.toml") == ["no such file"]
    assert faults_of(tmp_path) == ["cannot be read: Is a directory"]


def test_what_it_names_is_not_opened(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(
        '[operator]\nlisten = "tcp:0.0.0.0:1"\n'
        f'certificate = "{tmp_path}/no"\nkey = "{tmp_path}/no"\ntoken_file = "{tmp_path}/no"\n'
    )
    assert check(file) is ExitStatus.DONE
