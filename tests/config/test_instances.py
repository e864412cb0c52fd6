"""[instances] of host.toml: which place goes first for each key, what is no glob, and metadata."""

from __future__ import annotations

from typing import Any

import pytest

from hbtrio.config.host import HostConfig
from hbtrio.config.instances import InstanceSettings
from hbtrio.config.metadata import MetadataFault, read_metadata
from hbtrio.config.toml import parse_toml
from hbtrio.errors import ConfigError
from support.config_faults import faults_in, without_lines

UUID = "6d0ac1f2-8a53-4c0b-8f7e-0c3f9a1b2c3d"
OTHER = "00000000-8a53-4c0b-8f7e-0c3f9a1b2c3d"


def parse(text: str) -> HostConfig:
    return parse_toml(text, HostConfig, "host.toml")


def faults_of(text: str) -> list[str]:
    faults = without_lines(faults_in(text, HostConfig, "host.toml"))
    return [fault.removeprefix("host.toml: ") for fault in faults]


def grace(
    *tables: str, name: str = "web-1", metadata: float | None = None, reads: bool = True
) -> tuple[float, str]:
    """The grace time, which is the number of the table that it is taken from, and its place."""
    text = f"[libvirt]\nmetadata = {str(reads).lower()}\n"
    for number, key in enumerate(tables, 1):
        text += f'[instances."{key}"]\ngrace_s = {number}\n'
    settings = None if metadata is None else InstanceSettings(grace_s=metadata)
    policy = parse(text).instance_rules().of(UUID, name, settings)
    return policy.grace_s, policy.places.get("grace_s", "")


@pytest.mark.parametrize(
    ("tables", "expected"),
    [
        ((), (0.0, "")),
        (("db-*",), (0.0, "")),
        (("WEB-*",), (0.0, "")),
        (("web-*",), (1.0, 'instances."web-*"')),
        (("web-?",), (1.0, 'instances."web-?"')),
        (("web-[0-9]",), (1.0, 'instances."web-[0-9]"')),
        (("web-[!0-9]",), (0.0, "")),
        (("6d0ac1f2-*",), (1.0, 'instances."6d0ac1f2-*"')),
        (("6D0AC1F2-*",), (1.0, 'instances."6D0AC1F2-*"')),
        # The most characters that are no wildcards, wherever they stand.
        (("*", "web-*", "w*"), (2.0, 'instances."web-*"')),
        (("*", "w*1", "w*", "web?[01]"), (4.0, 'instances."web?[01]"')),
        # Of two with as many, the later one.
        (("web-*", "*eb-1"), (2.0, 'instances."*eb-1"')),
        (("*eb-1", "eb-*", "*eb-?"), (1.0, 'instances."*eb-1"')),
        (("we*", "*-1"), (2.0, 'instances."*-1"')),
        (("*-1", "we*"), (2.0, 'instances."we*"')),
        # The name, and the uuid before it, however many wildcards match.
        (("web-1", "web-1*"), (1.0, 'instances."web-1"')),
        ((UUID, "web-1"), (1.0, f'instances."{UUID}"')),
        (("web-1", UUID), (2.0, f'instances."{UUID}"')),
        (("web-1", UUID.upper()), (2.0, f'instances."{UUID.upper()}"')),
        ((OTHER,), (0.0, "")),
    ],
)
def test_which_table_goes_first(tables: tuple[str, ...], expected: tuple[float, str]) -> None:
    assert grace(*tables) == expected


@pytest.mark.parametrize(
    ("tables", "expected"),
    [
        ((), (7.0, "metadata")),
        (("web-*", "web-1?", "*"), (7.0, "metadata")),
        (("web-1",), (1.0, 'instances."web-1"')),
        ((UUID,), (1.0, f'instances."{UUID}"')),
    ],
)
def test_metadata_goes_between_one_name_and_wildcards(
    tables: tuple[str, ...], expected: tuple[float, str]
) -> None:
    assert grace(*tables, metadata=7.0) == expected


def test_metadata_does_not_count_unless_it_is_switched_on() -> None:
    assert grace("*", metadata=7.0, reads=False) == (1.0, 'instances."*"')


def test_a_domain_that_is_named_like_another_s_uuid_is_not_that_one() -> None:
    assert grace(OTHER, name=OTHER) == (0.0, "")


def test_each_key_is_looked_for_by_itself() -> None:
    rules = parse(
        f"""
        [heartbeat]
        grace_s = 5
        [corrective-commands]
        per_hour = 9
        [instances."*"]
        corrective = "off"
        watch = false
        [instances."web-*"]
        corrective = "on"
        per_hour = 1
        [instances."{UUID}"]
        watch = true
        """
    ).instance_rules()
    policy = rules.of(UUID, "web-1", None)
    assert (policy.watch, policy.corrective, policy.per_hour, policy.grace_s) == (True, "on", 1, 5)
    assert policy.places == {
        "watch": f'instances."{UUID}"',
        "corrective": 'instances."web-*"',
        "per_hour": 'instances."web-*"',
    }
    assert rules.of(OTHER, "x", None).corrective == "off"
    assert parse("").instance_rules().of(UUID, "web-1", None).places == {}


