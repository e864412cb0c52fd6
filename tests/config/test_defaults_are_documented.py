"""The default files and docs/configuration.md say of every key what the classes say."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from hbtrio.config.agent import AgentConfig
from hbtrio.config.groups import GroupSettings
from hbtrio.config.guest import GuestConfig, load_guest_config
from hbtrio.config.host import HostConfig
from hbtrio.config.instances import InstanceSettings
from hbtrio.config.settings import Setting, key_of, setting_of
from hbtrio.config.toml import load_toml, parse_toml

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs/configuration.md"

GUEST_FIELDS = {
    key_of(field): (field, setting)
    for field in attrs.fields(GuestConfig)
    if (setting := setting_of(field))
}


def settings_of(
    config: Any, heading: str, within: str = ""
) -> Iterator[tuple[str, str, Any, Setting]]:
    """Yield heading, key, default and setting of every key, tables after what is above them."""
    tables = []
    for field in attrs.fields(type(config)):
        value = getattr(config, field.name)
        setting = setting_of(field)
        if isinstance(value, dict):
            continue  # tables with free keys
        if setting is None:
            tables.append((value, within + key_of(field)))
        else:
            yield heading, key_of(field), value, setting
    for value, name in tables:
        yield from settings_of(value, f"[{name}]", f"{name}.")


#: Of each daemon with a TOML file: the file, and its section of the documentation.
FILES = {
    "host": (ROOT / "config/host.toml", "## Host: host.toml"),
    "agent": (ROOT / "config/agent.toml", "## Agent: agent.toml"),
}
SETTINGS = {
    "host": list(settings_of(HostConfig(), "Top level")),
    "agent": list(settings_of(AgentConfig(), "Top level")),
}
EACH = [(daemon, *one) for daemon, settings in SETTINGS.items() for one in settings]
HEADINGS = list(dict.fromkeys((daemon, heading) for daemon, heading, *_ in EACH))


def toml_of(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(json.dumps(item) for item in value)}]"
    return f"{value:g}" if isinstance(value, float) else json.dumps(value)


def rows_under(*headings: str) -> list[str]:
    """The rows of the table below these headings, each within the one before."""
    text = DOCS.read_text()
    for heading in headings:
        level = heading.partition(" ")[0]
        text = text.partition(f"\n{heading}\n")[2]
        text = re.split(rf"\n#{{1,{len(level)}}} ", text)[0]
    return re.findall(r"^\| `.*", text.partition("\n#")[0], re.MULTILINE)


def test_the_default_files_are_the_defaults() -> None:
    assert load_toml(FILES["host"][0], HostConfig) == HostConfig()
    assert load_toml(FILES["agent"][0], AgentConfig) == AgentConfig()


@pytest.mark.parametrize("daemon", FILES)
def test_the_default_file_names_every_key(daemon: str) -> None:
    data = tomllib.loads(FILES[daemon][0].read_text())
    named = set(keys_in(data, "Top level"))
    assert named == {(heading, key) for heading, key, _, _ in SETTINGS[daemon]}


def keys_in(data: dict[str, Any], heading: str, within: str = "") -> Iterator[tuple[str, str]]:
    for key, value in data.items():
        if isinstance(value, dict):
            yield from keys_in(value, f"[{within}{key}]", f"{within}{key}.")
        else:
            yield heading, key


@pytest.mark.parametrize(("daemon", "heading", "key", "default", "setting"), EACH)
def test_the_default_file_tells_range_and_unit(
    daemon: str, heading: str, key: str, default: Any, setting: Setting
) -> None:
    text = "\n" + FILES[daemon][0].read_text()
    if heading != "Top level":
        text = text.partition(f"\n{heading}\n")[2].partition("\n[")[0]
    comment, found, _ = ("\n" + text).partition(f"\n{key} = {toml_of(default)}\n")
    assert found
    # Keys in one block share the comment above it.
    block = re.sub(r"\n# ?", " ", comment.rpartition("\n\n")[2])
    assert f"{setting.span} {setting.unit}".rstrip() in block


INSTANCE_FIELDS = [
    (field, setting)
    for field in attrs.fields(InstanceSettings)
    if (setting := setting_of(field)) is not None
]


def test_the_default_file_has_a_sample_of_every_key_of_an_instance() -> None:
    text = FILES["host"][0].read_text().partition('\n#   [instances."web-*"]\n')[2]
    sample = text.partition("\n\n")[0]
    for field, setting in INSTANCE_FIELDS:
        comment, found, _ = sample.partition(f"\n#   {field.name} = ")
        assert found
        assert f"{setting.span} {setting.unit}".rstrip() in comment.replace("\n# ", " ")
    keys = "\n".join(re.findall("^#   (.*)$", sample, re.MULTILINE))
    settings = parse_toml(f'[instances."web-*"]\n{keys}\n', HostConfig, "sample")
    assert None not in attrs.astuple(settings.instances["web-*"])


def test_the_docs_have_a_row_for_every_key_of_an_instance() -> None:
    expected = [
        f"| `{field.name}` | none | {setting.unit} | {setting.span} | ".replace("  ", " ")
        for field, setting in INSTANCE_FIELDS
    ]
    rows = rows_under("## Host: host.toml", '### [instances."GLOB"]')
    assert [row[: len(start)] for row, start in zip(rows, expected, strict=True)] == expected


GROUP_FIELDS = [
    (field, setting)
    for field in attrs.fields(GroupSettings)
    if (setting := setting_of(field)) is not None
]


@pytest.mark.parametrize("daemon", FILES)
def test_the_default_file_has_a_sample_of_every_key_of_a_group(daemon: str) -> None:
    text = FILES[daemon][0].read_text().partition("\n#   [groups.db]\n")[2]
    sample = text.partition("\n\n")[0]
    for field, setting in GROUP_FIELDS:
        comment, found, _ = f"\n{sample}".partition(f"\n#   {field.name} = ")
        assert found
        comment = comment.rpartition("\n#   ")[2].replace("\n# ", " ")
        assert f"{setting.span} {setting.unit}".rstrip() in comment
    keys = "\n".join(re.findall("^#   (.*)$", sample, re.MULTILINE))
    keys = "\n".join(line for line in keys.splitlines() if not line.startswith("min_available"))
    cls: type[HostConfig | AgentConfig] = HostConfig if daemon == "host" else AgentConfig
    groups = parse_toml(f"[groups.db]\n{keys}\n", cls, "sample").groups
    assert groups["db"] == GroupSettings(members=("db-*",), max_unavailable=1)


@pytest.mark.parametrize("daemon", FILES)
def test_the_docs_have_a_row_for_every_key_of_a_group(daemon: str) -> None:
    expected = []
    for field, setting in GROUP_FIELDS:
        default = "none" if field.default in (None, attrs.NOTHING) else f"`{field.default:g}`"
        row = f"| `{field.name}` | {default} | {setting.unit} | {setting.span} | "
        expected.append(row.replace("  ", " "))
    rows = rows_under(FILES[daemon][1], "### [groups.NAME]")
    assert [row[: len(start)] for row, start in zip(rows, expected, strict=True)] == expected


@pytest.mark.parametrize(("daemon", "heading"), HEADINGS)
def test_the_docs_have_a_row_for_every_key(daemon: str, heading: str) -> None:
    expected = [
        f"| `{key}` | `{toml_of(default)}` | {setting.unit} | {setting.span} | ".replace("  ", " ")
        for at, key, default, setting in SETTINGS[daemon]
        if at == heading
    ]
    rows = rows_under(FILES[daemon][1], f"### {heading}")
    assert [row[: len(start)] for row, start in zip(rows, expected, strict=True)] == expected


def test_the_docs_have_a_row_for_every_key_of_the_guest() -> None:
    shipped = load_guest_config(ROOT / "config/guest_heartbeat.conf")
    expected = []
    for key, (field, setting) in GUEST_FIELDS.items():
        left_out, now = (
            "none" if value in (None, "") else f"`{value}`"
            for value in (field.default, getattr(shipped, field.name))
        )
        row = f"| `{key}` | {left_out} | {now} | {setting.unit} | {setting.span} | "
        expected.append(row.replace("  ", " "))
    rows = rows_under("## Guest: guest_heartbeat.conf")
    assert [row[: len(start)] for row, start in zip(rows, expected, strict=True)] == expected
