"""agent.toml: the default file is the default, and what is wrong is named with its place."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import attrs
import pytest

from hbtrio.config.agent import AgentConfig, load_agent_config
from hbtrio.config.settings import key_of, setting_of
from hbtrio.errors import ConfigError

DEFAULT_FILE = Path(__file__).parents[2] / "config/agent.toml"


def keys_of(config: Any) -> set[tuple[str, ...]]:
    keys: set[tuple[str, ...]] = set()
    for field in attrs.fields(type(config)):
        if setting_of(field) is None:
            inner = keys_of(getattr(config, field.name))
            keys |= {(key_of(field), *path) for path in inner}
        else:
            keys.add((key_of(field),))
    return keys


def test_the_default_file_is_the_default() -> None:
    assert load_agent_config(DEFAULT_FILE) == AgentConfig()


def test_the_default_file_names_every_key() -> None:
    named: set[tuple[str, ...]] = set()
    for key, value in tomllib.loads(DEFAULT_FILE.read_text()).items():
        named |= {(key, inner) for inner in value} if isinstance(value, dict) else {(key,)}
    assert named == keys_of(AgentConfig())


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("nmae = 'x'", "nmae: unknown key"),
        ("[vim]\nlisten = 'tcp:0.0.0.0:2410'", "vim.listen: "),
        ("[link]\nlisten = 'tcp:192.0.2.1:2411'", "link: "),
        ("[link]\ncertificate = '/c'", "link: certificate, key and authority go together"),
        ("[store]\nhistory_days = 0", "store.history_days: must be 0.01 to 3650 days, got 0"),
        ("[brake]\nshare = 1.5", "brake.share: must be over 0 and at most 1, got 1.5"),
    ],
)
def test_a_fault_is_named_with_its_place(text: str, fault: str, tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_agent_config(path)
    assert [line.startswith(f"{path}: {fault}") for line in caught.value.faults] == [True], (
        caught.value.faults
    )


def test_all_faults_at_once(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_text("log = 'paper'\n[vim]\nurl = 'x'\naudit_s = '10'\n")
    with pytest.raises(ConfigError) as caught:
        load_agent_config(path)
    places = [line.removeprefix(f"{path}: ").partition(":")[0] for line in caught.value.faults]
    assert sorted(places) == ["log", "vim.audit_s", "vim.url"]
