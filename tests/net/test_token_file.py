"""The token's file, and where an agent and `hbtrio ctl` take a token from."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hbtrio.cli import main
from hbtrio.client.address import Address
from hbtrio.client.client import CtlClient
from hbtrio.errors import ExitStatus, UserError
from hbtrio.net.token_file import checked_token, read_token

TOKEN = "abcDEF0123456789._~+/-=="
RULE = "not a token: expected 16 to 1024 of A-Z a-z 0-9 . _ ~ + / -"


def token_file(folder: Path, data: bytes, mode: int = 0o600) -> str:
    file = folder / "token"
    file.write_bytes(data)
    file.chmod(mode)
    return str(file)


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o640, 0o700])
def test_a_token(tmp_path: Path, mode: int) -> None:
    assert read_token(token_file(tmp_path, b" " + TOKEN.encode() + b"\n", mode), "x") == TOKEN


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o601, 0o620, 0o666])
def test_a_file_that_others_can_get_at(tmp_path: Path, mode: int) -> None:
    path = token_file(tmp_path, TOKEN.encode(), mode)
    with pytest.raises(UserError) as caught:
        read_token(path, "x.toml: y")
    assert str(caught.value) == f"x.toml: y: {path}: open to others, mode {mode:04o}"
    assert caught.value.status is ExitStatus.DENIED


@pytest.mark.parametrize(
    "data", [b"", b"\n", b"short", b"two words of a token", b"x" * 1025, b"\xff" * 20, b"x\0" * 20]
)
def test_no_token_in_it(tmp_path: Path, data: bytes) -> None:
    path = token_file(tmp_path, data)
    with pytest.raises(UserError) as caught:
        read_token(path, "x.toml: y")
    fault = f"x.toml: y: {path}: {RULE}"
    assert (str(caught.value), caught.value.status) == (fault, ExitStatus.USAGE)


def test_no_file_to_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    for path, fault in [
        (f"{tmp_path}/absent", "no such file or directory"),
        (str(tmp_path), "is a directory"),
        (f"{tmp_path}/fifo", "not a regular file"),
        ("a\0b", "not a path"),
    ]:
        with pytest.raises(UserError) as caught:
            read_token(path, "x.toml: y")
        assert str(caught.value).startswith("x.toml: y: ")
        assert str(caught.value).endswith(f": {fault}")
        assert caught.value.status is ExitStatus.USAGE


def test_a_token_in_the_environment() -> None:
    with pytest.raises(UserError) as caught:
        checked_token("x", "HBTRIO_TOKEN")
    assert str(caught.value) == f"HBTRIO_TOKEN: {RULE}"


def test_a_token_does_not_leave_the_machine_in_clear() -> None:
    for url in ("http://controller:2411", "http://10.0.0.1", "http://[::2]:80"):
        with pytest.raises(UserError, match="a token is sent to this machine only"):
            CtlClient(Address.parse(url), TOKEN)
        # Through TLS it may.
        CtlClient(Address.parse(url.replace("http:", "https:")), TOKEN)


def test_ctl_says_what_is_wrong_with_its_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HBTRIO_TOKEN", "x")
    assert main(["ctl", "--url", "http://127.0.0.1:9", "status"]) == ExitStatus.USAGE
    path = f"{tmp_path}/absent"
    assert main(["ctl", "--token-file", path, "status"]) == ExitStatus.USAGE
    assert capsys.readouterr().err.splitlines() == [
        f"hbtrio ctl: HBTRIO_TOKEN: {RULE}",
        f"hbtrio ctl: --token-file: {path}: no such file or directory",
    ]


@pytest.mark.parametrize(
    ("operator", "fault", "status"),
    [
        (
            'listen = "tcp:0.0.0.0:2411"\ntoken_file = "{}/token"',
            "{}/agent.toml:2: operator: listen: certificate and key are needed for this address",
            ExitStatus.USAGE,
        ),
        (
            'token_file = "{}/token"',
            "{0}/agent.toml: operator.token_file: {0}/token: open to others, mode 0644",
            ExitStatus.DENIED,
        ),
    ],
)
def test_an_agent_does_not_start_with_an_open_door(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    operator: str,
    fault: str,
    status: ExitStatus,
) -> None:
    token_file(tmp_path, TOKEN.encode(), 0o644)
    config = tmp_path / "agent.toml"
    config.write_text(f"[operator]\n{operator.format(tmp_path)}\n")
    assert main(["agent", "--config", str(config)]) == status
    assert capfd.readouterr().err.splitlines()[-1] == f"hbtrio agent: {fault.format(tmp_path)}"
    assert sorted(os.listdir(tmp_path)) == ["agent.toml", "token"]
