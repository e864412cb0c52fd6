"""hbtrio check-config: whose configuration a file is taken for, and that it says so."""

from __future__ import annotations

import argparse
import io
import re
import sys
from pathlib import Path

import pytest

from hbtrio.cli import check_config
from hbtrio.config.source import LIMIT_BYTES
from hbtrio.errors import ConfigError, ExitStatus

GUEST = "VOTE=8\nCORRECTIVE_ACTION=reboot\n"
HOST = "[heartbeat]\nrescan_s = 5\n"
AGENT = "[link]\ngrace_s = 5\n"
#: Keys that host and agent have, with the same meaning.
BOTH = 'log = "syslog"\n[brake]\nshare = 1\n'


def check(file: Path) -> ExitStatus | int:
    return check_config.run(argparse.Namespace(files=[str(file)], kind=None))


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
            ["checked as an agent's", "2: vim.audit_s: must be 1 to 3600 s, got 0.0"],
        ),
        (
            "b.toml",
            "[heartbeat]\nrescan_s = 0\n",
            ["checked as a host's", "2: heartbeat.rescan_s: must be 1 to 86400 s, got 0.0"],
        ),
        (
            "b.toml",
            "[vim]\n[link]\n[limits]\n",
            ["checked as an agent's", "3: limits: unknown key"],
        ),
        (
            "b.toml",
            "[vim]\n[limits]\n",
            ["checked as a host's", "1: vim: unknown key"],
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
                "2: link: unknown key",
                "1: vim: unknown key",
            ],
        ),
        (
            "agent.toml",
            HOST,
            [
                "checked as an agent's, as its name says; its keys are those of a host",
                "1: heartbeat: unknown key",
            ],
        ),
        (
            "agent.toml",
            "VOTE = 8\n",
            [
                "checked as an agent's, as its name says; its keys are those of a guest",
                "1: VOTE: unknown key",
            ],
        ),
        # What its name says and no more: nothing needs to be told.
        ("agent.toml", "[link]\ngrace_s = 0\n", ["2: link.grace_s: must be 1 to 3600 s, got 0.0"]),
        ("agent.toml", "[limits]\n[link]\n[vim]\n", ["1: limits: unknown key"]),
        ("agent.toml", "[colours]\n", ["1: colours: unknown key"]),
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


def check_all(*files: str, kind: str | None = None) -> ExitStatus | int:
    return check_config.run(argparse.Namespace(files=list(files), kind=kind))


def give(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_all_files_are_checked_and_all_faults_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sound, faulty, other = (str(tmp_path / name) for name in ("host.toml", "a.conf", "agent.toml"))
    Path(sound).write_text(HOST)
    Path(faulty).write_text("VOTES=8\n")
    Path(other).write_text("[link]\ngrace = 5\n")
    with pytest.raises(ConfigError) as caught:
        check_all(faulty, str(tmp_path / "gone.toml"), sound, other)
    assert caught.value.status == ExitStatus.USAGE
    for file in (faulty, str(tmp_path / "gone.toml"), other):
        assert any(fault.startswith(file) for fault in caught.value.faults)
    assert not any(fault.startswith(sound) for fault in caught.value.faults)
    assert capsys.readouterr().out == f"{sound}: correct (host)\n"


@pytest.mark.parametrize("kind", ["host", "agent"])
def test_it_prints_the_groups(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / f"{kind}.toml"
    file.write_text(
        '[groups.db]\nmembers = ["db-*", "x"]\nmax_unavailable = 1\n'
        '[groups.web]\nmembers = ["w"]\nmin_available = "66%"\n'
    )
    assert check(file) == ExitStatus.DONE
    assert capsys.readouterr().out.splitlines()[1:] == [
        '  groups.db: max_unavailable = 1, members = ["db-*", "x"]',
        '  groups.web: min_available = "66%", members = ["w"]',
    ]


def test_it_prints_what_is_set_for_some_instances(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who is watched, and who is acted upon; each glob with quotes and escapes, on one line."""
    tables = """
        [instances."*"]
        corrective = "off"
        [instances."web-\\"\u00e9\u2028*"]
        corrective = "on"
        per_hour = 1
        [instances."6D0AC1F2-8a53-4c0b-8f7e-0c3f9a1b2c3d"]
        watch = false
        no_io_for_s = 2.5
        [instances."db"]
    """
    give(monkeypatch, tables.encode())
    assert check_all("-") == ExitStatus.DONE
    assert capsys.readouterr().out.splitlines() == [
        "standard input: correct (host)",
        '  instances "*": corrective = "off"',
        r'  instances "web-\"é\u2028*": corrective = "on", per_hour = 1',
        '  instances "6D0AC1F2-8a53-4c0b-8f7e-0c3f9a1b2c3d": watch = false, no_io_for_s = 2.5',
        '  instances "db": as all',
    ]


@pytest.mark.parametrize(("text", "kind"), [(HOST, "host"), (AGENT, "agent"), (GUEST, "guest")])
def test_standard_input_is_what_its_keys_say(
    text: str, kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    give(monkeypatch, text.encode())
    assert check_all("-") == ExitStatus.DONE
    assert capsys.readouterr().out == f"standard input: correct ({kind})\n"


def test_the_kind_that_is_told_outranks_name_and_keys(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    give(monkeypatch, BOTH.encode())
    assert check_all("-", kind="agent") == ExitStatus.DONE
    assert capsys.readouterr().out == "standard input: correct (agent)\n"
    give(monkeypatch, HOST.encode())
    with pytest.raises(ConfigError) as caught:
        check_all("-", kind="agent")
    assert caught.value.faults[0].startswith("standard input:1: heartbeat: unknown key")


def test_standard_input_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    give(monkeypatch, b"#" * (LIMIT_BYTES + 1))
    with pytest.raises(ConfigError, match="standard input: over 65536 bytes"):
        check_all("-")