@pytest.mark.parametrize(
    ("text", "needs"),
    [
        ("", False),
        ('[instances."*"]', False),
        (f'[instances."{UUID}"]', False),
        ('[instances."web-1"]', True),
        ('[instances."6d*"]', True),
        ("libvirt.metadata = true", True),
    ],
)
def test_whether_only_libvirt_knows_it(text: str, needs: bool) -> None:
    assert parse(text).instance_rules().needs_libvirt is needs
    if needs:
        [fault] = faults_of(f'libvirt.enabled = "off"\n{text}')
        assert fault in (
            "libvirt: metadata: is libvirt's, but enabled is off",
            'instances: "web-1": libvirt knows the names, but [libvirt] enabled is off; use a uuid',
            'instances: "6d*": libvirt knows the names, but [libvirt] enabled is off; use a uuid',
        )
    else:
        parse(f'[libvirt]\nenabled = "off"\n{text}')


NO_SET = "is no glob: a [ without its ]; write [[] for the character"


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ('[instances."web-["]', [f'instances: "web-[": {NO_SET}']),
        ('[instances."a[]"]', [f'instances: "a[]": {NO_SET}']),
        ('[instances."a[!]"]', [f'instances: "a[!]": {NO_SET}']),
        ('[instances."[a]["]', [f'instances: "[a][": {NO_SET}']),
        ('[instances.""]', ['instances: "": must be a name or uuid, with or without wildcards']),
        (
            '[instances."a\\u0007"]',
            ['instances: "a\\x07": must not contain control characters'],
        ),
        (
            f'[instances."{"a" * 256}"]',
            [f'instances: "{"a" * 80}…": must be at most 255 characters long'],
        ),
        (
            f"[instances.{UUID}]\n[instances.{UUID.upper()}]",
            [f'instances: "{UUID.upper()}": is the same uuid as another'],
        ),
        (
            '[instances."web-*"]\nwach = false\n[instances.b]\ncorrective = "no"\nper_hour = 0',
            [
                'instances."web-*".wach: unknown key, did you mean watch?',
                'instances.b.corrective: must be one of on, log, off, got "no"',
                "instances.b.per_hour: must be 1 to 3600 per VM and hour, got 0",
            ],
        ),
        (
            '[instances."web-["]\nwatch = 1\n[brake]\nshare = 2',
            [
                f'instances: "web-[": {NO_SET}',
                'instances."web-[".watch: must be true or false, got 1',
                "brake.share: must be over 0 and at most 1, got 2.0",
            ],
        ),
        ("[instances]\nwatch = true", ["instances.watch: must be a table, got true"]),
        ("instances = 3", ["instances: must be tables, got 3"]),
    ],
)
def test_every_fault_has_its_place(text: str, faults: list[str]) -> None:
    assert sorted(faults_of(text)) == sorted(faults)


def test_a_table_that_stands_twice() -> None:
    with pytest.raises(ConfigError) as caught:
        parse('[instances."web-*"]\n[instances."web-*"]\n')
    assert caught.value.faults == ["host.toml:2:19: instances.web-* is defined twice"]


@pytest.mark.parametrize("glob", ["[[]a", "a[]]b", "a[!]]b", "a]", "[a-]", "ü*", "a.b c", "-"])
def test_what_is_a_glob(glob: str) -> None:
    parse(f'[instances."{glob}"]')


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({}, {}),
        (
            {"watch": "false", "corrective": "log", "grace_s": "1.5", "per_hour": "2"},
            {"watch": False, "corrective": "log", "grace_s": 1.5, "per_hour": 2},
        ),
        ({"grace_s": "60"}, {"grace_s": 60.0}),
    ],
)
def test_metadata(attributes: dict[str, str], expected: dict[str, Any]) -> None:
    assert read_metadata(attributes) == InstanceSettings(**expected)


@pytest.mark.parametrize(
    ("attributes", "fault"),
    [
        ({"watch": "no"}, 'watch: must be true or false, got "no"'),
        ({"watch": "1"}, "watch: must be true or false, got 1"),
        ({"wach": "true"}, "wach: unknown key, did you mean watch?"),
        ({"grace_s": "-1"}, "grace_s: must be 0 to 86400 s, got -1.0"),
        ({"grace_s": "9" * 400}, f'grace_s: must be a number, got "{"9" * 80}…"'),
        ({"per_hour": "1.5"}, "per_hour: must be a whole number, got 1.5"),
        (
            {"corrective": "\x1b[31m", "watch": ""},
            'watch: must be true or false, got ""; and 1 more',
        ),
    ],
)
def test_faulty_metadata(attributes: dict[str, str], fault: str) -> None:
    with pytest.raises(MetadataFault) as caught:
        read_metadata(attributes)
    assert str(caught.value) == fault
